//! The naive evaluator against the query engine inside `@rocicorp/zero`, over generated worlds.
//!
//! Needs the packages that `make node` installs. `FIRST=<seed> WORLDS=<n>` runs other and more worlds.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use testdata::world::{ISSUES, MUSIC, QueryGenerator, Rng, fill};
use zql_spec::json::Json;
use zql_spec::naive::{Evaluation, Row};
use zql_spec::schema::{Column, Table};

/// Queries in a world.
const QUERIES: usize = 50;

/// A world's tables with their rows, and queries with the answers that the naive evaluator gives.
fn world(seed: u64) -> Json {
    let mut rng = Rng::new(seed);
    let data = if seed.is_multiple_of(2) { &ISSUES } else { &MUSIC };
    let database = fill(data, &mut rng);
    let mut generator = QueryGenerator::new(data, &database, rng.fork());
    let query = |_| {
        let ast = generator.query();
        let evaluation = Evaluation::new(&database, &ast).expect("generated queries are valid");
        let expected = evaluation.tree_json(&evaluation.tree());
        Json::object([("ast", ast.to_json()), ("expected", expected)])
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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("node");
    let packages = folder.join("node_modules/@rocicorp/zero");
    assert!(packages.exists(), "{} is missing: run `make node`", packages.display());
    let mut node = Command::new("node")
        .arg(folder.join("zql-reference.js"))
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
