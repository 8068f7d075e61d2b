//! The threads that keep every registered query's answer current, and the mailboxes that client groups
//! read.
//!
//! One thread, the [`sequencer`](crate::sequencer), owns the running graphs. It takes commits from the
//! replicator, advances the graphs they touch, and posts the deltas. A small pool of [`workers`](crate::workers)
//! hydrates: beside the sequencer, never in front of it. A hydration that finished late is brought up to
//! date by the commits that came since. Equal queries share one graph, whoever asks.
//!
//! The order that groups rely on: in a mailbox, every advance up to version v comes before a hydration at
//! v, and every later one after it. A group that handles its mailbox in order is consistent.
//!
//! It must not know Postgres, the client protocol or client view records.
//!
//! Scaling: a commit costs the graphs it touches plus one post per subscriber of those. Commits that wait
//! are composed, in the queue and in each mailbox, so a queue is bounded by the distinct rows changed. A graph
//! costs its state once, not per subscriber.

mod answers;
mod event;
mod mailbox;
mod recent;
mod sequencer;
mod workers;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use engine::commit::Commit;
use engine::hydration::Hydrate;
use engine::replica::{Replica, ReplicaError, Snapshot};

pub use event::{Event, HydrateFailure};
pub use mailbox::Mailbox;

use recent::Recent;
use sequencer::Queue;

/// How a [`Views`] runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Hydrations that run at once. More than cores only adds pinned versions and memory.
    pub hydration_threads: NonZeroUsize,
    /// How long a graph is kept current after its last subscriber left, so that a client that reconnects
    /// finds it warm.
    pub linger: Duration,
    /// How many rows of a running query are read for a late subscriber between two commits. The rows of a larger answer
    /// are read on the threads that hydrate.
    pub late_rows: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            hydration_threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            // The reference keeps a client group alive for 5 s after its last connect.
            linger: Duration::from_secs(5),
            // At 5 µs a row, a commit waits for them as long as for a disk.
            late_rows: 1_000,
        }
    }
}

/// Numbers for operators to watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Graphs that are kept current.
    pub graphs: usize,
    /// Subscriptions of client groups to graphs.
    pub subscriptions: usize,
    /// Hydrations that wait or run.
    pub hydrations: usize,
    /// Commits taken, after composition.
    pub commits: u64,
    /// Evaluations: how often a graph took a commit that it could see, or was found to be answered anew.
    pub evaluations: u64,
}

/// The running queries of this process. Cheap to clone; the threads end when the last clone and the last
/// mailbox are gone.
#[derive(Clone)]
pub struct Views {
    replica: Arc<Replica>,
    queue: Arc<Queue>,
    recent: Arc<Recent>,
    _owner: Arc<Owner>,
}

/// Ends the threads when the last handle is dropped.
struct Owner(Arc<Queue>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

impl Views {
    /// Starts the threads over a replica.
    pub fn start(
        replica: Arc<Replica>,
        hydrator: Arc<dyn Hydrate<Snapshot>>,
        options: Options,
    ) -> std::io::Result<Views> {
        let queue = Arc::new(Queue::default());
        let version = replica.state().state_version;
        let recent = Arc::new(Recent::default());
        let jobs = workers::start(&options, &replica, hydrator, &recent, &queue)?;
        sequencer::start(Arc::clone(&queue), Arc::clone(&replica), Arc::clone(&recent), jobs, version, &options)?;
        let owner = Arc::new(Owner(Arc::clone(&queue)));
        Ok(Views { replica, queue, recent, _owner: owner })
    }

    /// Tells of a commit. To be called by the replica's writer thread right after each of its commits, before
    /// the next one, without exception: the version that is newest now is pinned for the graphs to read.
    ///
    /// # Errors
    /// If the version cannot be pinned. The commit is then composed with the next one.
    pub fn committed(&self, commit: Arc<Commit>) -> Result<(), ReplicaError> {
        self.recent.push(&commit);
        let snapshot = self.replica.pin();
        match snapshot {
            Ok(snapshot) => {
                debug_assert_eq!(snapshot.version, commit.version, "pinned between this commit and the next");
                self.queue.push_commit(commit, Some(snapshot));
                Ok(())
            }
            Err(error) => {
                self.queue.push_commit(commit, None);
                Err(error)
            }
        }
    }

    /// A mailbox for a client group.
    pub fn mailbox(&self) -> Mailbox {
        Mailbox::new(self.clone())
    }

    /// Numbers for operators to watch.
    pub fn metrics(&self) -> Metrics {
        self.queue.metrics()
    }

    /// The replica that is read.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
}
