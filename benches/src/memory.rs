//! What a first answer needs of memory: its peak while it is made, and the state that stays.
//!
//! Each query runs in a process of its own, because a peak belongs to a process. The child loads nothing: the parent
//! made the replica. Rows are written as text and forgotten, as a socket would; what stays is the graph. Pages of the replica
//! that are mapped count as resident, although they are the operating system's cache, which it takes back when it needs room.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use engine::replica::Replica;
use planner::Planner;
use serde_json::{Value, json};

use crate::answer::{Answering, texts};
use crate::hand::Sink;
use crate::measure::{reset_peak, resident_mb};
use crate::report::{Cell, Report, Section};
use crate::tracker::{self, related, simple};

/// Memory that an answer of a million rows may need beside the graph's state.
const PEAK_TARGET_MB: f64 = 300.0;

/// Bytes of state for a row of a node without a limit.
const STATE_TARGET_BYTES: f64 = 64.0;

/// The queries, by name.
fn queries() -> [(&'static str, Value); 2] {
    let mut discussed = json!({"table": "issue", "where": simple("priority", "<", 2)});
    discussed["related"] = json!([related("comments", "id", "issue_id", json!({"table": "comment"}))]);
    [("every issue", json!({"table": "issue"})), ("two fifths of the issues with their comments", discussed)]
}

/// Measures all queries over one number of issues, each in a process that `child` of this program runs.
pub(crate) fn run(issues: i64, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("replica.db");
    drop(tracker::load(&path, issues)?);
    let mut section = Section::new(
        "memory",
        &format!("Memory of a first answer over {issues} issues"),
        &[
            "query",
            "rows",
            "text",
            "peak beside the state",
            "at most",
            "of it the replica's pages",
            "state",
            "state a row",
            "at most a row",
        ],
    );
    for (number, (name, _)) in queries().into_iter().enumerate() {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--memory-of").arg(number.to_string()).arg("--replica").arg(&path).stderr(Stdio::inherit());
        let output = command.output()?;
        ensure!(output.status.success(), "measuring the memory of '{name}' failed");
        let seen: Value = serde_json::from_slice(&output.stdout)?;
        let number = |what: &str| seen[what].as_f64().context("the child tells a number");
        let (rows, peak, state) = (number("rows")?, number("peak_mb")?, number("state_bytes")?);
        let beside = peak - number("before_mb")? - state / 1e6;
        section.row(vec![
            Cell::text(name),
            Cell::count(rows as usize),
            Cell::megabytes(number("text_bytes")? / 1e6),
            Cell::megabytes(beside).held(beside <= PEAK_TARGET_MB),
            Cell::megabytes(PEAK_TARGET_MB),
            Cell::megabytes(number("mapped_mb")?),
            Cell::megabytes(state / 1e6),
            Cell::bytes(state / rows).held(state / rows <= STATE_TARGET_BYTES),
            Cell::bytes(STATE_TARGET_BYTES),
        ]);
    }
    report.add(section);
    Ok(())
}

/// Runs one query in this process and prints what it took as JSON.
pub(crate) fn child(number: usize, path: &Path) -> Result<()> {
    let snapshot = Replica::open(path)?.context("the replica is there")?.pin()?;
    let (_, ast) = queries().into_iter().nth(number).context("there is such a query")?;
    let query = tracker::resolve(&ast, &snapshot)?;
    let answering = Answering { planner: Planner::new(), snapshot: &snapshot, texts: texts(&snapshot) };
    // Statistics, caches of pages and statements belong to the process, not to the answer.
    let point = tracker::resolve(&json!({"table": "issue", "where": simple("id", "=", "i1")}), &snapshot)?;
    answering.write(&point, &mut Sink::default())?;
    reset_peak();
    let (before, mapped) = (resident_mb("VmRSS"), resident_mb("RssFile"));
    let mut sink = Sink::default();
    let graph = answering.write_with_state(&Arc::clone(&query), &mut sink)?;
    let seen = json!({
        "rows": sink.rows,
        "text_bytes": sink.bytes,
        "before_mb": before,
        "peak_mb": resident_mb("VmHWM"),
        "mapped_mb": resident_mb("RssFile") - mapped,
        "state_bytes": graph.state_bytes(),
    });
    println!("{seen}");
    Ok(())
}
