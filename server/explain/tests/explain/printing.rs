//! What is printed when a query was run, and what else can be asked for.

use expect_test::expect;

use crate::{EXISTS, path, replica, run};

/// The text with what differs from run to run left out: times and costs, which look the same, and how columns are aligned.
fn masked(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let mut words: Vec<&str> = line.split_whitespace().collect();
        while let Some(unit) = words.iter().position(|word| {
            let word = word.trim_end_matches([')', ',']).trim_end_matches(" more");
            ["µs", "ms", "s"].contains(&word)
        }) {
            words.remove(unit);
            words[unit - 1] = if words[unit - 1].starts_with('(') { "(…" } else { "…" };
        }
        lines.push(format!("{}{}", " ".repeat(indent), words.join(" ")).trim_end_matches('─').to_owned());
    }
    lines.join("\n") + "\n"
}

#[test]
fn a_report_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, schema) = (folder.path(), folder.path().join("schema.json"));
    let replica = replica(folder, "replica.db", &["issue_id"]);
    let (text, code) = run(folder, &["--replica", path(&replica), "--schema", path(&schema), "--query", EXISTS]);
    assert_eq!(code, Ok(0));
    expect![[r#"
        issue.whereExists('comments', q => q.where('body', 'body5')).related('owner').limit(3)
        hash 16xul716tm6wb · replica at version 01

        13 rows in … (expected … · 4,015 visited by SQLite
        35 read (301 B) by 10 executions · planned in …

        PLAN ───────────────────────────────────────────────────────────────── each node of the query, parents first
        0 issue the query's rows
          3 of 1,000 rows · 41 B · … (expected …
                                                            expected rows visited runs cost time
          TopK 3 3 3 … …
          └─ Lookup by id issue [index issue_id] 20 5 5 5 … …
             │ SELECT n0."id", n0."owner_id", n0."modified", n0."_0_version" FROM "issue" AS n0 WHERE (n0."id" = ?1)
             │ gave 5 rows, 79 B, in 5 runs
             │ • SEARCH n0 USING INDEX issue_id (id=?) · 5 visited in 5 loops
             └─ Distinct 20 5 … …
                └─ Scan comment [whole table] 20 20 4,000 1 … …
                       SELECT n1."issue_id" FROM "comment" AS n1 WHERE (n1."body" = ?1)
                       ?1 = "body5"
                       gave 20 rows, 76 B, in 1 run
                       • SCAN n1 · 4,000 visited
          ways that were weighed
          ✓ … collect comments first, look issue(id) up
          · … read issue, probe comments for each row – costs 1.1× as much: a probe of comments costs
                      …
          · … read issue, join comments – costs 1.2× as much: the keys of comments have to be
                      collected first

        1 comment EXISTS comments of 0 by id = issue_id
          9 of 4,000 rows · for 3 keys (expected 3) · 118 B · … (expected …
                                                            expected rows visited runs cost time
          Lookup by issue_id comment [index comment_issue_id] 0 9 9 3 … …
          │ SELECT n1."id", n1."issue_id", n1."body", n1."_0_version" FROM "comment" AS n1 WHERE ((n1."issue_id" =
          │ ?1) AND (n1."body" = ?2)) LIMIT ?3
          │ ?2 = "body5", ?3 = 3
          │ gave 9 rows, 136 B, in 3 runs
          │ • SEARCH n1 USING INDEX comment_issue_id (issue_id=?) · 9 visited in 3 loops
          └─ ParentKeys 3 3 … …
          ways that were weighed
          ✓ … look comment(issue_id) up by the parents' keys
          · … read comment – costs 26× as much: all 4,000 rows are read for 3 keys
          ✓ … for its keys: read comment

        2 user owner of 0 by owner_id = id
          1 of 10 rows · for 1 key (expected 3) · 8 B · … (expected …
                                                            expected rows visited runs cost time
          Lookup by id user [index user_id] 1 1 1 1 … …
          │ SELECT n2."id", n2."name", n2."_0_version" FROM "user" AS n2 WHERE (n2."id" = ?1)
          │ gave 1 row, 10 B, in 1 run
          │ • SEARCH n2 USING INDEX user_id (id=?) · 1 visited
          └─ ParentKeys 1 1 … …
          ways that were weighed
          ✓ … look user(id) up by the parents' keys
          · … read user – costs 7.2× as much: all 10 rows are read for 1 keys


        MAINTENANCE ─────────────────────────────────────────────────────────────── holds 13 rows in 5 groups, 849 B
        0 issue keeps key and place of the first 3 rows: 3 rows in 1 group, 411 B
            reacts to id
            found by every change of issue, tested against the filter
        1 comment keeps up to 3 witnesses of each group: 9 rows in 3 groups, 219 B
            reacts to issue_id, body
            found by comment(issue_id) = the key of a group
            found by comment(body) = the value in the query; decides the EXISTS
        2 user keeps the key of every row: 1 row in 1 group, 219 B
            reacts to id
            found by user(id) = the key of a group

        a change of one row of reaches it expected on average measured
          issue 100 % … … …
              probes comment(issue_id) (comments) through an index
              reads user(id) (owner) through an index
              refills its 3 rows through an index when one leaves, past some 51 that do not pass
          comment 5 % … … …
              finds issue(id) through an index
              probes comment(issue_id) (comments) through an index
              refills its 3 rows through an index when one leaves, past some 51 that do not pass
          user 10 % … … …

        ADVICE ───────────────────────────────────────────────────────── gains are tried on a copy of the statistics
        → CREATE INDEX ON comment (body);
          3.1× cheaper to answer (… → …
          every change of its table then costs … more
          nothing indexes comment(body), which the query fixes; 4,000 rows are scanned
        → CREATE INDEX ON comment (issue_id, body);
          1.5× cheaper to keep current (… → …
          every change of its table then costs … more
          finds the comments of a row and those that pass the filter at once

    "#]]
    .assert_eq(&masked(&text));
}

/// Two spellings of one hash have one text.
#[test]
fn the_text_is_that_of_the_normal_form() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let replica = replica(folder, "replica.db", &[]);
    let head = |query: &str| {
        let text = run(folder, &["--replica", path(&replica), "--query", query, "--analyze=false"]).0;
        text.lines().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let one = head("issue.where('owner_id', 'u1').where('modified', '>', 3)");
    assert_eq!(one, head("issue.where(({and, cmp}) => and(cmp('modified', '>', 3), and(cmp('owner_id', 'u1'))))"));
    assert_eq!(one[0], "issue.where('modified', '>', 3).where('owner_id', 'u1')");
    // But for what the normal form leaves out although it decides.
    assert_eq!(head("issue.where(({or}) => or())")[0], "issue.where(({or}) => or())");
}

#[test]
fn rows_are_printed_where_there_are_any() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let replica = replica(folder, "replica.db", &[]);
    let page = folder.join("page.html");
    let query = "issue.where('id', 'i7')";
    let rows = ["--output-synced-rows", "--output-vended-rows=1"];
    let ask =
        |more: &[&str]| run(folder, &[&["--replica", path(&replica), "--query", query], &rows[..], more].concat()).0;
    let text = ask(&["--html", path(&page)]);
    let (_, printed) = text.split_once("SYNCED ROWS").unwrap();
    assert!(printed.contains(r#"{"_0_version":"01","id":"i7","modified":993,"owner_id":"u7"}"#), "{printed}");
    let (_, printed) = text.split_once("ROWS OF STATEMENTS").unwrap();
    assert!(printed.contains(r#"["i7","u7",993.0,"01"]"#), "{printed}");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("rows of issue that a client gets") && html.contains("[&quot;i7&quot;,&quot;u7&quot;"));
    // The parts stand in the order in which they are read: what happens, what it costs later, what to do.
    let at = |part: &str| html.find(part).unwrap_or_else(|| panic!("no {part}"));
    assert!(at("expected cost") < at("<h2>Plan") && at("<h2>Plan") < at("<h2>Maintenance"));
    assert!(at("<h2>Maintenance") < at("<h2>Advice"));
    let text = ask(&["--analyze=false"]);
    assert!(text.contains("! no rows are printed, because the query was not run"), "{text}");
}

/// The data is not needed for plans; its values only where a constant is rarer or more common than others.
#[test]
fn statistics_without_values_plan_as_the_replica() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, schema) = (folder.path(), folder.path().join("schema.json"));
    let replica = replica(folder, "replica.db", &[]);
    let statistics = folder.join("statistics.json");
    run(folder, &["--replica", path(&replica), "--dump-stats", path(&statistics)]).1.unwrap();
    // Values of rows are not in the file.
    assert!(!std::fs::read_to_string(&statistics).unwrap().contains("body5"));
    let query = "issue.whereExists('comments').related('owner').orderBy('modified', 'desc').limit(3)";
    let plan = |source: &std::path::Path| {
        let arguments = ["--replica", path(source), "--schema", path(&schema), "--query", query, "--analyze=false"];
        let text = run(folder, &arguments).0;
        text.split_once("PLAN").unwrap().1.to_owned()
    };
    assert_eq!(plan(&statistics), plan(&replica));
}

#[test]
fn queries_come_as_json_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let replica = replica(folder, "replica.db", &[]);
    let (one, many) = (folder.join("one.json"), folder.join("many.jsonl"));
    std::fs::write(&one, r#"{"table":"issue","limit":3}"#).unwrap();
    std::fs::write(&many, "{\"table\":\"issue\",\"limit\":3}\n{\"name\":\"u\",\"ast\":{\"table\":\"user\"}}\n")
        .unwrap();
    let told = |arguments: &[&str]| {
        let (text, code) = run(folder, &[&["--replica", path(&replica), "--format", "json"], arguments].concat());
        assert_eq!(code, Ok(0));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let queries = json["queries"].as_array().unwrap().iter();
        queries.map(|query| (query["name"].clone(), query["query"]["zql"].clone())).collect::<Vec<_>>()
    };
    let issue = (serde_json::Value::Null, "issue.limit(3)".into());
    for arguments in [["--ast", path(&one)], ["--file", path(&one)], ["--ast", r#"{"table":"issue","limit":3}"#]] {
        assert_eq!(told(&arguments), std::slice::from_ref(&issue), "{arguments:?}");
    }
    let queries = [("query 1".into(), "issue.limit(3)".into()), ("u".into(), "user".into())];
    assert_eq!(told(&["--file", path(&many)]), queries);
}
