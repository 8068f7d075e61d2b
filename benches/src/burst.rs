//! A thousand commits of one row that come at once, from Postgres to the mailboxes: in how many pieces they are taken.
//!
//! A real Postgres commits them, and the slot is followed as a server follows it. One group reads each delta as it comes,
//! another when all is written. Every transaction of the replica costs its pages and a pin, every step of the graphs their
//! routing, every delta an update of a record and a poke.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use engine::commit::StoredRow;
use serde_json::json;
use testdata::postgres::{Options, Postgres};
use tokio::runtime::Runtime;
use upstream::Config;
use views::{Event, Mailbox};
use zql_spec::value::Value;

use crate::report::{Cell, Report, Section};
use crate::tracker;
use crate::world::{start_views, subscribe, wait};

/// Commits of a burst.
const BURST: usize = 1_000;

/// Pieces that a burst may be taken in which has arrived already, and that a group may read which comes late.
const ARRIVED_TARGET: usize = 10;

/// The same while it arrives: Postgres decodes some twenty microseconds for each commit, and where it pauses for longer than
/// the stream waits for more, a piece ends.
const ARRIVING_TARGET: usize = BURST / 20;

/// How long a burst may take.
const PATIENCE: Duration = Duration::from_secs(60);

const SCHEMA: &str = "CREATE TABLE issue (id int PRIMARY KEY, title text NOT NULL, number int NOT NULL);
    INSERT INTO issue SELECT i, 'issue ' || i, 0 FROM generate_series(1, 10000) i";

/// Each commit edits one of fifty rows and leaves its number there.
fn commits() -> String {
    format!(
        "DO $$ BEGIN FOR i IN 1..{BURST} LOOP
           UPDATE issue SET title = 'burst ' || i, number = i WHERE id = 1 + i % 50; COMMIT; END LOOP; END $$"
    )
}

/// When the commits are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    /// While the stream is read.
    Live,
    /// While the replica cannot be written.
    Held,
    /// While nobody follows.
    Away,
}

/// Whether a row is as the last commit of a burst leaves it.
fn is_last(row: &StoredRow) -> bool {
    row.values.contains(&Value::Number(BURST as f64))
}

/// Reads deltas up to the last commit of a burst; gives how many there were.
fn read_all(mailbox: &Mailbox) -> Result<usize> {
    let mut count = 0;
    loop {
        let Event::Advanced { deltas, .. } = wait(mailbox)? else { bail!("an advance is expected") };
        count += 1;
        let mut rows = deltas.iter().flat_map(|(_, delta)| &delta.changes).filter_map(|change| change.row.as_ref());
        if rows.any(|row| is_last(row)) {
            return Ok(count);
        }
    }
}

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let mut section = Section::new(
        "burst",
        &format!("{BURST} commits of one row that come at once, from Postgres to two groups"),
        &[
            "they are made",
            "transactions of the replica",
            "steps of the graphs",
            "deltas read at once",
            "deltas read late",
            "at most",
            "time",
        ],
    );
    let postgres = Postgres::start(Options::default())?;
    let runtime = Runtime::new()?;
    for (name, made) in [
        ("while the stream is read", Made::Live),
        ("while the replica cannot be written", Made::Held),
        ("while nobody follows", Made::Away),
    ] {
        section.row(burst(&postgres, &runtime, name, made)?);
    }
    section.note("The time is until a group that reads at once has the last delta.");
    report.add(section);
    Ok(())
}

fn burst(postgres: &Postgres, runtime: &Runtime, name: &str, made: Made) -> Result<Vec<Cell>> {
    let url = postgres.database()?;
    postgres.psql(&url, SCHEMA)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("replica.db");
    let start = || runtime.block_on(upstream::start(Config::new(url.clone()), &path, Arc::new(|_| {})));
    let mut upstream = start()?;
    if made == Made::Away {
        drop(upstream);
        postgres.psql(&url, &commits())?;
        upstream = start()?;
    }
    let query = json!({"table": "issue", "orderBy": [["id", "asc"]], "limit": 50});
    let query = tracker::resolve(&query, &*upstream.replica().pin()?)?;
    let views = start_views(upstream.replica())?;
    let mut groups = subscribe(&views, &query, 2)?.into_iter();
    let (eager, late) = (groups.next().context("a group")?, groups.next().context("another group")?);
    let eager = std::thread::spawn(move || read_all(&eager));
    let (steps, transactions) = (views.metrics().commits, Arc::new(AtomicUsize::new(0)));
    let mut begin = Instant::now();
    let (counter, sequencer) = (Arc::clone(&transactions), views.clone());
    let running = upstream.run(move |commit| {
        counter.fetch_add(usize::from(commit.row_count() > 0), Ordering::Relaxed);
        // A version that cannot be pinned comes with the next one.
        let _ = sequencer.committed(commit);
    })?;
    match made {
        Made::Away => {}
        Made::Live => {
            begin = Instant::now();
            postgres.psql(&url, &commits())?;
        }
        Made::Held => {
            let holder = rusqlite::Connection::open(&path)?;
            holder.busy_timeout(PATIENCE)?;
            holder.execute_batch("BEGIN IMMEDIATE")?;
            postgres.psql(&url, &commits())?;
            begin = Instant::now();
            holder.execute_batch("ROLLBACK")?;
        }
    }
    let at_once = eager.join().map_err(|_| anyhow!("the group that reads at once failed"))??;
    let time = begin.elapsed();
    let late = read_all(&late)?;
    runtime.block_on(running.stop())?;
    let most = if made == Made::Held { ARRIVED_TARGET } else { ARRIVING_TARGET };
    let held = |count: usize| Cell::count(count).held(count <= most);
    Ok(vec![
        Cell::text(name),
        held(transactions.load(Ordering::Relaxed)),
        held((views.metrics().commits - steps) as usize),
        held(at_once),
        Cell::count(late).held(late <= ARRIVED_TARGET),
        Cell::count(most),
        Cell::micros(time.as_secs_f64() * 1e6),
    ])
}
