//! Updates that clients cause: who is there, what they desire, what they were built with.
//!
//! One update is one message: everything in it happens at one version. It needs no rows and no engine, so it is
//! committed and told to the clients before the queries that it asks for are run.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::CvrError;
use crate::draft::Draft;
use crate::flush::{DesireWrite, Flush, FlushTimes};
use crate::patch::QueryPatch;
use crate::record::{Body, Cvr, Desire, Query, internal_queries};
use crate::row::QueryId;
use crate::ttl;

/// A client's request for a query.
#[derive(Clone, Debug)]
pub struct Put {
    /// The query's id.
    pub query: QueryId,
    /// What it asks; of no account where the group knows the query.
    pub body: Option<Body>,
    /// How long it shall outlive the desire, in ms.
    pub ttl: Option<f64>,
}

/// An update caused by a client's message.
#[derive(Debug)]
pub struct ConfigUpdate {
    draft: Draft,
    patches: Vec<QueryPatch>,
}

impl ConfigUpdate {
    /// Begins an update.
    pub fn new(cvr: &Cvr) -> Self {
        ConfigUpdate { draft: Draft::new(cvr), patches: Vec::new() }
    }

    /// The record as it would be.
    pub fn cvr(&self) -> &Cvr {
        &self.draft.cvr
    }

    /// Adds a client unless it is known, and with the first one the internal queries, which read the tables of
    /// `upstream_schema` (`zero_0`).
    pub fn ensure_client(&mut self, client: &str, upstream_schema: &str) {
        if self.draft.cvr.clients.contains_key(client) {
            return;
        }
        self.draft.bump();
        let client: Arc<str> = client.into();
        Arc::make_mut(&mut self.draft.cvr.clients).insert(Arc::clone(&client), BTreeSet::new());
        self.draft.deleted_clients.retain(|other| *other != client);
        self.draft.new_clients.push(client);
        for (id, body) in internal_queries(upstream_schema, &self.draft.cvr.group) {
            if !self.draft.cvr.queries.contains_key(id) {
                self.draft.insert_query(&id.into(), Query::new(body));
            }
        }
    }

    /// Sets the group's client schema, which never changes afterwards. The order of keys does not matter.
    pub fn set_client_schema(&mut self, schema: &Arc<serde_json::Value>) -> Result<(), CvrError> {
        match &self.draft.cvr.client_schema {
            Some(own) if own == schema => Ok(()),
            Some(_) => {
                Err(CvrError::InvalidConnectionRequest("Provided schema does not match previous schema".to_owned()))
            }
            None => {
                self.draft.cvr.client_schema = Some(Arc::clone(schema));
                self.draft.identity_changed = true;
                Ok(())
            }
        }
    }

    /// Sets the browser profile that the group belongs to.
    pub fn set_profile_id(&mut self, profile_id: &str) {
        if self.draft.cvr.profile_id.as_deref() != Some(profile_id) {
            self.draft.cvr.profile_id = Some(profile_id.into());
            self.draft.identity_changed = true;
        }
    }

    /// Adds to what a client desires. Nothing happens for what it desires already for at least as long.
    pub fn put_desired(&mut self, client: &str, puts: &[Put]) -> Result<(), CvrError> {
        let client = self.client(client)?;
        for put in puts {
            // Compared as the server honours it: "forever" is no more than the longest time there is.
            let ttl = ttl::clamp(put.ttl.unwrap_or(ttl::DEFAULT_TTL));
            let needed = match self.draft.cvr.queries.get(&put.query) {
                None => true,
                Some(query) if query.body.is_internal() => false,
                Some(query) => {
                    query.clients.get(&client).is_none_or(|desire| desire.inactivated_at.is_some() || ttl > desire.ttl)
                }
            };
            if !needed {
                continue;
            }
            if !self.draft.cvr.queries.contains_key(&put.query) {
                let body = put.body.clone().ok_or_else(|| {
                    CvrError::Internal(format!("query {} has neither an AST nor a name and arguments", put.query))
                })?;
                self.draft.insert_query(&put.query, Query::new(body));
            }
            let version = self.draft.bump();
            if let Some(query) = self.draft.query_mut(&put.query) {
                let desire = Desire { inactivated_at: None, ttl, version: Arc::clone(&version) };
                query.clients.insert(Arc::clone(&client), desire);
            }
            self.desired_mut(&client, |desired| desired.insert(Arc::clone(&put.query)));
            self.draft.write_desire(DesireWrite {
                client: Arc::clone(&client),
                query: Arc::clone(&put.query),
                patch_version: Arc::clone(&version),
                deleted: false,
                ttl,
                inactivated_at: None,
            });
            self.patch(&client, &put.query, true);
        }
        Ok(())
    }

    /// Ends a client's desire of some queries; each lives on for its TTL.
    pub fn inactivate(&mut self, client: &str, queries: &[QueryId], ttl_clock: f64) -> Result<(), CvrError> {
        let client = self.client(client)?;
        self.end_desires(&client, queries, Some(ttl_clock));
        Ok(())
    }

    /// Ends all of a client's desires at once, without regard to TTLs.
    pub fn clear_desired(&mut self, client: &str) -> Result<(), CvrError> {
        let client = self.client(client)?;
        let queries = self.desired(&client);
        self.end_desires(&client, &queries, None);
        Ok(())
    }

    /// Removes a client, if the group has it; what it desired lives on for its TTL.
    pub fn delete_client(&mut self, client: &str, ttl_clock: f64) {
        let Ok(client) = self.client(client) else { return };
        let queries = self.desired(&client);
        self.end_desires(&client, &queries, Some(ttl_clock));
        Arc::make_mut(&mut self.draft.cvr.clients).remove(&client);
        match self.draft.new_clients.iter().position(|other| *other == client) {
            Some(position) => {
                self.draft.new_clients.remove(position);
            }
            None => self.draft.deleted_clients.push(client),
        }
    }

    /// The patches, and what to write. Nothing to write means that the record stays what it was.
    pub fn finish(self, times: FlushTimes) -> (Vec<QueryPatch>, Option<Arc<Flush>>) {
        (self.patches, self.draft.finish(Vec::new(), times))
    }

    fn client(&self, client: &str) -> Result<Arc<str>, CvrError> {
        match self.draft.cvr.clients.get_key_value(client) {
            Some((client, _)) => Ok(Arc::clone(client)),
            None => Err(CvrError::Internal(format!("client {client} is not in the record"))),
        }
    }

    fn desired(&self, client: &str) -> Vec<QueryId> {
        self.draft.cvr.clients.get(client).into_iter().flatten().cloned().collect()
    }

    fn desired_mut(&mut self, client: &str, change: impl FnOnce(&mut BTreeSet<QueryId>) -> bool) -> bool {
        Arc::make_mut(&mut self.draft.cvr.clients).get_mut(client).is_some_and(change)
    }

    fn end_desires(&mut self, client: &Arc<str>, queries: &[QueryId], inactivated_at: Option<f64>) {
        for id in queries {
            if !self.desired_mut(client, |desired| desired.remove(id)) {
                continue;
            }
            let version = self.draft.bump();
            let mut ttl = ttl::DEFAULT_TTL;
            if let Some(query) = self.draft.query_mut(id) {
                match inactivated_at {
                    Some(_) => {
                        ttl = query.clients.get(client).map_or(ttl, |desire| ttl::clamp(desire.ttl));
                        let desire = Desire { inactivated_at, ttl, version: Arc::clone(&version) };
                        query.clients.insert(Arc::clone(client), desire);
                    }
                    None => {
                        query.clients.remove(client);
                    }
                }
            }
            // Also of a query that was removed meanwhile: its tombstone still has the desire.
            self.draft.write_desire(DesireWrite {
                client: Arc::clone(client),
                query: Arc::clone(id),
                patch_version: version,
                deleted: true,
                ttl,
                inactivated_at,
            });
            self.patch(client, id, false);
        }
    }

    fn patch(&mut self, client: &Arc<str>, query: &QueryId, put: bool) {
        self.patches.push(QueryPatch {
            to_version: Arc::clone(self.draft.version()),
            put,
            query: Arc::clone(query),
            client: Some(Arc::clone(client)),
        });
    }
}
