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

/// Whoever asked is told, with the queries that were asked for, and the others of its group go on.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_fail_as_a_whole() {
    use ErrorOrigin::{Server as OfServer, ZeroCache};
    let (server, api) = start().await;
    let failed = r#"{"kind":"TransformFailed","origin":"server","reason":"database","message":"m","queryIDs":["x"]}"#;
    let listed = format!(r#"["transformFailed",{failed}]"#);
    let forbidden = "x".repeat(600);
    let of_server = |reason: &str| {
        format!(
            r#"{{"kind":"TransformFailed","origin":"server","reason":"{reason}","message":"m","details":{{"z":[1]}},"queryIDs":[]}}"#
        )
    };
    let (unread, broken) = (of_server("parse"), of_server("internal"));
    for ((status, text), origin, reason, message) in [
        ((400, "no"), ZeroCache, ErrorReason::Http, "Fetch from API server returned non-OK status 400"),
        ((403, &*forbidden), ZeroCache, ErrorReason::Http, "Fetch from API server returned non-OK status 403"),
        ((200, &*unread), OfServer, ErrorReason::Parse, "m"),
        ((200, &*broken), OfServer, ErrorReason::Internal, "m"),
        ((200, failed), OfServer, ErrorReason::Database, "m"),
        ((200, &*listed), OfServer, ErrorReason::Database, "m"),
        ((200, r#"{"kind":"TransformFailed","message":"m"}"#), ZeroCache, ErrorReason::Parse, PARSE),
        ((200, r#"{"kind":"QueryResponse"}"#), ZeroCache, ErrorReason::Parse, PARSE),
        ((200, "nonsense"), ZeroCache, ErrorReason::Parse, PARSE),
    ] {
        for by_token in [false, true] {
            let identity = user(&server);
            let mut asking = join(&identity, |_| {}).await;
            let mut sibling = join(&identity.sibling(), |_| {}).await;
            poke(&mut asking).await;
            api.answer_with(&[(status, text)]);
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
                (body.kind, body.origin, body.reason, body.query_ids),
                (ErrorKind::TransformFailed, Some(origin), Some(reason), Some(vec![asked])),
                "{text} {by_token}"
            );
            assert!(body.message.starts_with(message), "{}", body.message);
            let preview = if text.len() > 512 { format!("{}...", &text[..512]) } else { text.to_owned() };
            let of_http = (status != 200).then_some((status, preview));
            assert_eq!(body.status.zip(body.body_preview), of_http);
            let details = text.contains("details").then_some(r#"{"z":[1]}"#);
            assert_eq!(body.details.as_ref().map(|details| details.get()), details, "{text}");
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
    use ErrorOrigin::{Server as OfServer, ZeroCache};
    let (server, api) = start().await;
    let one = |identity: &Identity| json!({ "id": 1, "clientID": identity.client_id });
    type Answer = fn(Value) -> Value;
    for (answer, origin, reason, status, message, details) in [
        (
            (|_| json!({ "kind": "MutateResponse", "userID": "v", "mutations": [] })) as Answer,
            ZeroCache,
            ErrorReason::Http,
            Some(401),
            "Connection userID does not match validated server userID.",
            None,
        ),
        (
            |id| json!({ "error": "http", "status": 502, "details": "d", "mutationIDs": [id] }),
            ZeroCache,
            ErrorReason::Http,
            Some(502),
            "Fetch from API server returned non-OK status 502",
            None,
        ),
        (
            |_| json!({ "error": "unsupportedPushVersion" }),
            OfServer,
            ErrorReason::UnsupportedPushVersion,
            None,
            "Unsupported push version",
            None,
        ),
        (
            |_| json!({ "error": "unsupportedSchemaVersion" }),
            OfServer,
            ErrorReason::Internal,
            None,
            "Unsupported schema version",
            None,
        ),
        (|_| json!({ "error": "zeroPusher", "details": "dd" }), OfServer, ErrorReason::Internal, None, "dd", None),
        (
            |id| json!({ "mutations": [{ "id": id, "result": { "error": "oooMutation", "details": "d" } }] }),
            OfServer,
            ErrorReason::OooMutation,
            None,
            "mutation was out of order",
            Some(r#""d""#),
        ),
        (
            |id| {
                json!({ "kind": "PushFailed", "origin": "server", "reason": "database", "message": "m",
                    "details": { "z": [1] }, "mutationIDs": [id] })
            },
            OfServer,
            ErrorReason::Database,
            None,
            "m",
            Some(r#"{"z":[1]}"#),
        ),
        (
            |id| {
                json!({ "kind": "PushFailed", "origin": "server", "reason": "internal", "message": "m",
                    "mutationIDs": [id] })
            },
            OfServer,
            ErrorReason::Internal,
            None,
            "m",
            None,
        ),
        (
            |id| {
                json!({ "kind": "PushFailed", "origin": "zeroCache", "reason": "http", "status": 500,
                    "bodyPreview": "b", "message": "m", "mutationIDs": [id] })
            },
            ZeroCache,
            ErrorReason::Http,
            Some(500),
            "m",
            None,
        ),
        (
            |id| json!({ "kind": "PushFailed", "origin": "zeroCache", "reason": "http", "message": "m", "mutationIDs": [id] }),
            ZeroCache,
            ErrorReason::Parse,
            None,
            PARSE,
            None,
        ),
    ] {
        let identity = user(&server);
        let mut connection = join(&identity, |_| {}).await;
        let answer = answer(one(&identity)).to_string();
        api.answer_with(&[(200, &answer)]);
        connection.send_text(push(&identity)).await.expect("sent");
        let body = error(&mut connection).await;
        let ErrorBody { kind, mutation_ids, .. } = &body;
        assert_eq!(
            (*kind, body.origin, body.reason, body.status),
            (ErrorKind::PushFailed, Some(origin), Some(reason), status),
            "{answer}"
        );
        assert_eq!(json!(mutation_ids), json!([one(&identity)]), "{answer}");
        assert!(body.message.starts_with(message), "{}", body.message);
        assert_eq!(body.details.as_ref().map(|details| details.get()), details, "{answer}");
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
