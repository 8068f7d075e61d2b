//! Running cases on backends: one lane for each backend and data set, lanes beside each other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use testdata::postgres::Postgres;
use zql_spec::conformance::{Backend, Case, DataSet, Defects, Naive, Outcome, run};

use crate::in_process::InProcess;
use crate::postgres::InPostgres;
use crate::suite::Suite;
use crate::target::Target;
use crate::wire::Wire;

/// Lanes that run at once. They wait more than they compute; more would only make a server's queues longer.
const LANES: usize = 12;

/// Cases in a row without any answer after which a lane to a live server is given up: each waits a minute, and there are
/// hundreds.
const LOST_MAX: usize = 3;

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

    /// Whether there is no use in asking again after so many cases in a row without an answer, and why.
    fn gone(&self, instance: usize, lost: usize) -> Option<String> {
        let Subject::Live { targets, .. } = self else { return None };
        let target = targets.get(instance)?;
        match target.probe() {
            Err(error) => Some(format!("{error:#}")),
            Ok(()) if lost >= LOST_MAX => Some(format!("{} gave no answer {lost} times in a row", target.url)),
            Ok(()) => None,
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
            let done = run_lane(&lane, &suite.defects, progress)?;
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

fn run_lane(lane: &Lane<'_>, defects: &Defects, progress: &ProgressBar) -> Result<Vec<CaseResult>> {
    let mut attempt = 0;
    let mut backend = lane.subject.backend(&format!("{}-{attempt}", lane.data.name), lane.instance)?;
    let name = backend.name().to_owned();
    let mut results = Vec::new();
    let (mut lost, mut gone) = (0, None);
    for (file, case) in &lane.cases {
        let begun = Instant::now();
        let outcome = match &gone {
            Some(why) => Outcome::Skipped(format!("the lane was given up: {why}")),
            None => match run(case, lane.data, backend.as_mut()) {
                Ok(outcome) => {
                    lost = 0;
                    outcome
                }
                Err(error) => {
                    lost += 1;
                    gone = lane.subject.gone(lane.instance, lost);
                    if gone.is_none() {
                        // What it holds now is anybody's guess.
                        attempt += 1;
                        backend = lane.subject.backend(&format!("{}-{attempt}", lane.data.name), lane.instance)?;
                    }
                    Outcome::Failed(error.to_string())
                }
            },
        };
        results.push(CaseResult {
            backend: name.clone(),
            file: (*file).to_owned(),
            case: case.name.clone(),
            line: case.line,
            outcome: judge(outcome, case, lane.subject.is_reference().then_some(defects)),
            seconds: begun.elapsed().as_secs_f64(),
        });
        progress.inc(1);
    }
    Ok(results)
}

/// A known defect of the reference is no failure there, and a case that names one and passes is.
fn judge(outcome: Outcome, case: &Case, reference: Option<&Defects>) -> Outcome {
    let Some(defects) = reference.filter(|_| !case.defects.is_empty()) else { return outcome };
    let labels = case.defects.join(", ");
    match outcome {
        Outcome::Failed(_) => Outcome::Skipped(format!("known defect {labels}")),
        Outcome::Passed if defects.always(&case.defects) => Outcome::Failed(format!(
            "it names the defect {labels} and passes: the label is stale, or needs a `?` if the defect shows only sometimes"
        )),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use zql_spec::conformance::CaseFile;

    use super::*;

    #[test]
    fn labels_excuse_the_reference_alone_and_no_longer_than_they_are_true() {
        let defects = Defects::parse("defect A\n  It is wrong.\n").unwrap();
        let case = |label: &str| {
            let text = format!("data d\n\ncase one\n  t\n{label}rows\n  none\n");
            CaseFile::parse(&text).unwrap().cases.remove(0)
        };
        let failed = || Outcome::Failed("x".into());
        for (label, outcome, on_reference) in [
            ("", Outcome::Passed, "passed"),
            ("", failed(), "failed"),
            ("defect A\n", failed(), "skipped"),
            ("defect A\n", Outcome::Passed, "failed"),
            ("defect A?\n", failed(), "skipped"),
            ("defect A?\n", Outcome::Passed, "passed"),
        ] {
            let found = match judge(outcome.clone(), &case(label), Some(&defects)) {
                Outcome::Passed => "passed",
                Outcome::Failed(_) => "failed",
                Outcome::Skipped(_) => "skipped",
            };
            assert_eq!(found, on_reference, "{label:?} {outcome:?}");
            assert_eq!(judge(outcome.clone(), &case(label), None), outcome);
        }
    }
}
