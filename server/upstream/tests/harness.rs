//! A database, a replica file, a running stream, and what it takes to compare the two.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine::commit::Commit;
use rusqlite::types::Value;
use testdata::postgres::{Postgres, shared};
use tokio::sync::mpsc;
use upstream::{Config, Error, Running, Upstream, start};
use zql_spec::version::{StateVersion, parse_lsn};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The rows of every replicated table, each as text, sorted.
pub(crate) type Dump = BTreeMap<String, Vec<String>>;

pub(crate) struct World {
    pub(crate) postgres: &'static Postgres,
    pub(crate) url: String,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) config: Config,
}

/// A followed replica.
pub(crate) struct Followed {
    pub(crate) running: Running,
    pub(crate) commits: mpsc::UnboundedReceiver<Arc<Commit>>,
    pub(crate) replica: Arc<engine::replica::Replica>,
}

impl World {
    pub(crate) fn new(schema: &str) -> World {
        World::on(shared(), schema)
    }

    pub(crate) fn on(postgres: &'static Postgres, schema: &str) -> World {
        // The output of a failed test should say what the program did.
        let _ = tracing_subscriber::fmt().with_env_filter("upstream=debug").with_test_writer().try_init();
        let url = postgres.database().unwrap();
        postgres.psql(&url, schema).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(url.clone());
        World { postgres, url, folder, config }
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.postgres.psql(&self.url, sql).unwrap()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("replica.db")
    }

    pub(crate) async fn try_start(&self) -> Result<Upstream, Error> {
        start(self.config.clone(), &self.path(), Arc::new(|_| {})).await
    }

    pub(crate) async fn start(&self) -> Upstream {
        self.try_start().await.unwrap()
    }

    /// Starts and follows.
    pub(crate) async fn follow(&self) -> Followed {
        follow(self.start().await)
    }

    /// A fresh copy of the database, of another app so that the two do not meet.
    pub(crate) async fn fresh(&self) -> (Arc<engine::replica::Replica>, Dump) {
        let mut config = self.config.clone();
        config.app_id = "fresh".to_owned();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fresh.db");
        let upstream = start(config, &path, Arc::new(|_| {})).await.unwrap();
        let replica = Arc::clone(upstream.replica());
        let dump = dump(&path);
        self.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'fresh%' AND database = current_database()");
        (replica, dump)
    }

    /// The rows of a fresh copy.
    pub(crate) async fn fresh_dump(&self) -> Dump {
        self.fresh().await.1
    }
}

pub(crate) fn follow(upstream: Upstream) -> Followed {
    let (sender, commits) = mpsc::unbounded_channel();
    let replica = Arc::clone(upstream.replica());
    let running = upstream
        .run(move |commit| {
            let _ = sender.send(commit);
        })
        .unwrap();
    Followed { running, commits, replica }
}

impl Followed {
    /// Runs SQL and waits until everything committed by then is in the replica.
    pub(crate) async fn after(&mut self, world: &World, sql: &str) {
        // The last statement is replicated, so that there is a commit to wait for whatever came before.
        let marker = format!("UPDATE {}.permissions SET permissions = to_jsonb(random())", world.config.app_id);
        let printed = world.sql(&format!("{sql};\nSELECT pg_current_wal_insert_lsn();\n{marker}"));
        let target = parse_lsn(printed.lines().last().unwrap()).unwrap();
        while self.position() < target {
            tokio::select! {
                commit = tokio::time::timeout(PATIENCE, self.commits.recv()) => {
                    if commit.expect("a commit in time").is_none() {
                        panic!("the stream ended: {:?}", self.running.ended().await);
                    }
                }
                ended = self.running.ended() => panic!("the stream ended: {ended:?}"),
            }
        }
    }

    /// Waits until everything committed so far is in the replica.
    pub(crate) async fn caught_up(&mut self, world: &World) {
        self.after(world, "").await;
    }

    pub(crate) fn position(&self) -> u64 {
        StateVersion::from_shared(self.replica.state().state_version).unwrap().lsn().unwrap()
    }

    /// Waits for the end of the stream.
    pub(crate) async fn error(&mut self) -> Error {
        tokio::time::timeout(PATIENCE, self.running.ended()).await.expect("an end in time").unwrap_err()
    }
}

/// Everything in a replica that mirrors upstream.
pub(crate) fn dump(path: &Path) -> Dump {
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut tables = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_zero.%' ESCAPE '\\' AND name NOT LIKE 'sqlite%'")
        .unwrap();
    let names: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    names
        .into_iter()
        // The shard's own tables differ between two apps.
        .filter(|name| !name.starts_with("zero") && !name.starts_with("fresh"))
        .map(|name| {
            let rows = rows(&connection, &format!("SELECT * FROM \"{name}\""));
            (name, rows)
        })
        .collect()
}

/// Rows of a query as text, sorted, without the column `_0_version`.
pub(crate) fn rows(connection: &rusqlite::Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(sql).unwrap();
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows: Vec<String> = statement
        .query_map([], |row| {
            // By name: a column that was added later comes last.
            let mut cells: Vec<String> = names
                .iter()
                .enumerate()
                .filter(|(_, name)| *name != "_0_version")
                .map(|(at, name)| format!("{name}={:?}", row.get::<_, Value>(at).unwrap()))
                .collect();
            cells.sort();
            Ok(cells.join(" "))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect();
    rows.sort();
    rows
}
