//! Many groups in one statement, and what becomes of one that fails.

use std::sync::atomic::Ordering;

use cvr_store::Rehome;
use futures::future::join_all;

use super::*;

#[tokio::test]
async fn a_hundred_groups_in_three_statements() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let ids: Vec<String> = (0..100).map(|group| format!("g{group}")).collect();
    let mut groups: Vec<Group> = join_all(ids.iter().map(|id| Group::with_rows(&store, id, 5))).await;
    let counters = store.counters();
    let before = counters.batches.load(Ordering::Relaxed);
    let flushes = groups.iter_mut().map(|group| {
        let flush = group.update("02", &[], &[], &[("q", "1".into(), Some("02")), ("q", "2".into(), None)]);
        group.flush(flush)
    });
    join_all(flushes).await.into_iter().collect::<Result<Vec<()>, _>>().unwrap();
    let batches = counters.batches.load(Ordering::Relaxed) - before;
    assert!(batches <= 3, "{batches}");
    assert_eq!(counters.flushes.load(Ordering::Relaxed), 300);
    join_all(groups.iter().map(Group::assert_stored)).await;
    assert_eq!(database.value(r#"SELECT count(*) FROM rows WHERE "patchVersion" = '02'"#).await, "200");
}

#[tokio::test]
async fn a_failure_is_one_groups_own() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let ids = ["fine", "modified", "purged", "taken", "second", "both"];
    let mut groups: Vec<Group> = Vec::new();
    for id in ids {
        groups.push(Group::with_rows(&store, id, 1).await);
    }
    let mut new = Group::load(&store, "new", 1.0).await.unwrap();
    database
        .sql(
            r#"UPDATE instances SET version = '01:01' WHERE "clientGroupID" IN ('modified', 'both');
               UPDATE instances SET "lastActive" = 'epoch', "ttlClock" = 0 WHERE "clientGroupID" IN ('modified', 'taken');
               DELETE FROM instances WHERE "clientGroupID" = 'purged';
               UPDATE instances SET owner = 'x', "grantedAt" = to_timestamp(5) WHERE "clientGroupID" IN ('taken', 'both');
               INSERT INTO instances ("clientGroupID", version, "lastActive") VALUES ('new', '07', now())"#,
        )
        .await;
    let first = new.config(|update| update.ensure_client("c", "zero_0"));
    let mut outcomes = join_all(groups.iter_mut().map(|group| {
        let flush = group.update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
        group.flush(flush)
    }))
    .await;
    outcomes.push(new.flush(first).await);
    let texts: Vec<String> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().map_or_else(ToString::to_string, |()| "written".to_owned()))
        .collect();
    assert_eq!(
        texts,
        [
            "written",
            "CVR has been concurrently modified. Expected 01, got 01:01",
            "CVR has been concurrently modified. Expected 01, got 00",
            "CVR ownership was transferred to x at 1970-01-01T00:00:05.000Z (last connect time: 1970-01-01T00:00:00.001Z)",
            "written",
            // Whose it is comes before what was done to it.
            "CVR ownership was transferred to x at 1970-01-01T00:00:05.000Z (last connect time: 1970-01-01T00:00:00.001Z)",
            "CVR has been concurrently modified. Expected 00, got 07",
        ]
    );
    assert!(matches!(outcomes[1], Err(StoreError::Rehome(Rehome::ConcurrentModification { .. }))));
    groups[0].assert_stored().await;
    groups[4].assert_stored().await;
    // Of those that may not be written nothing is, not even that they were alive.
    let untouched = r#"SELECT string_agg("clientGroupID", ' ' ORDER BY "clientGroupID") FROM instances
        WHERE "clientGroupID" IN ('modified', 'taken') AND "ttlClock" = 0 AND "lastActive" = 'epoch'"#;
    assert_eq!(database.value(untouched).await, "modified taken");
    assert_eq!(database.value(r#"SELECT count(*) FROM "rowsVersion" WHERE version = '02'"#).await, "2");
    assert_eq!(database.value(r#"SELECT count(*) FROM rows WHERE "patchVersion" = '02'"#).await, "2");
    assert_eq!(database.value(r#"SELECT count(*) FROM clients WHERE "clientGroupID" = 'new'"#).await, "0");
}

/// Two servers are asked for a new group at once: one of them makes it, and the other one hears of it.
#[tokio::test]
async fn a_new_group_at_two_servers() {
    let database = Database::new().await;
    let stores = [database.store("a").await, database.store("b").await];
    for round in 0..10 {
        let id = format!("g{round}");
        let mut groups = join_all(stores.iter().map(|store| Group::load(store, &id, 1.0))).await;
        let flushes = groups.iter_mut().map(|group| {
            let group = group.as_mut().unwrap();
            let task = group.store.options().task_id.clone();
            let flush = group.config(|update| update.ensure_client(&task, "zero_0"));
            group.flush(flush)
        });
        let outcomes = join_all(flushes).await;
        let made: Vec<usize> = (0..2).filter(|&server| outcomes[server].is_ok()).collect();
        let [winner] = made[..] else { panic!("round {round}: {outcomes:?}") };
        assert_eq!(
            outcomes[1 - winner].as_ref().unwrap_err().to_string(),
            "CVR has been concurrently modified. Expected 00, got 00:01"
        );
        groups[winner].as_ref().unwrap().assert_stored().await;
        let clients = format!(r#"SELECT string_agg("clientID", ' ') FROM clients WHERE "clientGroupID" = '{id}'"#);
        assert_eq!(database.value(&clients).await, ["a", "b"][winner], "round {round}");
    }
}

#[tokio::test]
async fn values_that_postgres_refuses() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut groups = [Group::with_rows(&store, "a", 1).await, Group::with_rows(&store, "b", 1).await];
    let mut outcomes = join_all(groups.iter_mut().enumerate().map(|(index, group)| {
        // Postgres has no text with a zero in it.
        let id = if index == 0 { "\0" } else { "fine" };
        let flush = group.update("02", &[], &[], &[("q", id.to_owned(), Some("02"))]);
        group.flush(flush)
    }))
    .await;
    assert!(matches!(outcomes.remove(0), Err(StoreError::Refused(_))));
    outcomes.remove(0).unwrap();
    groups[1].assert_stored().await;
    // The group is as it was before.
    let mut again = Group::load(&store, "a", 1.0).await.unwrap();
    assert_eq!(again.cvr.version, version("01"));
    let flush = again.update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
    again.flush(flush).await.unwrap();
}

#[tokio::test]
async fn a_lost_connection_is_replaced() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut group = Group::with_rows(&store, "g", 1).await;
    // The time given is how long the statement waits for each of them to be gone.
    database
        .sql("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        .await;
    // A use may notice too late, once for every connection there was; whoever fails loads the record again.
    let mut failures = 0;
    for state in ["02", "03"] {
        let flush = group.update(state, &[], &[], &[("q", "0".into(), Some(state))]);
        if group.flush(flush).await.is_err() {
            group = loop {
                failures += 1;
                assert!(failures < 10, "lost connections are used again and again");
                if let Ok(group) = Group::load(&store, "g", 1.0).await {
                    break group;
                }
            };
        }
    }
    let flush = group.update("04", &[], &[], &[("q", "0".into(), Some("04"))]);
    group.flush(flush).await.unwrap();
    group.assert_stored().await;
}

#[tokio::test]
async fn nothing_is_written_after_closing() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut group = Group::with_rows(&store, "g", 150).await;
    store.close().await;
    assert_eq!(database.value("SELECT count(*) FROM rows").await, "150");
    let flush = group.update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
    assert_eq!(group.flush(flush).await.unwrap_err().to_string(), "the server is stopping");
}
