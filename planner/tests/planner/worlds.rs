//! Hydrations by DataFusion, and graphs that start from them, against the naive evaluator over generated
//! worlds: first answers, answers after every transaction, and fresh hydrations in between all mean the
//! same, by the plans that are chosen and by any others.
//!
//! A failure is shrunk and saved under `testdata/regressions`, where it is replayed ever after.
//! `WORLD=<seed>` runs one world, `FIRST=<seed> WORLDS=<n>` that many from there.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::hydration::{Hydrate, Hydration};
use engine::query::Query;
use engine::replica::Snapshot;
use planner::Planner;
use testdata::world::{Compared, Options, regressions, run_case, run_seed};

/// Runs a test with options that hydrate with a planner.
fn with<T>(planner: &Planner, options: &Options<'_>, test: impl FnOnce(&Options<'_>) -> T) -> T {
    let hydrate = |query: &Arc<Query>, snapshot: &Arc<Snapshot>| -> Result<Hydration, String> {
        planner.hydrate(query, snapshot).map_err(|error| {
            format!("{error}\n{}", planner.explain(query, snapshot).unwrap_or_else(|error| error.to_string()))
        })
    };
    test(&Options { hydrate: Some(&hydrate), ..*options })
}

/// Runs worlds on all cores; each has a planner of its own.
fn run(planner: impl Fn(u64) -> Planner + Sync, seeds: Range<u64>, queries: usize, transactions: usize) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(seeds.start);
    let work = || {
        // Closures that hydrate are not shared between threads, so options are made here.
        let options = Options { queries, transactions, hydrate_every: 2, hydrate: None };
        let mut total = Compared::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return total;
            }
            total += with(&planner(seed), &options, |options| run_seed(seed, options))
                .unwrap_or_else(|failure| panic!("{failure}\nreplay with WORLD={seed}"));
        }
    };
    let mut total = Compared::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            total += worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    println!("{total:?}");
    assert!(total.with_rows * 2 > total.queries, "most queries have an answer: {total:?}");
}

fn seeds(default: u64) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("WORLD") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("FIRST").unwrap_or(0);
            first..first + number("WORLDS").unwrap_or(default)
        }
    }
}

/// 2 000 queries, each seen by 20 transactions.
#[test]
fn chosen_plans() {
    run(|_| Planner::new(), seeds(50), 40, 20);
}

/// Plans that nobody would choose give the same answers.
#[test]
fn any_plans() {
    run(Planner::careless, seeds(60), 30, 6);
}

#[test]
fn past_failures() {
    let options = Options { queries: 0, transactions: 0, hydrate_every: 1, hydrate: None };
    for planner in std::iter::once(Planner::new()).chain((0..4).map(Planner::careless)) {
        for (name, case) in regressions().expect("the cases are readable") {
            with(&planner, &options, |options| run_case(&case, options))
                .unwrap_or_else(|failure| panic!("{name}: {failure}"));
        }
    }
}
