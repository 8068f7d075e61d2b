//! Constants that are rarer or more common than others, and tables that are no longer what they were.

use std::path::Path;
use std::sync::Arc;

use engine::hydration::Hydrate;
use engine::replica::{Replica, Snapshot, Writer};
use planner::explain::{Options, Subject};
use planner::{Planner, Statistics};
use zql_spec::ast::{Ast, Direction};

use crate::tracker::*;

const ROWS: i64 = 20_000;

/// Tickets of which one in a thousand is urgent, in no order, and one event each. The states are indexed, the kinds are
/// not.
fn tickets(path: &Path) -> Arc<Replica> {
    let mut load = begin(path);
    let rare = |id: i64, rare: &str| text(if id % 1000 == 7 { rare } else { "usual" });
    let rows = (0..ROWS).map(|id| vec![int(id), rare(id, "urgent"), rare(id, "odd"), int(id * 7919 % ROWS)]);
    let columns = [("id", "int8|NOT_NULL"), ("state", "text"), ("kind", "text"), ("modified", "float8|NOT_NULL")];
    let mut indexes = table(&mut load, "ticket", &columns, &["!id", "state", "modified"], rows);
    let events = (0..ROWS).map(|id| vec![int(id), int(id)]);
    let columns = [("id", "int8|NOT_NULL"), ("ticket", "int8|NOT_NULL")];
    indexes.extend(table(&mut load, "event", &columns, &["!id", "ticket"], events));
    for index in &indexes {
        load.create_index(index).unwrap();
    }
    load.finish().unwrap()
}

fn newest(state: &str) -> Ast {
    from("ticket").filter(equal("state", state)).order("modified", Direction::Desc).limit(20)
}

/// Rows that SQLite visits for a query.
fn visited(snapshot: &Arc<Snapshot>, ast: &Ast) -> u64 {
    let options = Options { advice: false, ..Options::default() };
    Planner::new().report(&Subject::replica(snapshot), ast, &options).unwrap().totals.rows_visited.unwrap()
}

fn explain(planner: &Planner, snapshot: &Arc<Snapshot>, ast: &Ast) -> String {
    planner.explain(&resolve(ast, snapshot), snapshot).unwrap()
}

#[test]
fn a_plan_flips_between_two_constants() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = tickets(&directory.path().join("replica.db")).pin().unwrap();
    // The twenty that are urgent are found by their state and sorted; of the others, the newest are met at once by walking
    // the order.
    assert!(visited(&snapshot, &newest("urgent")) <= 21);
    assert!(visited(&snapshot, &newest("usual")) <= 25);
    // One planner knows both, whatever it is asked first.
    for states in [["urgent", "usual"], ["usual", "urgent"]] {
        let planner = Planner::new();
        for state in states {
            let query = resolve(&newest(state), &snapshot);
            assert_eq!(planner.hydrate(&query, &snapshot).unwrap().nodes[0].len(), 20);
            let index = if state == "urgent" { "ticket_state" } else { "ticket_modified" };
            let report = planner.report(&Subject::replica(&snapshot), &newest(state), &Options::default()).unwrap();
            assert_eq!(report.nodes[0].plan.as_ref().unwrap().access.as_ref().unwrap().indexes, [index], "{state}");
        }
    }
}

#[test]
fn a_column_without_an_index_is_sampled() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = tickets(&directory.path().join("replica.db")).pin().unwrap();
    let with_kind =
        |kind: &str| from("event").filter(exists("ticket", "id", from("ticket").filter(equal("kind", kind))));
    // Few tickets are odd: their events are looked up. Most are usual: both tables are read.
    let (odd, usual) = (visited(&snapshot, &with_kind("odd")), visited(&snapshot, &with_kind("usual")));
    assert!(odd < ROWS as u64 + 200, "{odd}");
    let planner = Planner::new();
    assert!(explain(&planner, &snapshot, &with_kind("odd")).contains("Lookup by ticket"));
    let plan = explain(&planner, &snapshot, &with_kind("usual"));
    assert!(!plan.lines().nth(1).unwrap().contains("Lookup"), "{plan}");
    assert!(usual < 6 * ROWS as u64, "{usual}");
}

#[test]
fn statistics_with_values_flip_a_plan_too() {
    let directory = tempfile::tempdir().unwrap();
    let replica = tickets(&directory.path().join("replica.db"));
    for values in [false, true] {
        let text = Statistics::read(&replica, values).unwrap().to_text();
        assert_eq!(text.contains("urgent") || text.contains("usual"), values);
        let subject = Subject::statistics(Statistics::parse(&text).unwrap()).unwrap();
        let report = Planner::new().report(&subject, &newest("urgent"), &Options::default()).unwrap();
        let index = if values { "ticket_state" } else { "ticket_modified" };
        assert_eq!(report.nodes[0].plan.as_ref().unwrap().access.as_ref().unwrap().indexes, [index]);
    }
}

/// Makes all tickets from `from` on urgent.
fn make_urgent(writer: &mut Writer, version: &str, from: i64) {
    let mut tx = writer.begin(version).unwrap();
    let ticket = tx.relation("ticket", &["id", "state"], &["id"]).unwrap();
    for id in from..ROWS {
        tx.update(&ticket, None, &[Some(int(id)), Some(text("urgent"))]).unwrap();
    }
    tx.commit().unwrap();
}

#[test]
fn statistics_age_and_are_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let replica = tickets(&directory.path().join("replica.db"));
    let mut writer = replica.writer().unwrap();
    let planner = Planner::new();
    let index = |snapshot: &Arc<Snapshot>| {
        let report = planner.report(&Subject::replica(snapshot), &newest("urgent"), &Options::default()).unwrap();
        report.nodes[0].plan.as_ref().unwrap().access.as_ref().unwrap().indexes.concat()
    };
    let before = replica.pin().unwrap();
    assert_eq!(index(&before), "ticket_state");
    // A change of few rows is no reason to look again.
    make_urgent(&mut writer, "02", ROWS - 500);
    assert!(!writer.tend_statistics());
    let few = replica.pin().unwrap();
    assert_eq!(few.statistics(), before.statistics());
    // Half of them are.
    make_urgent(&mut writer, "03", ROWS / 2);
    assert_eq!(index(&replica.pin().unwrap()), "ticket_state");
    while writer.tend_statistics() {}
    let after = replica.pin().unwrap();
    assert!(after.statistics() > before.statistics());
    assert_eq!(index(&after), "ticket_modified");
    assert!(visited(&after, &newest("urgent")) < 100);
}
