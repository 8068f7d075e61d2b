//! The permissions in force: one task of the process follows the table in which they are deployed and tells everybody.
//!
//! It subscribes to that table like a client group does to its queries, so a change comes as fast as any other, costs one
//! parse whatever the number of groups, and whoever asks for the permissions reads them from memory.

use std::sync::Arc;
use std::time::Duration;

use engine::commit::StoredRow;
use engine::query::Query;
use engine::replica::Replica;
use tokio::sync::watch;
use views::{Event, Mailbox, Views};
use zql_spec::ast::Ast;
use zql_spec::value::Value;

use super::Permissions;

/// How soon a subscription that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is deployed, or why it cannot be read.
pub(crate) type Deployed = Result<Arc<Permissions>, Arc<str>>;

/// What is deployed, now and later. Absent until it was read for the first time.
pub(crate) type Live = watch::Receiver<Option<Deployed>>;

/// Waits for what is deployed.
pub(crate) async fn current(live: &Live) -> Deployed {
    let mut live = live.clone();
    let known = live.wait_for(Option::is_some).await;
    let stopping = || Err("the server is stopping".into());
    known.ok().and_then(|deployed| deployed.clone()).unwrap_or_else(stopping)
}

/// Starts the task. It ends when nobody listens any more.
pub(crate) fn follow(views: &Views, replica: &Arc<Replica>, app_id: &str) -> Live {
    let (sender, receiver) = watch::channel(None);
    let follower = Follower {
        mailbox: views.mailbox(),
        replica: Arc::clone(replica),
        table: format!("{app_id}.permissions").into(),
        column: None,
        sender,
    };
    tokio::spawn(follower.run());
    receiver
}

struct Follower {
    mailbox: Mailbox,
    replica: Arc<Replica>,
    table: Arc<str>,
    /// Position of the column that holds the document.
    column: Option<usize>,
    sender: watch::Sender<Option<Deployed>>,
}

impl Follower {
    async fn run(mut self) {
        self.subscribe();
        loop {
            let event = tokio::select! {
                event = self.mailbox.recv() => event,
                () = self.sender.closed() => return,
            };
            match event {
                Event::Hydrated { rows, .. } => self.tell(rows.first().map(|row| &*row.row)),
                Event::Advanced { deltas, .. } => {
                    for change in deltas.iter().flat_map(|(_, delta)| &delta.changes) {
                        match (&change.row, change.after) {
                            (Some(row), _) => self.tell(Some(row)),
                            (None, 0) => self.tell(None),
                            (None, _) => {}
                        }
                    }
                }
                Event::SchemaChanged { .. } | Event::Failed => self.subscribe(),
                Event::HydrateFailed { error, .. } => {
                    tracing::error!(%error, "the deployed permissions cannot be read");
                    self.sender.send_replace(Some(Err(error.to_string().into())));
                    tokio::time::sleep(RETRY).await;
                    self.subscribe();
                }
            }
        }
    }

    fn subscribe(&mut self) {
        let ast = Ast { table: Arc::clone(&self.table), ..Ast::default() };
        match Query::resolve(&ast, &self.replica.schema()) {
            Ok(query) => {
                self.column = query.root().table.column_index("permissions");
                self.mailbox.subscribe(Arc::clone(&self.table), Arc::new(query));
            }
            Err(error) => {
                tracing::warn!(%error, "there is no table of permissions: clients' own queries find nothing");
                self.tell(None);
            }
        }
    }

    fn tell(&self, row: Option<&StoredRow>) {
        let value = row.and_then(|row| row.values.get(self.column?));
        let deployed = match value {
            Some(Value::Json(text) | Value::String(text)) => Permissions::parse(text).map(Arc::new).map_err(|error| {
                tracing::error!(error, "the deployed permissions cannot be used");
                error.into()
            }),
            _ => Ok(Arc::default()),
        };
        self.sender.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&deployed);
            if changed {
                tracing::info!(usable = deployed.is_ok(), "permissions are in force");
                *known = Some(deployed);
            }
            changed
        });
    }
}
