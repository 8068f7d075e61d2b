//! Removal of results that clients have seen (protocol sheet §12.4).
//!
//! The API server owns the table of results; it is asked to delete rows by a mutation of a reserved name. Nobody waits
//! for the answer: a call that fails is made up for by the next one of the same client.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Origin, Pushes, Source};
use crate::api::Endpoint;

/// The mutation that deletes results.
const NAME: &str = "_zero_cleanupResults";

/// Asks on a connection's behalf, with the credentials that it has now.
#[derive(Clone, Debug)]
pub(crate) struct Cleaner {
    endpoint: Arc<Endpoint>,
    origin: Arc<Origin>,
    permits: Arc<Semaphore>,
}

impl Pushes {
    /// Who cleans up after a connection; nobody without an API server, or before it is known which.
    pub(crate) fn cleaner(&self, source: &Source) -> Option<Cleaner> {
        let endpoint = self.endpoint.clone().filter(|_| source.ready)?;
        Some(Cleaner { endpoint, origin: Arc::clone(&source.origin), permits: Arc::clone(&source.cleanups) })
    }
}

impl Cleaner {
    /// A client has seen the results of its mutations up to this one.
    pub(crate) fn acknowledged(&self, client: &str, id: f64) {
        let group = &self.origin.group_id;
        let id = id as i64;
        let args = json!({ "type": "single", "clientGroupID": **group, "clientID": client, "upToMutationID": id });
        self.clean_up(client, &args, |_| format!("cleanup-{group}-{client}-{id}"));
    }

    /// Clients are gone for good, with their results.
    pub(crate) fn deleted(&self, clients: &[String]) {
        let group = &self.origin.group_id;
        let Some(first) = clients.first() else { return };
        let args = json!({ "type": "bulk", "clientGroupID": **group, "clientIDs": clients });
        self.clean_up(first, &args, |now| format!("cleanup-bulk-{group}-{now}"));
    }

    fn clean_up(&self, client: &str, args: &Value, request_id: impl FnOnce(u64) -> String) {
        let (endpoint, origin) = (Arc::clone(&self.endpoint), Arc::clone(&self.origin));
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            tracing::debug!(group = &*origin.group_id, "results are not cleaned up: the API server is slow");
            return;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let mutation = json!({
            "type": "custom", "id": 0, "clientID": client, "name": NAME, "args": [args], "timestamp": now,
        });
        let body = json!({
            "clientGroupID": *origin.group_id,
            "mutations": [mutation],
            "pushVersion": 1,
            "timestamp": now,
            "requestID": request_id(now),
        });
        tokio::spawn(async move {
            if let Err(error) = endpoint.post(&origin.caller, body.to_string(), "push").await {
                tracing::warn!(group = &*origin.group_id, message = error.message, "results were not cleaned up");
            }
            drop(permit);
        });
    }
}
