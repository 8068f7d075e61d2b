//! What API servers answer, and what clients are told of it, in all shapes that servers of any release use (protocol sheet
//! §11.4, §12.2).

use std::sync::Arc;

use protocol_client::{Event, Hello, Identity};
use serde_json::{Value, json};
use zql_spec::protocol::error::{ErrorBody, ErrorKind, ErrorOrigin, ErrorReason};
use zql_spec::protocol::upstream::Upstream;

use crate::harness::{ISSUES, SCHEMA, Server, error, hash, join, next, open, poke, pokes_until_got, query};
use crate::mutate_api::MutateApi;

const PARSE: &str = "Failed to parse response from API server: ";

/// A server whose queries and mutations go to one API server.
async fn start() -> (Server, Arc<MutateApi>) {
    let api = MutateApi::start().await;
    let (queries, mutations) = (format!("{}/query", api.url), format!("{}/mutate", api.url));
    let server = Server::start_with(SCHEMA, &[("ZERO_QUERY_URL", &*queries), ("ZERO_MUTATE_URL", &*mutations)]).await;
    api.use_database(&server.database);
    (server, api)
}

fn user(server: &Server) -> Identity {
    Identity { user_id: Some("u".to_owned()), auth: Some("t".to_owned()), ..server.identity() }
}

/// An error as it came. What follows [`PARSE`] is a JSON library's own.
fn written(body: &ErrorBody) -> Value {
    let mut written = serde_json::to_value(body).expect("JSON");
    if body.message.starts_with(PARSE) {
        written["message"] = json!(PARSE);
    }
    written
}

/// An object with some more members.
fn with(mut object: Value, more: &Value) -> Value {
    let members = object.as_object_mut().expect("an object");
    members.extend(more.as_object().expect("an object").clone());
    object
}

/// Whoever asked is told, with the queries that were asked for, and the others of its group go on.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_fail_as_a_whole() {
    let (server, api) = start().await;
    let failed = |told: Value| with(json!({ "kind": "TransformFailed" }), &told);
    let http = |status: u16, preview: &str| {
        let message = format!("Fetch from API server returned non-OK status {status}");
        json!({ "origin": "zeroCache", "reason": "http", "status": status, "bodyPreview": preview, "message": message })
    };
    let parse = || json!({ "origin": "zeroCache", "reason": "parse", "message": PARSE });
    // What a server says of a failure is passed on, but for the queries.
    let of = |origin: &str, reason: &str| json!({ "origin": origin, "reason": reason, "message": "m" });
    let detailed = with(of("server", "parse"), &json!({ "details": { "z": [1] } }));
    let elsewhere = with(of("zeroCache", "http"), &json!({ "status": 404, "bodyPreview": "b" }));
    let said = |told: &Value| failed(with(told.clone(), &json!({ "queryIDs": ["x"] })));
    let cases = [
        ((400, "no".to_owned()), http(400, "no")),
        ((403, "x".repeat(512)), http(403, &"x".repeat(512))),
        ((403, "x".repeat(600)), http(403, &format!("{}...", "x".repeat(512)))),
        ((404, String::new()), http(404, "")),
        ((200, said(&detailed).to_string()), detailed.clone()),
        ((200, said(&of("server", "internal")).to_string()), of("server", "internal")),
        ((200, said(&of("server", "database")).to_string()), of("server", "database")),
        ((200, said(&of("zeroCache", "timeout")).to_string()), of("zeroCache", "timeout")),
        ((200, said(&of("zeroCache", "internal")).to_string()), of("zeroCache", "internal")),
        ((200, said(&elsewhere).to_string()), elsewhere.clone()),
        ((200, json!(["transformFailed", said(&detailed)]).to_string()), detailed),
        ((200, failed(json!({ "message": "m" })).to_string()), parse()),
        ((200, said(&of("zeroCache", "http")).to_string()), parse()),
        ((200, said(&of("server", "oooMutation")).to_string()), parse()),
        ((200, r#"{"kind":"QueryResponse"}"#.to_owned()), parse()),
        ((200, "nonsense".to_owned()), parse()),
    ];
    for ((status, text), told) in cases {
        for by_token in [false, true] {
            let identity = user(&server);
            let mut asking = join(&identity, |_| {}).await;
            let mut sibling = join(&identity.sibling(), |_| {}).await;
            poke(&mut asking).await;
            api.answer_with(&[(status, &text)]);
            let asked = if by_token {
                asking.send(&Upstream::UpdateAuth { auth: "newer".to_owned() }).await.expect("sent");
                hash(&query(ISSUES))
            } else {
                let wanted = query(r#"{"table":"comment"}"#);
                asking.change_queries(vec![wanted.clone()]).await.expect("sent");
                // That it is wanted is told first.
                let desired = poke(&mut asking).await;
                assert!(desired.parts[0].desired_queries_patches.is_some(), "{desired:?}");
                hash(&wanted)
            };
            let body = error(&mut asking).await;
            assert_eq!(
                written(&body),
                failed(with(told.clone(), &json!({ "queryIDs": [asked] }))),
                "{text} {by_token}"
            );
            server.sql("UPDATE issue SET title = title || '.' WHERE id = 'i1'");
            while poke(&mut sibling).await.rows().count() == 0 {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_older_servers_and_queries_that_they_cannot_read() {
    let (server, api) = start().await;
    let mut connection = join(&user(&server), |_| {}).await;
    let wanted = query(r#"{"table":"comment"}"#);
    let answer = json!(["transformed", [{ "id": hash(&wanted), "name": "ast", "ast": { "table": "comment" } }]]);
    api.answer_with(&[(200, &answer.to_string())]);
    connection.change_queries(vec![wanted.clone()]).await.expect("sent");
    pokes_until_got(&mut connection, &hash(&wanted)).await;

    let wanted = query(r#"{"table":"comment","limit":1}"#);
    let refused = json!({ "error": "parse", "id": hash(&wanted), "name": "ast", "message": "m", "details": [1] });
    api.answer_with(&[(200, &json!({ "kind": "QueryResponse", "queries": [refused] }).to_string())]);
    connection.change_queries(vec![wanted.clone()]).await.expect("sent");
    poke(&mut connection).await;
    let errors = match next(&mut connection).await {
        Event::TransformError(errors) => serde_json::to_value(errors).expect("JSON"),
        other => panic!("{other:?}"),
    };
    assert_eq!(errors, json!([refused]));
    let gone = poke(&mut connection).await;
    let got = serde_json::to_value(gone.got().collect::<Vec<_>>()).expect("JSON");
    assert_eq!(got, json!([{ "op": "del", "hash": hash(&wanted) }]));
}

/// Of what is asked for and not answered, whoever wants it is told; what is answered beside it is got. What is said of queries
/// that were not asked for, be they unknown or running, concerns nobody.
#[tokio::test(flavor = "multi_thread")]
async fn queries_that_an_answer_leaves_out() {
    let (server, api) = start().await;
    let identity = user(&server);
    let mut connection = join(&identity, |_| {}).await;
    let [answered, left_out] = [1, 2].map(|limit| query(&format!(r#"{{"table":"comment","limit":{limit}}}"#)));
    let own = json!({ "id": hash(&answered), "name": "ast", "ast": { "table": "comment", "limit": 1 } });
    let unknown = json!({ "id": "nobody's", "name": "ast", "ast": { "table": "comment" } });
    let running = json!({ "error": "app", "id": hash(&query(ISSUES)), "name": "ast" });
    let message = "The answer of the API server does not mention this query";
    let told = json!([{ "error": "parse", "id": hash(&left_out), "name": "ast", "message": message }]);
    api.answer_with(&[(200, &json!({ "kind": "QueryResponse", "queries": [unknown, running, own] }).to_string())]);
    connection.change_queries(vec![answered.clone(), left_out.clone()]).await.expect("sent");
    poke(&mut connection).await;
    let errors = match next(&mut connection).await {
        Event::TransformError(errors) => serde_json::to_value(errors).expect("JSON"),
        other => panic!("{other:?}"),
    };
    assert_eq!(errors, told);
    let poke = poke(&mut connection).await;
    let mut got = serde_json::to_value(poke.got().collect::<Vec<_>>()).expect("JSON");
    got.as_array_mut().expect("patches").sort_by_key(|patch| patch["op"].to_string());
    assert_eq!(got, json!([{ "op": "del", "hash": hash(&left_out) }, { "op": "put", "hash": hash(&answered) }]));
    // It may be asked for again.
    connection.change_queries(vec![left_out.clone()]).await.expect("sent");
    pokes_until_got(&mut connection, &hash(&left_out)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_are_the_servers_own() {
    let (server, api) = start().await;
    for name in ["schema", "appID"] {
        let mut hello = Hello::new(crate::harness::CLIENT_SCHEMA, vec![]);
        hello.init.user_query_url = Some(format!("{}/query?a=b&{name}=x", api.url));
        let body = error(&mut open(&server.identity(), None, hello).await).await;
        let message =
            format!("Failed to validate queries: The push URL cannot contain the reserved query param \"{name}\"");
        assert_eq!(
            (body.kind, body.reason, body.message, body.query_ids),
            (ErrorKind::TransformFailed, Some(ErrorReason::Internal), message, Some(vec![]))
        );
    }
    assert!(api.calls().is_empty());
}

fn push(identity: &Identity) -> String {
    let mutation = json!({ "type": "custom", "id": 1, "clientID": identity.client_id, "name": "create",
        "args": [{ "id": "i" }], "timestamp": 1 });
    let body = json!({ "clientGroupID": identity.client_group_id, "mutations": [mutation],
        "pushVersion": 1, "timestamp": 1, "requestID": "r" });
    json!(["push", body]).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_fail() {
    let (server, api) = start().await;
    let one = |identity: &Identity| json!({ "id": 1, "clientID": identity.client_id });
    let http = |status: u16, more: &Value| {
        let message = format!("Fetch from API server returned non-OK status {status}");
        with(json!({ "origin": "zeroCache", "reason": "http", "status": status, "message": message }), more)
    };
    let of =
        |origin: &str, reason: &str, message: &str| json!({ "origin": origin, "reason": reason, "message": message });
    let parse = || of("zeroCache", "parse", PARSE);
    let stranger = with(
        of("zeroCache", "http", "Connection userID does not match validated server userID."),
        &json!({ "status": 401 }),
    );
    // An answer of today's servers that says this of itself, and what is told then.
    let said = |told: Value| (with(json!({ "kind": "PushFailed", "mutationIDs": ["one"] }), &told), told);
    let detailed = json!({ "details": { "z": [1] } });
    let cases = [
        (json!({ "kind": "MutateResponse", "userID": "v", "mutations": [] }), stranger.clone()),
        (json!({ "kind": "MutateResponse", "userID": null, "mutations": [] }), stranger),
        (
            json!({ "error": "http", "status": 502, "details": "d", "mutationIDs": ["one"] }),
            http(502, &json!({ "bodyPreview": "d" })),
        ),
        (
            json!({ "error": "unsupportedPushVersion" }),
            of("server", "unsupportedPushVersion", "Unsupported push version"),
        ),
        (
            json!({ "error": "unsupportedPushVersion", "mutationIDs": ["one"] }),
            of("server", "unsupportedPushVersion", "Unsupported push version"),
        ),
        (
            json!({ "error": "unsupportedSchemaVersion", "mutationIDs": ["one"] }),
            of("server", "internal", "Unsupported schema version"),
        ),
        (json!({ "error": "zeroPusher", "details": "dd", "mutationIDs": ["one"] }), of("server", "internal", "dd")),
        (
            json!({ "mutations": [{ "id": "one", "result": { "error": "oooMutation", "details": "d" } }] }),
            with(of("server", "oooMutation", "mutation was out of order"), &json!({ "details": "d" })),
        ),
        said(with(of("server", "database", "m"), &detailed)),
        said(of("server", "parse", "m")),
        said(of("server", "internal", "m")),
        said(of("server", "oooMutation", "Client c1 sent mutation ID 50 but expected 6")),
        said(of("server", "unsupportedPushVersion", "Unsupported push version: 2")),
        said(with(of("zeroCache", "http", "m"), &json!({ "status": 500, "bodyPreview": "b" }))),
        said(with(of("zeroCache", "http", "m"), &json!({ "status": 500 }))),
        said(of("zeroCache", "timeout", "m")),
        said(with(of("zeroCache", "parse", "m"), &detailed)),
        said(of("zeroCache", "internal", "m")),
        (said(of("zeroCache", "http", "m")).0, parse()),
        (said(of("zeroCache", "database", "m")).0, parse()),
        (said(of("server", "timeout", "m")).0, parse()),
        (json!({ "error": "unknown", "mutationIDs": ["one"] }), parse()),
    ];
    for (answer, told) in cases {
        let identity = user(&server);
        let mut connection = join(&identity, |_| {}).await;
        let answer = answer.to_string().replace(r#""one""#, &one(&identity).to_string());
        api.answer_with(&[(200, &answer)]);
        connection.send_text(push(&identity)).await.expect("sent");
        let body = error(&mut connection).await;
        let expected = json!({ "kind": "PushFailed", "mutationIDs": [one(&identity)] });
        assert_eq!(written(&body), with(expected, &told), "{answer}");
    }

    // Nobody is named, and nobody is told.
    let identity = user(&server);
    let mut connection = join(&identity, |_| {}).await;
    let nobody = r#"{"kind":"PushFailed","origin":"server","reason":"internal","message":"m","mutationIDs":[]}"#;
    while api.arrived_by_now() {}
    api.answer_with(&[(200, nobody)]);
    connection.send_text(push(&identity)).await.expect("sent");
    api.arrival().await;
    // The next one is sent when all has been made of that answer.
    connection.send_text(push(&identity)).await.expect("sent");
    while poke(&mut connection).await.parts.iter().all(|part| part.last_mutation_id_changes.is_none()) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutate_server_that_is_not_there() {
    let server = Server::start_with(SCHEMA, &[("ZERO_MUTATE_URL", "http://127.0.0.1:1/mutate")]).await;
    let identity = server.identity();
    let mut connection = join(&identity, |_| {}).await;
    connection.send_text(push(&identity)).await.expect("sent");
    let body = error(&mut connection).await;
    assert_eq!(
        (body.kind, body.origin, body.reason, body.status),
        (ErrorKind::PushFailed, Some(ErrorOrigin::ZeroCache), Some(ErrorReason::Internal), None)
    );
    assert!(body.message.starts_with("Fetch from API server threw error: "), "{}", body.message);
}

/// What older servers say of a push is told to each client of its own mutations; what today's say, as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_several_clients_that_fails() {
    let (server, api) = start().await;
    for (kind, apart) in [
        (r#""error":"zeroPusher","details":"m""#, true),
        (r#""kind":"PushFailed","origin":"server","reason":"internal","message":"m""#, false),
    ] {
        let identity = server.identity();
        let sibling = identity.sibling();
        let mut one = join(&identity, |_| {}).await;
        let mut two = join(&sibling, |_| {}).await;
        let ids = [(&identity, 1), (&sibling, 1), (&identity, 2), (&sibling, 2)]
            .map(|(of, id)| json!({ "id": id, "clientID": of.client_id }));
        api.answer_with(&[(200, &format!(r#"{{{kind},"mutationIDs":{}}}"#, json!(ids)))]);
        one.send_text(push(&identity)).await.expect("sent");
        for (connection, of) in [(&mut one, &identity), (&mut two, &sibling)] {
            let own: Vec<&Value> = ids.iter().filter(|id| !apart || id["clientID"] == *of.client_id).collect();
            let expected = json!({ "kind": "PushFailed", "origin": "server", "reason": "internal", "message": "m",
                "mutationIDs": own });
            assert_eq!(written(&error(connection).await), expected);
        }
    }
}
