//! A replica of the issue tracker, of any size, written straight into SQLite: the tables, indexes and proportions of
//! `testdata/tracker.sql`, without a Postgres to copy them from.
//!
//! A row follows from its number, so two runs hold the same rows. Two junctions hold the same pairs: one has its
//! primary key alone, as junctions often do, the other also an index from the label.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use engine::query::Query;
use engine::replica::{
    ColumnSpec, IndexSpec, InitialLoad, LoadTable, Origin, Replica, Snapshot, SqliteValue, TableSpec,
};
use serde_json::{Value, json};
use zql_spec::ast::{Ast, Direction};
use zql_spec::json::Json;

/// Users, whatever the number of issues.
pub(crate) const USERS: i64 = 1_000;

/// Labels, whatever the number of issues. The first is named `rare` and is on one issue in a hundred.
pub(crate) const LABELS: i64 = 100;

/// A table: its name, its columns with their declared types, and its indexes; a unique one begins with `!`.
pub(crate) type Shape = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

/// What is generated.
pub(crate) const TABLES: [Shape; 6] = [
    ("user", &[("id", "text|NOT_NULL"), ("name", "text|NOT_NULL"), ("email", "text")], &["!id"]),
    (
        "issue",
        &[
            ("id", "text|NOT_NULL"),
            ("title", "text|NOT_NULL"),
            ("description", "text"),
            ("open", "bool|NOT_NULL"),
            ("priority", "int4|NOT_NULL"),
            ("creator_id", "text|NOT_NULL"),
            ("assignee_id", "text"),
            ("created", "float8|NOT_NULL"),
            ("modified", "float8|NOT_NULL"),
        ],
        &["!id", "modified,id", "creator_id", "assignee_id"],
    ),
    (
        "comment",
        &[
            ("id", "text|NOT_NULL"),
            ("issue_id", "text|NOT_NULL"),
            ("creator_id", "text|NOT_NULL"),
            ("body", "text|NOT_NULL"),
            ("created", "float8|NOT_NULL"),
        ],
        &["!id", "issue_id,created"],
    ),
    ("label", &[("id", "text|NOT_NULL"), ("name", "text|NOT_NULL")], &["!id", "!name"]),
    ("issue_label", &[("issue_id", "text|NOT_NULL"), ("label_id", "text|NOT_NULL")], &["!issue_id,label_id"]),
    (
        "issue_label_indexed",
        &[("issue_id", "text|NOT_NULL"), ("label_id", "text|NOT_NULL")],
        &["!issue_id,label_id", "label_id"],
    ),
];

/// A number below `among` that follows from `n`; different for each `salt`.
pub(crate) fn pick(n: i64, salt: u64, among: i64) -> i64 {
    let mut mixed = (n as u64).wrapping_add(salt.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ (mixed >> 31)) >> 1) as i64 % among
}

/// A text value.
pub(crate) fn text(text: impl Into<String>) -> SqliteValue {
    SqliteValue::Text(text.into())
}

/// The id of a row.
pub(crate) fn id(kind: &str, number: i64) -> SqliteValue {
    text(format!("{kind}{number}"))
}

/// The row of an issue.
pub(crate) fn issue(n: i64, issues: i64) -> Vec<SqliteValue> {
    const WHAT: [&str; 5] = ["Crash", "Slow query", "Wrong total", "Blank page", "Missing index"];
    const WHERE: [&str; 5] = ["in the list", "after a reconnect", "on start", "when offline", "with two tabs"];
    let title = format!("{} {} #{n}", WHAT[pick(n, 3, 5) as usize], WHERE[pick(n, 4, 5) as usize]);
    let description = match n % 7 {
        0 => SqliteValue::Null,
        _ => text("It happens every time and nobody knows why. ".repeat(1 + (n % 5) as usize)),
    };
    let assignee = if pick(n, 8, 5) == 0 { SqliteValue::Null } else { id("u", pick(n, 9, USERS)) };
    vec![
        id("i", n),
        text(title),
        description,
        SqliteValue::Integer(i64::from(pick(n, 5, 10) < 4)),
        SqliteValue::Integer(pick(n, 6, 5)),
        id("u", pick(n, 7, USERS)),
        assignee,
        SqliteValue::Real(1.7e12 + n as f64 * 60_000.0),
        SqliteValue::Real(1.7e12 + (n + pick(n, 10, issues)) as f64 * 60_000.0),
    ]
}

/// The row of a comment on an issue.
pub(crate) fn comment(n: i64, issue: i64) -> Vec<SqliteValue> {
    const BODIES: [&str; 5] = ["Same here.", "Cannot reproduce!", "Fixed in main…", "Any news?", "This blocks us."];
    let body = text(BODIES[pick(n, 13, 5) as usize]);
    vec![id("c", n), id("i", issue), id("u", pick(n, 12, USERS)), body, SqliteValue::Real(1.8e12 + n as f64 * 1000.0)]
}

fn row(table: &str, n: i64, issues: i64) -> Vec<SqliteValue> {
    match table {
        "user" => {
            let email = if n % 10 == 0 { SqliteValue::Null } else { text(format!("u{n}@example.com")) };
            vec![id("u", n), text(format!("User {n}")), email]
        }
        "issue" => issue(n, issues),
        "comment" => comment(n, pick(n, 11, issues)),
        "label" if n == 0 => vec![id("l", n), text("rare")],
        "label" => vec![id("l", n), text(format!("label-{n}"))],
        // Two labels an issue, and the rare one on every hundredth.
        _ => {
            let (issue, nth) = (n / 2, n % 2);
            let rare = issue % 100 == 0 && nth == 0;
            let first = 1 + pick(issue, 16, LABELS - 1);
            let second = 1 + (first + pick(issue, 17, LABELS - 2)) % (LABELS - 1);
            vec![
                id("i", issue),
                id(
                    "l",
                    if rare {
                        0
                    } else if nth == 0 {
                        first
                    } else {
                        second
                    },
                ),
            ]
        }
    }
}

/// How many rows a table has.
pub(crate) fn rows(table: &str, issues: i64) -> i64 {
    match table {
        "user" => USERS,
        "issue" => issues,
        "label" => LABELS,
        _ => 2 * issues,
    }
}

/// Makes a replica with so many issues, twice as many comments and pairs of issue and label.
pub(crate) fn load(path: &Path, issues: i64) -> Result<Arc<Replica>> {
    let origin =
        Origin { replica_version: "01".to_owned(), publications: vec!["p".to_owned()], context: "{}".to_owned() };
    let mut load = Replica::create(path, &origin)?;
    for (name, columns, _) in TABLES {
        let columns = columns.iter().map(|(name, declared)| ColumnSpec::from_declared(name, declared)).collect();
        let table = load.create_table(&TableSpec { name: name.to_owned(), columns, ..TableSpec::default() })?;
        fill(&mut load, table, (0..rows(name, issues)).map(|n| row(name, n, issues)))?;
    }
    for (name, _, indexes) in TABLES {
        for index in indexes {
            let columns = index.trim_start_matches('!');
            load.create_index(&IndexSpec {
                name: format!("{name}_{}", columns.replace(',', "_")),
                table: name.to_owned(),
                unique: index.starts_with('!'),
                columns: columns.split(',').map(|column| (column.to_owned(), Direction::Asc)).collect(),
            })?;
        }
    }
    Ok(load.finish()?)
}

fn fill(load: &mut InitialLoad, table: LoadTable, rows: impl Iterator<Item = Vec<SqliteValue>>) -> Result<()> {
    let mut values = Vec::new();
    for row in rows {
        values.extend(row);
        if values.len() > 4000 {
            load.append(table, &mut values)?;
        }
    }
    Ok(load.append(table, &mut values)?)
}

/// A query as clients write it, against the snapshot's schema.
pub(crate) fn resolve(ast: &Value, snapshot: &Snapshot) -> Result<Arc<Query>> {
    let ast = Ast::parse_lenient(&Json::parse(&ast.to_string())?)?;
    Ok(Arc::new(Query::resolve(&ast, &snapshot.schema)?))
}

/// A comparison of a column with a constant.
pub(crate) fn simple(column: &str, op: &str, value: impl Into<Value>) -> Value {
    json!({
        "type": "simple",
        "left": {"type": "column", "name": column},
        "op": op,
        "right": {"type": "literal", "value": value.into()},
    })
}

/// A relationship by one column.
pub(crate) fn related(alias: &str, parent: &str, child: &str, mut subquery: Value) -> Value {
    subquery["alias"] = json!(alias);
    json!({"correlation": {"parentField": [parent], "childField": [child]}, "subquery": subquery, "system": "client"})
}

/// That a related row exists.
pub(crate) fn exists(parent: &str, child: &str, subquery: Value) -> Value {
    json!({
        "type": "correlatedSubquery",
        "op": "EXISTS",
        "related": related(&format!("zsubq_{parent}_{child}"), parent, child, subquery),
    })
}

/// That the issue has a label that satisfies a condition.
pub(crate) fn labelled(junction: &str, label: Value) -> Value {
    let label = exists("label_id", "id", json!({"table": "label", "where": label}));
    exists("id", "issue_id", json!({"table": junction, "where": label}))
}
