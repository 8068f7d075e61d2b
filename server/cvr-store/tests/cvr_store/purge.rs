//! Groups that nobody uses, and the clocks of those that are used.

use std::time::Duration;

use cvr_store::purge::Purged;

use super::*;

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
