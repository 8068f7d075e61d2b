//! Databases that are away for a while: clients are told to come back, and go on with what they have.

use protocol_client::{Connection, Error, Hello, Identity, hash_of};
use serde_json::json;
use testdata::postgres::shared;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};

use crate::crud::{acknowledged, everything, op, push, schema};
use crate::harness::{CLIENT_SCHEMA, ISSUES, Server, error, open, patiently, poke, pokes_until_got, query};

/// Ends all sessions of a database and lets nobody in, or lets them in again.
pub(crate) fn set_open(database: &str, open: bool) {
    let name = database.rsplit('/').next().and_then(|name| name.split('?').next()).expect("a name");
    let sql = format!(
        "ALTER DATABASE {name} ALLOW_CONNECTIONS {open}; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND NOT {open}"
    );
    shared().psql(&shared().url("postgres"), &sql).expect("good SQL");
}

/// A server whose records are in a database of their own, that database, and a client with its cookie.
async fn start() -> (Server, String, Identity, Connection, String) {
    let records = shared().database().expect("a database");
    let server = Server::start_with(&schema(), &[("ZERO_CVR_DB", &records)]).await;
    let wanted = query(ISSUES);
    let (identity, mut connection) = server.connect(vec![wanted.clone()]).await;
    let cookie =
        pokes_until_got(&mut connection, hash_of(&wanted).expect("a hash")).await.pop().expect("a poke").cookie;
    (server, records, identity, connection, cookie)
}

/// That the client is to come back later, and why; then the socket is closed without a code.
async fn sent_away(connection: &mut Connection, why: &str) {
    let ErrorBody { kind, message, max_backoff_ms, .. } = error(connection).await;
    assert!((kind, max_backoff_ms) == (ErrorKind::Rehome, None) && message.starts_with(why), "{kind:?} {message}");
    let end = patiently(connection.next()).await;
    assert!(matches!(&end, Err(Error::Closed { code: None, .. })), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_reached() {
    let (server, records, identity, mut connection, cookie) = start().await;
    set_open(&records, false);
    server.sql("UPDATE issue SET title = 'missed' WHERE id = 'i1'");
    let why = "The database of client view records failed: ";
    sent_away(&mut connection, why).await;
    sent_away(&mut open(&identity, Some(&cookie), Hello::again()).await, why).await;
    sent_away(&mut open(&server.identity(), None, Hello::new(CLIENT_SCHEMA, vec![])).await, why).await;
    set_open(&records, true);
    let mut connection = open(&identity, Some(&cookie), Hello::again()).await;
    let missed = poke(&mut connection).await;
    assert_eq!((missed.base, missed.parts[0].rows_patch.as_ref().map(Vec::len)), (Some(cookie), Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_behind_a_poke_that_cannot_be_written() {
    let (server, records, identity, mut connection, cookie) = start().await;
    let refuse =
        r#"ALTER TABLE "zero_0/cvr".rows ADD CONSTRAINT no_more CHECK ("rowKey" ->> 'id' <> 'many7') NOT VALID"#;
    shared().psql(&records, refuse).expect("good SQL");
    server.sql("INSERT INTO issue SELECT 'many' || n, 'one of many', true FROM generate_series(1, 200) n");
    let many = poke(&mut connection).await;
    assert_eq!((many.base.as_deref(), many.rows().count()), (Some(&*cookie), 200));
    // The record is lost. The client is let go at once, without a word, and when it comes back it is told to begin anew.
    let end = patiently(connection.next()).await;
    assert!(matches!(&end, Err(Error::Closed { code: None, .. })), "{end:?}");
    let body = loop {
        let body = error(&mut open(&identity, Some(&many.cookie), Hello::again()).await).await;
        // Whoever is faster than the group's end is sent away once more.
        if body.message != "Reconnect required" {
            break body;
        }
    };
    assert_eq!(body.kind, ErrorKind::ClientNotFound, "{body:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_database_that_cannot_be_reached() {
    let (server, _, identity, mut connection, cookie) = start().await;
    server.permit(&json!({ "issue": { "row": everything() } })).await;
    set_open(&server.database, false);
    let made = json!([op("insert", "issue", &json!({ "id": "i3", "title": "made", "open": true }))]);
    let message = push(&identity, 1, &[made]);
    connection.send_text(message.clone()).await.expect("sent");
    sent_away(&mut connection, "The source database failed: ").await;
    set_open(&server.database, true);
    // What it pushes again is done once.
    let mut connection = open(&identity, Some(&cookie), Hello::again()).await;
    for _ in 0..2 {
        connection.send_text(message.clone()).await.expect("sent");
    }
    acknowledged(&mut connection, &identity, 1.0).await;
    assert_eq!(server.sql("SELECT count(*) FROM issue WHERE title = 'made'"), "1");
}
