//! The statements against SQLite: their meaning against the language's, and the indexes they use.

use std::cmp::Ordering;
use std::sync::Arc;

use rusqlite::Connection;
use zql_spec::ast::{
    Ast, Bound, Condition, CorrelatedSubquery, Correlation, Direction, Literal, SimpleOperator, ValuePosition,
};
use zql_spec::compare::compare;
use zql_spec::schema::{Column, Schema, Table, ValueType};
use zql_spec::value::Value;

use super::*;
use crate::replica::RowCodec;

const OPERATORS: [SimpleOperator; 14] = [
    SimpleOperator::Eq,
    SimpleOperator::Ne,
    SimpleOperator::Is,
    SimpleOperator::IsNot,
    SimpleOperator::Lt,
    SimpleOperator::Gt,
    SimpleOperator::Le,
    SimpleOperator::Ge,
    SimpleOperator::Like,
    SimpleOperator::NotLike,
    SimpleOperator::ILike,
    SimpleOperator::NotILike,
    SimpleOperator::In,
    SimpleOperator::NotIn,
];

/// Columns with every affinity a ZQL type is stored under.
const COLUMNS: [(&str, &str, ValueType); 8] = [
    ("id", "int8|NOT_NULL", ValueType::Number),
    ("real", "float8", ValueType::Number),
    ("num", "numeric", ValueType::Number),
    ("text", "text", ValueType::String),
    ("uuid", "uuid", ValueType::String),
    ("flag", "bool", ValueType::Boolean),
    ("json", "jsonb", ValueType::Json),
    ("list", "int4[]|TEXT_ARRAY", ValueType::Json),
];

fn column(name: &str, value_type: ValueType, nullable: bool) -> Column {
    Column { name: Arc::from(name), value_type, nullable }
}

fn schema() -> Schema {
    let columns = COLUMNS.iter().map(|&(name, _, value_type)| column(name, value_type, name != "id")).collect();
    let table = |name: &str, columns| Table {
        name: Arc::from(name),
        columns,
        primary_key: vec![0],
        unique_keys: vec![vec![0]],
    };
    let issue = vec![
        column("id", ValueType::Number, false),
        column("owner", ValueType::Number, true),
        column("created", ValueType::Number, false),
        column("status", ValueType::String, true),
    ];
    let comment = vec![column("id", ValueType::Number, false), column("issue", ValueType::Number, true)];
    Schema::new([table("t", columns), table("issue", issue), table("comment", comment)])
}

fn connection() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    functions::register(&connection).unwrap();
    let columns: String = COLUMNS.iter().map(|(name, declared, _)| format!("\"{name}\" \"{declared}\", ")).collect();
    connection
        .execute_batch(&format!(
            "CREATE TABLE t ({columns} _0_version text);
             CREATE TABLE issue (id int8, owner int8, created int8, status text, _0_version text);
             CREATE UNIQUE INDEX issue_id ON issue (id);
             CREATE INDEX issue_owner ON issue (owner, created DESC);
             CREATE INDEX issue_created ON issue (created DESC, id);
             CREATE TABLE comment (id int8, issue int8, _0_version text);
             CREATE UNIQUE INDEX comment_id ON comment (id);
             CREATE INDEX comment_issue ON comment (issue);"
        ))
        .unwrap();
    connection
}

/// Values of every type, with those that SQLite's conversions would confuse.
fn samples(value_type: ValueType) -> Vec<Value> {
    let mut samples = vec![Value::Null];
    match value_type {
        ValueType::Boolean => samples.extend([Value::Bool(false), Value::Bool(true)]),
        ValueType::Number => {
            samples.extend([-1.5, 0.0, 1.0, 2.0, 10.0, 1e12, 1.25].map(Value::Number));
        }
        ValueType::String => {
            samples.extend(["", "a", "A", "a%", "äÖ", "\u{FFFD}", "😀", "x1", "b\nc"].map(Value::string));
        }
        ValueType::Json => {
            samples
                .extend(["null", "[1,2]", "{\"a\":1}", "12", "\"s\"", "true"].map(|text| Value::Json(Arc::from(text))));
        }
    }
    samples
}

fn literals() -> Vec<Value> {
    let types = [ValueType::Boolean, ValueType::Number, ValueType::String];
    let mut all: Vec<Value> = types.into_iter().flat_map(samples).collect();
    all.extend(["1", "10", "-2", "1e3", " 5", "%", "a_", "Ä%"].map(Value::string));
    all
}

/// One row for each value of each column, the others null.
fn fill(connection: &Connection, table: &Table) -> Vec<Vec<Value>> {
    let mut rows = Vec::new();
    for (position, column) in table.columns.iter().enumerate() {
        for value in samples(column.value_type) {
            let mut row = vec![Value::Null; table.columns.len()];
            row[0] = Value::Number(rows.len() as f64);
            if position == 0 {
                if value.is_null() {
                    continue;
                }
                row[0] = Value::Number(1000.0 + rows.len() as f64);
            } else {
                row[position] = value;
            }
            let places = "?, ".repeat(row.len());
            connection
                .execute(
                    &format!("INSERT INTO t VALUES ({places}'01')"),
                    rusqlite::params_from_iter(row.iter().map(bind)),
                )
                .unwrap();
            rows.push(row);
        }
    }
    rows
}

fn select(connection: &Connection, sql: &Sql, table: &Arc<Table>, lookup: &[Value]) -> Vec<Vec<Value>> {
    let codec = RowCodec::new(table, None);
    let mut statement = connection.prepare(&sql.text).unwrap_or_else(|error| panic!("{error}: {}", sql.text));
    sql.bind_to(&mut statement, lookup).unwrap();
    let mut rows = statement.raw_query();
    let mut found = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        found.push(codec.decode(row, 0).unwrap().values.to_vec());
    }
    found
}

fn query(ast: &Ast) -> Query {
    Query::resolve(ast, &schema()).unwrap()
}

fn simple(name: &str, op: SimpleOperator, literal: Literal) -> Condition {
    Condition::Simple { op, left: ValuePosition::Column(Arc::from(name)), right: ValuePosition::Literal(literal) }
}

#[test]
fn comparisons_mean_what_the_language_says() {
    let connection = connection();
    let schema = schema();
    let table = schema.table("t").unwrap();
    let rows = fill(&connection, table);
    let mut checked = 0;
    for (position, column) in table.columns.iter().enumerate() {
        for op in OPERATORS {
            let literals: Vec<Literal> = if matches!(op, SimpleOperator::In | SimpleOperator::NotIn) {
                let all = literals();
                let lists = all
                    .windows(3)
                    .map(|values| Literal::List(values.iter().filter(|value| !value.is_null()).cloned().collect()));
                lists.chain([Literal::List(Vec::new())]).collect()
            } else {
                literals().into_iter().map(Literal::Value).collect()
            };
            for literal in literals {
                let condition = simple(&column.name, op, literal.clone());
                let ast = Ast { table: Arc::from("t"), r#where: Some(condition), ..Ast::default() };
                let Ok(query) = Query::resolve(&ast, &schema) else { continue };
                let sql = node_select(&query, 0, &Access { order: true, ..Access::default() });
                let mut expected: Vec<Vec<Value>> =
                    rows.iter().filter(|row| compare(&row[position], op, &literal)).cloned().collect();
                expected.sort_by(|a, b| a[0].cmp(&b[0]));
                assert_eq!(
                    select(&connection, &sql, table, &[]),
                    expected,
                    "{} {op:?} {literal:?}: {} {:?}",
                    column.name,
                    sql.text,
                    sql.binds
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 1000, "{checked}");
}

/// Patterns that SQLite matches itself: they find what the language's own matching finds.
#[test]
fn glob_means_what_like_means() {
    const PATTERNS: [&str; 20] = [
        "", "%", "_", "__", "a", "A", "a%", "%a", "%a%b", "a_b", "a\\_b", "a\\%b", "a\\\\b", "[a]", "[^a]%", "*", "?",
        "%é_", "😀%", "]\\[-%",
    ];
    const TEXTS: [&str; 20] = [
        "", "a", "A", "b", "ab", "axb", "a_b", "a%b", "a\\b", "[a]", "*", "?", "aab", "é😀", "éx", "😀", "😀a", "][-x",
        "a\nb", "[b]x",
    ];
    let connection = connection();
    let mut statement = connection.prepare("SELECT ?1 GLOB ?2").unwrap();
    for pattern in PATTERNS {
        let glob = condition::glob(&Value::string(pattern)).unwrap();
        for text in TEXTS {
            let matched: bool = statement.query_row([text, &glob], |row| row.get(0)).unwrap();
            assert_eq!(matched, zql_spec::like::like(text, pattern), "{text:?} LIKE {pattern:?}, GLOB {glob:?}");
        }
    }
    // Many wildcards, and what is very long, are matched by our own, which takes no longer for them.
    assert!(!is_glob(&Value::string("%a%b%c%d%")) && !is_glob(&Value::string("a".repeat(2_000))));
}

#[test]
fn cursors_are_places_in_the_order() {
    let connection = connection();
    let schema = schema();
    let table = schema.table("t").unwrap();
    let rows = fill(&connection, table);
    for first in 1..table.columns.len() {
        for direction in [Direction::Asc, Direction::Desc] {
            let name = Arc::clone(&table.columns[first].name);
            let order = |a: &[Value], b: &[Value]| {
                let main = a[first].cmp(&b[first]);
                let main = if direction == Direction::Asc { main } else { main.reverse() };
                main.then_with(|| a[0].cmp(&b[0]))
            };
            let mut sorted = rows.clone();
            sorted.sort_by(|a, b| order(a, b));
            let mut cursors: Vec<Value> = samples(table.columns[first].value_type);
            cursors.extend([Value::string("1"), Value::Number(3.0), Value::Bool(true)]);
            for cursor in cursors {
                for (id, exclusive) in [(Value::Number(7.0), true), (Value::Number(7.0), false), (Value::Null, true)] {
                    let bound = Bound {
                        row: vec![(Arc::clone(&name), cursor.clone()), (Arc::from("id"), id.clone())],
                        exclusive,
                    };
                    let ast = Ast {
                        table: Arc::from("t"),
                        order_by: vec![(Arc::clone(&name), direction)],
                        start: Some(bound),
                        ..Ast::default()
                    };
                    let mut at = vec![Value::Null; table.columns.len()];
                    (at[0], at[first]) = (id.clone(), cursor.clone());
                    let query = query(&ast);
                    let access = Access { start: true, order: true, ..Access::default() };
                    let sql = node_select(&query, 0, &access);
                    let after = |row: &&Vec<Value>| match order(&at, row) {
                        Ordering::Less => true,
                        Ordering::Equal => !exclusive,
                        Ordering::Greater => false,
                    };
                    let expected: Vec<_> = sorted.iter().filter(after).cloned().collect();
                    let found = select(&connection, &sql, table, &[]);
                    assert_eq!(found, expected, "{name} {direction:?} from {cursor:?}, {id:?}: {}", sql.text);
                    // The rows up to the cursor are the others, and the cursor's own.
                    let values = [cursor.clone(), id.clone()];
                    let sql =
                        node_select(&query, 0, &Access { until: Some(&values), order: true, ..Access::default() });
                    let expected: Vec<_> =
                        sorted.iter().filter(|row| order(&at, row) != Ordering::Less).cloned().collect();
                    assert_eq!(select(&connection, &sql, table, &[]), expected, "{}", sql.text);
                }
            }
        }
    }
}

#[test]
fn lookups_find_their_keys() {
    let connection = connection();
    let schema = schema();
    let table = schema.table("t").unwrap();
    let rows = fill(&connection, table);
    let query = query(&Ast { table: Arc::from("t"), ..Ast::default() });
    for (position, column) in table.columns.iter().enumerate() {
        let one = node_select(&query, 0, &Access { lookup: &[position], order: true, ..Access::default() });
        let many = node_select(&query, 0, &Access { lookup_many: &[position], order: true, ..Access::default() });
        let both = [0, position];
        let pairs = node_select(&query, 0, &Access { lookup_many: &both, order: true, ..Access::default() });
        for value in samples(column.value_type) {
            let expected: Vec<_> = rows.iter().filter(|row| row[position].joins(&value)).cloned().collect();
            assert_eq!(select(&connection, &one, table, std::slice::from_ref(&value)).len(), expected.len());
            let keys = |key: &[Value]| {
                let SqliteValue::Text(text) = keys_json([key]) else { panic!("keys are text") };
                Value::string(text)
            };
            let key = keys(std::slice::from_ref(&value));
            assert_eq!(select(&connection, &many, table, &[key]).len(), expected.len(), "{value:?} {}", many.text);
            if let Some(row) = expected.first() {
                let key = keys(&[row[0].clone(), value.clone()]);
                assert_eq!(select(&connection, &pairs, table, &[key]), std::slice::from_ref(row), "{}", pairs.text);
            }
        }
    }
}

fn plan(connection: &Connection, sql: &Sql) -> String {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", sql.text)).unwrap();
    let mut rows = statement.raw_query();
    let mut steps = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        steps.push(row.get::<_, String>(3).unwrap());
    }
    steps.join("; ")
}

fn comments(negated: bool) -> Condition {
    Condition::Exists {
        related: CorrelatedSubquery {
            correlation: Correlation { parent_field: vec![Arc::from("id")], child_field: vec![Arc::from("issue")] },
            subquery: Box::new(Ast {
                table: Arc::from("comment"),
                alias: Some(Arc::from("comments")),
                ..Ast::default()
            }),
            hidden: false,
            system: zql_spec::ast::System::Client,
        },
        negated,
        flip: None,
        scalar: None,
    }
}

#[test]
fn indexes_are_used() {
    let connection = connection();
    let newest = |condition: Option<Condition>, start: Option<Bound>| Ast {
        table: Arc::from("issue"),
        r#where: condition,
        order_by: vec![(Arc::from("created"), Direction::Desc)],
        start,
        ..Ast::default()
    };
    let cursor = Bound {
        row: vec![(Arc::from("created"), Value::Number(5.0)), (Arc::from("id"), Value::Number(1.0))],
        exclusive: true,
    };
    let ordered = Access { order: true, start: true, limit: Some(50), ..Access::default() };
    let owner = [1];
    let id = [0];
    let cases: [(&str, Ast, Access<'_>, &str); 7] = [
        ("newest first", newest(None, None), ordered, "SCAN n0 USING INDEX issue_created"),
        ("a page further on", newest(None, Some(cursor)), ordered, "SEARCH n0 USING INDEX issue_created (created<?)"),
        (
            "an equality and the order",
            newest(Some(simple("owner", SimpleOperator::Eq, Literal::Value(Value::Number(3.0)))), None),
            ordered,
            "SEARCH n0 USING INDEX issue_owner (owner=?)",
        ),
        (
            "rows of a parent",
            newest(None, None),
            Access { lookup: &owner, ..ordered },
            "SEARCH n0 USING INDEX issue_owner (owner=?)",
        ),
        (
            "rows of many parents",
            newest(None, None),
            Access { lookup_many: &owner, ..Access::default() },
            "SEARCH n0 USING INDEX issue_owner (owner=?)",
        ),
        (
            "rows by key",
            newest(None, None),
            Access { lookup_many: &id, ..Access::default() },
            "SEARCH n0 USING INDEX issue_id (id=?)",
        ),
        (
            "the inside of an EXISTS",
            newest(Some(comments(true)), None),
            ordered,
            "SEARCH n1 USING COVERING INDEX comment_issue (issue=?)",
        ),
    ];
    for (name, ast, access, expected) in cases {
        let sql = node_select(&query(&ast), 0, &access);
        let plan = plan(&connection, &sql);
        assert!(plan.contains(expected), "{name}: {plan}: {}", sql.text);
        let sorts = plan.contains("TEMP B-TREE FOR ORDER BY");
        assert!(!sorts, "{name} sorts: {plan}");
    }
    let exists = node_exists(&query(&newest(Some(comments(false)), None)), 1);
    assert!(plan(&connection, &exists).contains("comment_issue (issue=?)"));
}

#[test]
fn the_simple_part_leaves_exists_out() {
    let status = || simple("status", SimpleOperator::Eq, Literal::Value(Value::string("open")));
    let cases = [
        (Condition::And(vec![status(), comments(false)]), "\"status\" = ?1", true),
        (Condition::Or(vec![status(), comments(true)]), "status", false),
    ];
    for (condition, text, holds) in cases {
        let ast = Ast { table: Arc::from("issue"), r#where: Some(condition), ..Ast::default() };
        let sql = node_select(&query(&ast), 0, &Access { filter: FilterPart::Simple, ..Access::default() });
        let filter = sql.text.split_once("WHERE").map_or("", |(_, filter)| filter);
        assert_eq!(filter.contains(text), holds, "{}", sql.text);
        assert!(!sql.text.contains("EXISTS"));
    }
}
