//! `zql demo`: everything that is needed to see a query change live, started by one command.
//!
//! A private Postgres in a folder of its own, a generated issue tracker in it, an API server for named queries, the sync
//! server as a child process, a writer that commits in the background, and the terminal view of one query. Ctrl-C stops
//! all of it, in order; only the folder stays, and the next start uses it again.
//!
//! It must not know the server's inside: it is started as a user would start it.

mod api;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use protocol_client::{Hello, Identity};
use testdata::postgres::{self, Postgres};
use testdata::process::{Guarded, wait_for_http};
use testdata::tracker::Sizes;

use crate::watch::{self, End};

/// The first start copies 120 000 rows; on a slow disk that takes a while.
const START_LIMIT: Duration = Duration::from_secs(300);

/// The database, and its name while it is being filled: one that is there is whole.
const DATABASE: &str = "demo";
const UNFINISHED: &str = "demo_unfinished";

/// Start a private Postgres with sample data, the server on it, and watch a query change live.
#[derive(Debug, Args)]
pub struct Demo {
    /// Where the data lives; used again by the next start.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Port of the sync server.
    #[arg(long, default_value_t = 4848)]
    port: u16,
    /// Commits a second of the background writer.
    #[arg(long, default_value_t = 4.0)]
    rate: f64,
    /// Rows of the view.
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// Stop after so many pokes instead of on Ctrl-C.
    #[arg(long)]
    pokes: Option<u64>,
}

impl Demo {
    /// Runs until Ctrl-C (or the given time), then stops everything.
    ///
    /// # Errors
    /// When something cannot be started; the message says what and where its log is.
    pub async fn run(self) -> Result<()> {
        let folder = match &self.folder {
            Some(folder) => folder.clone(),
            None => default_folder()?,
        };
        if std::net::TcpListener::bind(("127.0.0.1", self.port)).is_err() {
            bail!("port {} is taken: stop what uses it, or choose another one with --port", self.port);
        }
        let result = tokio::select! {
            result = self.start_and_watch(&folder) => result,
            () = interrupted() => Ok(()),
        };
        println!(
            "\nStopped. The data stays in {} for the next start; delete the folder to begin anew.",
            folder.display()
        );
        result
    }

    /// Everything that is started here stops when the future is dropped.
    async fn start_and_watch(&self, folder: &Path) -> Result<()> {
        let (postgres, url) = blocking("Postgres", {
            let folder = folder.to_path_buf();
            move |step| prepare(&folder, step)
        })
        .await?;
        let api = api::start().await?;
        let log = folder.join("server.log");
        let environment = [
            ("ZERO_UPSTREAM_DB", url.clone()),
            ("ZERO_REPLICA_FILE", folder.join("replica.db").display().to_string()),
            ("ZERO_PORT", self.port.to_string()),
            ("ZERO_QUERY_URL", api.clone()),
            ("ZERO_ADMIN_PASSWORD", "demo".to_owned()),
        ];
        let port = self.port;
        let program = std::env::current_exe()?;
        let server = blocking("Sync server", move |step| {
            step("copying the database".to_owned());
            let _ = std::fs::remove_file(&log);
            let server = Guarded::start(program, &["serve"], &environment, &log)?;
            // The guard's shell starts the program a moment later, so only a log without a process means an end.
            let alive = || !server.tree().is_empty() || std::fs::metadata(&log).is_ok_and(|meta| meta.len() == 0);
            wait_for_http(port, "/keepalive", START_LIMIT, alive)
                .with_context(|| format!("the sync server did not start; its log is {}", log.display()))?;
            Ok(server)
        })
        .await?;
        let writer = tokio::spawn(writer::write(url.clone(), self.rate));
        let args = format!(r#"[{{"limit":{}}}]"#, self.limit);
        let view = watch::follow(watch::Options {
            identity: Identity::fresh(format!("http://127.0.0.1:{}", self.port)),
            query: Hello::named("issues.list", &args),
            ast: Some(api::ast("issues.list", &serde_json::from_str(&args)?)?),
            schema: api::SCHEMA.to_owned(),
            query_url: None,
            json: false,
            end: self.pokes.map_or(End::Never, End::AfterPokes),
            heading: self.heading(&url, folder, &api),
        });
        let result = tokio::select! {
            result = view => result,
            result = writer => match result {
                Ok(Err(error)) => Err(error.context("the background writer failed")),
                Ok(Ok(())) => Ok(()),
                Err(error) => Err(error.into()),
            },
        };
        drop(server);
        drop(postgres);
        result
    }

    fn heading(&self, url: &str, folder: &Path, api: &str) -> Vec<String> {
        vec![
            format!(
                "zql demo: a writer commits {} times a second to Postgres; yellow rows just changed. Ctrl-C stops.",
                self.rate
            ),
            format!("client:   new Zero({{cacheURL: 'http://localhost:{}', userID: 'u1', schema, …}})", self.port),
            format!("          (schema and queries: testdata/node/model.js; API server: {api})"),
            format!("SQL:      psql '{url}'"),
            format!("data:     {} (server.log is there too)", folder.display()),
            String::new(),
        ]
    }
}

/// `~/.local/share/zql-demo`; for root a folder that the Postgres user can reach.
fn default_folder() -> Result<PathBuf> {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from);
    match home {
        Some(home) if home != Path::new("/root") => {
            Ok(data.unwrap_or_else(|| home.join(".local/share")).join("zql-demo"))
        }
        _ => Ok(PathBuf::from("/var/lib/zql-demo")),
    }
}

/// Starts Postgres in the folder and fills the database when it is not there yet.
fn prepare(folder: &Path, step: &dyn Fn(String)) -> Result<(Postgres, String)> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    step("starting".to_owned());
    let postgres = Postgres::start(postgres::Options {
        folder: Some(folder.join("postgres")),
        durable: true,
        ..postgres::Options::default()
    })?;
    let admin = postgres.url("postgres");
    let there = postgres.psql(&admin, &format!("SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"))?;
    if there.is_empty() {
        let Sizes { users, issues, comments, .. } = Sizes::DEMO;
        step(format!("generating {users} users, {issues} issues and {comments} comments"));
        postgres.psql(&admin, &format!("DROP DATABASE IF EXISTS {UNFINISHED}"))?;
        postgres.create_database(UNFINISHED)?;
        Sizes::DEMO.load(&postgres, &postgres.url(UNFINISHED))?;
        postgres.psql(&admin, &format!("ALTER DATABASE {UNFINISHED} RENAME TO {DATABASE}"))?;
    }
    let url = postgres.url(DATABASE);
    Ok((postgres, url))
}

/// Runs blocking work beside a spinner that tells what it is doing.
async fn blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce(&dyn Fn(String)) -> Result<T> + Send + 'static,
) -> Result<T> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {prefix}: {msg} [{elapsed}]")?);
    bar.set_prefix(name);
    bar.enable_steady_tick(Duration::from_millis(100));
    let teller = bar.clone();
    let result = tokio::task::spawn_blocking(move || work(&|step| teller.set_message(step))).await?;
    bar.finish_and_clear();
    if result.is_ok() {
        println!("{name}: ready after {:.1} s", bar.elapsed().as_secs_f64());
    }
    result
}

/// Ctrl-C, or a polite request to end.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
