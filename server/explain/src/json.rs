//! Reports as one JSON object.
//!
//! Whatever was asked, `totals`, `advice`, `errors` and `queries` (a list of reports) stand at the top. Where one query was
//! explained, all keys of its report stand there besides.

use std::io::Write;

use anyhow::Result;
use planner::explain::report::{Advice, Report, Totals};
use serde::Serialize;

use crate::queries::Fault;

/// One query.
#[derive(Serialize)]
struct One<'r> {
    #[serde(flatten)]
    report: &'r Report,
    errors: Vec<Error<'r>>,
    queries: [&'r Report; 1],
}

/// Several.
#[derive(Serialize)]
struct Many<'r> {
    totals: Sums,
    advice: Vec<Advised<'r>>,
    errors: Vec<Error<'r>>,
    queries: &'r [Report],
}

/// Sums over several queries.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sums {
    rows_visited: Option<u64>,
    rows_read: Option<u64>,
    rows_out: Option<u64>,
    ms: Option<f64>,
    plan_ms: f64,
    cost: f64,
}

/// Advice, and the name of the query that it is for.
#[derive(Serialize)]
struct Advised<'r> {
    query: Option<&'r str>,
    #[serde(flatten)]
    advice: &'r Advice,
}

/// A query that could not be explained.
#[derive(Serialize)]
pub(crate) struct Error<'r> {
    query: Option<&'r str>,
    place: Option<&'r str>,
    error: String,
}

impl<'r> Error<'r> {
    /// Of these faults.
    pub(crate) fn all(faults: &'r [Fault]) -> Vec<Error<'r>> {
        let error = |fault: &'r Fault| Error {
            query: fault.name.as_deref(),
            place: fault.place.as_deref(),
            error: format!("{:#}", fault.error),
        };
        faults.iter().map(error).collect()
    }
}

/// Writes reports, and which queries there are none of.
pub(crate) fn print(reports: &[Report], faults: &[Fault], out: &mut dyn Write) -> Result<()> {
    let errors = Error::all(faults);
    match reports {
        [report] => serde_json::to_writer_pretty(&mut *out, &One { report, errors, queries: [report] })?,
        reports => {
            let advice = reports.iter().flat_map(|report| {
                report.advice.iter().map(|advice| Advised { query: report.name.as_deref(), advice })
            });
            let many = Many { totals: sums(reports), advice: advice.collect(), errors, queries: reports };
            serde_json::to_writer_pretty(&mut *out, &many)?;
        }
    }
    writeln!(out)?;
    Ok(())
}

fn sums(reports: &[Report]) -> Sums {
    let sum = |of: fn(&Totals) -> Option<u64>| reports.iter().map(|report| of(&report.totals)).sum::<Option<u64>>();
    Sums {
        rows_visited: sum(|totals| totals.rows_visited),
        rows_read: sum(|totals| totals.rows_read),
        rows_out: sum(|totals| totals.rows_out),
        ms: reports.iter().map(|report| report.totals.ms).sum(),
        plan_ms: reports.iter().map(|report| report.totals.plan_ms).sum(),
        cost: reports.iter().map(|report| report.totals.cost).sum(),
    }
}
