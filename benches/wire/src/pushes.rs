//! Mutations: how many pushes a second a server takes when many clients push, and how long one alone takes until its
//! client is told that it is done.
//!
//! CRUD mutations are carried out by the server, custom ones by one API server that both servers call. Each client
//! changes an issue of its own, which it watches. The servers take turns.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use serde_json::{Value, json};
use testdata::postgres::Postgres;

use crate::hydrate::{Held, hydrate};
use crate::servers::{Kind, Setup};

/// Clients that push at once, each of a group of its own.
const CLIENTS: usize = 20;

/// Pushes of each in a round.
const PUSHES: u64 = 50;

/// Pushes of one client that are on their way at once, as when a user drags something.
const AT_ONCE: u64 = 5;

/// Pushes of the client that is alone, one after the other.
const ALONE: u64 = 20;

/// How long a push may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How a mutation is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mutation {
    Crud,
    Custom,
}

impl Mutation {
    pub(crate) const ALL: [Mutation; 2] = [Mutation::Crud, Mutation::Custom];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Mutation::Crud => "CRUD",
            Mutation::Custom => "custom",
        }
    }

    /// One that sets an issue's title.
    fn write(self, id: u64, client: &str, issue: &str, title: &str) -> Value {
        let args = match self {
            Mutation::Crud => json!([{ "ops": [{
                "op": "update", "tableName": "issue", "primaryKey": ["id"], "value": { "id": issue, "title": title },
            }] }]),
            Mutation::Custom => json!([{ "id": issue, "title": title }]),
        };
        let (kind, name) = match self {
            Mutation::Crud => ("crud", "_zero_crud"),
            Mutation::Custom => ("custom", "issue.rename"),
        };
        json!({ "type": kind, "id": id, "clientID": client, "name": name, "args": args, "timestamp": 1 })
    }
}

/// What came out, a number a round.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(crate) struct Outcome {
    pub per_second: Vec<f64>,
    /// Median of the pushes of a client that is alone.
    pub alone_ms: Vec<f64>,
}

/// A client with an issue of its own.
struct Client {
    held: Held,
    issue: String,
    /// Its last mutation.
    sent: u64,
    done: u64,
}

impl Client {
    async fn push(&mut self, mutation: Mutation) -> Result<()> {
        self.sent += 1;
        let identity = &self.held.identity;
        let title = format!("{} {}", mutation.name(), self.sent);
        let mutations = [mutation.write(self.sent, &identity.client_id, &self.issue, &title)];
        let body = json!({
            "clientGroupID": identity.client_group_id, "mutations": mutations,
            "pushVersion": 1, "timestamp": 1, "requestID": format!("{}-{}", identity.client_id, self.sent),
        });
        Ok(self.held.connection.send_text(json!(["push", body]).to_string()).await?)
    }

    /// Reads a message; notes what it says is done.
    async fn read(&mut self) -> Result<()> {
        let text = tokio::time::timeout(LIMIT, self.held.connection.next_text()).await??;
        if text.starts_with(r#"["pokePart""#) && text.contains("lastMutationIDChanges") {
            let message: Value = serde_json::from_str(&text)?;
            let changes = &message[1]["lastMutationIDChanges"];
            if let Some(done) = changes[&self.held.identity.client_id].as_u64() {
                self.done = done;
            }
        } else if text.starts_with(r#"["error""#) || text.contains(r#""error":"#) {
            bail!("the server answers {text}");
        }
        Ok(())
    }

    /// Pushes so many, at most so many at once, and waits until all are done.
    async fn push_many(&mut self, mutation: Mutation, count: u64, at_once: u64) -> Result<()> {
        let last = self.sent + count;
        while self.done < last {
            while self.sent < last && self.sent - self.done < at_once {
                self.push(mutation).await?;
            }
            self.read().await?;
        }
        Ok(())
    }
}

/// Measures both kinds of mutations on these servers, so many rounds after one that is not counted.
pub(crate) async fn pushes(
    setup: &Setup,
    postgres: &Postgres,
    kinds: &[Kind],
    rounds: u32,
) -> Result<BTreeMap<Mutation, BTreeMap<Kind, Outcome>>> {
    let mut running = Vec::new();
    for (position, kind) in kinds.iter().enumerate() {
        let server = setup.start(*kind)?;
        permit(postgres, &setup.database, kind.app())?;
        let clients = (0..CLIENTS).map(|number| format!("i{}", position * CLIENTS + number + 1)).map(|issue| async {
            let ast = json!({ "table": "issue", "where": { "type": "simple", "op": "=",
                "left": { "type": "column", "name": "id" }, "right": { "type": "literal", "value": issue } } });
            let held = hydrate(&server.url(), &ast).await?;
            anyhow::Ok(Client { held, issue, sent: 0, done: 0 })
        });
        let clients = try_join_all(clients).await?;
        running.push((*kind, server, clients));
    }
    let mut outcomes: BTreeMap<Mutation, BTreeMap<Kind, Outcome>> = BTreeMap::new();
    for round in 0..=rounds {
        for mutation in Mutation::ALL {
            for (kind, server, clients) in &mut running {
                let failed = || format!("{} pushes to {}: {}", mutation.name(), kind.name(), server.log_tail());
                let begun = Instant::now();
                let work = clients.iter_mut().map(|client| client.push_many(mutation, PUSHES, AT_ONCE));
                try_join_all(work).await.with_context(failed)?;
                let per_second = (CLIENTS as u64 * PUSHES) as f64 / begun.elapsed().as_secs_f64();
                let mut times = Vec::new();
                for _ in 0..ALONE {
                    let begun = Instant::now();
                    clients[0].push_many(mutation, 1, 1).await.with_context(failed)?;
                    times.push(begun.elapsed().as_secs_f64() * 1e3);
                }
                times.sort_by(f64::total_cmp);
                if round > 0 {
                    let outcome = outcomes.entry(mutation).or_default().entry(*kind).or_default();
                    outcome.per_second.push(per_second);
                    outcome.alone_ms.push(times[times.len() / 2]);
                }
            }
        }
    }
    Ok(outcomes)
}

/// Lets anybody change issues.
fn permit(postgres: &Postgres, database: &str, app: &str) -> Result<()> {
    let anyone = json!([["allow", { "type": "and", "conditions": [] }]]);
    let rules = json!({ "tables": { "issue": { "row": {
        "select": anyone, "update": { "preMutation": anyone, "postMutation": anyone } } } } });
    postgres.psql(database, &format!("UPDATE {app}.permissions SET permissions = '{rules}'"))?;
    Ok(())
}
