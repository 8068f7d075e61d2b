//! Two replicas, or two versions of queries.

use std::path::Path;

use clap::{Args, Command};
use expect_test::expect;
use explain::LIMIT_EXCEEDED;
use explain::arguments::Explain;

use crate::{EXISTS, path, replica, run, told};

#[test]
fn two_replicas_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, schema) = (folder.path(), folder.path().join("schema.json"));
    let (one, other) = (replica(folder, "a.db", &[]), replica(folder, "b.db", &["issue_id"]));
    let statistics = folder.join("a.json");
    let (text, code) = run(folder, &["--replica", path(&one), "--dump-stats", path(&statistics), "--with-values"]);
    assert_eq!((text.as_str(), code), ("", Ok(0)));
    let query = ["--schema", path(&schema), "--query", EXISTS, "--analyze=false"];
    let compare = |a: &Path, b: &Path| run(folder, &[&["--compare", path(a), path(b)], &query[..]].concat()).0;
    assert!(compare(&one, &statistics).contains("nothing differs"), "{}", compare(&one, &statistics));
    expect![[r#"
        issue.whereExists('comments', q => q.where('body', 'body5')).related('owner').limit(3)
        A: replica at version 01 · B: replica at version 01

        totals
          expected cost
            A 633 µs
            B 348 µs

        issue / exists comments
          plan
            A Fetch comment by rowid ← First 3 per key ← SemiJoin (hash of keys) ← Scan comment by scan + ParentKeys
            B Lookup by issue_id comment by index comment_issue_id ← ParentKeys

        indexes
          index
            B comment(issue_id)

    "#]]
    .assert_eq(&compare(&one, &other));
}

#[test]
fn two_versions_of_a_query_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, schema) = (folder.path(), folder.path().join("schema.json"));
    let replica = replica(folder, "replica.db", &["issue_id"]);
    let (a, b) = (folder.join("a.zql"), folder.join("b.zql"));
    std::fs::write(&a, "issue.orderBy('modified', 'desc').limit(5)").unwrap();
    std::fs::write(&b, "issue.orderBy('modified', 'desc').limit(5).related('comments')").unwrap();
    let arguments = ["--replica", path(&replica), "--schema", path(&schema), "--compare", path(&a), path(&b)];
    let (text, code) = run(folder, &[&arguments[..], &["--format", "json"]].concat());
    assert_eq!(code, Ok(0));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let differences = json["comparisons"][0]["differences"].as_array().unwrap();
    let node = differences.iter().find(|difference| difference["what"] == "node").unwrap();
    assert_eq!((&node["at"], &node["a"]), (&"issue / comments".into(), &serde_json::Value::Null));
    assert!(node["b"].as_str().unwrap().contains("comment by index comment_issue_id"), "{node}");
}

#[test]
fn queries_of_one_version_alone_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let replica = replica(folder, "replica.db", &[]);
    let (a, b) = (folder.join("a.zql"), folder.join("b.zql"));
    std::fs::write(&a, "// both\nissue.limit(5);\n// old\nuser;\n// broken\nuser.where(;").unwrap();
    std::fs::write(&b, "// new\ncomment.limit(1);\n// both\nissue.limit(6);\n// broken\nuser").unwrap();
    let arguments = ["--replica", path(&replica), "--compare", path(&a), path(&b)];
    let (text, told, code) = told(folder, &arguments);
    assert_eq!(code, Ok(1));
    assert!(told.contains("a.zql, line 6: broken cannot be read"), "{told}");
    for line in ["A: replica at version 01 · B: has no such query", "A: has no such query · B: replica at version 01"]
    {
        assert_eq!(text.matches(line).count(), 1, "{text}");
    }
    let (json, _) = run(folder, &[&arguments[..], &["--format", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let told: Vec<(&str, bool, bool)> = json["comparisons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair["name"].as_str().unwrap(), pair["a"].is_object(), pair["b"].is_object()))
        .collect();
    assert_eq!(told, [("both", true, true), ("old", true, false), ("new", false, true)]);
    assert_eq!(json["errors"][0]["query"], "broken");
}

#[test]
fn what_is_to_come_has_limits() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let replica = replica(folder, "replica.db", &[]);
    let (few, many) = (folder.join("few.zql"), folder.join("many.zql"));
    std::fs::write(&few, "issue.limit(5)").unwrap();
    std::fs::write(&many, "issue").unwrap();
    let ask = |a: &Path, b: &Path, more: &[&str]| {
        let arguments = ["--replica", path(&replica), "--max-rows-visited", "500", "--compare", path(a), path(b)];
        told(folder, &[&arguments[..], more].concat())
    };
    assert_eq!(ask(&many, &few, &[]).2, Ok(0));
    let (_, told, code) = ask(&few, &many, &[]);
    assert_eq!((told.as_str(), code), ("the query visited 1000 rows, more than 500\n", Ok(LIMIT_EXCEEDED)));
    assert!(ask(&few, &many, &["--analyze=false"]).2.unwrap_err().contains("--analyze=false runs nothing"));
    // What a comparison does not do is refused.
    for other in [&["--html", "x"][..], &["--check-advice"], &["--dump-stats", "x"], &["--output-synced-rows"]] {
        let command = Explain::augment_args(Command::new("explain"));
        let arguments = [&["explain", "--compare", "a", "b"], other].concat();
        assert!(command.try_get_matches_from(arguments).is_err(), "{other:?}");
    }
}
