//! What the cases' queries visit grows with the data and no faster: each is run in a world of many copies of its data set and
//! in one that is four times as large.

#[path = "../../../planner/tests/planner/growth.rs"]
mod growth;

use testdata::world::{create_replica, definition, multiply};
use zql_spec::conformance::query_of;

use self::growth::{LARGER, visits};
use crate::suite::Suite;

/// Copies in the smaller world: enough for its tables to have hundreds of rows.
const COPIES: usize = 60;

#[test]
fn queries_visit_no_more_than_their_share() {
    let suite = Suite::built_in().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut run = 0;
    for data in &suite.data {
        let snapshots = [COPIES, LARGER * COPIES].map(|copies| {
            let many = multiply(definition(data), &data.database, copies);
            let path = folder.path().join(format!("{}-{copies}.db", data.name));
            create_replica(definition(data), &many, &path).unwrap().pin().unwrap()
        });
        let files = suite.files.iter().filter(|(_, file)| *file.data == *data.name);
        for case in files.flat_map(|(_, file)| &file.cases) {
            let Ok(query) = query_of(case, data) else { continue };
            run += usize::from(visits(&case.name, &snapshots, &query.ast).is_some());
        }
    }
    assert!(run > 800, "{run}");
}
