//! Views under load against the naive evaluator: mailboxes come and go on queries while transactions commit,
//! hydrations are late at random, and after every event a mailbox's answers must be right at its version.
//!
//! `WORLD=<seed>` runs one world, `FIRST=<seed> WORLDS=<n>` that many from there.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use engine::commit::Version;
use engine::hydration::{Hydrate, HydrateError, Hydration};
use engine::query::Query;
use engine::replica::Snapshot;
use parking_lot::Mutex;
use testdata::world::oracle::View;
use testdata::world::{
    ISSUES, MUSIC, QueryGenerator, Rng, SqlHydrator, apply_to_replica, create_replica, fill, transaction,
};
use views::{Event, Mailbox, Options, Views};
use zql_spec::ast::Ast;
use zql_spec::naive::{Database, Evaluation};

/// Hydrates after a random delay, so that commits overtake hydrations.
struct Late(AtomicU64);

impl Hydrate<Snapshot> for Late {
    fn hydrate(&self, query: &Arc<Query>, snapshot: &Arc<Snapshot>) -> Result<Hydration, HydrateError> {
        let mut rng = Rng::new(self.0.fetch_add(1, Ordering::Relaxed));
        let hydration = SqlHydrator.hydrate(query, snapshot);
        if rng.percent(30) {
            (0..rng.below(150)).for_each(|_| std::thread::yield_now());
        }
        hydration
    }
}

/// The databases by the version at which the replica is like them.
type History = Mutex<BTreeMap<Version, Arc<Database>>>;

struct Subscriber<'a> {
    mailbox: Mailbox,
    queries: &'a [(Ast, Arc<Query>)],
    history: &'a History,
    /// Answers by subscription; the name begins with the query's number.
    answers: BTreeMap<Arc<str>, View>,
    version: Option<Version>,
    events: usize,
    rows: usize,
    trace: Vec<String>,
}

fn number(name: &str) -> Option<usize> {
    name.split('-').next()?.parse().ok()
}

impl Subscriber<'_> {
    fn handle(&mut self, event: Event) {
        self.events += 1;
        self.trace.push(match &event {
            Event::Hydrated { query_id, version, rows } => {
                format!("{query_id} hydrated at {version} with {}", rows.len())
            }
            Event::Advanced { version, deltas } => format!("advanced to {version}: {deltas:?}"),
            other => format!("{other:?}"),
        });
        let version = match event {
            Event::Hydrated { query_id, version, rows } => {
                self.rows += rows.len();
                let view = View::new(rows.to_vec()).unwrap_or_else(|error| panic!("{query_id}: {error}"));
                self.answers.insert(query_id, view);
                version
            }
            Event::Advanced { version, deltas } => {
                assert!(self.version.as_ref().is_none_or(|before| *before < version), "{:?} {version}", self.version);
                assert!(!deltas.is_empty());
                for (query_id, delta) in deltas {
                    let view = self.answers.get_mut(&query_id).unwrap_or_else(|| panic!("{query_id} has no answer"));
                    view.apply(&delta, true).unwrap_or_else(|error| panic!("{query_id}: {error}"));
                    self.rows += delta.changes.len();
                }
                version
            }
            other => panic!("{other:?}"),
        };
        assert!(self.version.as_ref().is_none_or(|before| *before <= version), "{:?} {version}", self.version);
        self.version = Some(Arc::clone(&version));
        let database = Arc::clone(&self.history.lock()[&version]);
        for (name, view) in &self.answers {
            let Some((ast, _)) = number(name).and_then(|number| self.queries.get(number)) else { continue };
            let evaluation = Evaluation::new(&database, ast).expect("generated queries are valid");
            view.check_alone(&evaluation).unwrap_or_else(|error| {
                let trace: Vec<&String> = self.trace.iter().filter(|line| line.contains(&**name)).collect();
                let last = &self.trace[self.trace.len().saturating_sub(4)..];
                panic!(
                    "subscription {name} at {version}: {error}\n{}\n{trace:#?}\nlast events {last:#?}",
                    ast.to_json()
                );
            });
        }
    }

    /// Reads until the version is reached, however quiet it is: a query that is new has to say it.
    async fn read_to(&mut self, version: &Version, root: &Arc<Query>, names: &[Arc<str>]) {
        self.mailbox.subscribe("end".into(), Arc::clone(root));
        let answered = |subscriber: &Self| {
            let named = |name: &Arc<str>| subscriber.answers.contains_key(name);
            named(&"end".into()) && names.iter().all(named) && subscriber.version.as_ref() == Some(version)
        };
        while !answered(self) {
            let event = self.mailbox.recv().await;
            self.handle(event);
        }
    }
}

fn world(seed: u64) -> (usize, usize) {
    const QUERIES: usize = 24;
    const MAILBOXES: u64 = 3;
    const TRANSACTIONS: usize = 60;
    let mut rng = Rng::new(seed);
    let data = if seed.is_multiple_of(2) { &ISSUES } else { &MUSIC };
    let mut database = fill(data, &mut rng);
    let folder = tempfile::tempdir().expect("a folder");
    let replica = create_replica(data, &database, &folder.path().join("replica.db")).expect("a replica");
    let schema = replica.schema();
    let queries: Vec<(Ast, Arc<Query>)> = {
        let mut generator = QueryGenerator::new(data, &database, rng.fork());
        let query = |_| {
            let ast = generator.query();
            let query = Arc::new(Query::resolve(&ast, &schema).expect("generated queries are valid"));
            (ast, query)
        };
        (0..QUERIES).map(query).collect()
    };
    let root = Ast { table: data.tables[0].name.into(), ..Ast::default() };
    let root = Arc::new(Query::resolve(&root, &schema).expect("a table"));
    let first = replica.state().state_version;
    let history: History = Mutex::new(BTreeMap::from([(first, Arc::new(database.clone()))]));
    let options = Options {
        hydration_threads: NonZeroUsize::new(2).expect("two"),
        linger: if seed.is_multiple_of(3) { Duration::ZERO } else { Duration::from_secs(5) },
        late_rows: seed as usize % 40,
    };
    let views = Views::start(Arc::clone(&replica), Arc::new(Late(AtomicU64::new(seed))), options).expect("threads");
    let ended = AtomicBool::new(false);
    let last: Mutex<Option<Version>> = Mutex::new(None);
    std::thread::scope(|scope| {
        let subscribers: Vec<_> = (0..MAILBOXES)
            .map(|mailbox| {
                let (queries, history, views, ended, last, root) =
                    (&queries[..], &history, &views, &ended, &last, &root);
                let mut rng = Rng::new(seed * 31 + mailbox);
                scope.spawn(move || {
                    let mut subscriber = Subscriber {
                        mailbox: views.mailbox(),
                        queries,
                        history,
                        answers: BTreeMap::new(),
                        version: None,
                        events: 0,
                        rows: 0,
                        trace: Vec::new(),
                    };
                    let mut names: Vec<Arc<str>> = Vec::new();
                    let mut next = 0;
                    while !ended.load(Ordering::Acquire) {
                        match rng.below(10) {
                            0 if names.len() < 8 => {
                                let query = rng.below(queries.len());
                                // A name is sometimes used again, which replaces the subscription.
                                let name: Arc<str> = match names.iter().find(|name| number(name) == Some(query)) {
                                    Some(name) => Arc::clone(name),
                                    None => format!("{query}-{next}").into(),
                                };
                                next += 1;
                                subscriber.answers.remove(&name);
                                subscriber.mailbox.subscribe(Arc::clone(&name), Arc::clone(&queries[query].1));
                                if !names.contains(&name) {
                                    names.push(name);
                                }
                            }
                            1 if !names.is_empty() && rng.percent(40) => {
                                let name = names.swap_remove(rng.below(names.len()));
                                subscriber.mailbox.unsubscribe(&name);
                                subscriber.answers.remove(&name);
                            }
                            _ => match subscriber.mailbox.try_recv() {
                                Some(event) => subscriber.handle(event),
                                None => std::thread::yield_now(),
                            },
                        }
                    }
                    let last = last.lock().clone().expect("the writer said how far it went");
                    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
                    runtime.block_on(subscriber.read_to(&last, root, &names));
                    (subscriber.events, subscriber.rows)
                })
            })
            .collect();
        let mut writer = replica.writer().expect("the writer");
        for step in 0..TRANSACTIONS {
            let changes = transaction(data, &database, &mut rng);
            database.apply(&changes);
            let version = format!("{:03}", step + 100);
            let commit = apply_to_replica(data, &mut writer, &version, &changes).expect("a commit");
            history.lock().insert(Arc::clone(&commit.version), Arc::new(database.clone()));
            *last.lock() = Some(Arc::clone(&commit.version));
            views.committed(Arc::new(commit)).expect("a pin");
            (0..rng.below(12)).for_each(|_| std::thread::yield_now());
        }
        ended.store(true, Ordering::Release);
        let joined = subscribers
            .into_iter()
            .map(|subscriber| subscriber.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.fold((0, 0), |(events, rows), (more_events, more_rows)| (events + more_events, rows + more_rows))
    })
}

#[test]
fn mailboxes_tell_the_truth() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("WORLD") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("FIRST").unwrap_or(0);
            first..first + number("WORLDS").unwrap_or(6)
        }
    };
    let (mut events, mut rows) = (0, 0);
    for seed in seeds {
        println!("seed {seed}");
        let (more_events, more_rows) = world(seed);
        events += more_events;
        rows += more_rows;
    }
    println!("{events} events, {rows} rows");
    assert!(events > 0 && rows > 0);
}
