//! Messages from the server to a client (protocol sheet §6, §8).
//!
//! These types are the client's view and that of small messages. A server assembles the rows of a poke
//! from text that it shares between clients, and only takes the frame from here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::ErrorBody;
use super::upstream::DeleteClients;

/// A message from the server.
#[derive(Debug)]
pub enum Downstream {
    /// The connection is accepted.
    Connected(Connected),
    /// Something went wrong; mostly followed by the end of the connection.
    Error(Box<ErrorBody>),
    /// The answer to a ping, or a sign of life.
    Pong,
    /// A poke begins.
    PokeStart(PokeStart),
    /// Patches of the poke.
    PokePart(Box<PokePart>),
    /// A poke ends: the client applies it.
    PokeEnd(PokeEnd),
    /// Clients were removed.
    DeleteClients(DeleteClients),
    /// The API server refused single queries.
    TransformError(Vec<QueryError>),
    /// An answer to the inspector.
    Inspect(Box<RawValue>),
    /// A message that today's servers never send.
    Other {
        /// Its type.
        kind: String,
        /// Its body.
        body: Box<RawValue>,
    },
}

/// The connection is accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connected {
    /// As the client sent it.
    pub wsid: String,
    /// The server's clock, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<f64>,
}

/// A poke begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PokeStart {
    /// Names the poke.
    #[serde(rename = "pokeID")]
    pub poke_id: String,
    /// The cookie that the client must have for the poke to apply.
    pub base_cookie: Option<String>,
}

/// Patches of a poke.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PokePart {
    /// The poke.
    #[serde(rename = "pokeID")]
    pub poke_id: String,
    /// Last processed mutation by client.
    #[serde(default, rename = "lastMutationIDChanges", skip_serializing_if = "Option::is_none")]
    pub last_mutation_id_changes: Option<BTreeMap<String, f64>>,
    /// Queries that each client of the group wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_queries_patches: Option<BTreeMap<String, Vec<QueryOp>>>,
    /// Queries whose rows are complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub got_queries_patch: Option<Vec<QueryOp>>,
    /// Rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_patch: Option<Vec<RowOp>>,
    /// Results of mutations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutations_patch: Option<Vec<MutationOp>>,
}

/// A poke ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PokeEnd {
    /// The poke.
    #[serde(rename = "pokeID")]
    pub poke_id: String,
    /// The client's new cookie.
    pub cookie: String,
    /// The poke must be forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<bool>,
}

/// A query is wanted, or got, or no longer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum QueryOp {
    /// It is.
    Put {
        /// The query.
        hash: String,
        /// Time to live in milliseconds; never sent by today's servers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl: Option<f64>,
    },
    /// It is no longer.
    Del {
        /// The query.
        hash: String,
    },
    /// None is.
    Clear,
}

/// A row as JSON.
pub type JsonRow = serde_json::Map<String, serde_json::Value>;

/// A change of the client's rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum RowOp {
    /// The row is there, with this content.
    Put {
        /// Server-side table name.
        table_name: String,
        /// The full row.
        value: JsonRow,
    },
    /// The row is gone.
    Del {
        /// Server-side table name.
        table_name: String,
        /// Its primary key.
        id: JsonRow,
    },
    /// Some columns changed; never sent by today's servers.
    Update {
        /// Server-side table name.
        table_name: String,
        /// Its primary key.
        id: JsonRow,
        /// New values.
        merge: Option<JsonRow>,
        /// Columns to keep.
        constrain: Option<Vec<String>>,
    },
    /// All rows are gone; never sent by today's servers.
    Clear,
}

/// A change of the known results of mutations.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum MutationOp {
    /// A result arrived.
    Put {
        /// The mutation and its result.
        mutation: serde_json::Value,
    },
    /// A result was acknowledged and removed.
    Del {
        /// The mutation.
        id: serde_json::Value,
    },
}

/// The API server refused a query.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueryError {
    /// `app` or `parse`.
    pub error: String,
    /// The query's hash.
    pub id: String,
    /// The query's name.
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the API server adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<RawValue>>,
}

impl Downstream {
    /// Decodes a message.
    pub fn parse(text: &str) -> Result<Downstream, serde_json::Error> {
        let (kind, body): (&str, &RawValue) = serde_json::from_str(text)?;
        let json = body.get();
        Ok(match kind {
            "connected" => Downstream::Connected(serde_json::from_str(json)?),
            "error" => Downstream::Error(serde_json::from_str(json)?),
            "pong" => Downstream::Pong,
            "pokeStart" => Downstream::PokeStart(serde_json::from_str(json)?),
            "pokePart" => Downstream::PokePart(serde_json::from_str(json)?),
            "pokeEnd" => Downstream::PokeEnd(serde_json::from_str(json)?),
            "deleteClients" => Downstream::DeleteClients(serde_json::from_str(json)?),
            "transformError" => Downstream::TransformError(serde_json::from_str(json)?),
            "inspect" => Downstream::Inspect(body.to_owned()),
            kind => Downstream::Other { kind: kind.to_owned(), body: body.to_owned() },
        })
    }

    /// Encodes a message.
    pub fn to_json(&self) -> String {
        let encoded = match self {
            Downstream::Connected(body) => serde_json::to_string(&("connected", body)),
            Downstream::Error(body) => serde_json::to_string(&("error", body)),
            Downstream::Pong => return r#"["pong",{}]"#.to_owned(),
            Downstream::PokeStart(body) => serde_json::to_string(&("pokeStart", body)),
            Downstream::PokePart(body) => serde_json::to_string(&("pokePart", body)),
            Downstream::PokeEnd(body) => serde_json::to_string(&("pokeEnd", body)),
            Downstream::DeleteClients(body) => serde_json::to_string(&("deleteClients", body)),
            Downstream::TransformError(body) => serde_json::to_string(&("transformError", body)),
            Downstream::Inspect(body) => serde_json::to_string(&("inspect", body)),
            Downstream::Other { kind, body } => serde_json::to_string(&(kind, body)),
        };
        encoded.expect("strings, numbers and raw JSON always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::Downstream;

    #[test]
    fn messages_survive_a_round_trip() {
        for text in [
            r#"["connected",{"wsid":"W1","timestamp":1795380839033.0}]"#,
            r#"["pong",{}]"#,
            r#"["pokeStart",{"pokeID":"00:01","baseCookie":null}]"#,
            r#"["pokePart",{"pokeID":"p","lastMutationIDChanges":{"C1":1.0},"desiredQueriesPatches":{"C1":[{"op":"put","hash":"h"}]},"gotQueriesPatch":[{"op":"del","hash":"h"}],"rowsPatch":[{"op":"put","tableName":"t","value":{"a":1}},{"op":"del","tableName":"t","id":{"a":1}}],"mutationsPatch":[{"op":"del","id":{"clientID":"C1","id":2}}]}]"#,
            r#"["pokeEnd",{"pokeID":"p","cookie":"","cancel":true}]"#,
            r#"["deleteClients",{"clientIDs":["a"]}]"#,
            r#"["transformError",[{"error":"app","id":"h","name":"n","message":"nope"}]]"#,
            r#"["error",{"kind":"Rehome","message":"m","origin":"zeroCache","maxBackoffMs":0.0}]"#,
            r#"["error",{"kind":"TransformFailed","message":"m","origin":"zeroCache","reason":"http","status":401,"bodyPreview":"no","queryIDs":["h"]}]"#,
        ] {
            assert_eq!(Downstream::parse(text).expect(text).to_json(), text);
        }
    }
}
