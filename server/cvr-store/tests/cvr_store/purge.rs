//! Groups that nobody uses, and the clocks of those that are used.

use std::time::Duration;

use cvr_store::purge::{PurgeOptions, Purged};
use futures::FutureExt;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn idle_groups_become_tombstones_and_then_nothing() {
    let database = Database::new().await;
    let store = database.store("a").await;
    for id in ["old", "older", "oldest", "new"] {
        Group::with_rows(&store, id, 3).await;
    }
    database
        .sql(
            r#"UPDATE instances SET "lastActive" = now() - interval '3 days' WHERE "clientGroupID" = 'old';
               UPDATE instances SET "lastActive" = now() - interval '4 days' WHERE "clientGroupID" = 'older';
               UPDATE instances SET "lastActive" = now() - interval '40 days' WHERE "clientGroupID" = 'oldest';
               UPDATE instances SET "lastActive" = now() WHERE "clientGroupID" = 'new'"#,
        )
        .await;
    let threshold = Duration::from_secs(48 * 3600);
    assert_eq!(store.purge_round(threshold, 2).await.unwrap(), Purged { groups: 2, remaining: 1 });
    let groups =
        r#"SELECT string_agg(concat_ws(' ', "clientGroupID", deleted, version), ', ' ORDER BY 1) FROM instances"#;
    let groups = groups.replace("ORDER BY 1", r#"ORDER BY "clientGroupID""#);
    assert_eq!(database.value(&groups).await, "new f 01, old f 01, older t 00");
    assert_eq!(database.value("SELECT count(*) FROM rows").await, "6");
    assert_eq!(store.purge_round(threshold, 2).await.unwrap(), Purged { groups: 1, remaining: 0 });
    assert_eq!(store.purge_round(threshold, 2).await.unwrap(), Purged { groups: 0, remaining: 0 });
    assert!(matches!(store.load("old", 1.0).await, Err(StoreError::ClientNotFound(_))));
    Group::load(&store, "new", 1.0).await.unwrap().assert_stored().await;
}

/// Of a purged group is known that it was there, whose it was and when; of any other group nothing is touched.
#[tokio::test]
async fn what_is_left_of_a_purged_group() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut group = Group::with_rows(&store, "g", 3).await;
    let flush = group.config(|update| {
        update.set_client_schema(&Arc::new(serde_json::from_str(r#"{"tables":{}}"#).unwrap())).unwrap();
        update.set_profile_id("p1");
    });
    group.flush(flush).await.unwrap();
    let other = Group::with_rows(&store, "other", 3).await;
    database
        .sql(r#"UPDATE instances SET "lastActive" = now() - CASE "clientGroupID" WHEN 'g' THEN interval '3 days' ELSE '0' END"#)
        .await;
    let instance = r#"SELECT array_to_string(ARRAY[version, "ttlClock"::text, "replicaVersion", owner,
        (extract(epoch FROM "grantedAt") * 1000)::int8::text, "clientSchema"::text, "profileID", deleted::text,
        "lastActive"::text], ' ', '-') FROM instances WHERE "clientGroupID" = 'g'"#;
    let last_active = database.value(r#"SELECT "lastActive" FROM instances WHERE "clientGroupID" = 'g'"#).await;
    let before = format!(r#"01 12.5 01 a 1 {{"tables": {{}}}} p1 false {last_active}"#);
    assert_eq!(database.value(instance).await, before);
    let counts = r#"SELECT concat_ws(' ', (SELECT count(*) FROM desires WHERE "clientGroupID" = 'g'),
        (SELECT count(*) FROM queries WHERE "clientGroupID" = 'g'), (SELECT count(*) FROM clients WHERE "clientGroupID" = 'g'),
        (SELECT count(*) FROM rows WHERE "clientGroupID" = 'g'),
        (SELECT count(*) FROM "rowsVersion" WHERE "clientGroupID" = 'g'))"#;
    assert_eq!(database.value(counts).await, "1 3 1 3 1");
    assert_eq!(store.purge_round(48 * HOUR, 25).await.unwrap(), Purged { groups: 1, remaining: 0 });
    assert_eq!(database.value(instance).await, format!("00 0 - - - - p1 true {last_active}"));
    assert_eq!(database.value(counts).await, "0 0 0 0 0");
    let other = Group::load(&store, "other", other.connected).await.unwrap();
    assert_eq!((other.cvr.queries.len(), other.cvr.clients.len(), other.rows.len()), (3, 1, 3));
    // Whoever still has it in memory writes nothing over it.
    let flush = group.update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
    let refusal = group.flush(flush).await.unwrap_err().to_string();
    assert_eq!(refusal, "CVR has been concurrently modified. Expected 01, got 00");
    assert_eq!(database.value(instance).await, format!("00 0 - - - - p1 true {last_active}"));
    assert_eq!(database.value(counts).await, "0 0 0 0 0");
}

/// A group that somebody has locked is left to a later round and holds up none.
#[tokio::test]
async fn locked_groups_are_passed_over() {
    let database = Database::new().await;
    let store = database.store("a").await;
    for (id, days) in [("oldest", 5), ("older", 4), ("old", 3)] {
        Group::with_rows(&store, id, 1).await;
        let last_active = format!(r#""lastActive" = now() - interval '{days} days'"#);
        database.sql(&format!(r#"UPDATE instances SET {last_active} WHERE "clientGroupID" = '{id}'"#)).await;
    }
    let holder = connect(&database.url).await;
    let lock = format!(r#"BEGIN; SELECT FROM "{SCHEMA}".instances WHERE "clientGroupID" = 'oldest' FOR UPDATE"#);
    holder.batch_execute(&lock).await.unwrap();
    let purged = r#"SELECT string_agg("clientGroupID", ' ' ORDER BY "clientGroupID") FROM instances WHERE deleted"#;
    assert_eq!(store.purge_round(48 * HOUR, 1).await.unwrap(), Purged { groups: 1, remaining: 2 });
    assert_eq!(database.value(purged).await, "older");
    assert_eq!(store.purge_round(48 * HOUR, 2).await.unwrap(), Purged { groups: 1, remaining: 1 });
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(store.purge_round(48 * HOUR, 2).await.unwrap(), Purged { groups: 1, remaining: 0 });
    assert_eq!(database.value(purged).await, "old older oldest");
}

/// A tombstone stays for 31 days, or for as long as a group may be inactive if that is longer, and goes in a round that purges
/// something.
#[tokio::test]
async fn how_long_tombstones_stay() {
    let database = Database::new().await;
    let store = database.store("a").await;
    for (hours, deleted) in [(1000, true), (760, true), (740, true), (1001, false), (49, false), (47, false)] {
        database
            .sql(&format!(
                r#"INSERT INTO instances ("clientGroupID", version, "lastActive", deleted)
                   VALUES ('{hours}', '00', now() - interval '{hours} hours', {deleted})"#
            ))
            .await;
    }
    let left = r#"SELECT string_agg("clientGroupID" || CASE WHEN deleted THEN ' gone' ELSE '' END, ', '
        ORDER BY "lastActive") FROM instances"#;
    for (threshold, groups, expected) in [
        (1100, 0, "1001, 1000 gone, 760 gone, 740 gone, 49, 47"),
        (990, 1, "760 gone, 740 gone, 49, 47"),
        (48, 1, "740 gone, 49 gone, 47"),
        (48, 0, "740 gone, 49 gone, 47"),
    ] {
        let purged = store.purge_round(threshold * HOUR, 25).await.unwrap();
        assert_eq!(purged, Purged { groups, remaining: 0 }, "{threshold}");
        assert_eq!(database.value(left).await, expected, "{threshold}");
    }
    // A batch of none turns purging off.
    let off = PurgeOptions { inactivity: Duration::ZERO, interval: Duration::ZERO, batch: 0 };
    assert_eq!(store.purge(off).now_or_never(), Some(()));
}

#[tokio::test]
async fn touching() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut group = Group::with_rows(&store, "g", 1).await;
    store.touch("g", 1_700_000_100_000.0, 77.5).await.unwrap();
    store.touch("unknown", 1.0, 1.0).await.unwrap();
    let loaded = store.load("g", 1.0).await.unwrap();
    assert_eq!((loaded.last_active, loaded.ttl_clock), (1_700_000_100_000.0, 77.5));
    // A flush moves the TTL clock always, and the time of activity once a minute.
    let flush = group.update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
    group.flush(flush).await.unwrap();
    let loaded = store.load("g", 1.0).await.unwrap();
    assert_eq!((loaded.last_active, loaded.ttl_clock), (1_700_000_000_123.0, 12.5));
    // Once another server has taken the group over, its clock is that one's alone.
    database.store("b").await.load("g", 1_800_000_000_000.0).await.unwrap();
    store.touch("g", 1_700_000_200_000.0, 99.0).await.unwrap();
    let noted = r#"SELECT "ttlClock" || ' at ' || (extract(epoch FROM "lastActive") * 1000)::int8 FROM instances"#;
    assert_eq!(database.value(noted).await, "12.5 at 1700000200000");
}
