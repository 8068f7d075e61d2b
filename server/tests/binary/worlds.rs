//! Generated worlds over the wire: after every transaction on Postgres each client holds what its query means.
//!
//! The same generators as in the in-process differential test, but through everything: WAL, replica, graphs,
//! client view records, pokes. Each query has a client group of its own, so that what the client holds can be told
//! from the query alone. Clients reconnect with their cookies at random, and the server is killed on the way.
//! `WIRE_WORLD=seed` runs one world.

use std::path::PathBuf;
use std::time::Duration;

use protocol_client::{Connection, Hello, Identity, Keys, State};
use serde_json::{Value, json};
use testdata::postgres;
use testdata::sync_server::{Program, SyncServer};
use testdata::world::{
    DataSet, ISSUES, MUSIC, QueryGenerator, Rng, data_sql, fill, schema_sql, transaction, transaction_sql,
};
use zql_spec::ast::Ast;
use zql_spec::naive::{Database, Evaluation};

use crate::truth::Truth;

const QUERIES: usize = 24;
const TRANSACTIONS: usize = 20;

/// The transaction in whose wait the server is killed.
const KILLED_AT: usize = 12;

/// A step that takes longer has been lost. Far above what a busy machine needs.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// A client of one query, which also follows the tick.
struct Client {
    ast: Ast,
    identity: Identity,
    connection: Connection,
    state: State,
}

impl Client {
    async fn new(server: &str, schema: &str, ast: Ast) -> Client {
        let identity = Identity::fresh(server);
        let wanted = vec![Hello::echoed(&ast.to_json().to_string()), Hello::echoed(r#"{"table":"tick"}"#)];
        let connection = Connection::open(&identity, None, Hello::new(schema, wanted)).await.expect("a socket");
        Client { ast, identity, connection, state: State::new(Keys::from_schema(schema)) }
    }

    async fn again(&mut self) {
        let hello = Hello::again();
        self.connection =
            Connection::open(&self.identity, self.state.cookie.as_deref(), hello).await.expect("a socket");
    }

    /// Follows pokes until the transaction with this number has come.
    async fn until(&mut self, number: usize) {
        while self.state.table("tick").next().is_none_or(|row| row["n"] != number) {
            let poke = self.connection.next_poke().await.expect("a poke");
            self.state.apply(&poke).expect("a poke that the real client takes");
        }
    }

    /// Compares what is held with what the query means.
    fn check(&self, database: &Database) -> Result<(), String> {
        let mut truth = Truth::default();
        truth.add(database, &self.ast)?;
        truth.check(&self.state, &["tick"])
    }
}

pub(crate) fn client_schema(data: &DataSet) -> String {
    let mut tables: serde_json::Map<String, Value> = data
        .schema()
        .tables
        .values()
        .map(|table| {
            let columns: serde_json::Map<String, Value> = table
                .columns
                .iter()
                .map(|column| (column.name.to_string(), json!({"type": column.value_type.name()})))
                .collect();
            let key: Vec<&str> = table.primary_key.iter().map(|&column| &*table.columns[column].name).collect();
            (table.name.to_string(), json!({"columns": columns, "primaryKey": key}))
        })
        .collect();
    tables.insert(
        "tick".into(),
        json!({"columns": {"id": {"type": "number"}, "n": {"type": "number"}}, "primaryKey": ["id"]}),
    );
    json!({ "tables": tables }).to_string()
}

async fn world(seed: u64) {
    let data: &DataSet = if seed.is_multiple_of(2) { &ISSUES } else { &MUSIC };
    let mut rng = Rng::new(seed);
    let mut database = fill(data, &mut rng);
    let asts: Vec<Ast> = {
        let mut generator = QueryGenerator::new(data, &database, rng.fork());
        std::iter::from_fn(|| Some(generator.query()))
            .filter(|ast| Evaluation::new(&database, ast).is_ok())
            .take(QUERIES)
            .collect()
    };
    let server = postgres::shared();
    let url = server.database().expect("a database");
    let sql = |text: &str| server.psql(&url, text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    sql(&schema_sql(data));
    sql(&data_sql(data, &database));
    sql("CREATE TABLE tick (id int PRIMARY KEY, n int NOT NULL); INSERT INTO tick VALUES (1, 0)");
    let folder = tempfile::tempdir().expect("a folder");
    let program = Program::Zql(PathBuf::from(crate::binary()));
    let queries = query_api::serve(([127, 0, 0, 1], 0).into(), query_api::argument).await.expect("a port");
    let mut running = SyncServer::start(program, &url, &queries, folder.path()).expect("the server");
    let schema = client_schema(data);
    let mut clients = Vec::new();
    for ast in asts {
        clients.push(Client::new(&running.url(), &schema, ast).await);
    }
    for number in 0..=TRANSACTIONS {
        if number > 0 {
            let changes = transaction(data, &database, &mut rng);
            database.apply(&changes);
            let tick = format!("UPDATE tick SET n = {number};\nCOMMIT;\n");
            sql(&transaction_sql(data, &changes).replace("COMMIT;\n", &tick));
        }
        let restarted = number == KILLED_AT;
        if restarted {
            running.kill().expect("a running server");
            running.restart().expect("the server again");
        }
        for client in &mut clients {
            if restarted || (number > 0 && rng.percent(10)) {
                client.again().await;
            }
            let context = format!("WIRE_WORLD={seed}, transaction {number}, query {}", client.ast.to_json());
            if tokio::time::timeout(STEP_LIMIT, client.until(number)).await.is_err() {
                panic!("{context}: nothing came");
            }
            if let Err(difference) = client.check(&database) {
                panic!("{context}: {difference}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_hold_what_their_queries_mean() {
    let one = std::env::var("WIRE_WORLD").ok().and_then(|seed| seed.parse().ok());
    for seed in one.map_or(vec![1, 2], |seed| vec![seed]) {
        world(seed).await;
    }
}
