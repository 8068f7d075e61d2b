//! Clients that are gone, by a message or by not being among those that are there: who is told, of whom, and what becomes of
//! them in the record (protocol sheet §18, record sheet §4.3).

use protocol_client::{Connection, Event, Hello, Identity};
use serde_json::{Value, json};
use zql_spec::protocol::upstream::{DeleteClients, Upstream};

use crate::harness::{CLIENT_SCHEMA, SCHEMA, Server, error, next, open, patiently, poke};
use crate::mutations;

/// A client of a group without queries.
async fn join(identity: &Identity, change: impl FnOnce(&mut Hello)) -> Connection {
    let mut hello = Hello::new(CLIENT_SCHEMA, vec![]);
    change(&mut hello);
    let mut connection = open(identity, None, hello).await;
    poke(&mut connection).await;
    connection
}

fn named(ids: &[&str]) -> DeleteClients {
    DeleteClients { client_ids: Some(ids.iter().map(|id| (*id).to_owned()).collect()), client_group_ids: None }
}

/// The next acknowledgement, as it came.
async fn told(connection: &mut Connection) -> Value {
    patiently(async {
        loop {
            if let Event::DeleteClients(told) = next(connection).await {
                return serde_json::to_value(told).expect("JSON");
            }
        }
    })
    .await
}

/// The clients of a group's record.
fn known(server: &Server, group: &str) -> Vec<String> {
    let sql = format!(r#"SELECT "clientID" FROM "zero_0/cvr".clients WHERE "clientGroupID" = '{group}' ORDER BY 1"#);
    server.sql(&sql).split_whitespace().map(str::to_owned).collect()
}

/// A group of its own with a client that watches, one that speaks and one that left without a word.
struct Cast {
    watching: Connection,
    speaker: Identity,
    group: String,
}

impl Cast {
    async fn new(server: &Server) -> Cast {
        let of = |client: &str| Identity { client_id: client.to_owned(), ..server.identity() };
        let watching = of("watching");
        let group = watching.client_group_id.clone();
        let speaker = Identity { client_id: "speaker".to_owned(), ..watching.clone() };
        let left = Identity { client_id: "left".to_owned(), ..watching.clone() };
        let watching = join(&watching, |_| {}).await;
        drop(join(&left, |_| {}).await);
        Cast { watching, speaker, group }
    }

    /// What both are told before they are told of somebody who is deleted afterwards.
    async fn told(&mut self, speaking: &mut Connection, expected: &Option<Value>, what: &str) {
        speaking.send(&Upstream::DeleteClients(named(&["afterwards"]))).await.expect("sent");
        for connection in [&mut self.watching, speaking] {
            if let Some(expected) = expected {
                assert_eq!(told(connection).await, *expected, "{what}");
            }
            assert_eq!(told(connection).await, json!({ "clientIDs": ["afterwards"] }), "{what}");
        }
    }
}

/// All who are there are told of all who were named, each once, known or not. Who names only groups deletes nobody.
#[tokio::test(flavor = "multi_thread")]
async fn those_that_a_message_names() {
    let server = Server::start(SCHEMA).await;
    for (body, acknowledged, left) in [
        (json!({ "clientIDs": ["left"] }), Some(json!(["left"])), false),
        (json!({ "clientIDs": ["x", "left", "x", "left", "y"] }), Some(json!(["x", "left", "y"])), false),
        (json!({ "clientIDs": ["x"], "clientGroupIDs": ["g"] }), Some(json!(["x"])), true),
        (json!({ "clientIDs": [] }), None, true),
        (json!({ "clientGroupIDs": ["g"] }), None, true),
        (json!({}), None, true),
    ] {
        let mut cast = Cast::new(&server).await;
        let mut speaking = join(&cast.speaker, |_| {}).await;
        let what = body.to_string();
        speaking.send_text(json!(["deleteClients", body]).to_string()).await.expect("sent");
        let expected = acknowledged.map(|ids| json!({ "clientIDs": ids }));
        cast.told(&mut speaking, &expected, &what).await;
        let expected = if left { &["left", "speaker", "watching"][..] } else { &["speaker", "watching"] };
        assert_eq!(known(&server, &cast.group), expected, "{what}");
    }
}

/// Who is not among those that are said to be there is gone, and nobody is told unless others are named. The client that
/// says so is there in any case.
#[tokio::test(flavor = "multi_thread")]
async fn those_that_a_first_message_leaves_out_or_names() {
    let server = Server::start(SCHEMA).await;
    let all = ["left", "speaker", "watching"];
    for (active, deleted, acknowledged, expected) in [
        (None, None, None, &all[..]),
        (Some(&all[..]), None, None, &all),
        (Some(&["speaker", "watching", "speaker", "unknown"]), None, None, &["speaker", "watching"]),
        (Some(&["watching"]), None, None, &["speaker", "watching"]),
        (Some(&[]), None, None, &["speaker"]),
        (None, Some(named(&["left"])), Some(json!(["left"])), &["speaker", "watching"]),
        (None, Some(DeleteClients { client_ids: None, client_group_ids: Some(vec!["g".to_owned()]) }), None, &all),
        (Some(&["watching"]), Some(named(&[])), None, &["speaker", "watching"]),
        // Those that are missing first; who is missing and named as well is told once.
        (Some(&["speaker", "watching"]), Some(named(&["left"])), Some(json!(["left"])), &["speaker", "watching"]),
        (Some(&["watching"]), Some(named(&["x", "left", "x"])), Some(json!(["left", "x"])), &["speaker", "watching"]),
        (Some(&["speaker"]), Some(named(&["x"])), Some(json!(["left", "watching", "x"])), &["speaker"]),
    ] {
        for again in [false, true] {
            let mut cast = Cast::new(&server).await;
            if again {
                // The record knows it already.
                drop(join(&cast.speaker, |_| {}).await);
            }
            let what = format!("{active:?} {deleted:?} {again}");
            let mut hello = Hello::new(CLIENT_SCHEMA, vec![]);
            hello.init.active_clients = active.map(|ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect());
            hello.init.deleted.clone_from(&deleted);
            let mut speaking = open(&cast.speaker, None, hello).await;
            let acknowledged = acknowledged.as_ref().map(|ids| json!({ "clientIDs": ids }));
            cast.told(&mut speaking, &acknowledged, &what).await;
            assert_eq!(known(&server, &cast.group), expected, "{what}");
        }
    }
    // Itself it cannot delete.
    let cast = Cast::new(&server).await;
    let mut hello = Hello::new(CLIENT_SCHEMA, vec![]);
    hello.init.deleted = Some(named(&["left", "speaker"]));
    let body = error(&mut open(&cast.speaker, None, hello).await).await;
    assert_eq!(body.message, "cannot delete self");
    assert_eq!(known(&server, &cast.group), ["left", "watching"]);
}

/// The API server cleans up after those that were named, each once, and with them after those that were missing; nobody
/// asks it to when clients are only missing.
#[tokio::test(flavor = "multi_thread")]
async fn whose_results_are_cleaned_up() {
    let (server, api) = mutations::start(&[]).await;
    let mut cast = Cast::new(&server).await;
    let missing = |hello: &mut Hello| {
        hello.init.active_clients = Some(vec!["speaker".to_owned(), "watching".to_owned()]);
    };
    let mut speaking = join(&cast.speaker, missing).await;
    assert_eq!(known(&server, &cast.group), ["speaker", "watching"]);
    speaking.send(&Upstream::DeleteClients(named(&["x", "y", "x"]))).await.expect("sent");
    cast.told(&mut speaking, &Some(json!({ "clientIDs": ["x", "y"] })), "named").await;
    // One for those, and one for who was deleted afterwards.
    for _ in 0..2 {
        api.arrival().await;
    }
    let calls = api.calls();
    assert_eq!(calls.len(), 2);
    let call = calls.iter().find(|call| call.body.contains(r#""y""#)).expect("a call for those that were named");
    let mut body = call.json();
    let now = body["timestamp"].take().as_u64().expect("a number");
    assert_eq!(body["mutations"][0]["timestamp"].take().as_u64(), Some(now));
    let group = &cast.group;
    let args = json!([{ "type": "bulk", "clientGroupID": group, "clientIDs": ["x", "y"] }]);
    let mutation = json!({ "type": "custom", "id": 0, "clientID": "x", "name": "_zero_cleanupResults", "args": args,
        "timestamp": null });
    let expected = json!({ "clientGroupID": group, "mutations": [mutation], "pushVersion": 1, "timestamp": null,
        "requestID": format!("cleanup-bulk-{group}-{now}") });
    assert_eq!(body, expected);
    assert_eq!((&*call.path, &*call.query), ("/mutate", "schema=zero_0&appID=zero"));
}
