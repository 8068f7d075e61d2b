//! What a group tells an inspector.

use std::sync::Arc;

use zql_spec::protocol::inspect::{Inspect, InspectOp, answer};

use super::{Fault, Group};
use crate::inspect::{self, RunningQuery};

impl Group {
    /// Answers a request of the inspector. Nothing that is wrong with one ends the connection.
    pub(super) fn inspect(&mut self, id: u64, request: Inspect) -> Result<(), Fault> {
        let Some(client) = self.client(id) else { return Ok(()) };
        let (outbox, version) = (client.connection.outbox.clone(), client.connection.version);
        let (caller, claims) = (client.caller.clone(), client.claims.clone());
        let Inspect { id: request_id, op } = request;
        let reply = |op: &str, value: &str| outbox.send(vec![answer(op, &request_id, value).into()]);
        let access = &self.services.access;
        if let InspectOp::Authenticate { password } = &op {
            let right = access.authenticate(&self.id, password);
            if !right {
                tracing::warn!(group = &*self.id, "the inspector was refused: wrong password");
            }
            reply("authenticated", if right { "true" } else { "false" });
            return Ok(());
        }
        if !access.allows(&self.id) {
            reply("authenticated", "false");
            return Ok(());
        }
        match op {
            InspectOp::Authenticate { .. } => {}
            InspectOp::Version => {
                reply("version", &serde_json::Value::from(self.services.config.server_version.as_str()).to_string());
            }
            InspectOp::Metrics => reply("metrics", &inspect::metrics(&mut self.times)),
            InspectOp::Queries { client_id } => {
                let clock = self.ttl_clock();
                let Some(record) = &self.record else { return Ok(()) };
                let running = self.running.iter_mut();
                let mut running = running
                    .map(|(query, running)| (&**query, RunningQuery { ast: &running.ast, times: &mut running.times }))
                    .collect();
                let client = client_id.as_deref();
                let value = inspect::queries(&record.cvr, &record.rows, client, clock, version, &mut running);
                reply("queries", &value);
            }
            InspectOp::AnalyzeQuery(request) => {
                let services = Arc::clone(&self.services);
                // The group goes on meanwhile; who is gone by then is not told.
                tokio::spawn(async move {
                    let answered = inspect::analyze::analyze(&services, &caller, claims.as_deref(), *request).await;
                    let message = match &answered {
                        Ok(value) => answer("analyze-query", &request_id, value),
                        Err(error) => answer("error", &request_id, &serde_json::Value::from(&**error).to_string()),
                    };
                    outbox.send(vec![message.into()]);
                });
            }
        }
        Ok(())
    }
}
