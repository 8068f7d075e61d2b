//! The worked transcript of the reference (protocol sheet §22), message by message.
//!
//! Cookies differ from run to run: the state versions of a run are named S1, S2, … in the order of their appearance. With
//! that, what begins and ends pokes is the same byte for byte; parts are compared as JSON with their rows sorted,
//! because the reference orders members and rows by how its pipelines happen to run.

use protocol_client::{Connection, Hello, Identity, hash_of};
use serde_json::{Value, json};
use zql_spec::protocol::upstream::DesiredOp;

use crate::harness::{Server, open, patiently};

const TABLES: &str = r#"
CREATE SCHEMA zero;
CREATE TABLE zero.permissions ("permissions" jsonb, "hash" text, "lock" bool PRIMARY KEY DEFAULT true CHECK (lock));
INSERT INTO zero.permissions ("permissions") VALUES (
    '{"tables":{"pair":{"row":{"select":[["allow",{"type":"and","conditions":[]}]]}}}}');
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

/// A client whose messages are read as text, with the names of the state versions seen.
struct Reader<'a> {
    connection: Connection,
    states: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// The next message that is no sign of life, with its state versions renamed.
    async fn message(&mut self) -> String {
        loop {
            let text = patiently(self.connection.next_text()).await.expect("a message").to_string();
            if text == r#"["pong",{}]"# {
                continue;
            }
            let message: Value = serde_json::from_str(&text).expect("JSON");
            let mut renamed = text.clone();
            for name in ["pokeID", "baseCookie", "cookie"] {
                let Some(cookie) = message[1][name].as_str() else { continue };
                let (state, config) =
                    cookie.split_once(':').map_or((cookie, None), |(state, tail)| (state, Some(tail)));
                if state == "00" {
                    continue;
                }
                let number = self.states.iter().position(|known| known == state).unwrap_or_else(|| {
                    self.states.push(state.to_owned());
                    self.states.len() - 1
                });
                let new =
                    config.map_or_else(|| format!("S{}", number + 1), |config| format!("S{}:{config}", number + 1));
                renamed = renamed.replace(&format!("\"{name}\":\"{cookie}\""), &format!("\"{name}\":\"{new}\""));
            }
            return renamed;
        }
    }

    /// Reads as many messages as are expected, and compares them.
    async fn expect(&mut self, lines: &[&str]) {
        for expected in lines {
            let got = self.message().await;
            if expected.starts_with(r#"["pokePart""#) {
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
    let server = Server::start(TABLES).await;
    let issues = Hello::named("issues.all", "[]");
    assert_eq!(hash_of(&issues), Some("3g74anaazf9ct"));
    let DesiredOp::Put(mut pairs) = Hello::ast(PAIRS) else { panic!("a put") };
    pairs.hash = "4dmnwcfqvqrs".to_owned();
    let identity = Identity { client_id: "C1".to_owned(), ..server.identity() };
    let mut hello = Hello::new(SCHEMA, vec![issues, DesiredOp::Put(pairs)]);
    hello.init.active_clients = Some(vec!["C1".to_owned()]);
    let mut states = Vec::new();
    let mut c1 = Reader { connection: open(&identity, None, hello).await, states: &mut states };

    let connected: Value = serde_json::from_str(&c1.message().await).expect("JSON");
    assert_eq!(connected[0], "connected");
    assert!(connected[1]["wsid"].is_string() && connected[1]["timestamp"].as_f64().is_some_and(|ms| ms.fract() == 0.0));
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

    // A query whose server handler throws.
    let bad = r#"["changeDesiredQueries",{"desiredQueriesPatch":[{"op":"put","hash":"1y9b9csx17l8e","name":"issues.bad","args":[],"ttl":300000}]}]"#;
    c1.connection.send_text(bad.to_owned()).await.expect("sent");
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

    // What mutations leave in the database: one that worked, one that failed, its result taken away.
    let group = &identity.client_group_id;
    server.sql(&format!(
        "BEGIN; INSERT INTO zero_0.clients VALUES ('{group}', 'C1', 1);
         INSERT INTO issue (id, title, open, num) VALUES ('i3', 'third', true, 7); COMMIT"
    ));
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"S2","baseCookie":"S1:02"}]"#,
        r#"["pokePart",{"pokeID":"S2","lastMutationIDChanges":{"C1":1},"rowsPatch":[{"op":"put","tableName":"issue","value":{"id":"i3","title":"third","open":true,"created":null,"meta":null,"num":7,"price":null,"tags":null,"d":null,"t":null}}]}]"#,
        r#"["pokeEnd",{"pokeID":"S2","cookie":"S2"}]"#,
    ])
    .await;
    server.sql(&format!(
        r#"BEGIN; UPDATE zero_0.clients SET "lastMutationID" = 2;
           INSERT INTO zero_0.mutations VALUES ('{group}', 'C1', 2, '{{"error":"app","message":"server says no"}}'); COMMIT"#
    ));
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"S3","baseCookie":"S2"}]"#,
        r#"["pokePart",{"pokeID":"S3","lastMutationIDChanges":{"C1":2},"mutationsPatch":[{"op":"put","mutation":{"id":{"clientID":"C1","id":2},"result":{"error":"app","message":"server says no"}}}]}]"#,
        r#"["pokeEnd",{"pokeID":"S3","cookie":"S3"}]"#,
    ])
    .await;
    server.sql("DELETE FROM zero_0.mutations");
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"S4","baseCookie":"S3"}]"#,
        r#"["pokePart",{"pokeID":"S4","mutationsPatch":[{"op":"del","id":{"clientID":"C1","id":2}}]}]"#,
        r#"["pokeEnd",{"pokeID":"S4","cookie":"S4"}]"#,
    ])
    .await;
    server.sql(
        r#"BEGIN; UPDATE zero_0.clients SET "lastMutationID" = 3; INSERT INTO pair VALUES ('p', 2, 'v2'); COMMIT"#,
    );
    c1.expect(&[
        r#"["pokeStart",{"pokeID":"S5","baseCookie":"S4"}]"#,
        r#"["pokePart",{"pokeID":"S5","rowsPatch":[{"op":"put","tableName":"pair","value":{"a":"p","b":2,"v":"v2"}}],"lastMutationIDChanges":{"C1":3}}]"#,
        r#"["pokeEnd",{"pokeID":"S5","cookie":"S5"}]"#,
    ])
    .await;
    let undesired = r#"["changeDesiredQueries",{"desiredQueriesPatch":[{"op":"del","hash":"3g74anaazf9ct"}]}]"#;
    c1.connection.send_text(undesired.to_owned()).await.expect("sent");
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
