//! `zql explain` from its arguments to what it prints, over replicas made here.

use std::path::{Path, PathBuf};

use clap::{Args, Command, FromArgMatches};
use engine::replica::Replica;
use expect_test::expect;
use explain::Page;
use explain::arguments::Explain;

mod access;
mod comparing;
mod mistakes;
mod printing;

#[allow(dead_code, missing_docs, unreachable_pub)]
#[path = "../../../../planner/tests/planner/tracker.rs"]
mod tracker;

use tracker::{begin, int, table, text};

/// Issues of users with comments, the comments without an index; gives the file.
fn replica(folder: &Path, name: &str, indexes: &[&str]) -> PathBuf {
    let path = folder.join(name);
    let mut load = begin(&path);
    let users = (0..10).map(|id| vec![text(format!("u{id}")), text(format!("User {id}"))]);
    let mut specs = table(&mut load, "user", &[("id", "text|NOT_NULL"), ("name", "text|NOT_NULL")], &["!id"], users);
    let issues = (0..1000).map(|id| vec![text(format!("i{id}")), text(format!("u{}", id % 10)), int(1000 - id)]);
    let columns = [("id", "text|NOT_NULL"), ("owner_id", "text"), ("modified", "float8|NOT_NULL")];
    specs.extend(table(&mut load, "issue", &columns, &["!id"], issues));
    let comments = (0..4000)
        .map(|id| vec![text(format!("c{id}")), text(format!("i{}", id * 7 % 1000)), text(format!("body{}", id % 200))]);
    let columns = [("id", "text|NOT_NULL"), ("issue_id", "text|NOT_NULL"), ("body", "text")];
    specs.extend(table(&mut load, "comment", &columns, &[&["!id"], indexes].concat(), comments));
    for spec in &specs {
        load.create_index(spec).unwrap();
    }
    drop(load.finish().unwrap());
    path
}

/// The application's schema, with names of its own for some columns.
const SCHEMA: &str = r#"{"tables":{
    "user":{"name":"user","columns":{"id":{"type":"string"},"name":{"type":"string"}},"primaryKey":["id"]},
    "issue":{"name":"issue","columns":{"id":{"type":"string"},"ownerId":{"type":"string","serverName":"owner_id","optional":true},
        "modified":{"type":"number"}},"primaryKey":["id"]},
    "comment":{"name":"comment","columns":{"id":{"type":"string"},"issueId":{"type":"string","serverName":"issue_id"},
        "body":{"type":"string","optional":true}},"primaryKey":["id"]}},
  "relationships":{
    "issue":{
      "owner":[{"sourceField":["ownerId"],"destField":["id"],"destSchema":"user","cardinality":"one"}],
      "comments":[{"sourceField":["id"],"destField":["issueId"],"destSchema":"comment","cardinality":"many"}]}}}"#;

/// What was printed, and the exit code.
fn run(folder: &Path, arguments: &[&str]) -> (String, Result<u8, String>) {
    let (text, _, code) = told(folder, arguments);
    (text, code)
}

/// What was printed, what was told besides, and the exit code.
fn told(folder: &Path, arguments: &[&str]) -> (String, String, Result<u8, String>) {
    let schema = folder.join("schema.json");
    std::fs::write(&schema, SCHEMA).unwrap();
    let command = Explain::augment_args(Command::new("explain"));
    let matches = command.try_get_matches_from([&["explain"], arguments].concat()).unwrap();
    let arguments = Explain::from_arg_matches(&matches).unwrap();
    let (mut out, mut told) = (Vec::new(), Vec::new());
    let code = explain::run(&arguments, Page { width: 110, colour: false }, &mut out, &mut told);
    let [out, told] = [out, told].map(|text| String::from_utf8(text).unwrap());
    (out, told, code.map_err(|error| format!("{error:#}")))
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

const EXISTS: &str = "issue.whereExists('comments', q => q.where('body', 'body5')).related('owner').limit(3)";

#[test]
fn a_report_for_people() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, schema) = (folder.path(), folder.path().join("schema.json"));
    let replica = replica(folder, "replica.db", &[]);
    let arguments = ["--replica", path(&replica), "--schema", path(&schema), "--query", EXISTS, "--analyze=false"];
    let (text, code) = run(folder, &arguments);
    assert_eq!(code, Ok(0));
    // How long planning took is not printed when nothing was run, so that the text is always the same.
    expect![[r#"
        issue.whereExists('comments', q => q.where('body', 'body5')).related('owner').limit(3)
        hash 16xul716tm6wb · replica at version 01

        ~6 rows for about 633 µs · not run

        PLAN ───────────────────────────────────────────────────────────────── each node of the query, parents first
        0 issue  the query's rows
          ~3 of 1,000 rows · cost 327 µs          expected      cost
          TopK 3                                         3    327 µs
          └─ Lookup by id issue [index issue_id]        20    304 µs
             │   SELECT n0."id", n0."owner_id", n0."modified", n0."_0_version" FROM "issue" AS n0 WHERE (n0."id" = ?1)
             │   • SEARCH n0 USING INDEX issue_id (id=?)
             └─ Distinct                                20    262 µs
                └─ Scan comment [whole table]           20    245 µs
                       SELECT n1."issue_id" FROM "comment" AS n1 WHERE (n1."body" = ?1)
                       ?1 = "body5"
                       • SCAN n1
          ways that were weighed
          ✓   327 µs  collect comments first, look issue(id) up
          ·   393 µs  read issue, join comments – costs 1.2× as much: the keys of comments have to be
                      collected first
          ·  41.3 ms  read issue, probe comments for each row – costs 126× as much: nothing indexes
                      comment(issue_id): each probe scans 4,000 rows

        1 comment  EXISTS comments of 0 by id = issue_id
          ~0 of 4,000 rows · for ~3 keys · cost 297 µs  expected      cost
          Fetch comment [rowid]                                0    297 µs
          │   SELECT n1."id", n1."issue_id", n1."body", n1."_0_version" FROM "comment" AS n1 WHERE (n1._rowid_ = ?1)
          │   • SEARCH n1 USING INTEGER PRIMARY KEY (rowid=?)
          └─ First 3 per key                                   0    277 µs
             └─ SemiJoin (hash of keys)                        0    262 µs
                ├─ Scan comment [whole table]                 20    246 µs
                │      SELECT n1._rowid_, n1."issue_id" FROM "comment" AS n1 WHERE (n1."body" = ?1)
                │      ?1 = "body5"
                │      • SCAN n1
                └─ ParentKeys                                  3      0 µs
          ways that were weighed
          ✓   297 µs  read comment
          ·   728 µs  look comment(issue_id) up by the parents' keys – costs 2.5× as much: nothing indexes
                      comment(issue_id): each of 3 keys scans 4,000 rows
          ✓   245 µs  for its keys: read comment

        2 user  owner of 0 by owner_id = id
          ~3 of 10 rows · for ~3 keys · cost 9.4 µs  expected      cost
          Lookup by id user [index user_id]                 3    9.4 µs
          │   SELECT n2."id", n2."name", n2."_0_version" FROM "user" AS n2 WHERE (n2."id" = ?1)
          │   • SEARCH n2 USING INDEX user_id (id=?)
          └─ ParentKeys                                     3      0 µs
          ways that were weighed
          ✓   9.4 µs  look user(id) up by the parents' keys
          ·    24 µs  read user – costs 2.5× as much: all 10 rows are read for 3 keys


        MAINTENANCE ──────────────────────────────────────────────────────────── holds ~6 rows in ~7 groups, ~1.1 kB
        0 issue  keeps key and place of the first 3 rows: ~3 rows in ~1 group, ~292 B
            reacts to  id
            found by   every change of issue, tested against the filter
        1 comment  keeps up to 3 witnesses of each group: ~0 rows in ~3 groups, ~300 B
            reacts to  issue_id, body
            found by   comment(issue_id) = the key of a group
            found by   comment(body) = the value in the query; decides the EXISTS
        2 user  keeps the key of every row: ~3 rows in ~3 groups, ~492 B
            reacts to  id
            found by   user(id) = the key of a group

        a change of one row of    reaches it      expected    on average
          issue                        100 %       12.7 ms       12.7 ms
              probes comment(issue_id) (comments) without an index: scans 4,000 rows
              reads user(id) (owner) through an index
              refills its 3 rows through an index when one leaves, past some 51 that do not pass
          comment                        5 %       12.7 ms        633 µs
              finds issue(id) through an index
              probes comment(issue_id) (comments) without an index: scans 4,000 rows
              refills its 3 rows through an index when one leaves, past some 51 that do not pass
          user                          30 %        3.0 µs        1.4 µs

        ADVICE ───────────────────────────────────────────────────────── gains are tried on a copy of the statistics
        → CREATE INDEX ON comment (issue_id, body);
          2.9× cheaper to answer (633 µs → 219 µs)
          154× cheaper to keep current (24.8 ms → 161 µs)
          every change of its table then costs 5.0 µs more
          finds the comments of a row and those that pass the filter at once
        → CREATE INDEX ON comment (body);
          2.0× cheaper to answer (219 µs → 110 µs)
          every change of its table then costs 5.0 µs more
          nothing indexes comment(body), which the query fixes; 4,000 rows are scanned

    "#]]
    .assert_eq(&text);
}

#[test]
fn json_has_totals_and_advice() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, schema) = (folder.path(), folder.path().join("schema.json"));
    let made = replica(folder, "made.db", &[]);
    let replica = folder.join("replica.db");
    Replica::inspect(&made).unwrap().unwrap().copy_to(&replica).unwrap();
    let connection = rusqlite::Connection::open(&replica).unwrap();
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    drop(connection);
    let before = std::fs::read(&replica).unwrap();
    let arguments = ["--replica", path(&replica), "--schema", path(&schema), "--query", EXISTS, "--format", "json"];
    let (text, code) = run(folder, &[&arguments[..], &["--check-advice"]].concat());
    assert_eq!(code, Ok(0));
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    // The client's names in the text, the server's in the query.
    assert_eq!(report["query"]["zql"], EXISTS);
    // The same keys as for several queries.
    assert_eq!(report["queries"].as_array().unwrap().len(), 1);
    assert_eq!((&report["queries"][0]["totals"], &report["errors"]), (&report["totals"], &serde_json::json!([])));
    assert_eq!(report["query"]["ast"]["where"]["related"]["correlation"]["childField"][0], "issue_id");
    // Three issues with their owners, and the comments that let them in.
    let rows: Vec<u64> =
        report["nodes"].as_array().unwrap().iter().map(|node| node["rows"].as_u64().unwrap()).collect();
    assert_eq!((rows[0], rows.iter().sum::<u64>()), (3, report["totals"]["rowsOut"].as_u64().unwrap()));
    assert!(report["totals"]["rowsVisited"].as_u64().unwrap() < 20_000, "{}", report["totals"]);
    assert!(report["totals"]["ms"].as_f64().unwrap() > 0.0);
    let advice = &report["advice"][0];
    assert!(advice["sql"].as_str().unwrap().starts_with("CREATE INDEX ON comment (issue_id"), "{advice}");
    assert!(advice["gain"].as_f64().unwrap() > 1.3 && advice["why"].is_string(), "{advice}");
    assert!(advice["measuredMs"].is_array(), "{advice}");
    // Nothing was changed, and nothing is left beside the file.
    assert_eq!(std::fs::read(&replica).unwrap(), before);
    assert!(!folder.join("replica.db-wal").exists() && !folder.join("replica.db-shm").exists());
}

#[test]
fn a_replica_that_is_served_is_read_beside_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = replica(folder, "replica.db", &[]);
    let serving = Replica::open(&file).unwrap().unwrap();
    let mut writer = serving.writer().unwrap();
    let mut tx = writer.begin("02").unwrap();
    let users = tx.relation("user", &["id", "name"], &["id"]).unwrap();
    tx.insert(&users, &[text("u-new"), text("New")]).unwrap();
    tx.commit().unwrap();
    let (text, code) = run(folder, &["--replica", path(&file), "--query", "user", "--format", "json"]);
    assert_eq!(code, Ok(0));
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["source"]["version"], &report["totals"]["rowsOut"]), (&"02".into(), &11.into()));
}

#[test]
fn many_queries_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, schema) = (folder.path(), folder.path().join("schema.json"));
    let replica = replica(folder, "replica.db", &[]);
    let texts = folder.join("queries.zql");
    std::fs::write(
        &texts,
        format!("// mine\nissue.where('ownerId', 'u3').orderBy('modified', 'desc').limit(5);\n{EXISTS};"),
    )
    .unwrap();
    let page = folder.join("page.html");
    let arguments = ["--replica", path(&replica), "--schema", path(&schema), "--file", path(&texts)];
    let (text, code) = run(folder, &[&arguments[..], &["--html", path(&page)]].concat());
    assert_eq!(code, Ok(0));
    assert!(text.contains("\nmine ") && text.contains("\nquery 2 ") && text.contains("ALL QUERIES"), "{text}");
    let html = std::fs::read_to_string(&page).unwrap();
    assert_eq!(html.matches("<article").count(), 2);
    assert_eq!(html.matches("<svg width").count(), html.matches("</svg></div>").count());
    assert!(html.contains("CREATE INDEX ON issue (owner_id, modified);"));
    let (json, _) = run(folder, &[&arguments[..], &["--format", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["queries"].as_array().unwrap().len(), 2);
    assert!(json["totals"]["rowsVisited"].is_u64());
    let advice = json["advice"].as_array().unwrap();
    assert!(advice.iter().any(|advice| advice["query"] == "mine" && advice["sql"].is_string()), "{advice:?}");
    assert_eq!(json["errors"], serde_json::json!([]));
}

#[test]
fn a_page_is_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let replica = replica(folder.path(), "replica.db", &[]);
    let page = folder.path().join("page.html");
    let query = "issue.where('id', '<script>alert(1)</script>')";
    let (_, code) = run(folder.path(), &["--replica", path(&replica), "--query", query, "--html", path(&page)]);
    assert_eq!(code, Ok(0));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;alert(1)"));
}

/// All rows of a replica. Its bytes may change with them the same: whoever closes it last moves the log into it.
fn contents(path: &Path) -> Vec<Vec<rusqlite::types::Value>> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut tables = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(tables.len() > 3, "{tables:?}");
    let rows = tables.iter().flat_map(|table| {
        let mut rows = connection.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
        let columns = rows.column_count();
        let rows = rows.query_map([], |row| (0..columns).map(|column| row.get(column)).collect::<Result<Vec<_>, _>>());
        rows.unwrap().map(Result::unwrap).collect::<Vec<_>>()
    });
    rows.collect()
}

/// Where there is data, rows are changed on a copy; the replica stays as it was.
#[test]
fn what_changes_cost_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, schema) = (folder.path(), folder.path().join("schema.json"));
    let replica = replica(folder, "replica.db", &["issue_id"]);
    let before = contents(&replica);
    let query = "issue.whereExists('comments', q => q.where('body', 'body5')).related('owner').orderBy('modified', 'desc').limit(3)";
    let arguments = ["--replica", path(&replica), "--schema", path(&schema), "--query", query, "--format", "json"];
    let page = folder.join("page.html");
    let html = ["--html", path(&page)];
    let (text, code) = run(folder, &[&arguments[..], &html].concat());
    assert_eq!(code, Ok(0));
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["warnings"], serde_json::json!([]));
    let changes = report["maintenance"]["changes"].as_array().unwrap();
    let tables: Vec<&str> = changes.iter().map(|change| change["table"].as_str().unwrap()).collect();
    assert_eq!(tables, ["issue", "comment", "user"]);
    for change in changes {
        let measured = &change["measured"];
        assert!(measured["changes"].as_u64().unwrap() >= 2 && measured["median"].as_f64().unwrap() > 0.0, "{change}");
    }
    assert!(contents(&replica) == before);
    // The graph is drawn: what decides hangs on a dashed line.
    let page = std::fs::read_to_string(&page).unwrap();
    let graph = page.split("<h2>Maintenance</h2>").nth(1).unwrap();
    assert!(graph.contains("stroke-dasharray") && graph.contains("1 comment · EXISTS comments"), "{graph}");
    assert_eq!(graph.matches("<rect class=b").count(), 3);

    let (text, _) = run(folder, &[&arguments[..], &["--analyze=false"]].concat());
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(report["maintenance"]["changes"][0]["measured"].is_null());
}
