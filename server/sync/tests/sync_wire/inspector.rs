//! The inspector: who may ask, and the shapes of the answers (protocol sheet §19).

use protocol_client::{Connection, Event, Hello, hash_of};
use serde_json::{Value, json};
use zql_spec::protocol::error::ErrorKind;
use zql_spec::protocol::upstream::DesiredOp;

use crate::harness::{CLIENT_SCHEMA, ISSUES, SCHEMA, Server, error, next, open, poke, pokes_until_got, query};

/// What a request is answered with.
async fn ask(connection: &mut Connection, request: Value) -> Value {
    connection.send_text(json!(["inspect", request]).to_string()).await.expect("sent");
    loop {
        if let Event::Other(text) = next(connection).await {
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!((&answer[0], &answer[1]["id"]), (&json!("inspect"), &request["id"]), "{text}");
            return answer[1].clone();
        }
    }
}

/// The names of an object's members.
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

async fn start(pairs: &[(&str, &str)]) -> (Server, Connection, DesiredOp) {
    let server = Server::start_with(SCHEMA, pairs).await;
    let wanted = query(ISSUES);
    let (_, mut connection) = server.connect(vec![wanted.clone()]).await;
    pokes_until_got(&mut connection, hash_of(&wanted).expect("a hash")).await;
    (server, connection, wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_without_the_password() {
    let (server, mut connection, _) = start(&[("ZERO_ADMIN_PASSWORD", "right")]).await;
    let refused = json!({ "op": "authenticated", "id": "1", "value": false });
    for op in ["version", "metrics", "queries", "analyze-query"] {
        assert_eq!(ask(&mut connection, json!({ "op": op, "id": "1" })).await, refused, "{op}");
    }
    let authenticate = |password: &str| json!({ "op": "authenticate", "id": "1", "value": password });
    for (password, right) in [("", false), ("righ", false), ("right", true), ("wrong", false)] {
        let answer = ask(&mut connection, authenticate(password)).await;
        assert_eq!(answer, json!({ "op": "authenticated", "id": "1", "value": right }), "{password}");
        let answer = ask(&mut connection, json!({ "op": "version", "id": "1" })).await;
        assert_eq!(answer["op"], if right { "version" } else { "authenticated" }, "{password}");
    }
    // Another group knows nothing of it; a socket without a group is not answered.
    ask(&mut connection, authenticate("right")).await;
    let (_, mut other) = server.connect(vec![]).await;
    poke(&mut other).await;
    assert_eq!(ask(&mut other, json!({ "op": "version", "id": "1" })).await, refused);
}

/// In development there is no password, and nobody needs one.
#[tokio::test(flavor = "multi_thread")]
async fn in_development_whoever_asks_is_told() {
    let (_server, mut connection, wanted) = start(&[("NODE_ENV", "development"), ("ZERO_SERVER_VERSION", "7.8")]).await;
    for (request, op, value) in [
        (json!({ "op": "version", "id": "1" }), "version", json!("7.8")),
        (json!({ "op": "authenticate", "id": "1", "value": "" }), "authenticated", json!(true)),
        (json!({ "op": "authenticate", "id": "1", "value": "wrong" }), "authenticated", json!(false)),
        // It is not the password that lets in.
        (json!({ "op": "version", "id": "1" }), "version", json!("7.8")),
    ] {
        assert_eq!(ask(&mut connection, request).await, json!({ "op": op, "id": "1", "value": value }));
    }
    let answer = ask(&mut connection, json!({ "op": "queries", "id": "1" })).await;
    assert_eq!(answer["value"][0]["queryID"], json!(hash_of(&wanted)));
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_and_times() {
    let settings = [("ZERO_ADMIN_PASSWORD", "p"), ("ZERO_SERVER_VERSION", "7.8")];
    let (server, mut connection, wanted) = start(&settings).await;
    ask(&mut connection, json!({ "op": "authenticate", "id": "0", "value": "p" })).await;
    assert_eq!(
        ask(&mut connection, json!({ "op": "version", "id": "v" })).await,
        json!({ "op": "version", "id": "v", "value": "7.8" })
    );
    server.sql("UPDATE issue SET title = 'changed' WHERE id = 'i1'");
    while poke(&mut connection).await.rows().count() == 0 {}

    let own = Hello::ast(r#"{"table":"comment"}"#);
    let gone = hash_of(&wanted).expect("a hash").to_owned();
    connection.change_queries(vec![own.clone(), DesiredOp::Del { hash: gone.clone() }]).await.expect("sent");
    pokes_until_got(&mut connection, hash_of(&own).expect("a hash")).await;
    let answer = ask(&mut connection, json!({ "op": "queries", "id": "q" })).await;
    let mut rows = answer["value"].as_array().expect("rows").clone();
    rows.sort_by_key(|row| row["name"].is_null());
    assert_eq!(rows.len(), 2);
    for row in &rows {
        assert_eq!(
            keys(row),
            [
                "args",
                "ast",
                "clientID",
                "deleted",
                "got",
                "inactivatedAt",
                "metrics",
                "name",
                "queryID",
                "rowCount",
                "ttl"
            ]
        );
        assert_eq!(keys(&row["metrics"]), ["query-hydration-server-ms", "query-update-server"]);
    }
    let [named, plain] = &rows[..] else { panic!("two rows") };
    assert_eq!(named["queryID"], json!(gone));
    assert_eq!((&named["name"], &named["got"], &named["deleted"]), (&json!("ast"), &json!(true), &json!(true)));
    assert!(
        named["inactivatedAt"].is_number() && named["args"][0]["table"] == "issue" && named["ast"]["table"] == "issue"
    );
    assert_eq!(named["rowCount"], 3);
    assert_eq!(named["ttl"], 300_000);
    let times = named["metrics"]["query-update-server"].as_array().expect("a digest");
    assert!(times[0] == 1000 && times.len() % 2 == 1 && times.len() > 1, "{times:?}");
    assert_eq!((&plain["name"], &plain["args"], &plain["inactivatedAt"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(plain["ast"], json!({ "table": "comment" }));
    assert_eq!(plain["metrics"]["query-update-server"], json!([1000]));

    // Of one client, and as older clients expect the times.
    let answer = ask(&mut connection, json!({ "op": "queries", "id": "q", "clientID": "nobody" })).await;
    assert_eq!(answer["value"], json!([]));
    let identity = protocol_client::Identity { version: 50, ..server.identity() };
    let mut older = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![wanted])).await;
    pokes_until_got(&mut older, &gone).await;
    ask(&mut older, json!({ "op": "authenticate", "id": "0", "value": "p" })).await;
    let answer = ask(&mut older, json!({ "op": "queries", "id": "q" })).await;
    let times = &answer["value"][0]["metrics"];
    assert_eq!(keys(times), ["query-materialization-server", "query-update-server"]);
    assert_eq!(times["query-materialization-server"].as_array().expect("a digest").len(), 3);

    let answer = ask(&mut connection, json!({ "op": "metrics", "id": "m" })).await;
    assert_eq!(keys(&answer["value"]), ["query-materialization-server", "query-update-server"]);
    assert!(answer["value"]["query-materialization-server"].as_array().expect("a digest").len() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_an_error() {
    let (_server, mut connection, _) = start(&[("ZERO_ADMIN_PASSWORD", "p")]).await;
    ask(&mut connection, json!({ "op": "authenticate", "id": "0", "value": "p" })).await;
    let missing = "AST is required for analyze-query operation. Either provide an AST directly or ensure custom query \
                   transformation is configured.";
    for (ast, message) in [
        (None, missing),
        // This server is without what the binary brings.
        (Some(json!({ "table": "issue" })), "this server has no planner to ask"),
    ] {
        let mut request = json!({ "op": "analyze-query", "id": "a" });
        if let Some(ast) = ast {
            request["ast"] = ast;
        }
        let answer = ask(&mut connection, request).await;
        assert_eq!(answer, json!({ "op": "error", "id": "a", "value": message }));
    }
}

/// What is not asked for in the protocol's words is answered with the end; what servers ignore, with nothing.
#[tokio::test(flavor = "multi_thread")]
async fn questions_that_nobody_understands() {
    let (_server, mut connection, _) = start(&[("ZERO_ADMIN_PASSWORD", "p")]).await;
    for ignored in [r#"["pull",{"clientGroupID":"g","cookie":null,"requestID":"r"}]"#, r#"["closeConnection",[]]"#] {
        connection.send_text(ignored.to_owned()).await.expect("sent");
    }
    connection.send_text(r#"["ping",{}]"#.to_owned()).await.expect("sent");
    assert!(matches!(next(&mut connection).await, Event::Pong));
    connection.send_text(r#"["inspect",{"op":"secrets","id":"1"}]"#.to_owned()).await.expect("sent");
    assert_eq!(error(&mut connection).await.kind, ErrorKind::InvalidMessage);
}
