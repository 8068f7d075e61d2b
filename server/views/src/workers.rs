//! The threads that hydrate.
//!
//! A job pins the newest version when it starts, not when it is asked for, so that waiting jobs hold no
//! version. What a worker can prepare (the graph's state, the list of rows) it does, so that the sequencer
//! only installs it. A hydration that panics fails its own query.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use engine::catalogue::GraphId;
use engine::commit::Version;
use engine::graph::{AnswerBuilder, AnswerKeys, AnswerRow, Graph, GraphBuilder, ReplicaRead};
use engine::hydration::Hydrate;
use engine::query::Query;
use engine::replica::{Replica, Snapshot};
use parking_lot::Mutex;

use crate::Options;
use crate::event::HydrateFailure;
use crate::recent::Recent;
use crate::sequencer::{Message, Queue};

/// How often a hydration begins again because the version it read was given up. Each further try begins
/// right after the log was reset, so it has as long as there is.
const MAX_PINS: u32 = 3;

/// A hydration to do.
pub(crate) struct Job {
    pub(crate) target: Target,
    pub(crate) query: Arc<Query>,
    /// Set when nobody wants the answer any more.
    pub(crate) cancelled: Arc<AtomicBool>,
}

/// What a hydration is for.
#[derive(Clone)]
pub(crate) enum Target {
    /// A graph that does not exist yet, by the query's key.
    New(Arc<str>),
    /// A graph that was set aside.
    Again(GraphId),
    /// The rows of a running graph for those that came late, as they were at a version.
    Late(Arc<str>, GraphId, Arc<AnswerKeys>, Arc<Snapshot>),
}

/// A finished job.
pub(crate) struct Done {
    pub(crate) target: Target,
    /// The version read; `None` if none could be pinned.
    pub(crate) version: Option<Version>,
    pub(crate) result: Result<Prepared, HydrateFailure>,
}

/// What a worker prepared for the sequencer: a graph, unless it runs already, and the rows of its answer.
pub(crate) struct Prepared {
    pub(crate) graph: Option<Box<Graph>>,
    pub(crate) rows: Vec<AnswerRow>,
}

/// Starts the pool. It ends when the returned sender is dropped.
pub(crate) fn start(
    options: &Options,
    replica: &Arc<Replica>,
    hydrator: Arc<dyn Hydrate<Snapshot>>,
    recent: &Arc<Recent>,
    queue: &Arc<Queue>,
) -> std::io::Result<Sender<Job>> {
    let (sender, receiver) = channel();
    let worker = Arc::new(Worker {
        jobs: Mutex::new(receiver),
        replica: Arc::clone(replica),
        hydrator,
        recent: Arc::clone(recent),
        queue: Arc::clone(queue),
    });
    for number in 0..options.hydration_threads.get() {
        let worker = Arc::clone(&worker);
        std::thread::Builder::new().name(format!("hydrate-{number}")).spawn(move || worker.run())?;
    }
    Ok(sender)
}

struct Worker {
    jobs: Mutex<Receiver<Job>>,
    replica: Arc<Replica>,
    hydrator: Arc<dyn Hydrate<Snapshot>>,
    recent: Arc<Recent>,
    queue: Arc<Queue>,
}

impl Worker {
    fn run(&self) {
        loop {
            let Ok(job) = self.jobs.lock().recv() else { return };
            if job.cancelled.load(Ordering::Relaxed) {
                self.queue.push(Message::Cancelled);
                continue;
            }
            let done = self.hydrate(&job);
            self.queue.push(Message::Done(done));
        }
    }

    fn hydrate(&self, job: &Job) -> Done {
        if let Target::Late(_, _, keys, snapshot) = &job.target {
            return Done { target: job.target.clone(), version: None, result: read_rows(keys, snapshot) };
        }
        let mut pins = 1;
        loop {
            let snapshot = match self.recent.pin(&self.replica) {
                Ok(snapshot) => snapshot,
                Err(error) => {
                    let error = HydrateFailure::Internal(error.to_string().into());
                    return Done { target: job.target.clone(), version: None, result: Err(error) };
                }
            };
            let done = self.hydrate_at(job, &snapshot);
            if done.result.is_ok() || !snapshot.is_expired() || pins == MAX_PINS {
                return done;
            }
            pins += 1;
            self.recent.done(&snapshot.version);
        }
    }

    fn hydrate_at(&self, job: &Job, snapshot: &Arc<Snapshot>) -> Done {
        let hydrate = || -> Result<Prepared, HydrateFailure> {
            let begin = Instant::now();
            let mut graph = GraphBuilder::new(Arc::clone(&job.query));
            let mut answer = AnswerBuilder::new(Arc::clone(&job.query));
            self.hydrator.stream(&job.query, snapshot, &mut |node, row| {
                let row = row.decode()?;
                if graph.row(node, &row) {
                    answer.row(node, &row);
                }
                Ok(())
            })?;
            let mut graph = Box::new(graph.finish(Arc::clone(&snapshot.version)));
            graph.set_hydration_time(begin.elapsed());
            Ok(Prepared { graph: Some(graph), rows: answer.finish() })
        };
        let result = catch_unwind(AssertUnwindSafe(hydrate)).unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            tracing::error!(message, "a hydration panicked");
            Err(HydrateFailure::Internal(format!("internal error: {message}").into()))
        });
        Done { target: job.target.clone(), version: Some(Arc::clone(&snapshot.version)), result }
    }
}

/// The rows of a running graph.
fn read_rows(keys: &AnswerKeys, snapshot: &Arc<Snapshot>) -> Result<Prepared, HydrateFailure> {
    let read = || -> Result<Prepared, String> {
        let mut read = ReplicaRead::new(snapshot.reader().map_err(|error| error.to_string())?);
        let rows = keys.read(&mut read).map_err(|error| error.to_string())?;
        Ok(Prepared { graph: None, rows })
    };
    let failed = |message: &str| HydrateFailure::Internal(format!("internal error: {message}").into());
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|message| failed(&message)),
        Err(panic) => Err(failed(panic_message(&*panic))),
    }
}

/// The text of a panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    match panic.downcast_ref::<&str>() {
        Some(message) => message,
        None => panic.downcast_ref::<String>().map_or("a panic without a message", String::as_str),
    }
}
