//! Queries over a small issue tracker, with the answers the reference gives.

use std::sync::Arc;

use super::{Database, Evaluation, Operation};
use crate::ast::Ast;
use crate::json::Json;
use crate::schema::{Column, Schema, Table, ValueType};
use crate::value::Value;

fn table(name: &str, columns: &[(&str, ValueType)], key: &[usize]) -> Table {
    let column = |&(name, value_type): &(&str, ValueType)| Column { name: name.into(), value_type, nullable: true };
    Table {
        name: name.into(),
        columns: columns.iter().map(column).collect(),
        primary_key: key.to_vec(),
        unique_keys: vec![key.to_vec()],
    }
}

fn database() -> Database {
    use ValueType::{Number, String};
    let schema = Schema::new([
        table("issue", &[("id", Number), ("title", String), ("owner", Number)], &[0]),
        table("user", &[("id", Number), ("name", String)], &[0]),
        table("comment", &[("id", Number), ("issue", Number), ("t", Number)], &[0]),
        table("issueLabel", &[("issue", Number), ("label", Number)], &[0, 1]),
        table("label", &[("id", Number), ("name", String)], &[0]),
    ]);
    let mut database = Database::new(Arc::new(schema));
    let rows = r#"{
        "issue": [[1,"a",1],[2,"b",null],[3,null,1],[4,"a",9]],
        "user": [[1,"ann"],[2,"bob"]],
        "comment": [[1,1,5],[2,1,7],[3,1,7],[4,1,1],[5,3,2]],
        "issueLabel": [[1,1],[1,2],[3,2]],
        "label": [[1,"x"],[2,"y"]]
    }"#;
    for (table, rows) in Json::parse(rows).unwrap().as_object().unwrap() {
        for row in rows.as_array().unwrap() {
            let row = row.as_array().unwrap().iter().map(Value::from_json).collect();
            database.apply(&[Operation::Insert { table: Arc::clone(table), row }]);
        }
    }
    database
}

fn answer(ast: &str) -> String {
    let database = database();
    let ast = Ast::parse_strict(&Json::parse(ast).unwrap()).unwrap();
    match Evaluation::new(&database, &ast) {
        Ok(evaluation) => evaluation.tree_json(&evaluation.collapsed(evaluation.tree())).to_string(),
        Err(error) => error.to_string(),
    }
}

const COMMENTS: &str = r#""correlation":{"parentField":["id"],"childField":["issue"]}"#;

#[test]
fn answers() {
    let ids = |ids: &[u8]| {
        let rows = [
            r#"{"id":1,"title":"a","owner":1}"#,
            r#"{"id":2,"title":"b","owner":null}"#,
            r#"{"id":3,"title":null,"owner":1}"#,
            r#"{"id":4,"title":"a","owner":9}"#,
        ];
        format!("[{}]", ids.iter().map(|id| rows[usize::from(id - 1)]).collect::<Vec<_>>().join(","))
    };
    let simple = |column: &str, op: &str, value: &str| {
        format!(
            r#"{{"type":"simple","op":"{op}","left":{{"type":"column","name":"{column}"}},"right":{{"type":"literal","value":{value}}}}}"#
        )
    };
    let exists = |op: &str, limit: &str| {
        format!(
            r#"{{"type":"correlatedSubquery","op":"{op}","related":{{{COMMENTS},"subquery":{{"table":"comment","alias":"c"{limit}}}}}}}"#
        )
    };
    let filtered = |condition: &str| format!(r#"{{"table":"issue","where":{condition}}}"#);
    let cases = [
        (r#"{"table":"issue","orderBy":[["title","asc"],["id","desc"]]}"#.to_owned(), ids(&[3, 4, 1, 2])),
        (r#"{"table":"issue","orderBy":[["title","desc"]]}"#.to_owned(), ids(&[2, 1, 4, 3])),
        (r#"{"table":"issue","orderBy":[["title","asc"]],"start":{"row":{"title":"a"},"exclusive":true},"limit":2}"#.to_owned(), ids(&[1, 4])),
        (r#"{"table":"issue","orderBy":[["title","asc"]],"start":{"row":{"title":"a","id":1},"exclusive":true}}"#.to_owned(), ids(&[4, 2])),
        (r#"{"table":"issue","orderBy":[["title","desc"]],"start":{"row":{"title":null,"id":3},"exclusive":false}}"#.to_owned(), ids(&[3])),
        (r#"{"table":"issue","limit":0}"#.to_owned(), ids(&[])),
        (r#"{"table":"issue","limit":1.5}"#.to_owned(), ids(&[1, 2, 3, 4])),
        (filtered(&simple("title", "=", "null")), ids(&[])),
        (filtered(&simple("title", "IS", "null")), ids(&[3])),
        (filtered(&simple("title", "IS NOT", "\"a\"")), ids(&[2, 3])),
        (filtered(&simple("title", "!=", "\"a\"")), ids(&[2])),
        (filtered(&simple("title", "NOT IN", "[]")), ids(&[1, 2, 4])),
        (filtered(&simple("owner", "IN", "[1,2]")), ids(&[1, 3])),
        (filtered(r#"{"type":"and","conditions":[]}"#), ids(&[1, 2, 3, 4])),
        (filtered(r#"{"type":"or","conditions":[]}"#), ids(&[])),
        (filtered(&exists("EXISTS", "")), ids(&[1, 3])),
        (filtered(&exists("NOT EXISTS", "")), ids(&[2, 4])),
        (filtered(&exists("EXISTS", ",\"limit\":0")), ids(&[])),
        (filtered(&exists("NOT EXISTS", ",\"limit\":0")), ids(&[1, 2, 3, 4])),
        (filtered(&format!(r#"{{"type":"or","conditions":[{},{}]}}"#, exists("EXISTS", ",\"limit\":1"), simple("id", "=", "2"))), ids(&[1, 2, 3])),
        (filtered(&exists("EXISTS", ",\"start\":{\"row\":{},\"exclusive\":true}")), "EXISTS subqueries must not have start".to_owned()),
        (
            format!(r#"{{"table":"issue","limit":3,"related":[{{{COMMENTS},"subquery":{{"table":"comment","alias":"gone"}}}},{{{COMMENTS},"subquery":{{"table":"comment","alias":"c","orderBy":[["t","desc"]],"limit":2}}}},{{{COMMENTS},"subquery":{{"table":"comment","alias":"gone","limit":0}}}}]}}"#),
            r#"[{"id":1,"title":"a","owner":1,"gone":[],"c":[{"id":2,"issue":1,"t":7},{"id":3,"issue":1,"t":7}]},{"id":2,"title":"b","owner":null,"gone":[],"c":[]},{"id":3,"title":null,"owner":1,"gone":[],"c":[{"id":5,"issue":3,"t":2}]}]"#.to_owned(),
        ),
        (
            r#"{"table":"user","related":[{"correlation":{"parentField":["id"],"childField":["owner"]},"hidden":true,"subquery":{"table":"issue","alias":"labels","related":[{"correlation":{"parentField":["id"],"childField":["issue"]},"hidden":true,"subquery":{"table":"issueLabel","alias":"labels","related":[{"correlation":{"parentField":["label"],"childField":["id"]},"subquery":{"table":"label","alias":"labels","orderBy":[["name","desc"]]}}]}}]}}]}"#.to_owned(),
            r#"[{"id":1,"name":"ann","labels":[{"id":2,"name":"y"},{"id":1,"name":"x"}]},{"id":2,"name":"bob","labels":[]}]"#.to_owned(),
        ),
        (r#"{"table":"nosuch"}"#.to_owned(), "table 'nosuch' is not one of: comment,issue,issueLabel,label,user. Check the spelling and ensure that the table has a primary key.".to_owned()),
    ];
    for (ast, expected) in cases {
        assert_eq!(answer(&ast), expected, "{ast}");
    }
}

#[test]
fn witnesses_are_free_to_choose_but_not_in_number() {
    let database = database();
    let ast = format!(
        r#"{{"table":"issue","where":{{"type":"correlatedSubquery","op":"EXISTS","related":{{{COMMENTS},"subquery":{{"table":"comment","alias":"c"}}}}}}}}"#
    );
    let ast = Ast::parse_strict(&Json::parse(&ast).unwrap()).unwrap();
    let evaluation = Evaluation::new(&database, &ast).unwrap();
    let issues = evaluation.rows(0, None);
    let all: Vec<_> = database.rows("comment").cloned().collect();
    let check = |issues: &[usize], comments: &[usize]| {
        let pick = |rows: &[super::Row], at: &[usize]| at.iter().map(|&i| rows[i].to_vec()).collect::<Vec<_>>();
        let held = [pick(&issues_of(&evaluation), issues), pick(&all, comments)];
        let held: Vec<Vec<&[Value]>> = held.iter().map(|rows| rows.iter().map(|row| &row[..]).collect()).collect();
        evaluation.check(&held)
    };
    assert_eq!(issues.len(), 2);
    assert!(check(&[0, 1], &[0, 1, 2, 4]).is_ok());
    assert!(check(&[0, 1], &[1, 2, 3, 4]).is_ok());
    assert_eq!(check(&[0, 1], &[0, 1, 4]).unwrap_err().node, 1);
    assert_eq!(check(&[0, 1], &[0, 1, 2, 3, 4]).unwrap_err().node, 1);
    assert_eq!(check(&[0, 1], &[0, 1, 2]).unwrap_err().node, 1);
    assert_eq!(check(&[0], &[0, 1, 2]).unwrap_err().node, 0);
    assert_eq!(check(&[0, 0, 1], &[0, 1, 2, 4]).unwrap_err().node, 0);

    fn issues_of(evaluation: &Evaluation<'_>) -> Vec<super::Row> {
        evaluation.rows(0, None)
    }
}

#[test]
fn transactions_apply_in_order() {
    let mut database = database();
    let row = |values: &[f64]| values.iter().map(|&value| Value::Number(value)).collect::<super::Row>();
    let table: Arc<str> = "issueLabel".into();
    let key = |a: f64, b: f64| vec![Value::Number(a), Value::Number(b)];
    database.apply(&[
        Operation::Update { table: Arc::clone(&table), key: key(1.0, 1.0), row: row(&[2.0, 1.0]) },
        Operation::Delete { table: Arc::clone(&table), key: key(1.0, 2.0) },
        Operation::Insert { table: Arc::clone(&table), row: row(&[1.0, 2.0]) },
        Operation::Truncate { table: "label".into() },
    ]);
    let rows: Vec<_> = database.rows("issueLabel").cloned().collect();
    assert_eq!(rows, [row(&[1.0, 2.0]), row(&[2.0, 1.0]), row(&[3.0, 2.0])]);
    assert_eq!(database.rows("label").count(), 0);
}
