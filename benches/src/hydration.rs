//! First answers against the lower bound: the same rows read by hand ([`crate::hand`]) and written as the same text.
//!
//! Measured is all that stands between a query and the text of its rows: choosing plans, running them, telling
//! each row once, writing it. Before anything is measured, both sides must give the same rows. They take turns, so
//! that the ratio holds on a machine that does other things, and so does the same answer with the state of its graph.

use std::time::Duration;

use anyhow::{Result, ensure};
use planner::Planner;
use serde_json::{Value, json};

use crate::answer::{Answering, texts};
use crate::hand::{Hand, Sink};
use crate::measure::in_turn;
use crate::report::{Cell, Report, Section};
use crate::tracker::{self, exists, labelled, related, simple};

/// How much slower than by hand a query over one table may be, and any other.
pub(crate) const SINGLE_TARGET: f64 = 1.5;
pub(crate) const TARGET: f64 = 2.5;

/// A place in the order of the newest issues.
const AFTER: (f64, &str) = (1.7e12 + 50_000.0 * 60_000.0, "i5");

/// Ids of issues.
const SOME: [&str; 20] = [
    "i17", "i911", "i20003", "i33", "i77777", "i5", "i60606", "i123", "i4242", "i31415", "i27182", "i999", "i8080",
    "i65536", "i1", "i54321", "i12", "i90000", "i44444", "i7",
];

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
    let mut after = newest(50);
    after["start"] = json!({"row": {"modified": AFTER.0, "id": AFTER.1}, "exclusive": true});
    let urgent_or_free =
        json!({"type": "or", "conditions": [simple("priority", "=", 4), simple("assignee_id", "IS", Value::Null)]});
    let mut of_users = json!({"table": "user"});
    let mut latest = newest(3);
    latest["alias"] = json!("issues");
    of_users["related"] = json!([related("issues", "id", "creator_id", latest)]);
    let mut levels = filtered(json!({"table": "user"}), simple("id", "=", "u7"));
    levels["related"] = json!([related("issues", "id", "creator_id", with_comments.clone())]);
    let named = exists("creator_id", "id", json!({"table": "user", "where": simple("name", "=", "User 7")}));
    let by_name = exists("id", "issue_id", json!({"table": "comment", "where": named}));
    let by_user = exists("id", "issue_id", json!({"table": "comment", "where": simple("creator_id", "=", "u7")}));
    let forgotten =
        json!({"type": "and", "conditions": [simple("assignee_id", "IS", Value::Null), uncommented.clone()]});
    vec![
        case("one issue by its key", SINGLE_TARGET, filtered(all(), simple("id", "=", "i4242")), |hand| {
            hand.single("WHERE t.id = ?1", ["i4242"])
        }),
        case("the newest 50 issues", SINGLE_TARGET, newest(50), |hand| {
            hand.single("ORDER BY t.modified DESC, t.id LIMIT 50", [])
        }),
        case("issues of one creator", SINGLE_TARGET, filtered(all(), simple("creator_id", "=", "u7")), |hand| {
            hand.single("WHERE t.creator_id = ?1", ["u7"])
        }),
        case("open and urgent issues, no index", SINGLE_TARGET, filtered(all(), urgent), |hand| {
            hand.single("WHERE t.open = ?1 AND t.priority = ?2", [1, 4])
        }),
        case("every issue", SINGLE_TARGET, all(), |hand| hand.single("", [])),
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
        case("20 issues by their keys", SINGLE_TARGET, filtered(all(), simple("id", "IN", json!(SOME))), |hand| {
            hand.named(&SOME)
        }),
        case("50 issues after a place", SINGLE_TARGET, after, |hand| hand.after(AFTER.0, AFTER.1)),
        case(
            "titles with a word in any case",
            SINGLE_TARGET,
            filtered(all(), simple("title", "ILIKE", "%CRASH on%")),
            |hand| hand.single("WHERE t.title LIKE ?1", ["%CRASH on%"]),
        ),
        case("newest 100, urgent or of nobody", SINGLE_TARGET, filtered(newest(100), urgent_or_free), |hand| {
            let tail = "WHERE t.priority = ?1 OR t.assignee_id IS NULL ORDER BY t.modified DESC, t.id LIMIT 100";
            hand.single(tail, [4])
        }),
        case("every user with the newest 3 issues", TARGET, of_users, |hand| hand.latest_of_users()),
        case("a user, the issues, their comments", TARGET, levels, |hand| hand.three_levels("u7")),
        case("commented on by a name, no index", TARGET, filtered(all(), by_name), |hand| hand.commented_by("User 7")),
        case("newest 100 a user commented on", TARGET, filtered(newest(100), by_user), |hand| {
            hand.newest_commented_by("u7")
        }),
        case("of nobody and without comments", TARGET, filtered(all(), forgotten), |hand| hand.forgotten()),
        case("every issue with its comments", TARGET, with_comments, |hand| hand.with_comments()),
    ]
}

/// Measures the cases whose name has `only` in it, over one number of issues.
pub(crate) fn run(issues: i64, only: &str, budget: Duration, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let snapshot = tracker::load(&folder.path().join("replica.db"), issues)?.pin()?;
    let reader = snapshot.reader()?;
    reader.read_much();
    let answering = Answering { planner: Planner::new(), snapshot: &snapshot, texts: texts(&snapshot) };
    let title = format!("First answers over {issues} issues, {} comments", 2 * issues);
    let mut section = Section::new(
        &format!("hydration-{issues}"),
        &title,
        &["query", "rows", "by hand", "zql", "ratio", "at most", "with the graph", "ratio with it"],
    );
    section.note(
        "`with the graph` also makes the state that keeps the answer current, which what is written by hand has not. Its \
         time has no target.",
    );
    section.chart(&["by hand", "zql"]);
    for case in cases().into_iter().filter(|case| case.name.contains(only)) {
        let query = tracker::resolve(&case.ast, &snapshot)?;
        let mut ours = Sink::checked();
        let mut hand = Hand::new(&reader, &snapshot.schema, Sink::checked());
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
        let (mut sink, mut other) = (Sink::default(), Sink::default());
        let [by_hand, zql, with_state] = in_turn::<_, anyhow::Error>(
            budget,
            [&mut || (case.hand)(&mut hand), &mut || answering.write(&query, &mut sink), &mut || {
                answering.write_with_state(&query, &mut other).map(drop)
            }],
        )?;
        let ratio = zql / by_hand;
        section.row(vec![
            Cell::text(case.name),
            Cell::count(ours.rows),
            Cell::micros(by_hand),
            Cell::micros(zql),
            Cell::ratio(ratio).held(ratio <= case.target),
            Cell::ratio(case.target),
            Cell::micros(with_state),
            Cell::ratio(with_state / by_hand),
        ]);
    }
    report.add(section);
    Ok(())
}
