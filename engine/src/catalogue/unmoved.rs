//! Large commits that only change the contents of rows.
//!
//! A migration that fills a column edits every row of a table, and most queries neither filter, order nor join by that
//! column: rows that are in stay in. Such a graph need not test each changed row. It looks its own rows up in the commit,
//! so it pays for the fewer of the two.
//!
//! A large commit costs a look at each graph that would test its rows; small ones cost nothing here.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Catalogue, LARGE_ROWS, Seen};
use crate::catalogue::GraphId;
use crate::commit::{Commit, TableDelta};

/// By table: the graphs that the commit leaves unmoved, and the rows that they see of it.
pub(super) type Unmoved<'c> = FxHashMap<&'c Arc<str>, FxHashMap<GraphId, Seen<'c>>>;

/// How many changed rows there must be for each row of a graph: looking a row up costs about what testing two does.
const ROWS_PER_MEMBER: usize = 2;

impl Catalogue {
    /// The graphs that would test every row of a large change of a table, though it moves none of theirs.
    pub(super) fn unmoved<'c>(&self, commit: &'c Commit) -> Unmoved<'c> {
        let mut unmoved = Unmoved::default();
        for (table, delta) in commit.tables.iter().filter(|(_, delta)| delta.rows.len() >= LARGE_ROWS) {
            let Some(routes) = self.routes.get(table) else { continue };
            let graphs: FxHashSet<GraphId> = routes.unanchored().map(|interest| interest.graph).collect();
            let of_table = graphs.into_iter().filter_map(|id| Some((id, self.unmoved_rows(id, table, delta)?)));
            unmoved.insert(table, of_table.collect());
        }
        unmoved
    }

    /// The changed rows that a graph holds, unless the change may move some.
    fn unmoved_rows<'c>(&self, id: GraphId, table: &'c Arc<str>, delta: &'c TableDelta) -> Option<Seen<'c>> {
        let graph = &self.graphs.get(&id)?.graph;
        if graph.row_count().saturating_mul(ROWS_PER_MEMBER) > delta.rows.len()
            || !graph.stays(table, delta.outline.as_ref()?)
        {
            return None;
        }
        let mut places: Vec<usize> = graph.keys_of(table).filter_map(|key| delta.rows.get_index_of(&key)).collect();
        places.sort_unstable();
        places.dedup();
        Some(places.into_iter().map(|place| (table, &delta.rows[place])).collect())
    }
}

#[cfg(test)]
mod tests {
    use zql_spec::ast::Ast;
    use zql_spec::json::Json;
    use zql_spec::schema::{Column, Schema, Table, ValueType};
    use zql_spec::value::Value;

    use super::*;
    use crate::commit::{ColumnSet, Key, Outline, RowChange, StoredRow, Version};
    use crate::graph::Graph;
    use crate::hydration::Hydration;
    use crate::query::Query;

    const ROWS: usize = LARGE_ROWS;

    fn row(id: usize, body: &str, version: &str) -> Arc<StoredRow> {
        let values = [Value::string(format!("r{id}")), Value::Number((id % 100) as f64), Value::string(body)];
        Arc::new(StoredRow { version: Version::from(version), values: values.into() })
    }

    /// A catalogue with a query for the rows of rank 7, and a commit that changes the body of every row.
    fn setting(query: &str) -> (Catalogue, Commit, Arc<str>) {
        let column = |name: &str, value_type| Column { name: name.into(), value_type, nullable: false };
        let columns = [("id", ValueType::String), ("rank", ValueType::Number), ("body", ValueType::String)];
        let columns = columns.map(|(name, value_type)| column(name, value_type)).into();
        let unique_keys = vec![vec![0]];
        let schema = Schema::new([Table { name: "t".into(), columns, primary_key: vec![0], unique_keys }]);
        let ast = Ast::parse_lenient(&Json::parse(query).unwrap()).unwrap();
        let query = Arc::new(Query::resolve(&ast, &schema).unwrap());
        let rows = (0..ROWS).filter(|id| id % 100 == 7).map(|id| row(id, "old", "00")).collect();
        let mut catalogue = Catalogue::default();
        catalogue.insert(Graph::new(query, &Hydration { version: "00".into(), nodes: vec![rows] }));
        let table: Arc<str> = "t".into();
        let mut commit = Commit::empty("00".into(), "01".into());
        let delta = commit.tables.entry(Arc::clone(&table)).or_default();
        for id in 0..ROWS {
            let change = RowChange { old: Some(row(id, "old", "00")), new: Some(row(id, "new", "01")) };
            delta.rows.insert(Key::from_vec(vec![Value::string(format!("r{id}"))]), change);
        }
        delta.outline = Some(Outline { key: [0].into_iter().collect(), changed: [2].into_iter().collect() });
        (catalogue, commit, table)
    }

    const RANGE: &str = r#"{"table":"t","where":{"type":"and","conditions":[
        {"type":"simple","op":">","left":{"type":"column","name":"rank"},"right":{"type":"literal","value":6}},
        {"type":"simple","op":"<","left":{"type":"column","name":"rank"},"right":{"type":"literal","value":8}}]}}"#;

    #[test]
    fn a_graph_sees_its_own_rows_of_a_change_of_contents() {
        let (catalogue, commit, table) = setting(RANGE);
        let unmoved = catalogue.unmoved(&commit);
        let seen: Vec<&RowChange> = unmoved[&table].values().flatten().map(|(_, change)| *change).collect();
        assert_eq!(seen.len(), ROWS / 100);
        assert!(seen.iter().all(|change| change.new.as_ref().is_some_and(|new| new.values[1] == Value::Number(7.0))));
    }

    #[test]
    fn every_row_is_tested_where_some_may_move() {
        let outline = |key: usize, changed: ColumnSet| Some(Outline { key: [key].into_iter().collect(), changed });
        let body = [2].into_iter().collect();
        for (what, outline) in [
            ("a column of the filter changed", outline(0, [1, 2].into_iter().collect())),
            ("rows came or went", outline(0, ColumnSet::ALL)),
            ("the commit lists rows by another key", outline(1, body)),
            ("nothing is known", None),
        ] {
            let (catalogue, mut commit, table) = setting(RANGE);
            commit.tables.get_mut(&table).unwrap().outline = outline;
            assert!(catalogue.unmoved(&commit)[&table].is_empty(), "{what}");
        }
        let (catalogue, mut commit, table) = setting(RANGE);
        commit.tables.get_mut(&table).unwrap().rows.pop();
        assert!(catalogue.unmoved(&commit).is_empty(), "the commit is not large");
    }
}
