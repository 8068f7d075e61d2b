//! Whether what a query visits grows with the data and no faster: it is run in a world of many copies of a data set and in one
//! that is [`LARGER`] times as large, and so are the answers.
//!
//! A plan that visits more than [`GROWTH`] times the rows there does some of its work once for each pair of rows: where a scan
//! and a hash would do, that is a wrong choice, however cheap it looked.

use std::sync::Arc;

use engine::replica::Snapshot;
use planner::Planner;
use planner::explain::report::Report;
use planner::explain::{Options, Subject};
use zql_spec::ast::Ast;

/// How many times as large the larger world is.
pub(crate) const LARGER: usize = 4;

/// How many times as many rows may be visited there.
const GROWTH: u64 = 6;

/// How often a row may be looked at for a node: it is found, probed for what belongs to it, and fetched.
const VISITS: u64 = 3;

/// What a query visits in the smaller world and in the larger; nothing if it is none, as some of random ones are.
///
/// # Panics
/// When it visits too much in the larger.
pub(crate) fn visits(name: &str, worlds: &[Arc<Snapshot>; 2], ast: &Ast) -> Option<[u64; 2]> {
    let options = Options { advice: false, ..Options::default() };
    let report = |world: &Arc<Snapshot>| Planner::new().report(&Subject::replica(world), ast, &options).ok();
    let [small, large] = [report(&worlds[0])?, report(&worlds[1])?];
    let visited = |report: &Report| report.totals.rows_visited.expect("a query that was run");
    // Tables may be read whole, although little was enough in the smaller world.
    let rows: f64 = small.nodes.iter().map(|node| node.table_rows).sum();
    let most = GROWTH * visited(&small).max(VISITS * rows as u64);
    assert!(
        visited(&large) <= most,
        "{name}: {} rows visited, {} in a world {LARGER} times as large\n{}\n{:#?}",
        visited(&small),
        visited(&large),
        small.query.zql,
        large.statements
    );
    Some([visited(&small), visited(&large)])
}
