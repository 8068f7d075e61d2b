//! Random queries of many groups over a random stream of commits. At every event, all answers of the group
//! must be right at the event's version.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use engine::commit::Version;
use engine::query::Query;
use parking_lot::{Condvar, Mutex};
use testdata::world::{ISSUES, MUSIC, QueryGenerator, Rng, apply_to_replica, create_replica, fill, transaction};
use views::{Options, Views};
use zql_spec::ast::Ast;
use zql_spec::naive::{Database, Evaluation, NodeRole, Row};

use super::group::Group;
use super::hydrator::Nested;

const QUERIES: usize = 10;
const GROUPS: usize = 5;
const TRANSACTIONS: usize = 60;

/// Counts commits; hydrations can wait for some.
#[derive(Default)]
struct Progress {
    commits: Mutex<usize>,
    moved: Condvar,
    over: AtomicBool,
}

impl Progress {
    fn step(&self) {
        *self.commits.lock() += 1;
        self.moved.notify_all();
    }

    fn finish(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.step();
    }

    fn wait_for_more(&self, more: usize) {
        let mut commits = self.commits.lock();
        let until = *commits + more;
        while *commits < until && !self.over.load(Ordering::SeqCst) {
            self.moved.wait(&mut commits);
        }
    }
}

/// How many nodes hold a row, by table and row.
type Counts = BTreeMap<(Arc<str>, Row), u32>;

/// What queries must answer at every version.
struct Oracle {
    history: Mutex<BTreeMap<Version, Arc<Database>>>,
    schema: Arc<zql_spec::schema::Schema>,
    asts: Vec<Ast>,
}

impl Oracle {
    fn check(&self, group: &Group) {
        if group.answers.is_empty() {
            return;
        }
        let database = Arc::clone(&self.history.lock()[&group.version]);
        for (name, answer) in &group.answers {
            let place: usize = name.split('#').next().unwrap().parse().unwrap();
            let at = || format!("query {place} at {} ({:?})", group.version, self.asts[place]);
            let evaluation = Evaluation::over(&database, &self.schema, &self.asts[place]).unwrap();
            let (firm, soft) = self.expected(&evaluation);
            for ((table, row), count) in &firm {
                let key = self.key(table, row);
                let held = answer.get(&(Arc::clone(table), key)).map_or(0, |(count, _)| *count);
                let right = if soft.contains(table) { held >= *count } else { held == *count };
                assert!(right, "{}: {table} {row:?} is held {held} times instead of {count}", at());
            }
            for ((table, key), (_, held)) in answer {
                let row: Row = held.values.iter().cloned().collect();
                assert_eq!(self.key(table, &row), *key, "{}", at());
                let expected = firm.contains_key(&(Arc::clone(table), Arc::clone(&row)));
                let stored = || database.rows(table).find(|other| self.key(table, other) == *key).cloned();
                assert!(
                    expected || soft.contains(table),
                    "{}: {table} {row:?} is not in the answer; the database has {:?}",
                    at(),
                    stored()
                );
                assert!(stored() == Some(Arc::clone(&row)), "{}: {table} {row:?} is {:?}", at(), stored());
            }
        }
    }

    fn key(&self, table: &str, row: &Row) -> engine::commit::Key {
        let table = self.schema.table(table).unwrap();
        table.primary_key.iter().map(|&column| row[column].clone()).collect()
    }

    /// Rows of the root and its related nodes with their counts, and the tables of which any rows may be held
    /// besides: witnesses may be chosen freely.
    fn expected(&self, evaluation: &Evaluation<'_>) -> (Counts, BTreeSet<Arc<str>>) {
        let mut counts = BTreeMap::new();
        let mut soft = BTreeSet::new();
        let mut nodes: Vec<Option<BTreeSet<Row>>> = Vec::new();
        for (id, node) in evaluation.nodes.iter().enumerate() {
            let parents = node.parent.map(|(parent, _)| &nodes[parent]);
            let firm = node.role != NodeRole::Exists && !matches!(parents, Some(None));
            if !firm {
                if node.synced {
                    soft.insert(Arc::clone(&node.table.name));
                }
                nodes.push(None);
                continue;
            }
            let rows: BTreeSet<Row> = match parents {
                Some(Some(parents)) => parents.iter().flat_map(|row| evaluation.rows(id, Some(row))).collect(),
                _ => evaluation.rows(id, None).into_iter().collect(),
            };
            if node.synced {
                for row in &rows {
                    *counts.entry((Arc::clone(&node.table.name), Arc::clone(row))).or_default() += 1;
                }
            }
            nodes.push(Some(rows));
        }
        (counts, soft)
    }
}

fn run(seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(seed);
    let data = if seed.is_multiple_of(2) { &ISSUES } else { &MUSIC };
    let mut database = fill(data, &mut rng);
    let replica = create_replica(data, &database, &folder.path().join("replica.db")).unwrap();
    let schema = replica.schema();
    let asts: Vec<Ast> = {
        let mut generator = QueryGenerator::new(data, &database, rng.fork());
        (0..QUERIES).map(|_| generator.query()).collect()
    };
    let queries: Vec<Arc<Query>> = asts.iter().map(|ast| Arc::new(Query::resolve(ast, &schema).unwrap())).collect();
    let oracle = Oracle { history: Mutex::default(), schema, asts };
    oracle.history.lock().insert(replica.state().state_version, Arc::new(database.clone()));

    let progress = Arc::new(Progress::default());
    let hydrations = AtomicUsize::new(0);
    let late = Arc::clone(&progress);
    let hydrator = Nested {
        around: move |_: &Query, after: bool| {
            // Some hydrations end long after the version they read.
            if after && hydrations.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
                late.wait_for_more(4);
            }
            Ok(())
        },
    };
    let options =
        Options { hydration_threads: NonZeroUsize::new(3).unwrap(), linger: Duration::from_millis(20), late_rows: 0 };
    let views = Views::start(Arc::clone(&replica), Arc::new(hydrator), options).unwrap();
    let checks = AtomicUsize::new(0);

    std::thread::scope(|scope| {
        for number in 0..GROUPS {
            let (views, queries, oracle, progress, checks) = (&views, &queries, &oracle, &progress, &checks);
            let mut rng = rng.fork();
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    let mut group = Group::new(views);
                    let mut next = 0;
                    while !progress.over.load(Ordering::SeqCst) {
                        let names: Vec<Arc<str>> = group.answers.keys().chain(&group.pending).cloned().collect();
                        if names.len() < 4 {
                            let place = rng.below(queries.len());
                            next += 1;
                            group.subscribe(&format!("{place}#{next}"), &queries[place]);
                        } else if rng.percent(30) {
                            group.unsubscribe(&names[rng.below(names.len())]);
                        }
                        if rng.percent(20) {
                            group.mailbox.pin();
                        }
                        // Some groups read everything, some are slow and find much composed.
                        let events = if number % 2 == 0 { 8 } else { rng.below(2) };
                        for _ in 0..events {
                            let Some(event) = group.mailbox.try_recv() else { break };
                            group.apply(&event);
                            oracle.check(&group);
                            checks.fetch_add(1, Ordering::Relaxed);
                        }
                        progress.wait_for_more(1);
                    }
                    // Its answer comes after all that was committed before it was asked for.
                    group.subscribe("0#last", &queries[0]);
                    group.settle().await;
                    oracle.check(&group);
                    let newest = oracle.history.lock().keys().next_back().cloned();
                    assert_eq!(Some(&group.version), newest.as_ref());
                });
            });
        }
        let mut writer = replica.writer().unwrap();
        for step in 0..TRANSACTIONS {
            let transaction = transaction(data, &database, &mut rng);
            database.apply(&transaction);
            let version = format!("1{step:05}");
            oracle.history.lock().insert(Arc::from(&*version), Arc::new(database.clone()));
            let commit = apply_to_replica(data, &mut writer, &version, &transaction).unwrap();
            views.committed(Arc::new(commit)).unwrap();
            progress.step();
            // The other threads of a busy machine get their turn.
            std::thread::yield_now();
        }
        progress.finish();
    });
    println!("seed {seed}: {} checks", checks.load(Ordering::Relaxed));
}

/// `SEEDS=100` runs more worlds.
#[test]
fn groups_are_right_at_every_event() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(6);
    for seed in 1..=seeds {
        run(seed);
    }
}
