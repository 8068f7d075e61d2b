//! The wire itself: what a client is sent after a reconnect, in a group, and for bad input.

use std::collections::BTreeSet;

use protocol_client::{Connection, Error, Event, Hello, Identity, State};
use testdata::node::Api;
use zql_spec::protocol::error::ErrorKind;

use crate::Tracker;
use crate::client::{Client, expected, list, patches, user};

/// Changes what a client that is away holds, and waits until another one has seen it.
async fn change_unseen(tracker: &Tracker, observer: &mut Client, mark: &str) {
    // The list of two is i1, i2; without i2, i3 comes in.
    tracker.sql(&format!(
        "BEGIN; UPDATE issue SET title = 'away {mark}' WHERE id = 'i1'; \
         DELETE FROM issue WHERE id = 'i2'; COMMIT; \
         UPDATE issue SET title = 'twice' WHERE id = 'i1'; UPDATE issue SET title = 'last {mark}' WHERE id = 'i1'"
    ));
    let last = format!("last {mark}");
    observer.until(|state| state.table("issue").any(|row| row["id"] == "i1" && row["title"] == last.as_str())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_receives_exactly_what_it_missed() {
    let api = Api::start().expect("the API server");
    let mut tracker = Tracker::start(&api.url);
    tracker.sql(
        "DELETE FROM issue_label WHERE issue_id IN ('i1', 'i2', 'i3', 'i4'); \
         UPDATE issue SET creator_id = 'u1', modified = '2031-01-01'::timestamptz - substr(id, 2)::int * interval '1 hour' \
         WHERE id IN ('i1', 'i2', 'i3', 'i4')",
    );
    let url = tracker.server.url();
    let query = list(2);
    let ready = |state: &State| {
        let ids: BTreeSet<&str> = state.table("issue").filter_map(|row| row["id"].as_str()).collect();
        ids == BTreeSet::from(["i1", "i2"])
    };
    let mut observer = Client::new(user(&url), vec![list(3)]).await;
    observer.got(&list(3)).await;
    let mut client = Client::new(user(&url), vec![query.clone()]).await;
    client.got(&query).await;
    client.until(ready).await;

    // After its own drop.
    change_unseen(&tracker, &mut observer, "1").await;
    let mut client = client.again().await;
    let missed = client.poke().await;
    assert_eq!(patches(&missed), expected(&["put issue i1", "put issue i3", r#"del issue {"id":"i2"}"#]));
    assert_eq!(client.title("i1"), Some("last 1"));

    // Nothing missed: one empty poke, which the real client waits for.
    let mut client = client.again().await;
    let empty = client.poke().await;
    assert!(empty.rows().next().is_none() && empty.got().next().is_none(), "{empty:?}");

    // After a kill of the server, with a change while nobody was there.
    tracker.server.kill().expect("a running server");
    tracker.sql("UPDATE issue SET title = 'unwatched' WHERE id = 'i3'; DELETE FROM issue WHERE id = 'i1'");
    tracker.server.restart().expect("the server again");
    let mut client = client.again().await;
    let mut seen = BTreeSet::new();
    while client.title("i3") != Some("unwatched") || client.title("i4").is_none() || client.title("i1").is_some() {
        for patch in patches(&client.poke().await) {
            assert!(seen.insert(patch.clone()), "{patch} came twice");
        }
    }
    assert_eq!(seen, expected(&["put issue i3", "put issue i4", r#"del issue {"id":"i1"}"#]));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_group_share_rows_and_queries() {
    let api = Api::start().expect("the API server");
    let tracker = Tracker::start(&api.url);
    let url = tracker.server.url();
    let mut one = Client::new(user(&url), vec![list(5)]).await;
    one.got(&list(5)).await;
    let page = Hello::named("issues.page", r#"[{"id":"i9"}]"#);
    let mut two = Client::new(one.identity.sibling(), vec![page.clone()]).await;
    two.got(&page).await;
    two.got(&list(5)).await;
    one.got(&page).await;
    assert_eq!(one.state.rows, two.state.rows);
    assert_eq!(one.state.desired, two.state.desired);
    assert_eq!(one.state.desired.len(), 2);
    tracker.sql("UPDATE issue SET title = 'for both' WHERE id = 'i9'");
    for client in [&mut one, &mut two] {
        client.until(|state| state.table("issue").any(|row| row["title"] == "for both")).await;
    }
    assert_eq!(one.state.cookie, two.state.cookie);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_told_to_its_sender_alone() {
    let api = Api::start().expect("the API server");
    let tracker = Tracker::start(&api.url);
    let url = tracker.server.url();
    let mut bystander = Client::new(user(&url), vec![list(5)]).await;
    bystander.got(&list(5)).await;
    let deep = format!(
        r#"["changeDesiredQueries",{{"desiredQueriesPatch":[{{"op":"put","hash":"h","ast":{}{}}}]}}]"#,
        "[".repeat(1000),
        "]".repeat(1000)
    );
    let nowhere = r#"["changeDesiredQueries",{"desiredQueriesPatch":[{"op":"put","hash":"h"}]}]"#;
    let myself = "me";
    let delete_myself = format!(r#"["deleteClients",{{"clientIDs":["{myself}"]}}]"#);
    for (message, kind) in [
        ("not json", ErrorKind::InvalidMessage),
        ("[]", ErrorKind::InvalidMessage),
        (r#"["nosuch",{}]"#, ErrorKind::InvalidMessage),
        (r#"["changeDesiredQueries",{}]"#, ErrorKind::InvalidMessage),
        (r#"["changeDesiredQueries",{"desiredQueriesPatch":[{"op":"put"}]}]"#, ErrorKind::InvalidMessage),
        (nowhere, ErrorKind::Internal),
        (&deep, ErrorKind::InvalidMessage),
        (&delete_myself, ErrorKind::Internal),
        (r#"["initConnection",{"desiredQueriesPatch":[]}]"#, ErrorKind::Internal),
    ] {
        let identity = Identity { client_id: myself.to_owned(), ..user(&url) };
        let mut client = Client::new(identity, vec![]).await;
        client.poke().await;
        client.connection.send_text(message.to_owned()).await.expect("sent");
        let answer = loop {
            match client.connection.next().await {
                Ok(Event::Poke(_)) => {}
                Ok(other) => panic!("{message:.80}: {other:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(&answer, Error::Server(body) if body.kind == kind), "{message:.80}: {answer}");
        let end = client.connection.next().await;
        assert!(matches!(&end, Err(Error::Closed { code: None, .. })), "{message:.80}: {end:?}");
    }
    tracker.sql("UPDATE issue SET title = 'still here', modified = '2032-01-01' WHERE id = 'i5'");
    bystander.until(|state| state.table("issue").any(|row| row["title"] == "still here")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connections_say_why() {
    let api = Api::start().expect("the API server");
    let tracker = Tracker::start(&api.url);
    let url = tracker.server.url().replace("http", "ws");
    let good = "clientID=c&clientGroupID=g&ts=1&lmid=0&wsid=w&baseCookie=";
    for (path, header, reason) in [
        (format!("/nosuch/v51/connect?{good}"), "e30%3D", "Error: Invalid URL"),
        ("/sync/v51/connect?clientID=c".to_owned(), "e30%3D", "Error: invalid querystring"),
        (format!("/sync/vx/connect?{good}"), "e30%3D", "Error: Invalid version"),
        (format!("/sync/v51/connect?{good}"), "***", "Error: Invalid character"),
    ] {
        let mut connection = Connection::open_with_header(&format!("{url}{path}"), header).await.expect("101 even so");
        let end = connection.next().await;
        let told = matches!(&end, Err(Error::Closed { code: Some(1002), reason: text }) if text.starts_with(reason));
        assert!(told, "{path}: {end:?}");
    }
    for version in [29, 53] {
        let mut connection = Connection::open_with_header(&format!("{url}/sync/v{version}/connect?{good}"), "e30%3D")
            .await
            .expect("101 even so");
        let end = connection.next().await;
        let told = matches!(&end, Err(Error::Server(body)) if body.kind == ErrorKind::VersionNotSupported);
        assert!(told, "{version}: {end:?}");
    }
    // A cookie of a group that the server has never seen.
    let identity = Identity::fresh(tracker.server.url());
    let mut connection = Connection::open(&identity, Some("0a"), Hello::again()).await.expect("a socket");
    let end = loop {
        match connection.next().await {
            Ok(Event::Connected) => {}
            other => break other,
        }
    };
    assert!(matches!(&end, Err(Error::Server(body)) if body.kind == ErrorKind::ClientNotFound), "{end:?}");
}
