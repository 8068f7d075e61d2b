//! A client of the small issue tracker, with what it holds.

use std::collections::BTreeSet;

use protocol_client::{Connection, Hello, Identity, Keys, Poke, State, hash_of};
use serde_json::Value;
use zql_spec::protocol::downstream::RowOp;
use zql_spec::protocol::upstream::DesiredOp;

pub(crate) const SCHEMA: &str = r#"{"tables":{
"comment":{"columns":{"body":{"type":"string"},"id":{"type":"string"},"issue_id":{"type":"string"}},"primaryKey":["id"]},
"issue":{"columns":{"id":{"type":"string"},"modified":{"type":"number"},"title":{"type":"string"}},"primaryKey":["id"]},
"issue_label":{"columns":{"issue_id":{"type":"string"},"label_id":{"type":"string"}},"primaryKey":["issue_id","label_id"]},
"label":{"columns":{"id":{"type":"string"},"name":{"type":"string"}},"primaryKey":["id"]},
"user":{"columns":{"id":{"type":"string"},"name":{"type":"string"}},"primaryKey":["id"]}}}"#;

/// A new client of the user that the API server says everybody is.
pub(crate) fn user(url: &str) -> Identity {
    Identity { user_id: Some("u1".into()), ..Identity::fresh(url) }
}

/// A client with what it holds.
pub(crate) struct Client {
    pub(crate) identity: Identity,
    pub(crate) connection: Connection,
    pub(crate) state: State,
}

impl Client {
    pub(crate) async fn new(identity: Identity, queries: Vec<DesiredOp>) -> Client {
        let connection = Connection::open(&identity, None, Hello::new(SCHEMA, queries)).await.expect("a socket");
        Client { identity, connection, state: State::new(Keys::from_schema(SCHEMA)) }
    }

    /// Comes back with its cookie, as after a lost network.
    pub(crate) async fn again(self) -> Client {
        let Client { identity, connection, state } = self;
        drop(connection);
        let connection = Connection::open(&identity, state.cookie.as_deref(), Hello::again()).await.expect("a socket");
        Client { identity, connection, state }
    }

    pub(crate) async fn poke(&mut self) -> Poke {
        let poke = self.connection.next_poke().await.expect("a poke");
        self.state.apply(&poke).expect("a poke that the real client takes");
        poke
    }

    pub(crate) async fn until(&mut self, done: impl Fn(&State) -> bool) {
        while !done(&self.state) {
            self.poke().await;
        }
    }

    pub(crate) async fn got(&mut self, query: &DesiredOp) {
        let hash = hash_of(query).expect("a hash").to_owned();
        self.until(|state| state.got.contains(&hash)).await;
    }

    pub(crate) fn title(&self, id: &str) -> Option<&str> {
        self.state.table("issue").find(|row| row["id"] == id)?["title"].as_str()
    }
}

pub(crate) fn list(limit: u32) -> DesiredOp {
    Hello::named("issues.list", &format!(r#"[{{"limit":{limit}}}]"#))
}

/// Table and key or row of every patch of a poke, for comparing without an order.
pub(crate) fn patches(poke: &Poke) -> BTreeSet<String> {
    poke.rows()
        .map(|op| match op {
            RowOp::Put { table_name, value } => format!("put {table_name} {}", value["id"].as_str().unwrap_or("-")),
            RowOp::Del { table_name, id } => format!("del {table_name} {}", Value::from(id.clone())),
            other => format!("{other:?}"),
        })
        .collect()
}

pub(crate) fn expected(lines: &[&str]) -> BTreeSet<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}
