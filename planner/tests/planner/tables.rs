//! The replica as DataFusion tables.

use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Float64Type;
use datafusion::prelude::{SessionContext, col, lit};
use planner::SqliteTable;

use crate::tracker::tracker;

#[tokio::test]
async fn filters_and_limits_reach_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = tracker(&directory.path().join("replica.db"), 4, 100);
    let table = Arc::new(SqliteTable::new(&snapshot, "issue").unwrap());
    assert!(SqliteTable::new(&snapshot, "nothing").is_none());
    let context = SessionContext::new();
    let frame = context
        .read_table(table)
        .unwrap()
        .filter(col("owner").eq(lit("u2")).and(col("modified").gt(lit(80.0))))
        .unwrap()
        .select(vec![col("modified"), col("id")])
        .unwrap();
    let plan = frame.clone().create_physical_plan().await.unwrap();
    let text = datafusion::physical_plan::displayable(plan.as_ref()).indent(false).to_string();
    assert!(text.contains("SqliteScanExec") && !text.contains("FilterExec"), "{text}");
    let mut rows: Vec<f64> = Vec::new();
    for batch in frame.collect().await.unwrap() {
        rows.extend(batch.column(0).as_primitive::<Float64Type>().values().iter());
    }
    rows.sort_by(f64::total_cmp);
    // Issues 2, 6, 10, 14, 18 of a hundred.
    assert_eq!(rows, [82.0, 86.0, 90.0, 94.0, 98.0]);
}
