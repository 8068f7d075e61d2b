//! How long queries live when nobody wants them any more (record sheet §5), on a server whose clock is moved. To the
//! millisecond it is tested where it is decided, in the record's own tests.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use protocol_client::{Connection, Hello, Identity};
use zql_spec::protocol::upstream::{DeleteClients, DesiredOp, Upstream};

use crate::harness::{CLIENT_SCHEMA, PATIENCE, SCHEMA, Server, hash, open, poke, query};
use crate::names::Names;

const MINUTE: Duration = Duration::from_secs(60);

/// The longest time to live, in ms.
const LONGEST: f64 = 600_000.0;

/// One issue.
fn issue(id: &str, ttl: f64) -> DesiredOp {
    let ast = format!(
        r#"{{"table":"issue","where":{{"type":"simple","op":"=","left":{{"type":"column","name":"id"}},"right":{{"type":"literal","value":"{id}"}}}}}}"#
    );
    let DesiredOp::Put(mut put) = query(&ast) else { panic!("a put") };
    put.ttl = Some(ttl);
    DesiredOp::Put(put)
}

fn del(op: &DesiredOp) -> DesiredOp {
    DesiredOp::Del { hash: hash(op) }
}

/// A group's first client, with names for what it wants.
struct Tab {
    identity: Identity,
    connection: Option<Connection>,
    names: Names,
    cookie: String,
}

impl Tab {
    /// A client that has got these queries, named `A`, `B`, `C`.
    async fn new(server: &Server, wanted: &[&DesiredOp]) -> Tab {
        let (identity, connection) = server.connect(wanted.iter().map(|op| (*op).clone()).collect()).await;
        let names = Names::default().with(&identity.client_id, "me");
        let named = wanted.iter().zip(["A", "B", "C"]);
        let names = named.fold(names, |names, (op, name)| names.with(&hash(op), name));
        let mut tab = Tab { identity, connection: Some(connection), names, cookie: String::new() };
        while !tab.next().await.contains(&"got put A".to_owned()) {}
        tab
    }

    fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("connected")
    }

    /// The next poke, line by line.
    async fn next(&mut self) -> Vec<String> {
        let poke = poke(self.connection()).await;
        self.cookie.clone_from(&poke.cookie);
        self.names.lines(&poke)
    }

    async fn change(&mut self, ops: Vec<DesiredOp>) -> Vec<String> {
        self.connection().change_queries(ops).await.expect("sent");
        self.next().await
    }
}

/// What the group's record says, waited for.
fn until(server: &Server, tab: &Tab, condition: &str) {
    let sql = format!(
        r#"SELECT {condition} FROM "zero_0/cvr".instances WHERE "clientGroupID" = '{}'"#,
        tab.identity.client_group_id
    );
    let begun = Instant::now();
    while server.sql(&sql).trim() != "t" {
        assert!(begun.elapsed() < PATIENCE, "{condition}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_outlives_its_desire() {
    let server = Server::start(SCHEMA).await;
    let (wanted, other) = (issue("i1", LONGEST), issue("i2", LONGEST));
    let mut tab = Tab::new(&server, &[&wanted, &other]).await;
    // Not wanted any more: it is kept, and so are its rows.
    assert_eq!(tab.change(vec![del(&wanted)]).await, ["desired me del A"]);
    server.hub.clock().advance(5 * MINUTE);
    server.sql("UPDATE issue SET title = 'kept' WHERE id = 'i1'");
    assert_eq!(tab.next().await, ["put issue i1"]);
    // Wanted again: nothing else happens, and its time begins anew with the next end.
    assert_eq!(tab.change(vec![wanted.clone()]).await, ["desired me put A"]);
    server.hub.clock().advance(60 * MINUTE);
    server.sql("UPDATE issue SET title = 'still' WHERE id = 'i1'");
    assert_eq!(tab.next().await, ["put issue i1"]);
    // A shorter time changes nothing; a longer one would be told.
    assert_eq!(tab.change(vec![issue("i1", 5.0), del(&wanted)]).await, ["desired me del A"]);
    server.hub.clock().advance(5 * MINUTE);
    server.sql("UPDATE issue SET title = 'yet' WHERE id = 'i1'");
    assert_eq!(tab.next().await, ["put issue i1"]);
    server.hub.clock().advance(6 * MINUTE);
    assert_eq!(tab.next().await, ["got del A", "del issue i1"]);
    // The other one is as it was.
    server.sql("UPDATE issue SET title = 'other'");
    assert_eq!(tab.next().await, ["put issue i2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_to_live() {
    let server = Server::start(SCHEMA).await;
    let short = issue("i1", 2.0 * 60_000.0);
    // A day is no longer than the longest time, and neither is for ever.
    let (day, ever) = (issue("i2", 86_400_000.0), issue("i3", -1.0));
    let mut tab = Tab::new(&server, &[&short, &day, &ever]).await;
    let ended = tab.change(vec![del(&short), del(&day), del(&ever)]).await;
    assert_eq!(ended, ["desired me del A", "desired me del B", "desired me del C"]);
    server.hub.clock().advance(3 * MINUTE);
    assert_eq!(tab.next().await, ["got del A", "del issue i1"], "the timer follows the earliest");
    server.hub.clock().advance(8 * MINUTE);
    assert_eq!(tab.next().await, ["got del B", "got del C", "del issue i2"], "together, in one poke");
    // None at all: with the message.
    let none = issue("i1", 0.0);
    tab.connection().change_queries(vec![none.clone()]).await.expect("sent");
    while !tab.next().await.contains(&"got put A".to_owned()) {}
    assert_eq!(tab.change(vec![del(&none)]).await, ["desired me del A"]);
    assert_eq!(tab.next().await, ["got del A", "del issue i1"]);
}

/// A query that is wanted and given up in one breath is answered all the same, and lives for its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_given_up_as_it_is_asked_for() {
    let server = Server::start(SCHEMA).await;
    let (wanted, brief) = (issue("i1", LONGEST), issue("i2", LONGEST));
    let mut tab = Tab::new(&server, &[&wanted]).await;
    tab.names = tab.names.with(&hash(&brief), "B");
    assert_eq!(tab.change(vec![brief.clone(), del(&brief)]).await, ["desired me put B", "desired me del B"]);
    assert_eq!(tab.next().await, ["got put B", "put issue i2"]);
    server.hub.clock().advance(11 * MINUTE);
    assert_eq!(tab.next().await, ["got del B", "del issue i2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_stands_still_without_clients() {
    let server = Server::start(SCHEMA).await;
    let wanted = issue("i1", LONGEST);
    let mut tab = Tab::new(&server, &[&wanted]).await;
    assert_eq!(tab.change(vec![del(&wanted)]).await, ["desired me del A"]);
    server.hub.clock().advance(5 * MINUTE);
    until(&server, &tab, r#""ttlClock" >= 300000"#);
    let clock = server.sql(r#"SELECT "ttlClock" FROM "zero_0/cvr".instances"#);
    tab.connection = None;
    // The time is noted when the last client leaves.
    until(&server, &tab, &format!(r#""ttlClock" > {}"#, clock.trim()));
    server.hub.clock().advance(60 * MINUTE);
    tab.connection = Some(open(&tab.identity, Some(&tab.cookie), Hello::again()).await);
    assert_eq!(tab.next().await, [""; 0], "it has five minutes left");
    server.sql("UPDATE issue SET title = 'kept' WHERE id = 'i1'");
    assert_eq!(tab.next().await, ["put issue i1"]);
    server.hub.clock().advance(6 * MINUTE);
    assert_eq!(tab.next().await, ["got del A", "del issue i1"]);
}

/// Queries that expired or were cleared when nobody had the group, or whose server died before it took them out: whoever comes
/// back is told that they are gone, and the application is not asked what they were.
#[tokio::test(flavor = "multi_thread")]
async fn queries_that_have_expired_when_a_record_is_loaded() {
    let mut server = Server::start(SCHEMA).await;
    let (kept, expired, cleared) = (issue("i1", LONGEST), issue("i2", LONGEST), query(r#"{"table":"comment"}"#));
    let mut tab = Tab::new(&server, &[&kept, &expired, &cleared]).await;
    assert_eq!((server.api.call_with("").await, server.api.call_with("").await), (0, 3), "the user, the queries");
    tab.connection = None;
    for (more, told, asked) in [
        ("", &["got del B", "got del C", "del comment c1", "del issue i2"][..], &[0, 1][..]),
        (
            r#"UPDATE desires SET deleted = true, "inactivatedAtMs" = 0, "ttlMs" = 1"#,
            &["got del A", "del issue i1"],
            &[0],
        ),
    ] {
        server = server.restart().await;
        server.sql(&format!(
            r#"SET search_path = "zero_0/cvr"; UPDATE instances SET "ttlClock" = 700000;
               UPDATE desires SET deleted = true, "inactivatedAtMs" = 600000, "ttlMs" = 100000 WHERE "queryHash" = '{}';
               UPDATE desires SET deleted = true WHERE "queryHash" = '{}'; {more}"#,
            hash(&expired),
            hash(&cleared)
        ));
        let desires = server.sql(r#"SELECT * FROM "zero_0/cvr".desires ORDER BY "queryHash""#);
        let calls = server.api.calls.load(Ordering::Relaxed);
        tab.identity.server.clone_from(&server.url);
        tab.connection = Some(open(&tab.identity, Some(&tab.cookie), Hello::again()).await);
        assert_eq!(tab.next().await, told);
        for queries in asked {
            assert_eq!(server.api.call_with("").await, *queries);
        }
        assert_eq!(server.api.calls.load(Ordering::Relaxed) - calls, asked.len());
        assert_eq!(server.sql(r#"SELECT * FROM "zero_0/cvr".desires ORDER BY "queryHash""#), desires);
        tab.connection = None;
    }
    let live = r#"SELECT count(*) FROM "zero_0/cvr".queries WHERE internal IS NULL AND NOT deleted"#;
    assert_eq!(server.sql(live).trim(), "0");
}

/// A query has not expired that whoever comes back wants again with the first message.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_had_expired_and_is_wanted_again() {
    let server = Server::start(SCHEMA).await;
    let wanted = issue("i1", LONGEST);
    let mut tab = Tab::new(&server, &[&wanted]).await;
    tab.connection = None;
    server.sql(r#"UPDATE "zero_0/cvr".desires SET deleted = true, "inactivatedAtMs" = -700000"#);
    let there = server.beside().await;
    let identity = Identity { server: there.url.clone(), ..tab.identity.clone() };
    let mut hello = Hello::again();
    hello.init.desired_queries_patch = vec![wanted];
    tab.connection = Some(open(&identity, Some(&tab.cookie), hello).await);
    assert_eq!(tab.next().await, ["desired me put A"]);
    server.sql("UPDATE issue SET title = 'wanted' WHERE id = 'i1'");
    let told = loop {
        let told = tab.next().await;
        if !told.is_empty() {
            break told;
        }
    };
    assert_eq!(told, ["put issue i1"]);
}

/// An expired query goes with what else its message asks for. If that takes long, it may be wanted again by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_wanted_again_while_its_end_is_on_the_way() {
    let server = Server::start(SCHEMA).await;
    let (wanted, slow) = (issue("i1", 0.0), issue("i2", LONGEST));
    let mut tab = Tab::new(&server, &[&wanted]).await;
    tab.names = tab.names.with(&hash(&slow), "B");
    let closed = server.api.door.write().await;
    assert_eq!(tab.change(vec![del(&wanted), slow]).await, ["desired me del A", "desired me put B"]);
    assert_eq!(tab.change(vec![wanted]).await, ["desired me put A"]);
    drop(closed);
    let mut seen = Vec::new();
    while !seen.contains(&"got put B".to_owned()) {
        seen.extend(tab.next().await);
    }
    server.sql("UPDATE issue SET title = 'wanted' WHERE id = 'i1'");
    while !seen.contains(&"put issue i1".to_owned()) {
        seen.extend(tab.next().await);
    }
    assert!(!seen.contains(&"got del A".to_owned()), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_gone() {
    let server = Server::start(SCHEMA).await;
    let (mine, theirs) = (issue("i1", LONGEST), issue("i2", LONGEST));
    let mut tab = Tab::new(&server, &[&mine]).await;
    for (name, by_name) in [("closed", true), ("forgotten", false)] {
        let sibling = tab.identity.sibling();
        tab.names = tab.names.with(&hash(&theirs), "B").with(&sibling.client_id, name);
        let mut other = open(&sibling, None, Hello::new(CLIENT_SCHEMA, vec![theirs.clone()])).await;
        let mut seen = Vec::new();
        while !seen.contains(&"got put B".to_owned()) {
            seen.extend(tab.next().await);
        }
        poke(&mut other).await;
        drop(other);
        // It is told to be gone by name, or it is not among those that a client says are there.
        let told = if by_name {
            let deleted = DeleteClients {
                client_ids: Some(vec![sibling.client_id.clone(), "nobody".to_owned()]),
                client_group_ids: None,
            };
            tab.connection().send(&Upstream::DeleteClients(deleted)).await.expect("sent");
            tab.next().await
        } else {
            let third = tab.identity.sibling();
            let mut hello = Hello::new(CLIENT_SCHEMA, vec![]);
            hello.init.active_clients = Some(vec![tab.identity.client_id.clone(), third.client_id.clone()]);
            let mut third = open(&third, None, hello).await;
            poke(&mut third).await;
            tab.next().await
        };
        assert_eq!(told, [format!("desired {name} del B")]);
        let record = |table: &str| {
            server.sql(&format!(
                r#"SELECT count(*) FROM "zero_0/cvr".{table} WHERE "clientID" = '{}'"#,
                sibling.client_id
            ))
        };
        assert_eq!((record("clients").trim(), record("desires").trim()), ("0", "1"));
        // What it wanted lives on for its time.
        server.sql("UPDATE issue SET title = title || '.' WHERE id = 'i2'");
        assert_eq!(tab.next().await, ["put issue i2"]);
        server.hub.clock().advance(11 * MINUTE);
        assert_eq!(tab.next().await, ["got del B", "del issue i2"]);
    }
    server.sql("UPDATE issue SET title = 'mine' WHERE id = 'i1'");
    assert_eq!(tab.next().await, ["put issue i1"]);
}

/// A group that is connected is never taken for one that nobody uses; it is noted once a minute, however busy it is.
#[tokio::test(flavor = "multi_thread")]
async fn activity_is_noted_once_a_minute() {
    let server = Server::start(SCHEMA).await;
    let mut tab = Tab::new(&server, &[&issue("i1", LONGEST)]).await;
    let noted =
        || server.sql(r#"SELECT extract(epoch FROM "lastActive") FROM "zero_0/cvr".instances"#).trim().to_owned();
    let mut before = noted();
    for minute in 1..=3 {
        for second in [20, 40] {
            server.hub.clock().advance(Duration::from_secs(20));
            server.sql(&format!("UPDATE issue SET title = 'at {minute}:{second}' WHERE id = 'i1'"));
            assert_eq!(tab.next().await, ["put issue i1"]);
            assert_eq!(noted(), before, "{minute}:{second}");
        }
        server.hub.clock().advance(Duration::from_secs(20));
        // A minute has passed since, and a few moments of the test.
        until(&server, &tab, &format!(r#"extract(epoch FROM "lastActive") >= {before} + 30"#));
        let after = noted();
        let since: f64 = after.parse::<f64>().expect("a time") - before.parse::<f64>().expect("a time");
        assert!(since < 120.0, "{since}");
        before = after;
    }
}
