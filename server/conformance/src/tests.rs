//! What the cases' queries visit grows with the data and no faster: each is run in a world of many copies of its data set and
//! in one that is four times as large.

use planner::Planner;
use planner::explain::report::Report;
use planner::explain::{Options, Subject};
use testdata::world::{create_replica, multiply};
use zql_spec::conformance::parse_query;

use crate::definition::definition;
use crate::suite::Suite;

/// Copies in the smaller world: enough for its tables to have hundreds of rows.
const COPIES: usize = 60;

/// How many times as large the other one is, and how many times as many rows may be visited.
const LARGER: usize = 4;
const GROWTH: u64 = 6;

/// How often a row may be looked at for a node: it is found, probed for what belongs to it, and fetched.
const VISITS: u64 = 3;

#[test]
fn queries_visit_no_more_than_their_share() {
    let suite = Suite::built_in().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut run = 0;
    for data in &suite.data {
        let subjects = [COPIES, LARGER * COPIES].map(|copies| {
            let many = multiply(definition(data), &data.database, copies);
            let path = folder.path().join(format!("{}-{copies}.db", data.name));
            Subject::replica(&create_replica(definition(data), &many, &path).unwrap().pin().unwrap())
        });
        let files = suite.files.iter().filter(|(_, file)| *file.data == *data.name);
        for case in files.flat_map(|(_, file)| &file.cases) {
            let Ok(query) = parse_query(&case.query, data) else { continue };
            let options = Options { advice: false, ..Options::default() };
            let reports = subjects.each_ref().map(|subject| Planner::new().report(subject, &query.ast, &options));
            let [Ok(small), Ok(large)] = reports else { continue };
            let visited = |report: &Report| report.totals.rows_visited.unwrap();
            // Tables may be read whole, although little was enough in the smaller world.
            let rows: f64 = small.nodes.iter().map(|node| node.table_rows).sum();
            let most = GROWTH * visited(&small).max(VISITS * rows as u64);
            assert!(
                visited(&large) <= most,
                "{}: {} rows visited, {} in a world {LARGER} times as large\n{}\n{:#?}",
                case.name,
                visited(&small),
                visited(&large),
                case.query,
                large.statements
            );
            run += 1;
        }
    }
    assert!(run > 800, "{run}");
}
