//! Hydrations of generated worlds against the naive evaluator: by the plans that are chosen, and by any others.

use std::sync::Arc;

use engine::hydration::{Hydrate, Hydration};
use engine::query::Query;
use engine::replica::Snapshot;
use planner::Planner;
use testdata::world::{Compared, Options, regressions, run_case, run_seed};

fn run(planner: &Planner, seeds: std::ops::Range<u64>) -> Compared {
    let hydrate = |query: &Arc<Query>, snapshot: &Arc<Snapshot>| -> Result<Hydration, String> {
        planner.hydrate(query, snapshot).map_err(|error| {
            format!("{error}\n{}", planner.explain(query, snapshot).unwrap_or_else(|error| error.to_string()))
        })
    };
    let options = Options { queries: 20, transactions: 6, hydrate_every: 2, hydrate: Some(&hydrate) };
    for (name, case) in regressions().expect("the cases are readable") {
        run_case(&case, &options).unwrap_or_else(|failure| panic!("{name}: {failure}"));
    }
    let mut total = Compared::default();
    for seed in seeds {
        total += run_seed(seed, &options).unwrap_or_else(|failure| panic!("{failure}\nseed {seed}"));
    }
    assert!(total.hydrations > 0, "{total:?}");
    total
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("WORLD") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("FIRST").unwrap_or(0);
            first..first + number("WORLDS").unwrap_or(default)
        }
    }
}

#[test]
fn chosen_plans() {
    run(&Planner::new(), seeds(10));
}

#[test]
fn any_plans() {
    for dice in 0..4 {
        run(&Planner::careless(dice), seeds(5));
    }
}
