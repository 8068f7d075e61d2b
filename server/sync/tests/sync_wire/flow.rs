//! What a client sees when all is well: the transcript of the reference, step by step.

use protocol_client::{Hello, Keys, State, hash_of};
use zql_spec::protocol::downstream::{QueryOp, RowOp};
use zql_spec::protocol::upstream::{DeleteClients, DesiredOp, Upstream};

use crate::harness::{
    CLIENT_SCHEMA, ISSUES, SCHEMA, Server, hash, next, open, patiently, poke, pokes_until_got, query,
};

fn puts(poke: &protocol_client::Poke) -> Vec<(String, String)> {
    let put = |row: &RowOp| match row {
        RowOp::Put { table_name, value } => Some((table_name.clone(), value["id"].as_str().expect("an id").to_owned())),
        _ => None,
    };
    let mut puts: Vec<_> = poke.rows().filter_map(put).collect();
    puts.sort();
    puts
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(table, id)| ((*table).to_owned(), (*id).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_client_gets_its_query_and_then_changes() {
    let server = Server::start(SCHEMA).await;
    let wanted = query(ISSUES);
    let hash = hash(&wanted);
    let (identity, mut connection) = server.connect(vec![wanted]).await;
    let first = poke(&mut connection).await;
    assert_eq!((first.base.as_deref(), first.cookie.as_str()), (None, "00:01"));
    let desired = first.parts[0].desired_queries_patches.as_ref().expect("desired queries");
    assert_eq!(desired[&identity.client_id], [QueryOp::Put { hash: hash.clone(), ttl: None }]);
    assert_eq!(first.rows().count(), 0);

    let second = poke(&mut connection).await;
    assert_eq!(second.base.as_deref(), Some("00:01"));
    assert!(second.gets(&hash) && !second.cookie.contains(':'), "{second:?}");
    assert_eq!(puts(&second), pairs(&[("comment", "c1"), ("issue", "i1"), ("issue", "i2")]));

    server.sql("BEGIN; DELETE FROM comment; INSERT INTO issue VALUES ('i3', 'third', true); UPDATE issue SET id = 'i4' WHERE id = 'i2'; COMMIT");
    let third = poke(&mut connection).await;
    assert_eq!(third.base.as_deref(), Some(second.cookie.as_str()));
    assert_eq!(puts(&third), pairs(&[("issue", "i3"), ("issue", "i4")]));
    assert_eq!(third.rows().count(), 4, "{third:?}");

    // What no query of the group reads is no news; the next poke comes from the old cookie.
    server.sql("CREATE TABLE other (id int PRIMARY KEY)");
    server.sql("UPDATE issue SET title = 'x' WHERE id = 'i3'");
    let fourth = poke(&mut connection).await;
    assert_eq!(fourth.base.as_deref(), Some(third.cookie.as_str()));
    assert_eq!(puts(&fourth), pairs(&[("issue", "i3")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_returns_gets_what_it_missed_and_nothing_twice() {
    let server = Server::start(SCHEMA).await;
    let wanted = query(ISSUES);
    let hash = hash(&wanted);
    let (identity, mut connection) = server.connect(vec![wanted]).await;
    let mut state = State::new(Keys::from_schema(CLIENT_SCHEMA));
    for poke in pokes_until_got(&mut connection, &hash).await {
        state.apply(&poke).expect("a good poke");
    }
    let cookie = state.cookie.clone().expect("a cookie");
    drop(connection);

    // Caught up, group still warm: one empty poke.
    let mut connection = open(&identity, Some(&cookie), Hello::again()).await;
    let empty = poke(&mut connection).await;
    assert_eq!((empty.base.as_deref(), empty.cookie.as_str(), empty.parts.len()), (Some(&*cookie), &*cookie, 0));

    // A sibling keeps the group going while the client is away.
    let sibling = identity.sibling();
    let mut other = open(&sibling, None, Hello::new(CLIENT_SCHEMA, vec![query(ISSUES)])).await;
    pokes_until_got(&mut other, &hash).await;
    drop(connection);
    server.sql("BEGIN; DELETE FROM comment; INSERT INTO issue VALUES ('i3', 'third', true); COMMIT");
    while puts(&poke(&mut other).await) != pairs(&[("issue", "i3")]) {}
    let mut connection = open(&identity, Some(&cookie), Hello::again()).await;
    let missed = poke(&mut connection).await;
    assert_eq!(missed.base.as_deref(), Some(&*cookie));
    assert_eq!(puts(&missed), pairs(&[("issue", "i3")]));
    assert_eq!(missed.rows().count(), 2, "{missed:?}");
    state.apply(&missed).expect("a good poke");
    let cookie = state.cookie.clone().expect("a cookie");

    // The whole server restarts; meanwhile a row changes.
    drop((connection, other));
    let server = server.restart().await;
    server.sql("UPDATE issue SET title = 'later' WHERE id = 'i1'");
    let identity = protocol_client::Identity { server: server.url.clone(), ..identity };
    let mut connection = open(&identity, Some(&cookie), Hello::again()).await;
    loop {
        let poke = poke(&mut connection).await;
        state.apply(&poke).expect("a good poke");
        assert!(puts(&poke).iter().all(|(_, id)| id == "i1"), "{poke:?}");
        if state.table("issue").any(|row| row["title"] == "later") {
            break;
        }
    }
    assert_eq!(state.table("issue").count(), 3);
    assert_eq!(state.table("comment").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_come_and_go() {
    let server = Server::start(SCHEMA).await;
    let (identity, mut connection) = server.connect(vec![]).await;
    // Nothing is wanted: a poke for the new client, and one when the group's own queries are answered.
    assert_eq!(poke(&mut connection).await.cookie, "00:01");
    let open_issues = query(
        r#"{"table":"issue","where":{"type":"simple","left":{"type":"column","name":"open"},"op":"=","right":{"type":"literal","value":true}}}"#,
    );
    let hash = hash(&open_issues);
    connection.change_queries(vec![open_issues]).await.expect("sent");
    let pokes = pokes_until_got(&mut connection, &hash).await;
    assert_eq!(puts(pokes.last().expect("a poke")), pairs(&[("issue", "i1")]));

    // Refused by the API server: told, and taken out.
    let refused = Hello::named("refused", "[]");
    let refused_hash = hash_of(&refused).expect("a hash").to_owned();
    connection.change_queries(vec![refused]).await.expect("sent");
    let mut told = false;
    loop {
        match next(&mut connection).await {
            protocol_client::Event::TransformError(errors) => {
                assert_eq!((errors[0].id.as_str(), errors[0].message.as_deref()), (&*refused_hash, Some("nope")));
                told = true;
            }
            protocol_client::Event::Poke(poke)
                if poke.got().any(|op| matches!(op, QueryOp::Del { hash } if *hash == refused_hash)) =>
            {
                break;
            }
            _ => {}
        }
    }
    assert!(told, "the error comes before the poke");

    // `clear` drops at once what nobody else wants.
    connection.change_queries(vec![DesiredOp::Clear]).await.expect("sent");
    let desired = poke(&mut connection).await;
    let ops = &desired.parts[0].desired_queries_patches.as_ref().expect("desired")[&identity.client_id];
    assert!(ops.contains(&QueryOp::Del { hash: hash.clone() }));
    let gone = poke(&mut connection).await;
    assert!(gone.got().any(|op| *op == QueryOp::Del { hash: hash.clone() }));
    assert!(matches!(gone.rows().collect::<Vec<_>>()[..], [RowOp::Del { .. }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn tabs_share_a_group() {
    let server = Server::start(SCHEMA).await;
    let wanted = query(ISSUES);
    let hash = hash(&wanted);
    let (identity, mut first) = server.connect(vec![wanted.clone()]).await;
    let before = pokes_until_got(&mut first, &hash).await.pop().expect("a poke");
    let sibling = identity.sibling();
    let mut second = open(&sibling, None, Hello::new(CLIENT_SCHEMA, vec![wanted])).await;
    let told = poke(&mut first).await;
    assert_eq!((told.base.as_deref(), told.rows().count()), (Some(before.cookie.as_str()), 0));
    assert!(told.parts[0].desired_queries_patches.as_ref().expect("desired").contains_key(&sibling.client_id));
    let all = poke(&mut second).await;
    assert_eq!((all.base.as_deref(), all.cookie.as_str()), (None, told.cookie.as_str()));
    assert!(all.gets(&hash));
    assert_eq!(puts(&all).len(), 3);
    let desired = all.parts[0].desired_queries_patches.as_ref().expect("desired");
    assert_eq!(desired.len(), 2, "{desired:?}");

    server.sql("UPDATE issue SET title = 'seen by both' WHERE id = 'i1'");
    assert_eq!(poke(&mut first).await.parts[0].rows_patch, poke(&mut second).await.parts[0].rows_patch);

    let deleted = DeleteClients {
        client_ids: Some(vec![sibling.client_id.clone(), "nobody".to_owned()]),
        client_group_ids: None,
    };
    first.send(&Upstream::DeleteClients(deleted.clone())).await.expect("sent");
    loop {
        if let protocol_client::Event::DeleteClients(ack) = next(&mut first).await {
            assert_eq!(ack, deleted);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn last_mutation_ids_and_results_come_with_the_rows() {
    let server = Server::start(SCHEMA).await;
    let wanted = query(ISSUES);
    let hash = hash(&wanted);
    let (identity, mut connection) = server.connect(vec![wanted]).await;
    pokes_until_got(&mut connection, &hash).await;
    let (group, client) = (&identity.client_group_id, &identity.client_id);
    server.sql(&format!(
        r#"BEGIN;
           INSERT INTO zero_0.clients ("clientGroupID", "clientID", "lastMutationID") VALUES ('{group}', '{client}', 7);
           INSERT INTO zero_0.clients ("clientGroupID", "clientID", "lastMutationID") VALUES ('other', 'other', 8);
           INSERT INTO zero_0.mutations ("clientGroupID", "clientID", "mutationID", "result") VALUES ('{group}', '{client}', 7, '{{"error":"app"}}');
           INSERT INTO issue VALUES ('i9', 'mutated', true); COMMIT"#
    ));
    let poke = poke(&mut connection).await;
    assert_eq!(poke.parts.len(), 1);
    let part = &poke.parts[0];
    let ids = part.last_mutation_id_changes.as_ref().expect("a last mutation id");
    assert_eq!((ids.len(), ids[client]), (1, 7.0));
    assert_eq!(puts(&poke), pairs(&[("issue", "i9")]));
    let results = serde_json::to_value(part.mutations_patch.as_ref().expect("results")).expect("JSON");
    let expected = serde_json::json!([{ "op": "put", "mutation": { "id": { "clientID": client, "id": 7 }, "result": { "error": "app" } } }]);
    assert_eq!(results, expected);
}

/// A row is all of its columns that clients can have, whatever the client's schema says of them; those that they cannot have
/// and the server's own are left out.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_all_that_clients_can_have() {
    let schema = "CREATE TABLE comment (id text PRIMARY KEY, issue_id text NOT NULL, body text);
        CREATE TABLE issue (id text PRIMARY KEY, title text, open bool NOT NULL, blob bytea, at tsrange, \"odd-Name\" int[]);
        INSERT INTO issue VALUES ('i1', NULL, true, 'x', '[2024-01-01,2024-01-02]', '{1,NULL}')";
    let server = Server::start(schema).await;
    let wanted = query(r#"{"table":"issue"}"#);
    let (_, mut connection) = server.connect(vec![wanted.clone()]).await;
    let got = pokes_until_got(&mut connection, &hash(&wanted)).await.pop().expect("a poke");
    let told = |poke: &protocol_client::Poke| serde_json::to_value(poke.rows().collect::<Vec<_>>()).expect("JSON");
    let put = |value: serde_json::Value| serde_json::json!([{ "op": "put", "tableName": "issue", "value": value }]);
    assert_eq!(told(&got), put(serde_json::json!({ "id": "i1", "title": null, "open": true, "odd-Name": [1, null] })));
    // One column changes, and all are told; of a row that goes, the key.
    server.sql("UPDATE issue SET title = 'x'");
    assert_eq!(
        told(&poke(&mut connection).await),
        put(serde_json::json!({ "id": "i1", "title": "x", "open": true, "odd-Name": [1, null] }))
    );
    server.sql("DELETE FROM issue");
    assert_eq!(
        told(&poke(&mut connection).await),
        serde_json::json!([{ "op": "del", "tableName": "issue", "id": { "id": "i1" } }])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_left_out_and_caught_up() {
    let server = Server::start(
        "CREATE TABLE issue (id text PRIMARY KEY, title text, open bool NOT NULL);
         CREATE TABLE comment (id text PRIMARY KEY, issue_id text NOT NULL, body text);
         INSERT INTO issue SELECT 'i' || n, '0', true FROM generate_series(1, 300) n",
    )
    .await;
    let wanted = query(r#"{"table":"issue"}"#);
    let hash = hash(&wanted);
    let (identity, mut slow) = server.connect(vec![wanted.clone()]).await;
    let mut state = State::new(Keys::from_schema(CLIENT_SCHEMA));
    for poke in pokes_until_got(&mut slow, &hash).await {
        state.apply(&poke).expect("a good poke");
    }
    let mut quick = open(&identity.sibling(), None, Hello::new(CLIENT_SCHEMA, vec![wanted])).await;
    pokes_until_got(&mut quick, &hash).await;
    // Each change is 3 MB: more than the kernel's buffers and the queue hold together, many times over.
    const CHANGES: usize = 20;
    for change in 1..=CHANGES {
        server.sql(&format!("UPDATE issue SET title = '{change}' || repeat('x', 10000)"));
        loop {
            let poke = poke(&mut quick).await;
            let done = |row: &RowOp| matches!(row, RowOp::Put { value, .. } if value["title"].as_str().is_some_and(|title| title.starts_with(&format!("{change}x"))));
            if poke.rows().any(done) {
                break;
            }
        }
    }
    let mut pokes = 0;
    let last = format!("{CHANGES}x");
    while !state.table("issue").all(|row| row["title"].as_str().is_some_and(|title| title.starts_with(&last))) {
        let poke = poke(&mut slow).await;
        state.apply(&poke).expect("a good poke");
        pokes += 1;
    }
    assert!(pokes < CHANGES, "{pokes} pokes were kept for a client that did not read");
    assert_eq!(state.table("issue").count(), 300);
}

/// What a client says while it is not known yet who it is waits, in order, and does not hold up its pings.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_before_one_is_admitted() {
    let server = Server::start(SCHEMA).await;
    let door = server.api.door.write().await;
    let (one, two) = (query(r#"{"table":"issue"}"#), query(r#"{"table":"comment"}"#));
    let identity = server.identity();
    let mut connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![one.clone()])).await;
    let gone = DeleteClients { client_ids: Some(vec!["gone".to_owned()]), client_group_ids: None };
    connection.send(&Upstream::DeleteClients(gone)).await.expect("sent");
    connection.change_queries(vec![two.clone(), DesiredOp::Del { hash: hash(&one) }]).await.expect("sent");
    connection.send(&Upstream::Ping).await.expect("sent");
    assert!(matches!(next(&mut connection).await, protocol_client::Event::Connected));
    assert!(matches!(next(&mut connection).await, protocol_client::Event::Pong));
    drop(door);
    let mut said = Vec::new();
    // As a whole: a server that has nothing to say is heard of every few seconds.
    patiently(async {
        while said.len() < 3 {
            match next(&mut connection).await {
                protocol_client::Event::DeleteClients(_) => said.push("gone".to_owned()),
                protocol_client::Event::Poke(poke) => {
                    let desired = poke.parts.iter().filter_map(|part| part.desired_queries_patches.as_ref());
                    said.extend(desired.map(|desired| format!("{:?}", desired[&identity.client_id])));
                }
                _ => {}
            }
        }
    })
    .await;
    let put = |op: &DesiredOp| QueryOp::Put { hash: hash(op), ttl: None };
    let changed = vec![put(&two), QueryOp::Del { hash: hash(&one) }];
    assert_eq!(said, [format!("{:?}", vec![put(&one)]), "gone".to_owned(), format!("{changed:?}")]);
}
