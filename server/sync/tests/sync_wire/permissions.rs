//! Read permissions that change while queries run.

use std::iter::repeat_with;

use engine::hydration::HydrateError;
use protocol_client::{Connection, Hello, State, hash_of};
use zql_spec::protocol::error::ErrorKind;
use zql_spec::protocol::upstream::DesiredOp;

use crate::harness::{CLIENT_SCHEMA, SCHEMA, Server, error, hash, open, poke, pokes_until_got};
use crate::names::Names;

const ANYBODY: &str = r#"[["allow",{"type":"and","conditions":[]}]]"#;
const NOBODY: &str = "[]";
const OPEN: &str = r#"[["allow",{"type":"simple","op":"=","left":{"type":"column","name":"open"},"right":{"type":"literal","value":true}}]]"#;
/// Issues with a comment.
const DISCUSSED: &str = r#"[["allow",{"type":"correlatedSubquery","op":"EXISTS","related":{"system":"permissions","correlation":{"parentField":["id"],"childField":["issue_id"]},"subquery":{"table":"comment","alias":"c"}}}]]"#;

async fn until_rows(connection: &mut Connection, state: &mut State, count: usize) {
    while state.table("issue").count() != count {
        state.apply(&poke(connection).await).expect("a poke that fits");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_in_force_as_they_are_deployed() {
    let server = Server::start(SCHEMA).await;
    let deploy = |select: &str| {
        server.sql(&format!(
            r#"UPDATE zero.permissions SET permissions = '{{"tables":{{"issue":{{"row":{{"select":{select}}}}}}}}}'"#
        ));
    };
    let own = Hello::ast(r#"{"table":"issue","orderBy":[["id","asc"]]}"#);
    assert!(hash_of(&own).is_some());
    let mut connection = open(&server.identity(), None, Hello::new(CLIENT_SCHEMA, vec![own])).await;
    let mut state = State::default();
    state.apply(&poke(&mut connection).await).expect("a poke that fits");
    for (select, count) in
        [(ANYBODY, 2), (NOBODY, 0), (OPEN, 1), (ANYBODY, 2), (DISCUSSED, 1), (NOBODY, 0), (DISCUSSED, 1)]
    {
        deploy(select);
        until_rows(&mut connection, &mut state, count).await;
        // The rows by which a permission is decided are nobody's business.
        assert_eq!(state.table("comment").count(), 0, "{select}");
    }
    // What the permissions in force show follows the data.
    server.sql("INSERT INTO comment VALUES ('c2', 'i2', 'now discussed')");
    until_rows(&mut connection, &mut state, 2).await;
    assert_eq!(state.table("comment").count(), 0);
}

/// What is shown by other permissions are rows, and rows alone: the query was got before and stays got.
#[tokio::test(flavor = "multi_thread")]
async fn what_they_show_of_a_query_that_was_got_are_rows() {
    let server = Server::start(SCHEMA).await;
    let own = Hello::ast(r#"{"table":"issue","orderBy":[["id","asc"]]}"#);
    let (identity, mut connection) = server.connect(vec![own.clone()]).await;
    let got = pokes_until_got(&mut connection, &hash(&own)).await.pop().expect("a poke");
    assert_eq!(got.rows().count(), 0);
    let names = Names::default().with(&identity.client_id, "me").with(&hash(&own), "A");
    for (select, expected) in [
        (OPEN, &["put issue i1"][..]),
        (ANYBODY, &["put issue i2"]),
        (NOBODY, &["del issue i1", "del issue i2"]),
        (DISCUSSED, &["put issue i1"]),
    ] {
        server.sql(&format!(
            r#"UPDATE zero.permissions SET permissions = '{{"tables":{{"issue":{{"row":{{"select":{select}}}}}}}}}'"#
        ));
        assert_eq!(names.lines(&poke(&mut connection).await), expected, "{select}");
    }
}

/// Rows that come with other permissions, in one transaction, are judged by those; a secret that the permissions before
/// would have shown never reaches the client.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_judged_by_the_permissions_of_their_commit() {
    const ROUNDS: usize = 25;
    let server = Server::start(SCHEMA).await;
    let hide = |id: &str| {
        format!(
            r#"UPDATE zero.permissions SET permissions = '{{"tables":{{"issue":{{"row":{{"select":[["allow",
               {{"type":"simple","op":"!=","left":{{"type":"column","name":"id"}},
                 "right":{{"type":"literal","value":"{id}"}}}}]]}}}}}}}}'"#
        )
    };
    server.sql(&hide("nothing"));
    let own = Hello::ast(r#"{"table":"issue","orderBy":[["id","asc"]]}"#);
    let mut connection = open(&server.identity(), None, Hello::new(CLIENT_SCHEMA, vec![own])).await;
    let mut state = State::default();
    until_rows(&mut connection, &mut state, 2).await;
    for round in 0..ROUNDS {
        let (secret, marker) = (format!("secret-{round}"), format!("marker-{round}"));
        server.sql(&format!(
            "BEGIN; DELETE FROM issue WHERE id LIKE 'secret%'; {};
             INSERT INTO issue VALUES ('{secret}', 's', true), ('{marker}', 'm', true); COMMIT",
            hide(&secret)
        ));
        while !state.table("issue").any(|row| row["id"] == *marker) {
            let poke = poke(&mut connection).await;
            assert!(!poke.rows().any(|row| format!("{row:?}").contains("secret")), "round {round}: {poke:?}");
            state.apply(&poke).expect("a poke that fits");
        }
    }
    assert_eq!(state.table("issue").count(), 2 + ROUNDS);
}

/// The name under which permissions are subscribed is nobody's to take.
#[tokio::test(flavor = "multi_thread")]
async fn no_query_takes_their_place() {
    let server = Server::start(SCHEMA).await;
    let mut takes = Hello::new(CLIENT_SCHEMA, vec![Hello::ast(r#"{"table":"issue"}"#)]);
    for op in &mut takes.init.desired_queries_patch {
        if let DesiredOp::Put(put) = op {
            put.hash = "permissions".to_owned();
        }
    }
    let mut connection = open(&server.identity(), None, takes).await;
    let body = error(&mut connection).await;
    assert_eq!((body.kind, &*body.message), (ErrorKind::Internal, "a query cannot have the hash \"permissions\""));
}

/// That they cannot be read for a moment is no reason to park all clients of a group.
#[tokio::test(flavor = "multi_thread")]
async fn they_cannot_be_read_for_a_moment() {
    let server = Server::start(SCHEMA).await;
    let own = Hello::ast(r#"{"table":"issue"}"#);
    let identity = server.identity();
    let mut connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![own.clone()])).await;
    pokes_until_got(&mut connection, hash_of(&own).expect("a hash")).await;
    // The group is not the only one that reads them.
    server.hydrator.fail("zero.permissions", repeat_with(|| HydrateError::Expired).take(1000));
    // Every query is subscribed anew.
    server.sql("ALTER TABLE comment ADD COLUMN extra text; UPDATE comment SET extra = 'x'");
    let body = error(&mut connection).await;
    assert_eq!((body.kind, body.max_backoff_ms), (ErrorKind::Rehome, None), "{}", body.message);
    server.hydrator.heal("zero.permissions");
    let mut connection = open(&identity.sibling(), None, Hello::new(CLIENT_SCHEMA, vec![own.clone()])).await;
    pokes_until_got(&mut connection, hash_of(&own).expect("a hash")).await;
}
