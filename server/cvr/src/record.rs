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

/// What is stored as the signature of a query's rows where the stored counts are not those that a zero-cache would keep: a
/// number that 64 bits cannot hold.
///
/// A zero-cache keeps a 64-bit signature of a query's rows. When it loads a record at its own state it runs queries whose
/// hash is unchanged without comparing their rows with the record, and trusts the stored counts, unless there is a signature
/// and it differs from what it finds. Those counts are occurrences in the answer's tree: the creator of fifty issues of a
/// list counts fifty, where it counts once here, for the node that holds it. With a true signature, or none, such a server
/// would take the creator from the clients with the first issue that goes. With this one it executes the query once more,
/// which counts anew and sends only what changed.
///
/// Where each row occurs once for each node ([`Counts::Alike`]) the counts are the same on both sides, and nothing is stored:
/// then the query is not compared. A true signature would be of no more use, and for other queries there is none to give. It
/// goes over all events that a run of theirs happened to emit, a row that was emitted an even number of times being left out:
/// how many rows of an EXISTS are emitted depends on what their run before kept, and so differs from run to run; an EXISTS that
/// their planner turned around emits all rows that match, where three for each parent are kept here; and a scalar subquery,
/// which they resolve first, emits its row besides. Keeping their counts would also write a row of the record for each row below
/// one that came or went, in every group that has the query.
///
/// This server compares row by row whenever it loads a record and needs no signature.
pub const ROW_SET_SIGNATURE: &str = "10000000000000000";

/// Whether the counts that are kept of a query's rows are those that a zero-cache would keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// They are: a row occurs once in the answer for each node that holds it.
    Alike,
    /// They may be less: rows may occur below several parents, or decide an EXISTS.
    Own,
}

/// What is stored as the signature of a query's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Signature {
    /// Nothing: a zero-cache trusts the counts.
    #[default]
    Absent,
    /// [`ROW_SET_SIGNATURE`]: it does not.
    Impossible,
    /// A zero-cache's own.
    Foreign(Arc<str>),
}

impl Signature {
    /// What is to be stored with rows that were counted here.
    pub fn of(counts: Counts) -> Self {
        match counts {
            Counts::Alike => Signature::Absent,
            Counts::Own => Signature::Impossible,
        }
    }

    /// What a column says.
    pub fn from_text(text: Option<&str>) -> Self {
        match text {
            None => Signature::Absent,
            Some(ROW_SET_SIGNATURE) => Signature::Impossible,
            Some(foreign) => Signature::Foreign(foreign.into()),
        }
    }

    /// What to write into the column.
    pub fn text(&self) -> Option<&str> {
        match self {
            Signature::Absent => None,
            Signature::Impossible => Some(ROW_SET_SIGNATURE),
            Signature::Foreign(text) => Some(text),
        }
    }
}

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
    /// What a zero-cache is to think of the stored counts of its rows.
    pub signature: Signature,
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
            signature: Signature::Absent,
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
