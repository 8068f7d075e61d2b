//! A sync server under test or measurement, started from outside as a user would: this project's binary or the published
//! zero-cache, told the same.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::node;
use crate::process::{Guarded, Usage, free_port, usage, wait_for_http};

/// A start includes the initial sync of the data, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(180);

/// Lines of a server's log that an error message quotes.
const LOG_LINES: usize = 30;

/// Which server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// The npm package that testdata/node/package-lock.json pins.
    ZeroCache,
    /// This project's binary at this path.
    Zql(PathBuf),
}

impl Program {
    /// A short name for people and files.
    pub fn name(&self) -> &'static str {
        match self {
            Program::ZeroCache => "zero-cache",
            Program::Zql(_) => "zql",
        }
    }

    /// The app that a server of this kind is started as; its schemas in the database begin with that name.
    pub fn app(&self) -> &'static str {
        match self {
            Program::ZeroCache => "reference",
            Program::Zql(_) => "zql",
        }
    }
}

/// A server with its place on disk and its port, which it keeps when it is started again.
#[derive(Debug)]
pub struct SyncServer {
    program: Program,
    port: u16,
    environment: Vec<(&'static str, String)>,
    log: PathBuf,
    process: Option<Guarded>,
}

impl SyncServer {
    /// Starts a server of its own app on the database and waits until it answers. The folder holds its replica and log.
    ///
    /// # Errors
    /// When it does not become ready; the message has the end of its log.
    pub fn start(program: Program, database: &str, query_url: &str, folder: &Path) -> Result<SyncServer> {
        Self::start_with(program, database, query_url, folder, &[])
    }

    /// The same, with settings that go before those made here.
    ///
    /// # Errors
    /// As [`SyncServer::start`].
    pub fn start_with(
        program: Program,
        database: &str,
        query_url: &str,
        folder: &Path,
        settings: &[(&'static str, &str)],
    ) -> Result<SyncServer> {
        std::fs::create_dir_all(folder)?;
        // zero-cache takes the two ports after its own as well.
        let port = free_port(2)?;
        let mut environment = vec![
            ("ZERO_UPSTREAM_DB", database.to_owned()),
            ("ZERO_REPLICA_FILE", folder.join("replica.db").display().to_string()),
            ("ZERO_PORT", port.to_string()),
            ("ZERO_APP_ID", program.app().to_owned()),
            ("ZERO_QUERY_URL", query_url.to_owned()),
            ("ZERO_ADMIN_PASSWORD", "test".to_owned()),
            ("ZERO_LOG_LEVEL", "warn".to_owned()),
            ("ZERO_ENABLE_TELEMETRY", "false".to_owned()),
            ("DO_NOT_TRACK", "1".to_owned()),
        ];
        environment.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let mut server = SyncServer { program, port, environment, log: folder.join("log"), process: None };
        server.restart()?;
        Ok(server)
    }

    /// Starts the server again after [`SyncServer::kill`]; returns how long it took until it answered.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self) -> Result<Duration> {
        if self.process.is_some() {
            bail!("the server runs already");
        }
        let begun = Instant::now();
        let process = match &self.program {
            Program::ZeroCache => {
                let cli = node::folder()?.join("node_modules/@rocicorp/zero/out/zero/src/cli.js");
                let cli = cli.to_str().context("a path in UTF-8")?;
                Guarded::start(node::binary()?, &[cli], &self.environment, &self.log)?
            }
            Program::Zql(path) => {
                if !path.is_file() {
                    bail!("{} is missing: build it with `make build`", path.display());
                }
                Guarded::start(path, &["serve"], &self.environment, &self.log)?
            }
        };
        wait_for_http(self.port, "/keepalive", START_LIMIT, || process.is_running())
            .with_context(|| format!("starting {}:\n{}", self.program.name(), self.log_tail()))?;
        self.process = Some(process);
        Ok(begun.elapsed())
    }

    /// Kills all processes of the server without warning.
    ///
    /// # Errors
    /// When it was not running.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the server is not running")?.kill()
    }

    /// Stops the server in order, as a deployment does, and waits until it has ended.
    ///
    /// # Errors
    /// When it was not running.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().map(drop).context("the server is not running")
    }

    /// Stops the server in order by a signal (`TERM` or `INT`), and gives its exit code.
    ///
    /// # Errors
    /// When it was not running, or has not ended in time: it is killed then.
    pub fn stop_by(&mut self, signal: &str, limit: Duration) -> Result<i32> {
        let process = self.process.take().context("the server is not running")?;
        process.stop(signal, limit).with_context(|| self.log_tail())
    }

    /// Waits until the server ends by itself, and gives its exit code.
    ///
    /// # Errors
    /// When it was not running, or has not ended in time: it is killed then.
    pub fn ended(&mut self, limit: Duration) -> Result<i32> {
        let process = self.process.take().context("the server is not running")?;
        process.ended(limit).with_context(|| self.log_tail())
    }

    /// Whether the server was started and has not ended.
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Guarded::is_running)
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What all processes of the server use.
    pub fn usage(&self) -> Usage {
        self.process.as_ref().map(|process| usage(&process.tree())).unwrap_or_default()
    }

    /// The log of all its runs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of the log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}
