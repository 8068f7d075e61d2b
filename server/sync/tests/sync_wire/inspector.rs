//! The inspector: who may ask, and the shapes of the answers (protocol sheet §19).

use std::sync::Arc;

use protocol_client::{Connection, Event, Hello, hash_of};
use serde_json::{Value, json};
use sync::inspect::analyze::{Analysis, Explain};
use zql_spec::protocol::error::ErrorKind;
use zql_spec::protocol::upstream::DesiredOp;

use crate::crud;
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
    for ignored in [
        r#"["pull",{"clientGroupID":"g","cookie":null,"requestID":"r"}]"#,
        r#"["closeConnection",[]]"#,
        // Nobody is there who could clean up.
        r#"["ackMutationResponses",{"id":1,"clientID":"c"}]"#,
        r#"["updateAuth",{"auth":""}]"#,
    ] {
        connection.send_text(ignored.to_owned()).await.expect("sent");
    }
    connection.send_text(r#"["ping",{}]"#.to_owned()).await.expect("sent");
    assert!(matches!(next(&mut connection).await, Event::Pong));
    connection.send_text(r#"["inspect",{"op":"secrets","id":"1"}]"#.to_owned()).await.expect("sent");
    assert_eq!(error(&mut connection).await.kind, ErrorKind::InvalidMessage);
}

/// The answer to `queries` without the times, which are looked at apart, and with `true` for when a wish ended.
async fn rows(connection: &mut Connection, client: Option<&str>) -> Vec<Value> {
    let mut request = json!({ "op": "queries", "id": "q" });
    if let Some(client) = client {
        request["clientID"] = json!(client);
    }
    let mut answer = ask(connection, request).await;
    let rows = answer["value"].as_array_mut().expect("rows");
    for row in &mut *rows {
        let times = row["metrics"].take();
        assert_eq!(times.is_null(), row["ast"].is_null(), "{row}");
        row.as_object_mut().expect("a row").remove("metrics");
        if row["inactivatedAt"].is_number() {
            row["inactivatedAt"] = json!(true);
        }
    }
    rows.clone()
}

/// A row for each wish of each client that has not expired, in their order.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_for_each_wish() {
    let named = |hash: &str, ttl: Option<f64>, name: &str, args: &str| {
        let DesiredOp::Put(mut put) = Hello::named(name, args) else { panic!("a put") };
        (put.hash, put.ttl) = (hash.to_owned(), ttl);
        DesiredOp::Put(put)
    };
    let own = |hash: &str| {
        let DesiredOp::Put(mut put) = Hello::ast(r#"{"table":"comment","limit":1}"#) else { panic!("a put") };
        put.hash = hash.to_owned();
        DesiredOp::Put(put)
    };
    let issues = r#"[{"table":"issue"},{"more":[1.5,null]}]"#;
    let server = Server::start_with(SCHEMA, &[("NODE_ENV", "development")]).await;
    let a = protocol_client::Identity { client_id: "a".to_owned(), ..server.identity() };
    let b = protocol_client::Identity { client_id: "b".to_owned(), ..a.clone() };
    let of_b = vec![named("h2", Some(-1.0), "ast", issues), named("h1", Some(0.0), "ast", issues)];
    let mut two = open(&b, None, Hello::new(CLIENT_SCHEMA, of_b)).await;
    pokes_until_got(&mut two, "h1").await;
    let of_a = vec![own("h3"), named("h2", Some(100_000.0), "ast", issues)];
    let mut one = open(&a, None, Hello::new(CLIENT_SCHEMA, of_a)).await;
    pokes_until_got(&mut one, "h3").await;
    let args: Value = serde_json::from_str(issues).expect("JSON");
    let row = |client: &str, query: &str, ttl: u32, ended: Option<bool>| {
        json!({ "clientID": client, "queryID": query, "ast": { "table": "issue" }, "name": "ast", "args": args, "got": true,
            "deleted": ended.is_some(), "ttl": ttl, "inactivatedAt": ended, "rowCount": 2 })
    };
    let plain = json!({ "clientID": "a", "queryID": "h3", "ast": { "table": "comment", "limit": 1 }, "name": null, "args": null,
        "got": true, "deleted": false, "ttl": 300_000, "inactivatedAt": null, "rowCount": 0 });
    let all = [row("a", "h2", 100_000, None), plain.clone(), row("b", "h1", 0, None), row("b", "h2", 600_000, None)];
    for connection in [&mut one, &mut two] {
        assert_eq!(rows(connection, None).await, all);
    }
    assert_eq!(rows(&mut two, Some("a")).await, all[..2]);
    // What ended is shown until its time is over, also when somebody else wants it.
    one.change_queries(vec![DesiredOp::Del { hash: "h2".to_owned() }]).await.expect("sent");
    assert_eq!(rows(&mut one, Some("a")).await, [row("a", "h2", 100_000, Some(true)), plain.clone()]);
    server.hub.clock().advance(std::time::Duration::from_secs(101));
    assert_eq!(rows(&mut one, Some("a")).await, [plain]);
    let ends = ["h1", "h2"].map(|hash| DesiredOp::Del { hash: hash.to_owned() });
    two.change_queries(ends.into()).await.expect("sent");
    assert_eq!(rows(&mut two, Some("b")).await, [row("b", "h2", 600_000, Some(true))]);

    // Nobody can say what a named query is.
    let server = Server::start_with(SCHEMA, &[("NODE_ENV", "development"), ("ZERO_QUERY_URL", "")]).await;
    let (identity, mut connection) = server.connect(vec![named("h", None, "issues.all", "[]")]).await;
    poke(&mut connection).await;
    let unknown = json!({ "clientID": identity.client_id, "queryID": "h", "ast": null, "name": "issues.all", "args": [],
        "got": false, "deleted": false, "ttl": 300_000, "inactivatedAt": null, "rowCount": 0 });
    assert_eq!(rows(&mut connection, None).await, [unknown]);
}

/// Explains a query by what it was asked to explain.
struct Echo;

impl Explain for Echo {
    fn explain(&self, analysis: &Analysis) -> Result<String, String> {
        let Analysis { ast, permitted, warnings, options } = analysis;
        if ast.limit == Some(0.0) {
            return Err("nothing to explain".to_owned());
        }
        let mut text = String::new();
        ast.to_json().write(&mut text);
        let ast: Value = serde_json::from_str(&text).expect("JSON");
        Ok(json!({ "ast": ast, "permitted": permitted, "warnings": warnings, "options": options }).to_string())
    }
}

/// A query is explained as it would be run for whoever asks: by its name, or as it is and narrowed to what is permitted.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_explained() {
    let server = Server::start_with(&crud::schema(), &[("NODE_ENV", "development")]).await;
    server.hub.explain_by(Arc::new(Echo));
    let (_, mut connection) = server.connect(vec![]).await;
    poke(&mut connection).await;
    let options = |vended: bool, synced: bool, plans: bool| json!({ "vendedRows": vended, "syncedRows": synced, "joinPlans": plans });
    let explained = |ast: Value, options: Value| {
        ("analyze-query", json!({ "ast": ast, "permitted": false, "warnings": [], "options": options }))
    };
    let issue = || json!({ "table": "issue", "orderBy": [["id", "desc"]] });
    let usual = || options(false, true, false);
    let failed = |message: &str| ("error", json!(message));
    let missing = "AST is required for analyze-query operation. Either provide an AST directly or ensure custom query \
                   transformation is configured.";
    for (request, (op, value)) in [
        (json!({ "ast": issue() }), explained(issue(), usual())),
        (json!({ "value": issue() }), explained(issue(), usual())),
        (json!({ "ast": issue(), "value": { "table": "comment" } }), explained(issue(), usual())),
        (json!({ "ast": issue(), "options": {} }), explained(issue(), usual())),
        (json!({ "ast": issue(), "options": { "vendedRows": true } }), explained(issue(), options(true, true, false))),
        (
            json!({ "ast": issue(), "options": { "syncedRows": false, "joinPlans": true } }),
            explained(issue(), options(false, false, true)),
        ),
        (json!({ "name": "ast", "args": [issue()] }), explained(issue(), usual())),
        (json!({ "name": "ast", "args": [issue()], "ast": { "table": "comment" } }), explained(issue(), usual())),
        (json!({ "name": "refused", "args": [] }), failed("nope")),
        (json!({ "name": "ast" }), failed(missing)),
        (json!({}), failed(missing)),
        (json!({ "ast": { "table": "issue", "limit": 0 } }), failed("nothing to explain")),
    ] {
        let mut whole = json!({ "op": "analyze-query", "id": "a" });
        whole.as_object_mut().expect("an object").extend(request.as_object().expect("an object").clone());
        let answer = ask(&mut connection, whole).await;
        assert_eq!(answer, json!({ "op": op, "id": "a", "value": value }), "{request}");
    }

    // With permissions an own AST is another one, and without a token whoever asks is nobody.
    let mine = json!({ "type": "simple", "op": "=", "left": { "type": "column", "name": "title" },
        "right": { "type": "static", "anchor": "authData", "field": "sub" } });
    server.permit(&json!({ "issue": { "row": { "select": [["allow", mine]] } } })).await;
    let warning =
        "No auth data provided. Permission rules will compare to `NULL` wherever an auth data field is referenced.";
    let nobody = json!({ "type": "simple", "op": "=", "left": { "type": "column", "name": "title" },
        "right": { "type": "literal", "value": null } });
    let nobody = json!({ "type": "or", "conditions": [nobody] });
    let answer = ask(&mut connection, json!({ "op": "analyze-query", "id": "a", "ast": { "table": "issue" } })).await;
    assert_eq!((&answer["value"]["permitted"], &answer["value"]["warnings"]), (&json!(true), &json!([warning])));
    assert_eq!(answer["value"]["ast"], json!({ "table": "issue", "where": nobody }));
    // A named query is the application's business.
    let request = json!({ "op": "analyze-query", "id": "a", "name": "ast", "args": [issue()] });
    assert_eq!(ask(&mut connection, request).await["value"], explained(issue(), usual()).1);
}
