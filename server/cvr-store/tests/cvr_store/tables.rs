//! Setting up and taking over the tables.

use super::*;

#[tokio::test]
async fn a_fresh_database() {
    let database = Database::new().await;
    database.store("a").await;
    let history = r#"SELECT concat_ws(' ', "dataVersion", "schemaVersion", "minSafeVersion") FROM "versionHistory""#;
    assert_eq!(database.value(history).await, "17 17 1");
    // Another server of the same version finds them in order, and several may start at once.
    let (one, other) = tokio::join!(database.try_store("a"), database.try_store("b"));
    one.and(other).unwrap();
    let columns = database
        .value(&format!(
            "SELECT string_agg(concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default), E'\n'
             ORDER BY table_name, column_name) FROM information_schema.columns WHERE table_schema = '{SCHEMA}'"
        ))
        .await;
    assert_eq!(columns.lines().count(), 45, "{columns}");
    for column in [
        "instances ttlClock double precision NO 0",
        "instances deleted boolean YES false",
        "queries queryArgs json YES",
        "desires ttl interval YES",
        "rows refCounts jsonb YES",
        "rowsVersion version text NO",
    ] {
        assert!(columns.lines().any(|line| line == column), "{column} is not in\n{columns}");
    }
    let constraints = database
        .value(&format!(
            "SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), E'\n' ORDER BY conname) FROM pg_constraint
             WHERE connamespace = '\"{SCHEMA}\"'::regnamespace AND contype = 'f'"
        ))
        .await;
    for constraint in [
        r#"fk_clients_client_group FOREIGN KEY ("clientGroupID") REFERENCES instances("clientGroupID") ON DELETE CASCADE"#,
        r#"fk_desires_query FOREIGN KEY ("clientGroupID", "queryHash") REFERENCES queries("clientGroupID", "queryHash") ON DELETE CASCADE"#,
        r#"fk_queries_client_group FOREIGN KEY ("clientGroupID") REFERENCES instances("clientGroupID") ON DELETE CASCADE"#,
        r#"fk_rows_client_group FOREIGN KEY ("clientGroupID") REFERENCES "rowsVersion"("clientGroupID") ON DELETE CASCADE"#,
    ] {
        assert!(constraints.lines().any(|line| line == constraint), "{constraint} is not in\n{constraints}");
    }
    assert_eq!(constraints.lines().count(), 4);
}

/// The first servers of a deployment start together: one of them makes the tables, and all of them find the same.
#[tokio::test]
async fn servers_that_start_at_once_on_a_fresh_database() {
    let alone = Database::new().await;
    alone.store("a").await;
    let expected = structure(&alone).await;
    let database = Database::new().await;
    let tasks = ["a", "b", "c", "d"];
    let stores = futures::future::join_all(tasks.map(|task| database.try_store(task))).await;
    for (task, store) in tasks.iter().zip(stores) {
        Group::with_rows(&store.unwrap(), task, 1).await.assert_stored().await;
    }
    assert_eq!(structure(&database).await, expected);
    assert_eq!(database.value("SELECT count(*) FROM instances").await, "4", "nothing was made twice");
    let history = r#"SELECT string_agg(concat_ws(' ', "dataVersion", "schemaVersion", "minSafeVersion"), ',') FROM "versionHistory""#;
    assert_eq!(database.value(history).await, "17 17 1");
}

#[tokio::test]
async fn other_versions() {
    let database = Database::new().await;
    let store = database.store("a").await;
    Group::with_rows(&store, "g", 3).await.assert_stored().await;

    // Later data that this version may read: kept.
    database
        .sql(r#"UPDATE "versionHistory" SET "dataVersion" = 18, "schemaVersion" = 18, "minSafeVersion" = 17"#)
        .await;
    Group::load(&database.store("a").await, "g", 1.0).await.unwrap().assert_stored().await;
    let history = r#"SELECT concat_ws(' ', "dataVersion", "schemaVersion", "minSafeVersion") FROM "versionHistory""#;
    assert_eq!(database.value(history).await, "17 18 17");

    // Later data that it may not.
    database.sql(r#"UPDATE "versionHistory" SET "minSafeVersion" = 18"#).await;
    assert_eq!(
        database.try_store("a").await.unwrap_err().to_string(),
        "Cannot run view-syncer at schema v17 because rollback limit is v18"
    );

    // Older data than is brought up to date: made anew.
    database.sql(r#"UPDATE "versionHistory" SET "dataVersion" = 11, "schemaVersion" = 11, "minSafeVersion" = 5"#).await;
    let store = database.store("a").await;
    assert_eq!(database.value(history).await, "17 17 5");
    assert!(store.load("g", 1.0).await.unwrap().version.is_empty());
}

/// What takes the tables from a version to the one before.
const UNDO: [(i32, &str); 5] = [
    (17, r#"ALTER TABLE queries DROP COLUMN "rowSetSignature""#),
    (
        16,
        r#"ALTER TABLE instances DROP COLUMN "profileID", DROP COLUMN deleted;
           CREATE INDEX instances_last_active ON instances ("lastActive")"#,
    ),
    (15, r#"ALTER TABLE desires DROP COLUMN "ttlMs", DROP COLUMN "inactivatedAtMs""#),
    (
        14,
        "DROP INDEX instances_last_active; ALTER TABLE clients DROP CONSTRAINT fk_clients_client_group;
         ALTER TABLE queries DROP CONSTRAINT fk_queries_client_group;
         ALTER TABLE rows DROP CONSTRAINT fk_rows_client_group",
    ),
    (13, r#"ALTER TABLE instances DROP COLUMN "ttlClock""#),
];

/// Columns, constraints and indexes, in no order.
async fn structure(database: &Database) -> String {
    database
        .value(&format!(
            "SELECT string_agg(line, E'\n' ORDER BY line) FROM (
                SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default) AS line
                FROM information_schema.columns WHERE table_schema = '{SCHEMA}'
                UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
                WHERE connamespace = '\"{SCHEMA}\"'::regnamespace
                UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = '{SCHEMA}') lines"
        ))
        .await
}

#[tokio::test]
async fn earlier_versions_are_brought_up_to_date() {
    // Whether the tables are those of the earlier version, or a server of that version was put back on today's.
    for rolled_back in [false, true] {
        for earlier in 12..=16 {
            let what = format!("version {earlier}, rolled back: {rolled_back}");
            let database = Database::new().await;
            let store = database.store("a").await;
            let fresh = structure(&database).await;
            let group = Group::with_rows(&store, "g", 3).await;
            store.close().await;
            database
                .sql(
                    r#"UPDATE desires SET ttl = '00:02:00', "ttlMs" = 1, "inactivatedAt" = to_timestamp(90), "inactivatedAtMs" = 1;
                       UPDATE instances SET "profileID" = NULL, "ttlClock" = 7"#,
                )
                .await;
            for (version, sql) in UNDO {
                if version > earlier && !rolled_back {
                    database.sql(sql).await;
                }
            }
            let schema = if rolled_back { 17 } else { earlier };
            database
                .sql(&format!(r#"UPDATE "versionHistory" SET "dataVersion" = {earlier}, "schemaVersion" = {schema}"#))
                .await;
            let store = database.store("a").await;
            let history =
                r#"SELECT concat_ws(' ', "dataVersion", "schemaVersion", "minSafeVersion") FROM "versionHistory""#;
            assert_eq!(database.value(history).await, "17 17 1", "{what}");
            assert_eq!(structure(&database).await, fresh, "{what}");
            // The record is the same, but for what that version did not have.
            let loaded = Group::load(&store, "g", 1.0).await.unwrap();
            assert_eq!(loaded.cvr.version, group.cvr.version, "{what}");
            assert!(loaded.cvr.queries.keys().eq(group.cvr.queries.keys()), "{what}");
            assert!(loaded.cvr.clients["c"].is_empty(), "{what}: it desires nothing any more");
            assert_eq!(lines(&loaded.rows), lines(&group.rows), "{what}");
            assert_eq!(loaded.cvr.ttl_clock, if earlier < 13 && !rolled_back { 0.0 } else { 7.0 }, "{what}");
            let profile = if earlier < 16 { Some("cgg") } else { None };
            assert_eq!(loaded.cvr.profile_id.as_deref(), profile, "{what}");
            let desire = &loaded.cvr.queries["q"].clients["c"];
            let expected = if earlier < 15 { (120_000.0, Some(90_000.0)) } else { (1.0, Some(1.0)) };
            assert_eq!((desire.ttl, desire.inactivated_at), expected, "{what}");
        }
    }
}

#[tokio::test]
async fn tables_that_are_dropped_under_a_server() {
    let drops = [
        ("everything", format!(r#"DROP SCHEMA "{SCHEMA}" CASCADE"#)),
        ("rows alone", "DROP TABLE rows".to_owned()),
        ("all but the history", r#"DROP TABLE desires, queries, clients, rows, "rowsVersion", instances"#.to_owned()),
    ];
    for (what, drop) in drops {
        let database = Database::new().await;
        let store = database.store("a").await;
        let fresh = structure(&database).await;
        let mut group = Group::with_rows(&store, "g", 3).await;
        database.sql(&drop).await;
        // Whoever notices first: the others find the tables, and no record.
        let flush = group.update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
        assert!(matches!(group.flush(flush).await, Err(StoreError::Postgres(_))), "{what}");
        assert_eq!(structure(&database).await, fresh, "{what}");
        let flush = group.update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
        let refusal = group.flush(flush).await.unwrap_err().to_string();
        assert_eq!(refusal, "CVR has been concurrently modified. Expected 01, got 00", "{what}");
        // The group begins anew, and nothing of what was before is left.
        Group::with_rows(&store, "g", 2).await.assert_stored().await;
        assert_eq!(database.value("SELECT count(*) FROM rows").await, "2", "{what}");

        database.sql(&drop).await;
        let refusal = Group::load(&store, "g", 1.0).await.map(|_| ()).unwrap_err();
        assert!(matches!(refusal, StoreError::Postgres(_)), "{what}: {refusal}");
        assert!(!store.load("g", 1.0).await.unwrap().stored, "{what}");
        Group::with_rows(&store, "g", 1).await.assert_stored().await;
    }
}

#[tokio::test]
async fn rows_behind_a_poke_do_not_come_after_their_record_is_gone() {
    let drop = format!(r#"DROP SCHEMA "{SCHEMA}" CASCADE"#);
    let purge = format!(
        r#"SET search_path = "{SCHEMA}"; SELECT FROM instances FOR UPDATE; DELETE FROM rows; DELETE FROM "rowsVersion";
           UPDATE instances SET deleted = true, version = '00'"#
    );
    for gone in [drop, purge] {
        let database = Database::new().await;
        let store = database.store("a").await;
        let mut group = Group::with_rows(&store, "g", 1).await;
        let mut other = connect(&database.url).await;
        let held = other.transaction().await.unwrap();
        held.batch_execute(&format!("SELECT FROM \"{SCHEMA}\".rows FOR UPDATE")).await.unwrap();
        let rows: Vec<_> = (0..150).map(|row| ("q", row.to_string(), Some("02"))).collect();
        let flush = group.update("02", &[], &[], &rows);
        group.flush(flush).await.unwrap();
        // What writes the rows has found the record, and waits.
        let waiting =
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
        while database.value(waiting).await != "true" {}
        held.batch_execute(&gone).await.unwrap();
        held.commit().await.unwrap();
        store.rows_written("g").await.unwrap();
        let left = r#"SELECT (SELECT count(*) FROM rows) + (SELECT count(*) FROM "rowsVersion")"#;
        assert_eq!(database.value(left).await, "0", "{gone}");
    }
}
