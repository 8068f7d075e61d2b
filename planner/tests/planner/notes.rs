//! What a report says where no index helps, or where one is advised that does not help with everything.

use std::path::Path;
use std::sync::Arc;

use engine::replica::Snapshot;
use planner::Planner;
use planner::explain::report::Report;
use planner::explain::{Options, Subject};
use zql_spec::ast::{Ast, Condition, Direction, Literal, SimpleOperator, ValuePosition};
use zql_spec::value::Value;

use crate::tracker::*;

/// 4,000 issues and 12,000 comments that nothing indexes but their keys.
fn world(path: &Path) -> Arc<Snapshot> {
    let mut load = begin(path);
    let issues = (0..4000).map(|id| {
        vec![text(format!("i{id}")), text(format!("Issue {}", id * 7 % 4000)), int(id * 13 % 4000), int(id % 2)]
    });
    let columns =
        [("id", "text|NOT_NULL"), ("title", "text"), ("modified", "float8|NOT_NULL"), ("open", "int4|NOT_NULL")];
    let mut specs = table(&mut load, "issue", &columns, &["!id"], issues);
    let comments = (0..12_000).map(|id| vec![text(format!("c{id}")), text(format!("i{}", id * 7 % 4000))]);
    specs.extend(table(&mut load, "comment", &[("id", "text|NOT_NULL"), ("issue_id", "text")], &["!id"], comments));
    let labels = (0..3).map(|id| vec![text(format!("l{id}"))]);
    specs.extend(table(&mut load, "label", &[("id", "text|NOT_NULL")], &["!id"], labels));
    let marks = (0..6).map(|id| vec![text(format!("m{id}")), text(format!("l{}", id % 3))]);
    specs.extend(table(&mut load, "mark", &[("id", "text|NOT_NULL"), ("label_id", "text")], &["!id"], marks));
    for spec in &specs {
        load.create_index(spec).unwrap();
    }
    load.finish().unwrap().pin().unwrap()
}

fn compare(column: &str, op: SimpleOperator, value: Value) -> Condition {
    let (left, right) = (ValuePosition::Column(column.into()), ValuePosition::Literal(Literal::Value(value)));
    Condition::Simple { op, left, right }
}

fn notes(report: &Report) -> Vec<(&'static str, &str)> {
    let notes = report.advice.iter().filter(|advice| advice.sql.is_none());
    notes.map(|advice| (advice.kind, advice.why.as_str())).collect()
}

#[test]
fn what_no_index_helps_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(&directory.path().join("replica.db"));
    let cases: Vec<(Ast, &str, &str)> = vec![
        (
            from("issue").filter(compare("title", SimpleOperator::ILike, Value::string("%9%"))),
            "filter",
            "no index serves issue(title) ILIKE '%9%': it is tested on up to 4,000 rows",
        ),
        (
            from("issue").filter(compare("title", SimpleOperator::Like, Value::string("%9%"))),
            "filter",
            "no index serves issue(title) LIKE '%9%': it is tested on up to 4,000 rows",
        ),
        (from("comment"), "size", "the answer holds 12,000 rows"),
        (
            from("issue").filter(not_exists("id", "issue_id", from("comment"))).limit(3),
            "limit",
            "the limit 3 of issue cannot be part of the statement: 4,000 rows are read to keep 3",
        ),
        // Too small for an index to be worth its keep.
        (
            from("label").filter(exists("id", "label_id", from("mark"))),
            "correlation",
            "nothing indexes mark(label_id), by which e belong to label",
        ),
    ];
    let mut failed = Vec::new();
    for (ast, kind, why) in cases {
        let report = Planner::new().report(&Subject::replica(&world), &ast, &Options::default()).unwrap();
        if !notes(&report).iter().any(|(other, text)| *other == kind && text.starts_with(why)) {
            let advised: Vec<_> = report.advice.iter().map(|advice| (advice.kind, &advice.sql, &advice.why)).collect();
            failed.push(format!("{kind}: {why}\n{}\n{advised:#?}", report.query.zql));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Six lists of one table, each in an order of its own: there is advice for some, and a word on the others.
#[test]
fn an_index_that_is_advised_does_not_silence_what_it_does_not_help_with() {
    let directory = tempfile::tempdir().unwrap();
    let mut load = begin(&directory.path().join("replica.db"));
    let users = (0..10).map(|id| vec![text(format!("u{id}"))]);
    let mut specs = table(&mut load, "user", &[("id", "text|NOT_NULL")], &["!id"], users);
    let orders = ["a", "b", "c", "d", "e", "f"];
    let issues = (0..5000).map(|id| {
        let numbers = (0..6).map(|order| int(id * (17 + 2 * order) % 5003));
        [text(format!("i{id}")), text(format!("u{}", id % 10))].into_iter().chain(numbers).collect()
    });
    let columns: Vec<(&str, &str)> = [("id", "text|NOT_NULL"), ("owner", "text|NOT_NULL")]
        .into_iter()
        .chain(orders.map(|order| (order, "float8|NOT_NULL")))
        .collect();
    specs.extend(table(&mut load, "issue", &columns, &["!id"], issues));
    for spec in &specs {
        load.create_index(spec).unwrap();
    }
    let world = load.finish().unwrap().pin().unwrap();
    let list = |order: &str| from("issue").order(order, Direction::Desc).limit(5);
    let ast = orders.iter().fold(from("user"), |ast, order| ast.related(order, "id", "owner", list(order)));
    let report = Planner::new().report(&Subject::replica(&world), &ast, &Options::default()).unwrap();
    let advised: Vec<&str> = report.advice.iter().filter_map(|advice| advice.sql.as_deref()).collect();
    assert!((1..orders.len()).contains(&advised.len()), "{advised:?}");
    let sorted: Vec<&str> = notes(&report).into_iter().filter(|note| note.0 == "sort").map(|note| note.1).collect();
    for order in orders {
        let helped = advised.iter().any(|sql| sql.contains(&format!(", {order})")));
        let told = sorted.iter().any(|why| why.contains(&format!(" of {order} ")));
        assert!(helped != told, "{order}: {advised:?} {sorted:?}");
    }
}

/// Each branch of an OR is decided by itself, and what was weighed for it is told with the reason why it was not taken.
#[test]
fn what_was_weighed_for_the_branches_of_an_or_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let world = world(&directory.path().join("replica.db"));
    let comment = exists("id", "issue_id", from("comment").filter(equal("id", "c1")));
    let ast = from("issue").filter(Condition::Or(vec![equal("id", "i1"), comment]));
    let report = Planner::new().report(&Subject::replica(&world), &ast, &Options::default()).unwrap();
    let branches: Vec<_> = report.nodes[0].alternatives.iter().filter(|way| way.purpose == "branch").collect();
    let told: Vec<(bool, bool)> = branches.iter().map(|way| (way.chosen, way.why.is_some())).collect();
    assert!(told.contains(&(true, false)) && told.contains(&(false, true)), "{branches:#?}");
    let taken = branches.iter().find(|way| way.chosen && way.what.contains("collect e first"));
    let refused = branches.iter().find(|way| !way.chosen && way.what.contains("probe e for each row"));
    let cost = |way: Option<&&planner::explain::report::Alternative>| way.and_then(|way| way.cost).unwrap();
    assert!(cost(taken) * 10.0 < cost(refused), "{branches:#?}");
}
