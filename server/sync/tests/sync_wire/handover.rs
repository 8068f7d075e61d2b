//! One client group with several clients at different places: caught up while the database goes on, and moved between
//! servers that share the records (cvr sheet §9.4).

use std::collections::BTreeMap;

use protocol_client::{Connection, Error, Event, Hello, Identity, Keys, Rows, State, hash_of};
use zql_spec::protocol::error::ErrorKind;

use crate::harness::{CLIENT_SCHEMA, ISSUES, SCHEMA, Server, error, open, patiently, poke, query};

/// A client with what it held at each of its cookies.
struct Client {
    identity: Identity,
    connection: Connection,
    state: State,
    history: BTreeMap<String, BTreeMap<String, Rows>>,
}

impl Client {
    async fn new(identity: Identity) -> Client {
        let connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![query(ISSUES)])).await;
        let state = State::new(Keys::from_schema(CLIENT_SCHEMA));
        Client { identity, connection, state, history: BTreeMap::new() }
    }

    /// Goes on at another server, or at the same one again.
    async fn go_to(&mut self, server: &Server) {
        self.identity.server = server.url.clone();
        self.connection = open(&self.identity, self.state.cookie.as_deref(), Hello::again()).await;
    }

    /// One poke; gives how many rows it has.
    async fn poke(&mut self) -> usize {
        let poke = poke(&mut self.connection).await;
        self.state.apply(&poke).expect("a poke that the real client takes");
        self.history.insert(poke.cookie.clone(), self.state.rows.clone());
        poke.rows().count()
    }

    fn shows(&self, title: &str) -> bool {
        self.state.table("issue").any(|row| row["title"] == title)
    }

    async fn until(&mut self, title: &str) {
        while !self.shows(title) {
            self.poke().await;
        }
    }

    async fn until_got(&mut self) {
        let wanted = query(ISSUES);
        let hash = hash_of(&wanted).expect("a hash");
        while !self.state.got.contains(hash) {
            self.poke().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_at_one_cookie_hold_the_same() {
    let server = Server::start(SCHEMA).await;
    let mut one = Client::new(server.identity()).await;
    one.until_got().await;
    // The group has to wait for its record while another client joins, and the database goes on.
    let (locker, watcher) = (server.session().await, server.session().await);
    locker.batch_execute(r#"BEGIN; SELECT FROM "zero_0/cvr".instances FOR UPDATE"#).await.expect("locked");
    let mut two = Client::new(one.identity.sibling()).await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let waiting = async { while watcher.query_one(waits, &[]).await.expect("a number").get::<_, i64>(0) == 0 {} };
    patiently(waiting).await;
    let mut commits = server.commits.clone();
    let before = *commits.borrow_and_update();
    server.sql("UPDATE issue SET title = 'new' WHERE id = 'i1'");
    patiently(commits.wait_for(|commits| *commits > before)).await.expect("a commit");
    locker.batch_execute("COMMIT").await.expect("let go");
    one.until("new").await;
    two.until("new").await;
    for (cookie, rows) in &two.history {
        // At its first cookie the new client has not got anything yet.
        if let Some(others) = one.history.get(cookie).filter(|_| !rows.is_empty()) {
            assert_eq!(rows, others, "at {cookie}");
        }
    }
    assert_eq!(one.state.cookie, two.state.cookie);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_connections_of_a_client_one_is_served() {
    let server = Server::start(SCHEMA).await;
    // Whichever comes in first and whichever joins first: a connection is told something, or it is closed.
    let heard = async |identity: &Identity| {
        let mut connection = open(identity, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
        loop {
            match patiently(connection.next()).await {
                Ok(Event::Connected) => {}
                other => return (connection, other),
            }
        }
    };
    let pair = async |identity: Identity| {
        let outcomes: [_; 2] = tokio::join!(heard(&identity), heard(&identity)).into();
        assert!(outcomes.iter().any(|(_, outcome)| matches!(outcome, Ok(Event::Poke(_)))), "{outcomes:?}");
    };
    let pairs: Vec<_> = (0..100).map(|_| pair(server.identity())).collect();
    futures::future::join_all(pairs).await;
}

/// The error of a server that has lost a group to another one.
async fn rehomed(client: &mut Client) {
    let body = error(&mut client.connection).await;
    assert_eq!((body.kind, body.max_backoff_ms), (ErrorKind::Rehome, Some(0.0)), "{}", body.message);
    assert!(body.message.starts_with("CVR ownership was transferred to "), "{}", body.message);
    let end = patiently(client.connection.next()).await;
    assert!(matches!(&end, Err(Error::Closed { code: None, .. })), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_moves_to_the_server_of_its_newest_client() {
    let here = Server::start(SCHEMA).await;
    let there = here.beside().await;
    let mut staying = Client::new(here.identity()).await;
    staying.until_got().await;
    let mut moving = Client::new(staying.identity.sibling()).await;
    moving.until_got().await;
    for (round, server) in [&there, &here, &there].into_iter().enumerate() {
        moving.go_to(server).await;
        assert_eq!(moving.poke().await, 0, "it has everything");
        let title = format!("round {round}");
        here.sql(&format!("UPDATE issue SET title = '{title}' WHERE id = 'i1'"));
        // The server that has the group tells its client. The other one finds out that it lost it.
        assert_eq!(moving.poke().await, 1, "one row changed");
        assert!(moving.shows(&title));
        rehomed(&mut staying).await;
        staying.go_to(server).await;
        assert_eq!(staying.poke().await, 1, "what it missed, once");
        assert_eq!(staying.state.rows, moving.state.rows);
        assert_eq!(staying.state.cookie, moving.state.cookie);
    }
}

/// The rows of a large change are written behind the poke. A server that takes the group over in the meantime waits for them,
/// and the one that has told its clients of them tells them nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_moves_while_its_rows_are_still_written() {
    let here = Server::start(SCHEMA).await;
    let there = here.beside().await;
    let mut staying = Client::new(here.identity()).await;
    staying.until_got().await;
    let mut moving = Client::new(staying.identity.sibling()).await;
    moving.until_got().await;
    let (locker, watcher) = (here.session().await, here.session().await);
    locker.batch_execute(r#"BEGIN; SELECT FROM "zero_0/cvr".rows FOR UPDATE"#).await.expect("locked");
    here.sql(
        "BEGIN; UPDATE issue SET title = 'many' WHERE id = 'i1';
         INSERT INTO issue SELECT 'n' || n, 'one of many', true FROM generate_series(1, 150) n; COMMIT",
    );
    staying.until("many").await;
    let group = staying.identity.client_group_id.clone();
    let record = async || {
        let sql = r#"SELECT owner, i.version, r.version FROM "zero_0/cvr".instances i
            JOIN "zero_0/cvr"."rowsVersion" r USING ("clientGroupID") WHERE "clientGroupID" = $1"#;
        let row = watcher.query_one(sql, &[&group]).await.expect("a record");
        [0, 1, 2].map(|column| row.get::<_, String>(column))
    };
    let [owner, version, rows] = record().await;
    assert_eq!(staying.state.cookie.as_deref(), Some(&*version));
    assert!(rows < version, "{rows} should be behind {version}");
    // It has not read what it was told here. Whoever takes it in has looked at the record by the time that it has claimed it.
    moving.go_to(&there).await;
    patiently(async { while record().await[0] == owner {} }).await;
    // In the time that others need to be served there, nothing is made of a record that is not complete.
    Client::new(there.identity()).await.until_got().await;
    assert_eq!(record().await[1], version);
    locker.batch_execute("COMMIT").await.expect("let go");
    let rows = moving.poke().await;
    assert_eq!((rows, moving.shows("many")), (151, true), "what it missed, at once");
    let cookie = moving.state.cookie.clone().expect("a cookie");
    assert!(cookie.starts_with(&*version), "{cookie} is at the state of {version}");
    assert_eq!(moving.state.rows, staying.state.rows);

    here.sql("UPDATE issue SET title = 'later' WHERE id = 'i2'");
    assert_eq!(moving.poke().await, 1, "one row changed");
    rehomed(&mut staying).await;
    staying.go_to(&there).await;
    assert_eq!(staying.poke().await, 1, "what it missed");
    assert_eq!(staying.state.rows, moving.state.rows);
    let [_, version, rows] = record().await;
    assert_eq!(rows, version);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_moves_back_and_forth_loses_nothing() {
    let here = Server::start(SCHEMA).await;
    let there = here.beside().await;
    let first = Client::new(here.identity()).await;
    let second = Client::new(first.identity.sibling()).await;
    let mut clients = [first, second];
    let mut at = [0, 0];
    for round in 0..12 {
        here.sql(&format!(
            "BEGIN; UPDATE issue SET title = 'round {round}' WHERE id = 'i1'; INSERT INTO issue VALUES ('n{round}', 'x', true); COMMIT"
        ));
        let leaving = round % 2;
        at[leaving] = 1 - at[leaving];
        clients[leaving].go_to([&here, &there][at[leaving]]).await;
        for client in &mut clients {
            while !client.shows(&format!("round {round}")) {
                let next = patiently(client.connection.next()).await;
                match next {
                    Ok(Event::Poke(poke)) => client.state.apply(&poke).expect("a poke"),
                    Ok(_) => {}
                    // Told to come back, at once or a little later, to wherever it is.
                    Err(Error::Server(body)) if body.kind == ErrorKind::Rehome => {
                        let server = if client.identity.server == here.url { &here } else { &there };
                        client.go_to(server).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    assert_eq!(clients[0].state.rows, clients[1].state.rows);
    assert_eq!(clients[0].state.table("issue").count(), 14);
}
