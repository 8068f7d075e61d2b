//! The test suite of the language on everything that this project has: naive evaluator, planner and engine, Postgres by
//! SQL, and this server over the wire.

use std::process::Command;

use serde_json::Value;

/// Runs the suite; gives what it printed as JSON, and whether it says that nothing failed.
fn conformance(arguments: &[&str]) -> (Value, bool) {
    let mut command = Command::new(crate::binary());
    command.arg("conformance").args(["--format", "json"]).args(arguments);
    let output = command.output().expect("the suite runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{errors}"));
    (report, output.status.success())
}

#[test]
fn every_case_passes_everywhere() {
    let (report, success) = conformance(&["--server", "zql"]);
    let cases = report["cases"].as_array().expect("cases");
    let failed: Vec<&Value> = cases.iter().filter(|case| case["outcome"] == "failed").collect();
    assert!(success && failed.is_empty() && report["failed"] == 0, "{failed:#?}");
    for backend in ["naive", "in-process", "postgres", "zql"] {
        let of_backend = |outcome: &str| {
            cases.iter().filter(|case| case["backend"] == backend && case["outcome"] == outcome).count()
        };
        assert!(of_backend("passed") >= 600, "{backend}: {} passed", of_backend("passed"));
        println!("{backend}: {} passed, {} skipped", of_backend("passed"), of_backend("skipped"));
    }
}
