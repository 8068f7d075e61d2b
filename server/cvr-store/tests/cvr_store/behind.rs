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

/// A hundred rows are written with their record and one more is not, whether they come or go.
#[tokio::test]
async fn how_many_rows_are_many() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let counted = || {
        let counters = store.counters();
        (counters.rows.load(Ordering::Relaxed), counters.rows_behind.load(Ordering::Relaxed))
    };
    let mut groups = Vec::new();
    for (id, rows, expected) in [("none", 0, (0, 0)), ("hundred", 100, (100, 0)), ("more", 101, (100, 101))] {
        groups.push(Group::with_rows(&store, id, rows).await);
        assert_eq!(counted(), expected, "{id}");
    }
    store.rows_written("more").await.unwrap();
    for (group, expected) in groups[1..].iter_mut().zip([(200, 101), (200, 202)]) {
        let rows = (0..group.rows.len()).map(|row| ("q", row.to_string(), (row < 50).then_some("02")));
        let flush = group.update("02", &[], &[], &rows.collect::<Vec<_>>());
        group.flush(flush).await.unwrap();
        assert_eq!(counted(), expected);
    }
    for group in groups {
        group.assert_stored().await;
    }
}

/// A client turns up at another server while the first one still writes rows of the group. What that one has told its clients
/// comes to the other one whole, and from then on it tells them nothing.
#[tokio::test]
async fn a_group_moves_while_its_rows_wait() {
    let database = Database::new().await;
    let (a, b) = (database.store("a").await, database.store("b").await);
    let mut at_a = Group::with_rows(&a, "g", 1).await;
    let mut other = connect(&database.url).await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute(&format!("SELECT FROM \"{SCHEMA}\".rows FOR UPDATE")).await.unwrap();
    let rows: Vec<_> = (0..150).map(|row| ("q", row.to_string(), Some("02"))).collect();
    let flush = at_a.update("02", &[], &[], &rows);
    at_a.flush(flush).await.unwrap();
    let flush = at_a.update("03", &[], &[], &[("q", "0".into(), Some("03")), ("q", "1".into(), None)]);
    at_a.flush(flush).await.unwrap();

    let moving = tokio::spawn({
        let b = b.clone();
        async move { Group::load(&b, "g", 2_000.0).await }
    });
    while database.value("SELECT owner FROM instances").await != "b" {}
    let flush = at_a.update("04", &[], &[], &[("q", "2".into(), None)]);
    assert_eq!(
        at_a.flush(flush).await.unwrap_err().to_string(),
        "CVR ownership was transferred to b at 1970-01-01T00:00:02.000Z (last connect time: 1970-01-01T00:00:00.001Z)"
    );
    assert!(!moving.is_finished(), "a record is loaded whose rows are on the way");
    lock.commit().await.unwrap();
    let mut at_b = moving.await.unwrap().unwrap();
    assert_eq!(at_b.cvr.version, version("03"));
    assert_eq!(lines(&at_b.rows), lines(&at_a.rows));
    let flush = at_b.update("04", &[], &[], &[("q", "2".into(), None)]);
    at_b.flush(flush).await.unwrap();
    a.rows_written("g").await.unwrap();
    at_b.assert_stored().await;
}
