//! What is written is what is read, and who may read it.

use cvr::record::{ROW_SET_SIGNATURE, Signature};
use cvr_store::Rehome;

use super::*;

#[tokio::test]
async fn everything_comes_back() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut group = Group::load(&store, "g", 5.0).await.unwrap();
    assert!(!group.cvr.stored && group.cvr.version.is_empty());
    let args = r#"[true, [1.0, [null, true]], {"b":1,"a":"é\""}, []]"#;
    let flush = group.config(|update| {
        let schema = r#"{"tables":{"issue":{"columns":{"id":{"type":"string"}},"primaryKey":["id"]}}}"#;
        update.set_client_schema(&Arc::new(serde_json::from_str(schema).unwrap())).unwrap();
        update.set_profile_id("p1");
        for client in ["c1", "c2"] {
            update.ensure_client(client, "zero_0");
        }
        let custom = Body::Custom { name: "named".into(), args: args.into() };
        let custom = Put { query: "custom".into(), body: Some(custom), ttl: Some(-1.0) };
        update.put_desired("c1", &[put("q1"), put("q2"), custom]).unwrap();
        update.put_desired("c2", &[put("q1"), Put { ttl: Some(1.5), ..put("q3") }]).unwrap();
        update.inactivate("c2", &["q3".into()], 7.25).unwrap();
        update.clear_desired("c2").unwrap();
    });
    group.flush(flush).await.unwrap();
    group.assert_stored().await;
    let value = |sql: &'static str| database.value(sql);
    assert_eq!(value(r#"SELECT "queryArgs" FROM queries WHERE "queryHash" = 'custom'"#).await, args);
    assert_eq!(
        value(
            r#"SELECT concat_ws(' ', version, owner, extract(epoch FROM "grantedAt") * 1000, "profileID",
                extract(epoch FROM "lastActive") * 1000, "ttlClock") FROM instances"#
        )
        .await,
        "00:01 a 5.000000 p1 1700000000123.000000 12.5"
    );
    assert_eq!(
        value(r#"SELECT string_agg(concat_ws(' ', "clientID", "queryHash", "patchVersion", deleted, ttl, "ttlMs",
                extract(epoch FROM "inactivatedAt"), "inactivatedAtMs"), ', ' ORDER BY "clientID", "queryHash") FROM desires"#)
        .await,
        "c1 custom 00:01 f 00:10:00 600000, c1 q1 00:01 f 00:05:00 300000, c1 q2 00:01 f 00:05:00 300000, \
         c2 q1 00:01 t 00:05:00 300000, c2 q3 00:01 t 00:00:00.0015 1.5 0.000007 7.25"
    );
    assert_eq!(value(r#"SELECT internal FROM queries WHERE "queryHash" = 'lmids'"#).await, "true");
    assert_eq!(value(r#"SELECT internal FROM queries WHERE "queryHash" = 'q1'"#).await, "NULL");

    // Queries run; rows come, change and go.
    let rows = ["1", "2", "3"].map(|id| ("q1", id.to_owned(), Some("01")));
    let flush = group.update("01", &["lmids", "mutationResults", "q1"], &["q2"], &rows);
    group.flush(flush).await.unwrap();
    group.assert_stored().await;
    let flush = group.update("02", &[], &[], &[("q1", "2".into(), Some("02")), ("q1", "3".into(), None)]);
    group.flush(flush).await.unwrap();
    group.assert_stored().await;
    assert_eq!(
        value(r#"SELECT string_agg(concat_ws(' ', "rowKey", "rowVersion", "patchVersion", "refCounts"), ', ' ORDER BY "rowKey")
                FROM rows"#)
        .await,
        r#"{"id": "1"} 01 01 {"q1": 1}, {"id": "2"} 02 02 {"q1": 1}, {"id": "3"} 01 02"#
    );
    assert_eq!(
        value(
            r#"SELECT concat_ws(' ', "patchVersion", "transformationHash", deleted, "clientAST") FROM queries
                WHERE "queryHash" = 'q2'"#
        )
        .await,
        r#"01 t {"table": "q2"}"#
    );
    // The removed query's desire remains, and so it does when the query is put again.
    assert!(group.cvr.clients["c1"].contains("q2") && !group.cvr.queries.contains_key("q2"));
    let flush = group.config(|update| {
        update.put_desired("c1", &[put("q2")]).unwrap();
        update.delete_client("c2", 9.0);
    });
    group.flush(flush).await.unwrap();
    group.assert_stored().await;
    assert_eq!(group.cvr.version, version("02:01"));
    assert_eq!(database.value(r#"SELECT version FROM "rowsVersion""#).await, "02:01");
}

#[tokio::test]
async fn what_another_server_wrote() {
    let database = Database::new().await;
    let store = database.store("a").await;
    database
        .sql(
            r#"INSERT INTO instances ("clientGroupID", version, "lastActive") VALUES ('g', '01:02', now()), ('bad', '00', now()),
               ('gone', '00', now());
               UPDATE instances SET "clientSchema" = '[]' WHERE "clientGroupID" = 'bad';
               UPDATE instances SET deleted = true WHERE "clientGroupID" = 'gone';
               INSERT INTO "rowsVersion" VALUES ('g', '01:02');
               INSERT INTO clients VALUES ('g', 'c');
               INSERT INTO queries ("clientGroupID", "queryHash", "clientAST", internal, deleted, "rowSetSignature")
                   VALUES ('g', 'lmids', '{"table":"l"}', true, false, NULL), ('g', 'q', '{"table":"t"}', NULL, NULL, 'ff'),
                   ('g', 'old', '{"table":"t"}', NULL, true, NULL);
               INSERT INTO desires ("clientGroupID", "clientID", "queryHash", "patchVersion", deleted, "inactivatedAtMs")
                   VALUES ('g', 'c', 'q', '01', NULL, NULL), ('g', 'left', 'q', '01:01', true, 5), ('g', 'c', 'old', '01', true, NULL);
               UPDATE desires SET "ttlMs" = 86400000 WHERE "clientID" = 'left';
               INSERT INTO rows VALUES ('g', '', 'other.tbl', '{"b": 1, "a": null}', '01', '01', '{"q": 2, "x": 0}')"#,
        )
        .await;
    let group = Group::load(&store, "g", 1.0).await.unwrap();
    // It was nobody's.
    let owner = r#"SELECT owner || ' ' || (extract(epoch FROM "grantedAt") * 1000)::int8 FROM instances WHERE owner IS NOT NULL"#;
    assert_eq!(database.value(owner).await, "a 1");
    assert_eq!(group.cvr.queries.len(), 2);
    assert!(group.cvr.queries["lmids"].body.is_internal());
    assert_eq!(group.cvr.queries["lmids"].signature, Signature::Absent);
    assert_eq!(group.cvr.queries["q"].signature, Signature::Foreign("ff".into()));
    let desires = &group.cvr.queries["q"].clients;
    assert_eq!((desires["c"].inactivated_at, desires["c"].ttl), (None, 300_000.0));
    let left = &desires["left"];
    assert_eq!((left.inactivated_at, left.ttl), (Some(5.0), 600_000.0), "a client that left is remembered");
    assert_eq!(group.cvr.clients.keys().map(|client| &**client).collect::<Vec<_>>(), ["c"]);
    assert_eq!(group.rows.len(), 1);
    assert!(matches!(
        store.load("bad", 1.0).await,
        Err(StoreError::SchemaVersionNotSupported(text)) if text.starts_with("Could not parse clientSchema stored in CVR: ")
    ));
    assert!(matches!(
        store.load("gone", 1.0).await,
        Err(StoreError::ClientNotFound(text)) if text == "Client has been purged due to inactivity"
    ));
}

#[tokio::test]
async fn signatures_of_rows() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut group = Group::with_rows(&store, "g", 1).await;
    let stored = r#"SELECT string_agg(concat_ws(' ', "queryHash", coalesce("rowSetSignature", '-')), ', ' ORDER BY "queryHash")
        FROM queries"#;
    let ours = format!("lmids -, mutationResults -, q {ROW_SET_SIGNATURE}");
    assert_eq!(database.value(stored).await, ours);
    // A zero-cache had the group, and its client wants the query for longer: the counts are still that server's.
    database.sql(r#"UPDATE queries SET "rowSetSignature" = 'ff'"#).await;
    group = Group::load(&store, "g", group.connected).await.unwrap();
    let flush = group.config(|update| update.put_desired("c", &[Put { ttl: Some(600_000.0), ..put("q") }]).unwrap());
    group.flush(flush).await.unwrap();
    assert_eq!(database.value(stored).await, "lmids ff, mutationResults ff, q ff");
    group.assert_stored().await;
    let flush = group.update("01", &["q", "lmids", "mutationResults"], &[], &[("q", "0".into(), Some("01"))]);
    group.flush(flush).await.unwrap();
    assert_eq!(database.value(stored).await, ours);
    // From now on there is nothing to write.
    group = Group::load(&store, "g", group.connected).await.unwrap();
    let again = group.update("01", &["q", "lmids", "mutationResults"], &[], &[("q", "0".into(), Some("01"))]);
    assert!(again.is_none());
}

#[tokio::test]
async fn ownership() {
    let database = Database::new().await;
    let (a, b) = (database.store("a").await, database.store("b").await);
    let mut at_a = Group::with_rows(&a, "g", 1).await;
    // Whose it is reads it without a claim.
    a.load("g", 900.0).await.unwrap();
    assert_eq!(database.value(r#"SELECT (extract(epoch FROM "grantedAt") * 1000)::int8 FROM instances"#).await, "1");
    // A client connects to b later: b claims the record.
    at_a.connected = 1_000.0;
    let flush = at_a.update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
    at_a.flush(flush).await.unwrap();
    assert!(
        matches!(b.load("g", 999.0).await, Err(StoreError::Rehome(Rehome::Ownership { owner, .. })) if owner == "a")
    );
    let mut at_b = Group::load(&b, "g", 2_000.0).await.unwrap();
    assert_eq!(database.value("SELECT owner FROM instances").await, "b");
    // a notices at its next flush, and so does nothing.
    let flush = at_a.update("03", &[], &[], &[("q", "0".into(), Some("03"))]);
    assert_eq!(
        at_a.flush(flush).await.unwrap_err().to_string(),
        "CVR ownership was transferred to b at 1970-01-01T00:00:02.000Z (last connect time: 1970-01-01T00:00:01.000Z)"
    );
    at_b.assert_stored().await;
    // A client that connects to a even later takes it back.
    let mut again = Group::load(&a, "g", 3_000.0).await.unwrap();
    let flush = at_b.update("03", &[], &[], &[("q", "0".into(), Some("03"))]);
    assert!(matches!(at_b.flush(flush).await, Err(StoreError::Rehome(Rehome::Ownership { .. }))));
    let flush = again.update("03", &[], &[], &[("q", "0".into(), Some("03"))]);
    again.flush(flush).await.unwrap();
    // Equal times do not conflict.
    Group::load(&b, "g", 3_000.0).await.unwrap();
}

#[tokio::test]
async fn arguments_of_every_kind() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut group = Group::load(&store, "g", 1.0).await.unwrap();
    let arguments = [
        "[]",
        "[true]",
        "[[[1, true]]]",
        "[null]",
        "[-0.5e-7, 12345678901234567890]",
        r#"["\u00e9\"", {}, [{"b":[], "a":1}]]"#,
    ];
    let flush = group.config(|update| {
        update.ensure_client("c", "zero_0");
        for args in arguments {
            let body = Some(Body::Custom { name: "named".into(), args: args.into() });
            update.put_desired("c", &[Put { query: args.into(), body, ttl: None }]).unwrap();
        }
    });
    group.flush(flush).await.unwrap();
    // Byte for byte: a query is named by the hash of its arguments' text.
    let loaded = Group::load(&store, "g", 1.0).await.unwrap();
    for args in arguments {
        assert_eq!(loaded.cvr.queries[args].body, Body::Custom { name: "named".into(), args: args.into() });
    }
}

/// A client is its group's, whatever other groups call theirs.
#[tokio::test]
async fn clients_of_other_groups() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let (mut one, other) = (Group::with_rows(&store, "one", 1).await, Group::with_rows(&store, "other", 1).await);
    let flush = one.config(|update| {
        update.delete_client("c", 1.0);
        update.delete_client("nobody", 1.0);
    });
    one.flush(flush).await.unwrap();
    one.assert_stored().await;
    other.assert_stored().await;
    assert_eq!(database.value(r#"SELECT string_agg("clientGroupID", ' ') FROM clients"#).await, "other");
}

#[tokio::test]
async fn rows_that_never_came() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let group = Group::with_rows(&store, "g", 2).await;
    // A server wrote the record and died before it wrote the rows.
    database.sql("UPDATE instances SET version = '02'").await;
    assert_eq!(
        store.load("g", 1.0).await.unwrap_err().to_string(),
        "max attempts exceeded waiting for CVR@02 to catch up from 01"
    );
    // It did not die; it was only slow.
    let (loaded, ()) = tokio::join!(store.load("g", 1.0), database.sql(r#"UPDATE "rowsVersion" SET version = '02'"#));
    assert_eq!(loaded.unwrap().version, version("02"));
    assert_eq!(group.rows.len(), 2);
}

#[tokio::test]
async fn rows_of_a_record_that_was_written_meanwhile() {
    let database = Database::new().await;
    let (a, b) = (database.store("a").await, database.store("b").await);
    let mut at_a = Group::with_rows(&a, "g", 1).await;
    let read = b.load("g", 1.0).await.unwrap();
    // b has read the record and not claimed it yet when a writes it once more, with its rows.
    database.sql("UPDATE instances SET owner = 'a'").await;
    let flush = at_a.update("02", &[], &[], &[("q", "0".into(), Some("02"))]);
    at_a.flush(flush).await.unwrap();
    let refusal = b.load_rows(&read).await.unwrap_err();
    assert!(matches!(refusal, StoreError::Rehome(Rehome::ConcurrentModification { .. })), "{refusal}");
    let again = b.load("g", 1.0).await.unwrap();
    assert_eq!(b.load_rows(&again).await.unwrap().len(), 1);
}

/// A query that was removed keeps what it asks and whose its counts were; that it ever ran it does not. Put again, it begins
/// anew.
#[tokio::test]
async fn tombstones_of_queries() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut group = Group::with_rows(&store, "g", 1).await;
    let named = || {
        let body = Some(Body::Custom { name: "named".into(), args: "[1,  {}]".into() });
        Put { query: "n".into(), body, ttl: None }
    };
    let flush = group.config(|update| update.put_desired("c", &[named()]).unwrap());
    group.flush(flush).await.unwrap();
    let flush = group.update("02", &["n"], &[], &[("n", "0".into(), Some("01"))]);
    group.flush(flush).await.unwrap();
    database.sql(r#"UPDATE queries SET "rowSetSignature" = 'ff' WHERE "queryHash" = 'q'"#).await;
    group = Group::load(&store, "g", 1.0).await.unwrap();
    let columns = r#"SELECT string_agg(array_to_string(ARRAY["queryHash", "clientAST"::text, "queryName", "queryArgs"::text,
        "patchVersion", "transformationHash", "transformationVersion", internal::text, deleted::text, "rowSetSignature"],
        ' ', '-'), E'\n' ORDER BY "queryHash") FROM queries WHERE internal IS NULL"#;
    let ours = ROW_SET_SIGNATURE;
    assert_eq!(
        database.value(columns).await,
        format!("n - named [1,  {{}}] 02 hash 02 - false {ours}\nq {{\"table\": \"q\"}} - - 01 hash 01 - false ff")
    );
    let flush = group.update("03", &[], &["n", "q"], &[]);
    group.flush(flush).await.unwrap();
    assert_eq!(
        database.value(columns).await,
        format!("n - named [1,  {{}}] 03 - - - true {ours}\nq {{\"table\": \"q\"}} - - 03 - - - true ff")
    );
    assert_eq!(database.value("SELECT count(*) FROM desires").await, "2");
    group.assert_stored().await;
    let flush = group.config(|update| {
        update.inactivate("c", &["n".into()], 1.0).unwrap();
        update.put_desired("c", &[named()]).unwrap();
    });
    group.flush(flush).await.unwrap();
    assert_eq!(
        database.value(columns).await,
        "n - named [1,  {}] - - - - false -\nq {\"table\": \"q\"} - - 03 - - - true ff"
    );
    group.assert_stored().await;
}

/// A record whose rows were never written stands at the beginning; one that stands anywhere else waits for them.
#[tokio::test]
async fn a_record_without_rows() {
    let database = Database::new().await;
    let store = database.store("a").await;
    database
        .sql(
            r#"INSERT INTO instances ("clientGroupID", version, "lastActive")
               VALUES ('new', '00', now()), ('late', '01', now()), ('lost', '01', now())"#,
        )
        .await;
    let mut new = Group::load(&store, "new", 1.0).await.unwrap();
    assert!(new.cvr.stored && new.cvr.version.is_empty() && new.rows.is_empty());
    let flush = new.config(|update| update.ensure_client("c", "zero_0"));
    new.flush(flush).await.unwrap();
    new.assert_stored().await;
    let (late, lost, ()) = tokio::join!(
        store.load("late", 1.0),
        store.load("lost", 1.0),
        database.sql(r#"INSERT INTO "rowsVersion" VALUES ('late', '01')"#)
    );
    assert_eq!(late.unwrap().version, version("01"));
    assert_eq!(lost.unwrap_err().to_string(), "max attempts exceeded waiting for CVR@01 to catch up from 00");
}

/// What no server writes is told as what it is, and troubles nobody but its group.
#[tokio::test]
async fn records_that_cannot_be_read() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let other = Group::with_rows(&store, "other", 1).await;
    let neither = "queries: q has neither an AST nor a name and arguments";
    for (number, (tables, change, fault)) in [
        (&["instances", "rowsVersion"][..], "version = 'zz'", "version: Invalid LexiVersion: zz"),
        (&["instances", "rowsVersion"], "version = '01:01:01'", "version: Invalid version string 01:01:01"),
        (&["queries"], r#""clientAST" = NULL"#, neither),
        (&["queries"], r#""clientAST" = NULL, "queryName" = 'n'"#, neither),
        (&["queries"], r#""patchVersion" = 'zz'"#, "versions: Invalid LexiVersion: zz"),
        (&["queries"], r#""transformationVersion" = '01:zz'"#, "versions: Invalid LexiVersion: zz"),
        (&["desires"], r#""patchVersion" = 'zz'"#, "versions: Invalid LexiVersion: zz"),
        (&["rows"], r#""patchVersion" = 'zz'"#, "rows: patchVersion: Invalid LexiVersion: zz"),
        (&["rows"], r#""rowKey" = '[]'"#, "rows: rowKey []: "),
        (&["rows"], r#""refCounts" = '[]'"#, "rows: refCounts []: "),
        (&["rows"], r#""refCounts" = 'null'"#, "rows: refCounts null: "),
        (&["rows"], r#""refCounts" = '1'"#, "rows: refCounts 1: "),
        (&["rows"], r#""refCounts" = '{"q": "1"}'"#, r#"rows: refCounts {"q": "1"}: "#),
        (&["rows"], r#""refCounts" = '{"q": 0.5}'"#, r#"rows: refCounts {"q": 0.5}: "#),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("g{number}");
        Group::with_rows(&store, &id, 1).await;
        let query = if tables == ["queries"] { r#" AND "queryHash" = 'q'"# } else { "" };
        for table in tables {
            database.sql(&format!(r#"UPDATE "{table}" SET {change} WHERE "clientGroupID" = '{id}'{query}"#)).await;
        }
        match Group::load(&store, &id, 1.0).await.map(|_| ()) {
            Err(StoreError::Refused(text)) => {
                let expected = format!("the stored client view record has unusable {fault}");
                assert!(text.starts_with(&expected), "{text} should begin with {expected}");
            }
            outcome => panic!("{change}: {outcome:?}"),
        }
    }
    other.assert_stored().await;
}
