//! Records that were purged, taken, changed or broken by others, and replicas that no longer fit (sheet §15): whom it is
//! told, in which words, and that it goes on afterwards.

use protocol_client::{Connection, Hello, hash_of};
use zql_spec::protocol::error::{ErrorBody, ErrorKind};

use crate::harness::{CLIENT_SCHEMA, ISSUES, SCHEMA, Server, error, open, poke, pokes_until_got, query};

/// What clients are told of a record as it stands in the database, before anybody of the group connected.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_loaded() {
    let server = Server::start(SCHEMA).await;
    for (columns, values, kind, message) in [
        ("deleted", "true", ErrorKind::ClientNotFound, "Client has been purged due to inactivity"),
        ("\"replicaVersion\"", "'zzz'", ErrorKind::ClientNotFound, "Cannot sync from older replica: CVR=zzz, DB="),
        (
            "owner, \"grantedAt\"",
            "'other', '2200-01-02T03:04:05Z'",
            ErrorKind::Rehome,
            "CVR ownership was transferred to other at 2200-01-02T03:04:05.000Z (last connect time: 20",
        ),
        (
            "\"clientSchema\"",
            "'{}'",
            ErrorKind::SchemaVersionNotSupported,
            "Could not parse clientSchema stored in CVR: ",
        ),
    ] {
        let identity = server.identity();
        let group = &identity.client_group_id;
        server.sql(&format!(
            r#"INSERT INTO "zero_0/cvr".instances ("clientGroupID", version, "lastActive", {columns})
               VALUES ('{group}', '01', now(), {values});
               INSERT INTO "zero_0/cvr"."rowsVersion" VALUES ('{group}', '01')"#
        ));
        let mut connection = open(&identity, Some("01"), Hello::new(CLIENT_SCHEMA, vec![])).await;
        let body = error(&mut connection).await;
        assert!(body.kind == kind && body.message.starts_with(message), "{columns}: {body:?}");
        assert_eq!(body.max_backoff_ms, (kind == ErrorKind::Rehome).then_some(0.0), "{columns}");
    }
}

/// A group with two clients that hold the issues.
async fn group(server: &Server) -> (protocol_client::Identity, [Connection; 2]) {
    let hash = hash_of(&query(ISSUES)).expect("a hash").to_owned();
    let (identity, mut one) = server.connect(vec![query(ISSUES)]).await;
    pokes_until_got(&mut one, &hash).await;
    let mut two = open(&identity.sibling(), None, Hello::new(CLIENT_SCHEMA, vec![query(ISSUES)])).await;
    pokes_until_got(&mut two, &hash).await;
    // The first one is told of the second.
    poke(&mut one).await;
    (identity, [one, two])
}

/// The error that both clients of a group are told.
async fn told_to_all(connections: &mut [Connection; 2]) -> ErrorBody {
    let [one, two] = connections;
    let (one, two) = (error(one).await, error(two).await);
    assert_eq!(format!("{one:?}"), format!("{two:?}"));
    one
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_others_write() {
    let server = Server::start(SCHEMA).await;
    let (_, mut bystanders) = group(&server).await;
    for (change, message, backoff) in [
        ("version = split_part(version, ':', 1) || ':0z'", "CVR has been concurrently modified. Expected ", None),
        (
            "owner = 'other', \"grantedAt\" = '2200-01-02T03:04:05Z'",
            "CVR ownership was transferred to other at 2200-01-02T03:04:05.000Z (last connect time: 20",
            Some(0.0),
        ),
    ] {
        let (identity, mut connections) = group(&server).await;
        let of_group = format!(r#"WHERE "clientGroupID" = '{}'"#, identity.client_group_id);
        server.sql(&format!(r#"UPDATE "zero_0/cvr".instances SET {change} {of_group}"#));
        server.sql("UPDATE issue SET title = title || '.' WHERE id = 'i1'");
        let body = told_to_all(&mut connections).await;
        assert!(body.kind == ErrorKind::Rehome && body.message.starts_with(message), "{body:?}");
        assert_eq!(body.max_backoff_ms, backoff);
        for bystander in &mut bystanders {
            while poke(bystander).await.rows().count() == 0 {}
        }
        // Whoever owns it now lets go, and the client comes back with what it has.
        server.sql(&format!(r#"UPDATE "zero_0/cvr".instances SET owner = NULL, "grantedAt" = NULL {of_group}"#));
        server.sql(&format!(
            r#"UPDATE "zero_0/cvr"."rowsVersion" v SET version = i.version FROM "zero_0/cvr".instances i
               WHERE v."clientGroupID" = i."clientGroupID" AND i."clientGroupID" = '{}'"#,
            identity.client_group_id
        ));
        let mut again = open(&identity, Some("00:01"), Hello::again()).await;
        while poke(&mut again).await.rows().count() == 0 {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_no_longer_fit() {
    let server = Server::start(SCHEMA).await;
    let (identity, mut connections) = group(&server).await;
    // A new column is no trouble: every row comes again with it.
    server.sql("ALTER TABLE issue ADD COLUMN extra text DEFAULT 'x'; UPDATE issue SET title = 'wider' WHERE id = 'i1'");
    for connection in &mut connections {
        while !poke(connection).await.rows().any(|row| format!("{row:?}").contains("wider")) {}
    }
    server.sql("ALTER TABLE issue DROP COLUMN title; UPDATE issue SET open = false WHERE id = 'i1'");
    let body = told_to_all(&mut connections).await;
    assert_eq!(body.kind, ErrorKind::SchemaVersionNotSupported);
    assert_eq!(
        body.message,
        "The \"issue\".\"title\" column does not exist or is not one of the replicated columns: \"extra\",\"id\",\"open\"."
    );
    // It stays so for whoever comes back.
    let mut again = open(&identity.sibling(), None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    assert_eq!(error(&mut again).await.kind, ErrorKind::SchemaVersionNotSupported);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_javascript_cannot_hold() {
    let server = Server::start(
        "CREATE TABLE issue (id text PRIMARY KEY, title text, open bool NOT NULL, n int8);
         CREATE TABLE comment (id text PRIMARY KEY, issue_id text NOT NULL, body text);
         INSERT INTO issue VALUES ('i1', 'first', true, 9007199254740991)",
    )
    .await;
    let (_, mut observer) = server.connect(vec![query(r#"{"table":"comment"}"#)]).await;
    let (identity, mut connections) = group(&server).await;
    server.sql("UPDATE issue SET n = 9007199254740993");
    let body = told_to_all(&mut connections).await;
    assert_eq!(body.kind, ErrorKind::Internal);
    assert!(body.message.contains("value 9007199254740993 (in issue.n) is outside of supported bounds"), "{body:?}");
    server.sql("BEGIN; UPDATE issue SET n = 1, title = 'back'; INSERT INTO comment VALUES ('c', 'i1', 'x'); COMMIT");
    while poke(&mut observer).await.rows().count() == 0 {}
    let mut again = open(&identity, Some("00:01"), Hello::again()).await;
    while !poke(&mut again).await.rows().any(|row| format!("{row:?}").contains("back")) {}
}
