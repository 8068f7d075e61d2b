//! `zql watch` as a script uses it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use testdata::node::Api;

use crate::{Tracker, binary};

struct Watching {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Watching {
    fn start(args: &[&str]) -> Watching {
        let mut child = Command::new(binary())
            .args(["watch", "--user", "u1"])
            .args(args)
            .arg("--json")
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .expect("zql watch");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        Watching { child, lines }
    }

    /// The next event of this kind; others are passed over.
    fn until(&mut self, kind: &str) -> Value {
        for line in self.lines.by_ref() {
            let event: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
            if event["event"] == kind {
                return event;
            }
        }
        panic!("zql watch ended before {kind}");
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn follows_a_named_query_through_a_kill_of_the_server() {
    let api = Api::start().expect("the API server");
    let mut tracker = Tracker::start(&api.url);
    let url = tracker.server.url();
    let mut watch = Watching::start(&[&url, "--name", "issues.list", "--args", r#"[{"limit":5}]"#]);
    watch.until("complete");
    tracker.sql("UPDATE issue SET modified = '2031-01-01', title = 'seen live' WHERE id = 'i3'");
    let poke = watch.until("poke");
    assert!(poke["rows"].to_string().contains("seen live"), "{poke}");
    tracker.server.kill().expect("a running server");
    assert_eq!(watch.until("disconnected")["reconnects"], true);
    tracker.sql("UPDATE issue SET title = 'missed' WHERE id = 'i3'");
    tracker.server.restart().expect("the server again");
    watch.until("connected");
    let mut rows = String::new();
    while !rows.contains("missed") {
        rows = watch.until("poke")["rows"].to_string();
    }
    assert!(!rows.contains("seen live"), "{rows}");
}

#[test]
fn ends_when_the_query_is_complete_or_refused() {
    let api = Api::start().expect("the API server");
    let tracker = Tracker::start(&api.url);
    let url = tracker.server.url();
    let mut watch = Watching::start(&[&url, "--name", "issues.labelled", "--args", r#"[{"name":"rare"}]"#, "--once"]);
    let complete = watch.until("complete");
    // Two issues, two junction rows, one label.
    assert_eq!(complete["rows"], 5, "{complete}");
    assert!(watch.child.wait().expect("its end").success());
    let mut refused = Watching::start(&[&url, "--name", "failing", "--once"]);
    assert!(refused.until("transformError").to_string().contains("this query always fails"));
    assert!(!refused.child.wait().expect("its end").success());
}
