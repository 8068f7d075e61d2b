//! Queries that are asked for by a hash that stands for something already (record sheet §3.2), and what changes nothing.

use std::sync::atomic::Ordering;

use protocol_client::{Connection, Hello};
use serde_json::{Value, json};
use zql_spec::protocol::upstream::DesiredOp;

use crate::harness::{CLIENT_SCHEMA, SCHEMA, Server, hash, open, poke, query};
use crate::names::Names;

/// A wish as it is written.
async fn change(connection: &mut Connection, ops: Value) {
    let message = json!(["changeDesiredQueries", { "desiredQueriesPatch": ops }]);
    connection.send_text(message.to_string()).await.expect("sent");
}

async fn until(connection: &mut Connection, names: &Names, line: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while !seen.iter().any(|seen| seen == line) {
        seen.extend(names.lines(&poke(connection).await));
    }
    seen
}

/// A hash means what it meant when it was first asked for, whoever says what else; then it need not be said at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_hash_means_what_it_meant_at_first() {
    let server = Server::start(SCHEMA).await;
    let wanted = query(r#"{"table":"comment"}"#);
    let (identity, mut first) = server.connect(vec![wanted.clone()]).await;
    let sibling = identity.sibling();
    let names = Names::default();
    let names = names.with(&hash(&wanted), "A").with(&identity.client_id, "one").with(&sibling.client_id, "two");
    until(&mut first, &names, "got put A").await;
    let mut second = open(&sibling, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    let seen = until(&mut second, &names, "got put A").await;
    assert_eq!(seen, ["desired one put A", "got put A", "put comment c1"]);
    let record = || {
        server.sql(r#"SELECT "clientAST", "queryName", "queryArgs" FROM "zero_0/cvr".queries WHERE internal IS NULL"#)
    };
    let (before, calls) = (record(), server.api.calls.load(Ordering::Relaxed));
    for other in [
        json!({ "op": "put", "hash": hash(&wanted), "ast": { "table": "issue" } }),
        json!({ "op": "put", "hash": hash(&wanted), "name": "issues.all", "args": [] }),
        json!({ "op": "put", "hash": hash(&wanted) }),
    ] {
        change(&mut second, json!([other])).await;
        for connection in [&mut first, &mut second] {
            let told = until(connection, &names, "desired two put A").await;
            assert_eq!(told, ["desired two put A"], "{other}");
        }
        // It is answered as before, for both.
        server.sql("UPDATE issue SET title = title || '.'; UPDATE comment SET body = body || '.'");
        for connection in [&mut first, &mut second] {
            assert_eq!(names.lines(&poke(connection).await), ["put comment c1"], "{other}");
        }
        change(&mut second, json!([{ "op": "del", "hash": hash(&wanted) }])).await;
        for connection in [&mut first, &mut second] {
            assert_eq!(names.lines(&poke(connection).await), ["desired two del A"], "{other}");
        }
    }
    assert_eq!((record(), server.api.calls.load(Ordering::Relaxed)), (before, calls));
}

/// The group's own queries are nobody's to ask for, to give up or to clear. What else the message says is done.
#[tokio::test(flavor = "multi_thread")]
async fn hashes_of_the_groups_own_queries() {
    let server = Server::start(SCHEMA).await;
    let identity = server.identity();
    let put = |hash: &str| {
        let DesiredOp::Put(mut put) = Hello::ast(r#"{"table":"issue"}"#) else { panic!("a put") };
        put.hash = hash.to_owned();
        DesiredOp::Put(put)
    };
    // Also in the very first message.
    let own = ["lmids", "mutationResults"];
    let mut connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, own.map(put).into())).await;
    let comments = query(r#"{"table":"comment"}"#);
    let names = Names::default().with(&hash(&comments), "A").with(&identity.client_id, "me");
    assert_eq!(names.lines(&poke(&mut connection).await), [""; 0]);
    let internal =
        || server.sql(r#"SELECT "queryHash", "clientAST" FROM "zero_0/cvr".queries WHERE internal ORDER BY 1"#);
    let before = internal();
    assert!(before.contains("zero_0.clients") && before.contains("zero_0.mutations"), "{before}");
    let ops = own.iter().flat_map(|hash| {
        [
            json!({ "op": "put", "hash": hash, "ast": { "table": "issue" } }),
            json!({ "op": "put", "hash": hash, "name": "issues.all", "args": [] }),
            json!({ "op": "put", "hash": hash }),
            json!({ "op": "del", "hash": hash }),
        ]
    });
    let wanted = serde_json::to_value(&comments).expect("JSON");
    let ops: Vec<Value> = ops.chain([json!({ "op": "clear" }), wanted]).collect();
    change(&mut connection, json!(ops)).await;
    let seen = until(&mut connection, &names, "got put A").await;
    assert_eq!(seen, ["desired me put A", "got put A", "put comment c1"]);
    assert_eq!(internal(), before);
    assert_eq!(server.sql(r#"SELECT "queryHash" FROM "zero_0/cvr".desires"#).trim(), hash(&comments));
    // They go on.
    let (group, client) = (&identity.client_group_id, &identity.client_id);
    server.sql(&format!("INSERT INTO zero_0.clients VALUES ('{group}', '{client}', 3)"));
    assert_eq!(names.lines(&poke(&mut connection).await), ["last mutation of me 3"]);
    // A client that is forgotten upstream is no news.
    server.sql(r#"DELETE FROM zero_0.clients; UPDATE comment SET body = 'later'"#);
    assert_eq!(until(&mut connection, &names, "put comment c1").await, ["put comment c1"]);
}

/// Nothing is said of a wish that is one already, of one that nobody has, or of none at all.
#[tokio::test(flavor = "multi_thread")]
async fn wishes_that_change_nothing() {
    let server = Server::start(SCHEMA).await;
    let wanted = query(r#"{"table":"comment"}"#);
    let (identity, mut connection) = server.connect(vec![wanted.clone()]).await;
    let names = Names::default().with(&hash(&wanted), "A").with(&identity.client_id, "me");
    until(&mut connection, &names, "got put A").await;
    let same = serde_json::to_value(&wanted).expect("JSON");
    let mut last = None;
    for ops in [
        json!([]),
        json!([same]),
        json!([{ "op": "del", "hash": "unknown" }]),
        json!([same, { "op": "del", "hash": "lmids" }, same]),
    ] {
        change(&mut connection, ops.clone()).await;
        server.sql("UPDATE comment SET body = body || '.'");
        let next = poke(&mut connection).await;
        assert_eq!(names.lines(&next), ["put comment c1"], "{ops}");
        // It follows the one before: no version was taken in between.
        let before = last.replace(next.cookie);
        assert!(before.is_none() || next.base == before, "{ops}");
    }
    // `clear` of nothing is nothing, too.
    change(&mut connection, json!([{ "op": "clear" }])).await;
    assert_eq!(until(&mut connection, &names, "got del A").await, ["desired me del A", "got del A", "del comment c1"]);
    for ops in [json!([{ "op": "clear" }]), json!([{ "op": "del", "hash": hash(&wanted) }])] {
        change(&mut connection, ops).await;
    }
    change(&mut connection, json!([same])).await;
    assert_eq!(until(&mut connection, &names, "got put A").await, ["desired me put A", "got put A", "put comment c1"]);
}
