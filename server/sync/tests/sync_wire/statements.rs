//! What a commit costs the database of client view records.

use futures::future::join_all;
use protocol_client::{Connection, hash_of};
use testdata::postgres::{Options, Postgres};

use crate::harness::{ISSUES, SCHEMA, Server, poke, pokes_until_got, query};

/// Groups that all see the same row.
const GROUPS: usize = 100;

/// Commits that are measured. Groups are woken one by one, and on a busy machine some are late for the company of the
/// others; the median says what the rule is.
const COMMITS: usize = 9;

#[tokio::test(flavor = "multi_thread")]
async fn a_row_for_a_hundred_groups_is_three_statements() {
    let settings = vec![("shared_preload_libraries".to_owned(), "pg_stat_statements".to_owned())];
    let postgres = Postgres::start(Options { settings, ..Options::default() }).expect("a Postgres that counts");
    let records = postgres.database().expect("a database");
    postgres.psql(&records, "CREATE EXTENSION pg_stat_statements").expect("Postgres's own extensions are installed");
    let counted = || -> u64 {
        let sql = "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid \
                   WHERE datname = current_database() AND query NOT LIKE '%pg_stat_statements%'";
        postgres.psql(&records, sql).expect(sql).parse().expect("a number")
    };
    let server = Server::start_with(SCHEMA, &[("ZERO_CVR_DB", &records)]).await;
    let hash = hash_of(&query(ISSUES)).expect("a hash").to_owned();
    let join = async || {
        let (_, mut connection) = server.connect(vec![query(ISSUES)]).await;
        pokes_until_got(&mut connection, &hash).await;
        connection
    };
    let mut groups: Vec<Connection> = join_all((0..GROUPS).map(|_| join())).await;
    let mut statements = Vec::new();
    for commit in 0..COMMITS {
        let before = counted();
        server.sql(&format!("UPDATE issue SET title = 'commit {commit}' WHERE id = 'i1'"));
        join_all(groups.iter_mut().map(async |connection| while poke(connection).await.rows().count() == 0 {})).await;
        statements.push(counted() - before);
    }
    let measured = statements.clone();
    statements.sort_unstable();
    let median = statements[COMMITS / 2];
    assert!((1..=3).contains(&median), "statements a commit of {GROUPS} groups: {measured:?}");
}
