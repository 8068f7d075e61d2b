//! Replica, SQL and graph against the naive evaluator, over generated worlds. Hydrations come from the
//! naive evaluator, so no planner is needed; the planner's tests run the same worlds with its own.
//!
//! A failure is shrunk and saved under `testdata/regressions`, where it is replayed ever after.
//! `WORLD=<seed>` runs one world, `FIRST=<seed> WORLDS=<n>` that many from there.

use testdata::world::{Compared, Options, regressions, run_case, run_seed};

fn options() -> Options<'static> {
    Options { queries: 20, transactions: 12, hydrate_every: 6, hydrate: None }
}

#[test]
fn generated_worlds() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("WORLD") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("FIRST").unwrap_or(0);
            first..first + number("WORLDS").unwrap_or(12)
        }
    };
    let mut total = Compared::default();
    for seed in seeds {
        total += run_seed(seed, &options()).unwrap_or_else(|failure| panic!("{failure}\nreplay with WORLD={seed}"));
    }
    println!("{total:?}");
    assert!(total.with_rows * 2 > total.queries, "most queries have an answer: {total:?}");
    assert!(total.changes > total.queries, "answers change: {total:?}");
}

#[test]
fn past_failures() {
    for (name, case) in regressions().expect("the cases are readable") {
        run_case(&case, &options()).unwrap_or_else(|failure| panic!("{name}: {failure}"));
    }
}
