//! What a query visits grows with the data and no faster.
//!
//! A world of many copies is four times as large as one of a quarter of them, and so are the answers. A plan that visits
//! more than six times the rows there does some of its work once for each pair of rows: where a scan and a hash would do,
//! that is a wrong choice, however cheap it looked.

use std::sync::Arc;

use engine::replica::Snapshot;
use planner::Planner;
use planner::explain::report::Report;
use planner::explain::{Options, Subject};
use testdata::world::{DataSet, ISSUES, MUSIC, QueryGenerator, Rng, TableDef, create_replica, fill, multiply};
use zql_spec::ast::Ast;

/// Copies in the smaller world: enough for its larger tables to have a thousand rows.
const COPIES: usize = 30;

/// How many times as large the other one is, and how many times as many rows may be visited.
const LARGER: usize = 4;
const GROWTH: u64 = 6;

/// How often a row may be looked at for a node: it is found, probed for what belongs to it, and fetched.
const VISITS: u64 = 3;

fn measured(snapshot: &Arc<Snapshot>, ast: &Ast) -> Option<Report> {
    let options = Options { advice: false, ..Options::default() };
    // An odd query of the generator may be none.
    Planner::new().report(&Subject::replica(snapshot), ast, &options).ok()
}

/// What is visited in a world, and in one that is larger.
fn check(data: &DataSet, snapshots: &[Arc<Snapshot>; 2], ast: &Ast) -> Option<(u64, u64)> {
    let [small, large] = [measured(&snapshots[0], ast)?, measured(&snapshots[1], ast)?];
    let visited = |report: &Report| report.totals.rows_visited.unwrap();
    // Tables may be read whole, although little was enough in the smaller world.
    let rows: f64 = small.nodes.iter().map(|node| node.table_rows).sum();
    let most = GROWTH * visited(&small).max(VISITS * rows as u64);
    assert!(
        visited(&large) <= most,
        "{}: {} rows visited, {} in a world {LARGER} times as large\n{}\n{:#?}",
        data.name,
        visited(&small),
        visited(&large),
        small.query.zql,
        large.statements
    );
    Some((visited(&small), visited(&large)))
}

/// The same tables with the indexes of their keys alone.
fn without_indexes(data: &DataSet) -> DataSet {
    let tables = data.tables.iter().map(|table| TableDef { indexes: &[], ..*table });
    DataSet { tables: Box::leak(tables.collect()), ..*data }
}

#[test]
fn random_queries() {
    let directory = tempfile::tempdir().unwrap();
    let mut grown = 0;
    let worlds = [ISSUES, MUSIC, without_indexes(&ISSUES), without_indexes(&MUSIC)];
    for (seed, data) in worlds.iter().enumerate() {
        let seed = seed as u64 + 1;
        let mut rng = Rng::new(seed);
        let database = fill(data, &mut rng);
        let snapshots = [COPIES, LARGER * COPIES].map(|copies| {
            let many = multiply(data, &database, copies);
            create_replica(data, &many, &directory.path().join(format!("{seed}-{copies}.db"))).unwrap().pin().unwrap()
        });
        let mut generator = QueryGenerator::new(data, &database, rng.fork());
        for _ in 0..200 {
            if let Some((small, large)) = check(data, &snapshots, &generator.query()) {
                grown += usize::from(large > 2 * small);
            }
        }
    }
    assert!(grown > 300, "{grown} queries visit more where there is more");
}
