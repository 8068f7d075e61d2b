//! What stands in the record of a group, and what becomes of one that somebody else wrote or that was written over another
//! copy of the database (record sheet §1.4, §1.5, §13).

use std::time::Duration;

use protocol_client::{Connection, Error, Event, Hello, Identity, hash_of};
use serde_json::{Value, json};
use zql_spec::protocol::downstream::RowOp;
use zql_spec::protocol::error::ErrorKind;
use zql_spec::protocol::sec_protocol::SecProtocol;
use zql_spec::protocol::upstream::{DeleteClients, Upstream};
use zql_spec::version::StateVersion;

use crate::auth::{MUTATE_URL, SECRET, jwt};
use crate::crud::{everything, schema};
use crate::harness::{
    CLIENT_SCHEMA, ISSUES, SCHEMA, Server, hash, next, open, patiently, poke, pokes_until_got, query,
};
use crate::names::Names;

/// A value of a group's instance.
fn instance(server: &Server, group: &str, value: &str) -> String {
    let sql = format!(r#"SELECT {value} FROM "zero_0/cvr".instances WHERE "clientGroupID" = '{group}'"#);
    server.sql(&sql).trim().to_owned()
}

/// The browser profile is what the newest connection says, or the group itself.
#[tokio::test(flavor = "multi_thread")]
async fn profiles_are_named_by_the_url() {
    let server = Server::start(SCHEMA).await;
    let message = Upstream::InitConnection(Box::new(Hello::new(CLIENT_SCHEMA, vec![]).init)).to_json();
    let message = serde_json::value::RawValue::from_string(message).expect("JSON");
    let header = SecProtocol { init_connection_message: Some(message), auth_token: None }.encode();
    for (client, parameter, expected) in
        [("a", "", "cgG"), ("b", "&profileID=", "cgG"), ("c", "&profileID=p1", "p1"), ("d", "&profileID=p2", "p2")]
    {
        let url = format!(
            "{}/sync/v51/connect?clientID={client}&clientGroupID=G&baseCookie=&ts=1&lmid=0&wsid=w{parameter}",
            server.url.replacen("http", "ws", 1)
        );
        let mut connection = patiently(Connection::open_with_header(&url, &header)).await.expect("a connection");
        poke(&mut connection).await;
        assert_eq!(instance(&server, "G", "\"profileID\""), expected, "{parameter}");
    }
}

/// While somebody is there the clock goes on, and there is nothing to note.
#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_noted_when_the_last_of_two_leaves() {
    let server = Server::start(SCHEMA).await;
    let wanted = query(ISSUES);
    let (identity, mut staying) = server.connect(vec![wanted.clone()]).await;
    pokes_until_got(&mut staying, &hash(&wanted)).await;
    let mut leaving = open(&identity.sibling(), None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    pokes_until_got(&mut leaving, &hash(&wanted)).await;
    let noted = || instance(&server, &identity.client_group_id, r#""ttlClock", "lastActive""#);
    let before = noted();
    server.hub.clock().advance(Duration::from_secs(20));
    drop(leaving);
    let connections = async |count: usize| {
        patiently(async {
            while server.hub.sizes().0 > count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    connections(1).await;
    // The group heard of it before it hears this.
    let nobody = DeleteClients { client_ids: Some(vec!["nobody".to_owned()]), client_group_ids: None };
    staying.send(&Upstream::DeleteClients(nobody)).await.expect("sent");
    while !matches!(next(&mut staying).await, Event::DeleteClients(_)) {}
    assert_eq!(noted(), before);
    drop(staying);
    patiently(async {
        while noted() == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let clock = instance(&server, &identity.client_group_id, "\"ttlClock\" >= 20000");
    assert_eq!(clock, "t", "the time of both is noted");
}

/// A row that decides an EXISTS comes with the query, whether the client knows its table or not: by the client's key if it
/// does, by the replica's shortest one otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn helper_rows_of_tables_that_the_client_does_not_know() {
    let member = "CREATE TABLE member (issue_id text NOT NULL, person text NOT NULL, seat int NOT NULL UNIQUE,
            PRIMARY KEY (issue_id, person));
        INSERT INTO member VALUES ('i1', 'ann', 7)";
    let server = Server::start(&format!("{SCHEMA} {member}")).await;
    let wanted = query(
        r#"{"table":"issue","where":{"type":"correlatedSubquery","op":"EXISTS","related":{"system":"client","correlation":{"parentField":["id"],"childField":["issue_id"]},"subquery":{"table":"member","alias":"m"}}}}"#,
    );
    let knows = CLIENT_SCHEMA.replacen(
        r#"{"tables":{"#,
        r#"{"tables":{"member":{"columns":{"issue_id":{"type":"string"},"person":{"type":"string"}},"primaryKey":["issue_id","person"]},"#,
        1,
    );
    for (schema, key) in
        [(CLIENT_SCHEMA, json!({ "seat": 7 })), (&*knows, json!({ "issue_id": "i1", "person": "ann" }))]
    {
        let identity = server.identity();
        let mut connection = open(&identity, None, Hello::new(schema, vec![wanted.clone()])).await;
        let got = pokes_until_got(&mut connection, &hash(&wanted)).await.pop().expect("a poke");
        let names = Names::default();
        assert_eq!(names.lines(&got)[1..], ["put issue i1", "put member ?"], "{key}");
        let stored = server.sql(&format!(
            r#"SELECT "rowKey" FROM "zero_0/cvr".rows WHERE "table" = 'member' AND "clientGroupID" = '{}'"#,
            identity.client_group_id
        ));
        assert_eq!(serde_json::from_str::<Value>(stored.trim()).expect("JSON"), key);
        server.sql("DELETE FROM member");
        let gone = poke(&mut connection).await;
        let ids: Vec<Value> = gone.rows().filter_map(member_of).collect();
        assert_eq!(ids, [key]);
        server.sql("INSERT INTO member VALUES ('i1', 'ann', 7)");
        poke(&mut connection).await;
    }
}

/// The key of a member that goes.
fn member_of(row: &RowOp) -> Option<Value> {
    match row {
        RowOp::Del { table_name, id } if table_name == "member" => serde_json::to_value(id).ok(),
        _ => None,
    }
}

/// What a zero-cache leaves of a group when it stops: a query by its AST with an EXISTS, wanted by two tabs; another one that
/// both gave up, each with a time to live of its own; hashes and signatures that are not this server's.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_a_zero_cache_wrote() {
    let server = Server::start(&schema()).await;
    server.permit(&json!({ "issue": { "row": everything() }, "comment": { "row": everything() } })).await;
    let one = Identity { client_id: "one".to_owned(), client_group_id: "G".to_owned(), ..server.identity() };
    let two = Identity { client_id: "two".to_owned(), ..one.clone() };
    let state = server.replica_version();
    let internal = |table: &str| {
        format!(
            r#"{{"schema":"","table":"zero_0.{table}","where":{{"type":"simple","op":"=","left":{{"type":"column","name":"clientGroupID"}},"right":{{"type":"literal","value":"G"}}}},"orderBy":[["clientGroupID","asc"],["clientID","asc"]]}}"#
        )
    };
    let (lmids, results) = (internal("clients"), internal("mutations"));
    server.sql(&format!(
        r#"SET search_path = "zero_0/cvr";
        INSERT INTO instances VALUES ('G', '{state}', now(), 100000, '{state}', 'another task', now(), '{CLIENT_SCHEMA}');
        INSERT INTO clients VALUES ('G', 'one'), ('G', 'two');
        INSERT INTO queries ("clientGroupID", "queryHash", "clientAST", "patchVersion", "transformationHash",
            "transformationVersion", internal, deleted, "rowSetSignature") VALUES
            ('G', 'discussed', '{{"table":"issue","where":{{"type":"correlatedSubquery","op":"EXISTS","related":{{"system":"client","correlation":{{"parentField":["id"],"childField":["issue_id"]}},"subquery":{{"table":"comment","alias":"c","orderBy":[["id","asc"]]}}}}}},"orderBy":[["id","asc"]]}}',
                '{state}', '3w07tflzjgrd9', '{state}', NULL, false, '6c540c1356b0966a'),
            ('G', 'second', '{{"table":"issue","where":{{"type":"simple","op":"=","left":{{"type":"column","name":"id"}},"right":{{"type":"literal","value":"i2"}}}},"orderBy":[["id","asc"]]}}',
                '{state}', 'rtjjvs99c9of', '{state}', NULL, false, 'ded7e32a27d1643b'),
            ('G', 'lmids', '{lmids}', NULL, '20wqdczrhfdxh', '{state}', true, false, NULL),
            ('G', 'mutationResults', '{results}', NULL, '2vstnodu893uj', '{state}', true, false, NULL);
        INSERT INTO desires ("clientGroupID", "clientID", "queryHash", "patchVersion", deleted, "ttlMs", "inactivatedAtMs")
            VALUES ('G', 'one', 'discussed', '00:01', false, 300000, NULL), ('G', 'two', 'discussed', '00:01', false, NULL, NULL),
            ('G', 'one', 'second', '{state}', true, 600000, 50000), ('G', 'two', 'second', '{state}', true, 60000, 90000);
        INSERT INTO "rowsVersion" VALUES ('G', '{state}');
        INSERT INTO rows ("clientGroupID", schema, "table", "rowKey", "rowVersion", "patchVersion", "refCounts") VALUES
            ('G', '', 'issue', '{{"id":"i1"}}', '{state}', '{state}', '{{"discussed":1}}'),
            ('G', '', 'comment', '{{"id":"c1"}}', '{state}', '{state}', '{{"discussed":1}}'),
            ('G', '', 'issue', '{{"id":"i2"}}', '{state}', '{state}', '{{"second":1}}')"#
    ));
    let names = Names::default();
    let mut tabs = Vec::new();
    for identity in [&one, &two] {
        let mut connection = open(identity, Some(&state), Hello::again()).await;
        let first = poke(&mut connection).await;
        assert_eq!(first.base.as_ref(), Some(&state));
        assert_eq!(names.lines(&first), [""; 0], "{} has everything", identity.client_id);
        tabs.push(connection);
    }
    assert_eq!(instance(&server, "G", "owner <> 'another task'"), "t");
    let told = async |tabs: &mut [Connection], expected: &[&str]| {
        for connection in tabs {
            assert_eq!(names.lines(&poke(connection).await), expected);
        }
    };
    // All of it is kept up to date, that which nobody wants any more as well.
    server.sql("BEGIN; UPDATE comment SET body = 'changed'; UPDATE issue SET title = 'changed'; COMMIT");
    told(&mut tabs, &["put comment c1", "put issue i1", "put issue i2"]).await;
    server.sql("INSERT INTO comment VALUES ('c2', 'i2', 'now discussed')");
    told(&mut tabs, &["put comment c2"]).await;
    server.sql("DELETE FROM comment WHERE id = 'c1'");
    told(&mut tabs, &["del comment c1", "del issue i1"]).await;
    server.sql("DELETE FROM comment");
    told(&mut tabs, &["del comment c2"]).await;
    // The clock went on at 100 s. Who wanted it longest decides: until 650 s.
    server.hub.clock().advance(Duration::from_secs(300));
    server.sql("UPDATE issue SET title = 'still' WHERE id = 'i2'");
    told(&mut tabs, &["put issue i2"]).await;
    server.hub.clock().advance(Duration::from_secs(300));
    told(&mut tabs, &["got del second", "del issue i2"]).await;
}

/// The database was copied again: every row may be another one, and whoever comes back is told of all that are and of those
/// that are gone. If the record is of a later state than the copy, nothing is told until the copy has come as far.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_and_a_newer_copy_of_the_database() {
    for ahead in [false, true] {
        let server = Server::start(SCHEMA).await;
        let wanted = query(ISSUES);
        let (identity, mut connection) = server.connect(vec![wanted.clone()]).await;
        let cookie =
            pokes_until_got(&mut connection, hash_of(&wanted).expect("a hash")).await.pop().expect("a poke").cookie;
        drop(connection);
        let before = server.replica_version();
        let group = identity.client_group_id.clone();
        assert_eq!(instance(&server, &group, "\"replicaVersion\""), before);
        let server = server.copied_anew("DELETE FROM comment; INSERT INTO issue VALUES ('i3', 'third', true)").await;
        let copied = server.replica_version();
        assert!(copied > before, "{copied} follows {before}");
        let mut at_least = copied.clone();
        if ahead {
            // The next segment of the write-ahead log begins behind this position.
            let position = "SELECT (pg_current_wal_lsn() - '0/0')::bigint / 16777216 * 16777216 + 16777215";
            at_least = StateVersion::from_lsn(server.sql(position).trim().parse().expect("a position")).to_string();
            server.sql(&format!(
                r#"UPDATE "zero_0/cvr".instances SET version = '{at_least}';
                   UPDATE "zero_0/cvr"."rowsVersion" SET version = '{at_least}'"#
            ));
        }
        let identity = Identity { server: server.url.clone(), ..identity };
        let mut connection = open(&identity, Some(&cookie), Hello::again()).await;
        if ahead {
            server.sql("UPDATE issue SET title = 'not told yet' WHERE id = 'i1'");
            server.sql("SELECT pg_switch_wal()");
            server.sql("UPDATE issue SET title = 'told' WHERE id = 'i2'");
        }
        let told = poke(&mut connection).await;
        assert_eq!(told.base, Some(cookie));
        assert!(*told.cookie >= *at_least, "{} follows {at_least}", told.cookie);
        let expected = ["del comment c1", "put issue i1", "put issue i2", "put issue i3"];
        assert_eq!(Names::default().lines(&told), expected);
        assert_eq!(instance(&server, &group, "\"replicaVersion\""), copied);
    }
}

/// All that is in the records.
fn everything_stored(server: &Server) -> String {
    let tables = ["instances", "clients", "queries", "desires", "rows", "rowsVersion"];
    let lines = tables.map(|table| format!(r#"SELECT '{table} ' || t::text AS line FROM "zero_0/cvr"."{table}" t"#));
    server.sql(&format!("SELECT string_agg(line, E'\n' ORDER BY line) FROM ({}) lines", lines.join(" UNION ALL ")))
}

/// Whoever is refused for who they are leaves nothing, neither of a new group nor in one that is there.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_leaves_no_trace() {
    let user = |identity: Identity, user: &str, token: &str| Identity {
        user_id: Some(user.to_owned()),
        auth: Some(token.to_owned()),
        ..identity
    };
    let hello = || Hello::new(CLIENT_SCHEMA, vec![query(ISSUES)]);
    let mine = jwt(&json!({ "sub": "u" }));
    for (setting, good, refusals) in [
        (
            MUTATE_URL,
            "good",
            &[("u", "bad", ErrorKind::TransformFailed), ("somebody", "good", ErrorKind::Unauthorized)][..],
        ),
        (SECRET, &mine, &[("u", "bad", ErrorKind::AuthInvalidated), ("somebody", &mine, ErrorKind::AuthInvalidated)]),
    ] {
        let server = Server::start_with(SCHEMA, &[setting]).await;
        server.api.unknown.lock().expect("not poisoned").push("bad".to_owned());
        *server.api.user.lock().expect("not poisoned") = Some(json!("u"));
        let known = user(server.identity(), "u", good);
        let mut connection = None;
        for is_there in [false, true] {
            if is_there {
                let opened = connection.insert(open(&known, None, hello()).await);
                pokes_until_got(opened, &hash(&query(ISSUES))).await;
            }
            let before = everything_stored(&server);
            assert_eq!(before.trim().is_empty(), !is_there, "{before}");
            for (who, token, kind) in refusals {
                for identity in [known.sibling(), server.identity()] {
                    let mut refused = open(&user(identity, who, token), None, hello()).await;
                    let body = loop {
                        match patiently(refused.next()).await {
                            Ok(Event::Connected) => {}
                            Err(Error::Server(body)) => break body,
                            other => panic!("{who} {token}: {other:?}"),
                        }
                    };
                    assert_eq!(body.kind, *kind, "{who} {token}: {}", body.message);
                }
            }
            // Their groups come to their ends.
            server.hub.clock().advance(Duration::from_secs(6));
            let left = usize::from(is_there);
            patiently(async {
                while server.hub.sizes() != (left, left) {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            assert_eq!(everything_stored(&server), before);
        }
    }
}

/// A row that a client missed and that the replica does not have is passed over; what else it missed it is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_missed_row_that_is_nowhere() {
    let server = Server::start(SCHEMA).await;
    let wanted = query(ISSUES);
    let (identity, mut staying) = server.connect(vec![wanted.clone()]).await;
    pokes_until_got(&mut staying, &hash(&wanted)).await;
    let sibling = identity.sibling();
    let mut leaving = open(&sibling, None, Hello::new(CLIENT_SCHEMA, vec![wanted.clone()])).await;
    let cookie = pokes_until_got(&mut leaving, &hash(&wanted)).await.pop().expect("a poke").cookie;
    drop(leaving);
    server.sql("UPDATE issue SET title = 'missed' WHERE id = 'i1'");
    let names = Names::default();
    let latest = loop {
        let poke = poke(&mut staying).await;
        if names.lines(&poke).contains(&"put issue i1".to_owned()) {
            break poke.cookie;
        }
    };
    server.sql(&format!(
        r#"INSERT INTO "zero_0/cvr".rows SELECT "clientGroupID", '', 'issue', '{{"id":"nowhere"}}', "rowVersion",
           "patchVersion", "refCounts" FROM "zero_0/cvr".rows WHERE "patchVersion" = '{latest}'"#
    ));
    let mut back = open(&sibling, Some(&cookie), Hello::again()).await;
    let told = poke(&mut back).await;
    assert_eq!((told.base.as_ref(), &told.cookie), (Some(&cookie), &latest));
    assert_eq!(names.lines(&told), ["put issue i1"]);
    // Nobody is the worse for it.
    server.sql("UPDATE issue SET title = 'later' WHERE id = 'i2'");
    for connection in [&mut back, &mut staying] {
        assert_eq!(names.lines(&poke(connection).await), ["put issue i2"]);
    }
}

/// Postgres keeps the ASTs of a record in an order of its own, so the hashes of the server's own queries are others when a
/// server loads the record for the first time. That is a version without news; from then on nothing happens.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_loaded_again_and_again() {
    let first = Server::start(SCHEMA).await;
    let wanted = query(ISSUES);
    let (mut identity, mut connection) = first.connect(vec![wanted.clone()]).await;
    let mut cookie = pokes_until_got(&mut connection, &hash(&wanted)).await.pop().expect("a poke").cookie;
    for load in 1..=3 {
        let server = first.beside().await;
        identity.server.clone_from(&server.url);
        let mut connection = open(&identity, Some(&cookie), Hello::again()).await;
        let told = poke(&mut connection).await;
        assert_eq!((told.base.as_ref(), told.parts.len()), (Some(&cookie), 0));
        // Other databases of the cluster may have moved the replica's state in the meantime.
        let moved = !told.cookie.starts_with(&*cookie);
        match load {
            1 if moved => {
                assert!(told.cookie > cookie && !told.cookie.contains(':'), "{} follows {cookie}", told.cookie)
            }
            1 => assert_eq!(told.cookie, format!("{cookie}:01")),
            _ => assert_eq!(told.cookie, cookie),
        }
        assert_eq!(instance(&server, &identity.client_group_id, "version"), told.cookie);
        cookie = told.cookie;
    }
}
