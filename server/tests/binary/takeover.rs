//! A deployment that changes from the published zero-cache to this server and back: same databases, same replica, and
//! clients that go on with what they have.

use std::collections::BTreeSet;
use std::path::PathBuf;

use protocol_client::{Connection, Hello, Identity, State};
use serde_json::Value;
use testdata::node::Api;
use testdata::postgres;
use testdata::sync_server::{Program, SyncServer};
use testdata::tracker::Sizes;
use zql_spec::protocol::downstream::QueryOp;
use zql_spec::protocol::upstream::{DeleteClients, DesiredOp, Upstream};

use crate::client::{Client, expected, list, patches, user};

/// What stays when one server takes the place of another.
struct Deployment {
    /// Of each its own: the tests share a cluster, and servers of an app drop each other's replication slots.
    app: &'static str,
    database: String,
    api: Api,
    folder: tempfile::TempDir,
}

impl Deployment {
    /// The tracker's rows, after some more SQL.
    fn new(app: &'static str, more: &str) -> Deployment {
        let postgres = postgres::shared();
        let database = postgres.database().expect("a database");
        Sizes::SMALL.load(postgres, &database).expect("the tracker's rows");
        let deployment = Deployment {
            app,
            database,
            api: Api::start().expect("the API server"),
            folder: tempfile::tempdir().expect("a folder"),
        };
        deployment.sql(more);
        deployment
    }

    fn sql(&self, sql: &str) -> String {
        postgres::shared().psql(&self.database, sql).expect(sql)
    }

    fn start(&self, program: Program) -> SyncServer {
        let settings = [("ZERO_APP_ID", self.app), ("ZERO_LOG_LEVEL", "info")];
        SyncServer::start_with(program, &self.database, &self.api.url, self.folder.path(), &settings)
            .expect("the server")
    }
}

fn ours() -> Program {
    Program::Zql(PathBuf::from(crate::binary()))
}

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
    // The list of three is i1, i2, i3, of which the first two have one creator.
    let deployment = Deployment::new(
        "moving",
        "DELETE FROM issue_label WHERE issue_id IN ('i1', 'i2', 'i3', 'i4'); \
         UPDATE issue SET creator_id = CASE WHEN id IN ('i1', 'i2') THEN 'u1' ELSE 'u2' END, \
           modified = '2031-01-01'::timestamptz - substr(id, 2)::int * interval '1 hour' \
         WHERE id IN ('i1', 'i2', 'i3', 'i4')",
    );
    let sql = |sql: &str| deployment.sql(sql);
    let start = |program| deployment.start(program);
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

/// A page about one issue.
fn page(id: &str) -> DesiredOp {
    Hello::named("issues.page", &format!(r#"[{{"id":"{id}"}}]"#))
}

fn hash(query: &DesiredOp) -> String {
    protocol_client::hash_of(query).expect("a hash").to_owned()
}

/// A client that is away: who it is and what it holds.
struct Away(Identity, State);

impl Away {
    async fn back(self, server: &SyncServer) -> Client {
        let Away(identity, state) = self;
        let identity = Identity { server: server.url(), ..identity };
        let connection = Connection::open(&identity, state.cookie.as_deref(), Hello::again()).await.expect("a socket");
        Client { identity, connection, state }
    }
}

impl Client {
    fn leave(self) -> Away {
        Away(self.identity, self.state)
    }

    async fn change(&mut self, op: DesiredOp) {
        self.connection.change_queries(vec![op]).await.expect("sent");
    }
}

/// Two tabs of a group, and a third one that is deleted; of the pages that they had one lives on when nobody wants it any
/// more, one was the deleted tab's, and the time of one runs out under the next server. That is so both ways.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_queries_that_nobody_wants_moves_both_ways() {
    // Of each page the issue and its creator are all that is on it.
    const ISSUES: &str = "('i5', 'i6', 'i7', 'i8', 'i9', 'i11')";
    let deployment = Deployment::new(
        "tabs",
        &format!(
            "DELETE FROM issue_label WHERE issue_id IN {ISSUES}; DELETE FROM comment WHERE issue_id IN {ISSUES}; \
         UPDATE issue SET assignee_id = NULL, creator_id = CASE id WHEN 'i5' THEN 'u2' WHEN 'i6' THEN 'u3' \
           WHEN 'i7' THEN 'u4' WHEN 'i8' THEN 'u5' WHEN 'i9' THEN 'u6' ELSE 'u7' END WHERE id IN {ISSUES}"
        ),
    );
    let record = |what: &str| deployment.sql(&format!("SET search_path = \"tabs_0/cvr\"; SELECT {what}"));
    let until = |what: &str| {
        let begun = std::time::Instant::now();
        while !record(what).ends_with('t') {
            assert!(begun.elapsed().as_secs() < 60, "{what} is not so for a minute");
        }
    };
    // i0 and i1.
    let kept = Hello::named("issues.discussed", r#"[{"limit":2}]"#);
    let mut server = deployment.start(Program::ZeroCache);
    let mut first = Client::new(user(&server.url()), vec![kept.clone()]).await;
    let mut second = Client::new(first.identity.sibling(), vec![kept.clone()]).await;
    let mut clock = 0.0;
    for (program, [lives, gone, brief], creator, changed) in [
        (ours(), ["i5", "i6", "i7"], "u4", &["i0", "i5", "i6", "i7"][..]),
        (Program::ZeroCache, ["i8", "i9", "i11"], "u7", &["i0", "i5", "i6", "i8", "i9", "i11"]),
    ] {
        let what = format!("to {}", program.name());
        let DesiredOp::Put(mut put) = page(brief) else { panic!("a put") };
        put.ttl = Some(5_000.0);
        first.change(page(lives)).await;
        second.change(DesiredOp::Put(put)).await;
        let third = Client::new(first.identity.sibling(), vec![page(gone)]).await;
        for client in [&mut first, &mut second] {
            for query in [&kept, &page(lives), &page(gone), &page(brief)] {
                client.got(query).await;
            }
        }
        let deleted =
            DeleteClients { client_ids: Some(vec![third.identity.client_id.clone()]), client_group_ids: None };
        drop(third);
        first.connection.send(&Upstream::DeleteClients(deleted)).await.expect("sent");
        first.change(DesiredOp::Del { hash: hash(&page(lives)) }).await;
        second.change(DesiredOp::Del { hash: hash(&page(brief)) }).await;
        until(&format!(r#"count(*) = 3 FROM desires WHERE deleted AND "inactivatedAtMs" > {clock}"#));
        // The clock of the group stands still from now on.
        let away = [first.leave(), second.leave()];
        server.stop().expect("it runs");
        assert_eq!(record("count(*) FROM clients").lines().last(), Some("2"), "{what}");
        let shown = record(r#""ttlClock" FROM instances"#);
        let shown: f64 = shown.lines().last().and_then(|clock| clock.parse().ok()).expect("a clock");
        assert!(shown > clock, "{what}: {shown} follows {clock}");
        clock = shown;

        let ids = changed.join("', '");
        deployment.sql(&format!("UPDATE issue SET title = '{what}' WHERE id IN ('{ids}', 'i20')"));
        server = deployment.start(program);
        let [one, two] = away;
        let mut clients = [one.back(&server).await, two.back(&server).await];
        let mut expected: BTreeSet<String> = changed.iter().map(|id| format!("put issue {id}")).collect();
        expected.extend([format!(r#"del issue {{"id":"{brief}"}}"#), format!(r#"del user {{"id":"{creator}"}}"#)]);
        for client in &mut clients {
            let mut seen = BTreeSet::new();
            while client.state.got.contains(&hash(&page(brief))) {
                let poke = client.poke().await;
                let news = QueryOp::Del { hash: hash(&page(brief)) };
                assert!(poke.got().all(|op| *op == news), "{what}: {poke:?}");
                for patch in patches(&poke) {
                    assert!(seen.insert(patch.clone()), "{what}: {patch} came twice");
                }
            }
            assert_eq!(seen, expected, "{what}; log:\n{}", server.log_tail());
        }
        assert_eq!(clients[0].state.rows, clients[1].state.rows, "{what}");
        [first, second] = clients;
    }
}
