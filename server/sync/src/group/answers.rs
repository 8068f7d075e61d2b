//! What the running queries answer, until it reaches the clients.
//!
//! The mailbox tells it in the order of commits. Answers wait in their batch, where later changes are composed into them;
//! changes of queries whose answer reached the clients go on at once.

use std::sync::Arc;

use cvr::row::QueryId;
use engine::commit::Version;
use engine::graph::{AnswerRow, DeltaComposer, QueryDelta};
use rustc_hash::FxHashMap;
use views::{Event, HydrateFailure};
use zql_spec::protocol::error::{ErrorBody, ErrorKind};

use super::permissions::PERMISSIONS;
use super::queries::Batch;
use super::{BEHIND_RETRY, Fault, Group};

/// A query's answer, kept current while it waits.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) rows: Arc<[AnswerRow]>,
    pub(super) since: Option<DeltaComposer>,
}

impl Group {
    /// Something happened to the running queries.
    pub(super) async fn on_view(&mut self, event: Event) -> Result<(), Fault> {
        match event {
            Event::Hydrated { query_id, version, rows } => {
                self.heard(&version);
                if *query_id == *PERMISSIONS {
                    return self.permissions_read(&rows).await;
                }
                if let Some(running) = self.running.get_mut(&query_id) {
                    running.times.answered(&mut self.times);
                }
                if let Some(batch) = self.hydrating_in(&query_id) {
                    batch.answers.push((query_id, Answered { rows, since: None }));
                }
                self.finish_batches().await
            }
            Event::HydrateFailed { query_id, error } => {
                let error = told(&error);
                if *query_id == *PERMISSIONS {
                    return Err(Fault::group(error));
                }
                self.running.remove(&query_id);
                let batch = self.hydrating_in(&query_id);
                let requester = batch.and_then(|batch| batch.requester);
                self.query_failed(&query_id, requester, &error)?;
                self.finish_batches().await
            }
            Event::Advanced { version, deltas } => {
                self.heard(&version);
                // First, so that no row that comes with other permissions is judged by those before.
                let redefined = match deltas.iter().find(|(query_id, _)| **query_id == *PERMISSIONS) {
                    Some((_, delta)) => self.permissions_changed(delta).await?,
                    None => false,
                };
                let mut live: Vec<(QueryId, Arc<QueryDelta>)> = Vec::with_capacity(deltas.len());
                for (query_id, delta) in deltas {
                    match self.running.get(&query_id) {
                        Some(running) if running.live => live.push((query_id, delta)),
                        Some(_) => self.hold_back(&query_id, &delta),
                        None => {}
                    }
                }
                let arrived = std::time::Instant::now();
                self.advance(version, &live).await?;
                for (query_id, _) in &live {
                    if let Some(running) = self.running.get_mut(query_id) {
                        running.times.updated(arrived, &mut self.times);
                    }
                }
                // Queries may have come to see nothing at once.
                if redefined { self.finish_batches().await } else { Ok(()) }
            }
            Event::SchemaChanged { version, .. } => {
                self.heard(&version);
                self.tables = None;
                self.prepare_tables()?;
                self.subscribe_again()?;
                self.finish_batches().await
            }
            Event::Pinned { snapshot } => self.on_pinned(snapshot).await,
            Event::Failed => self.subscribe_again(),
        }
    }

    /// The batch that waits for a query, which no longer does.
    fn hydrating_in(&mut self, query_id: &QueryId) -> Option<&mut Batch> {
        let batch = self.batches.iter_mut().find(|batch| batch.hydrating.contains(query_id))?;
        batch.hydrating.remove(query_id);
        Some(batch)
    }

    /// Remembers the newest version.
    fn heard(&mut self, version: &Version) {
        if *version > self.head {
            self.head = Arc::clone(version);
        }
    }

    /// Keeps an answer current that waits in a batch.
    fn hold_back(&mut self, query_id: &QueryId, delta: &QueryDelta) {
        let answers = self.batches.iter_mut().flat_map(|batch| &mut batch.answers);
        if let Some((_, answered)) = answers.into_iter().find(|(id, _)| id == query_id) {
            match &mut answered.since {
                Some(since) => since.add(delta),
                None => answered.since = Some(DeltaComposer::new(delta)),
            }
        }
    }

    /// Sends the batches that are complete to the clients.
    pub(super) async fn finish_batches(&mut self) -> Result<(), Fault> {
        loop {
            let ready = Batch::is_complete;
            let position = match self.synced {
                true => self.batches.iter().position(ready),
                // The first batch brings the group to where its clients expect it.
                false => self.batches.first().filter(|batch| ready(batch)).map(|_| 0),
            };
            let Some(position) = position else { return Ok(()) };
            if !self.batches[position].answers.is_empty() && self.is_behind_record() {
                self.retry_at = Some(self.services.clock.now() + BEHIND_RETRY);
                return Ok(());
            }
            if self.pinned.is_none() && self.pin_if_behind() {
                return Ok(());
            }
            let mut batch = self.batches.remove(position);
            batch.removed.retain(|query_id| !self.is_asked_for(query_id));
            self.synced = true;
            self.finish_batch(batch).await?;
        }
    }

    /// Whether a query runs or is about to: what expired or was refused and is wanted again by now stays.
    pub(super) fn is_asked_for(&self, query_id: &QueryId) -> bool {
        let on_the_way = |batch: &Batch| batch.calling.contains(query_id) || batch.unpermitted.contains(query_id);
        self.running.contains_key(query_id) || self.batches.iter().any(on_the_way)
    }

    /// Whether the replica has not come as far as the record: it was restored from an older copy and will
    /// catch up. Clients are not told anything until it has.
    fn is_behind_record(&self) -> bool {
        self.record.as_ref().is_some_and(|record| *self.head < *record.cvr.version.state.as_str())
    }
}

/// What clients are told of a query that could not be answered. What is not the query's fault passes, and they come back.
fn told(error: &HydrateFailure) -> ErrorBody {
    match error {
        HydrateFailure::Query(message) => ErrorBody::new(ErrorKind::Internal, &**message),
        HydrateFailure::Internal(message) => {
            ErrorBody::rehome(format!("A query could not be answered: {message}"), false)
        }
    }
}

impl Answered {
    /// The answer's rows now, each once: count, and the row.
    pub(super) fn for_each(
        self,
        mut take: impl FnMut(&Arc<str>, &engine::commit::Key, u32, &Arc<engine::commit::StoredRow>),
    ) {
        let Some(since) = self.since else {
            for row in &*self.rows {
                take(&row.table, &row.key, row.count, &row.row);
            }
            return;
        };
        let mut changes: FxHashMap<_, _> = since
            .finish()
            .changes
            .into_iter()
            .map(|change| ((Arc::clone(&change.table), change.key.clone()), change))
            .collect();
        for row in &*self.rows {
            match changes.remove(&(Arc::clone(&row.table), row.key.clone())) {
                None => take(&row.table, &row.key, row.count, &row.row),
                Some(change) if change.after > 0 => {
                    take(&row.table, &row.key, change.after, change.row.as_ref().unwrap_or(&row.row));
                }
                Some(_) => {}
            }
        }
        for change in changes.into_values().filter(|change| change.after > 0) {
            if let Some(row) = &change.row {
                take(&change.table, &change.key, change.after, row);
            }
        }
    }
}
