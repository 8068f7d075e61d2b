//! Many client groups on one list while a writer commits: how long a commit takes to each of them, and what that costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use testdata::process::Usage;
use testdata::sync_server::SyncServer;

use crate::cases;
use crate::hydrate::{Held, hydrate};

/// Size of the load.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Load {
    pub groups: u32,
    pub commits_per_second: u32,
    pub seconds: u32,
}

/// After the last commit, how long stragglers are waited for.
const DRAIN: Duration = Duration::from_secs(30);

/// How long a server may take to become current after its start.
const SETTLE: Duration = Duration::from_secs(120);

/// What stands before the number of a commit in the title that it writes, for the clients to find. Servers take turns
/// on the same rows, so each has its own.
fn mark_of(server: &SyncServer) -> String {
    format!("commit through {} number ", server.url())
}

#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Outcome {
    /// From sending the commit to its arrival, over all groups and commits.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// PSS of all processes of the server with all groups connected, at the end.
    pub memory_mb: f64,
    /// Of the server, while the writer wrote and until all had arrived.
    pub cpu_seconds: f64,
    /// Of Postgres in the same time.
    pub postgres_cpu_seconds: f64,
    /// Until every group had its list.
    pub connect_seconds: f64,
    /// From then until the server had delivered a commit: what it had to catch up with before it was current.
    pub settle_seconds: f64,
}

/// When each commit was sent, and of which row.
#[derive(Debug)]
struct Commit {
    sent: Instant,
    row: usize,
}

pub(crate) async fn fan_out(
    server: &SyncServer,
    database: &str,
    load: Load,
    postgres_usage: impl Fn() -> Usage,
) -> Result<Outcome> {
    let (writer, driver) = tokio_postgres::connect(database, tokio_postgres::NoTls).await?;
    tokio::spawn(driver);
    let top = writer.query("SELECT id FROM issue ORDER BY modified DESC, id LIMIT 50", &[]).await?;
    let ids: Vec<String> = top.iter().map(|row| row.get(0)).collect();

    let mark: Arc<str> = mark_of(server).into();
    let begun = Instant::now();
    let mut held = Vec::new();
    for _ in 0..load.groups {
        held.push(hydrate(&server.url(), &cases::list()).await?);
    }
    let connect_seconds = begun.elapsed().as_secs_f64();
    let statement = writer.prepare("UPDATE issue SET title = $1, modified = now() WHERE id = $2").await?;
    // What happened before the servers took their turn is decoded by Postgres when one starts, and is not measured.
    let begun = Instant::now();
    let settled = format!("{mark}0 is to come");
    writer.execute(&statement, &[&settled, &ids[0]]).await?;
    for client in &mut held {
        wait_for(client, &settled).await.context("the server never became current")?;
    }
    let settle_seconds = begun.elapsed().as_secs_f64();

    let total = load.commits_per_second * load.seconds;
    let commits: Arc<Mutex<Vec<Commit>>> = Arc::default();
    let before = (server.usage(), postgres_usage());
    let clients: Vec<_> = held
        .into_iter()
        .map(|client| tokio::spawn(listen(client, Arc::clone(&mark), Arc::clone(&commits), ids.len(), total as usize)))
        .collect();

    let mut tick = tokio::time::interval(Duration::from_secs(1) / load.commits_per_second);
    for number in 0..total {
        tick.tick().await;
        let row = number as usize % ids.len();
        let title = format!("{mark}{number}.");
        commits.lock().push(Commit { sent: Instant::now(), row });
        writer.execute(&statement, &[&title, &ids[row]]).await?;
    }
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await??);
    }
    let after = (server.usage(), postgres_usage());
    latencies.sort_by(f64::total_cmp);
    let quantile = |q: f64| latencies.get(((latencies.len() - 1) as f64 * q) as usize).copied().unwrap_or(f64::NAN);
    Ok(Outcome {
        p50_ms: quantile(0.50),
        p99_ms: quantile(0.99),
        max_ms: quantile(1.0),
        memory_mb: after.0.memory as f64 / 1e6,
        cpu_seconds: after.0.cpu - before.0.cpu,
        postgres_cpu_seconds: after.1.cpu - before.1.cpu,
        connect_seconds,
        settle_seconds,
    })
}

/// Reads until a text has come and the poke that brought it has ended.
pub(crate) async fn wait_for(client: &mut Held, wanted: &str) -> Result<()> {
    let mut found = false;
    loop {
        let text = tokio::time::timeout(SETTLE, client.connection.next_text()).await??;
        if text.starts_with(r#"["error""#) {
            bail!("the server answers {text}");
        }
        found |= text.contains(wanted);
        if found && text.starts_with(r#"["pokeEnd""#) {
            return Ok(());
        }
    }
}

/// Follows one client until it has seen the last commit to every row; returns a latency for each commit. A commit that a
/// later one to the same row overtook counts as arrived with that one.
async fn listen(
    mut client: Held,
    mark: Arc<str>,
    commits: Arc<Mutex<Vec<Commit>>>,
    rows: usize,
    total: usize,
) -> Result<Vec<f64>> {
    let mut arrived: Vec<Option<Instant>> = vec![None; total];
    let mut pending: Vec<usize> = Vec::new();
    // Commits go round the rows, so the last ones are the last to their rows.
    let last = total.saturating_sub(rows)..total;
    while !last.clone().all(|number| arrived[number].is_some()) {
        // The slowest commit may be the last: the limit counts from the message before.
        let text = tokio::time::timeout(DRAIN, client.connection.next_text()).await;
        let text = text.context("a commit never arrived")??;
        if text.starts_with(r#"["error""#) {
            bail!("the server answers {text}");
        }
        pending.extend(marks(&text, &mark));
        // A client has the rows when the poke ends, not before.
        if text.starts_with(r#"["pokeEnd""#) {
            let now = Instant::now();
            for mut number in pending.drain(..) {
                // The one before on the same row is `rows` earlier.
                while number < total && arrived[number].is_none() {
                    arrived[number] = Some(now);
                    match number.checked_sub(rows) {
                        Some(earlier) => number = earlier,
                        None => break,
                    }
                }
            }
        }
    }
    let commits = commits.lock();
    debug_assert!(commits.iter().enumerate().all(|(number, commit)| commit.row == number % rows));
    Ok(arrived
        .iter()
        .zip(commits.iter())
        .filter_map(|(arrived, commit)| Some((*arrived)?.duration_since(commit.sent).as_secs_f64() * 1e3))
        .collect())
}

/// The numbers of the commits in a message.
fn marks<'t>(text: &'t str, mark: &'t str) -> impl Iterator<Item = usize> + 't {
    text.match_indices(mark).filter_map(|(at, _)| {
        let rest = &text[at + mark.len()..];
        rest[..rest.find('.')?].parse().ok()
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn marks_are_found() {
        let text = r#"{"title":"commit number 12."},{"title":"commit number 7."},{"title":"commit number x"}"#;
        assert_eq!(super::marks(text, "commit number ").collect::<Vec<_>>(), [12, 7]);
    }
}
