//! Large commits: taking one against answering the query anew.
//!
//! Every query takes the same commits, of several sizes, and both ways take turns to be first, so that neither finds
//! the caches warmed by the other. What a commit costs includes telling the difference when the query is hydrated again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use engine::catalogue::{Catalogue, GraphId};
use engine::commit::Commit;
use engine::graph::{AdvanceError, ReplicaRead};
use engine::query::Query;
use engine::replica::{Snapshot, SqliteValue};
use planner::Planner;
use serde_json::{Value, json};

use crate::measure::median;
use crate::report::{Cell, Report, Section};
use crate::tracker::{self, exists, labelled, related, simple};
use crate::world::{ISSUES, World, answer, feed, page};

/// Rows of the commits.
const SIZES: [i64; 4] = [1_000, 10_000, 50_000, 100_000];

/// Commits of each size.
const ROUNDS: i64 = 7;

/// How much dearer than answering anew a large commit may be.
const TARGET: f64 = 1.2;

/// A query that takes the commits, and what they took.
struct Running {
    name: &'static str,
    query: Arc<Query>,
    catalogue: Catalogue,
    id: GraphId,
    rows: usize,
    /// How often a commit was advanced over, and how often the query was hydrated again.
    how: [usize; 2],
    anew: Vec<Duration>,
    taken: Vec<Duration>,
}

impl Running {
    fn start(name: &'static str, ast: &Value, planner: &Planner, snapshot: &Arc<Snapshot>) -> Result<Running> {
        let query = tracker::resolve(ast, snapshot)?;
        let mut catalogue = Catalogue::default();
        let id = catalogue.insert(answer(planner, &query, snapshot)?.0);
        Ok(Running { name, query, catalogue, id, rows: 0, how: [0; 2], anew: Vec::new(), taken: Vec::new() })
    }

    fn answer_anew(&mut self, planner: &Planner, snapshot: &Arc<Snapshot>) -> Result<()> {
        // As when a commit is taken: the sequencer holds a reader while others hydrate.
        let _held = snapshot.reader()?;
        let start = Instant::now();
        let (fresh, told) = answer(planner, &self.query, snapshot)?;
        self.anew.push(start.elapsed());
        self.rows = told.len();
        drop(fresh);
        Ok(())
    }

    fn take(&mut self, planner: &Planner, snapshot: &Arc<Snapshot>, commit: &Commit) -> Result<()> {
        let mut read = ReplicaRead::new(snapshot.reader()?);
        let start = Instant::now();
        let advanced = self.catalogue.commit(commit, &mut read);
        let mut told = None;
        match advanced.first() {
            None => {}
            Some((_, Ok(_))) => self.how[0] += 1,
            Some((_, Err(AdvanceError::HydrateInstead))) => {
                let (next, rows) = answer(planner, &self.query, snapshot)?;
                told = Some(self.catalogue.replace(self.id, next, rows, None)?);
                self.how[1] += 1;
            }
            Some((_, Err(error))) => bail!("{error}"),
        }
        self.taken.push(start.elapsed());
        drop((advanced, told));
        Ok(())
    }
}

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let mut section = Section::new(
        "large",
        &format!("Commits that edit many of {ISSUES} issues, against answering the query anew"),
        &["query", "rows", "edited", "answer anew", "commit", "ratio", "at most", "how"],
    );
    section.chart(&["answer anew", "commit"]);
    let open = json!({"table": "issue", "where": simple("open", "=", true)});
    let mut discussed = json!({"table": "issue", "where": exists("id", "issue_id", json!({"table": "comment"}))});
    discussed["related"] = json!([related("creator", "creator_id", "id", json!({"table": "user"}))]);
    let rare = json!({"table": "issue", "where": labelled("issue_label_indexed", simple("name", "=", "rare"))});
    let mut of_users = json!({"table": "user"});
    let last_issues = json!({"table": "issue", "orderBy": [["modified", "desc"], ["id", "asc"]], "limit": 3});
    of_users["related"] = json!([related("issues", "id", "creator_id", last_issues)]);
    let queries = [
        ("every issue", json!({"table": "issue"})),
        ("open issues", open),
        ("issues with a comment, and their creators", discussed),
        ("1 of 100 by a junction", rare),
        ("users with their newest 3 issues", of_users),
        ("newest 50 with their creators", feed()),
        ("comments of one issue with their authors", page(7)),
    ];
    let mut world = World::new()?;
    let planner = Planner::new();
    let snapshot = world.pin()?;
    let running = queries.iter().map(|(name, ast)| Running::start(name, ast, &planner, &snapshot));
    let mut running: Vec<Running> = running.collect::<Result<_>>()?;
    drop(snapshot);
    for size in SIZES {
        for round in 0..ROUNDS {
            let edited = (0..size).map(|number| {
                let issue = number * (ISSUES / size);
                let mut row = tracker::issue(issue, ISSUES);
                row[1] = tracker::text(format!("edited {size} {round}"));
                row[3] = SqliteValue::Integer(i64::from((issue + round) % 3 == 0));
                row
            });
            let commit = world.write("issue", edited, true)?;
            let snapshot = world.pin()?;
            for query in &mut running {
                if round % 2 == 0 {
                    query.answer_anew(&planner, &snapshot)?;
                    query.take(&planner, &snapshot, &commit)?;
                } else {
                    query.take(&planner, &snapshot, &commit)?;
                    query.answer_anew(&planner, &snapshot)?;
                }
            }
        }
        for query in &mut running {
            let (mut anew, mut taken) = (std::mem::take(&mut query.anew), std::mem::take(&mut query.taken));
            let (anew, taken) = (median(&mut anew), median(&mut taken));
            let ratio = taken / anew;
            let how = match std::mem::take(&mut query.how) {
                [0, 0] => "not affected".to_owned(),
                [_, 0] => "advanced".to_owned(),
                [0, _] => "hydrated".to_owned(),
                [advanced, hydrated] => format!("advanced {advanced}, hydrated {hydrated}"),
            };
            section.row(vec![
                Cell::text(query.name),
                Cell::count(query.rows),
                Cell::count(size as usize),
                Cell::micros(anew),
                Cell::micros(taken),
                Cell::ratio(ratio).held(ratio <= TARGET),
                Cell::ratio(TARGET),
                Cell::text(&how),
            ]);
        }
    }
    report.add(section);
    Ok(())
}
