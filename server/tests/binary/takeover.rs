//! A deployment that changes from the published zero-cache to this server and back: same databases, same replica, and
//! clients that go on with what they have.

use std::collections::BTreeSet;
use std::path::PathBuf;

use protocol_client::{Hello, State};
use serde_json::Value;
use testdata::node::Api;
use testdata::postgres;
use testdata::sync_server::{Program, SyncServer};
use testdata::tracker::Sizes;

use crate::client::{Client, expected, list, patches, user};

/// The client on another server, and the patches of what it is sent up to a state; each may come once.
async fn moved(mut client: Client, server: &SyncServer, done: impl Fn(&State) -> bool) -> (Client, BTreeSet<String>) {
    client.identity.server = server.url();
    let mut client = client.again().await;
    let mut seen = BTreeSet::new();
    loop {
        let poke = client.poke().await;
        assert!(poke.got().next().is_none(), "what it had got it has: {poke:?}");
        for patch in patches(&poke) {
            assert!(seen.insert(patch.clone()), "{patch} came twice");
        }
        if done(&client.state) {
            return (client, seen);
        }
    }
}

fn titled(state: &State, id: &str, title: &str) -> bool {
    state.table("issue").any(|row| row["id"] == id && row["title"] == title)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_moves_from_zero_cache_and_back() {
    let postgres = postgres::shared();
    let database = postgres.database().expect("a database");
    Sizes::SMALL.load(postgres, &database).expect("the tracker's rows");
    let sql = |sql: &str| postgres.psql(&database, sql).expect(sql);
    // The list of three is i1, i2, i3, of which the first two have one creator.
    sql("DELETE FROM issue_label WHERE issue_id IN ('i1', 'i2', 'i3', 'i4'); \
         UPDATE issue SET creator_id = CASE WHEN id IN ('i1', 'i2') THEN 'u1' ELSE 'u2' END, \
           modified = '2031-01-01'::timestamptz - substr(id, 2)::int * interval '1 hour' \
         WHERE id IN ('i1', 'i2', 'i3', 'i4')");
    let api = Api::start().expect("the API server");
    let folder = tempfile::tempdir().expect("a folder");
    let start = |program| {
        let settings = [("ZERO_APP_ID", "moving"), ("ZERO_LOG_LEVEL", "info")];
        SyncServer::start_with(program, &database, &api.url, folder.path(), &settings).expect("the server")
    };
    let ours = || Program::Zql(PathBuf::from(crate::binary()));
    let replica = "SELECT string_agg(version, ',') FROM moving_0.replicas";

    let mut server = start(Program::ZeroCache);
    let copied = sql(replica);
    let mine = Hello::named("issues.mine", r#"[{"userID":"u3"}]"#);
    let mut client = Client::new(user(&server.url()), vec![list(3), mine.clone()]).await;
    client.got(&list(3)).await;
    client.got(&mine).await;
    // Of a group whose queries have each row once.
    let discussed = Hello::named("issues.discussed", r#"[{"limit":3}]"#);
    let mut plain = Client::new(user(&server.url()), vec![discussed.clone()]).await;
    plain.got(&discussed).await;
    sql("UPDATE issue SET title = 'seen' WHERE id = 'i1'");
    client.until(|state| titled(state, "i1", "seen")).await;
    let held = client.state.len();
    server.stop().expect("it runs");

    sql("UPDATE issue SET title = 'between' WHERE id = 'i2'");
    let mut server = start(ours());
    let (mut client, seen) = moved(client, &server, |state| titled(state, "i2", "between")).await;
    assert_eq!(seen, expected(&["put issue i2"]), "only what changed; log:\n{}", server.log_tail());
    sql("UPDATE issue SET title = 'ours' WHERE id = 'i1'");
    client.until(|state| titled(state, "i1", "ours")).await;
    assert_eq!(client.state.len(), held);
    let (mut plain, _) = moved(plain, &server, |state| titled(state, "i1", "ours")).await;
    server.stop().expect("it runs");

    // Nothing happened: a zero-cache would trust the record's counts of rows. It does so where they are its own; others it
    // counts anew, which takes a version and changes no row.
    let mut server = start(Program::ZeroCache);
    plain.identity.server = server.url();
    let mut plain = plain.again().await;
    let first = plain.poke().await;
    let nowhere = (Some(&first.cookie), &first.cookie);
    assert_eq!((first.base.as_ref(), &first.id), nowhere, "nothing was executed");
    client.identity.server = server.url();
    let mut client = client.again().await;
    let first = client.poke().await;
    assert_ne!(first.base.as_ref(), Some(&first.cookie), "a list with creators is counted anew");
    assert_eq!(patches(&first), BTreeSet::new(), "nothing changed; log:\n{}", server.log_tail());
    sql("DELETE FROM issue WHERE id = 'i1'");
    client.until(|state| state.table("issue").all(|row| row["id"] != "i1")).await;
    let users = |state: &State| state.table("user").filter_map(|row| row["id"].as_str()).map(str::to_owned).collect();
    let users: BTreeSet<String> = users(&client.state);
    assert!(users.contains("u1"), "the creator of i2 is held: {users:?}");
    plain.until(|state| state.table("issue").all(|row| row["id"] != "i1")).await;
    assert!(plain.state.table("comment").all(|row| row["issue_id"] != "i1"), "the comments of i1 are gone");
    server.stop().expect("it runs");

    sql("UPDATE issue SET title = 'again' WHERE id = 'i3'");
    let server = start(ours());
    let (client, seen) = moved(client, &server, |state| titled(state, "i3", "again")).await;
    assert_eq!(seen, expected(&["put issue i3"]), "only what changed; log:\n{}", server.log_tail());
    assert_eq!(sql(replica), copied, "nothing was copied again");

    // Whoever moved holds what a new client is given.
    let mut fresh = Client::new(user(&server.url()), vec![list(3), mine.clone()]).await;
    fresh.got(&list(3)).await;
    fresh.got(&mine).await;
    let rows = |client: &Client| -> Vec<(String, Value)> {
        let tables = client.state.rows.iter().filter(|(_, rows)| !rows.is_empty());
        tables.map(|(table, rows)| (table.clone(), serde_json::to_value(rows).expect("JSON"))).collect()
    };
    assert_eq!(rows(&client), rows(&fresh));
}
