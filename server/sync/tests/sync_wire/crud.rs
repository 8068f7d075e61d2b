//! CRUD mutations: what reaches Postgres, once and in order, and what clients are told (protocol sheet §13).

use std::sync::atomic::{AtomicUsize, Ordering};

use engine::hydration::HydrateError;
use protocol_client::{Connection, Event, Hello, Identity, hash_of};
use serde_json::{Value, json};
use zql_spec::protocol::downstream::RowOp;
use zql_spec::protocol::error::ErrorKind;
use zql_spec::protocol::upstream::Upstream;

use crate::auth::{SECRET, jwt};
use crate::harness::{CLIENT_SCHEMA, SCHEMA, Server, error, next, open, poke, pokes_until_got, query};

/// What anybody may do.
fn anyone() -> Value {
    json!([["allow", { "type": "and", "conditions": [] }]])
}

/// All of a table to anybody.
pub(crate) fn everything() -> Value {
    let rules = anyone();
    json!({ "select": rules, "insert": rules, "update": { "preMutation": rules, "postMutation": rules }, "delete": rules })
}

fn equals(column: &str, right: &Value) -> Value {
    json!({ "type": "simple", "op": "=", "left": { "type": "column", "name": column }, "right": right })
}

fn literal(value: &Value) -> Value {
    json!({ "type": "literal", "value": value })
}

/// The usual tables, and one to see by that permissions are in force.
pub(crate) fn schema() -> String {
    format!(
        "{SCHEMA}{ALL_TYPES} CREATE TABLE marker AS SELECT generate_series(0, 99) AS id; ALTER TABLE marker ADD PRIMARY KEY (id);"
    )
}

impl Server {
    /// Deploys permissions and waits until they are in force, which an own AST shows to whom it was hidden.
    pub(crate) async fn permit(&self, tables: &Value) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let marker = json!(NEXT.fetch_add(1, Ordering::Relaxed) % 100);
        let mut all = tables.clone();
        all["marker"] = json!({ "row": { "select": [["allow", equals("id", &literal(&marker))]] } });
        let schema = r#"{"tables":{"marker":{"columns":{"id":{"type":"number"}},"primaryKey":["id"]}}}"#;
        let own = Hello::ast(r#"{"table":"marker"}"#);
        let mut connection = open(&self.identity(), None, Hello::new(schema, vec![own])).await;
        let document = json!({ "tables": all }).to_string().replace('\'', "''");
        self.sql(&format!("UPDATE zero.permissions SET permissions = '{document}'"));
        let shows = |row: &RowOp| matches!(row, RowOp::Put { value, .. } if value["id"] == marker);
        while !poke(&mut connection).await.rows().any(shows) {}
    }
}

/// A message that pushes CRUD mutations from a number on, each a list of operations.
pub(crate) fn push(identity: &Identity, first: u64, mutations: &[Value]) -> String {
    let mutations: Vec<Value> = mutations
        .iter()
        .zip(first..)
        .map(|(ops, id)| {
            json!({ "type": "crud", "timestamp": 1, "id": id, "clientID": identity.client_id, "name": "_zero_crud",
                "args": [{ "ops": ops }] })
        })
        .collect();
    let body = json!({ "timestamp": 1, "clientGroupID": identity.client_group_id, "mutations": mutations,
        "pushVersion": 1, "requestID": "r" });
    json!(["push", body]).to_string()
}

pub(crate) fn op(kind: &str, table: &str, value: &Value) -> Value {
    json!({ "op": kind, "tableName": table, "primaryKey": ["id"], "value": value })
}

async fn send(connection: &mut Connection, text: String) {
    connection.send_text(text).await.expect("sent");
}

/// Waits until a client's last mutation is this one.
pub(crate) async fn acknowledged(connection: &mut Connection, identity: &Identity, id: f64) {
    loop {
        let poke = poke(connection).await;
        let changes = poke.parts.iter().filter_map(|part| part.last_mutation_id_changes.as_ref());
        if changes.into_iter().any(|changes| changes.get(&identity.client_id) == Some(&id)) {
            return;
        }
    }
}

pub(crate) async fn join(server: &Server) -> (Identity, Connection) {
    let wanted = query(r#"{"table":"issue"}"#);
    let hash = hash_of(&wanted).expect("a hash").to_owned();
    let (identity, mut connection) = server.connect(vec![wanted]).await;
    pokes_until_got(&mut connection, &hash).await;
    (identity, connection)
}

const ALL_TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE everything (id text PRIMARY KEY, i int4, big int8, n numeric(20,4), f float8, b bool, u uuid, m mood,
        ts timestamptz, tz timestamp, d date, t time, j json, jb jsonb, ta text[], da date[], \"odd-Name\" varchar);";

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_write_reaches_postgres() {
    let server = Server::start(&schema()).await;
    server.permit(&json!({ "issue": { "row": everything() }, "everything": { "row": everything() } })).await;
    let (identity, mut connection) = join(&server).await;
    let row = json!({
        "id": "e1", "i": 7, "big": 9_007_199_254_740_991_i64, "n": 12.5, "f": 0.1, "b": true,
        "u": "00000000-0000-0000-0000-00000000000a", "m": "sad", "ts": 1_704_164_645_678.0, "tz": 1_704_164_645_678.0,
        "d": 1_714_953_600_000.0, "t": 3_723_000, "j": { "z": 1, "a": [1.50, null] }, "jb": "text", "ta": ["x", "y\""],
        "da": [0, null], "odd-Name": "it's",
    });
    let mutations = [
        json!([op("insert", "everything", &row)]),
        json!([
            op("update", "everything", &json!({ "id": "e1", "i": null, "jb": [1], "ta": null })),
            op("upsert", "everything", &json!({ "id": "e2", "i": 1 })),
            op("upsert", "everything", &json!({ "id": "e2", "i": 2, "f": 2.5 })),
            op("insert", "everything", &json!({ "id": "e2", "i": 3 })),
            op("insert", "everything", &json!({ "id": "e3" })),
            op("delete", "everything", &json!({ "id": "e3" })),
            op("delete", "everything", &json!({ "id": "nosuch" })),
            op("update", "everything", &json!({ "id": "nosuch", "i": 1 })),
        ]),
        json!([op("update", "issue", &json!({ "id": "i1", "title": "by a client" }))]),
    ];
    send(&mut connection, push(&identity, 1, &mutations)).await;
    acknowledged(&mut connection, &identity, 3.0).await;
    let rows = server.sql("SET timezone = 'UTC'; SELECT to_json(e) FROM everything e ORDER BY id");
    let rows: Vec<Value> = rows.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect();
    assert_eq!(
        rows,
        [
            json!({
                "id": "e1", "i": null, "big": 9_007_199_254_740_991_i64, "n": 12.5, "f": 0.1, "b": true,
                "u": "00000000-0000-0000-0000-00000000000a", "m": "sad", "ts": "2024-01-02T03:04:05.678+00:00",
                "tz": "2024-01-02T03:04:05.678", "d": "2024-05-06", "t": "01:02:03",
                "j": { "z": 1, "a": [1.5, null] }, "jb": [1], "ta": null, "da": ["1970-01-01", null],
                "odd-Name": "it's",
            }),
            json!({
                "id": "e2", "i": 2, "big": null, "n": null, "f": 2.5, "b": null, "u": null, "m": null, "ts": null,
                "tz": null, "d": null, "t": null, "j": null, "jb": null, "ta": null, "da": null, "odd-Name": null,
            }),
        ]
    );
    assert_eq!(server.sql("SELECT title FROM issue WHERE id = 'i1'").trim(), "by a client");

    // Those that were done are not done again, and nothing is said of it.
    send(&mut connection, push(&identity, 1, &[json!([op("delete", "issue", &json!({ "id": "i1" }))])])).await;
    send(&mut connection, push(&identity, 4, &[json!([op("delete", "issue", &json!({ "id": "i2" }))])])).await;
    acknowledged(&mut connection, &identity, 4.0).await;
    assert_eq!(server.sql("SELECT id FROM issue").trim(), "i1");

    // One that comes too early is refused, and takes no number.
    send(&mut connection, push(&identity, 99, &[json!([])])).await;
    let body = error(&mut connection).await;
    let expected =
        format!("Push contains unexpected mutation id 99 for client {}. Expected mutation id 5.", identity.client_id);
    assert_eq!((body.kind, body.message), (ErrorKind::InvalidPush, expected));
    let last = server.sql("SELECT \"lastMutationID\" FROM zero_0.clients");
    assert_eq!(last.trim(), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_told_and_takes_its_number() {
    let server = Server::start(&schema()).await;
    server.permit(&json!({ "issue": { "row": everything() }, "everything": { "row": everything() } })).await;
    let (identity, mut connection) = join(&server).await;
    let odd_key = |key: Value| json!([{ "op": "delete", "tableName": "issue", "primaryKey": key, "value": { "id": "i1", "open": true } }]);
    let cases = [
        (
            json!([op("insert", "everything", &json!({ "id": "x", "i": "notnum" }))]),
            "PostgresError: invalid input syntax for type integer: \"notnum\"",
        ),
        (json!([op("insert", "nosuch", &json!({ "id": "x" }))]), "Error: Table 'nosuch' is not a valid table."),
        (
            json!([op("insert", "zero_0.clients", &json!({ "id": "x" }))]),
            "Error: Table 'zero_0.clients' is not a valid table.",
        ),
        (
            json!([op("insert", "zero.permissions", &json!({ "id": "x" }))]),
            "Error: Table 'zero.permissions' is not a valid table.",
        ),
        (
            json!([op("insert", "issue", &json!({ "title": "x" }))]),
            "Error: Primary key column 'id' is missing from operation value for table issue",
        ),
        (
            json!([op("update", "issue", &json!({ "id": null }))]),
            "Error: Primary key column 'id' of table issue must be a string, number or boolean",
        ),
        (odd_key(json!(["open"])), "Error: [\"open\"] is not a primary key or unique index of table 'issue'"),
        (odd_key(json!([])), "Error: [] is not a primary key or unique index of table 'issue'"),
        (
            json!([op("update", "issue", &json!({ "id": "i1", "nosuch": 1 }))]),
            "Error: Table 'issue' has no replicated column 'nosuch'.",
        ),
        (
            json!([
                op("delete", "issue", &json!({ "id": "i2" })),
                op("insert", "issue", &json!({ "id": "i9", "title": "no `open`" })),
            ]),
            "PostgresError: null value in column \"open\" of relation \"issue\" violates not-null constraint",
        ),
    ];
    let mut id = 0;
    for (operations, expected) in cases {
        id += 1;
        send(&mut connection, push(&identity, id, std::slice::from_ref(&operations))).await;
        let body = error(&mut connection).await;
        assert_eq!((body.kind, &*body.message), (ErrorKind::MutationFailed, expected), "{operations}");
    }
    // The connection goes on, and so do its mutations.
    send(&mut connection, push(&identity, id + 1, &[json!([op("delete", "issue", &json!({ "id": "i1" }))])])).await;
    acknowledged(&mut connection, &identity, (id + 1) as f64).await;
    assert_eq!(server.sql("SELECT id FROM issue").trim(), "i2");

    // Not even a mutation.
    for message in [
        push(&identity, 12, &[]).replace("\"mutations\":[]", "\"mutations\":[{\"type\":\"crud\",\"id\":12,\"clientID\":\"c\",\"name\":\"_zero_crud\",\"timestamp\":1,\"args\":[]}]"),
        push(&identity, 12, &[json!("ops")]),
        push(&identity, 12, &[json!([{ "op": "drop", "tableName": "issue", "primaryKey": [], "value": {} }])]),
        push(&identity, 12, &[json!([])]).replace("\"id\":12", "\"id\":1.5"),
    ] {
        let mut connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
        poke(&mut connection).await;
        send(&mut connection, message.clone()).await;
        assert_eq!(error(&mut connection).await.kind, ErrorKind::InvalidMessage, "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_permitted_does_not_happen() {
    let server = Server::start_with(&schema(), &[SECRET]).await;
    let sub = json!({ "type": "static", "anchor": "authData", "field": ["sub"] });
    let own = json!([["allow", equals("title", &sub)]]);
    let open_only = json!([["allow", equals("open", &literal(&json!(true)))]]);
    let of_own_issue = json!([["allow", {
        "type": "correlatedSubquery", "op": "EXISTS", "related": { "system": "permissions",
            "correlation": { "parentField": ["issue_id"], "childField": ["id"] },
            "subquery": { "table": "issue", "alias": "i", "where": equals("title", &sub) } } }]]);
    server
        .permit(&json!({
            "issue": {
                "row": {
                    "insert": own, "delete": own,
                    "update": { "preMutation": own, "postMutation": [["allow", { "type": "and", "conditions": [] }]] },
                },
                "cell": { "open": { "update": { "preMutation": open_only, "postMutation": anyone() } } },
            },
            "comment": { "row": { "insert": of_own_issue } },
        }))
        .await;
    server.sql(
        "DELETE FROM issue; DELETE FROM comment;
         INSERT INTO issue VALUES ('mine', 'u', true), ('closed', 'u', false), ('theirs', 'v', true);",
    );
    let identity =
        Identity { user_id: Some("u".to_owned()), auth: Some(jwt(&json!({ "sub": "u" }))), ..server.identity() };
    let mut connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
    poke(&mut connection).await;
    let issue = |id: &str, title: &str| json!({ "id": id, "title": title, "open": true });
    let comment = |id: &str, issue: &str| json!({ "id": id, "issue_id": issue, "body": "b" });
    let state = || {
        server
            .sql("SELECT id || ':' || title || ':' || open FROM issue UNION ALL SELECT id FROM comment ORDER BY 1")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let begin = "closed:u:false mine:u:true theirs:v:true";
    assert_eq!(state(), begin);
    let cases = [
        // Inserts are judged by what they make.
        (json!([op("insert", "issue", &issue("n", "v"))]), begin),
        (json!([op("upsert", "issue", &issue("n", "v"))]), begin),
        // Updates by what was there; a cell by its own rule, if it is written.
        (json!([op("update", "issue", &json!({ "id": "theirs", "title": "u" }))]), begin),
        (json!([op("upsert", "issue", &issue("theirs", "u"))]), begin),
        (json!([op("update", "issue", &json!({ "id": "closed", "open": true }))]), begin),
        (json!([op("delete", "issue", &json!({ "id": "theirs" }))]), begin),
        // Nobody may update or delete a comment, and insert one only to an own issue.
        (json!([op("insert", "comment", &comment("c1", "theirs"))]), begin),
        // All or nothing.
        (json!([op("insert", "issue", &issue("n", "u")), op("delete", "issue", &json!({ "id": "theirs" }))]), begin),
        (json!([op("delete", "issue", &json!({ "id": "mine" })), op("insert", "issue", &issue("n", "v"))]), begin),
        // What is permitted, also by what the same mutation has written before.
        (
            json!([op("insert", "issue", &issue("n", "u")), op("insert", "comment", &comment("c1", "n"))]),
            "c1 closed:u:false mine:u:true n:u:true theirs:v:true",
        ),
        (
            json!([op("delete", "comment", &json!({ "id": "c1" }))]),
            "c1 closed:u:false mine:u:true n:u:true theirs:v:true",
        ),
        (
            json!([
                op("update", "issue", &json!({ "id": "mine", "open": false })),
                op("update", "issue", &json!({ "id": "closed", "title": "x" })),
                op("delete", "issue", &json!({ "id": "n" })),
            ]),
            "c1 closed:x:false mine:u:false theirs:v:true",
        ),
        // By what another mutation has just written, which the replica may not have yet.
        (json!([op("insert", "issue", &issue("m", "u"))]), "c1 closed:x:false m:u:true mine:u:false theirs:v:true"),
        (
            json!([op("insert", "comment", &comment("c2", "m"))]),
            "c1 c2 closed:x:false m:u:true mine:u:false theirs:v:true",
        ),
        // Rows that are there already are not written by an insert.
        (
            json!([op("insert", "issue", &issue("theirs", "w"))]),
            "c1 c2 closed:x:false m:u:true mine:u:false theirs:v:true",
        ),
    ];
    for (id, (operations, expected)) in (1..).zip(cases) {
        send(&mut connection, push(&identity, id, std::slice::from_ref(&operations))).await;
        // Nothing is said, but the number is taken.
        acknowledged(&mut connection, &identity, id as f64).await;
        assert_eq!(state(), expected, "{operations}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_mutations_are_put_in_order() {
    let server = Server::start(&schema()).await;
    server.permit(&json!({ "issue": { "row": everything() } })).await;
    const EACH: u64 = 15;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(join(&server).await);
    }
    let mutations: Vec<Value> = (0..EACH)
        .map(|n| {
            json!([
                op("update", "issue", &json!({ "id": "i1", "title": n.to_string() })),
                op("upsert", "issue", &json!({ "id": "i2", "title": n.to_string(), "open": true })),
            ])
        })
        .collect();
    for (identity, connection) in &mut clients {
        send(connection, push(identity, 1, &mutations)).await;
    }
    for (identity, connection) in &mut clients {
        acknowledged(connection, identity, EACH as f64).await;
    }
    let numbers = server.sql("SELECT sum(\"lastMutationID\") FROM zero_0.clients");
    assert_eq!(numbers.trim(), (EACH * 6).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_are_refused() {
    let crud = |identity: &Identity| push(identity, 1, &[json!([])]);
    let refusal = async |pairs: &[(&str, &str)], auth: Option<&str>, message: &dyn Fn(&Identity) -> String| {
        let server = Server::start_with(SCHEMA, pairs).await;
        let identity = match auth {
            Some(auth) => Identity { user_id: Some("u".to_owned()), auth: Some(auth.to_owned()), ..server.identity() },
            None => server.identity(),
        };
        let mut connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, vec![])).await;
        poke(&mut connection).await;
        send(&mut connection, message(&identity)).await;
        let body = error(&mut connection).await;
        let done = server.sql("SELECT coalesce(max(\"lastMutationID\"), 0) FROM zero_0.clients");
        (body.kind, body.message, done.trim().to_owned())
    };
    let disabled = refusal(&[("ZERO_ENABLE_CRUD_MUTATIONS", "false")], None, &crud).await;
    let message = "Support for legacy CRUD mutations is disabled".to_owned();
    assert_eq!(disabled, (ErrorKind::InvalidPush, message, "0".to_owned()));
    let opaque = refusal(&[("ZERO_MUTATE_URL", "http://127.0.0.1:1/")], Some("token"), &crud).await;
    let message = "Only JWT auth is supported for CRUD mutations".to_owned();
    assert_eq!(opaque, (ErrorKind::Internal, message, "0".to_owned()));
    let mixed = refusal(&[], None, &|identity| {
        let push = push(identity, 1, &[json!([]), json!([])]);
        let at = push.rfind("\"type\":\"crud\"").expect("the last mutation");
        format!("{}{}", &push[..at], push[at..].replacen("crud", "custom", 1))
    })
    .await;
    assert_eq!(mixed, (ErrorKind::Internal, "Only CRUD mutations are supported".to_owned(), "1".to_owned()));
    let stranger = refusal(&[], None, &|identity| crud(identity).replace(&identity.client_group_id, "other")).await;
    assert!(stranger.1.starts_with("clientGroupID in mutation \"other\" does not match"), "{stranger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_mutates_too_much_has_to_wait() {
    let server = Server::start_with(
        SCHEMA,
        &[("ZERO_PER_USER_MUTATION_LIMIT_MAX", "2"), ("ZERO_PER_USER_MUTATION_LIMIT_WINDOW_MS", "600000")],
    )
    .await;
    let (identity, mut connection) = join(&server).await;
    send(&mut connection, push(&identity, 1, &[json!([]), json!([]), json!([])])).await;
    let body = error(&mut connection).await;
    assert_eq!((body.kind, &*body.message), (ErrorKind::MutationRateLimited, "Rate limit exceeded"));
    // The connection is as good as before, and another group has its own count.
    connection.send(&Upstream::Ping).await.expect("sent");
    while !matches!(next(&mut connection).await, Event::Pong) {}
    assert_eq!(server.sql("SELECT \"lastMutationID\" FROM zero_0.clients").trim(), "2");
    let (other, mut connection) = join(&server).await;
    send(&mut connection, push(&other, 1, &[json!([])])).await;
    acknowledged(&mut connection, &other, 1.0).await;
}

/// What is pushed while nobody can say what is permitted waits until somebody can: a mutation that is acknowledged without
/// being done is lost.
#[tokio::test(flavor = "multi_thread")]
async fn permissions_that_cannot_be_read_for_a_moment() {
    let server = Server::start(&schema()).await;
    server.permit(&json!({ "issue": { "row": everything() } })).await;
    let (identity, mut connection) = join(&server).await;
    server.hydrator.fail("zero.permissions", [HydrateError::Expired, HydrateError::Expired]);
    // Every query is subscribed anew.
    server.sql("ALTER TABLE marker ADD COLUMN extra int; UPDATE marker SET extra = 1");
    // That it failed once is known to all when it fails again.
    server.hydrator.arrival().await;
    server.hydrator.arrival().await;
    let made = json!([op("insert", "issue", &json!({ "id": "i3", "title": "made", "open": true }))]);
    send(&mut connection, push(&identity, 1, &[made])).await;
    acknowledged(&mut connection, &identity, 1.0).await;
    assert_eq!(server.sql("SELECT count(*) FROM issue WHERE title = 'made'"), "1");
}

/// The API server may still be at the one before; a gap that stays is refused all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_that_comes_too_early_beside_an_api_server() {
    let server = Server::start_with(&schema(), &[crate::auth::MUTATE_URL]).await;
    let (identity, mut connection) = join(&server).await;
    send(&mut connection, push(&identity, 7, &[json!([])])).await;
    let body = error(&mut connection).await;
    let expected =
        format!("Push contains unexpected mutation id 7 for client {}. Expected mutation id 1.", identity.client_id);
    assert_eq!((body.kind, body.message), (ErrorKind::InvalidPush, expected));
}

/// Nobody can ever judge by permissions that make no sense: a mutation is acknowledged and fails, and so does an own query.
#[tokio::test(flavor = "multi_thread")]
async fn permissions_that_make_no_sense() {
    let server = Server::start(&schema()).await;
    let (identity, mut connection) = join(&server).await;
    let nonsense = json!({ "tables": { "issue": { "row": { "select": [["deny", {}]] } } } });
    server.sql(&format!(
        "UPDATE zero.permissions SET permissions = '{nonsense}'; INSERT INTO issue VALUES ('m', 'm', true)"
    ));
    while poke(&mut connection).await.rows().count() == 0 {}
    let own = open(&server.identity(), None, Hello::new(CLIENT_SCHEMA, vec![Hello::ast(r#"{"table":"issue"}"#)])).await;
    let body = error(&mut { own }).await;
    assert_eq!(body.kind, ErrorKind::Internal);
    assert!(body.message.starts_with("Could not parse upstream permissions: "), "{}", body.message);
    let made = json!([op("insert", "issue", &json!({ "id": "i3", "title": "made", "open": true }))]);
    send(&mut connection, push(&identity, 1, &[made])).await;
    let body = error(&mut connection).await;
    assert_eq!(body.kind, ErrorKind::MutationFailed);
    assert!(body.message.starts_with("Error: Could not parse upstream permissions: "), "{}", body.message);
    acknowledged(&mut connection, &identity, 1.0).await;
}
