//! Conditions mean the same in Postgres as in the language: rows of all types, all operators, in a real database.

use std::sync::Arc;

use engine::replica::{ColumnSpec, TableSpec};
use testdata::postgres::shared;
use tokio_postgres::types::{ToSql, Type};
use zql_spec::ast::Condition;
use zql_spec::compare::compare;
use zql_spec::json::Json;
use zql_spec::schema::{Column, Schema, Table};
use zql_spec::value::Value;

use super::condition::Writer;
use super::operation::Tables;

/// The values of a column in each row, as SQL and as clients see them.
type Values = [(&'static str, &'static str); 4];

/// Columns: name, type, and values.
const COLUMNS: &[(&str, &str, Values)] = &[
    ("id", "int4", [("0", "0"), ("1", "1"), ("2", "2"), ("3", "3")]),
    ("i2", "int2", [("5", "5"), ("-5", "-5"), ("0", "0"), ("NULL", "null")]),
    ("i8", "int8", [("9007199254740991", "9007199254740991"), ("5", "5"), ("-1", "-1"), ("NULL", "null")]),
    ("n", "numeric", [("0.1", "0.1"), ("5", "5"), ("1e20", "100000000000000000000"), ("NULL", "null")]),
    ("f4", "float4", [("0.1", "0.1"), ("5", "5"), ("-2.5", "-2.5"), ("NULL", "null")]),
    ("f8", "float8", [("0.1", "0.1"), ("5", "5"), ("1e300", "1e300"), ("NULL", "null")]),
    ("b", "bool", [("true", "true"), ("false", "false"), ("true", "true"), ("NULL", "null")]),
    ("t", "text", [("'a'", r#""a""#), ("'B%'", r#""B%""#), ("'é'", r#""é""#), ("NULL", "null")]),
    ("v", "varchar", [("'5'", r#""5""#), ("'true'", r#""true""#), ("''", r#""""#), ("NULL", "null")]),
    (
        "c",
        "bpchar",
        [("'ab   '", r#""ab   ""#), ("'a    '", r#""a    ""#), ("'B%   '", r#""B%   ""#), ("NULL", "null")],
    ),
    (
        "u",
        "uuid",
        [
            ("'00000000-0000-0000-0000-00000000000a'", r#""00000000-0000-0000-0000-00000000000a""#),
            ("'00000000-0000-0000-0000-00000000000b'", r#""00000000-0000-0000-0000-00000000000b""#),
            ("'f0000000-0000-0000-0000-00000000000b'", r#""f0000000-0000-0000-0000-00000000000b""#),
            ("NULL", "null"),
        ],
    ),
    ("e", "mood", [("'sad'", r#""sad""#), ("'a'", r#""a""#), ("'B%'", r#""B%""#), ("NULL", "null")]),
    (
        "ts",
        "timestamptz",
        [
            ("'1970-01-01 00:00:00+00'", "0"),
            ("'2024-01-02 03:04:05.123456+00'", "1704164645123.456"),
            ("'1969-12-31 23:59:59.995+00'", "-5"),
            ("NULL", "null"),
        ],
    ),
    (
        "tz",
        "timestamp",
        [
            ("'1970-01-01 00:00:00'", "0"),
            ("'1970-01-01 00:00:00.005'", "5"),
            ("'1970-01-02 00:00:00'", "86400000"),
            ("NULL", "null"),
        ],
    ),
    (
        "d",
        "date",
        [("'1970-01-01'", "0"), ("'1970-01-02'", "86400000"), ("'1969-12-31'", "-86400000"), ("NULL", "null")],
    ),
    ("tt", "time", [("'00:00:00.005'", "5"), ("'00:00:00'", "0"), ("'24:00:00'", "86400000"), ("NULL", "null")]),
    (
        "ttz",
        "timetz",
        [("'00:00:00.005+00'", "5"), ("'01:00:00+01'", "0"), ("'23:00:00-00:30'", "84600000"), ("NULL", "null")],
    ),
    ("j", "jsonb", [("'{}'", "{}"), ("'5'", "5"), ("'[]'", "[]"), ("NULL", "null")]),
];

const OPERATORS: [&str; 14] =
    ["=", "!=", "IS", "IS NOT", "<", ">", "<=", ">=", "LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE", "IN", "NOT IN"];

const VALUES: [&str; 24] = [
    "null",
    "0",
    "5",
    "-5",
    "0.1",
    "5.5",
    "86400000",
    "1704164645123.456",
    "1e20",
    "1e300",
    "true",
    "false",
    r#""a""#,
    r#""B%""#,
    r#""b\\%""#,
    r#""%A%""#,
    r#""5""#,
    r#""_""#,
    r#""""#,
    r#""sad""#,
    r#""ab   ""#,
    r#""00000000-0000-0000-0000-00000000000b""#,
    "[]",
    r#"[0,5,"a","5",true,"00000000-0000-0000-0000-00000000000a",86400000]"#,
];

fn spec(name: &str, columns: &[(&str, &str)]) -> TableSpec {
    let column = |(name, pg_type): &(&str, &str)| ColumnSpec {
        name: (*name).to_owned(),
        pg_type: (*pg_type).to_owned(),
        is_enum: *pg_type == "mood",
        ..ColumnSpec::default()
    };
    TableSpec {
        name: name.to_owned(),
        upstream_schema: "public".to_owned(),
        upstream_name: name.to_owned(),
        columns: columns.iter().map(column).collect(),
        metadata: None,
    }
}

fn tables(specs: Vec<TableSpec>) -> Tables {
    let table = |spec: &TableSpec| Table {
        name: spec.name.as_str().into(),
        columns: spec
            .columns
            .iter()
            .map(|column| Column {
                name: column.name.as_str().into(),
                value_type: column.value_type().expect("visible"),
                nullable: true,
            })
            .collect(),
        primary_key: vec![0],
        unique_keys: vec![vec![0]],
    };
    let schema = Schema::new(specs.iter().map(table).collect::<Vec<_>>());
    Tables::new(specs, &schema, &[])
}

/// The numbers of the rows for which a condition holds, or why it is refused.
async fn holds(
    client: &tokio_postgres::Client,
    tables: &Tables,
    table: &TableSpec,
    condition: &Condition,
) -> Result<Vec<usize>, String> {
    let mut writer = Writer::new(tables, "");
    let sql = writer.condition(condition, table)?;
    let sql = format!("SELECT id FROM {} AS t0 WHERE ($1 = '') AND ({sql}) ORDER BY id", table.name);
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
        writer.parameters.iter().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT)).collect();
    let rows = client.query_typed(&sql, &parameters).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    Ok(rows.iter().map(|row| row.get::<_, i32>(0) as usize).collect())
}

fn parsed(text: &str) -> Condition {
    Condition::parse_strict(&Json::parse(text).expect(text)).expect(text)
}

async fn connect(schema: &str) -> tokio_postgres::Client {
    let database = shared().database().expect("a database");
    shared().psql(&database, schema).expect("the schema is good");
    let (parameters, _) = upstream::pool_parts(&database, "ZERO_UPSTREAM_DB", "test").expect("a URL");
    let (client, connection) = parameters.connect(tokio_postgres::NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn comparisons_mean_what_they_mean_in_the_language() {
    let columns: Vec<String> = COLUMNS.iter().map(|(name, pg_type, _)| format!("{name} {pg_type}")).collect();
    let mut schema = format!("CREATE TYPE mood AS ENUM ('sad', 'a', 'B%'); CREATE TABLE r ({});", columns.join(", "));
    for row in 0..4 {
        let values: Vec<&str> = COLUMNS.iter().map(|(_, _, values)| values[row].0).collect();
        schema.push_str(&format!("INSERT INTO r VALUES ({});", values.join(", ")));
    }
    let client = connect(&schema.replace("c bpchar", "c char(5)")).await;
    let names: Vec<(&str, &str)> = COLUMNS.iter().map(|(name, pg_type, _)| (*name, *pg_type)).collect();
    let table = spec("r", &names);
    let tables = tables(vec![table.clone()]);
    let mut compared = 0;
    for (name, pg_type, values) in COLUMNS {
        for op in OPERATORS {
            for right in VALUES {
                if op.ends_with("IN") != right.starts_with('[') {
                    continue;
                }
                let text = format!(
                    r#"{{"type":"simple","op":"{op}","left":{{"type":"column","name":"{name}"}},"right":{{"type":"literal","value":{right}}}}}"#
                );
                let condition = parsed(&text);
                let Condition::Simple { op: operator, right: zql_spec::ast::ValuePosition::Literal(literal), .. } =
                    &condition
                else {
                    panic!("{text}")
                };
                let got = holds(&client, &tables, &table, &condition).await;
                if *pg_type == "jsonb" && right != "null" {
                    assert!(got.is_err() || op.contains("LIKE") || right == "[]", "{text}");
                    continue;
                }
                let expected: Vec<usize> = (0..4)
                    .filter(|&row| {
                        let value = match *pg_type {
                            "jsonb" if values[row].1 != "null" => Value::Json(Arc::from(values[row].1)),
                            _ => Value::from_json(&Json::parse(values[row].1).expect("JSON")),
                        };
                        compare(&value, *operator, literal)
                    })
                    .collect();
                assert_eq!(got, Ok(expected), "{pg_type}: {text}");
                compared += 1;
            }
        }
    }
    assert!(compared > 3000, "{compared}");
}

#[tokio::test]
async fn subqueries_mean_what_they_mean_in_the_language() {
    let client = connect(
        "CREATE TABLE p (id int4, a text, b int8); CREATE TABLE c (id int4, pa uuid, pb int2, pc text);
         INSERT INTO p VALUES (0, '00000000-0000-0000-0000-00000000000a', 1), (1, 'x', 2), (2, NULL, NULL), (3, 'x', 3);
         INSERT INTO c VALUES (0, '00000000-0000-0000-0000-00000000000a', 1, 'x'), (1, NULL, 2, 'y'), (2, NULL, NULL, NULL);",
    )
    .await;
    let p = spec("p", &[("id", "int4"), ("a", "text"), ("b", "int8")]);
    let c = spec("c", &[("id", "int4"), ("pa", "uuid"), ("pb", "int2"), ("pc", "text")]);
    let tables = tables(vec![p.clone(), c]);
    let exists = |parent: &str, child: &str, rest: &str, op: &str| {
        format!(
            r#"{{"type":"correlatedSubquery","op":"{op}","related":{{"correlation":{{"parentField":[{parent}],"childField":[{child}]}},"subquery":{{"table":"c","alias":"s"{rest}}}}}}}"#
        )
    };
    let is_y = r#","where":{"type":"simple","op":"=","left":{"type":"column","name":"pc"},"right":{"type":"literal","value":"y"}}"#;
    let back = r#","where":{"type":"correlatedSubquery","op":"EXISTS","related":{"correlation":{"parentField":["pb"],"childField":["b"]},"subquery":{"table":"p","alias":"q"}}}"#;
    for (condition, expected) in [
        (exists(r#""a""#, r#""pa""#, "", "EXISTS"), vec![0]),
        (exists(r#""a""#, r#""pa""#, "", "NOT EXISTS"), vec![1, 2, 3]),
        (exists(r#""a""#, r#""pc""#, "", "EXISTS"), vec![1, 3]),
        (exists(r#""b""#, r#""pb""#, "", "EXISTS"), vec![0, 1]),
        (exists(r#""b""#, r#""pb""#, is_y, "EXISTS"), vec![1]),
        (exists(r#""b""#, r#""pb""#, back, "EXISTS"), vec![0, 1]),
        (exists(r#""b","a""#, r#""pb","pa""#, "", "EXISTS"), vec![0]),
        (exists(r#""a""#, r#""pb""#, "", "EXISTS"), vec![]),
        (exists(r#""b""#, r#""pb""#, r#","limit":0"#, "EXISTS"), vec![]),
        (exists(r#""b""#, r#""pb""#, r#","limit":0"#, "NOT EXISTS"), vec![0, 1, 2, 3]),
        (
            format!(
                r#"{{"type":"or","conditions":[{},{}]}}"#,
                exists(r#""a""#, r#""pa""#, "", "EXISTS"),
                exists(r#""b""#, r#""pb""#, is_y, "EXISTS")
            ),
            vec![0, 1],
        ),
        (r#"{"type":"or","conditions":[]}"#.to_owned(), vec![]),
        (r#"{"type":"and","conditions":[]}"#.to_owned(), vec![0, 1, 2, 3]),
        (
            r#"{"type":"simple","op":"=","left":{"type":"literal","value":1},"right":{"type":"literal","value":1}}"#
                .to_owned(),
            vec![0, 1, 2, 3],
        ),
    ] {
        assert_eq!(holds(&client, &tables, &p, &parsed(&condition)).await, Ok(expected), "{condition}");
    }
}
