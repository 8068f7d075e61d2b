//! Scans whose rows are matched with more keys than a cache holds, so that many are looked up at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::hydration::Hydrate;
use engine::query::Query;
use engine::replica::{ColumnSpec, IndexSpec, Origin, Replica, Snapshot, SqliteValue, TableSpec};
use planner::Planner;
use zql_spec::ast::{Ast, Direction};
use zql_spec::json::Json;
use zql_spec::value::Value;

/// Parents: more than the keys that are looked up one by one.
const PARENTS: usize = 70_000;

const CHILDREN: usize = 100_000;

/// `p`, and two tables of children: most of `near` have a parent, few of `far` have one; of both some have none at all.
fn replica(path: &std::path::Path) -> Arc<Snapshot> {
    let origin = Origin { replica_version: "01".into(), publications: vec!["p".into()], context: "{}".into() };
    let mut load = Replica::create(path, &origin).unwrap();
    let of = |table: &str, n: usize| match (table, n % 11) {
        (_, 0) => SqliteValue::Null,
        ("near", _) if !n.is_multiple_of(13) => SqliteValue::Text(format!("p{}", n * 7_919 % PARENTS)),
        ("far", 1) => SqliteValue::Text(format!("p{}", n * 7_919 % PARENTS)),
        _ => SqliteValue::Text(format!("gone {n}")),
    };
    for (name, rows) in [("p", PARENTS), ("near", CHILDREN), ("far", CHILDREN)] {
        let columns: &[(&str, &str)] =
            if name == "p" { &[("id", "text|NOT_NULL")] } else { &[("id", "text|NOT_NULL"), ("of", "text")] };
        let columns = columns.iter().map(|(name, declared)| ColumnSpec::from_declared(name, declared)).collect();
        let table = load.create_table(&TableSpec { name: name.into(), columns, ..TableSpec::default() }).unwrap();
        let mut values = Vec::new();
        for n in 0..rows {
            values.push(SqliteValue::Text(format!("{}{n}", &name[..1])));
            values.extend((name != "p").then(|| of(name, n)));
            if values.len() > 4000 {
                load.append(table, &mut values).unwrap();
            }
        }
        load.append(table, &mut values).unwrap();
        load.create_index(&IndexSpec {
            name: format!("{name}_id"),
            table: name.into(),
            unique: true,
            columns: vec![("id".into(), Direction::Asc)],
        })
        .unwrap();
    }
    load.finish().unwrap().pin().unwrap()
}

/// The ids of the rows of a node.
fn ids(snapshot: &Arc<Snapshot>, ast: &str, node: usize) -> BTreeSet<String> {
    let ast = Ast::parse_lenient(&Json::parse(ast).unwrap()).unwrap();
    let query = Arc::new(Query::resolve(&ast, &snapshot.schema).unwrap());
    let rows = Planner::new().hydrate(&query, snapshot).unwrap().nodes.swap_remove(node);
    let count = rows.len();
    let ids: BTreeSet<String> = rows
        .iter()
        .map(|row| match &row.values[0] {
            Value::String(id) => id.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids.len(), count, "each row comes once");
    ids
}

fn by_sql(snapshot: &Arc<Snapshot>, sql: &str) -> BTreeSet<String> {
    let reader = snapshot.reader().unwrap();
    let mut statement = reader.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn rows_are_kept_by_their_keys() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = replica(&directory.path().join("replica.db"));
    let correlation = r#""correlation":{"parentField":["id"],"childField":["of"]}"#;
    for child in ["near", "far"] {
        let ast =
            format!(r#"{{"table":"p","related":[{{{correlation},"subquery":{{"table":"{child}","alias":"c"}}}}]}}"#);
        let expected = by_sql(&snapshot, &format!("SELECT id FROM {child} WHERE \"of\" IN (SELECT id FROM p)"));
        assert!(expected.len() > 8_000);
        assert!(ids(&snapshot, &ast, 1) == expected, "children of {child}");

        let ast = format!(
            r#"{{"table":"p","where":{{"type":"correlatedSubquery","op":"NOT EXISTS",
                "related":{{{correlation},"subquery":{{"table":"{child}","alias":"c"}}}}}}}}"#
        );
        let expected = by_sql(
            &snapshot,
            &format!("SELECT id FROM p WHERE id NOT IN (SELECT \"of\" FROM {child} WHERE \"of\" IS NOT NULL)"),
        );
        assert!(expected.len() > 1_000);
        assert!(ids(&snapshot, &ast, 0) == expected, "parents without {child}");
    }
}
