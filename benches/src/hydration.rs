//! First answers against the lower bound: the same rows read by hand ([`crate::hand`]) and written as the same text.
//!
//! Measured is all that stands between a query and the text of its rows: choosing plans, running them, telling
//! each row once, writing it. Before anything is measured, both sides must give the same rows. They take turns, so
//! that the ratio holds on a machine that does other things; the state of the graph is timed beside them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use engine::graph::Graph;
use engine::hydration::Hydrate;
use planner::Planner;
use serde_json::{Value, json};

use crate::answer::{Answering, texts};
use crate::hand::{Hand, Sink};
use crate::measure::alternate;
use crate::report::{Cell, Report, Section};
use crate::tracker::{self, exists, labelled, related, simple};

/// How much slower than by hand a query over one table may be, and any other.
const SINGLE_TARGET: f64 = 1.5;
const TARGET: f64 = 2.5;

/// A query, and how a person would read it.
struct Case {
    name: &'static str,
    target: f64,
    ast: Value,
    hand: fn(&mut Hand<'_>) -> Result<()>,
}

fn case(name: &'static str, target: f64, ast: Value, hand: fn(&mut Hand<'_>) -> Result<()>) -> Case {
    Case { name, target, ast, hand }
}

fn newest(limit: usize) -> Value {
    json!({"table": "issue", "orderBy": [["modified", "desc"], ["id", "asc"]], "limit": limit})
}

fn page(limit: usize, everything: bool) -> Value {
    let comments = json!({"table": "comment", "orderBy": [["created", "desc"], ["id", "asc"]], "limit": 10});
    let mut labels = related("labels", "id", "issue_id", json!({"table": "issue_label"}));
    labels["subquery"]["related"] = json!([related("labels", "label_id", "id", json!({"table": "label"}))]);
    labels["hidden"] = json!(true);
    let mut all = vec![related("creator", "creator_id", "id", json!({"table": "user"})), labels];
    all.push(related("comments", "id", "issue_id", comments));
    if everything {
        all.push(related("assignee", "assignee_id", "id", json!({"table": "user"})));
    }
    let mut ast = newest(limit);
    ast["related"] = json!(all);
    ast
}

fn filtered(mut ast: Value, condition: Value) -> Value {
    ast["where"] = condition;
    ast
}

fn cases() -> Vec<Case> {
    let all = || json!({"table": "issue"});
    let rare = || simple("name", "=", "rare");
    let urgent = json!({"type": "and", "conditions": [simple("open", "=", true), simple("priority", "=", 4)]});
    let mine = json!({"type": "or", "conditions": [
        simple("creator_id", "=", "u7"), simple("assignee_id", "=", "u7"), labelled("issue_label", rare())]});
    let mut silent = exists("id", "creator_id", json!({"table": "comment"}));
    silent["op"] = json!("NOT EXISTS");
    let mut uncommented = exists("id", "issue_id", json!({"table": "comment"}));
    uncommented["op"] = json!("NOT EXISTS");
    let mut with_comments = all();
    with_comments["related"] = json!([related("comments", "id", "issue_id", json!({"table": "comment"}))]);
    let search = simple("name", "LIKE", "%are");
    vec![
        case("one issue by its key", SINGLE_TARGET, filtered(all(), simple("id", "=", "i4242")), |hand| {
            hand.single("WHERE t.id = 'i4242'")
        }),
        case("the newest 50 issues", SINGLE_TARGET, newest(50), |hand| {
            hand.single("ORDER BY t.modified DESC, t.id LIMIT 50")
        }),
        case("issues of one creator", SINGLE_TARGET, filtered(all(), simple("creator_id", "=", "u7")), |hand| {
            hand.single("WHERE t.creator_id = 'u7'")
        }),
        case("open and urgent issues, no index", SINGLE_TARGET, filtered(all(), urgent), |hand| {
            hand.single("WHERE t.open = 1 AND t.priority = 4")
        }),
        case("every issue", SINGLE_TARGET, all(), |hand| hand.single("")),
        case("newest 50 with creator, labels, comments", TARGET, page(50, false), |hand| hand.page(50, false)),
        case("newest 10 000 with everything", TARGET, page(10_000, true), |hand| hand.page(10_000, true)),
        case("1 of 100 by a junction", TARGET, filtered(all(), labelled("issue_label", rare())), |hand| {
            hand.labelled("issue_label")
        }),
        case("the same, junction indexed", TARGET, filtered(all(), labelled("issue_label_indexed", rare())), |hand| {
            hand.labelled("issue_label_indexed")
        }),
        case(
            "newest 1 000 by a part of a label",
            TARGET,
            filtered(newest(1000), labelled("issue_label", search)),
            |hand| hand.searched(),
        ),
        case("mine, or with a label", TARGET, filtered(all(), mine), |hand| hand.mine_or_labelled()),
        case("newest 50 without comments", TARGET, filtered(newest(50), uncommented), |hand| hand.uncommented()),
        case("users who never commented, no index", TARGET, filtered(json!({"table": "user"}), silent), |hand| {
            hand.silent()
        }),
        case("every issue with its comments", TARGET, with_comments, |hand| hand.with_comments()),
    ]
}

/// Measures the cases whose name has `only` in it, over one number of issues.
pub(crate) fn run(issues: i64, only: &str, budget: Duration, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let snapshot = tracker::load(&folder.path().join("replica.db"), issues)?.pin()?;
    let reader = snapshot.reader()?;
    let answering = Answering { planner: Planner::new(), snapshot: &snapshot, texts: texts(&snapshot) };
    let title = format!("First answers over {issues} issues, {} comments", 2 * issues);
    let mut section = Section::new(
        &format!("hydration-{issues}"),
        &title,
        &["query", "rows", "by hand", "zql", "ratio", "at most", "graph's state"],
    );
    section.chart(&["by hand", "zql"]);
    for case in cases().into_iter().filter(|case| case.name.contains(only)) {
        let query = tracker::resolve(&case.ast, &snapshot)?;
        let mut ours = Sink::checked();
        let mut hand = Hand::new(&reader, Sink::checked());
        answering.write(&query, &mut ours)?;
        (case.hand)(&mut hand)?;
        let theirs = std::mem::take(&mut hand.sink);
        ensure!(
            (ours.rows, ours.digest) == (theirs.rows, theirs.digest),
            "{}: {} rows, by hand {}, or not the same ones",
            case.name,
            ours.rows,
            theirs.rows
        );
        let mut sink = Sink::default();
        let (by_hand, zql) = alternate(budget, || (case.hand)(&mut hand), || answering.write(&query, &mut sink))?;
        let hydration = answering.planner.hydrate(&query, &snapshot)?;
        let start = Instant::now();
        let graph = Graph::new(Arc::clone(&query), &hydration);
        let state = start.elapsed().as_secs_f64() * 1e6;
        drop(graph);
        let ratio = zql / by_hand;
        section.row(vec![
            Cell::text(case.name),
            Cell::count(ours.rows),
            Cell::micros(by_hand),
            Cell::micros(zql),
            Cell::ratio(ratio).held(ratio <= case.target),
            Cell::ratio(case.target),
            Cell::micros(state),
        ]);
    }
    report.add(section);
    Ok(())
}
