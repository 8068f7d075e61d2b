//! Stopping in every way and going on: nothing lost, nothing twice.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use testdata::postgres::{Options, Postgres, Stop};
use upstream::Error;
use zql_spec::version::parse_lsn;

use crate::harness::{PATIENCE, World, dump, follow};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_replica_goes_on() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let mut followed = world.follow().await;
    followed.after(&world, "INSERT INTO t VALUES (1)").await;
    let position = followed.position();
    followed.running.stop().await.unwrap();
    drop(followed.replica);
    let slot = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()";
    // The server reads the last status after we have hung up.
    let deadline = std::time::Instant::now() + PATIENCE;
    while parse_lsn(&world.sql(slot)).unwrap() < position + 1 {
        assert!(std::time::Instant::now() < deadline, "what was applied is acknowledged");
    }
    assert_eq!(parse_lsn(&world.sql(slot)).unwrap(), position + 1, "and no more");
    world.sql("INSERT INTO t VALUES (2); DELETE FROM t WHERE id = 1");
    let mut followed = world.follow().await;
    followed.caught_up(&world).await;
    assert_eq!(dump(&world.path())["t"].len(), 1);
    assert_eq!(world.sql("SELECT count(*) FROM zero_0.replicas"), "1", "the replica was not copied again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_continued_is_copied_again() {
    let breaks = [
        (
            "slot gone",
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()",
        ),
        ("row gone", "DELETE FROM zero_0.replicas"),
        ("shard gone", "DROP SCHEMA zero_0 CASCADE"),
        ("publication gone", "DROP PUBLICATION _zero_public_0"),
        (
            "slot moved on",
            "INSERT INTO t VALUES (7); SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn()) FROM pg_replication_slots WHERE database = current_database()",
        ),
    ];
    for (what, sql) in breaks {
        let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
        world.config.auto_reset = false;
        drop(world.start().await);
        world.sql(sql);
        let error = world.try_start().await.err().unwrap();
        assert!(matches!(error, Error::ResetRequired(_)), "{what}: {error}");
        world.config.auto_reset = true;
        let mut followed = world.follow().await;
        followed.after(&world, "INSERT INTO t VALUES (2)").await;
        let rows = world.sql("SELECT count(*) FROM t");
        assert_eq!(dump(&world.path())["t"].len().to_string(), rows, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_publications_are_another_replica() {
    let mut world = World::new(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY); CREATE PUBLICATION one FOR TABLE t",
    );
    drop(world.start().await);
    assert_eq!(dump(&world.path()).len(), 2);
    world.config.publications = vec!["one".to_owned()];
    drop(world.start().await);
    assert_eq!(dump(&world.path()).keys().collect::<Vec<_>>(), ["t"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_survives_its_connection() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let mut followed = world.follow().await;
    for id in 0..5 {
        followed.after(&world, &format!("INSERT INTO t VALUES ({id})")).await;
        // As if the server had been restarted: whoever ends the session does not take the slot.
        world.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database() AND active_pid IS NOT NULL");
        world.sql(&format!("INSERT INTO t VALUES ({})", 100 + id));
        followed.caught_up(&world).await;
    }
    followed.running.stop().await.unwrap();
    assert_eq!(dump(&world.path())["t"].len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_process_takes_the_slot() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let mut old = world.follow().await;
    old.after(&world, "INSERT INTO t VALUES (1)").await;
    // The same replica in another place, as a restored backup would be.
    let copy = World {
        folder: tempfile::tempdir().unwrap(),
        config: world.config.clone(),
        url: world.url.clone(),
        postgres: world.postgres,
    };
    rusqlite::Connection::open(world.path())
        .unwrap()
        .execute("VACUUM INTO ?", [copy.path().to_string_lossy()])
        .unwrap();
    let mut new = follow(copy.start().await);
    let error = old.error().await;
    assert!(matches!(error, Error::TakenOver(_)), "{error}");
    new.after(&copy, "INSERT INTO t VALUES (2)").await;
    assert_eq!(dump(&copy.path())["t"].len(), 2);
}

/// Kills a process that copies or follows, again and again while rows are written, then compares.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment() {
    let world = World::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE log (id bigserial PRIMARY KEY, t int, n int);
         INSERT INTO t SELECT i, 'start' FROM generate_series(1, 20000) i",
    );
    let mut writes = 0;
    for round in 0..8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["resume::child_that_follows", "--exact", "--nocapture"])
            .env("UPSTREAM_CHILD_URL", &world.url)
            .env("UPSTREAM_CHILD_PATH", world.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The moment of death varies with the round: from within the copy to far into the stream.
        let deadline = std::time::Instant::now() + std::time::Duration::from_millis(150 + round * 250);
        while std::time::Instant::now() < deadline {
            writes += 1;
            world.sql(&format!(
                "BEGIN; UPDATE t SET a = 'w{writes}' WHERE id % 50 = {writes} % 50; INSERT INTO log (t, n) VALUES ({writes}, 1), ({writes}, 2); COMMIT;
                 DELETE FROM t WHERE id = {writes}; INSERT INTO t VALUES (100000 + {writes}, 'new')"
            ));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut followed = world.follow().await;
    followed.caught_up(&world).await;
    followed.running.stop().await.unwrap();
    assert_eq!(dump(&world.path()), world.fresh_dump().await);
}

/// Not a test by itself: what [`killed_at_any_moment`] runs in a process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_follows() {
    let (Ok(url), Ok(path)) = (std::env::var("UPSTREAM_CHILD_URL"), std::env::var("UPSTREAM_CHILD_PATH")) else {
        return;
    };
    let config = upstream::Config::new(url);
    let upstream = upstream::start(config, path.as_ref(), std::sync::Arc::new(|_| {})).await.unwrap();
    let mut running = upstream.run(|_| {}).unwrap();
    let _ = tokio::time::timeout(PATIENCE, running.ended()).await;
}

/// A cluster of its own, so that nothing at all happens in it: the server's questions are then the only sign of life.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_stays_open() {
    let postgres = Postgres::start(Options::default()).unwrap();
    let url = postgres.database().unwrap();
    let sql = "CREATE TABLE t (id int PRIMARY KEY); DO $$ BEGIN
               EXECUTE format('ALTER DATABASE %I SET wal_sender_timeout = %L', current_database(), '400ms'); END $$";
    postgres.psql(&url, sql).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = upstream::Config::new(url.clone());
    let upstream = upstream::start(config, &folder.path().join("replica.db"), Arc::new(|_| {})).await.unwrap();
    let followed = follow(upstream);
    // The session that reads the slot, and whether it has outlived what is borne of silence, 0.8 s, several times.
    let sql =
        "SELECT pid, reply_time - backend_start > interval '4 s' FROM pg_stat_replication WHERE state = 'streaming'";
    let begun = Instant::now();
    let mut first = None;
    loop {
        assert!(begun.elapsed() < PATIENCE, "the server hears of us");
        let row = postgres.psql(&url, sql).unwrap();
        let Some((pid, old)) = row.trim().split_once('|') else {
            assert!(first.is_none(), "the stream was given up");
            continue;
        };
        assert_eq!(first.get_or_insert_with(|| pid.to_owned()), pid, "the stream was opened anew");
        if old == "t" {
            break;
        }
    }
    followed.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_shuts_down_does_not_wait_for_us() {
    let mut postgres = Postgres::start(Options::default()).unwrap();
    let url = postgres.database().unwrap();
    postgres.psql(&url, "CREATE TABLE t (id int PRIMARY KEY)").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = upstream::Config::new(url.clone());
    let upstream = upstream::start(config, &folder.path().join("replica.db"), Arc::new(|_| {})).await.unwrap();
    let mut followed = follow(upstream);
    // Log that nothing is published from is confirmed every 10 s, but not by one that is being waited for. Several tries: a
    // busy machine may take long for one.
    let mut fastest = Duration::MAX;
    for round in 0..3 {
        postgres.psql(&url, &format!("INSERT INTO t VALUES ({round})")).unwrap();
        let arrived = async { while followed.commits.recv().await.is_some_and(|commit| commit.row_count() == 0) {} };
        tokio::time::timeout(PATIENCE, arrived).await.unwrap();
        let begun = Instant::now();
        tokio::task::block_in_place(|| postgres.stop(Stop::Fast)).unwrap();
        fastest = fastest.min(begun.elapsed());
        postgres.start_again().unwrap();
    }
    assert!(fastest < Duration::from_secs(5), "{fastest:?}");
    followed.running.stop().await.unwrap();
}
