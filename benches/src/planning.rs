//! What planning costs: the server's, warm, against DataFusion's own with its defaults, cold.
//!
//! Four tables in both: issues of one creator that have a label of a name, with their comments. DataFusion plans
//! joins over the same tables by its optimiser; the server chooses a plan for each node and builds its operators.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use datafusion::common::JoinType;
use datafusion::prelude::{SessionContext, col, lit};
use engine::replica::Snapshot;
use planner::{Planner, SqliteTable};
use serde_json::json;

use crate::measure::median;
use crate::report::{Cell, Report, Section};
use crate::tracker::{self, labelled, related, simple};

/// The largest share of DataFusion's time that warm planning may take.
const SHARE_TARGET: f64 = 0.1;

/// Issues of the replica; planning does not depend on it.
const ISSUES: i64 = 20_000;

const ROUNDS: usize = 200;

/// Measures both.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let snapshot = tracker::load(&folder.path().join("replica.db"), ISSUES)?.pin()?;
    let ast = |creator: &str| {
        let mut ast = json!({"table": "issue", "where": {"type": "and", "conditions": [
            simple("creator_id", "=", creator), labelled("issue_label", simple("name", "=", "rare"))]}});
        ast["related"] = json!([related("comments", "id", "issue_id", json!({"table": "comment"}))]);
        ast
    };
    let mut cold = Vec::new();
    let mut warm = Vec::new();
    let mut first = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let planner = Planner::new();
    for round in 0..ROUNDS {
        let start = Instant::now();
        runtime.block_on(by_datafusion(&snapshot))?;
        cold.push(start.elapsed());
        // Another literal each time: a plan is for all queries of one shape.
        let query = tracker::resolve(&ast(&format!("u{round}")), &snapshot)?;
        let fresh = Planner::new();
        let start = Instant::now();
        fresh.plan(&query, &snapshot)?;
        first.push(start.elapsed());
        let start = Instant::now();
        planner.plan(&query, &snapshot)?;
        warm.push(start.elapsed());
    }
    let mut section =
        Section::new("planning", "Planning a query over four tables", &["planner", "time", "share", "at most"]);
    let by_datafusion = median(&mut cold);
    let mut add = |name: &str, times: &mut [Duration], target: Option<f64>| {
        let time = median(times);
        let share = time / by_datafusion;
        let held = target.is_none_or(|target| share <= target);
        let target = target.map_or(Cell::text(""), Cell::ratio);
        section.row(vec![Cell::text(name), Cell::micros(time), Cell::share(share).held(held), target]);
    };
    add("DataFusion's defaults, cold", &mut cold, None);
    add("zql, cold: statistics read, nothing cached", &mut first, None);
    add("zql, warm: another literal each time", &mut warm, Some(SHARE_TARGET));
    report.add(section);
    Ok(())
}

/// The same tables and conditions as one plan of DataFusion, made anew.
async fn by_datafusion(snapshot: &Arc<Snapshot>) -> Result<()> {
    let context = SessionContext::new();
    let table = |name: &str| {
        let table = SqliteTable::new(snapshot, name).context("a table of the tracker")?;
        Ok::<_, anyhow::Error>(context.read_table(Arc::new(table))?.alias(name)?)
    };
    let label = table("label")?.filter(col("label.name").eq(lit("rare")))?;
    let junction = table("issue_label")?.join(label, JoinType::LeftSemi, &["label_id"], &["id"], None)?;
    let issue = table("issue")?.filter(col("issue.creator_id").eq(lit("u7")))?;
    let issues = issue.join(junction, JoinType::LeftSemi, &["id"], &["issue_id"], None)?;
    let answer = issues.join(table("comment")?, JoinType::Left, &["id"], &["issue_id"], None)?;
    answer.create_physical_plan().await?;
    Ok(())
}
