//! What becomes of a query that several clients of a group want when it fails on behalf of one of them: the others saw it on
//! its way and asked nobody, and must not wait for ever (record sheet §4.5, §4.7).

use std::sync::atomic::Ordering;

use engine::hydration::HydrateError;
use protocol_client::{Connection, Event, Hello, Identity, hash_of};
use serde_json::{Value, json};
use zql_spec::protocol::downstream::QueryOp;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};
use zql_spec::protocol::upstream::{DesiredOp, Upstream};

use crate::auth::MUTATE_URL;
use crate::harness::{
    CLIENT_SCHEMA, ISSUES, SCHEMA, Server, error, hash, next, open, patiently, poke, pokes_until_got, query,
};

/// A tab of a user's group, with a token and without queries.
async fn tab(server: &Server, group: Option<&Identity>, token: &str) -> (Identity, Connection) {
    let identity = group.map_or_else(|| server.identity(), Identity::sibling);
    let identity = Identity { user_id: Some("u".to_owned()), auth: Some(token.to_owned()), ..identity };
    let mut connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    poke(&mut connection).await;
    (identity, connection)
}

/// Asks for a query and waits until the server has noted it for this client.
async fn want(identity: &Identity, connection: &mut Connection, wanted: &DesiredOp) {
    connection.change_queries(vec![wanted.clone()]).await.expect("sent");
    loop {
        let poke = poke(connection).await;
        let mut desired = poke.parts.iter().filter_map(|part| part.desired_queries_patches.as_ref());
        if desired.any(|desired| desired.contains_key(&identity.client_id)) {
            return;
        }
    }
}

/// Who asked is told, or has left; the other one asks by itself, and is told the same if that fails as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_for_one_of_them() {
    let server = Server::start_with(SCHEMA, &[MUTATE_URL]).await;
    for (name, status, leaves) in [
        ("the first one's token is not known", None, false),
        ("the same, but it has left", None, true),
        ("nobody is answered", Some(400), false),
        ("nobody is answered, and the first one has left", Some(400), true),
    ] {
        server.api.status.store(0, Ordering::Relaxed);
        server.api.unknown.lock().expect("not poisoned").clear();
        let (one, mut first) = tab(&server, None, "one").await;
        let (two, mut second) = tab(&server, Some(&one), "two").await;
        let wanted = query(ISSUES);
        match status {
            Some(status) => server.api.status.store(status, Ordering::Relaxed),
            None => server.api.unknown.lock().expect("not poisoned").push("one".to_owned()),
        }
        let door = server.api.door.write().await;
        want(&one, &mut first, &wanted).await;
        while server.api.call_with("one").await == 0 {}
        want(&two, &mut second, &wanted).await;
        let told = |body: &ErrorBody| {
            let ids = body.query_ids.clone();
            assert_eq!((body.kind, ids), (ErrorKind::TransformFailed, Some(vec![hash(&wanted)])), "{name}");
        };
        if leaves {
            drop(first);
            drop(door);
        } else {
            drop(door);
            told(&error(&mut first).await);
        }
        match status {
            Some(_) => told(&error(&mut second).await),
            None => {
                let got = pokes_until_got(&mut second, &hash(&wanted)).await.pop().expect("a poke");
                assert_eq!(got.rows().count(), 3, "{name}");
            }
        }
        while server.api.call_with("two").await == 0 {}
    }
}

/// An AST that cannot be read is a failure of the call, for whoever made it and for whoever waited for it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_read() {
    let server = Server::start_with(SCHEMA, &[MUTATE_URL]).await;
    for leaves in [false, true] {
        let (one, mut first) = tab(&server, None, "one").await;
        let (two, mut second) = tab(&server, Some(&one), "two").await;
        let wanted = query(r#"{"table":1}"#);
        let door = server.api.door.write().await;
        want(&one, &mut first, &wanted).await;
        while server.api.call_with("one").await == 0 {}
        want(&two, &mut second, &wanted).await;
        let mut left = vec![second];
        if leaves {
            drop(first);
        } else {
            left.push(first);
        }
        drop(door);
        for connection in &mut left {
            let body = error(connection).await;
            let expected = (ErrorKind::TransformFailed, Some(vec![hash(&wanted)]));
            assert_eq!((body.kind, body.query_ids), expected, "{}", body.message);
            assert!(body.message.starts_with("Failed to parse response from API server: "), "{}", body.message);
        }
    }
}

fn sqlite(code: i32) -> HydrateError {
    HydrateError::Replica(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None))
}

/// The query's own fault parks who asked; trouble of the server passes, and who asked comes back. Neither is the other's
/// business, for whom it is tried once more.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_fails_for_one_of_them() {
    type Failure = fn() -> HydrateError;
    let server = Server::start_with(SCHEMA, &[MUTATE_URL]).await;
    let mut limit = 1000;
    for (name, failure, kind) in [
        ("the query", (|| HydrateError::Query("no such thing".to_owned())) as Failure, ErrorKind::Internal),
        ("the statement", || sqlite(rusqlite::ffi::SQLITE_ERROR), ErrorKind::Internal),
        ("the version", || HydrateError::Expired, ErrorKind::Rehome),
        ("the file", || sqlite(rusqlite::ffi::SQLITE_IOERR), ErrorKind::Rehome),
        ("the server", || HydrateError::Internal("broken".to_owned()), ErrorKind::Rehome),
    ] {
        for times in [1, 2] {
            let (one, mut first) = tab(&server, None, "one").await;
            let (two, mut second) = tab(&server, Some(&one), "two").await;
            // None of them runs already.
            limit += 1;
            let wanted = query(&format!(r#"{{"table":"comment","limit":{limit}}}"#));
            server.hydrator.hold("comment");
            server.hydrator.fail("comment", (0..times).map(|_| failure()));
            want(&one, &mut first, &wanted).await;
            server.hydrator.arrival().await;
            want(&two, &mut second, &wanted).await;
            server.hydrator.release();
            let body = error(&mut first).await;
            assert_eq!((body.kind, body.max_backoff_ms), (kind, None), "{name}: {}", body.message);
            if times == 1 {
                pokes_until_got(&mut second, &hash(&wanted)).await;
                server.sql("UPDATE comment SET body = body || '.'");
                while poke(&mut second).await.rows().count() == 0 {}
            } else {
                assert_eq!(error(&mut second).await.kind, kind, "{name}");
            }
        }
    }
}

/// A client that joins finds the query on its way as well, and an own AST is started anew like a named one.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_fails_while_another_one_joins() {
    let server = Server::start(SCHEMA).await;
    for wanted in [query(r#"{"table":"comment"}"#), Hello::ast(r#"{"table":"comment","limit":5}"#)] {
        let (identity, mut first) = server.connect(vec![]).await;
        poke(&mut first).await;
        server.hydrator.hold("comment");
        server.hydrator.fail("comment", [HydrateError::Expired]);
        want(&identity, &mut first, &wanted).await;
        server.hydrator.arrival().await;
        let hello = Hello::new(CLIENT_SCHEMA, vec![wanted.clone()]);
        let mut second = open(&identity.sibling(), None, hello).await;
        poke(&mut first).await;
        server.hydrator.release();
        assert_eq!(error(&mut first).await.kind, ErrorKind::Rehome);
        pokes_until_got(&mut second, hash_of(&wanted).expect("a hash")).await;
    }
}

/// What a group does for all of its clients is done for somebody who is validated, or not at all: an anonymous caller may be
/// refused what they may see.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_asks_without_being_somebody() {
    let interval = ("ZERO_AUTH_RETRANSFORM_INTERVAL_SECONDS", "0.2");
    let server = Server::start_with(SCHEMA, &[MUTATE_URL, interval]).await;
    let (one, mut first) = tab(&server, None, "one").await;
    let wanted = query(ISSUES);
    want(&one, &mut first, &wanted).await;
    pokes_until_got(&mut first, &hash(&wanted)).await;

    // The second one is not validated yet when the first one's token is refused.
    *server.api.held.lock().expect("not poisoned") = Some("two".to_owned());
    let door = server.api.door.write().await;
    let two = Identity { auth: Some("two".to_owned()), ..one.sibling() };
    let mut second = open(&two, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    assert_eq!(server.api.call_with("two").await, 0);
    server.api.unknown.lock().expect("not poisoned").push("one".to_owned());
    let refused = error(&mut first).await;
    assert_eq!((refused.kind, refused.status), (ErrorKind::TransformFailed, Some(401)));
    drop(door);
    let got = pokes_until_got(&mut second, &hash(&wanted)).await.pop().expect("a poke");
    assert_eq!(got.rows().count(), 3);
    let tokens: Vec<String> = server.api.tokens.lock().expect("not poisoned").iter().cloned().collect();
    assert_eq!(json!(tokens), json!(["one", "two"]));
}

/// The messages about refused queries that a client gets until it is told that a query is not got.
async fn refusals(connection: &mut Connection, gone: &DesiredOp) -> Value {
    let gone = QueryOp::Del { hash: hash(gone) };
    let mut messages = Vec::new();
    patiently(async {
        loop {
            match next(connection).await {
                Event::TransformError(mut errors) => {
                    errors.sort_by(|a, b| a.name.cmp(&b.name));
                    messages.push(serde_json::to_value(errors).expect("JSON"));
                }
                Event::Poke(poke) if poke.got().any(|op| *op == gone) => return json!(messages),
                _ => {}
            }
        }
    })
    .await
}

/// A refused query is forgotten: who asks for it again is told again, and who asked before is not. Who never wanted it hears
/// nothing of it. All hear that it is not got, and hear it afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn who_hears_that_queries_are_refused() {
    let server = Server::start_with(SCHEMA, &[MUTATE_URL]).await;
    let (one, first) = tab(&server, None, "one").await;
    let (_, second) = tab(&server, Some(&one), "two").await;
    let (_, third) = tab(&server, Some(&one), "three").await;
    let mut tabs = [first, second, third];
    let [a, b] = ["a", "b"].map(|name| Hello::named(name, "[]"));
    let refused =
        |op: &DesiredOp, name: &str| json!({ "error": "app", "id": hash(op), "name": name, "message": "nope" });
    let (none, once) = (json!([]), json!([[refused(&a, "a")]]));
    // All that one call refuses is one message.
    let both = json!([[refused(&a, "a"), refused(&b, "b")]]);
    for (speaker, wanted, told) in [
        (0, vec![a.clone(), b.clone()], [&both, &none, &none]),
        (1, vec![a.clone()], [&none, &once, &none]),
        (0, vec![a.clone()], [&once, &none, &none]),
        (0, vec![a.clone()], [&once, &none, &none]),
        (2, vec![a.clone()], [&none, &none, &once]),
    ] {
        tabs[speaker].change_queries(wanted).await.expect("sent");
        for (connection, told) in tabs.iter_mut().zip(told) {
            assert_eq!(refusals(connection, &a).await, *told, "asked by {speaker}");
        }
    }
}

/// One that was answered until now, and is refused when it is asked for again: all who want it are told.
#[tokio::test(flavor = "multi_thread")]
async fn who_hears_that_a_query_that_was_got_is_refused() {
    let server = Server::start_with(SCHEMA, &[MUTATE_URL]).await;
    let (one, mut first) = tab(&server, None, "one").await;
    let (two, mut second) = tab(&server, Some(&one), "two").await;
    let (_, third) = tab(&server, Some(&one), "three").await;
    let wanted = query(r#"{"table":"comment"}"#);
    want(&one, &mut first, &wanted).await;
    pokes_until_got(&mut first, &hash(&wanted)).await;
    want(&two, &mut second, &wanted).await;
    server.api.refused.lock().expect("not poisoned").push(hash(&wanted));
    first.send(&Upstream::UpdateAuth { auth: "newer".to_owned() }).await.expect("sent");
    let once = json!([[{ "error": "app", "id": hash(&wanted), "name": "ast", "message": "nope" }]]);
    for (mut connection, told) in [first, second, third].into_iter().zip([once.clone(), once, json!([])]) {
        assert_eq!(refusals(&mut connection, &wanted).await, told);
    }
}
