//! Updates against a record in memory. A patch is one line of text, so that a case reads like a transcript.

use std::sync::Arc;

use zql_spec::value::Value;
use zql_spec::version::{CvrVersion, StateVersion};

use crate::CvrError;
use crate::config::{ConfigUpdate, Put};
use crate::flush::{Flush, FlushTimes};
use crate::patch::{QueryPatch, RowPatch};
use crate::record::{Body, Counts, Cvr};
use crate::row::{QueryId, RowId, Rows, TableKey};
use crate::rows_update::{Contents, Executed, QueryUpdate};

mod config;
mod rows;
mod rows_update;
mod simulation;
mod transcript;
mod ttl;

/// A group: what a server holds in memory.
pub(crate) struct Group {
    pub(crate) cvr: Cvr,
    pub(crate) rows: Rows,
    pub(crate) now: f64,
    pub(crate) last_flush: Option<Arc<Flush>>,
}

pub(crate) const REPLICA: &str = "101";

impl Group {
    pub(crate) fn new() -> Self {
        Group { cvr: Cvr::new("g"), rows: Rows::default(), now: 1000.0, last_flush: None }
    }

    /// A group at a version, as if just loaded.
    pub(crate) fn at(version: &str) -> Self {
        let mut group = Group::new();
        group.cvr.version = version.parse().unwrap();
        group.cvr.stored = true;
        group
    }

    fn times(&mut self) -> FlushTimes {
        self.now += 1.0;
        FlushTimes { last_connect_time: 1.0, last_active: self.now, ttl_clock: self.now }
    }

    fn take(&mut self, flush: Option<Arc<Flush>>) {
        if let Some(flush) = &flush {
            assert_eq!(flush.expected, self.cvr.version);
            self.cvr = flush.cvr.clone();
            self.rows.apply(flush);
        }
        self.last_flush = flush;
    }

    pub(crate) fn version(&self) -> String {
        self.cvr.version.to_string()
    }

    /// What the last update wrote: new clients, deleted clients, queries, desires, rows; `None` for nothing.
    pub(crate) fn wrote(&self) -> Option<[usize; 5]> {
        self.last_flush.as_ref().map(|flush| {
            [
                flush.new_clients.len(),
                flush.deleted_clients.len(),
                flush.queries.len(),
                flush.desires.len(),
                flush.rows.len(),
            ]
        })
    }

    /// A message of a client.
    pub(crate) fn config(
        &mut self,
        change: impl FnOnce(&mut ConfigUpdate) -> Result<(), CvrError>,
    ) -> Result<Vec<String>, CvrError> {
        let mut update = ConfigUpdate::new(&self.cvr);
        change(&mut update)?;
        let times = self.times();
        let (patches, flush) = update.finish(times);
        self.take(flush);
        Ok(patches.iter().map(query_patch).collect())
    }

    /// An engine's update: executed and removed queries, then batches of rows.
    pub(crate) fn update(
        &mut self,
        state: &str,
        executed: &[(&str, &str)],
        removed: &[&str],
        batches: &[&[Received]],
    ) -> Result<Vec<String>, CvrError> {
        let executed: Vec<Executed> = executed.iter().map(|(id, hash)| ran(id, hash, Counts::Own)).collect();
        self.run(state, &executed, removed, batches)
    }

    /// The same, where it matters how rows are counted.
    pub(crate) fn run(
        &mut self,
        state: &str,
        executed: &[Executed],
        removed: &[&str],
        batches: &[&[Received]],
    ) -> Result<Vec<String>, CvrError> {
        let state: StateVersion = state.parse().unwrap();
        let mut update = QueryUpdate::new(&self.cvr, state, &REPLICA.into())?;
        let removed: Vec<QueryId> = removed.iter().map(|id| (*id).into()).collect();
        let mut lines: Vec<String> = update.track(executed, &removed)?.iter().map(query_patch).collect();
        for batch in batches {
            for received in *batch {
                let contents = received.version.map(|version| Contents { row_version: version.into(), value: version });
                update.receive(&mut self.rows, &received.query.into(), row(received.id), received.count, contents);
            }
            lines.extend(update.patches()?.iter().map(row_patch));
        }
        update.drop_unreferenced(&mut self.rows);
        lines.extend(update.patches()?.iter().map(row_patch));
        let times = self.times();
        let flush = update.finish(times)?;
        self.take(flush);
        Ok(lines)
    }

    /// What the record says of a row: own version, patch version, counts.
    pub(crate) fn row(&self, id: &str) -> Option<String> {
        self.rows.get(&row(id)).map(|record| {
            let mut counts = String::new();
            record.ref_counts.write_json(&mut counts);
            format!("{} @{} {counts}", record.row_version, record.patch_version)
        })
    }

    /// The row as the last update wrote it.
    pub(crate) fn written_row(&self, id: &str) -> Option<String> {
        let write = self.last_flush.as_ref()?.rows.iter().find(|write| write.row == row(id))?;
        let counts = write.ref_counts.as_ref().map_or("gone".to_owned(), |counts| {
            let mut text = String::new();
            counts.write_json(&mut text);
            text
        });
        Some(format!("{} @{} {counts}", write.row_version, write.patch_version))
    }
}

pub(crate) fn ran(query: &str, hash: &str, counts: Counts) -> Executed {
    Executed { query: query.into(), hash: hash.into(), counts }
}

/// A row as the engine gives it.
#[derive(Clone, Copy)]
pub(crate) struct Received {
    query: &'static str,
    id: &'static str,
    count: u32,
    version: Option<&'static str>,
}

/// A row that is new to a query or changed.
pub(crate) fn put(query: &'static str, id: &'static str, count: u32, version: &'static str) -> Received {
    Received { query, id, count, version: Some(version) }
}

/// A row whose count changed.
pub(crate) fn count(query: &'static str, id: &'static str, count: u32) -> Received {
    Received { query, id, count, version: None }
}

pub(crate) fn row(id: &str) -> RowId {
    let key = TableKey::new("issue".into(), &["id".into()]);
    RowId::new(&key, &[Value::string(id)])
}

pub(crate) fn put_query(query: &str) -> Put {
    Put { query: query.into(), body: Some(Body::Ast(format!("{{\"table\":\"{query}\"}}").into())), ttl: None }
}

pub(crate) fn put_ttl(query: &str, ttl: f64) -> Put {
    Put { ttl: Some(ttl), ..put_query(query) }
}

pub(crate) fn query_patch(patch: &QueryPatch) -> String {
    let kind = patch.client.as_ref().map_or("got".to_owned(), |client| format!("desired {client}"));
    format!("{kind} {} {} @{}", if patch.put { "put" } else { "del" }, patch.query, patch.to_version)
}

pub(crate) fn row_patch(patch: &RowPatch<&'static str>) -> String {
    let id = patch.row.columns().next().map(|(_, value)| value.clone());
    let Some(Value::String(id)) = id else { panic!("key") };
    match patch.put {
        Some(version) => format!("put {id} {version} @{}", patch.to_version),
        None => format!("del {id} @{}", patch.to_version),
    }
}

pub(crate) fn version(text: &str) -> CvrVersion {
    text.parse().unwrap()
}
