//! `zql explain` beside a running server: what scripts go by, its exit codes.

use std::process::Command;

use testdata::node::Api;

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
