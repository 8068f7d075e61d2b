//! The permissions in force: where they are deployed, and for those who need them at once and not in the order of commits,
//! one task of the process that follows the table.
//!
//! It subscribes to that table like a client group does to its queries, so a change comes as fast as any other, and
//! whoever asks for the permissions reads them from memory. A document is parsed once, whatever the number of groups.

use std::sync::Arc;
use std::time::Duration;

use engine::commit::StoredRow;
use engine::query::{Query, ResolveError};
use engine::replica::Replica;
use parking_lot::Mutex;
use tokio::sync::watch;
use views::{Event, Mailbox, Views};
use zql_spec::ast::Ast;
use zql_spec::schema::Schema;
use zql_spec::value::Value;

use super::Permissions;
use crate::clock::Clock;

/// How soon a subscription that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long somebody waits for permissions that cannot be read now: a few tries, and less than a client is patient with a
/// server that does not answer.
const WAIT: Duration = Duration::from_secs(5);

/// What is deployed, or why nobody can make sense of it.
pub(crate) type Deployed = Result<Arc<Permissions>, Arc<str>>;

/// What is deployed, now and later. Absent until it was read, and while it cannot be.
pub(crate) type Live = watch::Receiver<Option<Deployed>>;

/// Waits for what is deployed; nothing if it cannot be read now.
pub(crate) async fn current(live: &Live, clock: &Clock) -> Option<Deployed> {
    let mut live = live.clone();
    tokio::select! {
        known = live.wait_for(Option::is_some) => known.ok()?.clone(),
        () = clock.sleep_until(clock.now() + WAIT) => None,
    }
}

/// The query of the table of permissions, and the position of the column that holds the document.
pub(crate) fn query(app_id: &str, schema: &Schema) -> Result<(Arc<Query>, Option<usize>), ResolveError> {
    let ast = Ast { table: format!("{app_id}.permissions").into(), ..Ast::default() };
    let query = Query::resolve(&ast, schema)?;
    let column = query.root().table.column_index("permissions");
    Ok((Arc::new(query), column))
}

/// The text of the document in a row.
pub(crate) fn document(row: &StoredRow, column: usize) -> Option<&str> {
    match row.values.get(column) {
        Some(Value::Json(text) | Value::String(text)) => Some(text),
        _ => None,
    }
}

/// Parses documents. Who asks for the same one as the last gets what was made of that.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    last: Mutex<Option<(Box<str>, Deployed)>>,
}

impl Documents {
    /// What a document says; an absent one permits nothing.
    pub(crate) fn read(&self, text: Option<&str>) -> Deployed {
        let Some(text) = text else { return Ok(Arc::default()) };
        let mut last = self.last.lock();
        if let Some((_, deployed)) = last.as_ref().filter(|(known, _)| **known == *text) {
            return deployed.clone();
        }
        let deployed: Deployed = Permissions::parse(text).map(Arc::new).map_err(Into::into);
        if let Err(error) = &deployed {
            tracing::error!(error = &**error, "the deployed permissions cannot be used");
        }
        *last = Some((text.into(), deployed.clone()));
        deployed
    }
}

/// Starts the task. It ends when nobody listens any more.
pub(crate) fn follow(views: &Views, replica: &Arc<Replica>, app_id: &str, documents: &Arc<Documents>) -> Live {
    let (sender, receiver) = watch::channel(None);
    let follower = Follower {
        mailbox: views.mailbox(),
        replica: Arc::clone(replica),
        app_id: app_id.to_owned(),
        documents: Arc::clone(documents),
        column: None,
        sender,
    };
    tokio::spawn(follower.run());
    receiver
}

struct Follower {
    mailbox: Mailbox,
    replica: Arc<Replica>,
    app_id: String,
    documents: Arc<Documents>,
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
                // Nobody asks for it here.
                Event::Pinned { .. } => {}
                Event::HydrateFailed { error, .. } => {
                    tracing::error!(%error, "the deployed permissions cannot be read");
                    // Nobody is to be judged by what may have been replaced meanwhile.
                    self.sender.send_replace(None);
                    tokio::time::sleep(RETRY).await;
                    self.subscribe();
                }
            }
        }
    }

    fn subscribe(&mut self) {
        match query(&self.app_id, &self.replica.schema()) {
            Ok((query, column)) => {
                self.column = column;
                self.mailbox.subscribe("permissions".into(), query);
            }
            Err(error) => {
                tracing::warn!(%error, "there is no table of permissions: clients' own queries find nothing");
                self.tell(None);
            }
        }
    }

    fn tell(&self, row: Option<&StoredRow>) {
        let deployed = self.documents.read(row.zip(self.column).and_then(|(row, column)| document(row, column)));
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
