//! What stands in the record of a group, and what becomes of one that somebody else wrote or that was written over another
//! copy of the database (record sheet §1.4, §1.5, §13).

use std::time::Duration;

use protocol_client::{Connection, Event, Hello, Identity, hash_of};
use serde_json::{Value, json};
use zql_spec::protocol::downstream::RowOp;
use zql_spec::protocol::sec_protocol::SecProtocol;
use zql_spec::protocol::upstream::{DeleteClients, Upstream};
use zql_spec::version::StateVersion;

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
