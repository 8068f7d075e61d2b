//! What the clients of a group see of each other, of their queries and of what others do to their record (record sheet
//! §13): each poke as lines, in order.

use protocol_client::{Connection, Error, Event, Hello, Identity};
use serde_json::json;
use zql_spec::protocol::upstream::{DeleteClients, DesiredOp, Upstream};
use zql_spec::version::StateVersion;

use crate::harness::{CLIENT_SCHEMA, ISSUES, SCHEMA, Server, hash, next, open, patiently, poke, query};
use crate::names::Names;

/// All issues, as one of several queries that mean the same.
fn issues(number: u32) -> DesiredOp {
    Hello::named("ast", &format!(r#"[{{"table":"issue"}},{number}]"#))
}

fn del(op: &DesiredOp) -> DesiredOp {
    DesiredOp::Del { hash: hash(op) }
}

/// The names of a client and what it wants: `me`, `A`, `B`, ….
fn names(identity: &Identity, wanted: &[&DesiredOp]) -> Names {
    let named = wanted.iter().zip(["A", "B", "C"]);
    named.fold(Names::default().with(&identity.client_id, "me"), |names, (op, name)| names.with(&hash(op), name))
}

async fn lines(connection: &mut Connection, names: &Names) -> Vec<String> {
    names.lines(&poke(connection).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_queries() {
    let server = Server::start(SCHEMA).await;
    let (identity, mut connection) = server.connect(vec![]).await;
    let names = names(&identity, &[]);
    let first = poke(&mut connection).await;
    assert_eq!((first.base.as_deref(), first.cookie.as_str(), first.parts.len()), (None, "00:01", 0));
    // The group's own queries are answered: its first real version.
    let second = poke(&mut connection).await;
    assert_eq!((second.base.as_deref(), second.parts.len()), (Some("00:01"), 0));
    // What concerns nobody is no news; its mutations are.
    server.sql("UPDATE issue SET title = 'unseen'");
    let (group, client) = (&identity.client_group_id, &identity.client_id);
    server.sql(&format!("INSERT INTO zero_0.clients VALUES ('{group}', '{client}', 1)"));
    let third = poke(&mut connection).await;
    assert_eq!(third.base.as_deref(), Some(second.cookie.as_str()));
    assert_eq!(names.lines(&third), ["last mutation of me 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_is_one_version() {
    let server = Server::start(SCHEMA).await;
    let (one, two) = (issues(1), query(r#"{"table":"comment"}"#));
    let (identity, mut connection) = server.connect(vec![one.clone()]).await;
    let names = names(&identity, &[&one, &two]);
    while !lines(&mut connection, &names).await.contains(&"got put A".to_owned()) {}
    connection.change_queries(vec![del(&one), two, one]).await.expect("sent");
    let changed = poke(&mut connection).await;
    assert_eq!(names.lines(&changed), ["desired me del A", "desired me put B", "desired me put A"]);
    assert!(changed.cookie.ends_with(":01"), "{}", changed.cookie);
    let got = poke(&mut connection).await;
    assert_eq!(names.lines(&got), ["got put B", "put comment c1"]);
    assert!(got.cookie.ends_with(":02"), "{}", got.cookie);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_mean_the_same() {
    let server = Server::start(SCHEMA).await;
    let (a, b) = (issues(1), issues(2));
    let (identity, mut connection) = server.connect(vec![a.clone(), b.clone()]).await;
    let names = names(&identity, &[&a, &b]);
    lines(&mut connection, &names).await;
    assert_eq!(lines(&mut connection, &names).await, ["got put A", "got put B", "put issue i1", "put issue i2"]);
    let counts = r#"SELECT DISTINCT "refCounts" FROM "zero_0/cvr".rows WHERE "table" = 'issue'"#;
    let both: serde_json::Value = serde_json::from_str(server.sql(counts).trim()).expect("JSON");
    assert_eq!(both, json!({ hash(&a): 1, hash(&b): 1 }));
    // One goes: its rows stay with the other, which goes on.
    connection.change_queries(vec![DesiredOp::Clear, b]).await.expect("sent");
    let mut changed = lines(&mut connection, &names).await;
    assert_eq!(changed.pop().as_deref(), Some("desired me put B"));
    changed.sort();
    assert_eq!(changed, ["desired me del A", "desired me del B"]);
    assert_eq!(lines(&mut connection, &names).await, ["got del A"]);
    server.sql("INSERT INTO issue VALUES ('i3', 'third', true)");
    assert_eq!(lines(&mut connection, &names).await, ["put issue i3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_asked_what_queries_mean() {
    let mutate = [("ZERO_MUTATE_URL", "http://127.0.0.1:9/mutate")];
    let server = Server::start_with(SCHEMA, &mutate).await;
    let (a, b) = (issues(1), issues(2));
    let identity = Identity { auth: Some("one".to_owned()), user_id: Some("u".to_owned()), ..server.identity() };
    let names = names(&identity, &[&a, &b]);
    let mut one = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![a])).await;
    while !lines(&mut one, &names).await.contains(&"got put A".to_owned()) {}
    assert_eq!((server.api.call_with("one").await, server.api.call_with("one").await), (0, 1), "the user, the query");
    // Only what is new is asked for; what comes is at two versions of one state.
    one.change_queries(vec![b]).await.expect("sent");
    assert_eq!(lines(&mut one, &names).await, ["desired me put B"]);
    assert_eq!(lines(&mut one, &names).await, ["got put B"]);
    assert_eq!(server.api.call_with("one").await, 1);
    // Another tab speaks for all queries of the group, with its own token.
    let sibling = Identity { auth: Some("two".to_owned()), ..identity.sibling() };
    let mut two = open(&sibling, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    let mut first = lines(&mut two, &names).await;
    first.sort();
    assert_eq!(
        first,
        ["desired me put A", "desired me put B", "got put A", "got put B", "put issue i1", "put issue i2"]
    );
    assert_eq!((server.api.call_with("two").await, server.api.call_with("two").await), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_was_replaced_has_no_say() {
    let server = Server::start(SCHEMA).await;
    let (old, new) = (issues(1), issues(2));
    let (identity, mut older) = server.connect(vec![]).await;
    let cookie = poke(&mut older).await.cookie;
    let names = names(&identity, &[&old, &new]);
    let mut newer = open(&identity, Some(&cookie), Hello::again()).await;
    lines(&mut newer, &names).await;
    // It may be closed by now, or not have noticed.
    let _ = older.change_queries(vec![old]).await;
    newer.change_queries(vec![new]).await.expect("sent");
    let mut seen = Vec::new();
    while !seen.contains(&"got put B".to_owned()) {
        seen.extend(lines(&mut newer, &names).await);
    }
    assert_eq!(seen, ["desired me put B", "got put B", "put issue i1", "put issue i2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_are_refused_after_all() {
    let server = Server::start(SCHEMA).await;
    let (a, b) = (issues(1), issues(2));
    let (identity, mut connection) = server.connect(vec![a.clone(), b.clone()]).await;
    let names = names(&identity, &[&a, &b]);
    let mut cookie = String::new();
    let mut server = server;
    let mut identity = identity;
    let mut seen = Vec::new();
    while !seen.contains(&"got put B".to_owned()) {
        let poke = poke(&mut connection).await;
        seen.extend(names.lines(&poke));
        cookie = poke.cookie;
    }
    // The first is refused when the client comes back: its rows stay with the second. Then that one is.
    for (refused, expected) in [(&a, vec!["got del A"]), (&b, vec!["got del B", "del issue i1", "del issue i2"])] {
        drop(connection);
        server.api.refused.lock().expect("not poisoned").push(hash(refused));
        server = server.restart().await;
        identity.server.clone_from(&server.url);
        connection = open(&identity, Some(&cookie), Hello::again()).await;
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            let poke = poke(&mut connection).await;
            seen.extend(names.lines(&poke));
            cookie = poke.cookie;
        }
        assert_eq!(seen, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_emptied_or_exchanged() {
    let more = "CREATE TABLE seat (id text PRIMARY KEY, guest text UNIQUE DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO seat VALUES ('s1', 'ann'), ('s2', 'bob')";
    let server = Server::start(&format!("{SCHEMA} {more}")).await;
    let schema = CLIENT_SCHEMA.replacen(
        r#"{"tables":{"#,
        r#"{"tables":{"seat":{"columns":{"guest":{"type":"string"},"id":{"type":"string"}},"primaryKey":["id"]},"#,
        1,
    );
    let (all, seats) = (query(ISSUES), query(r#"{"table":"seat"}"#));
    let identity = server.identity();
    let names = names(&identity, &[&all, &seats]);
    let mut connection = open(&identity, None, Hello::new(&schema, vec![all, seats])).await;
    while !lines(&mut connection, &names).await.contains(&"got put B".to_owned()) {}
    // Two rows exchange what is unique, and then their keys: rows that changed, none that went.
    server.sql("UPDATE seat SET guest = CASE guest WHEN 'ann' THEN 'bob' ELSE 'ann' END");
    assert_eq!(lines(&mut connection, &names).await, ["put seat s1", "put seat s2"]);
    server.sql(
        "BEGIN; UPDATE seat SET id = 'x' WHERE id = 's1'; UPDATE seat SET id = 's1' WHERE id = 's2'; \
                UPDATE seat SET id = 's2' WHERE id = 'x'; COMMIT",
    );
    assert_eq!(lines(&mut connection, &names).await, ["put seat s1", "put seat s2"]);
    server.sql("UPDATE seat SET guest = 'eve' WHERE guest = 'ann'");
    assert_eq!(lines(&mut connection, &names).await.len(), 1);
    // A truncate is the end of all its rows, at its own version.
    server.sql("TRUNCATE issue, comment");
    let emptied = poke(&mut connection).await;
    assert_eq!(names.lines(&emptied), ["del comment c1", "del issue i1", "del issue i2"]);
    assert!(!emptied.cookie.contains(':'), "{}", emptied.cookie);
    server.sql("INSERT INTO issue VALUES ('i1', 'again', true)");
    assert_eq!(lines(&mut connection, &names).await, ["put issue i1"]);
}

/// A record whose rows are not what its queries hold at its very state, as after a restore: one is missing, one was never
/// there. Only these are told, and the others are not told again.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_drifted() {
    let server = Server::start(SCHEMA).await;
    let wanted = issues(1);
    let (identity, mut connection) = server.connect(vec![wanted.clone()]).await;
    let names = names(&identity, &[&wanted]);
    let cookie = loop {
        let poke = poke(&mut connection).await;
        if names.lines(&poke).contains(&"got put A".to_owned()) {
            break poke.cookie;
        }
    };
    drop(connection);
    let server = server.restart().await;
    server.sql(
        r#"UPDATE "zero_0/cvr".rows SET "rowKey" = '{"id": "i9"}' WHERE "table" = 'issue' AND "rowKey" = '{"id": "i1"}'"#,
    );
    let identity = Identity { server: server.url.clone(), ..identity };
    let mut connection = open(&identity, Some(&cookie), Hello::again()).await;
    let drifted = loop {
        let poke = poke(&mut connection).await;
        if !poke.parts.is_empty() {
            break poke;
        }
    };
    assert_eq!(names.lines(&drifted), ["del issue i9", "put issue i1"]);
    assert!(drifted.cookie > cookie, "{} follows {cookie}", drifted.cookie);
}

/// A replica that was restored from an older copy is behind the record: clients hear nothing until it has caught up.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_ahead_of_the_replica() {
    let server = Server::start(SCHEMA).await;
    let wanted = issues(1);
    let (identity, mut connection) = server.connect(vec![wanted.clone()]).await;
    let names = names(&identity, &[&wanted]);
    while !lines(&mut connection, &names).await.contains(&"got put A".to_owned()) {}
    drop(connection);
    let server = server.restart().await;
    // The next segment of the write-ahead log begins behind this position.
    let position = "SELECT (pg_current_wal_lsn() - '0/0')::bigint / 16777216 * 16777216 + 16777215";
    let ahead = StateVersion::from_lsn(server.sql(position).trim().parse().expect("a position"));
    server.sql(&format!(
        r#"UPDATE "zero_0/cvr".instances SET version = '{ahead}'; UPDATE "zero_0/cvr"."rowsVersion" SET version = '{ahead}'"#
    ));
    let identity = Identity { server: server.url.clone(), ..identity.sibling() };
    let mut connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![wanted])).await;
    server.sql("UPDATE issue SET title = 'not told yet' WHERE id = 'i1'");
    server.sql("SELECT pg_switch_wal()");
    server.sql("UPDATE issue SET title = 'told' WHERE id = 'i2'");
    let first = poke(&mut connection).await;
    assert_eq!(first.base, None);
    assert!(first.cookie.as_str() > ahead.as_str(), "{} follows {ahead}", first.cookie);
    assert!(names.lines(&first).contains(&"got put A".to_owned()), "{first:?}");
}

/// Who is deleted is told to everybody. One that is there nevertheless stays, and is back with its next message.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_clients_that_are_there() {
    let server = Server::start(SCHEMA).await;
    let (identity, mut one) = server.connect(vec![issues(1)]).await;
    let names = names(&identity, &[&issues(1), &issues(2)]);
    while !lines(&mut one, &names).await.contains(&"got put A".to_owned()) {}
    let sibling = identity.sibling();
    let names = names.with(&sibling.client_id, "two");
    let mut two = open(&sibling, None, Hello::new(CLIENT_SCHEMA, vec![issues(1)])).await;
    while !lines(&mut two, &names).await.contains(&"got put A".to_owned()) {}
    let deleted = vec![sibling.client_id.clone(), "nobody".to_owned()];
    let delete = DeleteClients { client_ids: Some(deleted.clone()), client_group_ids: None };
    one.send(&Upstream::DeleteClients(delete)).await.expect("sent");
    for connection in [&mut one, &mut two] {
        let told = loop {
            if let Event::DeleteClients(told) = next(connection).await {
                break told;
            }
        };
        assert_eq!(told.client_ids.as_ref(), Some(&deleted));
    }
    let record = format!(r#"SELECT count(*) FROM "zero_0/cvr".clients WHERE "clientID" = '{}'"#, sibling.client_id);
    assert_eq!(server.sql(&record).trim(), "0");
    two.change_queries(vec![issues(2)]).await.expect("sent");
    for connection in [&mut one, &mut two] {
        assert_eq!(lines(connection, &names).await, ["desired two put B"]);
    }
    assert_eq!(server.sql(&record).trim(), "1");
}

/// A browser says as well which groups it has given up, and a new tab which tabs there still are. Nobody is told that any of
/// them is deleted: what becomes of groups is a matter of time, and of tabs it is seen what they no longer want.
#[tokio::test(flavor = "multi_thread")]
async fn groups_and_clients_that_are_said_to_be_gone() {
    let server = Server::start(SCHEMA).await;
    let (other, mut elsewhere) = server.connect(vec![issues(1)]).await;
    let (identity, mut connection) = server.connect(vec![issues(1)]).await;
    let (closed, third) = (identity.sibling(), identity.sibling());
    let names = names(&identity, &[&issues(1), &issues(2)]).with(&closed.client_id, "closed");
    for connection in [&mut elsewhere, &mut connection] {
        while !lines(connection, &names).await.contains(&"got put A".to_owned()) {}
    }
    lines(&mut open(&closed, None, Hello::new(CLIENT_SCHEMA, vec![issues(1)])).await, &names).await;
    let groups = Some(vec![other.client_group_id.clone(), identity.client_group_id.clone()]);
    for client_ids in [None, Some(vec![])] {
        let delete = DeleteClients { client_ids, client_group_ids: groups.clone() };
        connection.send(&Upstream::DeleteClients(delete)).await.expect("sent");
    }
    let mut hello = Hello::new(CLIENT_SCHEMA, vec![]);
    hello.init.active_clients = Some(vec![identity.client_id.clone(), third.client_id.clone()]);
    let mut third = open(&third, None, hello).await;
    lines(&mut third, &names).await;
    connection.change_queries(vec![issues(2)]).await.expect("sent");
    let mut heard = Vec::new();
    for connection in [&mut connection, &mut third] {
        let mut seen = Vec::new();
        while !seen.contains(&"got put B".to_owned()) {
            match next(connection).await {
                Event::Poke(poke) => seen.extend(names.lines(&poke)),
                Event::DeleteClients(told) => panic!("{told:?}"),
                _ => {}
            }
        }
        heard.push(seen);
    }
    assert!(heard[0].contains(&"desired closed del A".to_owned()), "{heard:?}");
    let left = r#"SELECT count(*) FROM "zero_0/cvr".clients WHERE "clientID" = "#;
    assert_eq!(server.sql(&format!("{left}'{}'", closed.client_id)).trim(), "0");
    server.sql("UPDATE issue SET title = 'served' WHERE id = 'i1'");
    for connection in [&mut elsewhere, &mut connection, &mut third] {
        assert_eq!(lines(connection, &names).await, ["put issue i1"]);
    }
}

/// A client is in one place, whatever group it says it is of.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_turns_up_in_another_group() {
    let server = Server::start(SCHEMA).await;
    let (identity, mut here) = server.connect(vec![]).await;
    poke(&mut here).await;
    let elsewhere = Identity { client_id: identity.client_id, ..server.identity() };
    let mut there = open(&elsewhere, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    poke(&mut there).await;
    let end = loop {
        if let Err(end) = patiently(here.next()).await {
            break end;
        }
    };
    assert!(matches!(&end, Error::Closed { code: None, .. }), "{end:?}");
}

/// Old clients are served like new ones.
#[tokio::test(flavor = "multi_thread")]
async fn every_release_gets_its_queries() {
    let server = Server::start(SCHEMA).await;
    for version in [30, 37, 39, 44, 45, 48, 49, 50, 51, 52] {
        let identity = Identity { version, ..server.identity() };
        let mut connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![issues(1)])).await;
        let names = names(&identity, &[&issues(1)]);
        while !lines(&mut connection, &names).await.contains(&"got put A".to_owned()) {}
        server.sql(&format!("UPDATE issue SET title = 'for {version}' WHERE id = 'i1'"));
        assert_eq!(lines(&mut connection, &names).await, ["put issue i1"], "{version}");
    }
}

/// Without a query API a named query is noted and never answered, and nobody complains.
#[tokio::test(flavor = "multi_thread")]
async fn named_queries_that_nobody_can_explain() {
    let server = Server::start_with(SCHEMA, &[("ZERO_QUERY_URL", "")]).await;
    let (identity, mut connection) = server.connect(vec![issues(1)]).await;
    let names = names(&identity, &[&issues(1)]);
    assert_eq!(lines(&mut connection, &names).await, ["desired me put A"]);
    let (group, client) = (&identity.client_group_id, &identity.client_id);
    server.sql(&format!("INSERT INTO zero_0.clients VALUES ('{group}', '{client}', 1)"));
    let mut seen = Vec::new();
    while !seen.contains(&"last mutation of me 1".to_owned()) {
        seen.extend(lines(&mut connection, &names).await);
    }
    assert_eq!(seen, ["last mutation of me 1"]);
}
