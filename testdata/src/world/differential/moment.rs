//! The replica and the database at one version, and what is compared of them whatever query runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::commit::{Commit, Key, StoredRow};
use engine::graph::ReplicaRead;
use engine::query::Query;
use engine::replica::{Replica, Snapshot};
use engine::sql::{Access, FilterPart, node_select};
use zql_spec::ast::Ast;
use zql_spec::naive::{Database, Evaluation, Row};
use zql_spec::schema::Schema;
use zql_spec::value::Value;

use crate::world::dataset::DataSet;
use crate::world::oracle::{Failure, Rows};

/// The replica and the database at one version.
pub(super) struct Moment {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) schema: Arc<Schema>,
    /// The replica's rows by table and values.
    pub(super) stored: BTreeMap<Arc<str>, BTreeMap<Row, Arc<StoredRow>>>,
    /// The database's rows by the clients' keys.
    pub(super) rows: Rows,
}

impl Moment {
    /// Pins the replica's newest version and checks that it holds the database's rows.
    pub(super) fn pin(
        data: &DataSet,
        database: &Database,
        replica: &Arc<Replica>,
        client_schema: impl Fn(&Arc<Schema>) -> Arc<Schema>,
    ) -> Result<Moment, Failure> {
        let snapshot = replica.pin().map_err(|error| format!("pinning: {error}"))?;
        let reader = snapshot.reader().map_err(|error| format!("reading: {error}"))?;
        let mut stored = BTreeMap::new();
        for table in data.tables {
            let ast = Ast { table: table.name.into(), ..Ast::default() };
            let query = Query::resolve(&ast, &snapshot.schema).map_err(|error| error.to_string())?;
            let access = Access { filter: FilterPart::None, ..Access::default() };
            let sql = node_select(&query, 0, &access);
            let mut rows: BTreeMap<Row, Arc<StoredRow>> = BTreeMap::new();
            let mut keep = |row: Arc<StoredRow>| drop(rows.insert(Row::from(&row.values[..]), row));
            reader
                .rows(&sql, &query.nodes[0].table, &[], &[], &mut keep)
                .map_err(|error| format!("reading: {error}"))?;
            let expected: Vec<&Row> = {
                let mut expected: Vec<&Row> = database.rows(table.name).collect();
                expected.sort();
                expected
            };
            if !rows.keys().eq(expected.iter().copied()) {
                return Err(format!("the replica's {} holds {:?} instead of {expected:?}", table.name, rows.keys()));
            }
            stored.insert(Arc::from(table.name), rows);
        }
        let schema = client_schema(&snapshot.schema);
        let rows = Rows::new(database, &schema);
        Ok(Moment { snapshot, schema, stored, rows })
    }

    pub(super) fn read(&self) -> Result<ReplicaRead, Failure> {
        self.snapshot.reader().map(ReplicaRead::new).map_err(|error| format!("reading: {error}"))
    }
}

/// Whether a commit lists exactly what changed between two moments. A row may be listed that was written
/// with the values it had.
pub(super) fn check_commit(data: &DataSet, commit: &Commit, before: &Moment, after: &Moment) -> Result<(), Failure> {
    for table in data.tables {
        if commit.rewritten.contains(table.name) {
            continue;
        }
        let key = table.positions(table.primary_key);
        let by_key = |moment: &Moment| -> BTreeMap<Key, Arc<StoredRow>> {
            let rows = moment.stored.get(table.name).into_iter().flat_map(BTreeMap::values);
            rows.map(|row| (row.key(&key), Arc::clone(row))).collect()
        };
        let (before, after) = (by_key(before), by_key(after));
        let delta = commit.tables.get(table.name);
        let listed = delta.into_iter().flat_map(|delta| delta.rows.keys());
        let keys: BTreeSet<&Key> = listed.chain(before.keys()).chain(after.keys()).collect();
        for key in keys {
            let (old, new) = (before.get(key), after.get(key));
            match delta.and_then(|delta| delta.rows.get(key)) {
                Some(change) if change.old.as_ref() != old || change.new.as_ref() != new => {
                    return Err(format!(
                        "the commit says {change:?} of {} {key:?}: it was {old:?} and is {new:?}",
                        table.name
                    ));
                }
                Some(_) if old.is_none() && new.is_none() => {
                    return Err(format!("the commit lists {} {key:?}, which came and went", table.name));
                }
                None if old != new => return Err(format!("the commit lacks {} {key:?}", table.name)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether SQLite, given the text of a node, selects the node's rows for every row of its parent's table.
pub(super) fn check_sql(evaluation: &Evaluation<'_>, query: &Query, moment: &Moment) -> Result<(), Failure> {
    let reader = moment.snapshot.reader().map_err(|error| format!("reading: {error}"))?;
    for (id, node) in query.nodes.iter().enumerate() {
        let lookup = node.edge.as_ref().map_or(&[][..], |edge| &edge.child_columns);
        let access = Access { lookup, order: true, start: true, limit: node.limit, ..Access::default() };
        let sql = node_select(query, id, &access);
        let parents: Vec<Option<&Row>> = match &node.edge {
            Some(edge) => {
                let parent = &query.nodes[edge.parent].table.name;
                moment.stored.get(parent).into_iter().flat_map(|rows| rows.keys().map(Some)).collect()
            }
            None => vec![None],
        };
        for parent in parents {
            let key: Vec<Value> = match (&node.edge, parent) {
                (Some(edge), Some(row)) => edge.parent_columns.iter().map(|&column| row[column].clone()).collect(),
                _ => Vec::new(),
            };
            let mut found = Vec::new();
            reader
                .rows(&sql, &node.table, lookup, &key, &mut |row| found.push(row))
                .map_err(|error| format!("SQL {}: {error}", sql.text))?;
            let expected = evaluation.rows(id, parent.map(|row| &**row));
            if !found.iter().map(|row| &row.values[..]).eq(expected.iter().map(|row| &**row)) {
                return Err(format!(
                    "SQL of node {id} for {parent:?}: {} with {:?} gives {found:?} instead of {expected:?}",
                    sql.text, sql.binds
                ));
            }
        }
    }
    Ok(())
}
