//! Tries advice on the data: each advised index is made on a copy of the replica, and the query measured before and after.
//!
//! The copy is as large as the replica and lies in the folder for temporary files while it is needed. Indexes are
//! added one after the other, as the advice is meant.

use anyhow::{Context, Result, bail};
use engine::replica::Replica;
use planner::Planner;
use planner::explain::report::{Report, Totals};
use planner::explain::{Options, Subject};
use rusqlite::Connection;

use crate::queries::Named;
use crate::sources::Source;

/// Measures what each advised index does.
pub(crate) fn check(source: &Source, query: &Named, report: &mut Report) -> Result<()> {
    let Some(replica) = source.replica() else {
        bail!("statistics have no rows to check advice on: --check-advice needs a replica");
    };
    if report.advice.iter().all(|advice| advice.index.is_none()) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("copy.db");
    replica.copy_to(&copy).context("copy the replica")?;
    let measure = || -> Result<Totals> {
        let Some(replica) = Replica::inspect(&copy)? else { bail!("the copy of the replica does not open") };
        let subject = Subject::replica(&replica.pin()?);
        let options = Options { advice: false, ..Options::default() };
        // A planner remembers statistics for a while, so each measurement has its own.
        Ok(Planner::new().report(&subject, &query.ast, &options)?.totals)
    };
    let mut before = measure()?;
    for (number, advice) in report.advice.iter_mut().enumerate() {
        let Some(index) = &advice.index else { continue };
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let columns: Vec<String> =
            index.columns.iter().map(|(column, direction)| format!("{} {direction}", quote(column))).collect();
        let connection = Connection::open(&copy)?;
        connection.execute_batch(&format!(
            "CREATE INDEX \"advised {number}\" ON {table} ({}); ANALYZE {table};",
            columns.join(", "),
            table = quote(&index.table)
        ))?;
        drop(connection);
        let after = measure()?;
        advice.measured_ms = before.ms.zip(after.ms);
        advice.measured_visited = before.rows_visited.zip(after.rows_visited);
        before = after;
    }
    Ok(())
}
