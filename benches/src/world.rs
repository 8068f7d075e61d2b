//! What the benchmarks of maintenance share: a replica that is written to, queries, and groups that subscribe them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine::commit::Commit;
use engine::graph::{AnswerBuilder, AnswerRow, Graph, GraphBuilder};
use engine::hydration::Hydrate;
use engine::query::Query;
use engine::replica::{Relation, Replica, Snapshot, SqliteValue, Tx, Writer};
use planner::Planner;
use serde_json::{Value, json};
use views::{Event, Mailbox, Options, Views};

use crate::tracker::{self, TABLES, related, simple};

/// Issues of the replica.
pub(crate) const ISSUES: i64 = 100_000;

/// A replica that is written to.
pub(crate) struct World {
    pub(crate) replica: Arc<Replica>,
    writer: Writer,
    version: i64,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Result<World> {
        let folder = tempfile::tempdir()?;
        let replica = tracker::load(&folder.path().join("replica.db"), ISSUES)?;
        let writer = replica.writer()?;
        Ok(World { replica, writer, version: 0, _folder: folder })
    }

    /// Writes rows in one transaction: updates of rows that are there, inserts of others.
    pub(crate) fn write(
        &mut self,
        table: &str,
        rows: impl Iterator<Item = Vec<SqliteValue>>,
        update: bool,
    ) -> Result<Commit> {
        self.transaction(table, |tx, relation| {
            for row in rows {
                if update {
                    tx.update(relation, None, &row.into_iter().map(Some).collect::<Vec<_>>())?;
                } else {
                    tx.insert(relation, &row)?;
                }
            }
            Ok(())
        })
    }

    fn transaction(&mut self, table: &str, write: impl FnOnce(&mut Tx<'_>, &Relation) -> Result<()>) -> Result<Commit> {
        self.version += 1;
        let (_, columns, _) = TABLES.iter().find(|(name, ..)| *name == table).context("a table of the tracker")?;
        let columns: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let mut tx = self.writer.begin(&format!("1{:08}", self.version))?;
        let relation = tx.relation(table, &columns, &["id"])?;
        write(&mut tx, &relation)?;
        Ok(tx.commit()?)
    }

    /// Deletes one comment.
    pub(crate) fn delete_comment(&mut self, comment: i64) -> Result<Commit> {
        self.transaction("comment", |tx, relation| Ok(tx.delete(relation, &[tracker::id("c", comment)])?))
    }

    /// Inserts one comment.
    pub(crate) fn insert_comment(&mut self, comment: i64, issue: i64) -> Result<Commit> {
        self.write("comment", std::iter::once(tracker::comment(comment, issue)), false)
    }

    /// Edits one comment so that its text changes.
    pub(crate) fn edit_comment(&mut self, comment: i64, issue: i64) -> Result<Commit> {
        let mut row = tracker::comment(comment, issue);
        row[3] = tracker::text(format!("edited {}", self.version));
        self.write("comment", std::iter::once(row), true)
    }

    pub(crate) fn pin(&self) -> Result<Arc<Snapshot>> {
        Ok(self.replica.pin()?)
    }
}

/// The comments of an issue with their authors: a query of its own for each issue.
pub(crate) fn page(issue: i64) -> Value {
    let mut ast = json!({"table": "comment", "where": simple("issue_id", "=", format!("i{issue}"))});
    ast["related"] = json!([related("creator", "creator_id", "id", json!({"table": "user"}))]);
    ast
}

/// The newest issues with their creators.
pub(crate) fn feed() -> Value {
    let mut ast = json!({"table": "issue", "orderBy": [["modified", "desc"], ["id", "asc"]], "limit": 50});
    ast["related"] = json!([related("creator", "creator_id", "id", json!({"table": "user"}))]);
    ast
}

/// Answers a query as the server does: the state that keeps the answer current, and the rows to tell.
pub(crate) fn answer(
    planner: &Planner,
    query: &Arc<Query>,
    snapshot: &Arc<Snapshot>,
) -> Result<(Graph, Vec<AnswerRow>)> {
    let begin = Instant::now();
    let mut graph = GraphBuilder::new(Arc::clone(query));
    let mut answer = AnswerBuilder::new(Arc::clone(query));
    planner.stream(query, snapshot, &mut |node, row| {
        let row = row.decode()?;
        if graph.row(node, &row) {
            answer.row(node, &row);
        }
        Ok(())
    })?;
    let mut graph = graph.finish(Arc::clone(&snapshot.version));
    graph.set_hydration_time(begin.elapsed());
    Ok((graph, answer.finish()))
}

/// Starts the threads that keep queries current.
pub(crate) fn start_views(replica: &Arc<Replica>) -> Result<Views> {
    Ok(Views::start(Arc::clone(replica), Arc::new(Planner::new()), Options::default())?)
}

/// Has groups subscribe a query, and waits until they have the answer.
pub(crate) fn subscribe(views: &Views, query: &Arc<Query>, groups: usize) -> Result<Vec<Mailbox>> {
    let mailboxes: Vec<Mailbox> = (0..groups).map(|_| views.mailbox()).collect();
    for mailbox in &mailboxes {
        mailbox.subscribe(Arc::from("q"), Arc::clone(query));
    }
    for mailbox in &mailboxes {
        match wait(mailbox)? {
            Event::Hydrated { .. } => {}
            other => bail!("expected an answer, not {other:?}"),
        }
    }
    Ok(mailboxes)
}

/// Waits for a group's next event.
pub(crate) fn wait(mailbox: &Mailbox) -> Result<Event> {
    let deadline = Duration::from_secs(30);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async { tokio::time::timeout(deadline, mailbox.recv()).await }).context("an event comes in time")
}

/// The newest issues.
pub(crate) fn newest(replica: &Arc<Replica>) -> Result<Vec<i64>> {
    let snapshot = replica.pin()?;
    let reader = snapshot.reader()?;
    let mut statement = reader.prepare_cached("SELECT id FROM issue ORDER BY modified DESC, id LIMIT 50")?;
    let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
    ids.map(|id| Ok(id?[1..].parse()?)).collect()
}
