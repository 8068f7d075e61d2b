//! The differential test: every way to answer a query must agree with the naive evaluator, at the
//! beginning and after every transaction.
//!
//! A world is a database in a replica, many queries that run at once and a run of transactions. Queries
//! share the replica, since making one costs more than answering one. After each transaction the replica's
//! rows, the commit that it produced, every graph's state and what its clients were told are compared;
//! fresh hydrations are compared every few transactions. Half of the graphs run in a catalogue, which must
//! find the ones that a commit touches; of the others, some take several commits as one.

mod live;
mod moment;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use engine::hydration::Hydration;
use engine::query::Query;
use engine::replica::Snapshot;
use zql_spec::ast::Ast;
use zql_spec::naive::{Database, Transaction};

use self::live::{Live, World};
use self::moment::check_commit;
use super::case::Case;
use super::dataset::DataSet;
use super::oracle::Failure;
use super::queries::QueryGenerator;
use super::replica::create_replica;
use super::rng::Rng;
use super::shrink::shrink;
use super::transactions::{fill, transaction};

/// A way to compute a query's first answer.
pub type Hydrator<'h> = &'h dyn Fn(&Arc<Query>, &Arc<Snapshot>) -> Result<Hydration, Failure>;

/// What to run.
#[derive(Clone, Copy)]
pub struct Options<'h> {
    /// Queries in a world.
    pub queries: usize,
    /// Transactions in a world.
    pub transactions: usize,
    /// After how many transactions fresh hydrations are compared again.
    pub hydrate_every: usize,
    /// The way of hydrating under test; without one, graphs start from the naive evaluator's answer.
    pub hydrate: Option<Hydrator<'h>>,
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    /// Queries.
    pub queries: usize,
    /// Steps of graphs.
    pub steps: usize,
    /// Hydrations.
    pub hydrations: usize,
    /// Queries whose first answer had rows.
    pub with_rows: usize,
    /// Rows that changed in answers.
    pub changes: usize,
    /// Times a graph asked to be hydrated again.
    pub rehydrated: usize,
}

impl std::ops::AddAssign for Compared {
    fn add_assign(&mut self, other: Compared) {
        self.queries += other.queries;
        self.steps += other.steps;
        self.hydrations += other.hydrations;
        self.with_rows += other.with_rows;
        self.changes += other.changes;
        self.rehydrated += other.rehydrated;
    }
}

/// Runs the world of a seed. A failure is shrunk, saved under `testdata/regressions` and described.
pub fn run_seed(seed: u64, options: &Options<'_>) -> Result<Compared, String> {
    let mut rng = Rng::new(seed);
    let data = if seed.is_multiple_of(2) { &super::ISSUES } else { &super::MUSIC };
    let database = fill(data, &mut rng);
    let asts: Vec<Ast> = {
        let mut generator = QueryGenerator::new(data, &database, rng.fork());
        (0..options.queries).map(|_| generator.query()).collect()
    };
    let mut state = database.clone();
    let transactions: Vec<Transaction> = (0..options.transactions)
        .map(|_| {
            let transaction = transaction(data, &state, &mut rng);
            state.apply(&transaction);
            transaction
        })
        .collect();
    run(data, &database, &asts, &transactions, options, seed).map_err(|(query, failure)| {
        let Some(query) = query else { return format!("seed {seed}: {failure}") };
        let case =
            Case { data, database: database.clone(), ast: asts[query].clone(), transactions: transactions.clone() };
        let small = shrink(case, &mut |case| run_case(case, options).is_err());
        let failure = run_case(&small, options).err().unwrap_or_else(|| format!("only in company: {failure}"));
        let saved = small.save(&format!("seed-{seed}-query-{query}"));
        format!("seed {seed}, query {query}: {failure}\n{}\nsaved as {saved:?}", small.print())
    })
}

/// Runs one case.
pub fn run_case(case: &Case, options: &Options<'_>) -> Result<Compared, Failure> {
    // How commits are composed and which witnesses a naive hydration chooses depends on the place in a
    // world, so a case is run in several places at once.
    let asts = vec![case.ast.clone(); 4];
    let options = Options { hydrate_every: 1, ..*options };
    run(case.data, &case.database, &asts, &case.transactions, &options, 0).map_err(|(_, failure)| failure)
}

type Failed = (Option<usize>, Failure);

fn run(
    data: &'static DataSet,
    database: &Database,
    asts: &[Ast],
    transactions: &[Transaction],
    options: &Options<'_>,
    seed: u64,
) -> Result<Compared, Failed> {
    let whole = |error: String| (None, error);
    let folder = tempfile::tempdir().map_err(|error| whole(error.to_string()))?;
    let made = guarded(|| {
        create_replica(data, database, &folder.path().join("replica.db")).map_err(|error| format!("creating: {error}"))
    });
    let replica = made.map_err(whole)?;
    let mut world = World::new(data, database, replica, seed, *options);
    world.compared.queries = asts.len();
    let mut moment = guarded(|| world.moment()).map_err(whole)?;
    let mut live: Vec<Live<'_>> = Vec::new();
    for (i, ast) in asts.iter().enumerate() {
        let started = guarded(|| world.start(ast, i, &moment));
        live.push(started.map_err(|failure| (Some(i), failure))?);
    }
    let mut writer = world.replica.writer().map_err(|error| whole(error.to_string()))?;
    for (step, transaction) in transactions.iter().enumerate() {
        let at = |failure: Failure| format!("after transaction {step}: {failure}");
        let commit = guarded(|| world.commit(&mut writer, step, transaction)).map_err(|error| whole(at(error)))?;
        let before = moment;
        moment = guarded(|| world.moment()).map_err(|error| whole(at(error)))?;
        guarded(|| check_commit(data, &commit, &before, &moment)).map_err(|error| whole(at(error)))?;
        let routed = guarded(|| world.route(step, &commit, &moment));
        let mut routed = routed.map_err(|error| whole(at(error)))?;
        let hydrate = (step + 1).is_multiple_of(options.hydrate_every);
        for (i, live) in live.iter_mut().enumerate() {
            let advanced = guarded(|| {
                let advanced = world.advance(live, step, &commit, &mut routed, &moment)?;
                if advanced { world.compare(live, &moment, hydrate) } else { Ok(()) }
            });
            advanced.map_err(|failure| (Some(i), at(failure)))?;
        }
    }
    Ok(world.compared)
}

/// Runs a comparison; a panic is a failure like any other.
fn guarded<T>(run: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("(no text)")))
    })
}
