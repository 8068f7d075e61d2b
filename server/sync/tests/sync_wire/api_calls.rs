//! What the application's API servers are told of a connection, and whom it harms when they do not answer (sheet §11).

use std::sync::Arc;
use std::time::Duration;

use protocol_client::{Connection, Hello, Identity};
use serde_json::{Value, json};
use zql_spec::protocol::error::{ErrorKind, ErrorReason};

use crate::harness::{CLIENT_SCHEMA, ISSUES, SCHEMA, Server, error, hash, join, open, poke, pokes_until_got, query};
use crate::mutate_api::{Call, MutateApi};

/// A server whose queries and mutations go to the same API server, under different rules.
async fn start(pairs: &[(&str, &str)]) -> (Server, Arc<MutateApi>) {
    let api = MutateApi::start().await;
    let queries = format!("{0}/query,{0}/alt/*", api.url);
    let mutations = format!("{0}/mutate,{0}/other/:name", api.url);
    let mut all = vec![("ZERO_QUERY_URL", &*queries), ("ZERO_MUTATE_URL", &*mutations)];
    all.extend(pairs);
    let server = Server::start_with(SCHEMA, &all).await;
    api.use_database(&server.database);
    (server, api)
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn create(identity: &Identity, id: i64) -> String {
    let mutation = json!({
        "type": "custom", "id": id, "clientID": identity.client_id, "name": "create",
        "args": [{ "id": format!("made-{id}") }], "timestamp": 1,
    });
    let body = json!({
        "clientGroupID": identity.client_group_id, "mutations": [mutation],
        "pushVersion": 1, "timestamp": 1, "requestID": "r",
    });
    json!(["push", body]).to_string()
}

async fn until_row(connection: &mut Connection, id: &str) {
    while !poke(connection).await.rows().any(|row| format!("{row:?}").contains(id)) {}
}

fn header<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
    call.headers.get(name).map(|value| value.to_str().expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_sent_on_is_sent_on() {
    let options = [
        ("ZERO_QUERY_API_KEY", "query key"),
        ("ZERO_QUERY_FORWARD_COOKIES", "true"),
        ("ZERO_QUERY_ALLOWED_CLIENT_HEADERS", "X-A,X-Proxy,Authorization"),
        ("ZERO_QUERY_ALLOWED_REQUEST_HEADERS", "x-proxy,X-Absent"),
        ("ZERO_MUTATE_API_KEY", "mutate key"),
        ("ZERO_MUTATE_ALLOWED_CLIENT_HEADERS", "x-m"),
    ];
    let (server, api) = start(&options).await;
    let headers = [
        ("cookie", "a=b; c=d"),
        ("origin", "https://app.example"),
        ("x-proxy", "p1"),
        ("x-proxy", "p2"),
        ("x-secret", "s"),
    ];
    let identity = Identity {
        user_id: Some("u".to_owned()),
        auth: Some("token".to_owned()),
        headers: pairs(&headers),
        ..server.identity()
    };
    let mut connection = join(&identity, |hello| {
        let own = [("X-a", "1"), ("X-Secret", "2"), ("x-proxy", "of the client"), ("authorization", "none")];
        hello.init.user_query_headers = Some(pairs(&own).into_iter().collect());
        hello.init.user_query_url = Some(format!("{}/alt/query?foo=1", api.url));
        hello.init.user_push_headers = Some(pairs(&[("x-m", "m"), ("x-a", "n")]).into_iter().collect());
        hello.init.user_push_url = Some(format!("{}/other/push", api.url));
    })
    .await;
    let queries = api.calls();
    connection.send_text(create(&identity, 1)).await.expect("sent");
    until_row(&mut connection, "made-1").await;
    let mutation = api.calls().split_off(queries.len());
    // Who a user is is asked with the same headers as what a query is.
    assert!(queries.iter().any(|call| call.json() == json!(["transform", []])));
    let expected_of_queries: &[(&str, Option<&str>)] = &[
        ("content-type", Some("application/json")),
        ("x-api-key", Some("query key")),
        ("x-a", Some("1")),
        ("x-proxy", Some("p1, p2")),
        ("x-absent", None),
        ("x-secret", None),
        ("authorization", Some("Bearer token")),
        ("cookie", Some("a=b; c=d")),
        ("origin", Some("https://app.example")),
    ];
    let expected_of_mutations: &[(&str, Option<&str>)] = &[
        ("content-type", Some("application/json")),
        ("x-api-key", Some("mutate key")),
        ("x-m", Some("m")),
        ("x-a", None),
        ("x-proxy", None),
        ("authorization", Some("Bearer token")),
        ("cookie", None),
        ("origin", Some("https://app.example")),
    ];
    for (calls, path, parameters, expected) in [
        (&queries, "/alt/query", "foo=1&schema=zero_0&appID=zero", expected_of_queries),
        (&mutation, "/other/push", "schema=zero_0&appID=zero", expected_of_mutations),
    ] {
        assert!(!calls.is_empty());
        for call in calls {
            assert_eq!((&*call.path, &*call.query), (path, parameters));
            for (name, value) in expected {
                assert_eq!(header(call, name), *value, "{path} {name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_options_nothing_but_token_and_origin_is_sent_on() {
    let (server, api) = start(&[]).await;
    let headers = pairs(&[("cookie", "a=b"), ("x-proxy", "p")]);
    let identity = Identity { headers, ..server.identity() };
    let mut connection = join(&identity, |hello| {
        hello.init.user_query_headers = Some(pairs(&[("x-a", "1")]).into_iter().collect());
        hello.init.user_push_headers = Some(pairs(&[("x-a", "1")]).into_iter().collect());
        // URLs of nothing are none.
        hello.init.user_query_url = Some(String::new());
        hello.init.user_push_url = Some(String::new());
    })
    .await;
    connection.send_text(create(&identity, 1)).await.expect("sent");
    until_row(&mut connection, "made-1").await;
    for call in api.calls() {
        let path = if call.json().is_array() { "/query" } else { "/mutate" };
        assert_eq!((&*call.path, &*call.query), (path, "schema=zero_0&appID=zero"));
        for name in ["x-api-key", "x-a", "x-proxy", "cookie", "origin", "authorization"] {
            assert_eq!(header(&call, name), None, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirections_are_followed() {
    let (server, api) = start(&[]).await;
    let identity = server.identity();
    let mut connection = join(&identity, |_| {}).await;
    let before = api.calls().len();
    let moved = format!("{}/moved", api.url);
    api.answer_with(&[(307, &moved), (308, "/again?x=1")]);
    connection.send_text(create(&identity, 1)).await.expect("sent");
    until_row(&mut connection, "made-1").await;
    let calls = api.calls().split_off(before);
    let sent: Vec<(&str, Value)> = calls.iter().map(|call| (&*call.path, call.json())).collect();
    assert_eq!(sent.iter().map(|(path, _)| *path).collect::<Vec<_>>(), ["/mutate", "/moved", "/again"]);
    assert!(sent.iter().all(|(_, body)| *body == sent[0].1), "{sent:?}");
    assert_eq!(calls[2].query, "x=1");

    // One that leads nowhere is an answer that says nothing.
    api.answer_with(&[(304, "")]);
    connection.send_text(create(&identity, 2)).await.expect("sent");
    let body = error(&mut connection).await;
    assert_eq!((body.kind, body.reason, body.status), (ErrorKind::PushFailed, Some(ErrorReason::Http), Some(304)));
}

/// A group whose API server answers late, one whose is gone, and one whose answers: only the first two notice.
#[tokio::test(flavor = "multi_thread")]
async fn slow_and_dead_servers_harm_only_those_who_ask_them() {
    let slow = MutateApi::start().await;
    let own = MutateApi::start().await;
    let dead = "http://127.0.0.1:1/query";
    let urls = format!("{}/query,{}/query,{dead}", own.url, slow.url);
    let server = Server::start_with(SCHEMA, &[("ZERO_QUERY_URL", &urls)]).await;
    let asks = |url: &str| {
        let mut hello = Hello::new(CLIENT_SCHEMA, vec![query(ISSUES)]);
        hello.init.user_query_url = Some(url.to_owned());
        hello
    };
    let slow_url = format!("{}/query", slow.url);

    // A tab that is there before its API server becomes slow, and one that comes after.
    let identity = server.identity();
    let mut early = join(&identity, |hello| hello.init.user_query_url = Some(slow_url.clone())).await;
    while slow.arrived_by_now() {}
    slow.hold();
    let mut late = open(&identity.sibling(), None, asks(&slow_url)).await;
    slow.arrival().await;
    let mut lost = open(&server.identity(), None, asks(dead)).await;
    let mut well = join(&server.identity(), |_| {}).await;

    server.sql("INSERT INTO issue VALUES ('meanwhile', 'x', true)");
    until_row(&mut early, "meanwhile").await;
    until_row(&mut well, "meanwhile").await;
    let body = error(&mut lost).await;
    assert_eq!((body.kind, body.reason), (ErrorKind::TransformFailed, Some(ErrorReason::Internal)));
    assert!(body.message.starts_with("Fetch from API server threw error: "), "{}", body.message);
    slow.release();
    until_row(&mut late, "meanwhile").await;
}

/// Whatever shows that an API server knows a user spares the next question whether it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_was_known_a_moment_ago_is_not_asked_for() {
    let (server, api) = start(&[("ZERO_AUTH_RETRANSFORM_INTERVAL_SECONDS", "1000000")]).await;
    let seconds = |seconds| server.hub.clock().advance(Duration::from_secs(seconds));
    for pushes in [true, false] {
        let identity = Identity { user_id: Some("u".to_owned()), auth: Some("t".to_owned()), ..server.identity() };
        let mut connection = join(&identity, |_| {}).await;
        seconds(200);
        if pushes {
            for id in [1, 2] {
                // The second one is sent when all has been made of the answer to the first one.
                connection.send_text(create(&identity, id)).await.expect("sent");
                until_row(&mut connection, &format!("made-{id}")).await;
            }
        } else {
            let wanted = query(r#"{"table":"comment"}"#);
            connection.change_queries(vec![wanted.clone()]).await.expect("sent");
            pokes_until_got(&mut connection, &hash(&wanted)).await;
        }
        // It is 400 seconds after joining: would the API server be asked, it would not know the user.
        api.answer_with(&[(401, "")]);
        seconds(200);
        let marker = format!("marker-{pushes}");
        server.sql(&format!("INSERT INTO issue VALUES ('{marker}', 'x', true)"));
        until_row(&mut connection, &marker).await;
        // What the last push was answered may have arrived before that clock moved or after it: asked again it is now.
        seconds(350);
        let body = error(&mut connection).await;
        assert_eq!((body.kind, body.status), (ErrorKind::TransformFailed, Some(401)));
    }
}
