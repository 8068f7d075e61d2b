//! Custom mutations: from the client to the application's API server and back by replication.

use std::sync::Arc;

use protocol_client::{Connection, Event, Hello, Identity, Poke};
use serde_json::{Value, json};
use zql_spec::protocol::downstream::RowOp;
use zql_spec::protocol::error::{ErrorBody, ErrorKind, ErrorOrigin, ErrorReason};
use zql_spec::protocol::upstream::{DeleteClients, Upstream};

use crate::harness::{SCHEMA, Server, error, join, next, open, poke};
use crate::mutate_api::MutateApi;

pub(crate) async fn start(pairs: &[(&str, &str)]) -> (Server, Arc<MutateApi>) {
    let api = MutateApi::start().await;
    let urls = format!("{0}/mutate,{0}/other/*", api.url);
    let mut all = vec![("ZERO_MUTATE_URL", &*urls)];
    all.extend(pairs);
    let server = Server::start_with(SCHEMA, &all).await;
    api.use_database(&server.database);
    (server, api)
}

fn push(identity: &Identity, name: &str, ids: &[i64]) -> String {
    let client = &identity.client_id;
    let mutation = |id: &i64| {
        let args = json!([{ "id": format!("{client}-{id}") }]);
        json!({ "type": "custom", "id": id, "clientID": client, "name": name, "args": args, "timestamp": 1 })
    };
    let mutations: Vec<Value> = ids.iter().map(mutation).collect();
    let body = json!({
        "clientGroupID": identity.client_group_id, "mutations": mutations,
        "pushVersion": 1, "timestamp": 1, "requestID": "r",
    });
    json!(["push", body]).to_string()
}

/// Sends a push and waits until the server has taken it; other messages are passed over.
async fn push_and_wait(connection: &mut Connection, message: String) {
    connection.send_text(message).await.expect("sent");
    connection.send(&Upstream::Ping).await.expect("sent");
    while !matches!(next(connection).await, Event::Pong) {}
}

/// The last mutation that a poke says is done for a client.
fn last_mutation(poke: &Poke, client: &str) -> Option<f64> {
    poke.parts.iter().find_map(|part| part.last_mutation_id_changes.as_ref()?.get(client).copied())
}

fn has_row(poke: &Poke, id: &str) -> bool {
    poke.rows().any(|row| matches!(row, RowOp::Put { value, .. } if value["id"] == id))
}

async fn poke_with_last_mutation(connection: &mut Connection, client: &str) -> (f64, Poke) {
    loop {
        let poke = poke(connection).await;
        if let Some(id) = last_mutation(&poke, client) {
            return (id, poke);
        }
    }
}

fn results(poke: &Poke) -> Value {
    let patches: Vec<_> = poke.parts.iter().filter_map(|part| part.mutations_patch.as_ref()).flatten().collect();
    serde_json::to_value(patches).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_and_results_come_by_replication() {
    let options = [("ZERO_MUTATE_API_KEY", "key"), ("ZERO_MUTATE_ALLOWED_CLIENT_HEADERS", "X-A")];
    let (server, api) = start(&options).await;
    let mut identity = server.identity();
    identity.user_id = Some("u".to_owned());
    identity.auth = Some("token".to_owned());
    let client = identity.client_id.clone();
    let mut connection = join(&identity, |hello| {
        let headers = [("x-a", "1"), ("x-b", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        hello.init.user_push_headers = Some(headers.into());
        hello.init.user_push_url = Some(format!("{}/other/push?a=b", api.url));
    })
    .await;

    // What a client wrote arrives as it was written.
    let body = push(&identity, "create", &[1]).replacen(r#"["push",{"#, r#"{ "new" : [1.0] , "#, 1);
    let body = body.strip_suffix(']').expect("the end of the message");
    connection.send_text(format!(r#"["push",{body}]"#)).await.expect("sent");
    let (id, poke_of_create) = poke_with_last_mutation(&mut connection, &client).await;
    assert_eq!(id, 1.0);
    assert!(has_row(&poke_of_create, &format!("{client}-1")), "{poke_of_create:?}");
    let call = api.calls().remove(0);
    assert_eq!((call.path.as_str(), call.query.as_str()), ("/other/push", "a=b&schema=zero_0&appID=zero"));
    assert_eq!(call.body, body);
    for (name, value) in [
        ("x-api-key", Some("key")),
        ("x-a", Some("1")),
        ("x-b", None),
        ("authorization", Some("Bearer token")),
        ("content-type", Some("application/json")),
    ] {
        assert_eq!(call.headers.get(name).map(|value| value.to_str().expect("text")), value, "{name}");
    }

    // The error of a mutator is a row, which goes when the client has seen it. A new token is used at once.
    connection.send(&Upstream::UpdateAuth { auth: "newer".to_owned() }).await.expect("sent");
    connection.send_text(push(&identity, "fail", &[2])).await.expect("sent");
    let (id, failed) = poke_with_last_mutation(&mut connection, &client).await;
    assert_eq!(id, 2.0);
    let name = json!({ "clientID": client, "id": 2 });
    let result = json!({ "error": "app", "message": "server says no" });
    assert_eq!(results(&failed), json!([{ "op": "put", "mutation": { "id": name, "result": result } }]));
    assert_eq!(api.calls()[1].headers["authorization"], "Bearer newer");

    connection.send(&Upstream::AckMutationResponses { id: 2.0, client_id: client.clone() }).await.expect("sent");
    let mut cleaned = json!([]);
    while cleaned == json!([]) {
        cleaned = results(&poke(&mut connection).await);
    }
    assert_eq!(cleaned, json!([{ "op": "del", "id": name }]));
    let cleanup = api.calls()[2].json();
    let group = &identity.client_group_id;
    assert_eq!(cleanup["requestID"], format!("cleanup-{group}-{client}-2"));
    assert_eq!(cleanup["mutations"][0]["name"], "_zero_cleanupResults");
    let args = json!([{ "type": "single", "clientGroupID": group, "clientID": client, "upToMutationID": 2 }]);
    assert_eq!(cleanup["mutations"][0]["args"], args);

    for _ in 0..3 {
        api.arrival().await;
    }
    let gone = vec!["gone".to_owned(), "too".to_owned()];
    let delete = DeleteClients { client_ids: Some(gone.clone()), client_group_ids: None };
    connection.send(&Upstream::DeleteClients(delete)).await.expect("sent");
    api.arrival().await;
    let cleanup = api.calls()[3].json();
    assert_eq!(cleanup["mutations"][0]["clientID"], "gone");
    let args = json!([{ "type": "bulk", "clientGroupID": group, "clientIDs": gone }]);
    assert_eq!(cleanup["mutations"][0]["args"], args);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_to_the_client_that_made_the_mutation() {
    let (server, api) = start(&[]).await;
    let http = |status| (ErrorOrigin::ZeroCache, ErrorReason::Http, Some(status));
    for (answers, ids, (origin, reason, status), calls, message) in [
        (&[(500, "down"); 4][..], &[1][..], http(500), 4, "Fetch from API server returned non-OK status 500"),
        (&[(503, "down"), (401, "who")], &[1], http(401), 2, "Fetch from API server returned non-OK status 401"),
        (
            &[(200, "nonsense")],
            &[1],
            (ErrorOrigin::ZeroCache, ErrorReason::Parse, None),
            1,
            "Failed to parse response from API server: ",
        ),
        (
            &[],
            &[5, 6],
            (ErrorOrigin::Server, ErrorReason::OooMutation, None),
            1,
            "Client MAKER sent mutation ID 5 but expected 1",
        ),
    ] {
        let identity = server.identity();
        // The mutation of one tab, pushed by another.
        let mut maker = join(&identity, |_| {}).await;
        let mut pusher = join(&identity.sibling(), |_| {}).await;
        let before = api.calls().len();
        api.answer_with(answers);
        pusher.send_text(push(&identity, "create", ids)).await.expect("sent");
        let error = error(&mut maker).await;
        assert!(error.message.starts_with(&message.replace("MAKER", &identity.client_id)), "{error:?}");
        let ErrorBody { kind, mutation_ids, .. } = &error;
        assert_eq!(
            (*kind, error.origin, error.reason, error.status),
            (ErrorKind::PushFailed, Some(origin), Some(reason), status)
        );
        let named: Vec<i64> = mutation_ids.iter().flatten().map(|id| id.id).collect();
        assert_eq!(named, ids);
        assert_eq!(api.calls().len() - before, calls);
        if status == Some(401) {
            // It is the pusher's token that is not known.
            assert_eq!(self::error(&mut pusher).await.status, status);
        } else {
            push_and_wait(&mut pusher, r#"["ping",{}]"#.to_owned()).await;
        }
    }

    // An API server that comes back in time is not noticed.
    let identity = server.identity();
    let mut connection = join(&identity, |_| {}).await;
    api.answer_with(&[(502, "down"), (503, "down")]);
    connection.send_text(push(&identity, "create", &[1])).await.expect("sent");
    assert_eq!(poke_with_last_mutation(&mut connection, &identity.client_id).await.0, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_cannot_be_sent_are_refused() {
    let (server, api) = start(&[]).await;
    let custom = |identity: &Identity| push(identity, "create", &[1]);
    let mixed = |identity: &Identity| {
        push(identity, "create", &[1, 2])
            .replacen(r#""custom""#, r#""CUSTOM""#, 1)
            .replace(r#""custom""#, r#""crud""#)
            .replace(r#""CUSTOM""#, r#""custom""#)
    };
    let foreign = |identity: &Identity| custom(identity).replace(&identity.client_group_id, "other");
    type Message<'a> = &'a dyn Fn(&Identity) -> String;
    for (message, url, kind, text) in [
        (
            &mixed as Message<'_>,
            None,
            ErrorKind::InvalidPush,
            "A push of custom mutations cannot hold CRUD mutations as well.",
        ),
        (
            &foreign,
            None,
            ErrorKind::InvalidPush,
            "clientGroupID in mutation \"other\" does not match clientGroupID of connection \"GROUP",
        ),
        (
            &custom,
            Some("http://elsewhere/"),
            ErrorKind::PushFailed,
            "URL \"http://elsewhere/\" is not allowed by the ZERO_MUTATE_URL configuration",
        ),
        (
            &custom,
            Some("/other/x?appID=1"),
            ErrorKind::PushFailed,
            "Failed to push: The push URL cannot contain the reserved query param \"appID\"",
        ),
        (
            &custom,
            Some("/other/x?schema=s"),
            ErrorKind::PushFailed,
            "Failed to push: The push URL cannot contain the reserved query param \"schema\"",
        ),
    ] {
        let identity = server.identity();
        let url = url.map(|url| if url.starts_with('/') { format!("{}{url}", api.url) } else { url.to_owned() });
        let mut connection = join(&identity, |hello| hello.init.user_push_url = url).await;
        connection.send_text(message(&identity)).await.expect("sent");
        let error = error(&mut connection).await;
        assert_eq!((error.kind, error.message), (kind, text.replace("GROUP", &identity.client_group_id)));
        let named: Option<Vec<i64>> = error.mutation_ids.map(|ids| ids.iter().map(|id| id.id).collect());
        let failed = (Some(ErrorOrigin::ZeroCache), Some(ErrorReason::Internal), Some(vec![1]));
        let refused = (Some(ErrorOrigin::ZeroCache), None, None);
        let expected = if kind == ErrorKind::PushFailed { failed } else { refused };
        assert_eq!((error.origin, error.reason, named), expected);
    }
    assert!(api.calls().is_empty());
}

/// There is nobody to send it to, and nothing to send.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_nothing_is_ignored() {
    let server = Server::start(SCHEMA).await;
    let identity = server.identity();
    let mut connection = join(&identity, |_| {}).await;
    push_and_wait(&mut connection, push(&identity, "create", &[])).await;
    connection.send_text(push(&identity, "create", &[1])).await.expect("sent");
    let body = error(&mut connection).await;
    let message = "A ZERO_MUTATE_URL must be set in order to process custom mutations.";
    assert_eq!((body.kind, &*body.message), (ErrorKind::InvalidPush, message));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_api_server_gets_one_request_at_a_time_and_holds_up_nothing_else() {
    let (server, api) = start(&[]).await;
    let (a, other) = (server.identity(), server.identity());
    let b = a.sibling();
    let (mut tab_a, mut tab_b) = (join(&a, |_| {}).await, join(&b, |_| {}).await);
    api.hold();
    push_and_wait(&mut tab_a, push(&a, "create", &[1])).await;
    api.arrival().await;
    for message in [push(&a, "create", &[2]), push(&a, "create", &[3, 4])] {
        push_and_wait(&mut tab_a, message).await;
    }
    push_and_wait(&mut tab_b, push(&b, "create", &[1])).await;
    push_and_wait(&mut tab_a, push(&a, "create", &[5])).await;

    // Meanwhile the group lives, and others' mutations are on their way.
    server.sql("INSERT INTO issue VALUES ('meanwhile', 'x', true)");
    while !has_row(&poke(&mut tab_a).await, "meanwhile") {}
    let mut elsewhere = join(&other, |_| {}).await;
    push_and_wait(&mut elsewhere, push(&other, "create", &[1])).await;
    api.arrival().await;
    assert_eq!(api.calls().len(), 2);

    api.release();
    assert_eq!(poke_with_last_mutation(&mut elsewhere, &other.client_id).await.0, 1.0);
    for (tab, client, last) in [(&mut tab_a, &a.client_id, 5.0), (&mut tab_b, &b.client_id, 1.0)] {
        while poke_with_last_mutation(tab, client).await.0 < last {}
    }
    let own = |id| (a.client_id.clone(), id);
    let sent: Vec<Vec<(String, i64)>> =
        api.calls().iter().map(|call| call.mutations()).filter(|sent| sent[0].0 != other.client_id).collect();
    assert_eq!(sent, [vec![own(1)], vec![own(2), own(3), own(4), own(5)], vec![(b.client_id.clone(), 1)]]);
}

/// A tab pushes mutations of another one, and it is the pusher whose credentials are refused.
#[tokio::test(flavor = "multi_thread")]
async fn whose_credentials_are_refused_does_not_go_on() {
    let (server, api) = start(&[]).await;
    let nobody_named =
        r#"{"kind":"PushFailed","origin":"zeroCache","reason":"http","status":403,"message":"m","mutationIDs":[]}"#;
    for (answer, status, told) in [
        ((401, "who"), 401, true),
        ((200, r#"{"error":"http","status":401,"details":"who","mutationIDs":[]}"#), 401, false),
        ((200, nobody_named), 403, false),
        ((200, r#"{"kind":"MutateResponse","userID":"somebody else","mutations":[]}"#), 401, true),
    ] {
        let identity = server.identity();
        let mut maker = join(&identity, |_| {}).await;
        let mut pusher = join(&identity.sibling(), |_| {}).await;
        api.answer_with(&[answer]);
        pusher.send_text(push(&identity, "create", &[1])).await.expect("sent");
        let body = error(&mut pusher).await;
        let expected = (ErrorKind::PushFailed, Some(status), Some(vec![]));
        assert_eq!((body.kind, body.status, body.mutation_ids), expected, "{answer:?}");
        if told {
            let named = error(&mut maker).await.mutation_ids.expect("mutations");
            assert_eq!(named.len(), 1, "{answer:?}");
        } else {
            push_and_wait(&mut maker, r#"["ping",{}]"#.to_owned()).await;
        }
    }
}

/// Results go when the group has accepted that clients are gone, and not when somebody says so.
#[tokio::test(flavor = "multi_thread")]
async fn results_of_clients_that_are_gone() {
    let (server, api) = start(&[]).await;
    let identity = server.identity();
    let mut connection = join(&identity, |_| {}).await;
    let gone = |client: &str| DeleteClients { client_ids: Some(vec![client.to_owned()]), client_group_ids: None };
    // Whoever has a cookie of the future is refused, and so is who deletes itself.
    let mut hello = Hello::again();
    hello.init.deleted = Some(gone("never"));
    let body = error(&mut open(&identity.sibling(), Some("azzzzzzzzzzz"), hello).await).await;
    assert_eq!(body.kind, ErrorKind::InvalidConnectionRequestBaseCookie, "{}", body.message);
    connection.send(&Upstream::DeleteClients(gone(&identity.client_id))).await.expect("sent");
    assert_eq!(error(&mut connection).await.message, "cannot delete self");
    // Those that are missing are deleted with those that are named, and all are told.
    let third = identity.sibling();
    let mut accepted = join(&third, |hello| {
        hello.init.deleted = Some(gone("named"));
        hello.init.active_clients = Some(vec![third.client_id.clone()]);
    })
    .await;
    api.arrival().await;
    let cleanup = api.calls()[0].json();
    let args = json!([{ "type": "bulk", "clientGroupID": identity.client_group_id,
        "clientIDs": [identity.client_id, "named"] }]);
    assert_eq!(
        (&cleanup["mutations"][0]["name"], &cleanup["mutations"][0]["args"]),
        (&json!("_zero_cleanupResults"), &args)
    );
    push_and_wait(&mut accepted, r#"["ping",{}]"#.to_owned()).await;
    assert_eq!(api.calls().len(), 1);
}

/// Whatever becomes of it, nobody is told: results that are left are asked for again with the next ones.
#[tokio::test(flavor = "multi_thread")]
async fn results_that_cannot_be_cleaned_up() {
    let (server, api) = start(&[]).await;
    let identity = server.identity();
    let mut connection = join(&identity, |_| {}).await;
    let failed = r#"{"kind":"PushFailed","origin":"server","reason":"internal","message":"m","mutationIDs":[ID]}"#;
    let failed = failed.replace("ID]", &format!(r#"{{"id":1,"clientID":"{}"}}]"#, identity.client_id));
    // More often than may be asked at the same time.
    let answers = [(401, "who"), (403, "no"), (404, ""), (200, "nonsense"), (200, &*failed)];
    for (status, text) in answers.into_iter().cycle().take(12) {
        api.answer_with(&[(status, text)]);
        let acknowledged = Upstream::AckMutationResponses { id: 1.0, client_id: identity.client_id.clone() };
        connection.send(&acknowledged).await.expect("sent");
        api.arrival().await;
        api.all_given().await;
    }
    // What is pushed afterwards is done, by the same connection.
    connection.send_text(push(&identity, "create", &[1])).await.expect("sent");
    assert_eq!(poke_with_last_mutation(&mut connection, &identity.client_id).await.0, 1.0);
}

/// A client that comes back while its push is on its way hears what became of it where it is now.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_before_its_push_fails() {
    let (server, api) = start(&[]).await;
    for status in [400, 401] {
        let identity = server.identity();
        let mut connection = join(&identity, |_| {}).await;
        api.hold();
        api.answer_with(&[(status, "no")]);
        push_and_wait(&mut connection, push(&identity, "create", &[1])).await;
        api.arrival().await;
        drop(connection);
        let mut connection = join(&identity, |_| {}).await;
        api.release();
        let body = error(&mut connection).await;
        assert_eq!((body.kind, body.status), (ErrorKind::PushFailed, Some(status)));
        let own = body.mutation_ids.expect("mutations");
        assert_eq!(json!(own), json!([{ "id": 1, "clientID": identity.client_id }]));
    }
}
