//! A database that says nothing, and records that somebody else has locked: who waits, and for how long.

use std::time::{Duration, Instant};

use cvr_store::{Limits, Range};
use futures::future::join_all;

use super::relay::Relay;
use super::*;

/// Far below the default, so that tests wait little, and far above what a statement takes on a busy machine.
const SHORT: Limits = Limits {
    silence: Some(Duration::from_secs(2)),
    lock: Duration::from_millis(100),
    patience: Duration::from_secs(1),
};

async fn store_at(url: &str, limits: Limits) -> Store {
    let config: tokio_postgres::Config = url.parse().unwrap();
    let pool = Pool::builder(Manager::new(config, NoTls)).max_size(8).build().unwrap();
    let options = Options { schema: SCHEMA.to_owned(), task_id: "a".to_owned() };
    Store::open_with(pool, options, limits).await.unwrap()
}

fn is_away<T>(outcome: Result<T, StoreError>) {
    match outcome {
        Err(StoreError::Postgres(text)) => assert!(text.starts_with("no answer for "), "{text}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("an answer came through a frozen connection"),
    }
}

#[tokio::test]
async fn a_database_that_falls_silent() {
    let database = Database::new().await;
    let relay = Relay::new(&database.url).await;
    let store = store_at(&relay.url, SHORT).await;
    let mut groups: Vec<Group> = join_all(["a", "b", "c"].map(|id| Group::with_rows(&store, id, 1))).await;
    // As many connections of the pool as there can be wait for the next use.
    join_all(["a", "b", "c"].map(|id| store.load(id, 1.0))).await;

    // A flush and whatever is read fail, instead of waiting for the system's patience.
    relay.freeze(0);
    let flush = groups[0].update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
    is_away(groups[0].flush(flush).await);
    let opened = relay.opened();
    // Whatever was idle is not used again: the next uses work at once, each on a connection of its own.
    for group in &mut groups {
        *group = Group::load(&store, &group.cvr.group, 1.0).await.unwrap();
        let flush = group.update("03", &[], &[], &[("q", "0".into(), Some("03"))]);
        group.flush(flush).await.unwrap();
        group.assert_stored().await;
    }
    assert!(relay.opened() > opened);

    // Freezes a connection that waits in the pool.
    let freeze = async || {
        store.load("a", 1.0).await.unwrap();
        relay.freeze(0);
    };
    freeze().await;
    is_away(store.load("a", 1.0).await);
    freeze().await;
    is_away(store.load_rows(&groups[0].cvr).await);
    freeze().await;
    let up_to = groups[1].cvr.version.clone();
    let range = Range { group: "b".into(), after: None, up_to: up_to.clone(), current: up_to, excluded: Vec::new() };
    is_away(store.catch_up(range.clone()).await);
    freeze().await;
    is_away(store.touch("a", 1.0, 1.0).await);
    // A server that takes connections and then says nothing.
    relay.freeze(1);
    is_away(store.load("a", 1.0).await);
    store.catch_up(range).await.unwrap();
}

#[tokio::test]
async fn rows_behind_a_poke_are_written_once_the_database_answers() {
    let database = Database::new().await;
    let relay = Relay::new(&database.url).await;
    let store = store_at(&relay.url, SHORT).await;
    // Makes the connection that writes behind.
    let mut group = Group::with_rows(&store, "g", 150).await;
    store.rows_written("g").await.unwrap();
    let before = relay.opened();
    let rows: Vec<_> = (0..150).map(|row| ("q", row.to_string(), Some("02"))).collect();
    let flush = group.update("02", &[], &[], &rows);
    // The record is written, and its rows are not when the network freezes.
    let held = lock_group(&database, "rows", "g").await;
    group.flush(flush).await.unwrap();
    relay.freeze(0);
    drop(held);
    let flush = group.update("03", &[], &[], &[("q", "0".into(), Some("03"))]);
    is_away(group.flush(flush).await);
    store.rows_written("g").await.unwrap();
    assert!(relay.opened() > before);
    let loaded = Group::load(&store, "g", 1.0).await.unwrap();
    assert_eq!((loaded.cvr.version, loaded.rows.len()), (version("02"), 150));
}

/// A session that holds the locks of all rows that a group has in a table, until it is dropped.
async fn lock_group(database: &Database, table: &str, group: &str) -> Client {
    let session = connect(&database.url).await;
    let sql = format!(r#"BEGIN; SELECT FROM "{SCHEMA}"."{table}" WHERE "clientGroupID" = '{group}' FOR UPDATE"#);
    session.batch_execute(&sql).await.unwrap();
    session
}

/// A session that holds the lock of a table against all who write it.
async fn lock(database: &Database, table: &str) -> Client {
    let session = connect(&database.url).await;
    session.batch_execute(&format!(r#"BEGIN; LOCK TABLE "{SCHEMA}"."{table}" IN EXCLUSIVE MODE"#)).await.unwrap();
    session
}

#[tokio::test]
async fn a_locked_record_holds_up_its_own_group_alone() {
    let database = Database::new().await;
    let limits = Limits { patience: Duration::from_secs(60), ..SHORT };
    let store = store_at(&database.url, limits).await;
    let ids: Vec<String> = (0..40).map(|group| format!("g{group}")).collect();
    let mut groups: Vec<Group> = join_all(ids.iter().map(|id| Group::with_rows(&store, id, 1))).await;
    let mut locked = groups.remove(7);
    let held = lock_group(&database, "instances", "g7").await;

    let flush = locked.update("02", &[], &[], &[("q", "0".into(), Some("02"))]).unwrap();
    let mut waiting = tokio::spawn({
        let (store, flush) = (store.clone(), Arc::clone(&flush));
        async move { store.flush(flush).await }
    });
    for state in ["02", "03", "04"] {
        let flushes = groups.iter_mut().map(|group| {
            let flush = group.update(state, &[], &[], &[("q", "0".into(), Some(state))]);
            group.flush(flush)
        });
        let done = join_all(flushes);
        tokio::select! {
            outcomes = done => outcomes.into_iter().for_each(Result::unwrap),
            outcome = &mut waiting => panic!("the locked record was written or given up: {outcome:?}"),
        }
    }
    drop(held);
    waiting.await.unwrap().unwrap();
    locked.cvr = flush.cvr.clone();
    locked.rows.apply(&flush);
    locked.assert_stored().await;
    join_all(groups.iter().map(Group::assert_stored)).await;
    assert_eq!(store.counters().flushes.load(std::sync::atomic::Ordering::Relaxed), 40 * 2 + 39 * 3 + 1);
}

#[tokio::test]
async fn a_record_that_stays_locked_is_given_up() {
    let database = Database::new().await;
    let store = store_at(&database.url, SHORT).await;
    let mut group = Group::with_rows(&store, "g", 1).await;
    for (table, whole) in [("instances", false), ("rows", false), ("rows", true)] {
        let held = match whole {
            true => lock(&database, table).await,
            false => lock_group(&database, table, "g").await,
        };
        let flush = group.update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
        match group.flush(flush).await {
            Err(StoreError::Postgres(text)) => assert!(text.starts_with("the record is held by"), "{table}: {text}"),
            other => panic!("{table}: {other:?}"),
        }
        drop(held);
        // Postgres gave up, so nothing is written later.
        group.assert_stored().await;
    }
    let flush = group.update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
    group.flush(flush).await.unwrap();
    group.assert_stored().await;
}

#[tokio::test]
async fn locked_rows_behind_a_poke_hold_up_their_own_group_alone() {
    let database = Database::new().await;
    let store = store_at(&database.url, SHORT).await;
    let mut locked = Group::with_rows(&store, "locked", 1).await;
    let held = lock_group(&database, "rows", "locked").await;
    let rows: Vec<_> = (0..150).map(|row| ("q", row.to_string(), Some("02"))).collect();
    let flush = locked.update("02", &[], &[], &rows);
    locked.flush(flush).await.unwrap();
    for id in ["a", "b"] {
        Group::with_rows(&store, id, 150).await.assert_stored().await;
    }
    assert_eq!(database.value(r#"SELECT version FROM "rowsVersion" WHERE "clientGroupID" = 'locked'"#).await, "01");
    // Newer rows of the group are not undone by those that were taken back.
    let flush = locked.update("03", &[], &[], &[("q", "0".into(), Some("03"))]);
    locked.flush(flush).await.unwrap();
    drop(held);
    locked.assert_stored().await;
}

#[tokio::test]
async fn closing_waits_for_what_is_locked() {
    let database = Database::new().await;
    let store = store_at(&database.url, SHORT).await;
    let mut group = Group::with_rows(&store, "g", 1).await;
    let held = lock_group(&database, "instances", "g").await;
    let flush = group.update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
    let begun = Instant::now();
    let (outcome, ()) = tokio::join!(group.flush(flush), store.close());
    assert!(matches!(outcome, Err(StoreError::Postgres(_))), "{outcome:?}");
    assert!(begun.elapsed() >= SHORT.patience);
    drop(held);
}
