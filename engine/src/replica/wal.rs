//! The write-ahead log's length: when it is checkpointed, and when it begins anew.
//!
//! The log grows with what is written and can only begin anew when nothing is pinned; the replica's head says why.
//! The writer looks after it between two transactions, which costs two atomic reads unless something is due.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Connection;

use super::error::ReplicaError;
use super::{BUSY_TIMEOUT, Replica, touch};

/// Pages the log grows by between two checkpoints: 4 MiB, SQLite's own default.
const CHECKPOINT_PAGES: u64 = 1000;

/// From this length on (64 MiB) the log is reset when nothing is pinned.
const SOFT_PAGES: u64 = 16 << 10;

/// From this length on (512 MiB) pins are held back and given up so that the log can be reset: reads
/// slow down as the log grows, and disks end.
const HARD_PAGES: u64 = 128 << 10;

/// How long pins may still be used once the log is too long: longer than nearly all hydrations.
const PIN_GRACE: Duration = Duration::from_secs(10);

/// Bounds of the write-ahead log, in pages of 4 KiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogBounds {
    pub(super) soft: u64,
    pub(super) hard: u64,
    pub(super) grace: Duration,
}

/// What is due next.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogUpkeep {
    pub(super) bounds: LogBounds,
    next_checkpoint: u64,
    next_reset: u64,
}

impl Default for LogUpkeep {
    fn default() -> Self {
        let bounds = LogBounds { soft: SOFT_PAGES, hard: HARD_PAGES, grace: PIN_GRACE };
        LogUpkeep { bounds, next_checkpoint: CHECKPOINT_PAGES, next_reset: 0 }
    }
}

impl LogUpkeep {
    /// Asks for a checkpoint when the log has grown, and resets the log when that is due and possible.
    pub(super) fn tend(&mut self, replica: &Replica, connection: &Connection) -> Result<(), ReplicaError> {
        let pages = replica.wal_pages.load(Ordering::Relaxed);
        if pages + CHECKPOINT_PAGES < self.next_checkpoint {
            // The log began anew.
            (self.next_checkpoint, self.next_reset) = (CHECKPOINT_PAGES, 0);
        }
        if pages >= self.next_checkpoint {
            self.next_checkpoint = pages + CHECKPOINT_PAGES;
            // Full means that one is due anyway.
            let _ = replica.checkpoint.try_send(());
        }
        if pages < self.bounds.soft.max(self.next_reset) {
            return Ok(());
        }
        let must = pages >= self.bounds.hard;
        if !must && replica.pins.measure().0 > 0 {
            return Ok(());
        }
        let _gate = replica.pins.close();
        let grace = if must { self.bounds.grace } else { Duration::ZERO };
        let drained = replica.pins.drain(grace);
        if reset(connection, grace)? {
            (self.next_checkpoint, self.next_reset) = (CHECKPOINT_PAGES, 0);
        } else {
            // Another process reads: try again when the log has grown noticeably.
            self.next_reset = pages + self.bounds.soft / 4;
            tracing::warn!(pages, drained, "the write-ahead log cannot be reset");
        }
        Ok(())
    }
}

/// Moves the whole log into the database file and begins it anew. False if someone reads from it.
fn reset(connection: &Connection, wait: Duration) -> Result<bool, ReplicaError> {
    connection.busy_timeout(wait)?;
    let busy = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, bool>(0));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if busy? {
        return Ok(false);
    }
    // Until the log is written to again, a snapshot would be one of the old log.
    touch(connection)?;
    Ok(true)
}
