//! Records that were purged, taken, changed or broken by others, and replicas that no longer fit (sheet §15): whom it is
//! told, in which words, and that it goes on afterwards.

use protocol_client::{Connection, Event, Hello, Identity, Poke, hash_of};
use testdata::postgres::shared;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};
use zql_spec::protocol::upstream::Upstream;

use crate::harness::{
    CLIENT_SCHEMA, ISSUES, SCHEMA, Server, error, next, open, patiently, poke, pokes_until_got, query,
};
use crate::outages::set_open;

/// What clients are told of a record as it stands in the database, before anybody of the group connected.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_loaded() {
    let server = Server::start(SCHEMA).await;
    for (columns, values, rows, kind, message) in [
        ("deleted", "true", "01", ErrorKind::ClientNotFound, "Client has been purged due to inactivity"),
        (
            "\"replicaVersion\"",
            "'zzz'",
            "01",
            ErrorKind::ClientNotFound,
            "Cannot sync from older replica: CVR=zzz, DB=",
        ),
        // Whoever wrote the record died before it wrote the rows.
        (
            "\"profileID\"",
            "'p'",
            "00",
            ErrorKind::ClientNotFound,
            "max attempts exceeded waiting for CVR@01 to catch up from 00",
        ),
        (
            "owner, \"grantedAt\"",
            "'other', '2200-01-02T03:04:05Z'",
            "01",
            ErrorKind::Rehome,
            "CVR ownership was transferred to other at 2200-01-02T03:04:05.000Z (last connect time: 20",
        ),
        (
            "\"clientSchema\"",
            "'{}'",
            "01",
            ErrorKind::SchemaVersionNotSupported,
            "Could not parse clientSchema stored in CVR: ",
        ),
    ] {
        let identity = server.identity();
        let group = &identity.client_group_id;
        server.sql(&format!(
            r#"INSERT INTO "zero_0/cvr".instances ("clientGroupID", version, "lastActive", {columns})
               VALUES ('{group}', '01', now(), {values});
               INSERT INTO "zero_0/cvr"."rowsVersion" VALUES ('{group}', '{rows}')"#
        ));
        let mut connection = open(&identity, Some("01"), Hello::new(CLIENT_SCHEMA, vec![])).await;
        let body = error(&mut connection).await;
        assert!(body.kind == kind && body.message.starts_with(message), "{columns}: {body:?}");
        assert_eq!(body.max_backoff_ms, (kind == ErrorKind::Rehome).then_some(0.0), "{columns}");
    }
}

/// What no server writes is told to whoever comes to the record, each time, and to nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_nobody_can_read() {
    let server = Server::start(SCHEMA).await;
    let (_, mut bystanders) = group(&server).await;
    for (damage, message) in [
        ("", None),
        (
            "UPDATE instances SET version = 'zz'; UPDATE \"rowsVersion\" SET version = 'zz'",
            Some("the stored client view record has unusable version: Invalid LexiVersion: zz"),
        ),
        (
            "UPDATE queries SET \"queryName\" = NULL",
            Some("the stored client view record has unusable queries: q has neither an AST nor a name and arguments"),
        ),
        (
            "UPDATE desires SET \"patchVersion\" = 'zz'",
            Some("the stored client view record has unusable versions: Invalid LexiVersion: zz"),
        ),
        (
            "UPDATE rows SET \"refCounts\" = '[]'",
            Some("the stored client view record has unusable rows: refCounts []: "),
        ),
        (
            "UPDATE rows SET \"rowKey\" = '7' WHERE \"refCounts\" IS NOT NULL",
            Some("the stored client view record has unusable rows: rowKey 7: "),
        ),
        // Read for those who missed it.
        (
            "UPDATE rows SET \"patchVersion\" = 'zz' WHERE \"refCounts\" IS NULL",
            Some("the stored client view record is unusable: patchVersion: Invalid LexiVersion: zz"),
        ),
        // One of a client's own, and one of the server's.
        ("UPDATE queries SET \"clientAST\" = '7'", Some("Expected object. Got 7")),
        ("UPDATE queries SET \"clientAST\" = '7', internal = true", Some("Expected object. Got 7")),
    ] {
        let identity = server.identity();
        let (group, client) = (&identity.client_group_id, &identity.client_id);
        server.sql(&format!(
            r#"SET search_path = "zero_0/cvr";
            INSERT INTO instances ("clientGroupID", version, "lastActive", "clientSchema")
                VALUES ('{group}', '01', now(), '{CLIENT_SCHEMA}');
            INSERT INTO clients VALUES ('{group}', '{client}');
            INSERT INTO queries ("clientGroupID", "queryHash", "queryName", "queryArgs", "patchVersion")
                VALUES ('{group}', 'q', 'ast', '[{{"table":"issue"}}]', '01');
            INSERT INTO desires ("clientGroupID", "clientID", "queryHash", "patchVersion")
                VALUES ('{group}', '{client}', 'q', '01');
            INSERT INTO "rowsVersion" VALUES ('{group}', '01');
            INSERT INTO rows VALUES ('{group}', '', 'issue', '{{"id":"i1"}}', '01', '01', '{{"q":1}}'),
                ('{group}', '', 'issue', '{{"id":"gone"}}', '01', '01', NULL);"#,
        ));
        for damage in damage.split_terminator("; ") {
            let of_group = if damage.contains("WHERE") { "AND" } else { "WHERE" };
            server.sql(&format!(r#"SET search_path = "zero_0/cvr"; {damage} {of_group} "clientGroupID" = '{group}'"#));
        }
        let Some(message) = message else {
            let whole = poke(&mut open(&identity, Some("00:01"), Hello::again()).await).await;
            assert_eq!(whole.rows().count(), 3, "{whole:?}");
            continue;
        };
        for _ in 0..2 {
            let body = told_why(&identity, Some("00:01")).await;
            assert_eq!((body.kind, body.max_backoff_ms), (ErrorKind::Internal, None), "{damage}: {}", body.message);
            assert!(body.message.starts_with(message), "{damage}: {} should begin with {message}", body.message);
        }
    }
    server.sql("UPDATE issue SET title = 'still served' WHERE id = 'i2'");
    for bystander in &mut bystanders {
        while !poke(bystander).await.rows().any(|row| format!("{row:?}").contains("still served")) {}
    }
}

/// Why a client cannot come back. Whoever is faster than the end of the group is sent away once more, which is no answer.
async fn told_why(identity: &Identity, cookie: Option<&str>) -> ErrorBody {
    loop {
        let hello = Hello::new(CLIENT_SCHEMA, vec![query(ISSUES)]);
        let body = error(&mut open(identity, cookie, hello).await).await;
        if body.message != "Reconnect required" {
            return body;
        }
    }
}

/// A group with two clients that hold the issues.
async fn group(server: &Server) -> (Identity, [Connection; 2]) {
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

/// A record that is purged while clients are connected: whatever happens next is not written, all are sent away, and when they
/// come back they are told why they have to begin anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_purged_under_its_clients() {
    let server = Server::start(SCHEMA).await;
    let (_, mut bystanders) = group(&server).await;
    for by_client in [false, true] {
        let (identity, mut connections) = group(&server).await;
        let of_group = format!(r#"WHERE "clientGroupID" = '{}'"#, identity.client_group_id);
        let version = server.sql(&format!(r#"SELECT version FROM "zero_0/cvr".instances {of_group}"#));
        let version = version.trim();
        let inactive = r#"UPDATE "zero_0/cvr".instances SET "lastActive" = now() - interval '3 days'"#;
        server.sql(&format!("{inactive} {of_group}"));
        assert_eq!(server.purge().await, 1);
        if by_client {
            connections[0].change_queries(vec![query(r#"{"table":"comment"}"#)]).await.expect("sent");
        } else {
            server.sql("UPDATE issue SET title = title || '.' WHERE id = 'i1'");
        }
        let body = told_to_all(&mut connections).await;
        assert_eq!((body.kind, body.max_backoff_ms), (ErrorKind::Rehome, None));
        let message = format!("CVR has been concurrently modified. Expected {version}, got 00");
        assert_eq!(body.message, message);
        for (identity, cookie) in [(&identity, Some(version)), (&identity.sibling(), None)] {
            let body = told_why(identity, cookie).await;
            let expected = (ErrorKind::ClientNotFound, "Client has been purged due to inactivity");
            assert_eq!((body.kind, &*body.message), expected, "{cookie:?}");
        }
        for table in ["clients", "queries", "desires", "rows", "\"rowsVersion\""] {
            let left = server.sql(&format!(r#"SELECT count(*) FROM "zero_0/cvr".{table} {of_group}"#));
            assert_eq!(left.trim(), "0", "{table}");
        }
    }
    server.sql("UPDATE issue SET title = 'still served' WHERE id = 'i2'");
    for bystander in &mut bystanders {
        while !poke(bystander).await.rows().any(|row| format!("{row:?}").contains("still served")) {}
    }
}

/// A record of a newer replica than this server's: whoever of the group comes is told so. Those that wait while the first one
/// is told come back at once and are told then.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_served_from_a_newer_replica() {
    let server = Server::start(SCHEMA).await;
    let (one, locker) = (server.identity(), server.session().await);
    let group = &one.client_group_id;
    server.sql(&format!(
        r#"INSERT INTO "zero_0/cvr".instances ("clientGroupID", version, "lastActive", "replicaVersion")
           VALUES ('{group}', '01', now(), 'zzz');
           INSERT INTO "zero_0/cvr"."rowsVersion" VALUES ('{group}', '01')"#
    ));
    // All of them are there before the record can be read.
    let lock = r#"BEGIN; LOCK TABLE "zero_0/cvr".instances IN ACCESS EXCLUSIVE MODE"#;
    locker.batch_execute(lock).await.expect("locked");
    let identities = [one.clone(), one.sibling(), one.sibling()];
    let mut connections = Vec::new();
    for identity in &identities {
        let mut connection = open(identity, Some("01"), Hello::again()).await;
        connection.send(&Upstream::Ping).await.expect("sent");
        while !matches!(next(&mut connection).await, Event::Pong) {}
        connections.push(connection);
    }
    locker.batch_execute("COMMIT").await.expect("let go");
    let message = format!("Cannot sync from older replica: CVR=zzz, DB={}", server.replica_version());
    for (identity, mut connection) in identities.iter().zip(connections) {
        let mut body = error(&mut connection).await;
        if body.kind == ErrorKind::Rehome {
            assert_eq!((body.max_backoff_ms, &*body.message), (Some(0.0), "Reconnect required"));
            body = error(&mut open(identity, Some("01"), Hello::again()).await).await;
        }
        assert_eq!((body.kind, &*body.message), (ErrorKind::ClientNotFound, &*message));
    }
}

/// What a client missed cannot be read, in the record or in the replica: the group's clients come back later, and it is told
/// what it missed when that can be read again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_and_cannot_be_read() {
    let records = shared().database().expect("a database");
    let server = Server::start_with(SCHEMA, &[("ZERO_CVR_DB", &records)]).await;
    let table = |from: &str, to: &str| server.replica_sql(&format!(r#"ALTER TABLE "{from}" RENAME TO "{to}""#));
    // A version of the replica is read as it was when it was committed, so another one is needed that shows the change.
    let unrelated = async || {
        let mut commits = server.commits.clone();
        let before = *commits.borrow_and_update();
        server.sql("INSERT INTO zero_0.clients VALUES (gen_random_uuid(), 'c', 1)");
        patiently(commits.wait_for(|commits| *commits > before)).await.expect("a commit");
    };
    type Change<'a> = &'a dyn Fn();
    for (name, hide, show, why) in [
        (
            "the record",
            &(|| set_open(&records, false)) as Change<'_>,
            &(|| set_open(&records, true)) as Change<'_>,
            "The database of client view records failed: ",
        ),
        ("the replica", &|| table("comment", "hidden"), &|| table("hidden", "comment"), "Rows could not be read: "),
    ] {
        let (identity, [mut staying, leaving]) = group(&server).await;
        let sibling = identity.sibling();
        let hello = || Hello::new(CLIENT_SCHEMA, vec![query(ISSUES)]);
        let mut missing = open(&sibling, None, hello()).await;
        let hash = hash_of(&query(ISSUES)).expect("a hash").to_owned();
        let cookie = pokes_until_got(&mut missing, &hash).await.pop().expect("a poke").cookie;
        drop((missing, leaving));
        // Who stays is told of it, and holds the group.
        server.sql(&format!("UPDATE comment SET body = 'missed {name}'"));
        let missed = |poke: &Poke| poke.rows().any(|row| format!("{row:?}").contains(&format!("missed {name}")));
        let latest = loop {
            let poke = poke(&mut staying).await;
            if missed(&poke) {
                break poke.cookie;
            }
        };
        hide();
        unrelated().await;
        let mut back = open(&sibling, Some(&cookie), Hello::again()).await;
        for connection in [&mut back, &mut staying] {
            let body = error(connection).await;
            assert_eq!((body.kind, body.max_backoff_ms), (ErrorKind::Rehome, None), "{name}: {}", body.message);
            assert!(body.message.starts_with(why), "{name}: {}", body.message);
        }
        show();
        unrelated().await;
        let mut back = open(&sibling, Some(&cookie), Hello::again()).await;
        while !missed(&poke(&mut back).await) {}
        // Who was told is not told again.
        let mut staying = open(&identity, Some(&latest), Hello::again()).await;
        assert_eq!(poke(&mut staying).await.rows().count(), 0, "{name}");
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
    let message = "value 9007199254740993 (in issue.n) is outside of supported bounds";
    assert_eq!((body.kind, &*body.message), (ErrorKind::Internal, message));
    server.sql("BEGIN; UPDATE issue SET n = 1, title = 'back'; INSERT INTO comment VALUES ('c', 'i1', 'x'); COMMIT");
    while poke(&mut observer).await.rows().count() == 0 {}
    let mut again = open(&identity, Some("00:01"), Hello::again()).await;
    while !poke(&mut again).await.rows().any(|row| format!("{row:?}").contains("back")) {}
}
