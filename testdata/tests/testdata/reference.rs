//! The language against the reference implementation inside `@rocicorp/zero`, over generated worlds: answers
//! of the naive evaluator, hashes, and what the strict parser accepts.
//!
//! Needs the packages that `make node` installs. `FIRST=<seed> WORLDS=<n>` runs other and more worlds.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use testdata::node;
use testdata::world::{ISSUES, MUSIC, QueryGenerator, Rng, fill};
use zql_spec::ast::Ast;
use zql_spec::hash::ast_hash;
use zql_spec::json::Json;
use zql_spec::naive::{Evaluation, Row};
use zql_spec::normal_form::normal_form;
use zql_spec::schema::{Column, Table};

/// Queries in a world.
const QUERIES: usize = 50;

/// Changed copies of a query.
const MUTANTS: usize = 4;

/// The JSON with one thing changed: mostly no query any more.
fn mutant(json: &Json, rng: &mut Rng) -> Json {
    let anything = |rng: &mut Rng| {
        let texts = [
            "null",
            "true",
            "-1",
            "1.5",
            "\"\"",
            "\"asc\"",
            "\"EXISTS\"",
            "[]",
            "[\"id\"]",
            "[1,null]",
            "{}",
            "{\"type\":\"or\"}",
        ];
        Json::parse(rng.pick::<&str>(&texts)).expect("JSON")
    };
    match json {
        Json::Object(entries) if !entries.is_empty() && rng.percent(85) => {
            let mut entries = entries.clone();
            let at = rng.below(entries.len());
            match rng.below(10) {
                0 => drop(entries.remove(at)),
                1 => entries.push(("foo".into(), anything(rng))),
                2 => {
                    // A key of another kind of object.
                    let keys =
                        ["alias", "limit", "hidden", "system", "flip", "scalar", "op", "value", "start", "schema"];
                    let key = rng.pick(&keys);
                    if !entries.iter().any(|(other, _)| &**other == *key) {
                        entries.push((Arc::from(*key), anything(rng)));
                    }
                }
                _ => entries[at].1 = mutant(&entries[at].1, rng),
            }
            Json::Object(entries)
        }
        Json::Array(elements) if !elements.is_empty() && rng.percent(90) => {
            let mut elements = elements.clone();
            let at = rng.below(elements.len());
            match rng.below(8) {
                0 => drop(elements.remove(at)),
                1 => elements.push(anything(rng)),
                _ => elements[at] = mutant(&elements[at], rng),
            }
            Json::Array(elements)
        }
        _ => anything(rng),
    }
}

/// A world's tables with their rows, and queries with the answers that the naive evaluator gives.
fn world(seed: u64) -> Json {
    let mut rng = Rng::new(seed);
    let data = if seed.is_multiple_of(2) { &ISSUES } else { &MUSIC };
    let database = fill(data, &mut rng);
    let mut generator = QueryGenerator::new(data, &database, rng.fork());
    let mut mutations = rng.fork();
    let query = |_| {
        let ast = generator.query();
        let evaluation = Evaluation::new(&database, &ast).expect("generated queries are valid");
        let expected = evaluation.tree_json(&evaluation.tree());
        let json = ast.to_json();
        let hash = Json::string(ast_hash(&json));
        let twice = Json::string(ast_hash(&normal_form(&json)));
        let mutants = (0..MUTANTS).map(|_| {
            let mutant = mutant(&json, &mut mutations);
            let accepted = Json::Bool(Ast::parse_strict(&mutant).is_ok());
            Json::object([("ast", mutant), ("accepted", accepted)])
        });
        let mutants = Json::Array(mutants.collect());
        Json::object([("ast", json), ("expected", expected), ("hash", hash), ("twice", twice), ("mutants", mutants)])
    };
    let queries = (0..QUERIES).map(query).collect();
    let table = |table: &Arc<Table>| {
        let column = |column: &Column| {
            let optional = Json::Bool(column.nullable);
            let description = [("type", Json::string(column.value_type.name())), ("optional", optional)];
            (Arc::clone(&column.name), Json::object(description))
        };
        let row = |row: &Row| {
            let values = table.columns.iter().zip(row.iter());
            Json::Object(values.map(|(column, value)| (Arc::clone(&column.name), value.to_json())).collect())
        };
        let key = table.primary_key.iter().map(|&column| Json::String(Arc::clone(&table.columns[column].name)));
        let description = Json::object([
            ("columns", Json::Object(table.columns.iter().map(column).collect())),
            ("primaryKey", Json::Array(key.collect())),
            ("rows", Json::Array(database.rows(&table.name).map(row).collect())),
        ]);
        (Arc::clone(&table.name), description)
    };
    let tables = database.schema.tables.values().map(table).collect();
    Json::object([
        ("seed", Json::Number(seed as f64)),
        ("tables", Json::Object(tables)),
        ("queries", Json::Array(queries)),
    ])
}

#[test]
fn answers_are_those_of_the_reference() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, worlds) = (number("FIRST").unwrap_or(0), number("WORLDS").unwrap_or(40));
    let script = node::folder().expect("the packages").join("zql-reference.js");
    let mut node = Command::new(node::binary().expect("Node"))
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs");
    let mut stdin = node.stdin.take().expect("a pipe");
    let writer = std::thread::spawn(move || {
        for seed in first..first + worlds {
            // A failed write means that the script stopped; its output says why.
            let _ = writeln!(stdin, "{}", world(seed));
        }
    });
    let output = node.wait_with_output().expect("node ends");
    writer.join().expect("worlds are generated");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    println!("{text}");
}
