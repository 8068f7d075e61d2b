//! What is wrong is named: files, queries, limits that nothing is measured against.

use engine::replica::Replica;
use explain::{FAULTY, LIMIT_EXCEEDED};

use crate::{EXISTS, path, replica, run, told};

#[test]
fn mistakes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let replica = replica(folder, "replica.db", &[]);
    let file = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name)
    };
    let broken = file("broken.json", "{\"format\":\"zql-statistics\"}");
    let cut = file("cut.json", "{\"format\":\"zql-statistics\",");
    let (empty, notes, query) = (file("empty.db", ""), file("notes.txt", "Dear diary"), file("q.zql", "issue"));
    let (nothing, missing) = (file("nothing.zql", "// only a comment\n"), folder.join("missing.db"));
    let other = folder.join("other.db");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    let replica = path(&replica);
    let cases: &[(&[&str], &str)] = &[
        (&["--replica", replica], "give a query: --query ZQL, --ast FILE or --file FILE"),
        (&["--replica", "/nowhere", "--query", "issue"], "open /nowhere: No such file or directory (os error 2)"),
        (&["--replica", path(&broken), "--query", "issue"], "missing field"),
        (&["--replica", path(&cut), "--query", "issue"], "cut.json: EOF while parsing"),
        (
            &["--replica", path(&empty), "--query", "issue"],
            "empty.db: it is neither a replica nor a statistics file: it is empty",
        ),
        (&["--replica", path(&notes), "--query", "issue"], "notes.txt: it is neither a replica nor a statistics file"),
        (&["--replica", path(&other), "--query", "issue"], "other.db: it is an SQLite database and not a replica"),
        (&["--replica", replica, "--query", "issue.where("], "the query cannot be read"),
        (&["--replica", replica, "--query", "isue"], "table 'isue' is not one of: comment,issue,user"),
        (
            &["--replica", replica, "--query", "issue.where('x', 1)"],
            "no such column: issue.x; issue has id, owner_id, modified",
        ),
        (
            &["--replica", replica, "--query", "issue.related('comments')"],
            "relationships need the application's schema",
        ),
        (&["--replica", replica, "--file", path(&nothing)], "there is no query in "),
        (&["--replica", replica, "--ast", "{\"table\":"], "read the query after --ast"),
        (&["--compare", path(&missing), replica, "--query", "issue"], "missing.db: No such file or directory"),
        (&["--compare", replica, path(&query)], "replica.db is a replica or a statistics file, and "),
    ];
    for (arguments, expected) in cases {
        let error = run(folder, arguments).1.unwrap_err();
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

/// One query that is none does not hide what is to be said of the others.
#[test]
fn bad_queries_of_a_file_are_named_beside_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let replica = replica(folder, "replica.db", &[]);
    let file = folder.join("q.zql");
    std::fs::write(&file, "// good\nissue.limit(1);\n\n// half\nissue.where(;\n// odd\nissue.where('x', 1)").unwrap();
    let arguments = ["--replica", path(&replica), "--file", path(&file)];
    let (text, told, code) = told(folder, &arguments);
    assert_eq!(code, Ok(FAULTY));
    assert!(text.starts_with("good\nissue.limit(1)\n"), "{text}");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 2, "{told}");
    assert!(lines[0].contains("q.zql, line 5: half cannot be read: "), "{told}");
    assert!(
        lines[1]
            .ends_with("q.zql, line 7: cannot explain odd: no such column: issue.x; issue has id, owner_id, modified")
    );
    let (json, _) = run(folder, &[&arguments[..], &["--format", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let names: Vec<&str> =
        json["errors"].as_array().unwrap().iter().map(|error| error["query"].as_str().unwrap()).collect();
    assert_eq!((names, &json["name"]), (vec!["half", "odd"], &"good".into()));
    // Where nothing can be explained, nothing is printed.
    std::fs::write(&file, "issue.where(;\nuser.where(;").unwrap();
    let error = run(folder, &arguments).1.unwrap_err();
    assert!(error.contains("line 1: query 1 cannot be read") && error.contains("line 2: query 2"), "{error}");
}

#[test]
fn limits_have_an_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, schema) = (folder.path(), folder.path().join("schema.json"));
    let replica = replica(folder, "replica.db", &[]);
    let statistics = folder.join("statistics.json");
    run(folder, &["--replica", path(&replica), "--dump-stats", path(&statistics)]).1.unwrap();
    let ask = |source: &std::path::Path, more: &[&str]| {
        let arguments = ["--replica", path(source), "--schema", path(&schema), "--query", EXISTS];
        let (_, told, code) = told(folder, &[&arguments[..], more].concat());
        (told, code)
    };
    assert_eq!(ask(&replica, &["--max-rows-visited", "1000000", "--max-ms", "60000"]).1, Ok(0));
    assert_eq!(ask(&replica, &["--max-rows-visited", "4000"]).1, Ok(LIMIT_EXCEEDED));
    assert_eq!(ask(&replica, &["--max-ms", "0"]).1, Ok(LIMIT_EXCEEDED));
    let (told, code) = ask(&replica, &["--max-rows-visited", "4000", "--max-ms", "0"]);
    assert_eq!(code, Ok(LIMIT_EXCEEDED));
    assert!(told.starts_with("the query visited ") && told.contains(", more than 4000, and took "), "{told}");
    // Without a run there is nothing to exceed, and a limit that always holds is none.
    for (source, more, expected) in [
        (&replica, &["--max-rows-visited", "1", "--analyze=false"][..], "--analyze=false runs nothing"),
        (&statistics, &["--max-ms", "1"], "--max-rows-visited and --max-ms need a replica"),
        (&statistics, &["--analyze"], "--analyze needs a replica"),
        (&statistics, &["--check-advice"], "--check-advice needs a replica"),
    ] {
        let error = ask(source, more).1.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// A replica as zero-cache leaves it: its header names a journal mode that only zero-cache's SQLite knows.
#[test]
fn a_replica_of_zero_cache_is_read_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (made, file) = (replica(folder, "made.db", &["issue_id"]), folder.join("replica.db"));
    // Without a log.
    Replica::inspect(&made).unwrap().unwrap().copy_to(&file).unwrap();
    let ask = || run(folder, &["--replica", path(&file), "--query", "issue.limit(3)", "--analyze=false"]);
    let ours = ask();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[18..20].fill(3);
    std::fs::write(&file, &bytes).unwrap();
    assert!(Replica::inspect(&file).unwrap().is_none());
    assert_eq!(ask(), ours);
    assert!(std::fs::read(&file).unwrap() == bytes);
    // Its newest transactions may be in a log.
    std::fs::write(folder.join("replica.db-wal2"), "frames").unwrap();
    let error = ask().1.unwrap_err();
    assert!(error.contains("a zero-cache that runs or did not end in order"), "{error}");
}
