//! Mutations that cannot be done now: whoever pushed them is sent away to come back, and nothing is lost. `Internal` would
//! park the client with them.

use std::iter::repeat_with;
use std::time::Duration;

use engine::hydration::HydrateError;
use protocol_client::{Connection, Error, Hello, Identity};
use serde_json::{Value, json};
use zql_spec::protocol::error::ErrorKind;

use crate::crud::{acknowledged, everything, join, op, push, schema};
use crate::harness::{CLIENT_SCHEMA, Server, error, open, patiently};
use crate::mutations;

/// That the client is to come back after its usual wait, and why; then the socket is closed without a code.
async fn sent_away(connection: &mut Connection, why: &str) {
    let body = error(connection).await;
    assert_eq!((body.kind, body.max_backoff_ms, &*body.message), (ErrorKind::Rehome, None, why));
    let end = patiently(connection.next()).await;
    assert!(matches!(&end, Err(Error::Closed { code: None, .. })), "{end:?}");
}

/// The client again, without a cookie, with what it pushed.
async fn again(identity: &Identity, message: &str) -> Connection {
    let mut connection = open(identity, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    connection.send_text(message.to_owned()).await.expect("sent");
    connection
}

fn made() -> Value {
    json!([op("insert", "issue", &json!({ "id": "i3", "title": "made", "open": true }))])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_that_collides_every_time() {
    let server = Server::start(&schema()).await;
    server.permit(&json!({ "issue": { "row": everything() } })).await;
    // What it counts is not undone with the transaction.
    server.sql(
        "CREATE SEQUENCE attempts;
         CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM nextval('attempts'); RAISE EXCEPTION 'a collision' USING ERRCODE = '40001'; END $$;
         CREATE TRIGGER collide BEFORE INSERT ON issue FOR EACH ROW EXECUTE FUNCTION collide()",
    );
    let (identity, mut connection) = join(&server).await;
    let message = push(&identity, 1, &[made()]);
    connection.send_text(message.clone()).await.expect("sent");
    sent_away(&mut connection, "The mutation collides with others").await;
    assert_eq!(server.sql("SELECT last_value FROM attempts").trim(), "10");
    assert_eq!(server.sql("SELECT count(*) FROM zero_0.clients").trim(), "0", "its number is not taken");

    server.sql("DROP TRIGGER collide ON issue");
    acknowledged(&mut again(&identity, &message).await, &identity, 1.0).await;
    assert_eq!(server.sql("SELECT count(*) FROM issue WHERE title = 'made'").trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_mutations_than_may_wait() {
    const MIB: usize = 1 << 20;
    let (server, api) = mutations::start(&[]).await;
    let identity = server.identity();
    let push = |id: i64| {
        let args = json!([{ "id": format!("made-{id}"), "padding": "x".repeat(5 * MIB) }]);
        let mutation = json!({ "type": "custom", "id": id, "clientID": identity.client_id, "name": "create",
            "args": args, "timestamp": 1 });
        let body = json!({ "clientGroupID": identity.client_group_id, "mutations": [mutation],
            "pushVersion": 1, "timestamp": 1, "requestID": "r" });
        json!(["push", body]).to_string()
    };
    api.hold();
    let mut connection = again(&identity, &push(1)).await;
    // It is on its way and does not wait any more; the next one may wait, whatever its size, and with the one after it is
    // more than eight megabytes.
    api.arrival().await;
    for id in [2, 3] {
        connection.send_text(push(id)).await.expect("sent");
    }
    sent_away(&mut connection, "Too many mutations wait for the API server").await;
    // What was accepted is done. What was not is pushed again.
    api.release();
    let mut connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    acknowledged(&mut connection, &identity, 2.0).await;
    connection.send_text(push(3)).await.expect("sent");
    acknowledged(&mut connection, &identity, 3.0).await;
    assert_eq!(server.sql("SELECT count(*) FROM issue WHERE title = 'made'").trim(), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_that_cannot_be_read_for_long() {
    let server = Server::start(&schema()).await;
    server.permit(&json!({ "issue": { "row": everything() } })).await;
    let (identity, mut connection) = join(&server).await;
    server.hydrator.fail("zero.permissions", repeat_with(|| HydrateError::Expired).take(1000));
    // Every query is subscribed anew.
    server.sql("ALTER TABLE marker ADD COLUMN extra int; UPDATE marker SET extra = 1");
    // Whoever subscribes goes on trying, and groups end: the third failure is that of somebody who knows of one.
    for _ in 0..3 {
        server.hydrator.arrival().await;
    }
    let message = push(&identity, 1, &[made()]);
    connection.send_text(message.clone()).await.expect("sent");
    server.hub.clock().advance(Duration::from_secs(5));
    sent_away(&mut connection, "The deployed permissions cannot be read").await;
    assert_eq!(server.sql("SELECT count(*) FROM zero_0.clients").trim(), "0", "its number is not taken");

    server.hydrator.heal("zero.permissions");
    acknowledged(&mut again(&identity, &message).await, &identity, 1.0).await;
    assert_eq!(server.sql("SELECT count(*) FROM issue WHERE title = 'made'").trim(), "1");
}
