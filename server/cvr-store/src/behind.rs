//! Rows written behind the poke.
//!
//! A client need not wait until tens of thousands of rows are in Postgres: the record's version is committed first, and
//! the rows follow. Until they have, the record cannot be loaded (its rows' version differs), so a
//! crash in between costs that group's clients a full sync and never a wrong one.
//!
//! A group's rows wait at most once each: a later write of a row replaces the waiting one. While a group waits, its
//! further flushes leave their rows here too, so that versions are written in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cvr::flush::{Flush, RowWrite};
use cvr::row::RowId;
use indexmap::IndexMap;
use parking_lot::Mutex;
use rustc_hash::{FxBuildHasher, FxHashMap};
use tokio::sync::Notify;
use tracing::{error, warn};
use zql_spec::version::CvrVersion;

use crate::StoreError;
use crate::batch::{self, Behind};
use crate::connection::{Connection, Connections};
use crate::error::Failure;

/// A flush with more rows has them written behind: up to here, writing them with the record costs the poke less than
/// two milliseconds. The reference's threshold.
pub const MAX_ROWS_WITH_RECORD: usize = 100;

/// Rows in one statement. Each takes about 200 bytes of parameters and 50 µs of Postgres: a statement lasts about a
/// quarter of a second, so that no group waits long for another one's rows.
const ROWS_A_STATEMENT: usize = 5_000;

/// Waits between attempts while Postgres cannot be reached.
const RETRY: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// The rows that wait, of all groups.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    state: Mutex<State>,
    /// Rows were added.
    added: Notify,
    /// A group's rows are written, or given up.
    settled: Notify,
    /// A group's rows were given up, or nobody will tell any more.
    given_up: Notify,
}

#[derive(Debug, Default)]
struct State {
    groups: FxHashMap<Arc<str>, Group>,
    /// Groups with something to write that is not being written; each at most once.
    queue: VecDeque<Arc<str>>,
    /// Groups whose rows were given up and that have not been told. At most those that have a failure in `groups`.
    lost: VecDeque<Arc<str>>,
    closed: bool,
}

#[derive(Debug)]
struct Group {
    version: CvrVersion,
    rows: IndexMap<RowId, RowWrite, FxBuildHasher>,
    /// Why the rows cannot be written. The record is lost to its clients.
    failed: Option<String>,
    /// Whether somebody else has locked them.
    locked: bool,
}

struct Part {
    group: Arc<str>,
    complete: Option<CvrVersion>,
    rows: Vec<RowWrite>,
}

impl Waiting {
    /// Whether rows of a group wait (or why they cannot be written).
    pub(crate) fn check(&self, group: &str) -> Result<bool, StoreError> {
        match self.state.lock().groups.get(group) {
            None => Ok(false),
            Some(Group { failed: Some(error), .. }) => Err(StoreError::Refused(error.clone())),
            Some(_) => Ok(true),
        }
    }

    /// Takes the rows of a flush that was committed without them.
    pub(crate) fn add(&self, flush: &Flush) {
        let mut state = self.state.lock();
        let State { groups, queue, .. } = &mut *state;
        let version = flush.cvr.version.clone();
        let group = groups.entry(Arc::clone(&flush.cvr.group)).or_insert_with(|| {
            queue.push_back(Arc::clone(&flush.cvr.group));
            Group { version: version.clone(), rows: IndexMap::default(), failed: None, locked: false }
        });
        group.version = version;
        group.rows.extend(flush.rows.iter().map(|write| (write.row.clone(), write.clone())));
        drop(state);
        self.added.notify_one();
    }

    /// Forgets that a group's rows could not be written: its record is loaded anew.
    pub(crate) fn forget_failure(&self, group: &str) {
        let mut state = self.state.lock();
        if state.groups.get(group).is_some_and(|group| group.failed.is_some()) {
            state.groups.remove(group);
        }
    }

    /// The next group whose rows were given up; `None` when no more will be.
    async fn next_lost(&self) -> Option<Arc<str>> {
        loop {
            {
                let mut state = self.state.lock();
                if let Some(group) = state.lost.pop_front() {
                    return Some(group);
                }
                if state.closed {
                    return None;
                }
            }
            self.given_up.notified().await;
        }
    }

    /// Nothing is written any more.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.given_up.notify_one();
    }

    /// Returns when no rows of the group (of any group, if `None`) wait.
    pub(crate) async fn settled(&self, group: Option<&str>) -> Result<(), StoreError> {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            // Registered before looking, so that nothing is missed in between.
            settled.as_mut().enable();
            let waiting = match group {
                Some(group) => self.check(group)?,
                None => self.state.lock().groups.values().any(|group| group.failed.is_none()),
            };
            if !waiting {
                return Ok(());
            }
            settled.await;
        }
    }

    /// The next rows to write, of as many groups as fit into a statement.
    fn take(&self) -> Vec<Part> {
        let mut state = self.state.lock();
        let mut room = ROWS_A_STATEMENT;
        let mut parts = Vec::new();
        while room > 0
            && let Some(id) = state.queue.pop_front()
        {
            let Some(group) = state.groups.get_mut(&id) else { continue };
            let count = group.rows.len().min(room);
            room -= count;
            let rows = group.rows.drain(..count).map(|(_, write)| write).collect();
            let complete = group.rows.is_empty().then(|| group.version.clone());
            parts.push(Part { group: id, complete, rows });
        }
        parts
    }

    /// Takes back rows that somebody else has locked: they wait behind those of other groups.
    fn put_back(&self, part: Part) {
        let mut state = self.state.lock();
        let Some(group) = state.groups.get_mut(&part.group) else { return };
        let newer = std::mem::take(&mut group.rows);
        group.rows = part.rows.into_iter().map(|write| (write.row.clone(), write)).collect();
        group.rows.extend(newer);
        if !std::mem::replace(&mut group.locked, true) {
            warn!(group = &*part.group, "rows of a client view record are locked by somebody else");
        }
        state.queue.push_back(part.group);
    }

    fn settle(&self, parts: &[Part], outcome: Result<(), &StoreError>) {
        let mut state = self.state.lock();
        let State { groups, queue, lost, .. } = &mut *state;
        for part in parts {
            let Some(group) = groups.get_mut(&part.group) else { continue };
            match outcome {
                Ok(()) if group.rows.is_empty() && part.complete.as_ref() == Some(&group.version) => {
                    groups.remove(&part.group);
                }
                Ok(()) => queue.push_back(Arc::clone(&part.group)),
                Err(error) => {
                    group.rows = IndexMap::default();
                    group.failed = Some(error.to_string());
                    lost.push_back(Arc::clone(&part.group));
                    self.given_up.notify_one();
                }
            }
        }
        drop(state);
        self.settled.notify_waiters();
    }
}

/// Tells of groups whose rows could not be written: their records are lost to their clients, who are to begin anew.
#[derive(Debug)]
pub struct Lost(pub(crate) Arc<Waiting>);

impl Lost {
    /// The next group; `None` when the store is gone.
    pub async fn next(&mut self) -> Option<Arc<str>> {
        self.0.next_lost().await
    }
}

/// Writes waiting rows for ever.
pub(crate) async fn run(waiting: Arc<Waiting>, connections: Arc<Connections>) {
    let mut connection = None;
    loop {
        let mut parts = waiting.take();
        if parts.is_empty() {
            waiting.added.notified().await;
            continue;
        }
        let outcome = write(&connections, &mut connection, &parts).await;
        match outcome {
            // One group's rows cannot be written, or not now; find out whose.
            Err(_) if parts.len() > 1 => {
                for part in parts {
                    let outcome = write(&connections, &mut connection, std::slice::from_ref(&part)).await;
                    settle(&waiting, part, outcome);
                }
            }
            Err(failure) => {
                if let Some(part) = parts.pop() {
                    settle(&waiting, part, Err(failure));
                }
            }
            Ok(()) => waiting.settle(&parts, Ok(())),
        }
    }
}

fn settle(waiting: &Waiting, part: Part, outcome: Result<(), Unwritten>) {
    match outcome {
        Ok(()) => waiting.settle(&[part], Ok(())),
        Err(Unwritten::Locked) => waiting.put_back(part),
        Err(Unwritten::Refused(error)) => {
            error!(group = &*part.group, %error, "rows of a client view record cannot be written; its clients will sync again");
            waiting.settle(&[part], Err(&error));
        }
    }
}

/// Why rows are not written.
enum Unwritten {
    /// Somebody else has locked some of them.
    Locked,
    /// Postgres does not take them.
    Refused(StoreError),
}

/// Writes rows; waits for Postgres where it cannot be reached.
async fn write(
    connections: &Connections,
    connection: &mut Option<Connection>,
    parts: &[Part],
) -> Result<(), Unwritten> {
    let behind: Vec<Behind<'_>> = parts
        .iter()
        .map(|part| Behind {
            group: &part.group,
            complete: part.complete.as_ref().map(ToString::to_string),
            rows: &part.rows,
        })
        .collect();
    let mut attempt = 0;
    loop {
        let outcome = match connections.ensure(connection, connections.limits.lock).await {
            Ok(open) => {
                let write = batch::write_behind(&open.client, &open.statements, &behind);
                connections.limited(write).await
            }
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(Failure::Locked(_)) => return Err(Unwritten::Locked),
            Err(Failure::Store(error @ StoreError::Refused(_))) => return Err(Unwritten::Refused(error)),
            Err(failure) => {
                let error = connections.judge(failure).await;
                let wait = RETRY[attempt.min(RETRY.len() - 1)];
                attempt += 1;
                warn!(%error, ?wait, "writing rows of client view records failed; trying again");
                *connection = None;
                tokio::time::sleep(wait).await;
            }
        }
    }
}
