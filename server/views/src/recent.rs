//! Commits that running hydrations have not seen.
//!
//! A hydration reads the version that was newest when it began; the sequencer meanwhile moves on. Commits
//! after the oldest running hydration's version are kept, composed on demand to bring it up to date. They
//! are bounded by rows: past the bound the oldest are dropped and hydrations that needed them start again,
//! which by then costs less than catching up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use engine::commit::{Commit, Version};
use engine::replica::{Replica, ReplicaError, Snapshot};
use parking_lot::Mutex;

/// Rows of commits kept for running hydrations: about 100 MB of row images at 500 bytes a pair.
const MAX_ROWS: usize = 200_000;

/// See the module.
#[derive(Default)]
pub(crate) struct Recent {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    commits: VecDeque<Arc<Commit>>,
    rows: usize,
    /// How many hydrations run, by the version they read.
    running: BTreeMap<Version, usize>,
    /// The newest commit that is no longer kept.
    dropped: Option<Version>,
}

/// What brings a hydration up to date.
pub(crate) enum Since {
    /// It is: nothing was committed since.
    Nothing,
    /// This.
    Commit(Box<Commit>),
    /// Too much has been committed since: hydrate again.
    Lost,
}

impl Recent {
    /// Pins the newest version for a hydration. Commits after it are kept until [`Recent::done`].
    pub(crate) fn pin(&self, replica: &Arc<Replica>) -> Result<Arc<Snapshot>, ReplicaError> {
        loop {
            // Not under the lock: a pin may have to wait until the log is reset, which waits for the sequencer's
            // pin, and the sequencer needs the lock.
            let snapshot = replica.pin()?;
            let mut inner = self.inner.lock();
            if inner.dropped.as_ref().is_some_and(|dropped| *dropped > snapshot.version) {
                // A commit that this hydration would need came and went meanwhile.
                continue;
            }
            *inner.running.entry(Arc::clone(&snapshot.version)).or_default() += 1;
            return Ok(snapshot);
        }
    }

    /// A hydration that read `version` has been dealt with.
    pub(crate) fn done(&self, version: &Version) {
        let mut inner = self.inner.lock();
        if let Some(count) = inner.running.get_mut(version) {
            *count -= 1;
            if *count == 0 {
                inner.running.remove(version);
            }
        }
        inner.trim();
    }

    /// Remembers a commit as the writer made it. Not as the graphs take it: several that are taken as one lead
    /// over versions that a hydration may stand at, and no longer tell of rows that came and went.
    pub(crate) fn push(&self, commit: &Arc<Commit>) {
        let mut inner = self.inner.lock();
        inner.rows += commit.row_count();
        inner.commits.push_back(Arc::clone(commit));
        inner.trim();
    }

    /// What was committed after `version`, up to the version `until` of the graphs.
    pub(crate) fn since(&self, version: &Version, until: &Version) -> Since {
        let inner = self.inner.lock();
        let mut later = inner.commits.iter().filter(|commit| commit.version > *version && commit.version <= *until);
        let Some(first) = later.next() else { return Since::Nothing };
        if first.base > *version {
            return Since::Lost;
        }
        let mut composed = Commit::clone(first);
        for commit in later {
            composed.compose(commit);
        }
        Since::Commit(Box::new(composed))
    }
}

impl Inner {
    fn trim(&mut self) {
        let oldest = self.running.keys().next();
        while let Some(first) = self.commits.front() {
            let needed = oldest.is_some_and(|oldest| first.version > *oldest);
            // The newest commit stays even if it alone is too large, so that a gap can be told from "nothing since".
            if needed && (self.rows <= MAX_ROWS || self.commits.len() == 1) {
                break;
            }
            self.rows -= first.row_count();
            self.dropped = Some(Arc::clone(&first.version));
            self.commits.pop_front();
        }
    }
}
