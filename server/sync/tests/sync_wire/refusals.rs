//! How clients are told what is wrong, each alone, while others of the server go on.

use std::sync::atomic::Ordering;

use protocol_client::{Error, Event, Hello, hash_of};
use zql_spec::protocol::error::{ErrorBody, ErrorKind, ErrorOrigin, ErrorReason};
use zql_spec::protocol::upstream::{DeleteClients, DesiredOp, PutQuery, Upstream};

use crate::auth::MUTATE_URL;
use crate::harness::{
    CLIENT_SCHEMA, ISSUES, SCHEMA, Server, error, next, open, patiently, poke, pokes_until_got, query,
};

#[tokio::test(flavor = "multi_thread")]
async fn joining_is_refused() {
    let server = Server::start(SCHEMA).await;
    let schema = |tables: &str| Hello::new(&format!(r#"{{"tables":{tables}}}"#), vec![]);
    let put = |ast: Option<&str>, name: Option<&str>| {
        let raw = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).expect("JSON");
        let put =
            PutQuery { hash: "h".to_owned(), ttl: None, ast: ast.map(raw), name: name.map(str::to_owned), args: None };
        Hello::new(CLIENT_SCHEMA, vec![DesiredOp::Put(put)])
    };
    let deep = format!(
        "{}{}{}",
        r#"{"table":"issue","where":"#.to_owned(),
        r#"{"type":"and","conditions":["#.repeat(1000),
        "]}".repeat(1000) + "}"
    );
    for (cookie, hello, kind, message) in [
        (Some("zz"), Hello::again(), ErrorKind::Internal, "Invalid LexiVersion: zz"),
        (Some("00:01:02"), Hello::again(), ErrorKind::Internal, "Invalid version string 00:01:02"),
        (Some("00:01"), Hello::again(), ErrorKind::ClientNotFound, "Client not found"),
        (
            None,
            Hello::again(),
            ErrorKind::InvalidConnectionRequest,
            "The initConnection message for a new client group must include client schema.",
        ),
        (
            None,
            schema(r#"{"nosuch":{"columns":{},"primaryKey":["id"]}}"#),
            ErrorKind::SchemaVersionNotSupported,
            "The \"nosuch\" table does not exist or is not one of the replicated tables: \"comment\",\"issue\".",
        ),
        (
            None,
            schema(r#"{"issue":{"columns":{"open":{"type":"number"}},"primaryKey":["id"]}}"#),
            ErrorKind::SchemaVersionNotSupported,
            "The \"issue\".\"open\" column's upstream type \"boolean\" does not match the client type \"number\"",
        ),
        (None, put(None, None), ErrorKind::Internal, "Must provide name and args"),
        (
            None,
            put(Some(r#"{"table":"issue"}"#), Some("n")),
            ErrorKind::Internal,
            "Cannot provide name or args with ast",
        ),
        (None, put(Some(r#"{"table":1}"#), None), ErrorKind::InvalidMessage, "TypeError: "),
        (None, put(Some(&deep), None), ErrorKind::InvalidMessage, "TypeError: "),
        (
            None,
            Hello::new(CLIENT_SCHEMA, vec![query(r#"{"table":"nosuch"}"#)]),
            ErrorKind::Internal,
            "table 'nosuch' is not one of: comment,issue,zero.permissions,zero_0.clients,zero_0.mutations. Check the spelling and ensure that the table has a primary key.",
        ),
        (
            None,
            Hello::new(CLIENT_SCHEMA, vec![query(r#"{"table":"issue","orderBy":[["nosuch","asc"]]}"#)]),
            ErrorKind::Internal,
            "no such column: issue.nosuch",
        ),
    ] {
        let mut connection = open(&server.identity(), cookie, hello).await;
        let body: ErrorBody = error(&mut connection).await;
        assert!(body.kind == kind && body.message.starts_with(message), "expected {kind:?} {message}, got {body:?}");
    }
    // The server is as well as before.
    let wanted = query(ISSUES);
    let hash = hash_of(&wanted).expect("a hash").to_owned();
    let (_, mut connection) = server.connect(vec![wanted]).await;
    pokes_until_got(&mut connection, &hash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_are_refused_alone() {
    let server = Server::start(SCHEMA).await;
    let wanted = query(ISSUES);
    let hash = hash_of(&wanted).expect("a hash").to_owned();
    let (identity, mut good) = server.connect(vec![wanted]).await;
    let cookie = pokes_until_got(&mut good, &hash).await.pop().expect("a poke").cookie;

    let ahead = format!("{cookie}:0z");
    let mut client = open(&identity.sibling(), Some(&ahead), Hello::again()).await;
    let body = error(&mut client).await;
    assert_eq!(
        (body.kind, body.message),
        (ErrorKind::InvalidConnectionRequestBaseCookie, format!("CVR is at version {cookie}"))
    );

    let other_schema = r#"{"tables":{"issue":{"columns":{"id":{"type":"string"}},"primaryKey":["id"]}}}"#;
    let mut client = open(&identity.sibling(), None, Hello::new(other_schema, vec![])).await;
    let body = error(&mut client).await;
    assert_eq!(
        (body.kind, &*body.message),
        (ErrorKind::InvalidConnectionRequest, "Provided schema does not match previous schema")
    );

    let sibling = identity.sibling();
    let mut client = open(&sibling, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    poke(&mut client).await;
    let own = DeleteClients { client_ids: Some(vec![sibling.client_id.clone()]), client_group_ids: None };
    client.send(&Upstream::DeleteClients(own)).await.expect("sent");
    assert_eq!(error(&mut client).await.message, "cannot delete self");

    let mut client = open(&identity.sibling(), None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    poke(&mut client).await;
    client.send_text(r#"["initConnection",{"desiredQueriesPatch":[]}]"#.to_owned()).await.expect("sent");
    assert_eq!(error(&mut client).await.message, "Connection was already initialized");

    let stranger = protocol_client::Identity { user_id: Some("u".to_owned()), ..identity.sibling() };
    let mut client = open(&stranger, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    let end = patiently(client.next()).await;
    assert!(matches!(&end, Err(Error::Server(body)) if body.kind == ErrorKind::Unauthorized), "{end:?}");

    server.sql("UPDATE issue SET title = 'still served' WHERE id = 'i1'");
    while poke(&mut good).await.rows().count() == 0 {}
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_query_api() {
    let server = Server::start(SCHEMA).await;
    server.api.status.store(401, Ordering::Relaxed);
    let (_, mut connection) = server.connect(vec![query(ISSUES)]).await;
    let body = error(&mut connection).await;
    assert_eq!((body.kind, body.status, body.query_ids), (ErrorKind::TransformFailed, Some(401), Some(vec![])));
    assert_eq!(body.body_preview.as_deref(), Some("\"no\""));

    server.api.status.store(500, Ordering::Relaxed);
    let calls = server.api.calls.load(Ordering::Relaxed);
    let (_, mut connection) = server.connect(vec![query(ISSUES)]).await;
    let body = error(&mut connection).await;
    assert_eq!((body.kind, body.status), (ErrorKind::TransformFailed, Some(500)));
    assert_eq!(body.message, "Fetch from API server returned non-OK status 500");
    assert_eq!(server.api.calls.load(Ordering::Relaxed) - calls, 4, "tried four times");

    // A URL that is not allowed.
    server.api.status.store(0, Ordering::Relaxed);
    let mut hello = Hello::new(CLIENT_SCHEMA, vec![]);
    hello.init.user_query_url = Some("http://127.0.0.1:9/evil".to_owned());
    let mut connection = open(&server.identity(), None, hello).await;
    let expected = "URL \"http://127.0.0.1:9/evil\" is not allowed by the ZERO_QUERY_URL configuration";
    let body = error(&mut connection).await;
    assert_eq!((body.kind, &*body.message, body.query_ids), (ErrorKind::TransformFailed, expected, Some(vec![])));
    assert_eq!((body.origin, body.reason), (Some(ErrorOrigin::ZeroCache), Some(ErrorReason::Internal)));
}

#[tokio::test(flavor = "multi_thread")]
async fn own_asts_see_what_permissions_allow() {
    let server = Server::start(SCHEMA).await;
    let own = Hello::ast(r#"{"table":"issue","orderBy":[["id","asc"]]}"#);
    let hash = hash_of(&own).expect("a hash").to_owned();
    let (_, mut connection) = server.connect(vec![own.clone()]).await;
    let pokes = pokes_until_got(&mut connection, &hash).await;
    assert_eq!(pokes.last().expect("a poke").rows().count(), 0, "without permissions nothing is seen");

    let rule =
        r#"{"type":"simple","left":{"type":"column","name":"open"},"op":"=","right":{"type":"literal","value":true}}"#;
    server.sql(&format!(
        r#"UPDATE zero.permissions SET permissions = '{{"tables":{{"issue":{{"row":{{"select":[["allow",{rule}]]}}}}}}}}'"#
    ));
    server.sql("INSERT INTO issue VALUES ('i3', 'marker', true)");
    let (_, mut marker) = server.connect(vec![query(r#"{"table":"issue"}"#)]).await;
    while !poke(&mut marker).await.rows().any(|row| format!("{row:?}").contains("i3")) {}
    let (_, mut connection) = server.connect(vec![own]).await;
    let pokes = pokes_until_got(&mut connection, &hash).await;
    assert_eq!(pokes.last().expect("a poke").rows().count(), 2);
}

/// Nothing is replicated at all: that is the operator's mistake, and no client's schema is too old for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_tables() {
    let server = Server::start("SELECT 'no tables'").await;
    for schema in [CLIENT_SCHEMA, r#"{"tables":{}}"#] {
        let body = error(&mut open(&server.identity(), None, Hello::new(schema, vec![])).await).await;
        let message =
            "No tables have been synced from upstream. Please check that the ZERO_UPSTREAM_DB has been properly set.";
        assert_eq!((body.kind, &*body.message), (ErrorKind::Internal, message));
    }
}

/// What a client's schema asks of the tables that cannot be had.
#[tokio::test(flavor = "multi_thread")]
async fn schemas_that_do_not_fit() {
    let server = Server::start(
        "CREATE TABLE good (id text PRIMARY KEY, body text, blob bytea);
         CREATE TABLE keyless (id text);
         CREATE TABLE odd (id bytea PRIMARY KEY, body text)",
    )
    .await;
    for (tables, message) in [
        (
            r#"{"odd":{"columns":{"body":{"type":"string"}},"primaryKey":["body"]}}"#,
            "The \"odd\" table's primary key contains unsupported columns: \"id\" (bytea). These columns must use \
             Zero-supported data types to sync the table to the client.",
        ),
        (
            r#"{"keyless":{"columns":{"id":{"type":"string"}},"primaryKey":["id"]}}"#,
            "The \"keyless\" table is missing a primary key or non-null unique index and thus cannot be synced to the client",
        ),
        (
            r#"{"good":{"columns":{"blob":{"type":"string"},"id":{"type":"string"}},"primaryKey":["id"]}}"#,
            "The \"good\".\"blob\" column cannot be synced because it is of an unsupported data type \"bytea\"",
        ),
        (
            r#"{"good":{"columns":{"body":{"type":"string"},"id":{"type":"string"}},"primaryKey":["body"]}}"#,
            "The \"good\" table's primaryKey <body> is not associated with a non-null unique index.",
        ),
        (
            r#"{"good":{"columns":{"id":{"type":"string"}},"primaryKey":[]}}"#,
            "The \"good\" table's client schema does not specify a primary key.",
        ),
        (
            r#"{"x.good":{"columns":{"id":{"type":"string"}},"primaryKey":["id"]}}"#,
            "The \"x.good\" table does not exist or is not one of the replicated tables: \"good\". Note \
             that zero does not sync tables from non-public schemas by default. Make sure you have defined a custom \
             ZERO_APP_PUBLICATION to sync tables from non-public schemas.",
        ),
    ] {
        let hello = Hello::new(&format!(r#"{{"tables":{tables}}}"#), vec![]);
        let body = error(&mut open(&server.identity(), None, hello).await).await;
        assert_eq!((body.kind, &*body.message), (ErrorKind::SchemaVersionNotSupported, message));
    }
}

/// Of all that is wrong with a first message, what is checked first is told: the cookie, the schema, the user, the rest.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_fault_is_told() {
    let server = Server::start(SCHEMA).await;
    let other_schema = r#"{"tables":{"issue":{"columns":{"id":{"type":"string"}},"primaryKey":["id"]}}}"#;
    let nameless = || vec![serde_json::from_str(r#"{"op":"put","hash":"h"}"#).expect("a wish")];
    for (cookie, schema, known, kind) in [
        (Some("zz"), None, false, ErrorKind::Internal),
        (Some("01"), None, false, ErrorKind::ClientNotFound),
        (None, None, false, ErrorKind::InvalidConnectionRequest),
        (None, Some(CLIENT_SCHEMA), false, ErrorKind::TransformFailed),
        (None, Some(other_schema), true, ErrorKind::InvalidConnectionRequest),
        (None, Some(CLIENT_SCHEMA), true, ErrorKind::Internal),
    ] {
        server.api.status.store(0, Ordering::Relaxed);
        let identity = server.identity();
        let _member = match (schema, known) {
            (Some(_), true) => {
                let mut member = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
                poke(&mut member).await;
                Some(member)
            }
            _ => None,
        };
        server.api.status.store(if known { 0 } else { 401 }, Ordering::Relaxed);
        let mut hello = schema.map_or_else(Hello::again, |schema| Hello::new(schema, vec![]));
        hello.init.desired_queries_patch = nameless();
        let mut connection = open(&identity.sibling(), cookie, hello).await;
        let body = error(&mut connection).await;
        assert_eq!(body.kind, kind, "{cookie:?} {schema:?} {known}: {}", body.message);
        // Nobody was added to a record.
        let clients = server.sql(&format!(
            r#"SELECT count(*) FROM "zero_0/cvr".clients WHERE "clientGroupID" = '{}'"#,
            identity.client_group_id
        ));
        assert_eq!(clients.trim(), if known { "1" } else { "0" });
    }
}

/// Schemas are compared when queries are to be run: what the client wants is noted and told before it hears that it is too
/// new or too old.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_a_schema_is_refused() {
    let server = Server::start(SCHEMA).await;
    let schema = r#"{"tables":{"nosuch":{"columns":{},"primaryKey":["id"]}}}"#;
    let mut connection = open(&server.identity(), None, Hello::new(schema, vec![query(ISSUES)])).await;
    assert!(matches!(next(&mut connection).await, Event::Connected));
    let first = poke(&mut connection).await;
    assert_eq!((first.base.as_deref(), &*first.cookie, first.rows().count()), (None, "00:01", 0));
    assert!(first.parts[0].desired_queries_patches.is_some(), "{first:?}");
    assert_eq!(error(&mut connection).await.kind, ErrorKind::SchemaVersionNotSupported);
}

/// Without a token there is nothing to replace, and without a user nobody whom a token could be of.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_come_later() {
    let server = Server::start_with(SCHEMA, &[MUTATE_URL]).await;
    let update = |auth: &str| Upstream::UpdateAuth { auth: auth.to_owned() };
    let (_, mut anonymous) = server.connect(vec![]).await;
    poke(&mut anonymous).await;
    anonymous.send(&update("")).await.expect("sent");
    anonymous.send(&update("token")).await.expect("sent");
    let body = error(&mut anonymous).await;
    let message = "Authenticated connections require a userID.";
    assert_eq!((body.kind, &*body.message), (ErrorKind::Unauthorized, message));

    let identity = protocol_client::Identity { user_id: Some("u".to_owned()), ..server.identity() };
    let mut user = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    poke(&mut user).await;
    user.send(&update("")).await.expect("sent");
    user.send(&update("token")).await.expect("sent");
    assert_eq!(server.api.call_with("token").await, 0, "the user is asked for");
    user.send(&update("")).await.expect("sent");
    let body = error(&mut user).await;
    let message = "No token provided. An unauthenticated client cannot connect to an authenticated client group.";
    assert_eq!((body.kind, &*body.message), (ErrorKind::Unauthorized, message));
}
