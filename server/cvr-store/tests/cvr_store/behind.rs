//! Rows written behind the poke.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test]
async fn the_poke_does_not_wait_for_many_rows() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut group = Group::with_rows(&store, "g", 1).await;
    // Its row cannot be written for the time being.
    let mut other = connect(&database.url).await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute(&format!("SELECT FROM \"{SCHEMA}\".rows FOR UPDATE")).await.unwrap();

    let rows: Vec<_> = (0..6_000).map(|row| ("q", row.to_string(), Some("02"))).collect();
    let flush = group.update("02", &[], &[], &rows);
    group.flush(flush).await.unwrap();
    // Neither do the next ones, however small, while rows wait.
    let flush = group.update("03", &[], &[], &[("q", "0".into(), Some("03")), ("q", "1".into(), None)]);
    group.flush(flush).await.unwrap();
    let flush = group.config(|update| update.ensure_client("d", "zero_0"));
    group.flush(flush).await.unwrap();
    assert_eq!(store.counters().rows_behind.load(Ordering::Relaxed), 6_002);
    let versions =
        r#"SELECT concat_ws(' ', i.version, r.version) FROM instances i JOIN "rowsVersion" r USING ("clientGroupID")"#;
    assert_eq!(database.value(versions).await, "03:01 01");

    lock.commit().await.unwrap();
    group.assert_stored().await;
    assert_eq!(database.value(versions).await, "03:01 03:01");
    assert_eq!(database.value(r#"SELECT count(*) FROM rows WHERE "refCounts" IS NULL"#).await, "1");
    // From now on rows are written with their record again.
    let flush = group.update("04", &[], &[], &[("q", "0".into(), Some("04"))]);
    group.flush(flush).await.unwrap();
    assert_eq!(database.value(versions).await, "04 04");
    assert_eq!(store.counters().rows_behind.load(Ordering::Relaxed), 6_002);
}

#[tokio::test]
async fn many_rows_of_a_new_group() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let groups = futures::future::join_all(["a", "b", "c"].map(|id| Group::with_rows(&store, id, 4_000))).await;
    for group in groups {
        group.assert_stored().await;
    }
    assert_eq!(store.counters().rows_behind.load(Ordering::Relaxed), 12_000);
}

#[tokio::test]
async fn rows_that_postgres_refuses() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut good = Group::with_rows(&store, "good", 1).await;
    let mut bad = Group::with_rows(&store, "bad", 1).await;
    let rows = |first: &str| -> Vec<(&'static str, String, Option<&'static str>)> {
        std::iter::once(first.to_owned())
            .chain((0..200).map(|row| row.to_string()))
            .map(|id| ("q", id, Some("02")))
            .collect()
    };
    let mut lost = store.lost();
    let flush = bad.update("02", &[], &[], &rows("\0"));
    bad.flush(flush).await.unwrap();
    let flush = good.update("02", &[], &[], &rows("fine"));
    good.flush(flush).await.unwrap();
    good.assert_stored().await;
    // Whoever listens hears of it at once, and the group as soon as it asks.
    assert_eq!(lost.next().await.as_deref(), Some("bad"));
    assert!(matches!(store.rows_written("bad").await, Err(StoreError::Refused(_))));
    let flush = bad.update("03", &[], &[], &[("q", "1".into(), Some("03"))]);
    assert!(matches!(bad.flush(flush).await, Err(StoreError::Refused(_))));
    drop((store, good, bad));
    assert_eq!(lost.next().await, None);
}
