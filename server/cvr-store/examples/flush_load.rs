//! What flushes cost: groups that all flush at every upstream commit, against a private Postgres that writes to disk.
//!
//! `cargo run --release -p cvr-store --example flush_load [groups] [commits a second] [seconds] [rows a flush]` prints
//! the latency of a flush, the statements a second, and the CPU that Postgres took.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cvr::config::{ConfigUpdate, Put};
use cvr::flush::FlushTimes;
use cvr::record::{Body, Counts, Cvr};
use cvr::row::{RowId, Rows, TableKey};
use cvr::rows_update::{Contents, Executed, QueryUpdate};
use cvr_store::{Options, Store};
use deadpool_postgres::{Manager, Pool};
use tokio::sync::watch;
use tokio_postgres::NoTls;
use zql_spec::value::Value;
use zql_spec::version::StateVersion;

/// Rows that each group holds.
const ROWS: usize = 50;

struct Group {
    store: Store,
    cvr: Cvr,
    rows: Rows,
    key: Arc<TableKey>,
}

impl Group {
    async fn step(&mut self, state: u64, rows: usize) -> Result<()> {
        let times = FlushTimes { last_connect_time: 1.0, last_active: state as f64, ttl_clock: state as f64 };
        let state = StateVersion::from_lsn(state);
        let mut update = QueryUpdate::new(&self.cvr, state.clone(), &"01".into())?;
        if self.rows.is_empty() {
            update.track(&[Executed { query: "q".into(), hash: "hash".into(), counts: Counts::Alike }], &[])?;
        }
        for row in 0..rows {
            let row = RowId::new(&self.key, &[Value::string(format!("row-{row}-with-an-id-of-usual-length"))]);
            let contents = Contents { row_version: Arc::clone(state.shared()), value: () };
            update.receive(&mut self.rows, &"q".into(), row, 1, Some(contents));
        }
        update.patches()?;
        let flush = update.finish(times)?.context("nothing to flush")?;
        self.store.flush(Arc::clone(&flush)).await?;
        self.cvr = flush.cvr.clone();
        self.rows.apply(&flush);
        Ok(())
    }
}

/// CPU seconds of the server and all its processes, ended ones included.
fn cpu_seconds(server: u32) -> Result<f64> {
    let mut ticks = 0u64;
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        if pid == server {
            ticks += number(11) + number(12) + number(13) + number(14);
        } else if number(1) == u64::from(server) {
            ticks += number(11) + number(12);
        }
    }
    Ok(ticks as f64 / 100.0)
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<u64> = std::env::args().skip(1).map(|argument| argument.parse()).collect::<Result<_, _>>()?;
    let argument = |index: usize, default: u64| arguments.get(index).copied().unwrap_or(default);
    let (groups, rate, seconds, rows) = (argument(0, 50), argument(1, 20), argument(2, 10), argument(3, 1) as usize);

    let postgres =
        testdata::postgres::Postgres::start(testdata::postgres::Options { durable: true, ..Default::default() })?;
    let config: tokio_postgres::Config = postgres.database()?.parse()?;
    let pool = Pool::builder(Manager::new(config, NoTls)).max_size(8).build()?;
    let store = Store::open(pool, Options { schema: "zero_0/cvr".to_owned(), task_id: "load".to_owned() }).await?;

    let (commits, receiver) = watch::channel(0u64);
    let mut tasks = Vec::new();
    for id in 0..groups {
        let mut commit = receiver.clone();
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let cvr = store.load(&format!("group-{id}-with-an-id-of-usual-length"), 1.0).await?;
            let key = TableKey::new("issue".into(), &["id".into()]);
            let mut group = Group { store, cvr, rows: Rows::default(), key };
            let mut update = ConfigUpdate::new(&group.cvr);
            update.ensure_client("client", "zero_0");
            let body = Body::Custom { name: "list".into(), args: "[]".into() };
            update.put_desired("client", &[Put { query: "q".into(), body: Some(body), ttl: None }])?;
            let times = FlushTimes { last_connect_time: 1.0, last_active: 0.0, ttl_clock: 0.0 };
            let flush = update.finish(times).1.context("nothing to flush")?;
            group.store.flush(Arc::clone(&flush)).await?;
            group.cvr = flush.cvr.clone();
            group.step(1, ROWS).await?;
            let mut latencies = Vec::new();
            while commit.changed().await.is_ok() {
                let state = 1 + *commit.borrow_and_update();
                let start = Instant::now();
                group.step(state, rows).await?;
                latencies.push(start.elapsed());
            }
            anyhow::Ok(latencies)
        }));
    }
    let all = groups * 2;
    while store.counters().flushes.load(Ordering::Relaxed) < all {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let counters = store.counters();
    let (batches, flushes) = (counters.batches.load(Ordering::Relaxed), counters.flushes.load(Ordering::Relaxed));
    let cpu = cpu_seconds(postgres.pid()?)?;
    let start = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate as f64));
    for commit in 1..=rate * seconds {
        ticks.tick().await;
        commits.send(commit)?;
    }
    drop(commits);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let elapsed = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds(postgres.pid()?)? - cpu;
    latencies.sort();
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "{groups} groups x {rate} commits/s x {rows} rows: {:.0} flushes/s in {:.0} statements/s; latency p50 {:?} p99 {:?}; Postgres CPU {:.1} %",
        (counters.flushes.load(Ordering::Relaxed) - flushes) as f64 / elapsed,
        (counters.batches.load(Ordering::Relaxed) - batches) as f64 / elapsed,
        at(0.5),
        at(0.99),
        cpu / elapsed * 100.0
    );
    Ok(())
}
