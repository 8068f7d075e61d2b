//! Removal of results that clients have seen (protocol sheet §12.4).
//!
//! The API server owns the table of results; it is asked to delete rows by a mutation of a reserved name. Nobody waits
//! for the answer: a call that fails is made up for by the next one of the same client.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Pushes, Source};

/// The mutation that deletes results.
const NAME: &str = "_zero_cleanupResults";

impl Pushes {
    /// A client has seen the results of its mutations up to this one.
    pub(crate) fn acknowledged(&self, source: &Source, client: &str, id: f64) {
        let group = &source.origin.group_id;
        let id = id as i64;
        let args = json!({ "type": "single", "clientGroupID": **group, "clientID": client, "upToMutationID": id });
        self.clean_up(source, client, &args, |_| format!("cleanup-{group}-{client}-{id}"));
    }

    /// Clients are gone for good, with their results.
    pub(crate) fn deleted(&self, source: &Source, clients: &[String]) {
        let group = &source.origin.group_id;
        let Some(first) = clients.first() else { return };
        let args = json!({ "type": "bulk", "clientGroupID": **group, "clientIDs": clients });
        self.clean_up(source, first, &args, |now| format!("cleanup-bulk-{group}-{now}"));
    }

    fn clean_up(&self, source: &Source, client: &str, args: &Value, request_id: impl FnOnce(u64) -> String) {
        let Some(endpoint) = self.endpoint.clone().filter(|_| source.ready) else { return };
        let origin = Arc::clone(&source.origin);
        let Ok(permit) = Arc::clone(&source.cleanups).try_acquire_owned() else {
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
