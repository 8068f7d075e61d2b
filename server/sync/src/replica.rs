//! What a client group asks of the replica itself, besides answers to queries: whether the client's schema
//! fits, and the contents of rows for a client that was away.
//!
//! These read SQLite and therefore block; they are called from blocking tasks.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::commit::StoredRow;
use engine::query::Query;
use engine::replica::{Replica, ReplicaError, Snapshot};
use engine::sql::{Access, FilterPart, node_select};
use zql_spec::ast::Ast;
use zql_spec::client_schema::{ReplicatedColumn, ReplicatedTable};
use zql_spec::schema::{Schema, Table};
use zql_spec::value::Value;

/// All replicated tables but the app's own, for the check of a client's schema.
pub(crate) fn replicated_tables(replica: &Replica, app_id: &str, shard: &str) -> Vec<ReplicatedTable> {
    let own = |name: &str| {
        [app_id, shard].iter().any(|schema| name.strip_prefix(schema).is_some_and(|rest| rest.starts_with('.')))
    };
    let schema = replica.schema();
    let indexes = replica.indexes();
    let table = |spec: engine::replica::TableSpec| {
        let visible = |column: &str| {
            spec.columns.iter().any(|known| known.name == column && known.not_null && known.visible_type().is_some())
        };
        let keys: Vec<Vec<String>> = match schema.table(&spec.name) {
            Some(table) => table
                .unique_keys
                .iter()
                .map(|key| key.iter().map(|&position| table.columns[position].name.to_string()).collect())
                .collect(),
            None => Vec::new(),
        };
        // Upstream's primary key is not named as such: the unique index that clients cannot use names the columns at fault.
        let primary_key = indexes
            .iter()
            .find(|index| {
                index.unique && index.table == spec.name && !index.columns.iter().all(|(name, _)| visible(name))
            })
            .map(|index| index.columns.iter().map(|(name, _)| name.clone()).collect())
            .unwrap_or_default();
        let columns = spec.columns.iter().map(|column| ReplicatedColumn {
            name: column.name.clone(),
            upstream_type: column.pg_type.clone(),
            value_type: column.visible_type(),
        });
        ReplicatedTable { name: spec.name.clone(), columns: columns.collect(), primary_key, keys }
    };
    replica.tables().into_iter().filter(|spec| !own(&spec.name)).map(table).collect()
}

/// Rows of a version by key, in the order asked for; `None` where there is none.
pub(crate) fn rows_by_key(
    snapshot: &Arc<Snapshot>,
    schema: &Schema,
    keys: &[(Arc<str>, Vec<Value>)],
) -> Result<Vec<Option<Arc<StoredRow>>>, ReplicaError> {
    let reader = snapshot.reader()?;
    let mut selects: BTreeMap<Arc<str>, (engine::sql::Sql, Arc<Table>)> = BTreeMap::new();
    let mut found = Vec::with_capacity(keys.len());
    for (name, key) in keys {
        if !selects.contains_key(name) {
            let ast = Ast { table: Arc::clone(name), ..Ast::default() };
            let query = Query::resolve(&ast, schema).map_err(|error| ReplicaError::Mismatch(error.to_string()))?;
            let table = Arc::clone(&query.root().table);
            let access = Access {
                filter: FilterPart::None,
                lookup: &table.primary_key,
                lookup_many: &[],
                start: false,
                after: None,
                until: None,
                order: false,
                limit: None,
            };
            selects.insert(Arc::clone(name), (node_select(&query, 0, &access), table));
        }
        let (sql, table) = &selects[name];
        let mut row = None;
        reader.rows(sql, table, &table.primary_key, key, &mut |found| row = Some(found))?;
        found.push(row);
    }
    Ok(found)
}
