//! What a commit costs the running queries.
//!
//! Four questions: whether the cost of a change depends on how many queries are registered; whether a query that many
//! groups share is evaluated once; whether a large commit is dearer than answering anew; and whether commits that wait are
//! taken together. The replica is real, and so is every commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use engine::catalogue::Catalogue;
use engine::commit::Commit;
use engine::graph::{AdvanceError, AnswerBuilder, AnswerRow, Graph, GraphBuilder, ReplicaRead};
use engine::hydration::Hydrate;
use engine::query::Query;
use engine::replica::{Replica, Snapshot, SqliteValue, Writer};
use planner::Planner;
use serde_json::{Value, json};
use views::{Event, Mailbox, Options, Views};

use crate::measure::{median, resident_mb};
use crate::report::{Cell, Report, Section};
use crate::tracker::{self, TABLES, exists, labelled, related, simple};

const ISSUES: i64 = 100_000;

/// Numbers of registered queries.
const REGISTERED: [i64; 4] = [1, 100, 10_000, 100_000];

/// Commits of each kind.
const ROUNDS: i64 = 500;

/// How much dearer a change may be with the most queries than with one.
const GROWTH_TARGET: f64 = 2.0;

/// Groups that share a feed.
const GROUPS: usize = 1_000;

/// Rows of a large commit.
const LARGE: i64 = 100_000;

/// How much dearer than answering anew a large commit may be.
const LARGE_TARGET: f64 = 1.2;

/// Commits of a burst.
const BURST: i64 = 1_000;

/// A replica that is written to.
struct World {
    replica: Arc<Replica>,
    writer: Writer,
    version: i64,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Result<World> {
        let folder = tempfile::tempdir()?;
        let replica = tracker::load(&folder.path().join("replica.db"), ISSUES)?;
        let writer = replica.writer()?;
        Ok(World { replica, writer, version: 0, _folder: folder })
    }

    /// Writes rows in one transaction: updates of rows that are there, inserts of others.
    fn write(&mut self, table: &str, rows: impl Iterator<Item = Vec<SqliteValue>>, update: bool) -> Result<Commit> {
        self.version += 1;
        let (_, columns, _) = TABLES.iter().find(|(name, ..)| *name == table).context("a table of the tracker")?;
        let columns: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let mut tx = self.writer.begin(&format!("1{:08}", self.version))?;
        let relation = tx.relation(table, &columns, &["id"])?;
        for row in rows {
            if update {
                tx.update(&relation, None, &row.into_iter().map(Some).collect::<Vec<_>>())?;
            } else {
                tx.insert(&relation, &row)?;
            }
        }
        Ok(tx.commit()?)
    }

    /// Edits one comment so that its text changes.
    fn edit_comment(&mut self, comment: i64, issue: i64) -> Result<Commit> {
        let mut row = tracker::comment(comment, issue);
        row[3] = tracker::text(format!("edited {}", self.version));
        self.write("comment", std::iter::once(row), true)
    }

    fn pin(&self) -> Result<Arc<Snapshot>> {
        Ok(self.replica.pin()?)
    }
}

/// The comments of an issue with their authors: a query of its own for each issue.
fn page(issue: i64) -> Value {
    let mut ast = json!({"table": "comment", "where": simple("issue_id", "=", format!("i{issue}"))});
    ast["related"] = json!([related("creator", "creator_id", "id", json!({"table": "user"}))]);
    ast
}

/// The newest issues with their creators.
fn feed() -> Value {
    let mut ast = json!({"table": "issue", "orderBy": [["modified", "desc"], ["id", "asc"]], "limit": 50});
    ast["related"] = json!([related("creator", "creator_id", "id", json!({"table": "user"}))]);
    ast
}

/// Answers a query as the server does: the state that keeps the answer current, and the rows to tell.
fn answer(planner: &Planner, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> Result<(Graph, Vec<AnswerRow>)> {
    let begin = Instant::now();
    let mut graph = GraphBuilder::new(Arc::clone(query));
    let mut answer = AnswerBuilder::new(Arc::clone(query));
    planner.stream(query, snapshot, &mut |node, row| {
        if graph.row(node, &row) {
            answer.row(node, &row);
        }
    })?;
    let mut graph = graph.finish(Arc::clone(&snapshot.version));
    graph.set_hydration_time(begin.elapsed());
    Ok((graph, answer.finish()))
}

/// All questions.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    registered(report)?;
    shared(report)?;
    large(report)?;
    burst(report)
}

// ---- by registered queries -----------------------------------------------------------------------------

fn registered(report: &mut Report) -> Result<()> {
    let mut world = World::new()?;
    // Comments that are edited, each on a page: the generator tells which.
    let comment_on: Vec<Option<i64>> = comments_by_issue();
    let mut catalogue = Catalogue::default();
    let planner = Planner::new();
    let mut section = Section::new(
        "registered",
        "One change, by registered queries: an edit of a comment that one of them shows",
        &["registered", "write", "graphs, same page", "graphs, any page", "change", "growth", "at most", "memory"],
    );
    section.chart(&["write", "graphs, same page", "graphs, any page"]);
    let mut next = 0;
    let mut first = f64::NAN;
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
        let (mut writes, mut same, mut any, mut changes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..2 * ROUNDS {
            let of_any = round % 2 == 1;
            let place = if of_any { (round as usize * 7_919) % shown.len() } else { 0 };
            let (comment, issue) = shown[place];
            let start = Instant::now();
            let commit = world.edit_comment(comment, issue)?;
            let written = start.elapsed();
            let mut read = ReplicaRead::new(world.pin()?.reader()?);
            let begin = Instant::now();
            let advanced = catalogue.commit(&commit, &mut read);
            let taken = begin.elapsed();
            ensure!(matches!(&advanced[..], [(_, Ok(_))]), "one query is affected, not {}", advanced.len());
            writes.push(written);
            if of_any {
                any.push(taken)
            } else {
                same.push(taken)
            }
            if of_any {
                changes.push(written + taken);
            }
        }
        let (same, any) = (median(&mut same), median(&mut any));
        let change = median(&mut changes);
        if first.is_nan() {
            first = change;
        }
        let growth = change / first;
        section.row(vec![
            Cell::count(target as usize),
            Cell::micros(median(&mut writes)),
            Cell::micros(same),
            Cell::micros(any),
            Cell::micros(change),
            Cell::ratio(growth).held(growth < GROWTH_TARGET),
            Cell::ratio(GROWTH_TARGET),
            Cell::megabytes(resident_mb("VmRSS")),
        ]);
    }
    section.note(
        "`write` is the replica's transaction, `change` that and the graphs on any page. `same page` is changed again and \
         again; `any page` also pays for what the processor's caches no longer hold.",
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

fn start_views(world: &World) -> Result<Views> {
    Ok(Views::start(Arc::clone(&world.replica), Arc::new(Planner::new()), Options::default())?)
}

fn subscribe(views: &Views, query: &Arc<Query>, groups: usize) -> Result<Vec<Mailbox>> {
    let mailboxes: Vec<Mailbox> = (0..groups).map(|_| views.mailbox()).collect();
    for mailbox in &mailboxes {
        mailbox.subscribe(Arc::from("q"), Arc::clone(query));
    }
    for mailbox in &mailboxes {
        match wait(mailbox)? {
            Event::Hydrated { .. } => {}
            other => bail!("expected an answer, not {other:?}"),
        }
    }
    Ok(mailboxes)
}

fn wait(mailbox: &Mailbox) -> Result<Event> {
    let deadline = Duration::from_secs(30);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async { tokio::time::timeout(deadline, mailbox.recv()).await }).context("an event comes in time")
}

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
        let views = start_views(&world)?;
        let mailboxes = subscribe(&views, &query, groups)?;
        let newest = newest(&world)?;
        let before = views.metrics().commits;
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
        let evaluations = (metrics.commits - before) as f64 * metrics.graphs as f64 / rounds as f64;
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

/// The newest issues.
fn newest(world: &World) -> Result<Vec<i64>> {
    let snapshot = world.pin()?;
    let reader = snapshot.reader()?;
    let mut statement = reader.prepare_cached("SELECT id FROM issue ORDER BY modified DESC, id LIMIT 50")?;
    let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
    ids.map(|id| Ok(id?[1..].parse()?)).collect()
}

// ---- large commits -------------------------------------------------------------------------------------

fn large(report: &mut Report) -> Result<()> {
    let mut section = Section::new(
        "large",
        &format!("A commit that edits {LARGE} issues, against answering the query anew"),
        &["query", "rows", "answer anew", "commit", "ratio", "at most", "how"],
    );
    section.chart(&["answer anew", "commit"]);
    let open = json!({"table": "issue", "where": simple("open", "=", true)});
    let mut discussed = json!({"table": "issue", "where": exists("id", "issue_id", json!({"table": "comment"}))});
    discussed["related"] = json!([related("creator", "creator_id", "id", json!({"table": "user"}))]);
    let rare = json!({"table": "issue", "where": labelled("issue_label_indexed", simple("name", "=", "rare"))});
    let queries = [
        ("every issue", json!({"table": "issue"})),
        ("open issues", open),
        ("issues with a comment, and their creators", discussed),
        ("1 of 100 by a junction", rare),
        ("newest 50 with their creators", feed()),
        ("comments of one issue with their authors", page(7)),
    ];
    let mut world = World::new()?;
    let planner = Planner::new();
    for (name, ast) in queries {
        let snapshot = world.pin()?;
        let query = tracker::resolve(&ast, &snapshot)?;
        let mut catalogue = Catalogue::default();
        let id = catalogue.insert(answer(&planner, &query, &snapshot)?.0);
        drop(snapshot);
        let (mut anew, mut taken, mut how, mut rows) = (Vec::new(), Vec::new(), "", 0);
        for round in 0..5 {
            let edited = (0..LARGE).map(|issue| {
                let mut row = tracker::issue(issue, ISSUES);
                row[1] = tracker::text(format!("edited {round}"));
                row[3] = SqliteValue::Integer(i64::from((issue + round) % 3 == 0));
                row
            });
            let commit = world.write("issue", edited, true)?;
            let snapshot = world.pin()?;
            let start = Instant::now();
            let (fresh, told) = answer(&planner, &query, &snapshot)?;
            anew.push(start.elapsed());
            rows = told.len();
            drop((fresh, told));
            let mut read = ReplicaRead::new(snapshot.reader()?);
            let start = Instant::now();
            let advanced = catalogue.commit(&commit, &mut read);
            let mut told = None;
            how = match advanced.first() {
                None => "not affected",
                Some((_, Ok(_))) => "advanced",
                Some((_, Err(AdvanceError::HydrateInstead))) => {
                    let (next, rows) = answer(&planner, &query, &snapshot)?;
                    told = Some(catalogue.replace(id, next, rows, None)?);
                    "hydrated"
                }
                Some((_, Err(error))) => bail!("{error}"),
            };
            taken.push(start.elapsed());
            drop((advanced, told));
        }
        let (anew, taken) = (median(&mut anew), median(&mut taken));
        let ratio = taken / anew;
        section.row(vec![
            Cell::text(name),
            Cell::count(rows),
            Cell::micros(anew),
            Cell::micros(taken),
            Cell::ratio(ratio).held(ratio <= LARGE_TARGET),
            Cell::ratio(LARGE_TARGET),
            Cell::text(how),
        ]);
    }
    report.add(section);
    Ok(())
}

// ---- bursts --------------------------------------------------------------------------------------------

fn burst(report: &mut Report) -> Result<()> {
    let mut world = World::new()?;
    let query = tracker::resolve(&feed(), &*world.pin()?)?;
    let newest = newest(&world)?;
    let views = start_views(&world)?;
    let mailboxes = subscribe(&views, &query, 1)?;
    let before = views.metrics().commits;
    let start = Instant::now();
    let mut last = None;
    for round in 0..BURST {
        let mut row = tracker::issue(newest[round as usize % newest.len()], ISSUES);
        row[1] = tracker::text(format!("burst {round}"));
        let commit = Arc::new(world.write("issue", std::iter::once(row), true)?);
        last = Some(Arc::clone(&commit.version));
        views.committed(commit)?;
    }
    let written = start.elapsed().as_secs_f64() * 1e6;
    let (mut events, mut rows) = (0, 0);
    loop {
        let Event::Advanced { version, deltas } = wait(&mailboxes[0])? else { bail!("an advance is expected") };
        events += 1;
        rows += deltas.iter().map(|(_, delta)| delta.changes.len()).sum::<usize>();
        if Some(&version) == last.as_ref() {
            break;
        }
    }
    let total = start.elapsed().as_secs_f64() * 1e6;
    let mut section = Section::new(
        "burst",
        &format!("{BURST} commits of one row, one after the other, and a group that reads when they are written"),
        &["commits", "steps of the graphs", "deltas read", "rows in them", "written in", "all read after"],
    );
    section.row(vec![
        Cell::count(BURST as usize),
        Cell::count((views.metrics().commits - before) as usize),
        Cell::count(events).held(events <= 10),
        Cell::count(rows),
        Cell::micros(written),
        Cell::micros(total),
    ]);
    report.add(section);
    Ok(())
}
