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

    // Older data: made anew.
    database.sql(r#"UPDATE "versionHistory" SET "dataVersion" = 12, "schemaVersion" = 12, "minSafeVersion" = 5"#).await;
    let store = database.store("a").await;
    assert_eq!(database.value(history).await, "17 17 5");
    assert!(store.load("g", 1.0).await.unwrap().version.is_empty());
}
