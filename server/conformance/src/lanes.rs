//! Running cases on backends: one lane for each backend and data set, lanes beside each other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use testdata::postgres::Postgres;
use zql_spec::conformance::{Backend, Case, DataSet, Naive, Outcome, run};

use crate::in_process::InProcess;
use crate::postgres::InPostgres;
use crate::suite::Suite;
use crate::target::Target;
use crate::wire::Wire;

/// Lanes that run at once. They wait more than they compute; more would only make a server's queues longer.
const LANES: usize = 12;

/// An implementation to test.
#[derive(Clone, Copy)]
pub(crate) enum Subject<'t> {
    /// The naive evaluator.
    Naive,
    /// Planner and engine without a server.
    InProcess,
    /// Postgres by SQL.
    Postgres(&'t Postgres),
    /// A live server; `reference` when it is the published one, whose defects are known.
    Live {
        /// Servers of one kind; the cases are dealt out to them.
        targets: &'t [Target],
        /// Whether failures of cases that name a defect are expected.
        reference: bool,
    },
}

impl Subject<'_> {
    /// A backend for one lane, on the nth of several servers.
    pub(crate) fn backend(&self, lane: &str, instance: usize) -> Result<Box<dyn Backend>> {
        Ok(match self {
            Subject::Naive => Box::new(Naive::default()),
            Subject::InProcess => Box::new(InProcess::default()),
            Subject::Postgres(postgres) => Box::new(InPostgres::connect(&postgres.database()?)?),
            Subject::Live { targets, .. } => {
                let target = targets.get(instance).context("a server for each lane")?;
                Box::new(Wire::connect(target, lane)?)
            }
        })
    }

    /// Into how many lanes the cases of a data set may be dealt out: they wait for one another's transactions otherwise.
    fn instances(&self) -> usize {
        match self {
            Subject::Live { targets, .. } => targets.len(),
            Subject::Postgres(_) => 2,
            Subject::Naive | Subject::InProcess => 1,
        }
    }

    /// How long a case takes, roughly and relative to others.
    fn cost(&self) -> usize {
        match self {
            Subject::Live { .. } => 10,
            Subject::Postgres(_) => 2,
            Subject::Naive | Subject::InProcess => 1,
        }
    }

    fn is_reference(&self) -> bool {
        matches!(self, Subject::Live { reference: true, .. })
    }
}

/// How a case ended on a backend.
#[derive(Clone, Debug)]
pub(crate) struct CaseResult {
    pub(crate) backend: String,
    pub(crate) file: String,
    pub(crate) case: String,
    pub(crate) line: usize,
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
}

/// What one lane does.
struct Lane<'a> {
    subject: Subject<'a>,
    data: &'a Arc<DataSet>,
    instance: usize,
    cases: Vec<(&'a str, &'a Case)>,
}

/// Runs the cases that are wanted on all subjects.
///
/// # Errors
/// When a backend cannot be made.
pub(crate) fn run_all(
    suite: &Suite,
    subjects: &[Subject<'_>],
    wanted: &(dyn Fn(&str, &Case) -> bool + Sync),
    progress: &ProgressBar,
) -> Result<Vec<CaseResult>> {
    let mut lanes = VecDeque::new();
    for subject in subjects.iter().rev() {
        for data in &suite.data {
            let files = suite.files.iter().filter(|(_, file)| *file.data == *data.name);
            let cases = files.flat_map(|(name, file)| file.cases.iter().map(move |case| (name.as_str(), case)));
            let cases: Vec<(&str, &Case)> = cases.filter(|(name, case)| wanted(name, case)).collect();
            let each = cases.len().div_ceil(subject.instances()).max(1);
            for (instance, cases) in cases.chunks(each).enumerate() {
                lanes.push_back(Lane { subject: *subject, data, instance, cases: cases.to_vec() });
            }
        }
    }
    // The longest first, so that none is left over at the end.
    lanes.make_contiguous().sort_by_key(|lane| std::cmp::Reverse(lane.cases.len() * lane.subject.cost()));
    progress.set_length(lanes.iter().map(|lane| lane.cases.len() as u64).sum());
    let lanes = Mutex::new(lanes);
    let results = Mutex::new(Vec::new());
    let next = || lanes.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || -> Result<()> {
        while let Some(lane) = next() {
            let done = run_lane(&lane, progress)?;
            results.lock().unwrap_or_else(PoisonError::into_inner).extend(done);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..LANES).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a lane panicked; its message is above")))
        })
    })?;
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by(|a, b| (&a.backend, &a.file, a.line).cmp(&(&b.backend, &b.file, b.line)));
    Ok(results)
}

fn run_lane(lane: &Lane<'_>, progress: &ProgressBar) -> Result<Vec<CaseResult>> {
    let mut attempt = 0;
    let mut backend = lane.subject.backend(&format!("{}-{attempt}", lane.data.name), lane.instance)?;
    let mut results = Vec::new();
    for (file, case) in &lane.cases {
        let begun = Instant::now();
        let outcome = match run(case, lane.data, backend.as_mut()) {
            Ok(outcome) => outcome,
            Err(error) => {
                // What it holds now is anybody's guess.
                attempt += 1;
                backend = lane.subject.backend(&format!("{}-{attempt}", lane.data.name), lane.instance)?;
                Outcome::Failed(error.to_string())
            }
        };
        results.push(CaseResult {
            backend: backend.name().to_owned(),
            file: (*file).to_owned(),
            case: case.name.clone(),
            line: case.line,
            outcome: judge(outcome, case, lane.subject.is_reference()),
            seconds: begun.elapsed().as_secs_f64(),
        });
        progress.inc(1);
    }
    Ok(results)
}

/// A known defect of the reference is no failure there.
fn judge(outcome: Outcome, case: &Case, reference: bool) -> Outcome {
    match outcome {
        Outcome::Failed(_) if reference && !case.defects.is_empty() => {
            Outcome::Skipped(format!("known defect {}", case.defects.join(", ")))
        }
        outcome => outcome,
    }
}
