//! Reports: what was counted is what happened, statistics plan as the replica does, and advice is worth what it says.

use std::path::Path;
use std::sync::Arc;

use engine::replica::{Replica, Snapshot};
use planner::explain::report::Report;
use planner::explain::{Options, Subject};
use planner::{Planner, Statistics};
use serde_json::{Value as Json, json};
use testdata::world::{ISSUES, MUSIC, QueryGenerator, Rng, create_replica, fill};
use zql_spec::ast::{Ast, Direction};

use crate::tracker::*;

/// 5,000 issues and 20,000 comments without an index on what they belong to: the case that zero-cache 1.9 plans as
/// 100 million visited rows.
fn unindexed(path: &Path, indexes: &[&str]) -> Arc<Snapshot> {
    let mut load = begin(path);
    let issues = (0..5000).map(|id| vec![text(format!("i{id}")), text(format!("Issue {id}"))]);
    let mut specs = table(&mut load, "issue", &[("id", "text|NOT_NULL"), ("title", "text")], &["!id"], issues);
    let comments = (0..20_000).map(|id| {
        vec![text(format!("c{id}")), text(format!("i{}", id * 7 % 5000)), text(format!("body{}", id % 1000))]
    });
    let columns = [("id", "text|NOT_NULL"), ("issue_id", "text|NOT_NULL"), ("body", "text")];
    specs.extend(table(&mut load, "comment", &columns, &[&["!id"], indexes].concat(), comments));
    for spec in &specs {
        load.create_index(spec).unwrap();
    }
    load.finish().unwrap().pin().unwrap()
}

fn with_body5() -> Ast {
    from("issue").filter(exists("id", "issue_id", from("comment").filter(equal("body", "body5")))).limit(3)
}

fn report(snapshot: &Arc<Snapshot>, ast: &Ast, options: &Options) -> Report {
    Planner::new().report(&Subject::replica(snapshot), ast, options).unwrap()
}

#[test]
fn an_exists_without_an_index_is_not_probed() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = unindexed(&directory.path().join("replica.db"), &[]);
    let report = report(&snapshot, &with_body5(), &Options::default());
    let visited = report.totals.rows_visited.unwrap();
    assert!((20_000..=50_000).contains(&visited), "{visited}");
    // Twenty comments have the body: their issues are looked up.
    assert_eq!((report.nodes[1].decided, report.nodes[1].negated), (Some("flipped"), false));
    let probing = report.nodes[0].alternatives.iter().find(|other| other.what.contains("probe")).unwrap();
    assert!(!probing.chosen);
    assert!(
        probing.why.as_ref().unwrap().contains("nothing indexes comment(issue_id): each probe scans 20,000 rows"),
        "{probing:?}"
    );
    let advised: Vec<&str> = report.advice.iter().filter_map(|advice| advice.sql.as_deref()).collect();
    assert!(advised[0].starts_with("CREATE INDEX ON comment (issue_id"), "{advised:?}");

    // The advice is followed.
    let directory = tempfile::tempdir().unwrap();
    let snapshot = unindexed(&directory.path().join("replica.db"), &["issue_id"]);
    let after = self::report(&snapshot, &with_body5(), &Options::default());
    let reached =
        |report: &Report| report.maintenance.changes.iter().map(|change| change.cost_when_reached).sum::<f64>();
    assert!(reached(&after) * 10.0 < reached(&report), "{} {}", reached(&after), reached(&report));
}

/// Whatever is chosen, each EXISTS is decided in one way, and what hangs on a probed one is probed.
#[test]
fn every_exists_is_decided() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = tracker(&directory.path().join("replica.db"), 50, 2_000);
    let comments = || from("comment").filter(equal("id", "c1"));
    for (ast, decided, negated) in [
        // One issue is looked up by its key, and its comments with it.
        (
            from("issue").filter(equal("id", "i1")).filter(exists("id", "issue", comments())),
            &["flipped", "probed"][..],
            false,
        ),
        (from("issue").filter(exists("id", "issue", comments())), &["flipped"], false),
        (from("issue").filter(not_exists("id", "issue", comments())), &["joined", "probed"], true),
        (from("issue"), &[], false),
    ] {
        let report = report(&snapshot, &ast, &Options::default());
        let exists: Vec<_> = report.nodes.iter().filter(|node| node.role == "exists").collect();
        assert_eq!(exists.is_empty(), decided.is_empty());
        for node in exists {
            assert!(decided.contains(&node.decided.unwrap()), "{:?}", node.decided);
            assert_eq!(node.negated, negated);
        }
        assert_eq!(report.nodes[0].decided, None);
    }
}

#[test]
fn what_is_counted_is_what_happened() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = tracker(&directory.path().join("replica.db"), 50, 2_000);
    let ast = from("issue")
        .order("modified", Direction::Desc)
        .limit(50)
        .related("owner", "owner", "id", from("user"))
        .related("comments", "id", "issue", from("comment").order("created", Direction::Desc).limit(2));
    let options = Options { synced_rows: true, vended_rows: 2, ..Options::default() };
    let report = report(&snapshot, &ast, &options);
    let rows: Vec<Option<u64>> = report.nodes.iter().map(|node| node.rows).collect();
    assert_eq!(rows, [Some(50), Some(45), Some(61)]);
    let totals = &report.totals;
    assert_eq!(totals.rows_out, Some(156));
    // Each plan ends in what the node has.
    for node in &report.nodes {
        assert_eq!(node.plan.as_ref().unwrap().rows, node.rows, "{node:?}");
    }
    // The page walks an index, the comments of each issue are probed for.
    let (page, comments) = (report.nodes[0].plan.as_ref().unwrap(), report.nodes[2].plan.as_ref().unwrap());
    let (page, comments) = (page.access.as_ref().unwrap(), comments.access.as_ref().unwrap());
    assert_eq!((page.method, page.indexes.as_slice()), ("scan", &["issue_modified".to_owned()][..]));
    assert_eq!((page.executions, page.rows_read, page.rows_visited), (Some(1), Some(50), Some(51)));
    assert_eq!((comments.method, comments.indexes.as_slice()), ("search", &["comment_issue".to_owned()][..]));
    assert_eq!((comments.executions, comments.rows_read), (Some(50), Some(61)));
    assert_eq!(comments.rows_visited, comments.sqlite_plan[0].visited);
    assert!(page.bytes.unwrap() > 50 * 8);
    // Sums are sums.
    let of_statements: u64 = report.statements.iter().map(|statement| statement.rows_visited).sum();
    assert_eq!(Some(of_statements), totals.rows_visited);
    let held: u64 = report.maintenance.nodes.iter().map(|node| node.rows as u64).sum();
    assert_eq!(Some(held), totals.rows_out);
    // Rows that were asked for.
    let synced = report.synced_rows.as_ref().unwrap();
    assert_eq!(synced["issue"].as_array().unwrap().len(), 50);
    assert_eq!(synced["issue"][0]["_0_version"], "01");
    assert_eq!(page.vended_rows.as_ref().unwrap().len(), 2);
    let json = serde_json::to_value(&report).unwrap();
    for key in ["rowsVisited", "rowsOut", "ms"] {
        assert!(json["totals"][key].is_number(), "{key}");
    }
}

#[test]
fn counting_does_not_outlive_an_explanation() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = tracker(&directory.path().join("replica.db"), 4, 100);
    report(&snapshot, &from("issue"), &Options::default());
    let reader = snapshot.reader().unwrap();
    let sql = "SELECT count(*) FROM issue";
    reader.prepare_cached(sql).unwrap().query_row([], |_| Ok(())).unwrap();
    assert_eq!(reader.plan(sql), []);
}

/// What does not depend on how the report came to be.
fn comparable(report: &Report) -> Json {
    let mut json = serde_json::to_value(report).unwrap();
    json["totals"]["planMs"] = json!(0);
    json["source"]["kind"] = json!("");
    json
}

#[test]
fn statistics_plan_as_their_replica_does() {
    let directory = tempfile::tempdir().unwrap();
    let mut operators = 0;
    for (seed, data) in [(1, &ISSUES), (2, &MUSIC), (3, &ISSUES), (4, &MUSIC)] {
        let mut rng = Rng::new(seed);
        let database = fill(data, &mut rng);
        let path = directory.path().join(format!("{seed}.db"));
        let replica = create_replica(data, &database, &path).unwrap();
        let text = Statistics::read(&replica, true).unwrap().to_text();
        assert_eq!(Statistics::parse(&text).unwrap().to_text(), text);
        let statistics = Subject::statistics(Statistics::parse(&text).unwrap()).unwrap();
        let subject = Subject::replica(&replica.pin().unwrap());
        let options = Options { analyze: false, ..Options::default() };
        let mut generator = QueryGenerator::new(data, &database, rng.fork());
        for _ in 0..50 {
            let ast = generator.query();
            let planner = Planner::new();
            let (of_replica, of_statistics) =
                (planner.report(&subject, &ast, &options), planner.report(&statistics, &ast, &options));
            match (of_replica, of_statistics) {
                (Ok(one), Ok(other)) => {
                    operators += one.operators().len();
                    assert_eq!(comparable(&one), comparable(&other), "{}", one.query.zql);
                }
                (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
                (one, other) => panic!("{one:?} {other:?}"),
            }
        }
    }
    assert!(operators > 400, "{operators}");
}

#[test]
fn every_query_of_a_world_can_be_explained() {
    let directory = tempfile::tempdir().unwrap();
    for (seed, data) in [(11, &ISSUES), (12, &MUSIC)] {
        let mut rng = Rng::new(seed);
        let database = fill(data, &mut rng);
        let replica = create_replica(data, &database, &directory.path().join(format!("{seed}.db"))).unwrap();
        let snapshot = replica.pin().unwrap();
        let mut generator = QueryGenerator::new(data, &database, rng.fork());
        for turn in 0..60 {
            let ast = generator.query();
            let planner = if turn % 2 == 0 { Planner::new() } else { Planner::careless(turn) };
            let Ok(report) = planner.report(&Subject::replica(&snapshot), &ast, &Options::default()) else { continue };
            for node in &report.nodes {
                let Some(plan) = &node.plan else { continue };
                assert_eq!(plan.rows, node.rows, "{}\n{node:#?}", report.query.zql);
            }
            for operator in report.operators() {
                let Some(access) = &operator.access else { continue };
                let (read, visited) = (access.rows_read.unwrap(), access.rows_visited.unwrap());
                assert!(access.executions.unwrap() == 0 || !access.sqlite_plan.is_empty(), "{access:?}");
                assert!(read == 0 || visited > 0, "{access:?}");
            }
        }
    }
}

#[test]
fn files_of_another_version_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("replica.db");
    drop(tracker(&path, 2, 4));
    let replica = Replica::inspect(&path).unwrap().unwrap();
    let mut json: Json = serde_json::from_str(&Statistics::read(&replica, false).unwrap().to_text()).unwrap();
    json["version"] = json!(2);
    let error = Statistics::parse(&json.to_string()).unwrap_err();
    assert_eq!(error, "version 2 of the file is not known; this is for 1");
    assert!(Statistics::parse("{}").is_err());
}
