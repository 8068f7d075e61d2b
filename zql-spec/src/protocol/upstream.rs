//! Messages from a client to the server (protocol sheet §5).
//!
//! ASTs and query arguments stay raw text here: both are hashed, stored and forwarded as they came. They
//! are only checked for depth and for text that Postgres cannot hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::inspect::Inspect;
use super::limits;

/// A message from a client.
#[derive(Debug)]
pub enum Upstream {
    /// The first message of a connection.
    InitConnection(Box<InitConnection>),
    /// Queries come and go.
    ChangeDesiredQueries(ChangeDesiredQueries),
    /// Tabs of the group were closed for good.
    DeleteClients(DeleteClients),
    /// Mutations.
    Push(Push),
    /// The user has a new token.
    UpdateAuth {
        /// The token; empty for none.
        auth: String,
    },
    /// Results of mutations up to this one arrived.
    AckMutationResponses {
        /// Number of the last mutation.
        id: f64,
        /// The client that made it.
        client_id: String,
    },
    /// A request of the inspector.
    Inspect(Inspect),
    /// Whether the server is there.
    Ping,
    /// Ignored.
    Pull,
    /// Ignored.
    CloseConnection,
}

/// The first message of a connection.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InitConnection {
    /// Changes of the queries that the client wants, in order.
    pub desired_queries_patch: Vec<DesiredOp>,
    /// The tables and columns that the client knows; sent when its cookie is null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_schema: Option<Box<RawValue>>,
    /// Clients that were closed for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<DeleteClients>,
    /// Where to send mutations instead of the configured URL.
    #[serde(default, rename = "userPushURL", skip_serializing_if = "Option::is_none")]
    pub user_push_url: Option<String>,
    /// Headers for calls of the push URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_push_headers: Option<BTreeMap<String, String>>,
    /// Where to ask for queries instead of the configured URL.
    #[serde(default, rename = "userQueryURL", skip_serializing_if = "Option::is_none")]
    pub user_query_url: Option<String>,
    /// Headers for calls of the query URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_query_headers: Option<BTreeMap<String, String>>,
    /// The clients of the group that still exist; all others are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_clients: Option<Vec<String>>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Queries come and go.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeDesiredQueries {
    /// Changes of the queries that the client wants, in order.
    pub desired_queries_patch: Vec<DesiredOp>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Names clients that are gone, or (downstream) that were removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteClients {
    /// Clients of the same group.
    #[serde(default, rename = "clientIDs", skip_serializing_if = "Option::is_none")]
    pub client_ids: Option<Vec<String>>,
    /// Other groups; ignored by servers.
    #[serde(default, rename = "clientGroupIDs", skip_serializing_if = "Option::is_none")]
    pub client_group_ids: Option<Vec<String>>,
}

/// One change of the queries that a client wants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "RawOp", into = "RawOp")]
pub enum DesiredOp {
    /// The client wants a query.
    Put(PutQuery),
    /// The client no longer wants it; it lives on for its time to live.
    Del {
        /// The query.
        hash: String,
    },
    /// The client wants none of its queries any more, at once.
    Clear,
}

/// A query that a client wants: an AST, a name with arguments, or a known hash alone.
#[derive(Clone, Debug)]
pub struct PutQuery {
    /// The client's name for the query; opaque.
    pub hash: String,
    /// How long to keep the query after nobody wants it, in milliseconds; negative is for ever.
    pub ttl: Option<f64>,
    /// The query itself, with server names, as text.
    pub ast: Option<Box<RawValue>>,
    /// Name of a query that the API server defines.
    pub name: Option<String>,
    /// Its arguments: a JSON array, as text.
    pub args: Option<Box<RawValue>>,
}

impl Clone for DesiredOp {
    fn clone(&self) -> Self {
        match self {
            DesiredOp::Put(put) => DesiredOp::Put(put.clone()),
            DesiredOp::Del { hash } => DesiredOp::Del { hash: hash.clone() },
            DesiredOp::Clear => DesiredOp::Clear,
        }
    }
}

/// The flat JSON form of a [`DesiredOp`].
#[derive(Serialize, Deserialize)]
struct RawOp {
    op: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttl: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ast: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    args: Option<Box<RawValue>>,
}

impl TryFrom<RawOp> for DesiredOp {
    type Error = String;

    fn try_from(raw: RawOp) -> Result<Self, String> {
        let hash = || raw.hash.clone().ok_or("Missing property hash");
        match raw.op.as_str() {
            "put" => {
                let hash = hash()?;
                storable(&hash, "hash")?;
                if let Some(name) = &raw.name {
                    storable(name, "name")?;
                }
                if let Some(args) = &raw.args {
                    if !args.get().trim_start().starts_with('[') {
                        return Err(format!("Expected array at args. Got {}", args.get()));
                    }
                    raw_storable(args, "args")?;
                }
                if let Some(ast) = &raw.ast {
                    raw_storable(ast, "ast")?;
                }
                Ok(DesiredOp::Put(PutQuery { hash, ttl: raw.ttl, ast: raw.ast, name: raw.name, args: raw.args }))
            }
            "del" => Ok(DesiredOp::Del { hash: hash()? }),
            "clear" => Ok(DesiredOp::Clear),
            other => Err(format!("Expected literal value \"put\", \"del\" or \"clear\" at op Got {other:?}")),
        }
    }
}

impl From<DesiredOp> for RawOp {
    fn from(op: DesiredOp) -> Self {
        let none = |op: &str| RawOp { op: op.to_owned(), hash: None, ttl: None, ast: None, name: None, args: None };
        match op {
            DesiredOp::Put(put) => RawOp {
                hash: Some(put.hash),
                ttl: put.ttl,
                ast: put.ast,
                name: put.name,
                args: put.args,
                ..none("put")
            },
            DesiredOp::Del { hash } => RawOp { hash: Some(hash), ..none("del") },
            DesiredOp::Clear => none("clear"),
        }
    }
}

fn storable(text: &str, at: &str) -> Result<(), String> {
    if text.contains('\0') { Err(format!("U+0000 is not allowed at {at}")) } else { Ok(()) }
}

fn raw_storable(json: &RawValue, at: &str) -> Result<(), String> {
    if limits::depth(json.get()) > limits::MAX_RAW_DEPTH {
        return Err(format!("nested more than {} levels deep at {at}", limits::MAX_RAW_DEPTH));
    }
    if limits::unstorable(json.get()) {
        return Err(format!("U+0000 and lone surrogates are not allowed at {at}"));
    }
    Ok(())
}

/// Mutations, as an envelope. What is in a mutation is not looked at here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Push {
    /// The group that pushes.
    #[serde(rename = "clientGroupID")]
    pub client_group_id: String,
    /// The mutations in order.
    pub mutations: Vec<Mutation>,
    /// Version of this envelope; 1.
    pub push_version: f64,
    /// When it was sent, in milliseconds of the client's clock.
    pub timestamp: f64,
    /// For logs.
    #[serde(rename = "requestID")]
    pub request_id: String,
}

/// One mutation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mutation {
    /// `crud` or `custom`.
    pub r#type: MutationType,
    /// Number within its client.
    pub id: f64,
    /// The client that made it.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// The mutator.
    pub name: String,
    /// Its arguments.
    pub args: Vec<Box<RawValue>>,
    /// When it was made, in milliseconds of the client's clock.
    pub timestamp: f64,
}

/// Who executes a mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MutationType {
    /// The sync server (deprecated).
    Crud,
    /// The API server.
    Custom,
}

/// A message that is not one of the protocol's. The text is for `InvalidMessage`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidMessage(pub String);

/// How much of a bad message is repeated in its error.
const PREVIEW_BYTES: usize = 200;

impl Upstream {
    /// Decodes a message.
    pub fn parse(text: &str) -> Result<Upstream, InvalidMessage> {
        let syntax = |error: serde_json::Error| InvalidMessage(format!("SyntaxError: {error}"));
        let raw: &RawValue = serde_json::from_str(text).map_err(syntax)?;
        let union = || InvalidMessage(format!("TypeError: Invalid union value: {}", preview(raw.get())));
        let (kind, body): (&str, &RawValue) = serde_json::from_str(raw.get()).map_err(|_| union())?;
        let body = body.get();
        Ok(match kind {
            "initConnection" => {
                let init: InitConnection = decode(body)?;
                if let Some(schema) = &init.client_schema {
                    raw_storable(schema, "1.clientSchema").map_err(type_error)?;
                }
                Upstream::InitConnection(Box::new(init))
            }
            "changeDesiredQueries" => Upstream::ChangeDesiredQueries(decode(body)?),
            "deleteClients" => Upstream::DeleteClients(decode(body)?),
            "push" => Upstream::Push(decode(body)?),
            "updateAuth" => {
                #[derive(Deserialize)]
                struct Body {
                    auth: String,
                }
                Upstream::UpdateAuth { auth: decode::<Body>(body)?.auth }
            }
            "ackMutationResponses" => {
                #[derive(Deserialize)]
                struct Body {
                    id: f64,
                    #[serde(rename = "clientID")]
                    client_id: String,
                }
                let Body { id, client_id } = decode(body)?;
                Upstream::AckMutationResponses { id, client_id }
            }
            "inspect" => Upstream::Inspect(decode(body)?),
            "ping" if body.starts_with('{') => Upstream::Ping,
            "pull" if body.starts_with('{') => Upstream::Pull,
            "closeConnection" if body.starts_with('[') => Upstream::CloseConnection,
            _ => return Err(union()),
        })
    }

    /// Encodes a message. Messages that servers ignore are encoded with an empty body.
    pub fn to_json(&self) -> String {
        use serde_json::json;
        let encoded = match self {
            Upstream::InitConnection(body) => serde_json::to_string(&("initConnection", body)),
            Upstream::ChangeDesiredQueries(body) => serde_json::to_string(&("changeDesiredQueries", body)),
            Upstream::DeleteClients(body) => serde_json::to_string(&("deleteClients", body)),
            Upstream::Push(body) => serde_json::to_string(&("push", body)),
            Upstream::UpdateAuth { auth } => serde_json::to_string(&("updateAuth", json!({ "auth": auth }))),
            Upstream::AckMutationResponses { id, client_id } => {
                serde_json::to_string(&("ackMutationResponses", json!({ "id": id, "clientID": client_id })))
            }
            Upstream::Inspect(body) => serde_json::to_string(&("inspect", body)),
            Upstream::Ping => serde_json::to_string(&("ping", json!({}))),
            Upstream::Pull => serde_json::to_string(&("pull", json!({}))),
            Upstream::CloseConnection => serde_json::to_string(&("closeConnection", json!([]))),
        };
        encoded.expect("strings, numbers and raw JSON always serialise")
    }
}

fn type_error(message: String) -> InvalidMessage {
    InvalidMessage(format!("TypeError: {message}"))
}

fn decode<'a, T: Deserialize<'a>>(body: &'a str) -> Result<T, InvalidMessage> {
    serde_json::from_str(body).map_err(|error| type_error(error.to_string()))
}

fn preview(text: &str) -> String {
    if text.len() <= PREVIEW_BYTES {
        return text.to_owned();
    }
    let mut end = PREVIEW_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::{DesiredOp, Upstream};

    #[test]
    fn messages_survive_a_round_trip() {
        for text in [
            r#"["initConnection",{"desiredQueriesPatch":[{"op":"put","hash":"h","ttl":300000.0,"name":"n","args":[1,{"z":1,"a":2}]},{"op":"del","hash":"x"},{"op":"clear"}],"clientSchema":{"tables":{}},"activeClients":["C1"]}]"#,
            r#"["changeDesiredQueries",{"desiredQueriesPatch":[{"op":"put","hash":"h","ast":{"table":"t","where":{"type":"simple"}}}]}]"#,
            r#"["deleteClients",{"clientIDs":["a"]}]"#,
            r#"["updateAuth",{"auth":"t"}]"#,
            r#"["ping",{}]"#,
            r#"["inspect",{"op":"queries","id":"1","clientID":"c"}]"#,
            r#"["inspect",{"op":"authenticate","id":"1","value":"p\"w"}]"#,
            r#"["inspect",{"op":"analyze-query","id":"1","name":"n","args":[1],"options":{"vendedRows":false,"syncedRows":true,"joinPlans":true}}]"#,
        ] {
            assert_eq!(Upstream::parse(text).expect(text).to_json(), text);
        }
    }

    #[test]
    fn unknown_keys_are_accepted() {
        let parsed = Upstream::parse(r#"["changeDesiredQueries",{"desiredQueriesPatch":[],"new":[]}]"#);
        assert!(matches!(parsed, Ok(Upstream::ChangeDesiredQueries(_))));
    }

    #[test]
    fn refuses() {
        let deep = format!(
            r#"["changeDesiredQueries",{{"desiredQueriesPatch":[{{"op":"put","hash":"h","name":"n","args":{}{}}}]}}]"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        for (text, expected) in [
            ("", "SyntaxError: "),
            ("nope", "SyntaxError: "),
            ("[\"ping\",{}", "SyntaxError: "),
            (r#"["foo",{}]"#, r#"TypeError: Invalid union value: ["foo",{}]"#),
            (r#"{"a":1}"#, r#"TypeError: Invalid union value: {"a":1}"#),
            (r#"["ping"]"#, "TypeError: Invalid union value"),
            (r#"["ping",{},{}]"#, "TypeError: Invalid union value"),
            (r#"["ping",[]]"#, "TypeError: Invalid union value"),
            (r#"["inspect",{"op":"bogus","id":"1"}]"#, "TypeError: Invalid union value"),
            (r#"["changeDesiredQueries",{}]"#, "TypeError: missing field `desiredQueriesPatch`"),
            (
                r#"["changeDesiredQueries",{"desiredQueriesPatch":[{"op":"bogus"}]}]"#,
                "TypeError: Expected literal value",
            ),
            (r#"["changeDesiredQueries",{"desiredQueriesPatch":[{"op":"put"}]}]"#, "TypeError: Missing property hash"),
            (
                r#"["changeDesiredQueries",{"desiredQueriesPatch":[{"op":"put","hash":"h","name":"n","args":{}}]}]"#,
                "TypeError: Expected array at args",
            ),
            (
                r#"["changeDesiredQueries",{"desiredQueriesPatch":[{"op":"put","hash":"h","name":"n","args":["\u0000"]}]}]"#,
                "TypeError: U+0000",
            ),
            (&deep, "TypeError: nested more than"),
        ] {
            let error = Upstream::parse(text).expect_err(text).0;
            assert!(error.starts_with(expected), "{}: {error}", &text[..text.len().min(80)]);
        }
    }

    #[test]
    fn arguments_stay_text() {
        let text = r#"["changeDesiredQueries",{"desiredQueriesPatch":[{"op":"put","hash":"h","name":"n","args":[ 1.0, 1e3 ]}]}]"#;
        let Ok(Upstream::ChangeDesiredQueries(body)) = Upstream::parse(text) else { panic!("{text}") };
        let DesiredOp::Put(put) = &body.desired_queries_patch[0] else { panic!("a put") };
        assert_eq!(put.args.as_ref().expect("args").get(), "[ 1.0, 1e3 ]");
    }
}
