//! The queries that are measured, over the issue tracker of `testdata::tracker`.

use serde_json::{Value, json};
use testdata::tracker::queries::{comments, compare, creator, labelled, labels, one};

/// One query.
#[derive(Debug)]
pub(crate) struct Case {
    /// Short name, for choosing it.
    pub name: &'static str,
    /// What it asks for.
    pub title: &'static str,
    /// How many times faster than the reference it has to be; absent where nothing is asked.
    pub target: Option<f64>,
    /// How often it is measured a round: slow ones less.
    pub repeats: u32,
    /// Its AST.
    pub ast: fn() -> Value,
}

/// What the client declares: the columns that the real client of `testdata/node/model.js` does.
pub(crate) const SCHEMA: &str = r#"{"tables":{
"comment":{"columns":{"body":{"type":"string"},"created":{"type":"number"},"creator_id":{"type":"string"},"id":{"type":"string"},"issue_id":{"type":"string"}},"primaryKey":["id"]},
"issue":{"columns":{"assignee_id":{"type":"string"},"created":{"type":"number"},"creator_id":{"type":"string"},"description":{"type":"string"},"id":{"type":"string"},"modified":{"type":"number"},"open":{"type":"boolean"},"priority":{"type":"number"},"title":{"type":"string"}},"primaryKey":["id"]},
"issue_label":{"columns":{"issue_id":{"type":"string"},"label_id":{"type":"string"}},"primaryKey":["issue_id","label_id"]},
"issue_label_indexed":{"columns":{"issue_id":{"type":"string"},"label_id":{"type":"string"}},"primaryKey":["issue_id","label_id"]},
"label":{"columns":{"id":{"type":"string"},"name":{"type":"string"}},"primaryKey":["id"]},
"user":{"columns":{"email":{"type":"string"},"id":{"type":"string"},"name":{"type":"string"}},"primaryKey":["id"]}}}"#;

/// A second junction with the same rows and an index that the first one lacks.
const INDEXED: &str = "issue_label_indexed";

/// Makes it.
pub(crate) const MORE_TABLES: &str = "
    CREATE TABLE issue_label_indexed (LIKE issue_label INCLUDING ALL);
    INSERT INTO issue_label_indexed SELECT * FROM issue_label;
    CREATE INDEX ON issue_label_indexed (label_id);
    ANALYZE issue_label_indexed;";

pub(crate) const CASES: &[Case] = &[
    Case { name: "list", title: "list of 50 with two relations", target: Some(3.0), repeats: 10, ast: list },
    Case { name: "key", title: "one issue by primary key", target: Some(2.0), repeats: 10, ast: by_key },
    Case {
        name: "exists",
        title: "1 000 of 100 000 by EXISTS over a junction",
        target: Some(20.0),
        repeats: 3,
        ast: exists,
    },
    Case {
        name: "exists-indexed",
        title: "the same with an index from label to issue",
        target: None,
        repeats: 5,
        ast: exists_indexed,
    },
    Case {
        name: "search",
        title: "the same by a part of the label's name",
        target: Some(20.0),
        repeats: 2,
        ast: search,
    },
    Case { name: "or", title: "OR of two columns and an EXISTS", target: Some(40.0), repeats: 3, ast: or },
    Case {
        name: "large",
        title: "10 000 issues with everything, 51 000 rows",
        target: Some(6.0),
        repeats: 2,
        ast: large,
    },
];

/// The AST with a condition that holds for every row and is different for every `number`: the servers cannot answer one
/// client's query from another's.
pub(crate) fn distinct(ast: &Value, number: u32) -> Value {
    let always = compare("priority", ">", json!(-1 - i64::from(number)));
    let mut ast = ast.clone();
    ast["where"] = match ast["where"].take() {
        Value::Null => always,
        condition => json!({"type": "and", "conditions": [condition, always]}),
    };
    ast
}

/// Statistics do not tell how many labels this finds, so a planner has to guess.
fn search() -> Value {
    json!({
        "table": "issue",
        "where": labelled(compare("name", "LIKE", json!("%are")), "issue_label"),
        "orderBy": [["modified", "desc"], ["id", "asc"]],
        "limit": 1000,
    })
}

/// A list as an application's first page shows it.
pub(crate) fn list() -> Value {
    json!({
        "table": "issue",
        "orderBy": [["modified", "desc"], ["id", "asc"]],
        "limit": 50,
        "related": [creator(), labels()],
    })
}

fn by_key() -> Value {
    json!({"table": "issue", "where": compare("id", "=", json!("i4242")), "orderBy": [["id", "asc"]], "limit": 1})
}

fn exists() -> Value {
    json!({"table": "issue", "where": labelled(compare("name", "=", json!("rare")), "issue_label"), "orderBy": [["modified", "desc"], ["id", "asc"]]})
}

fn exists_indexed() -> Value {
    json!({"table": "issue", "where": labelled(compare("name", "=", json!("rare")), INDEXED), "orderBy": [["modified", "desc"], ["id", "asc"]]})
}

fn or() -> Value {
    json!({
        "table": "issue",
        "where": {"type": "or", "conditions": [
            compare("creator_id", "=", json!("u7")),
            compare("assignee_id", "=", json!("u7")),
            labelled(compare("name", "=", json!("rare")), "issue_label"),
        ]},
        "orderBy": [["modified", "desc"], ["id", "asc"]],
    })
}

fn large() -> Value {
    let assignee = one("assignee", "assignee_id", "user");
    json!({
        "table": "issue",
        "orderBy": [["modified", "desc"], ["id", "asc"]],
        "limit": 10_000,
        "related": [creator(), assignee, labels(), comments(10)],
    })
}
