//! The test suite of the language on everything that this project has: naive evaluator, planner and engine, Postgres by
//! SQL, and this server over the wire; and the command that runs it.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

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
    let backends = ["naive", "in-process", "postgres", "zql"];
    let all = cases.len() / backends.len();
    assert!(all >= 600, "{all} cases");
    for backend in backends {
        let of_backend = |outcome: &str| {
            cases.iter().filter(|case| case["backend"] == backend && case["outcome"] == outcome).count()
        };
        // There is nothing that one of them cannot do.
        assert_eq!((of_backend("passed"), of_backend("skipped")), (all, 0), "{backend}");
    }
}

#[test]
fn random_rounds_agree_with_the_naive_evaluator() {
    let (report, code) = report(&["--fuzz", "--seconds", "4", "--seed", "1", "--on", "in-process,postgres"]);
    assert!(code == Some(0) && report["passed"].as_u64() > Some(10), "{:#?}", failed(&report));
}

/// Who pipes the output gets results and nothing that moves.
#[test]
fn nothing_moves_where_nobody_watches() {
    let output = conformance(&["windows", "--on", "naive"]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("naive") && !text.contains('\u{1b}') && !text.contains('\r'), "{text}");
}

/// Random rounds are run by one client: more servers would only be waited for.
#[test]
fn random_rounds_start_one_server_and_cases_as_many_as_are_wanted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (program, started) = (folder.path().join("zql"), folder.path().join("started"));
    let script =
        format!("#!/bin/sh\necho started >> {}\nexec {} \"$@\"\n", started.display(), crate::binary().display());
    std::fs::write(&program, script).expect("a program that tells when it is started");
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("one that can be run");
    for (arguments, servers) in [(&["--fuzz", "--seconds", "1", "--seed", "1"][..], 1), (&["windows"], 2)] {
        std::fs::write(&started, "").expect("nothing was started");
        let mut run = Command::new(crate::binary());
        run.args(["conformance", "--on", "none", "--server", "zql", "--instances", "2"]).args(arguments);
        let output = run.env("ZQL_BIN", &program).output().expect("the suite runs");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(std::fs::read_to_string(&started).expect("a list").lines().count(), servers, "{arguments:?}");
    }
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

/// A server over a database with a table of its own, and what is said to test it.
struct Live {
    upstream: String,
    /// Where the server asks for named queries.
    queries: String,
    running: SyncServer,
    _folder: tempfile::TempDir,
}

impl Live {
    fn start() -> Live {
        let server = postgres::shared();
        let upstream = server.database().expect("a database");
        server.psql(&upstream, "CREATE TABLE own (id int PRIMARY KEY)").expect("a table");
        let queries = format!("127.0.0.1:{}", free_port(0).expect("a port"));
        let folder = tempfile::tempdir().expect("a folder");
        let program = Program::Zql(PathBuf::from(crate::binary()));
        let api = format!("http://{queries}/query");
        let running = SyncServer::start(program, &upstream, &api, folder.path()).expect("the server");
        Live { upstream, queries, running, _folder: folder }
    }

    fn arguments<'l>(&'l self, url: &'l str, queries: &'l str) -> [&'l str; 7] {
        ["--target", url, "--upstream", &self.upstream, "--queries", queries, "windows"]
    }

    /// The tables of the database.
    fn tables(&self) -> String {
        let sql = "SELECT string_agg(relname, ',') FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
        postgres::shared().psql(&self.upstream, sql).expect("names").trim().to_owned()
    }
}

/// Runs the suite to an error; gives what it says.
fn error(arguments: &[&str]) -> String {
    let output = conformance(arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    errors
}

#[test]
fn a_server_that_runs_is_tested_and_its_database_left_as_it_was() {
    let live = Live::start();
    let url = live.running.url();
    let arguments = live.arguments(&url, &live.queries);
    let (report, code) = report(&arguments);
    assert!(code == Some(0) && report["passed"].as_u64() > Some(20), "{:#?}", failed(&report));
    // Nothing but the server is asked unless it is named.
    let cases = report["cases"].as_array().expect("cases");
    assert!(cases.iter().all(|case| case["backend"] == url.as_str()), "{cases:?}");
    assert_eq!(live.tables(), "own");
    postgres::shared().psql(&live.upstream, "CREATE TABLE issue (id int PRIMARY KEY)").expect("a table");
    let error = error(&arguments);
    assert!(error.contains("has tables that are called as those of the suite (issue)"), "{error}");
}

/// Who can show a token that the server takes, the suite cannot know.
#[test]
fn queries_of_users_are_not_asked_of_a_server_that_runs() {
    let live = Live::start();
    let url = live.running.url();
    let arguments = live.arguments(&url, &live.queries);
    let (report, code) = report(&[&arguments[..6], &["parameters"]].concat());
    assert_eq!((code, &report["passed"], &report["failed"]), (Some(0), &Value::from(0), &Value::from(0)));
    let cases = report["cases"].as_array().expect("cases");
    assert!(cases.len() > 40, "{cases:?}");
    for case in cases {
        assert_eq!(case["message"], "it is not known by which secret the server knows users");
    }
}

/// What cannot work is told at once, and nothing stays in the database.
#[test]
fn a_server_that_cannot_be_tested_is_told_at_once() {
    let live = Live::start();
    let (url, nowhere) = (live.running.url(), format!("127.0.0.1:{}", free_port(0).expect("a port")));
    let dead = format!("ws://{nowhere}");
    let error_ = error(&live.arguments(&dead, &live.queries));
    assert!(error_.contains(&format!("no sync server answers at {dead}")), "{error_}");
    // The server asks elsewhere than where the suite answers.
    let error_ = error(&live.arguments(&url, &nowhere));
    assert!(error_.contains(&format!("ZERO_QUERY_URL=http://{nowhere}/query")), "{error_}");
    assert_eq!(live.tables(), "own");
    for arguments in [&["--matrix", "windows"][..], &["--matrix", "--on", "naive"], &["--target", &url]] {
        error(arguments);
    }
}

/// Ctrl-C leaves the database as it was; what nothing can stop is cleaned up by the next run.
#[test]
fn a_run_that_is_stopped_leaves_nothing_or_says_how_to_remove_it() {
    let live = Live::start();
    let url = live.running.url();
    let arguments = live.arguments(&url, &live.queries);
    for (signal, left) in [("INT", false), ("TERM", false), ("KILL", true)] {
        // All cases: it is stopped long before the last.
        let mut run = Command::new(crate::binary());
        run.arg("conformance").args(&arguments[..6]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut run = run.spawn().expect("the suite runs");
        let mut lines = BufReader::new(run.stderr.take().expect("its errors")).lines();
        assert!(lines.any(|line| line.expect("a line").contains("are made in the upstream database")));
        let killed = Command::new("kill").args([&format!("-{signal}"), &run.id().to_string()]).status();
        assert!(killed.expect("kill").success());
        lines.for_each(drop);
        assert!(!run.wait().expect("it ends").success());
        assert_eq!(live.tables() != "own", left, "{signal}: {}", live.tables());
    }
    let error = error(&arguments);
    assert!(error.contains("--clean drops them"), "{error}");
    let (report, code) = report(&[&arguments[..], &["--clean"]].concat());
    assert!(code == Some(0), "{:#?}", failed(&report));
    assert_eq!(live.tables(), "own");
}

/// A server that goes away ends its lanes, instead of a minute for each case that is left.
#[test]
fn a_server_that_is_gone_is_given_up() {
    let mut live = Live::start();
    let url = live.running.url();
    let mut run = Command::new(crate::binary());
    run.args(["conformance", "--format", "json"]).args(&live.arguments(&url, &live.queries)[..6]);
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the suite runs");
    let mut lines = BufReader::new(run.stderr.take().expect("its errors")).lines();
    assert!(lines.any(|line| line.expect("a line").contains("are made in the upstream database")));
    // Cases are run once lanes count transactions.
    let counted = || {
        let sql = "SELECT coalesce(sum(n), 0) > 3 FROM zql_conformance";
        postgres::shared().psql(&live.upstream, sql).expect("a count").trim() == "t"
    };
    while !counted() {}
    live.running.kill().expect("it runs");
    let output = run.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let why = format!("the lane was given up: no sync server answers at {url}");
    let cases = report["cases"].as_array().expect("cases");
    let given_up = cases.iter().filter(|case| case["message"].as_str().is_some_and(|text| text.starts_with(&why)));
    assert!(given_up.count() > 100, "{:#?}", failed(&report));
    // One for each lane.
    assert!((1..20).contains(&failed(&report).len()), "{:#?}", failed(&report));
    assert_eq!(live.tables(), "own");
}
