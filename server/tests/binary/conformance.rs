//! The test suite of the language on everything that this project has: naive evaluator, planner and engine, Postgres by
//! SQL, and this server over the wire; and the command that runs it.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use testdata::postgres;
use testdata::process::free_port;
use testdata::sync_server::{Program, SyncServer};

fn conformance(arguments: &[&str]) -> Output {
    Command::new(crate::binary()).arg("conformance").args(arguments).output().expect("the suite runs")
}

/// Runs the suite; gives what it printed as JSON, and its exit code.
fn report(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = conformance(&[&["--format", "json"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{errors}"));
    (report, output.status.code())
}

fn failed(report: &Value) -> Vec<&Value> {
    report["cases"].as_array().expect("cases").iter().filter(|case| case["outcome"] == "failed").collect()
}

#[test]
fn every_case_passes_everywhere() {
    let (report, code) = report(&["--server", "zql"]);
    assert!(code == Some(0) && report["failed"] == 0, "{:#?}", failed(&report));
    let cases = report["cases"].as_array().expect("cases");
    for backend in ["naive", "in-process", "postgres", "zql"] {
        let of_backend = |outcome: &str| {
            cases.iter().filter(|case| case["backend"] == backend && case["outcome"] == outcome).count()
        };
        assert!(of_backend("passed") >= 600, "{backend}: {} passed", of_backend("passed"));
        println!("{backend}: {} passed, {} skipped", of_backend("passed"), of_backend("skipped"));
    }
}

#[test]
fn random_rounds_agree_with_the_naive_evaluator() {
    let (report, code) = report(&["--fuzz", "--seconds", "4", "--seed", "1", "--on", "in-process,postgres"]);
    assert!(code == Some(0) && report["passed"].as_u64() > Some(10), "{:#?}", failed(&report));
}

const DATA: &str = r#"{"tables": {"t": {"primaryKey": ["id"], "columns": {"id": {"type": "string", "pg": "text"}},
    "rows": [["a"], ["b"]]}}, "relationships": {}}"#;

const WRONG: &str =
    "data d\n\ncase one\n  t.orderBy('id', 'desc')\nrows\n  a\ntransaction\n  delete t a\nchange\n  - a\n";

#[test]
fn a_wrong_case_fails_until_it_is_rewritten() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("data")).expect("a folder of data sets");
    std::fs::write(folder.path().join("data/d.json"), DATA).expect("a data set");
    let file = folder.path().join("f.case");
    std::fs::write(&file, WRONG).expect("a case");
    let cases = folder.path().to_str().expect("a path in UTF-8");
    let arguments = ["--cases", cases, "--on", "naive,in-process"];
    let (first, code) = report(&arguments);
    assert_eq!((&first["failed"], code), (&Value::from(2), Some(1)));
    assert_eq!(first["cases"][0]["message"], "rows:\n    b\n    a\n  instead of:\n    a");
    let junit = conformance(&[&arguments[..], &["--format", "junit"]].concat());
    assert!(String::from_utf8_lossy(&junit.stdout).contains("failures=\"2\""));
    assert!(conformance(&["--cases", cases, "--rewrite"]).status.success());
    let rewritten = std::fs::read_to_string(&file).expect("the case");
    assert_eq!(rewritten, WRONG.replace("rows\n  a\n", "rows\n  b\n  a\n"));
    let (second, code) = report(&arguments);
    assert_eq!((&second["passed"], code), (&Value::from(2), Some(0)));
    // What cannot be run at all is neither.
    assert_eq!(conformance(&["--cases", "/nowhere"]).status.code(), Some(2));
}

#[test]
fn a_server_that_runs_is_tested_and_its_database_left_as_it_was() {
    let server = postgres::shared();
    let upstream = server.database().expect("a database");
    server.psql(&upstream, "CREATE TABLE own (id int PRIMARY KEY)").expect("a table");
    let port = free_port(0).expect("a port");
    let folder = tempfile::tempdir().expect("a folder");
    let program = Program::Zql(PathBuf::from(crate::binary()));
    let api = format!("http://127.0.0.1:{port}/query");
    let running = SyncServer::start(program, &upstream, &api, folder.path()).expect("the server");
    let queries = format!("127.0.0.1:{port}");
    let url = running.url();
    let arguments = ["--on", "none", "--target", &url, "--upstream", &upstream, "--queries", &queries, "windows"];
    let (report, code) = report(&arguments);
    assert!(code == Some(0) && report["passed"].as_u64() > Some(20), "{:#?}", failed(&report));
    let tables =
        "SELECT string_agg(relname, ',') FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
    assert_eq!(server.psql(&upstream, tables).expect("names").trim(), "own");
    server.psql(&upstream, "CREATE TABLE issue (id int PRIMARY KEY)").expect("a table");
    assert_eq!(conformance(&arguments).status.code(), Some(2));
}
