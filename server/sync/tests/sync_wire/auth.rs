//! Tokens and users: who is let in, who stays, and what a new token changes (protocol sheet §4).

use protocol_client::{Connection, Error, Event, Hello, Identity, hash_of};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};
use warp::Filter;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};
use zql_spec::protocol::upstream::Upstream;

use crate::harness::{CLIENT_SCHEMA, ISSUES, SCHEMA, Server, error, open, patiently, poke, pokes_until_got, query};

pub(crate) const SECRET: (&str, &str) = ("ZERO_AUTH_SECRET", "secret");

/// A URL where nobody listens: these tests push nothing.
pub(crate) const MUTATE_URL: (&str, &str) = ("ZERO_MUTATE_URL", "http://127.0.0.1:1/mutate");

pub(crate) fn jwt(claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.1.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).expect("a token")
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

impl Server {
    fn user(&self, user: &str, token: &str) -> Identity {
        Identity { user_id: Some(user.to_owned()), auth: Some(token.to_owned()), ..self.identity() }
    }
}

async fn hello(identity: &Identity) -> Connection {
    open(identity, None, Hello::new(CLIENT_SCHEMA, vec![])).await
}

async fn update(connection: &mut Connection, token: &str) {
    connection.send(&Upstream::UpdateAuth { auth: token.to_owned() }).await.expect("sent");
}

/// What users are told who come to the group of another.
const PINNED: &str =
    "Client groups are pinned to a single userID. Connection userID does not match existing client group userID.";

/// The error before anything else, and the close frame after it.
async fn refused(connection: &mut Connection) -> (ErrorBody, Option<u16>, String) {
    let body = match patiently(connection.next()).await {
        Err(Error::Server(body)) => *body,
        other => panic!("an error was expected first, not {other:?}"),
    };
    match patiently(connection.next()).await {
        Err(Error::Closed { code, reason }) => (body, code, reason),
        other => panic!("a close frame was expected, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_show_a_token_is_refused_at_the_door() {
    let server = Server::start_with(SCHEMA, &[SECRET, ("ZERO_AUTH_ISSUER", "me")]).await;
    let good = json!({ "sub": "u", "iss": "me" });
    let expired = jwt(&json!({ "sub": "u", "iss": "me", "exp": seconds() - 1 }));
    let (ours, theirs) = (jwt(&good), jwt(&json!({ "sub": "u", "iss": "them" })));
    let mut connection = hello(&server.user("u", &ours)).await;
    poke(&mut connection).await;
    for (identity, kind, message) in [
        (
            server.user("u", "opaque"),
            ErrorKind::AuthInvalidated,
            "Failed to decode auth token: JWSInvalid: Invalid Compact JWS",
        ),
        (
            server.user("v", &ours),
            ErrorKind::AuthInvalidated,
            "Failed to decode auth token: JWTClaimValidationFailed: unexpected \"sub\" claim value",
        ),
        (
            server.user("u", &theirs),
            ErrorKind::AuthInvalidated,
            "Failed to decode auth token: JWTClaimValidationFailed: unexpected \"iss\" claim value",
        ),
        (
            server.user("u", &expired),
            ErrorKind::AuthInvalidated,
            "Failed to decode auth token: JWTExpired: \"exp\" claim timestamp check failed",
        ),
        (
            server.user("u", &format!("{ours}x")),
            ErrorKind::AuthInvalidated,
            "Failed to decode auth token: JWSSignatureVerificationFailed: signature verification failed",
        ),
        (
            Identity { auth: Some(ours.clone()), ..server.identity() },
            ErrorKind::Unauthorized,
            "Authenticated connections require a userID.",
        ),
    ] {
        let (body, code, reason) = refused(&mut hello(&identity).await).await;
        assert_eq!((body.kind, &*body.message, code, &*reason), (kind, message, Some(3000), message));
    }
    // A refused token does not evict the client's good connection.
    let identity = server.user("u", &ours);
    let mut first = hello(&identity).await;
    poke(&mut first).await;
    refused(&mut hello(&Identity { auth: Some("bad".to_owned()), ..identity }).await).await;
    server.sql("SELECT 1");
    first.send(&Upstream::Ping).await.expect("sent");
    patiently(first.next()).await.expect("still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_nobody_can_judge_concerns_who_shows_it() {
    // A query URL alone: tokens are neither verified nor is there a mutate API that could.
    let server = Server::start(SCHEMA).await;
    let (_, mut anonymous) = server.connect(vec![]).await;
    poke(&mut anonymous).await;
    let (body, code, _) = refused(&mut hello(&server.user("u", "token")).await).await;
    assert_eq!((body.kind, code), (ErrorKind::AuthInvalidated, Some(3000)));
    assert!(body.message.starts_with("Exactly one of jwk, secret, or jwksUrl must be set"), "{}", body.message);
    anonymous.send(&Upstream::Ping).await.expect("sent");
    patiently(anonymous.next()).await.expect("still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_replaced() {
    let server = Server::start_with(SCHEMA, &[SECRET]).await;
    let token = |claims: Value| {
        let mut all = json!({ "sub": "u" });
        all.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
        jwt(&all)
    };
    let first = token(json!({ "iat": 100 }));
    let connect = async || {
        let wanted = query(ISSUES);
        let mut connection =
            open(&server.user("u", &first), None, Hello::new(CLIENT_SCHEMA, vec![wanted.clone()])).await;
        pokes_until_got(&mut connection, hash_of(&wanted).expect("a hash")).await;
        connection
    };
    // A newer token goes to the query API, and an equal or older one to nobody.
    let mut connection = connect().await;
    let (newer, older) = (token(json!({ "iat": 101 })), token(json!({ "iat": 99 })));
    let newest = token(json!({ "iat": 102 }));
    for token in [&older, &first, &newer, &newer] {
        update(&mut connection, token).await;
    }
    assert_eq!(server.api.call_with(&newer).await, 1);
    update(&mut connection, &newest).await;
    assert_eq!(server.api.call_with(&newest).await, 1);
    let calls = server.api.calls.load(Ordering::Relaxed);
    assert_eq!(calls, 4, "two to join, one a new token");
    // Refusals.
    for (token, kind, message) in [
        (
            String::new(),
            ErrorKind::Unauthorized,
            "No token provided. An unauthenticated client cannot connect to an authenticated client group.",
        ),
        (
            jwt(&json!({ "sub": "u" })),
            ErrorKind::Unauthorized,
            "The new token does not have an issued at time but the prior token does. Tokens for a client group must either all have issued at times or all not have issued at times",
        ),
        ("x".to_owned(), ErrorKind::AuthInvalidated, "Failed to decode auth token: JWSInvalid: Invalid Compact JWS"),
        (
            token(json!({ "iat": 200, "exp": 1 })),
            ErrorKind::AuthInvalidated,
            "Failed to decode auth token: JWTExpired: \"exp\" claim timestamp check failed",
        ),
    ] {
        let mut connection = connect().await;
        update(&mut connection, &token).await;
        let body = error(&mut connection).await;
        assert_eq!((body.kind, &*body.message), (kind, message));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn api_servers_know_users_better() {
    let server = Server::start_with(SCHEMA, &[MUTATE_URL]).await;
    *server.api.user.lock().expect("not poisoned") = Some(json!("u"));
    let identity = server.user("u", "a");
    let mut connection = hello(&identity).await;
    poke(&mut connection).await;

    // Another user than the API server's, a user where it sees none, and another one than the group's.
    let body = error(&mut hello(&server.user("v", "b")).await).await;
    assert_eq!(
        (body.kind, &*body.message),
        (ErrorKind::Unauthorized, "Connection userID does not match validated server userID.")
    );
    let stranger = Identity { user_id: Some("v".to_owned()), ..identity.sibling() };
    let (body, code, reason) = refused(&mut hello(&stranger).await).await;
    assert_eq!((body.kind, &*body.message, code, &*reason), (ErrorKind::Unauthorized, PINNED, Some(3000), PINNED));

    // A token of somebody else, though the connection has no query to transform.
    *server.api.user.lock().expect("not poisoned") = Some(Value::Null);
    update(&mut connection, "c").await;
    assert_eq!(error(&mut connection).await.message, "Connection userID does not match validated server userID.");

    // A token that the API server does not know.
    *server.api.user.lock().expect("not poisoned") = None;
    let mut connection = hello(&server.user("u", "a")).await;
    poke(&mut connection).await;
    server.api.unknown.lock().expect("not poisoned").push("gone".to_owned());
    update(&mut connection, "gone").await;
    let body = error(&mut connection).await;
    assert_eq!((body.kind, body.status), (ErrorKind::TransformFailed, Some(401)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_belongs_to_whoever_is_validated_first() {
    let server = Server::start_with(SCHEMA, &[MUTATE_URL]).await;
    // Nobody is known yet when both come in.
    let door = server.api.door.write().await;
    let one = server.user("u", "one");
    let two = Identity { user_id: Some("v".to_owned()), auth: Some("two".to_owned()), ..one.sibling() };
    let mut connections = [hello(&one).await, hello(&two).await];
    server.api.call_with("one").await;
    server.api.call_with("two").await;
    drop(door);
    let mut admitted = 0;
    for connection in &mut connections {
        let answer = loop {
            match patiently(connection.next()).await {
                Ok(Event::Connected) => {}
                other => break other,
            }
        };
        match answer {
            Ok(Event::Poke(_)) => admitted += 1,
            Err(Error::Server(body)) => {
                assert_eq!(body.kind, ErrorKind::Unauthorized);
                assert_eq!(body.message, PINNED);
                let end = patiently(connection.next()).await;
                assert!(matches!(&end, Err(Error::Closed { code: None, .. })), "{end:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(admitted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_validated_again_and_again() {
    let server = Server::start_with(SCHEMA, &[MUTATE_URL, ("ZERO_AUTH_REVALIDATE_INTERVAL_SECONDS", "0.2")]).await;
    let (one, two) = (server.user("u", "one"), server.user("u", "two"));
    let mut staying = hello(&one).await;
    poke(&mut staying).await;
    let mut leaving = hello(&two).await;
    poke(&mut leaving).await;
    // A server that fails has no consequences.
    server.api.status.store(503, Ordering::Relaxed);
    for _ in 0..5 {
        server.api.call_with("two").await;
    }
    server.api.status.store(0, Ordering::Relaxed);
    server.api.unknown.lock().expect("not poisoned").push("two".to_owned());
    let body = error(&mut leaving).await;
    assert_eq!((body.kind, body.status, body.query_ids), (ErrorKind::TransformFailed, Some(401), Some(vec![])));
    assert_eq!(server.api.call_with("one").await, 0);
    staying.send(&Upstream::Ping).await.expect("sent");
    patiently(staying.next()).await.expect("still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_transformed_again_and_again() {
    let server = Server::start_with(SCHEMA, &[MUTATE_URL, ("ZERO_AUTH_RETRANSFORM_INTERVAL_SECONDS", "0.2")]).await;
    let open_only = |open: bool| {
        json!({ "table": "issue", "where": { "type": "simple", "op": "=",
            "left": { "type": "column", "name": "open" }, "right": { "type": "literal", "value": open } } })
    };
    *server.api.changing.lock().expect("not poisoned") = open_only(true);
    let wanted = Hello::named("changing", "[]");
    let hash = hash_of(&wanted).expect("a hash").to_owned();
    let identity = server.user("u", "one");
    let mut one = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![wanted.clone()])).await;
    pokes_until_got(&mut one, &hash).await;
    let sibling = Identity { auth: Some("two".to_owned()), ..identity.sibling() };
    let mut two = open(&sibling, None, Hello::new(CLIENT_SCHEMA, vec![wanted])).await;
    pokes_until_got(&mut two, &hash).await;

    // The application thinks otherwise of the query: one row goes, another comes, and the query stays got.
    *server.api.changing.lock().expect("not poisoned") = open_only(false);
    let poke = loop {
        let poke = poke(&mut one).await;
        if poke.rows().count() > 0 {
            break poke;
        }
    };
    let rows = format!("{:?}", poke.rows().collect::<Vec<_>>());
    assert!(rows.contains("i1") && rows.contains("i2") && !poke.gets(&hash), "{rows}");

    // Whose token serves for it is refused, and another one's serves.
    server.api.unknown.lock().expect("not poisoned").extend(["one".to_owned(), "two".to_owned()]);
    let refused = error(&mut two).await;
    assert_eq!((refused.kind, refused.status), (ErrorKind::TransformFailed, Some(401)));
    assert_eq!(error(&mut one).await.kind, ErrorKind::TransformFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_decide_what_own_asts_see() {
    let server = Server::start_with(SCHEMA, &[SECRET]).await;
    let rule = r#"{"type":"simple","left":{"type":"column","name":"id"},"op":"IN","right":{"type":"static","anchor":"authData","field":["sees"]}}"#;
    server.sql(&format!(
        r#"UPDATE zero.permissions SET permissions = '{{"tables":{{"issue":{{"row":{{"select":[["allow",{rule}]]}}}}}}}}'"#
    ));
    server.sql("INSERT INTO issue VALUES ('marker', 'm', true)");
    let (_, mut marker) = server.connect(vec![query(r#"{"table":"issue"}"#)]).await;
    while !poke(&mut marker).await.rows().any(|row| format!("{row:?}").contains("marker")) {}

    let own = Hello::ast(r#"{"table":"issue","orderBy":[["id","asc"]]}"#);
    let hash = hash_of(&own).expect("a hash").to_owned();
    let token = |iat: u64, sees: Value| jwt(&json!({ "sub": "u", "iat": iat, "sees": sees }));
    let identity = server.user("u", &token(1, json!(["i1"])));
    let mut connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![own])).await;
    let got = pokes_until_got(&mut connection, &hash).await.pop().expect("a poke");
    let rows = format!("{:?}", got.rows().collect::<Vec<_>>());
    assert!(rows.contains("i1") && !rows.contains("i2") && !rows.contains("marker"), "{rows}");
    // With another token, other rows, and nothing else of the query changes.
    update(&mut connection, &token(2, json!(["i2", "marker"]))).await;
    let changed = poke(&mut connection).await;
    let rows = format!("{:?}", changed.rows().collect::<Vec<_>>());
    assert_eq!(changed.rows().count(), 3, "{rows}");
    assert!(!changed.gets(&hash));
    // Who joins speaks for the whole group: all see what its token lets them see.
    let sibling = Identity { auth: Some(token(3, json!(["i1", "i2"]))), ..identity.sibling() };
    let _other = open(&sibling, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    let changed = loop {
        let poke = poke(&mut connection).await;
        if poke.rows().count() > 0 {
            break format!("{:?}", poke.rows().collect::<Vec<_>>());
        }
    };
    assert!(changed.contains("i1") && changed.contains("marker") && !changed.contains("i2"), "{changed}");
}

/// Keys behind a URL: who signs with one of them is let in, whoever else is told what is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_by_a_set_of_keys() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
    let route = warp::path("keys").map(|| include_str!("../keys/public.json"));
    tokio::spawn(warp::serve(route).incoming(listener).run());
    let server = Server::start_with(SCHEMA, &[("ZERO_AUTH_JWKS_URL", &url)]).await;
    let rsa = EncodingKey::from_rsa_der(include_bytes!("../keys/rsa.der"));
    let ec = EncodingKey::from_ec_der(include_bytes!("../keys/ec.der"));
    let token = |algorithm, kid: &str, key: &EncodingKey, expires: u64| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
        let claims = json!({ "sub": "u", "exp": expires });
        jsonwebtoken::encode(&header, &claims, key).expect("a token")
    };
    let later = seconds() + 3600;
    for good in [
        token(Algorithm::RS256, "rsa", &rsa, later),
        token(Algorithm::PS256, "rsa", &rsa, later),
        token(Algorithm::ES256, "ec", &ec, later),
    ] {
        poke(&mut hello(&server.user("u", &good)).await).await;
    }
    for (bad, fault) in [
        (
            token(Algorithm::RS256, "other", &rsa, later),
            "JWKSNoMatchingKey: no applicable key found in the JSON Web Key Set",
        ),
        (
            token(Algorithm::RS256, "ec", &rsa, later),
            "JWKSNoMatchingKey: no applicable key found in the JSON Web Key Set",
        ),
        (token(Algorithm::ES256, "ec", &ec, seconds() - 1), "JWTExpired: \"exp\" claim timestamp check failed"),
        (jwt(&json!({ "sub": "u" })), "JOSENotSupported: Unsupported \"alg\" value for a JSON Web Key Set"),
    ] {
        let (body, code, _) = refused(&mut hello(&server.user("u", &bad)).await).await;
        assert_eq!((body.kind, code), (ErrorKind::AuthInvalidated, Some(3000)));
        assert_eq!(body.message, format!("Failed to decode auth token: {fault}"));
    }
}

/// A user that is another one, whichever question shows it.
#[tokio::test(flavor = "multi_thread")]
async fn users_that_turn_out_to_be_others() {
    let server = Server::start_with(SCHEMA, &[MUTATE_URL, ("ZERO_AUTH_RETRANSFORM_INTERVAL_SECONDS", "100000")]).await;
    let validated = |user: &str| *server.api.user.lock().expect("not poisoned") = Some(json!(user));
    for by_query in [true, false] {
        validated("u");
        let mut connection = hello(&server.user("u", "t")).await;
        poke(&mut connection).await;
        validated("v");
        if by_query {
            connection.change_queries(vec![query(ISSUES)]).await.expect("sent");
        } else {
            server.hub.clock().advance(std::time::Duration::from_secs(301));
        }
        let body = error(&mut connection).await;
        assert_eq!(
            (body.kind, &*body.message),
            (ErrorKind::Unauthorized, "Connection userID does not match validated server userID.")
        );
    }
    // A token where nobody is claimed to show one.
    validated("u");
    *server.api.user.lock().expect("not poisoned") = None;
    let mut connection = hello(&server.identity()).await;
    poke(&mut connection).await;
    update(&mut connection, "token").await;
    let body = error(&mut connection).await;
    assert_eq!((body.kind, &*body.message), (ErrorKind::Unauthorized, "Authenticated connections require a userID."));
}

/// What was answered a moment ago serves whoever shows the same credentials, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_moment_ago() {
    let server = Server::start_with(SCHEMA, &[MUTATE_URL]).await;
    let wanted = query(ISSUES);
    let hash = hash_of(&wanted).expect("a hash");
    // Calls of the one that joins: for its user, for the query unless that is known, for a query of its own.
    for (number, token, later, expected) in
        [(1, "one", 0, &[0, 1][..]), (2, "two", 0, &[0, 1, 1]), (3, "one", 6, &[0, 1, 1])]
    {
        let identity = server.user("u", "one");
        let mut first = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![wanted.clone()])).await;
        pokes_until_got(&mut first, hash).await;
        while server.api.call_with("one").await == 0 {}
        server.hub.clock().advance(std::time::Duration::from_secs(later));
        let before = server.api.calls.load(Ordering::Relaxed);
        let sibling = Identity { auth: Some(token.to_owned()), ..identity.sibling() };
        let mut other = open(&sibling, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
        pokes_until_got(&mut other, hash).await;
        let own = query(&format!(r#"{{"table":"comment","limit":{number}}}"#));
        other.change_queries(vec![own.clone()]).await.expect("sent");
        pokes_until_got(&mut other, hash_of(&own).expect("a hash")).await;
        for queries in expected {
            assert_eq!(server.api.call_with(token).await, *queries, "{token} {later}");
        }
        assert_eq!(server.api.calls.load(Ordering::Relaxed) - before, expected.len(), "{token} {later}");
    }
}
