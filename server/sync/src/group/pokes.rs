//! What clients are told: the rows and queries of updates, and what a client missed.
//!
//! Every update goes the same way: patches and a flush from the record, the flush to the store, and only
//! when it is committed the pokes. A client is sent what happened after its base; clients at the same base
//! share the text.

use std::sync::Arc;

use cvr::flush::Flush;
use cvr::patch::{QueryPatch, RowPatch, lacks};
use cvr::row::{QueryId, RowId};
use cvr::rows_update::{Contents, Executed, QueryUpdate};
use cvr_store::{CaughtUp, Range};
use engine::commit::{StoredRow, Version};
use engine::graph::QueryDelta;
use engine::replica::{ReplicaError, Snapshot};
use zql_spec::version::{CvrVersion, StateVersion};

use super::queries::{Batch, Running};
use super::tables::{Tables, write_del, write_put};
use super::{Fault, Group, cvr_error, store_error};
use crate::outbox::Frame;
use crate::poke::{PokeText, chunks, poke_end, poke_start};
use crate::replica;

/// Something to tell, with the version at which it happened.
#[derive(Debug)]
pub(super) enum Item {
    /// A query is got or desired, or no longer.
    Query(QueryPatch),
    /// A row came, changed or went.
    Row(RowPatch<Arc<StoredRow>>),
}

impl Item {
    fn version(&self) -> &CvrVersion {
        match self {
            Item::Query(patch) => &patch.to_version,
            Item::Row(patch) => &patch.to_version,
        }
    }
}

impl Group {
    /// The answers of running queries changed.
    pub(super) async fn advance(
        &mut self,
        version: Version,
        deltas: &[(QueryId, Arc<QueryDelta>)],
    ) -> Result<(), Fault> {
        if deltas.is_empty() {
            return Ok(());
        }
        let state = StateVersion::from_shared(version).map_err(|error| Fault::internal(&error))?;
        let times = self.times();
        let replica_version = Arc::clone(&self.services.replica_version);
        let (Some(record), Some(tables)) = (&mut self.record, &self.tables) else { return Ok(()) };
        let before = record.cvr.version.clone();
        let mut update =
            QueryUpdate::new(&record.cvr, state, &replica_version).map_err(|error| Fault::internal(&error))?;
        update.bump();
        for (query_id, delta) in deltas {
            for change in &delta.changes {
                let Some(table) = tables.get(&change.table) else { continue };
                let contents = change.row.as_ref().map(contents);
                let row = RowId::new(&table.key, &change.key);
                update.receive(&mut record.rows, query_id, row, change.after, contents);
            }
        }
        let tentative = update.version().clone();
        let mut items = Vec::new();
        row_items(&mut update, &mut items)?;
        let Some(flush) = update.finish(times).map_err(|error| Fault::group(cvr_error(&error)))? else {
            return Ok(());
        };
        self.commit(flush).await?;
        let after = self.record()?.cvr.version.clone();
        // A client that is behind is caught up by its own joining, or when it has room again.
        self.poke(&tentative, &items, &after, |base| base.is_some_and(|base| *base == before));
        Ok(())
    }

    /// Sends a complete batch, and to clients that are behind what they missed.
    pub(super) async fn finish_batch(&mut self, batch: Batch) -> Result<(), Fault> {
        let times = self.times();
        let replica_version = Arc::clone(&self.services.replica_version);
        let head = StateVersion::from_shared(Arc::clone(&self.head)).map_err(|error| Fault::internal(&error))?;
        let executed: Vec<Executed> = batch
            .answers
            .iter()
            .filter_map(|(id, _)| {
                let Running { hash, counts, .. } = self.running.get(id)?;
                Some(Executed { query: Arc::clone(id), hash: Arc::clone(hash), counts: *counts })
            })
            .collect();
        let (Some(record), Some(tables)) = (&mut self.record, &self.tables) else { return Ok(()) };
        let before = record.cvr.version.clone();
        // Without answers there is nothing to say about any later state.
        let state = if executed.is_empty() { before.state.clone() } else { head.max(before.state.clone()) };
        let mut update =
            QueryUpdate::new(&record.cvr, state, &replica_version).map_err(|error| Fault::internal(&error))?;
        let queries = update.track(&executed, &batch.removed).map_err(|error| Fault::group(cvr_error(&error)))?;
        let mut items: Vec<Item> = queries.into_iter().map(Item::Query).collect();
        for (query_id, answered) in batch.answers {
            answered.for_each(|table, key, count, row| {
                if let Some(table) = tables.get(table) {
                    let row_id = RowId::new(&table.key, key);
                    update.receive(&mut record.rows, &query_id, row_id, count, Some(contents(row)));
                }
            });
        }
        update.drop_unreferenced(&mut record.rows);
        let tentative = update.version().clone();
        row_items(&mut update, &mut items)?;
        let flush = update.finish(times).map_err(|error| Fault::group(cvr_error(&error)))?;
        if let Some(flush) = flush {
            self.commit(flush).await?;
        }
        let executed: Vec<QueryId> = executed.into_iter().map(|executed| executed.query).collect();
        for query_id in &executed {
            if let Some(running) = self.running.get_mut(query_id) {
                running.live = true;
            }
        }
        let all = self.missed(&before, executed, &mut items).await?;
        let after = self.record()?.cvr.version.clone();
        self.poke(&tentative, &items, &after, |base| all || !lacks(base, &before));
        self.schedule_eviction();
        Ok(())
    }

    /// Whether clients have not been told all that is in the record. If so, the replica is asked for as it is where the
    /// group stands: rows that they missed are read there. The newest version may be ahead, and a client that had been sent
    /// a row from there would then be sent older ones, of which the real client does not take a mutation's number.
    pub(super) fn pin_if_behind(&mut self) -> bool {
        let Some(record) = &self.record else { return false };
        let now = &record.cvr.version;
        let behind = self.clients.iter().any(|client| client.is_behind(now));
        if behind && !self.pinning {
            self.pinning = true;
            self.mailbox.pin();
        }
        behind
    }

    /// The replica can be read where the group stands, until the next event.
    pub(super) async fn on_pinned(&mut self, snapshot: Option<Arc<Snapshot>>) -> Result<(), Fault> {
        self.pinning = false;
        self.pinned = snapshot;
        let done = match self.finish_batches().await {
            Ok(()) => self.catch_up().await,
            Err(fault) => Err(fault),
        };
        self.pinned = None;
        done?;
        if self.synced {
            self.pin_if_behind();
        }
        Ok(())
    }

    /// Sends what they missed to clients that are behind though nothing new happened.
    async fn catch_up(&mut self) -> Result<(), Fault> {
        if !self.synced {
            // The first batch is on its way and catches everybody up.
            return Ok(());
        }
        let now = self.record()?.cvr.version.clone();
        let mut items = Vec::new();
        if self.missed(&now, Vec::new(), &mut items).await? {
            self.poke(&now, &items, &now, |base| lacks(base, &now));
        }
        Ok(())
    }

    /// Adds what happened up to a version that some client does not have; `excluded` queries' rows are told anyway. False if
    /// it cannot be read now.
    async fn missed(
        &mut self,
        up_to: &CvrVersion,
        excluded: Vec<QueryId>,
        items: &mut Vec<Item>,
    ) -> Result<bool, Fault> {
        let behind: Vec<Option<CvrVersion>> =
            self.clients.iter().filter(|client| client.is_behind(up_to)).map(|client| client.base.clone()).collect();
        let Some(after) = behind.iter().min().cloned() else { return Ok(true) };
        let Some(snapshot) = self.pinned.clone() else { return Ok(false) };
        let record = self.record()?;
        let caught_up = if behind.iter().all(Option::is_none) {
            // Whoever has nothing needs not be told what is gone: memory knows the rest.
            let excluded = excluded.into_iter().collect();
            let (rows, queries) = cvr::catch_up::from_nothing(&record.cvr, &record.rows, up_to, &excluded);
            CaughtUp { rows, queries }
        } else {
            let current = record.cvr.version.clone();
            let range = Range { group: Arc::clone(&self.id), after, up_to: up_to.clone(), current, excluded };
            self.services.store.catch_up(range).await.map_err(|error| Fault::group(store_error(&error)))?
        };
        let Some(tables) = &self.tables else { return Ok(true) };
        let mut wanted = Vec::new();
        let (mut patches, mut dels) = (Vec::new(), Vec::new());
        for patch in caught_up.rows {
            match patch.put {
                None => dels.push(Item::Row(RowPatch { to_version: patch.to_version, row: patch.row, put: None })),
                Some(()) => {
                    if let Some(key) = tables.lookup_key(&patch.row) {
                        wanted.push((Arc::clone(patch.row.table()), key));
                        patches.push(patch);
                    }
                }
            }
        }
        if !wanted.is_empty() {
            let schema = Arc::clone(&tables.schema);
            let read = move || replica::rows_by_key(&snapshot, &schema, &wanted);
            let unread = |error: &dyn std::fmt::Display| Fault::passing("Rows could not be read", error);
            let rows = match tokio::task::spawn_blocking(read).await.map_err(|error| unread(&error))? {
                // Given up because the group took too long; another one is asked for.
                Err(ReplicaError::PinExpired(_)) => return Ok(false),
                Err(error @ ReplicaError::Value(_)) => return Err(Fault::internal(&error)),
                rows => rows.map_err(|error| unread(&error))?,
            };
            items.extend(patches.into_iter().zip(rows).filter_map(|(patch, row)| {
                Some(Item::Row(RowPatch { to_version: patch.to_version, row: patch.row, put: Some(row?) }))
            }));
        }
        items.append(&mut dels);
        items.extend(caught_up.queries.into_iter().map(Item::Query));
        Ok(true)
    }

    /// Writes an update and takes the record that it leaves.
    async fn commit(&mut self, flush: Arc<Flush>) -> Result<(), Fault> {
        self.services.store.flush(Arc::clone(&flush)).await.map_err(|error| Fault::group(store_error(&error)))?;
        let record = self.record()?;
        record.rows.apply(&flush);
        record.cvr = flush.cvr.clone();
        Ok(())
    }

    /// Pokes the clients at certain bases from there to `to`. A client that is too slow is left out; it is caught up
    /// when it has room.
    pub(super) fn poke(
        &mut self,
        tentative: &CvrVersion,
        items: &[Item],
        to: &CvrVersion,
        who: impl Fn(Option<&CvrVersion>) -> bool,
    ) {
        let poke_id = tentative.to_string();
        let mut waiting: Vec<usize> = Vec::new();
        for (position, client) in self.clients.iter_mut().enumerate() {
            if client.is_joining() || client.lagging || !who(client.base.as_ref()) {
                continue;
            }
            if !client.connection.outbox.has_room() {
                client.lagging = true;
                client.connection.outbox.ask_for_room();
                tracing::debug!(client = &*client.connection.client_id, "a client is slow; it is caught up later");
                continue;
            }
            waiting.push(position);
        }
        while let Some(&first) = waiting.first() {
            let base = self.clients[first].base.clone();
            let chunked = self.clients[first].connection.takes_chunks();
            let (alike, others) = waiting.iter().partition(|&&position| {
                let client = &self.clients[position];
                client.base == base && client.connection.takes_chunks() == chunked
            });
            waiting = others;
            let parts = text(&poke_id, &self.id, items, base.as_ref(), self.tables.as_deref(), &self.services.texts);
            let empty = parts.is_empty();
            let mut parts: Option<Vec<Frame>> = Some(match chunked {
                true => chunks(&parts),
                false => parts.into_iter().map(Frame::Text).collect(),
            });
            let mut alike: Vec<usize> = alike;
            while let Some(position) = alike.pop() {
                let parts = if alike.is_empty() { parts.take() } else { parts.clone() }.unwrap_or_default();
                let client = &mut self.clients[position];
                if empty && client.poked && client.base.as_ref() == Some(to) {
                    continue;
                }
                let cookie = client.base.as_ref().map(ToString::to_string);
                let mut messages = Vec::with_capacity(parts.len() + 2);
                messages.push(poke_start(&poke_id, cookie.as_deref()).into());
                messages.extend(parts);
                messages.push(poke_end(&poke_id, &to.to_string()).into());
                client.connection.outbox.send(messages);
                client.base = Some(to.clone());
                client.poked = true;
            }
        }
    }
}

/// The parts that take a client from a base.
fn text(
    poke_id: &str,
    group: &str,
    items: &[Item],
    base: Option<&CvrVersion>,
    tables: Option<&Tables>,
    texts: &crate::row_text::RowTexts,
) -> Vec<String> {
    let mut poke = PokeText::new(poke_id);
    for item in items.iter().filter(|item| lacks(base, item.version())) {
        match item {
            Item::Query(patch) => match &patch.client {
                Some(client) => poke.desired(client, &patch.query, patch.put),
                None => poke.got(&patch.query, patch.put),
            },
            Item::Row(patch) => {
                let Some(table) = tables.and_then(|tables| tables.get(patch.row.table())) else { continue };
                match &patch.put {
                    Some(row) => write_put(table, row, group, items.len(), texts, &mut poke),
                    None => write_del(table, &patch.row, &mut poke),
                }
            }
        }
    }
    poke.finish()
}

fn contents(row: &Arc<StoredRow>) -> Contents<Arc<StoredRow>> {
    Contents { row_version: Arc::clone(&row.version), value: Arc::clone(row) }
}

/// Adds an update's row patches: rows that came first, then rows that went.
fn row_items(update: &mut QueryUpdate<Arc<StoredRow>>, items: &mut Vec<Item>) -> Result<(), Fault> {
    let patches = update.patches().map_err(|error| Fault::group(cvr_error(&error)))?;
    let (puts, dels): (Vec<_>, Vec<_>) = patches.into_iter().partition(|patch| patch.put.is_some());
    items.extend(puts.into_iter().chain(dels).map(Item::Row));
    Ok(())
}
