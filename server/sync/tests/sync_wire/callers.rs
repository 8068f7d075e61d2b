//! For whom an answer of the query API counts: for whoever shows the same credentials, and as long as it shows them (protocol
//! sheet §4.5, §11.4).

use std::sync::atomic::Ordering;

use protocol_client::{Event, Hello, Identity};
use serde_json::{Value, json};
use zql_spec::protocol::upstream::Upstream;

use crate::auth::MUTATE_URL;
use crate::harness::{CLIENT_SCHEMA, ISSUES, SCHEMA, Server, hash, next, open, poke, pokes_until_got, query};
use crate::names::Names;

/// A change of who a client is or of what it says first.
type Change<'a> = &'a dyn Fn(&mut Identity, &mut Hello);

fn user(server: &Server, token: &str) -> Identity {
    Identity { user_id: Some("u".to_owned()), auth: Some(token.to_owned()), ..server.identity() }
}

/// Everything that the query API is told of a caller may change its answer; what it is not told cannot.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_serves_who_would_be_told_the_same() {
    let options = [
        MUTATE_URL,
        ("ZERO_QUERY_FORWARD_COOKIES", "true"),
        ("ZERO_QUERY_ALLOWED_CLIENT_HEADERS", "x-client"),
        ("ZERO_QUERY_ALLOWED_REQUEST_HEADERS", "x-request"),
    ];
    let server = Server::start_with(SCHEMA, &options).await;
    let url = server.hub.config.query.urls[0].clone();
    let header = |identity: &mut Identity, name: &str| identity.headers.push((name.to_owned(), "1".to_owned()));
    let client_header = |hello: &mut Hello, name: &str| {
        hello.init.user_query_headers = Some([(name.to_owned(), "1".to_owned())].into_iter().collect());
    };
    let changes: [(&str, Change<'_>, bool); 8] = [
        ("nothing", &|_, _| {}, false),
        ("the user agent", &|identity, _| header(identity, "user-agent"), false),
        ("a header of the client that is not sent on", &|_, hello| client_header(hello, "x-other"), false),
        ("the cookies", &|identity, _| header(identity, "cookie"), true),
        ("the origin", &|identity, _| header(identity, "origin"), true),
        ("a header of the request", &|identity, _| header(identity, "x-request"), true),
        ("a header of the client", &|_, hello| client_header(hello, "x-client"), true),
        ("the URL", &|_, hello| hello.init.user_query_url = Some(format!("{url}?a=b")), true),
    ];
    for (name, change, asked_again) in changes {
        let wanted = query(ISSUES);
        let identity = user(&server, "token");
        let mut first = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![wanted.clone()])).await;
        pokes_until_got(&mut first, &hash(&wanted)).await;
        while server.api.call_with("token").await == 0 {}
        let before = server.api.calls.load(Ordering::Relaxed);
        let (mut sibling, mut hello) = (identity.sibling(), Hello::new(CLIENT_SCHEMA, vec![]));
        change(&mut sibling, &mut hello);
        let mut other = open(&sibling, None, hello).await;
        pokes_until_got(&mut other, &hash(&wanted)).await;
        // A call that its joining caused is made before one for what it asks then.
        let own = query(r#"{"table":"comment"}"#);
        other.change_queries(vec![own.clone()]).await.expect("sent");
        pokes_until_got(&mut other, &hash(&own)).await;
        let expected = if asked_again { &[0, 1, 1][..] } else { &[0, 1] };
        let mut calls = Vec::new();
        for _ in 0..server.api.calls.load(Ordering::Relaxed) - before {
            calls.push(server.api.call_with("token").await);
        }
        assert_eq!(calls, expected, "{name}");
    }
}

/// What is said of a token that was replaced while its answer was on the way is nobody's concern: neither what queries are for
/// it, nor that it is not known.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_for_a_token_that_was_replaced() {
    let of = |id: &str| {
        json!({ "table": "issue", "where": { "type": "simple", "op": "=",
            "left": { "type": "column", "name": "id" }, "right": { "type": "literal", "value": id } } })
    };
    let say = |server: &Server, ast: Value| *server.api.changing.lock().expect("not poisoned") = ast;
    for (name, named, known) in
        [("another query", true, true), ("a refusal", true, false), ("a refusal of the user alone", false, false)]
    {
        let server = Server::start_with(SCHEMA, &[MUTATE_URL]).await;
        let wanted = if named { Hello::named("changing", "[]") } else { Hello::ast(r#"{"table":"issue"}"#) };
        say(&server, of("i1"));
        let identity = user(&server, "one");
        let names = Names::default().with(&identity.client_id, "me");
        let mut connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![wanted.clone()])).await;
        pokes_until_got(&mut connection, &hash(&wanted)).await;

        // The answer for the second token waits at the door until the third one, with another query, has been used.
        *server.api.held.lock().expect("not poisoned") = Some("two".to_owned());
        if !known {
            server.api.unknown.lock().expect("not poisoned").push("two".to_owned());
        }
        say(&server, of("i2"));
        let door = server.api.door.write().await;
        for token in ["two", "three"] {
            connection.send(&Upstream::UpdateAuth { auth: token.to_owned() }).await.expect("sent");
            assert_eq!(server.api.call_with(token).await, usize::from(named), "{name}");
        }
        if named {
            assert_eq!(names.lines(&poke(&mut connection).await), ["del issue i1", "put issue i2"], "{name}");
        }
        say(&server, of("i1"));
        drop(door);

        // Whatever is made of it is made before answers to what is asked afterwards.
        let mut seen = Vec::new();
        for limit in [1, 2, 3] {
            let later = query(&format!(r#"{{"table":"comment","limit":{limit}}}"#));
            connection.change_queries(vec![later.clone()]).await.expect("sent");
            for poke in pokes_until_got(&mut connection, &hash(&later)).await {
                seen.extend(names.lines(&poke).into_iter().filter(|line| line.contains("issue")));
            }
        }
        assert_eq!(seen, [""; 0], "{name}");
        // It is served as before.
        server.sql("UPDATE issue SET title = 'changed' WHERE id = 'i2'");
        if named {
            assert_eq!(names.lines(&poke(&mut connection).await), ["put issue i2"], "{name}");
        }
        connection.send(&Upstream::Ping).await.expect("sent");
        while !matches!(next(&mut connection).await, Event::Pong) {}
    }
}
