//! Permissions and the claims of a user.

use std::path::Path;

use crate::tracker::{begin, table, text};
use crate::{path, replica, run};

const RULES: &str = r#"{"tables":{"issue":{"row":{"select":[["allow",{"type":"simple",
    "left":{"type":"column","name":"owner_id"},"op":"=",
    "right":{"type":"static","anchor":"authData","field":"sub"}}]]}}}}"#;

/// Explains with these arguments; gives the report.
fn report(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let (text, code) = run(folder, &[arguments, &["--format", "json"]].concat());
    assert_eq!(code, Ok(0));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_user_is_shown_what_permissions_leave() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let replica = replica(folder, "replica.db", &[]);
    let rules = folder.join("rules.json");
    std::fs::write(&rules, RULES).unwrap();
    let apply = format!("--apply-permissions={}", path(&rules));
    let arguments = ["--replica", path(&replica), "--query", "issue.limit(2000)", &apply];
    let plain = report(folder, &arguments[..4]);
    let user = report(folder, &[&arguments[..], &["--auth-data", r#"{"sub":"u3"}"#]].concat());
    assert_eq!(user["query"]["afterPermissions"], "issue.where('owner_id', 'u3').limit(2000)");
    for key in ["zql", "hash", "ast"] {
        assert_eq!(user["query"][key], plain["query"][key]);
    }
    assert_eq!((&user["totals"]["rowsOut"], &plain["totals"]["rowsOut"]), (&100.into(), &1000.into()));
    assert_eq!((&user["warnings"], &plain["query"]["afterPermissions"]), (&serde_json::json!([]), &().into()));
    let nobody = report(folder, &arguments);
    assert_eq!(nobody["totals"]["rowsOut"], 0);
    assert!(nobody["warnings"][0].as_str().unwrap().starts_with("No auth data provided."), "{}", nobody["warnings"]);
    let (text, _) = run(folder, &[&arguments[..], &["--auth-data", r#"{"sub":"u3"}"#]].concat());
    assert!(text.contains("\nis run as\nissue.where('owner_id', 'u3').limit(2000)\n"), "{text}");
}

#[test]
fn permissions_are_those_of_the_replica() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (file, plain) = (folder.join("own.db"), replica(folder, "replica.db", &[]));
    let mut load = begin(&file);
    let issues = (0..4).map(|id| vec![text(format!("i{id}")), text(format!("u{}", id % 2))]);
    let columns = [("id", "text|NOT_NULL"), ("owner_id", "text")];
    let mut specs = table(&mut load, "issue", &columns, &["!id"], issues);
    let rules = [vec![text("x"), text(RULES)]];
    let columns = [("lock", "text|NOT_NULL"), ("permissions", "json")];
    specs.extend(table(&mut load, "app.permissions", &columns, &["!lock"], rules));
    specs.iter().for_each(|spec| load.create_index(spec).unwrap());
    drop(load.finish().unwrap());
    let arguments = ["--query", "issue", "--apply-permissions", "--auth-data", r#"{"sub":"u1"}"#];
    let own = report(folder, &[&["--replica", path(&file), "--app-id", "app"], &arguments[..]].concat());
    assert_eq!((&own["totals"]["rowsOut"], &own["query"]["zql"]), (&2.into(), &"issue".into()));
    let error = run(folder, &[&["--replica", path(&plain)], &arguments[..]].concat()).1.unwrap_err();
    assert!(error.contains("the replica has no table zero.permissions: --app-id names another app"), "{error}");
}

#[test]
fn parameters_of_a_query_are_bound() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let replica = replica(folder, "replica.db", &[]);
    let arguments = ["--replica", path(&replica), "--query", "issue.where('owner_id', authParam('sub'))"];
    let error = run(folder, &arguments).1.unwrap_err();
    assert!(error.contains("--auth-data gives them"), "{error}");
    let bound = report(folder, &[&arguments[..], &["--auth-data", r#"{"sub":"u3"}"#]].concat());
    assert_eq!(bound["totals"]["rowsOut"], 100);
    assert_eq!(bound["query"]["afterPermissions"], "issue.where('owner_id', 'u3')");
}

/// Each replica may have permissions of its own, and a difference of those is none of the plans.
#[test]
fn two_replicas_are_compared_by_the_permissions_of_a_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (a, b) = (replica(folder, "a.db", &[]), replica(folder, "b.db", &[]));
    let rules = folder.join("rules.json");
    std::fs::write(&rules, RULES).unwrap();
    let arguments = ["--compare", path(&a), path(&b), "--query", "issue", "--auth-data", r#"{"sub":"u3"}"#];
    let error = run(folder, &[&arguments[..], &["--apply-permissions"]].concat()).1.unwrap_err();
    assert_eq!(error, "two replicas may have two sets of permissions: --apply-permissions=FILE names one");
    let narrowed = report(folder, &[&arguments[..], &[&format!("--apply-permissions={}", path(&rules))]].concat());
    for side in ["a", "b"] {
        let report = &narrowed["comparisons"][0][side];
        assert_eq!(report["query"]["afterPermissions"], "issue.where('owner_id', 'u3')", "{side}");
        assert_eq!(report["totals"]["rowsOut"], 100, "{side}");
    }
}
