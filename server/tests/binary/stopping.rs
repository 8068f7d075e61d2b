//! A server that is told to stop: what its clients see of it, and what they find afterwards.

use std::time::Duration;

use protocol_client::{Error, Event};
use testdata::node::Api;
use tokio::task::block_in_place;

use crate::Tracker;
use crate::client::{Client, list, user};

/// Far above what the server allows itself.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// How a connection ends, after whatever was on its way.
async fn end(client: &mut Client) -> Error {
    loop {
        match client.connection.next().await {
            Ok(Event::Poke(poke)) => client.state.apply(&poke).expect("a poke that the real client takes"),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_let_go_without_a_word_and_go_on_afterwards() {
    let api = Api::start().expect("the API server");
    let mut tracker = Tracker::start(&api.url);
    let url = tracker.server.url();
    // Its rows are so many that they are written behind the poke: stopping waits for them.
    let all = list(200);
    let mut one = Client::new(user(&url), vec![all.clone()]).await;
    let mut two = Client::new(one.identity.sibling(), vec![list(3)]).await;
    let mut other = Client::new(user(&url), vec![list(5)]).await;
    for (client, query) in [(&mut one, all), (&mut two, list(3)), (&mut other, list(5))] {
        client.got(&query).await;
    }
    let mut clients = [one, two, other];
    for signal in ["TERM", "INT"] {
        let code = block_in_place(|| tracker.server.stop_by(signal, STOP_LIMIT)).expect("stopped in order");
        assert_eq!(code, 0, "SIG{signal}");
        for client in &mut clients {
            let end = end(client).await;
            assert!(matches!(&end, Error::Closed { code: None, .. }), "SIG{signal}: {end:?}");
        }
        block_in_place(|| tracker.server.restart()).expect("the server again");
        let [one, two, other] = clients;
        clients = [one.again().await, two.again().await, other.again().await];
        for client in &mut clients {
            let first = client.poke().await;
            assert!(first.rows().next().is_none() && first.got().next().is_none(), "SIG{signal}: {first:?}");
        }
        tracker.sql(&format!("UPDATE issue SET title = 'after {signal}', modified = '2033-01-01' WHERE id = 'i7'"));
        for client in &mut clients {
            client.until(|state| state.table("issue").any(|row| row["title"] == format!("after {signal}"))).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_nobody_watches_any_more_drains() {
    let api = Api::start().expect("the API server");
    // Its start is waited for by asking /keepalive.
    let settings = [("ZERO_KEEPALIVE_TIMEOUT_MS", "5000")];
    let mut tracker = Tracker::on(testdata::postgres::shared(), &api.url, "", &settings);
    let mut client = Client::new(user(&tracker.server.url()), vec![list(5)]).await;
    let code = block_in_place(|| tracker.server.ended(STOP_LIMIT)).expect("drained");
    assert_eq!(code, 0);
    let end = end(&mut client).await;
    assert!(matches!(&end, Error::Closed { code: None, .. }), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_stops_though_its_records_hang() {
    let api = Api::start().expect("the API server");
    let mut tracker = Tracker::start(&api.url);
    let (parameters, _) = upstream::pool_parts(&tracker.database, "ZERO_UPSTREAM_DB", "test").expect("a URL");
    let (locker, connection) = parameters.connect(tokio_postgres::NoTls).await.expect("a session");
    tokio::spawn(connection);
    locker.batch_execute(r#"BEGIN; LOCK TABLE "zql_0/cvr".rows IN EXCLUSIVE MODE"#).await.expect("locked");
    let mut client = Client::new(user(&tracker.server.url()), vec![list(5)]).await;
    assert!(matches!(client.connection.next().await, Ok(Event::Connected)));
    let code = block_in_place(|| tracker.server.stop_by("TERM", STOP_LIMIT)).expect("stopped in order");
    assert_eq!(code, 0);
    let end = end(&mut client).await;
    assert!(matches!(&end, Error::Closed { code: None, .. }), "{end:?}");
    drop(locker);
}
