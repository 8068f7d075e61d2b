//! How many commits of the replica the stream makes: few of a burst, and now and then one of nothing.

use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, World};

/// Commits of a burst.
const BURST: usize = 1_000;

/// Commits of the replica that a burst may take. Usually it takes 2 or 3; more when the thread that receives gets no
/// processor while the one that writes does, as on two cores that compile as well.
const BUNDLES_MAX: usize = BURST / 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_few_commits() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY, a int)");
    let mut followed = world.follow().await;
    followed.caught_up(&world).await;
    while followed.commits.try_recv().is_ok() {}
    // Nothing can be written while another connection writes, so the burst waits to be read.
    let holder = rusqlite::Connection::open(world.path()).unwrap();
    holder.busy_timeout(PATIENCE).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    world.sql(&format!("DO $$ BEGIN FOR i IN 1..{BURST} LOOP INSERT INTO t VALUES (i, i); COMMIT; END LOOP; END $$"));
    holder.execute_batch("ROLLBACK").unwrap();
    let (mut rows, mut commits) = (0, 0);
    while rows < BURST {
        let commit = tokio::time::timeout(PATIENCE, followed.commits.recv()).await.expect("a commit in time").unwrap();
        rows += commit.tables.get("t").map_or(0, |table| table.rows.len());
        commits += 1;
    }
    assert!(commits <= BUNDLES_MAX, "{commits} commits");
    let versions: i64 = holder.query_row("SELECT count(DISTINCT _0_version) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(versions, BURST as i64, "each row has the version of its own transaction");
}

/// The version of an idle replica moves on by time every ten seconds; two moves that follow each other within half of that
/// were for the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_replica_moves_on_with_the_log() {
    let mut world = World::new(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE noise (a text); CREATE PUBLICATION one FOR TABLE t",
    );
    world.config.publications = vec!["one".to_owned()];
    let mut followed = world.follow().await;
    followed.caught_up(&world).await;
    while followed.commits.try_recv().is_ok() {}
    let mut last: Option<Instant> = None;
    for _ in 0..10 {
        // More than one segment of log that nothing is published from.
        world.sql("INSERT INTO noise SELECT repeat(md5(i::text), 30) FROM generate_series(1, 18000) i");
        let position = followed.position();
        let commit = tokio::time::timeout(PATIENCE, followed.commits.recv()).await.expect("a commit in time").unwrap();
        assert_eq!(commit.row_count(), 0);
        assert!(commit.base < commit.version && followed.position() >= position);
        let soon = last.replace(Instant::now()).is_some_and(|last| last.elapsed() < Duration::from_secs(5));
        if soon {
            return;
        }
    }
    panic!("the version moved on by time only");
}
