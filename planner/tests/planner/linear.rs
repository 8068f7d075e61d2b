//! What random queries visit grows with the data and no faster.

use testdata::world::{DataSet, ISSUES, MUSIC, QueryGenerator, Rng, TableDef, create_replica, fill, multiply};

use crate::growth::{LARGER, visits};

/// Copies in the smaller world: enough for its larger tables to have a thousand rows.
const COPIES: usize = 30;

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
            if let Some([small, large]) = visits(data.name, &snapshots, &generator.query()) {
                grown += usize::from(large > 2 * small);
            }
        }
    }
    assert!(grown > 300, "{grown} queries visit more where there is more");
}
