//! What a client is told when something goes wrong: `["error", body]`.
//!
//! The kind decides how the client reacts (reference: protocol sheet §15): most kinds park it until the
//! application intervenes, `Rehome` makes it reconnect at once, `ClientNotFound` makes it start anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The kind of an error. A kind that is not listed makes a client fail to parse the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the protocol's; their meaning is the client's reaction")]
pub enum ErrorKind {
    AuthInvalidated,
    ClientNotFound,
    InvalidConnectionRequest,
    InvalidConnectionRequestBaseCookie,
    InvalidConnectionRequestLastMutationID,
    InvalidConnectionRequestClientDeleted,
    InvalidMessage,
    InvalidPush,
    PushFailed,
    TransformFailed,
    MutationFailed,
    MutationRateLimited,
    Rebalance,
    Rehome,
    ServerOverloaded,
    Unauthorized,
    VersionNotSupported,
    SchemaVersionNotSupported,
    Internal,
}

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorOrigin {
    /// The client library.
    Client,
    /// The application's API server.
    Server,
    /// The sync server.
    ZeroCache,
}

/// Why talking to the API server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the protocol's")]
pub enum ErrorReason {
    Database,
    Parse,
    OooMutation,
    UnsupportedPushVersion,
    Internal,
    Http,
    Timeout,
}

/// Names one mutation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MutationId {
    /// Number of the mutation within its client.
    pub id: i64,
    /// The client that made it.
    #[serde(rename = "clientID")]
    pub client_id: String,
}

/// The body of an error message. Which of the optional members are present depends on the kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// Decides the client's reaction.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
    /// Who is at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ErrorOrigin>,
    /// Least wait before reconnecting, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_backoff_ms: Option<f64>,
    /// Longest wait before reconnecting, in milliseconds; 0 reconnects at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_backoff_ms: Option<f64>,
    /// Added to the URL of the next connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnect_params: Option<BTreeMap<String, String>>,
    /// Why a call of the API server failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ErrorReason>,
    /// HTTP status of the API server's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Beginning of the API server's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_preview: Option<String>,
    /// Queries that a failed transformation asked for.
    #[serde(default, rename = "queryIDs", skip_serializing_if = "Option::is_none")]
    pub query_ids: Option<Vec<String>>,
    /// Mutations of a failed push.
    #[serde(default, rename = "mutationIDs", skip_serializing_if = "Option::is_none")]
    pub mutation_ids: Option<Vec<MutationId>>,
    /// What the API server adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<RawValue>>,
}

impl ErrorBody {
    /// An error of this server.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        ErrorBody {
            kind,
            message: message.into(),
            origin: Some(ErrorOrigin::ZeroCache),
            min_backoff_ms: None,
            max_backoff_ms: None,
            reconnect_params: None,
            reason: None,
            status: None,
            body_preview: None,
            query_ids: None,
            mutation_ids: None,
            details: None,
        }
    }

    /// The client shall reconnect, at once when `at_once`, else after its usual wait.
    pub fn rehome(message: impl Into<String>, at_once: bool) -> Self {
        ErrorBody { max_backoff_ms: at_once.then_some(0.0), ..ErrorBody::new(ErrorKind::Rehome, message) }
    }

    /// A call of the query API failed before it had an answer.
    pub fn transform_failed(reason: ErrorReason, message: impl Into<String>, query_ids: Vec<String>) -> Self {
        ErrorBody {
            reason: Some(reason),
            query_ids: Some(query_ids),
            ..ErrorBody::new(ErrorKind::TransformFailed, message)
        }
    }

    /// A call of the mutate API failed before it had an answer.
    pub fn push_failed(reason: ErrorReason, message: impl Into<String>, mutation_ids: Vec<MutationId>) -> Self {
        ErrorBody {
            reason: Some(reason),
            mutation_ids: Some(mutation_ids),
            ..ErrorBody::new(ErrorKind::PushFailed, message)
        }
    }

    /// Checks that the members that the kind asks for are there and go together. Clients cannot read other errors.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        use ErrorOrigin::{Server, ZeroCache};
        use ErrorReason::{Database, Http, Internal, OooMutation, Parse, Timeout, UnsupportedPushVersion};
        let missing = |name: &str| format!("missing field `{name}`");
        match self.kind {
            ErrorKind::PushFailed | ErrorKind::TransformFailed => {
                let is_push = self.kind == ErrorKind::PushFailed;
                if is_push && self.mutation_ids.is_none() {
                    return Err(missing("mutationIDs"));
                }
                if !is_push && self.query_ids.is_none() {
                    return Err(missing("queryIDs"));
                }
                let origin = self.origin.ok_or_else(|| missing("origin"))?;
                let reason = self.reason.ok_or_else(|| missing("reason"))?;
                match (origin, reason) {
                    (ZeroCache, Http) => self.status.map(drop).ok_or_else(|| missing("status")),
                    (ZeroCache, Timeout) | (ZeroCache | Server, Parse | Internal) | (Server, Database) => Ok(()),
                    (Server, OooMutation | UnsupportedPushVersion) if is_push => Ok(()),
                    _ => Err(format!("{:?} cannot fail for the reason {reason:?} of {origin:?}", self.kind)),
                }
            }
            ErrorKind::Rebalance | ErrorKind::Rehome | ErrorKind::ServerOverloaded if self.origin == Some(Server) => {
                Err(format!("{:?} is not the API server's to say", self.kind))
            }
            _ if self.origin == Some(ErrorOrigin::Client) => Err("origin is the client".to_owned()),
            _ => Ok(()),
        }
    }

    /// Whether the connection stays open after this error.
    pub fn keeps_connection(&self) -> bool {
        matches!(self.kind, ErrorKind::MutationFailed | ErrorKind::MutationRateLimited)
    }

    /// Whether the error says that the user is not, or no longer, allowed.
    pub fn is_auth(&self) -> bool {
        match self.kind {
            ErrorKind::AuthInvalidated | ErrorKind::Unauthorized => true,
            ErrorKind::PushFailed | ErrorKind::TransformFailed => matches!(self.status, Some(401 | 403)),
            _ => false,
        }
    }
}
