//! `zql explain` beside a running server: what scripts go by, its exit codes.

use std::process::Command;

use testdata::node::Api;
use testdata::postgres;
use testdata::sync_server::{Program, SyncServer};
use testdata::tracker::Sizes;

use crate::Tracker;

#[test]
fn exit_codes_say_what_is_wrong() {
    let api = Api::start().expect("the API server");
    let tracker = Tracker::start(&api.url);
    let replica = tracker.folder.path().join("replica.db");
    let replica = replica.to_str().expect("a path in UTF-8");
    let query = "issue.where('open', true).limit(10)";
    for (arguments, code, said) in [
        (&["--replica", replica, "--query", query][..], 0, "MAINTENANCE"),
        (
            &["--replica", replica, "--query", query, "--max-rows-visited", "1000000", "--max-ms", "1000000"],
            0,
            "ADVICE",
        ),
        (&["--replica", replica, "--query", query, "--max-rows-visited", "1"], 2, "rows, more than 1"),
        (&["--replica", replica, "--query", query, "--max-ms", "0"], 2, "ms, more than 0"),
        (&["--replica", replica, "--query", "nosuch.limit(1)"], 1, "nosuch"),
        (&["--replica", "/nowhere", "--query", query], 1, "/nowhere"),
        (&["--replica", replica, "--query", query, "--max-ms", "1000000", "--analyze=false"], 1, "runs nothing"),
        (&["--replica", replica, "--query", query, "--max-ms", "soon"], 2, "soon"),
        (&["--no-such-option"], 2, "--no-such-option"),
    ] {
        let output = Command::new(crate::binary()).arg("explain").args(arguments).output().expect("it runs");
        let text = [&*output.stdout, &*output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
}

/// What somebody has who thinks of moving here: the file of a zero-cache.
#[test]
fn the_replica_that_a_zero_cache_left_is_explained() {
    let postgres = postgres::shared();
    let database = postgres.database().expect("a database");
    Sizes::SMALL.load(postgres, &database).expect("the tracker's rows");
    let folder = tempfile::tempdir().expect("a folder");
    let unused = "http://127.0.0.1:1/query";
    let replica = folder.path().join("replica.db");
    let left = |log: &str| std::fs::metadata(folder.path().join(log)).is_ok_and(|log| log.len() > 0);
    // One that is told to stop while it still starts may end without closing its replica, as if it had been killed.
    for _ in 0..5 {
        let mut server = SyncServer::start(Program::ZeroCache, &database, unused, folder.path()).expect("zero-cache");
        server.stop().expect("it runs");
        if !left("replica.db-wal") && !left("replica.db-wal2") {
            break;
        }
    }
    let before = std::fs::read(&replica).expect("its replica");
    let explain = |more: &[&str]| {
        let query = "issue.where('open', true).orderBy('modified', 'desc').limit(10)";
        let mut command = Command::new(crate::binary());
        command.args(["explain", "--format", "json", "--query", query, "--replica"]).arg(&replica).args(more);
        let output = command.output().expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    let report = explain(&[]);
    assert_eq!((&report["totals"]["rowsOut"], &report["warnings"]), (&10.into(), &serde_json::json!([])));
    let report = explain(&["--apply-permissions", "--app-id", "reference"]);
    assert_eq!(report["warnings"][0], "no permissions are deployed: the query is not narrowed");
    assert!(std::fs::read(&replica).expect("its replica") == before);
}
