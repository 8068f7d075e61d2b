//! How client groups end, and what those are told that are or come too late (protocol sheet §3, §15).

use std::time::Duration;

use protocol_client::{Connection, Error, Event, Hello, Identity};
use tokio_postgres::NoTls;
use zql_spec::protocol::error::ErrorKind;
use zql_spec::protocol::upstream::Upstream;

use crate::harness::{
    CLIENT_SCHEMA, ISSUES, SCHEMA, Server, error, hash, next, open, patiently, poke, pokes_until_got, query,
};

/// That the socket is closed without a code.
async fn closed(connection: &mut Connection) {
    let end = patiently(connection.next()).await;
    assert!(matches!(&end, Err(Error::Closed { code: None, .. })), "{end:?}");
}

/// A group that is about to fail has a newcomer in its queue: that one had no part in it, and joins the next group at once.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_to_a_group_that_ends_comes_back_at_once() {
    let server = Server::start(SCHEMA).await;
    let wanted = query(ISSUES);
    let (identity, mut early) = server.connect(vec![wanted.clone()]).await;
    pokes_until_got(&mut early, &hash(&wanted)).await;
    // Somebody else is changing the record, and the group waits to write it.
    let (other, session) = tokio_postgres::connect(&server.database, NoTls).await.expect("a session");
    tokio::spawn(session);
    let change = r#"BEGIN; UPDATE "zero_0/cvr".instances SET version = split_part(version, ':', 1) || ':0z'"#;
    other.batch_execute(change).await.expect("good SQL");
    server.sql("UPDATE issue SET title = 'changed' WHERE id = 'i1'");
    let waiting = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()";
    while server.sql(waiting).trim() == "0" {}
    let mut late = open(&identity.sibling(), None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    late.send(&Upstream::Ping).await.expect("sent");
    while !matches!(next(&mut late).await, Event::Pong) {}
    other.batch_execute("COMMIT").await.expect("good SQL");
    let body = error(&mut early).await;
    assert_eq!((body.kind, body.max_backoff_ms), (ErrorKind::Rehome, None), "{}", body.message);
    let body = error(&mut late).await;
    assert_eq!((body.kind, body.max_backoff_ms, &*body.message), (ErrorKind::Rehome, Some(0.0), "Reconnect required"));
    for connection in [&mut early, &mut late] {
        closed(connection).await;
    }
}

/// A defect ends the groups that meet it; their clients are not parked.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_meets_a_defect() {
    let server = Server::start(SCHEMA).await;
    let wanted = query(ISSUES);
    let (_, mut connection) = server.connect(vec![wanted.clone()]).await;
    pokes_until_got(&mut connection, &hash(&wanted)).await;
    // No time can be told by this clock.
    server.hub.clock().advance(Duration::MAX);
    let body = error(&mut connection).await;
    assert_eq!(
        (body.kind, body.max_backoff_ms, &*body.message),
        (ErrorKind::Rehome, None, "The client group ended unexpectedly")
    );
    closed(&mut connection).await;
}

/// A page that reloads finds its group warm; one that does not come back costs nothing for long.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_outlives_its_last_client_for_a_moment() {
    let server = Server::start(SCHEMA).await;
    let wanted = query(ISSUES);
    let (identity, mut connection) = server.connect(vec![wanted.clone()]).await;
    let cookie = pokes_until_got(&mut connection, &hash(&wanted)).await.pop().expect("a poke").cookie;
    drop(connection);
    let gone = async || {
        patiently(async {
            while server.hub.sizes().0 > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    gone().await;
    server.hub.clock().advance(Duration::from_secs(2));
    assert_eq!(server.hub.sizes(), (0, 1));
    let mut connection = open(&identity, Some(&cookie), Hello::again()).await;
    poke(&mut connection).await;
    drop(connection);
    gone().await;
    server.hub.clock().advance(Duration::from_secs(6));
    patiently(async {
        while server.hub.sizes().1 > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Whose a group is is known as long as it lives; its record is nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_ended_is_anybodys() {
    let server = Server::start(SCHEMA).await;
    let of = |user: &str| Identity { user_id: Some(user.to_owned()), ..server.identity() };
    let first = of("u");
    let (second, third) = ["v", "u"].map(|user| Identity { user_id: Some(user.to_owned()), ..first.sibling() }).into();
    let hello = || Hello::new(CLIENT_SCHEMA, vec![]);
    let mut connection = open(&first, None, hello()).await;
    poke(&mut connection).await;
    drop(connection);
    // It is warm for a moment: another user is refused, the same one is not.
    let refused = patiently(open(&second, None, hello()).await.next()).await;
    assert!(matches!(&refused, Err(Error::Server(body)) if body.kind == ErrorKind::Unauthorized), "{refused:?}");
    let mut connection = open(&third, None, hello()).await;
    poke(&mut connection).await;
    drop(connection);
    patiently(async {
        while server.hub.sizes().0 > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.hub.clock().advance(Duration::from_secs(6));
    patiently(async {
        while server.hub.sizes().1 > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    poke(&mut open(&second, None, hello()).await).await;
}
