//! The worked transcript of the reference (protocol sheet §22), message by message.
//!
//! Cookies differ from run to run: the state versions of a run are named S1, S2, … in the order of their appearance. With
//! that, what begins and ends pokes is the same byte for byte; parts and errors are compared as JSON, parts with their rows
//! sorted, because the reference orders members and rows by how its pipelines happen to run.

use std::sync::Arc;

use protocol_client::{Connection, Error, Hello, Identity, hash_of};
use serde_json::{Value, json};
use zql_spec::protocol::upstream::{DesiredOp, Upstream};

use crate::harness::{Server, open, patiently};
use crate::mutate_api::{Call, MutateApi};

const TABLES: &str = r#"
CREATE SCHEMA zero;
CREATE TABLE zero.permissions ("permissions" jsonb, "hash" text, "lock" bool PRIMARY KEY DEFAULT true CHECK (lock));
INSERT INTO zero.permissions ("permissions") VALUES (
    '{"tables":{"pair":{"row":{"select":[["allow",{"type":"and","conditions":[]}]],
        "insert":[["allow",{"type":"and","conditions":[]}]]}}}}');
CREATE TABLE issue (id text PRIMARY KEY, title text, open bool NOT NULL, created timestamptz, meta jsonb, num int8,
    price numeric, tags text[], d date, t time);
CREATE TABLE comment (id text PRIMARY KEY, issue_id text, body text);
CREATE TABLE pair (a text, b int, v text, PRIMARY KEY (a, b));
INSERT INTO issue VALUES ('i1', 'first', true, '2024-01-02T03:04:05.678Z', '{"a":[1,2,{"b":null}]}', 42, 12.5, '{x,y}',
    '2024-05-06', '01:02:03');
INSERT INTO issue (id, title, open) VALUES ('i2', 'second', false);
INSERT INTO comment VALUES ('c1', 'i1', 'hello');
INSERT INTO pair VALUES ('p', 1, 'v1');"#;

const SCHEMA: &str = r#"{"tables":{"comment":{"columns":{"id":{"type":"string"}},"primaryKey":["id"]},"issue":{"columns":{"id":{"type":"string"}},"primaryKey":["id"]},"pair":{"columns":{"a":{"type":"string"},"b":{"type":"number"}},"primaryKey":["a","b"]}}}"#;

const PAIRS: &str = r#"{"table":"pair","where":{"type":"simple","left":{"type":"column","name":"a"},"right":{"type":"literal","value":"p"},"op":"="}}"#;

/// All issues with their comments.
const ISSUES: &str = r#"{"table":"issue","related":[{"correlation":{"parentField":["id"],"childField":["issue_id"]},"subquery":{"table":"comment","alias":"comments"},"system":"client"}]}"#;

/// A server with an API server for queries and one for mutations, so that each can be looked at and held up alone.
async fn start() -> (Server, [Arc<MutateApi>; 2]) {
    let (queries, mutations) = (MutateApi::start().await, MutateApi::start().await);
    let urls = [format!("{}/query", queries.url), format!("{}/mutate", mutations.url)];
    let server = Server::start_with(TABLES, &[("ZERO_QUERY_URL", &urls[0]), ("ZERO_MUTATE_URL", &urls[1])]).await;
    mutations.use_database(&server.database);
    queries.name("issues.all", serde_json::from_str(ISSUES).expect("JSON"));
    queries.name("pairs", serde_json::from_str(PAIRS).expect("JSON"));
    (server, [queries, mutations])
}

/// That an API server was called once more, and how.
async fn called(api: &MutateApi, path: &str) -> Call {
    api.arrival().await;
    let call = api.calls().pop().expect("a call");
    assert_eq!((&*call.path, &*call.query), (path, "schema=zero_0&appID=zero"));
    call
}

/// That it was called once more, to clean results up.
async fn cleaned(api: &MutateApi) {
    let mut body = called(api, "/mutate").await.json();
    for timestamped in ["/mutations/0/timestamp", "/timestamp"] {
        assert!(body.pointer_mut(timestamped).expect("a time").take().is_number());
    }
    let args = json!([{ "type": "single", "clientGroupID": "G", "clientID": "C1", "upToMutationID": 2 }]);
    let expected = json!({
        "clientGroupID": "G", "pushVersion": 1, "timestamp": null, "requestID": "cleanup-G-C1-2",
        "mutations": [{ "type": "custom", "id": 0, "clientID": "C1", "name": "_zero_cleanupResults", "args": args,
            "timestamp": null }],
    });
    assert_eq!(body, expected);
}

/// A client whose messages are read as text, with the names of the state versions seen.
struct Reader<'a> {
    connection: Connection,
    states: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// The next message that is no sign of life, with its state versions renamed.
    async fn message(&mut self) -> String {
        // As a whole: a server that has nothing to say is heard of every few seconds.
        let text = patiently(async {
            loop {
                let text = self.connection.next_text().await.expect("a message");
                if &*text != r#"["pong",{}]"# {
                    break text.to_string();
                }
            }
        })
        .await;
        let message: Value = serde_json::from_str(&text).expect("JSON");
        let mut renamed = text.clone();
        for name in ["pokeID", "baseCookie", "cookie"] {
            let Some(cookie) = message[1][name].as_str() else { continue };
            let (state, config) = cookie.split_once(':').map_or((cookie, None), |(state, tail)| (state, Some(tail)));
            if state == "00" {
                continue;
            }
            let number = self.states.iter().position(|known| known == state).unwrap_or_else(|| {
                self.states.push(state.to_owned());
                self.states.len() - 1
            });
            let new = config.map_or_else(|| format!("S{}", number + 1), |config| format!("S{}:{config}", number + 1));
            renamed = renamed.replace(&format!("\"{name}\":\"{cookie}\""), &format!("\"{name}\":\"{new}\""));
        }
        renamed
    }

    async fn send(&mut self, text: &str) {
        self.connection.send_text(text.to_owned()).await.expect("sent");
    }

    /// That the connection was accepted, which is the first that is heard of it.
    async fn expect_connected(&mut self) {
        let connected: Value = serde_json::from_str(&self.message().await).expect("JSON");
        assert_eq!(connected[0], "connected");
        let Value::Object(body) = &connected[1] else { panic!("an object") };
        assert_eq!(body.len(), 2);
        assert!(body["wsid"].is_string() && body["timestamp"].as_f64().is_some_and(|ms| ms.fract() == 0.0));
    }

    /// That nothing is heard but the answer to a ping.
    async fn expect_silence(&mut self) {
        self.connection.send(&Upstream::Ping).await.expect("sent");
        let text = patiently(self.connection.next_text()).await.expect("a message");
        assert_eq!(&*text, r#"["pong",{}]"#);
    }

    /// Reads as many messages as are expected, and compares them.
    async fn expect(&mut self, lines: &[&str]) {
        for expected in lines {
            let got = self.message().await;
            if [r#"["pokePart""#, r#"["error""#].iter().any(|name| expected.starts_with(name)) {
                assert_eq!(sorted(&got), sorted(expected), "\n{got}\n{expected}");
            } else {
                assert_eq!(got, *expected);
            }
        }
    }
}

/// A poke part with its rows in an order of its own.
fn sorted(part: &str) -> Value {
    let mut part: Value = serde_json::from_str(part).expect("JSON");
    for patch in ["rowsPatch", "gotQueriesPatch"] {
        if let Some(rows) = part[1][patch].as_array_mut() {
            rows.sort_by_key(Value::to_string);
        }
    }
    part
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transcript_of_the_reference() {
    let (server, [queries, mutations]) = start().await;
    let issues = Hello::named("issues.all", "[]");
    assert_eq!(hash_of(&issues), Some("3g74anaazf9ct"));
    let DesiredOp::Put(mut pairs) = Hello::ast(PAIRS) else { panic!("a put") };
    pairs.hash = "4dmnwcfqvqrs".to_owned();
    let identity = Identity { client_id: "C1".to_owned(), client_group_id: "G".to_owned(), ..server.identity() };
    let mut hello = Hello::new(SCHEMA, vec![issues, DesiredOp::Put(pairs)]);
    hello.init.active_clients = Some(vec!["C1".to_owned()]);
    let mut states = Vec::new();
    let mut c1 = Reader { connection: open(&identity, None, hello).await, states: &mut states };

    c1.expect_connected().await;
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"00:01","baseCookie":null}]"#,
        r#"["pokePart",{"pokeID":"00:01","desiredQueriesPatches":{"C1":[{"op":"put","hash":"3g74anaazf9ct"},{"op":"put","hash":"4dmnwcfqvqrs"}]}}]"#,
        r#"["pokeEnd",{"pokeID":"00:01","cookie":"00:01"}]"#,
        r#"["pokeStart",{"pokeID":"S1","baseCookie":"00:01"}]"#,
        r#"["pokePart",{"pokeID":"S1","gotQueriesPatch":[{"op":"put","hash":"4dmnwcfqvqrs"},{"op":"put","hash":"3g74anaazf9ct"}],"rowsPatch":[
     {"op":"put","tableName":"pair","value":{"a":"p","b":1,"v":"v1"}},
     {"op":"put","tableName":"issue","value":{"id":"i1","title":"first","open":true,"created":1704164645678,"meta":{"a":[1,2,{"b":null}]},"num":42,"price":12.5,"tags":["x","y"],"d":1714953600000,"t":3723000}},
     {"op":"put","tableName":"comment","value":{"id":"c1","issue_id":"i1","body":"hello"}},
     {"op":"put","tableName":"issue","value":{"id":"i2","title":"second","open":false,"created":null,"meta":null,"num":null,"price":null,"tags":null,"d":null,"t":null}}]}]"#,
        r#"["pokeEnd",{"pokeID":"S1","cookie":"S1"}]"#,
    ])
    .await;
    let asked: Vec<String> = queries.calls().into_iter().map(|call| call.body).collect();
    assert_eq!(
        asked,
        [r#"["transform",[]]"#, r#"["transform",[{"id":"3g74anaazf9ct","name":"issues.all","args":[]}]]"#]
    );

    // A query whose server handler throws.
    c1.send(r#"["changeDesiredQueries",{"desiredQueriesPatch":[{"op":"put","hash":"1y9b9csx17l8e","name":"issues.bad","args":[],"ttl":300000}]}]"#).await;
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"S1:01","baseCookie":"S1"}]"#,
        r#"["pokePart",{"pokeID":"S1:01","desiredQueriesPatches":{"C1":[{"op":"put","hash":"1y9b9csx17l8e"}]}}]"#,
        r#"["pokeEnd",{"pokeID":"S1:01","cookie":"S1:01"}]"#,
        r#"["transformError",[{"error":"app","id":"1y9b9csx17l8e","name":"issues.bad","message":"nope"}]]"#,
        r#"["pokeStart",{"pokeID":"S1:02","baseCookie":"S1:01"}]"#,
        r#"["pokePart",{"pokeID":"S1:02","gotQueriesPatch":[{"op":"del","hash":"1y9b9csx17l8e"}]}]"#,
        r#"["pokeEnd",{"pokeID":"S1:02","cookie":"S1:02"}]"#,
    ])
    .await;

    // Custom mutations: one that works, one that fails, and what cleans its result up.
    let body = r#"{"timestamp":1795380842496,"clientGroupID":"G","mutations":[{"type":"custom","timestamp":1795380842494,"id":1,"clientID":"C1","name":"issue.create","args":[{"id":"i3","title":"third","open":true,"num":7}]}],"pushVersion":1,"requestID":"C1-3b861848-5"}"#;
    c1.send(&format!(r#"["push",{body}]"#)).await;
    assert_eq!(called(&mutations, "/mutate").await.body, body);
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"S2","baseCookie":"S1:02"}]"#,
        r#"["pokePart",{"pokeID":"S2","lastMutationIDChanges":{"C1":1},"rowsPatch":[{"op":"put","tableName":"issue","value":{"id":"i3","title":"third","open":true,"created":null,"meta":null,"num":7,"price":null,"tags":null,"d":null,"t":null}}]}]"#,
        r#"["pokeEnd",{"pokeID":"S2","cookie":"S2"}]"#,
    ])
    .await;
    let body = r#"{"timestamp":1795380842500,"clientGroupID":"G","mutations":[{"type":"custom","timestamp":1795380842499,"id":2,"clientID":"C1","name":"issue.fail","args":[null]}],"pushVersion":1,"requestID":"C1-3b861848-6"}"#;
    c1.send(&format!(r#"["push",{body}]"#)).await;
    assert_eq!(called(&mutations, "/mutate").await.body, body);
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"S3","baseCookie":"S2"}]"#,
        r#"["pokePart",{"pokeID":"S3","lastMutationIDChanges":{"C1":2},"mutationsPatch":[{"op":"put","mutation":{"id":{"clientID":"C1","id":2},"result":{"error":"app","message":"server says no"}}}]}]"#,
        r#"["pokeEnd",{"pokeID":"S3","cookie":"S3"}]"#,
    ])
    .await;
    let acknowledged = r#"["ackMutationResponses",{"clientID":"C1","id":2}]"#;
    c1.send(acknowledged).await;
    cleaned(&mutations).await;
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"S4","baseCookie":"S3"}]"#,
        r#"["pokePart",{"pokeID":"S4","mutationsPatch":[{"op":"del","id":{"clientID":"C1","id":2}}]}]"#,
        r#"["pokeEnd",{"pokeID":"S4","cookie":"S4"}]"#,
    ])
    .await;
    c1.send(acknowledged).await;
    cleaned(&mutations).await;

    // A CRUD mutation, which this server does itself.
    c1.send(r#"["push",{"timestamp":1795380842510,"clientGroupID":"G","mutations":[{"type":"crud","timestamp":1795380842509,"id":3,"clientID":"C1","name":"_zero_crud","args":[{"ops":[{"op":"upsert","tableName":"pair","primaryKey":["a","b"],"value":{"a":"p","b":2,"v":"v2"}}]}]}],"pushVersion":1,"requestID":"C1-3b861848-7"}]"#).await;
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"S5","baseCookie":"S4"}]"#,
        r#"["pokePart",{"pokeID":"S5","rowsPatch":[{"op":"put","tableName":"pair","value":{"a":"p","b":2,"v":"v2"}}],"lastMutationIDChanges":{"C1":3}}]"#,
        r#"["pokeEnd",{"pokeID":"S5","cookie":"S5"}]"#,
    ])
    .await;
    assert!(!mutations.arrived_by_now());
    c1.send(r#"["changeDesiredQueries",{"desiredQueriesPatch":[{"op":"del","hash":"3g74anaazf9ct"}]}]"#).await;
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"S5:01","baseCookie":"S5"}]"#,
        r#"["pokePart",{"pokeID":"S5:01","desiredQueriesPatches":{"C1":[{"op":"del","hash":"3g74anaazf9ct"}]}}]"#,
        r#"["pokeEnd",{"pokeID":"S5:01","cookie":"S5:01"}]"#,
    ])
    .await;

    // One transaction: a changed key, a row, a row that leaves the query.
    server.sql("BEGIN; UPDATE pair SET b = 100 WHERE b = 2; INSERT INTO pair VALUES ('p', 3, 'n'); UPDATE pair SET a = 'q' WHERE b = 1; COMMIT");
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"S6","baseCookie":"S5:01"}]"#,
        r#"["pokePart",{"pokeID":"S6","rowsPatch":[{"op":"del","tableName":"pair","id":{"a":"p","b":2}},{"op":"put","tableName":"pair","value":{"a":"p","b":100,"v":"v2"}},{"op":"put","tableName":"pair","value":{"a":"p","b":3,"v":"n"}},{"op":"del","tableName":"pair","id":{"a":"p","b":1}}]}]"#,
        r#"["pokeEnd",{"pokeID":"S6","cookie":"S6"}]"#,
    ])
    .await;

    // A second tab, with a query that the group does not have yet.
    let second = Identity { client_id: "C2".to_owned(), ..identity.clone() };
    let DesiredOp::Put(mut wanted) = Hello::named("ast", r#"[{"table":"comment"}]"#) else { panic!("a put") };
    wanted.hash = "hcomment".to_owned();
    let mut hello = Hello::new(SCHEMA, vec![DesiredOp::Put(wanted)]);
    hello.init.active_clients = Some(vec!["C1".to_owned(), "C2".to_owned()]);
    let connection = open(&second, None, hello).await;
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"S6:01","baseCookie":"S6"}]"#,
        r#"["pokePart",{"pokeID":"S6:01","desiredQueriesPatches":{"C2":[{"op":"put","hash":"hcomment"}]}}]"#,
        r#"["pokeEnd",{"pokeID":"S6:01","cookie":"S6:01"}]"#,
        r#"["pokeStart",{"pokeID":"S6:02","baseCookie":"S6:01"}]"#,
        r#"["pokePart",{"pokeID":"S6:02","gotQueriesPatch":[{"op":"put","hash":"hcomment"}]}]"#,
        r#"["pokeEnd",{"pokeID":"S6:02","cookie":"S6:02"}]"#,
    ])
    .await;
    let mut c2 = Reader { connection, states: c1.states };
    c2.message().await;
    let begin = c2.message().await;
    assert_eq!(begin, r#"["pokeStart",{"pokeID":"S6:02","baseCookie":null}]"#);
    let part = sorted(&c2.message().await);
    let body = &part[1];
    assert_eq!(body["desiredQueriesPatches"]["C2"], json!([{ "op": "put", "hash": "hcomment" }]));
    assert_eq!(body["lastMutationIDChanges"], json!({ "C1": 3 }));
    let got = body["gotQueriesPatch"].as_array().expect("got queries");
    for hash in ["3g74anaazf9ct", "4dmnwcfqvqrs", "hcomment"] {
        assert!(got.contains(&json!({ "op": "put", "hash": hash })), "{part}");
    }
    assert_eq!(body["rowsPatch"].as_array().map(Vec::len), Some(6), "issues, the comment, pairs: {part}");
    assert_eq!(c2.message().await, r#"["pokeEnd",{"pokeID":"S6:02","cookie":"S6:02"}]"#);
}

/// The rest of it: a client whose first message does not fit the header, whose socket dies while a mutation is pending,
/// whose token is replaced, and whose new token is refused.
#[tokio::test(flavor = "multi_thread")]
async fn the_transcript_of_a_client_that_comes_and_goes() {
    let (server, [queries, mutations]) = start().await;
    let identity = Identity {
        server: format!("{}/zero", server.url),
        client_id: "C".to_owned(),
        client_group_id: "G".to_owned(),
        user_id: Some("u9".to_owned()),
        auth: Some("tokA".to_owned()),
        ..server.identity()
    };
    let pairs = Hello::named("pairs", "[]");
    assert_eq!(hash_of(&pairs), Some("2il5fowkt90e0"));
    let hello = |hello: Hello| {
        let mut hello = Hello { in_message: true, ..hello };
        let header = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into_iter().collect();
        hello.init.user_push_url = Some(format!("{}/mutate", mutations.url));
        hello.init.user_push_headers = Some(header("x-m", "1"));
        hello.init.user_query_url = Some(format!("{}/query", queries.url));
        hello.init.user_query_headers = Some(header("x-q", "2"));
        hello.init.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
        hello
    };
    let push = |id: i64| {
        format!(
            r#"["push",{{"timestamp":2,"clientGroupID":"G","mutations":[{{"type":"custom","timestamp":1,"id":{id},"clientID":"C","name":"issue.create","args":[{{"id":"made-{id}"}}]}}],"pushVersion":1,"requestID":"r{id}"}}]"#
        )
    };
    let bearer = |call: &Call| call.headers["authorization"].to_str().expect("text").to_owned();
    let mut states = Vec::new();
    let first = hello(Hello::new(SCHEMA, vec![pairs]));
    let mut client = Reader { connection: open(&identity, None, first).await, states: &mut states };
    client.expect_connected().await;
    client
        .expect(&[
            r#"["pokeStart",{"pokeID":"00:01","baseCookie":null}]"#,
            r#"["pokePart",{"pokeID":"00:01","desiredQueriesPatches":{"C":[{"op":"put","hash":"2il5fowkt90e0"}]}}]"#,
            r#"["pokeEnd",{"pokeID":"00:01","cookie":"00:01"}]"#,
            r#"["pokeStart",{"pokeID":"S1","baseCookie":"00:01"}]"#,
            r#"["pokePart",{"pokeID":"S1","gotQueriesPatch":[{"op":"put","hash":"2il5fowkt90e0"}],"rowsPatch":[{"op":"put","tableName":"pair","value":{"a":"p","b":1,"v":"v1"}}]}]"#,
            r#"["pokeEnd",{"pokeID":"S1","cookie":"S1"}]"#,
        ])
        .await;
    let cookie = client.states[0].clone();

    // The socket dies. What was not acknowledged is pushed as soon as the client is back; it is done a little later.
    let Reader { connection, states } = client;
    drop(connection);
    mutations.hold();
    let mut client = Reader { connection: open(&identity, Some(&cookie), hello(Hello::again())).await, states };
    client.expect_connected().await;
    client.send(&push(1)).await;
    client
        .expect(&[r#"["pokeStart",{"pokeID":"S1","baseCookie":"S1"}]"#, r#"["pokeEnd",{"pokeID":"S1","cookie":"S1"}]"#])
        .await;
    assert_eq!(bearer(&called(&mutations, "/mutate").await), "Bearer tokA");
    mutations.release();
    client
        .expect(&[
            r#"["pokeStart",{"pokeID":"S2","baseCookie":"S1"}]"#,
            r#"["pokePart",{"pokeID":"S2","lastMutationIDChanges":{"C":1}}]"#,
            r#"["pokeEnd",{"pokeID":"S2","cookie":"S2"}]"#,
        ])
        .await;

    // A new token is nothing to talk about, until it is refused.
    while queries.arrived_by_now() {}
    client.send(r#"["updateAuth",{"auth":"tokB"}]"#).await;
    let asked = called(&queries, "/query").await;
    assert_eq!(asked.body, r#"["transform",[{"id":"2il5fowkt90e0","name":"pairs","args":[]}]]"#);
    assert_eq!(bearer(&asked), "Bearer tokB");
    client.expect_silence().await;
    mutations.answer_with(&[(401, "no")]);
    client.send(&push(2)).await;
    client
        .expect(&[
            r#"["error",{"kind":"PushFailed","origin":"zeroCache","reason":"http","status":401,"bodyPreview":"no","message":"Fetch from API server returned non-OK status 401","mutationIDs":[{"id":2,"clientID":"C"}]}]"#,
        ])
        .await;
    let end = patiently(client.connection.next_text()).await;
    assert!(matches!(&end, Err(Error::Closed { code: None, .. })), "{end:?}");
    assert_eq!(bearer(&called(&mutations, "/mutate").await), "Bearer tokB");

    // The application has a token that is good, and what was refused is pushed again.
    mutations.hold();
    let identity = Identity { auth: Some("tokC".to_owned()), ..identity };
    let cookie = client.states[1].clone();
    client.connection = open(&identity, Some(&cookie), hello(Hello::again())).await;
    client.expect_connected().await;
    client.send(&push(2)).await;
    client
        .expect(&[r#"["pokeStart",{"pokeID":"S2","baseCookie":"S2"}]"#, r#"["pokeEnd",{"pokeID":"S2","cookie":"S2"}]"#])
        .await;
    assert_eq!(bearer(&called(&mutations, "/mutate").await), "Bearer tokC");
    mutations.release();
    client
        .expect(&[
            r#"["pokeStart",{"pokeID":"S3","baseCookie":"S2"}]"#,
            r#"["pokePart",{"pokeID":"S3","lastMutationIDChanges":{"C":2}}]"#,
            r#"["pokeEnd",{"pokeID":"S3","cookie":"S3"}]"#,
        ])
        .await;
    client.expect_silence().await;
}
