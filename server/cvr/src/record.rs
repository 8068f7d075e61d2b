//! A group's record without its rows: version, clients, queries, desires.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use zql_spec::version::{CvrVersion, StateVersion};

use crate::CvrError;
use crate::row::QueryId;

/// The internal query that tells clients their last mutation ids.
pub const LMIDS: &str = "lmids";

/// The internal query that tells clients the results of their mutations.
pub const MUTATION_RESULTS: &str = "mutationResults";

/// What is stored as the signature of the rows of every query that this server executed: a number that 64 bits cannot hold.
///
/// A zero-cache keeps a 64-bit signature of a query's rows. When it loads a record at its own state it runs queries whose
/// hash is unchanged without comparing their rows with the record, and trusts the stored counts, unless the signature
/// differs from what it finds. Those counts are occurrences in the answer's tree: the creator of fifty issues of a list
/// counts fifty, where it counts once here, for the node that holds it. With a true signature such a server would take
/// the creator from the clients with the first issue that goes. So the signature can be kept only with the counts, and these
/// not cheaply: whenever a row comes or goes, the counts of all rows below it change, and each is a row to write to the
/// record of every group that has the query, where now only what clients are told is written.
///
/// What it would save is little. Only if nothing at all was committed upstream between this server's end and the other
/// one's start is the signature looked at; at any later state all queries are executed and compared anyway. With the
/// impossible number they are executed once in that case, too, which counts anew and sends only what changed. This server
/// compares row by row whenever it loads a record and needs no signature.
pub const ROW_SET_SIGNATURE: &str = "10000000000000000";

/// A client group's record. Copies are cheap: maps are shared until one of them is changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Cvr {
    /// The client group.
    pub group: Arc<str>,
    /// How far it has come.
    pub version: CvrVersion,
    /// When it was last written, in ms since the epoch.
    pub last_active: f64,
    /// The TTL clock when it was last written, in ms.
    pub ttl_clock: f64,
    /// The initial-sync version of the replica that its rows come from.
    pub replica_version: Option<Arc<str>>,
    /// The schema that the group's clients were built with: JSON as received.
    pub client_schema: Option<Arc<serde_json::Value>>,
    /// The browser profile that the group belongs to.
    pub profile_id: Option<Arc<str>>,
    /// Clients and the queries that they desire.
    pub clients: Arc<BTreeMap<Arc<str>, BTreeSet<QueryId>>>,
    /// Queries, in the order in which they were first put.
    pub queries: Arc<IndexMap<QueryId, Query, FxBuildHasher>>,
    /// Whether the store has the record: the first flush of one that it does not have always writes.
    pub stored: bool,
}

/// A query of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// What is asked.
    pub body: Body,
    /// When the clients were told that they have it; `None` while they have not.
    pub patch_version: Option<Arc<CvrVersion>>,
    /// Hash of the AST that was executed.
    pub transformation_hash: Option<Arc<str>>,
    /// When that hash came into effect.
    pub transformation_version: Option<Arc<CvrVersion>>,
    /// Whether the stored counts of its rows are known to be this server's: see [`ROW_SET_SIGNATURE`].
    pub counted_here: bool,
    /// The desires, ended ones until they expire, by client. Clients may be gone.
    pub clients: BTreeMap<Arc<str>, Desire>,
}

/// What a query asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// An AST as the client sent it, JSON.
    Ast(Arc<str>),
    /// A named query, to be resolved by the API server.
    Custom {
        /// Its name.
        name: Arc<str>,
        /// Its arguments: a JSON array, as received.
        args: Arc<str>,
    },
    /// An AST of the server's own, JSON; not subject to permissions or desires.
    Internal(Arc<str>),
}

impl Body {
    /// Whether this is one of the server's own queries.
    pub fn is_internal(&self) -> bool {
        matches!(self, Body::Internal(_))
    }
}

/// A client's desire of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Desire {
    /// The TTL clock at which the client stopped desiring it.
    pub inactivated_at: Option<f64>,
    /// How long the query outlives the desire, in ms, clamped.
    pub ttl: f64,
    /// When the desire last changed.
    pub version: Arc<CvrVersion>,
}

impl Query {
    /// A query that nobody has got yet.
    pub fn new(body: Body) -> Self {
        Query {
            body,
            patch_version: None,
            transformation_hash: None,
            transformation_version: None,
            counted_here: false,
            clients: BTreeMap::new(),
        }
    }

    /// Whether some client desires it, or it is internal.
    pub fn is_active(&self) -> bool {
        self.body.is_internal() || self.clients.values().any(|desire| desire.inactivated_at.is_none())
    }
}

impl Cvr {
    /// The record of a group that the store does not know.
    pub fn new(group: impl Into<Arc<str>>) -> Self {
        Cvr {
            group: group.into(),
            version: CvrVersion::empty(),
            last_active: 0.0,
            ttl_clock: 0.0,
            replica_version: None,
            client_schema: None,
            profile_id: None,
            clients: Arc::default(),
            queries: Arc::default(),
            stored: false,
        }
    }

    /// Whether a client with this cookie can go on from here.
    pub fn check_base(&self, base: Option<&CvrVersion>) -> Result<(), CvrError> {
        match base {
            Some(base) if self.version.is_empty() && !base.is_empty() => {
                Err(CvrError::ClientNotFound("Client not found".to_owned()))
            }
            Some(base) if *base > self.version => {
                Err(CvrError::InvalidBaseCookie(format!("CVR is at version {}", self.version)))
            }
            _ => Ok(()),
        }
    }

    /// Whether a replica made at this initial-sync version can serve the record: an older one cannot.
    pub fn check_replica(&self, replica_version: &str) -> Result<(), CvrError> {
        match &self.replica_version {
            Some(own) if self.version.state != StateVersion::empty() && replica_version < &**own => Err(
                CvrError::ClientNotFound(format!("Cannot sync from older replica: CVR={own}, DB={replica_version}")),
            ),
            _ => Ok(()),
        }
    }
}

/// The internal queries of a group, with the tables of the app's upstream schema (`zero_0`).
pub fn internal_queries(upstream_schema: &str, group: &str) -> [(&'static str, Body); 2] {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let condition = format!(
        r#"{{"type":"simple","left":{{"type":"column","name":"clientGroupID"}},"op":"=","right":{{"type":"literal","value":{}}}}}"#,
        text(group)
    );
    let lmids = format!(
        r#"{{"schema":"","table":{},"where":{condition},"orderBy":[["clientGroupID","asc"],["clientID","asc"]]}}"#,
        text(&format!("{upstream_schema}.clients"))
    );
    let results = format!(
        r#"{{"schema":"","table":{},"where":{{"type":"and","conditions":[{condition}]}},"orderBy":[["clientGroupID","asc"],["clientID","asc"],["mutationID","asc"]]}}"#,
        text(&format!("{upstream_schema}.mutations"))
    );
    [(LMIDS, Body::Internal(lmids.into())), (MUTATION_RESULTS, Body::Internal(results.into()))]
}
