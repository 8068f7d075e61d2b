//! What a commit costs the running queries.
//!
//! Two questions: whether the cost of a change depends on how many queries are registered, and whether a query that many
//! groups share is evaluated once. The replica is real, and so is every commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use engine::catalogue::Catalogue;
use engine::graph::ReplicaRead;
use planner::Planner;
use views::Mailbox;

use crate::measure::{median, resident_mb};
use crate::report::{Cell, Report, Section};
use crate::tracker;
use crate::world::{ISSUES, World, answer, feed, newest, page, start_views, subscribe};

/// Numbers of registered queries.
const REGISTERED: [i64; 4] = [1, 100, 10_000, 100_000];

/// Commits of each kind.
const ROUNDS: i64 = 500;

/// How much dearer a change may be with the most queries than with one.
const GROWTH_TARGET: f64 = 2.0;

/// Groups that share a feed.
const GROUPS: usize = 1_000;

/// All questions.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    registered(report)?;
    shared(report)
}

// ---- by registered queries -----------------------------------------------------------------------------

/// A kind of change of one comment that one of the queries shows.
#[derive(Clone, Copy)]
enum Kind {
    Edit,
    Delete,
    Insert,
}

/// What changes took: the writing, the graphs on one page, the graphs on any, and both on any.
#[derive(Default)]
struct Times {
    writes: Vec<Duration>,
    same: Vec<Duration>,
    any: Vec<Duration>,
    changes: Vec<Duration>,
}

fn registered(report: &mut Report) -> Result<()> {
    let mut world = World::new()?;
    // Comments that are changed, each on a page: the generator tells which.
    let comment_on: Vec<Option<i64>> = comments_by_issue();
    let mut catalogue = Catalogue::default();
    let planner = Planner::new();
    let mut section = Section::new(
        "registered",
        "One change, by registered queries: of a comment that one of them shows",
        &[
            "change",
            "registered",
            "write",
            "graphs, same page",
            "graphs, any page",
            "both",
            "growth",
            "at most",
            "memory",
        ],
    );
    section.chart(&["write", "graphs, same page", "graphs, any page"]);
    let mut next = 0;
    let mut first = [f64::NAN; 3];
    for target in REGISTERED {
        let snapshot = world.pin()?;
        while next < target {
            let query = tracker::resolve(&page(next), &snapshot)?;
            catalogue.insert(answer(&planner, &query, &snapshot)?.0);
            next += 1;
        }
        drop(snapshot);
        let shown: Vec<(i64, i64)> =
            (0..target).filter_map(|issue| Some((comment_on[issue as usize]?, issue))).collect();
        ensure!(!shown.is_empty(), "some page has a comment");
        let mut times: [Times; 3] = Default::default();
        for round in 0..2 * ROUNDS as usize {
            let of_any = round % 2 == 1;
            let (comment, issue) = shown[if of_any { (round * 7_919) % shown.len() } else { 0 }];
            for kind in [Kind::Edit, Kind::Delete, Kind::Insert] {
                let start = Instant::now();
                let commit = match kind {
                    Kind::Edit => world.edit_comment(comment, issue)?,
                    Kind::Delete => world.delete_comment(comment)?,
                    Kind::Insert => world.insert_comment(comment, issue)?,
                };
                let written = start.elapsed();
                let begin = Instant::now();
                let mut read = ReplicaRead::new(world.pin()?.reader()?);
                let advanced = catalogue.commit(&commit, &mut read);
                drop(read);
                let taken = begin.elapsed();
                ensure!(matches!(&advanced[..], [(_, Ok(_))]), "one query is affected, not {}", advanced.len());
                let times = &mut times[kind as usize];
                times.writes.push(written);
                if of_any {
                    times.any.push(taken);
                    times.changes.push(written + taken);
                } else {
                    times.same.push(taken);
                }
            }
        }
        for ((kind, mut times), first) in ["edit", "delete", "insert"].into_iter().zip(times).zip(&mut first) {
            let change = median(&mut times.changes);
            if first.is_nan() {
                *first = change;
            }
            let growth = change / *first;
            section.row(vec![
                Cell::text(&format!("{kind}, {target} registered")),
                Cell::count(target as usize),
                Cell::micros(median(&mut times.writes)),
                Cell::micros(median(&mut times.same)),
                Cell::micros(median(&mut times.any)),
                Cell::micros(change),
                Cell::ratio(growth).held(growth < GROWTH_TARGET),
                Cell::ratio(GROWTH_TARGET),
                Cell::megabytes(resident_mb("VmRSS")),
            ]);
        }
    }
    section.note(
        "`write` is the replica's transaction; the time of the graphs begins with pinning the version that it made; `both` is \
         the two on any page. `same page` is changed again and again; `any page` also pays for what the processor's caches no \
         longer hold.",
    );
    report.add(section);
    Ok(())
}

/// The first comment on each issue, if it has one.
fn comments_by_issue() -> Vec<Option<i64>> {
    let mut first = vec![None; ISSUES as usize];
    for comment in (0..tracker::rows("comment", ISSUES)).rev() {
        first[tracker::pick(comment, 11, ISSUES) as usize] = Some(comment);
    }
    first
}

// ---- shared --------------------------------------------------------------------------------------------

fn shared(report: &mut Report) -> Result<()> {
    let mut world = World::new()?;
    let query = tracker::resolve(&feed(), &*world.pin()?)?;
    let mut section = Section::new(
        "shared",
        "One feed of 50 issues shared by client groups: an edit of one of them, until the last group has it",
        &["groups", "graphs", "commit to last mailbox", "evaluations a commit", "for each further group"],
    );
    let mut one = f64::NAN;
    for groups in [1, GROUPS] {
        let views = start_views(&world.replica)?;
        let mailboxes = subscribe(&views, &query, groups)?;
        let newest = newest(&world.replica)?;
        let before = views.metrics().evaluations;
        let mut times = Vec::new();
        let rounds = 100;
        for round in 0..rounds {
            let issue = newest[round % newest.len()];
            let mut row = tracker::issue(issue, ISSUES);
            row[1] = tracker::text(format!("edited {round}"));
            let commit = Arc::new(world.write("issue", std::iter::once(row), true)?);
            let start = Instant::now();
            views.committed(commit)?;
            // Mailboxes are posted to in no particular order.
            let mut waiting: Vec<&Mailbox> = mailboxes.iter().collect();
            while !waiting.is_empty() {
                waiting.retain(|mailbox| mailbox.try_recv().is_none());
                ensure!(start.elapsed() < Duration::from_secs(10), "every group hears of the commit");
            }
            times.push(start.elapsed());
        }
        let metrics = views.metrics();
        let evaluations = (metrics.evaluations - before) as f64 / rounds as f64;
        let time = median(&mut times);
        let further = if groups == 1 { f64::NAN } else { (time - one) / (groups - 1) as f64 };
        if groups == 1 {
            one = time;
        }
        section.row(vec![
            Cell::count(groups),
            Cell::count(metrics.graphs),
            Cell::micros(time),
            Cell::ratio(evaluations).held(evaluations <= 1.0),
            if further.is_nan() { Cell::text("") } else { Cell::micros(further) },
        ]);
    }
    report.add(section);
    Ok(())
}
