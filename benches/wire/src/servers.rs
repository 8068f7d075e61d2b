//! The two servers, started from outside with the same environment.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use testdata::process::{Guarded, Usage, free_port, usage, wait_for_http};

/// Initial sync of the data included, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(180);

/// Lines of a server's log that an error message quotes.
const LOG_LINES: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// The published npm package.
    ZeroCache,
    /// This project's binary.
    Zql,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::ZeroCache => "zero-cache",
            Kind::Zql => "zql",
        }
    }
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub kind: Kind,
    pub url: String,
    /// From the start to the first answer.
    pub start_seconds: f64,
    process: Guarded,
}

/// Where things are and what both servers are told.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub database: String,
    pub query_url: String,
    /// Replicas and logs.
    pub folder: PathBuf,
}

impl Setup {
    /// Starts a server and waits until it answers. Its replica is kept in the folder from one start to the next.
    pub(crate) fn start(&self, kind: Kind) -> Result<Running> {
        let folder = self.folder.join(kind.name());
        std::fs::create_dir_all(&folder)?;
        // zero-cache takes the two ports after its own as well.
        let port = free_port(2)?;
        let app = match kind {
            Kind::ZeroCache => "bench_reference",
            Kind::Zql => "bench_zql",
        };
        let environment = [
            ("ZERO_UPSTREAM_DB", self.database.clone()),
            ("ZERO_REPLICA_FILE", folder.join("replica.db").display().to_string()),
            ("ZERO_PORT", port.to_string()),
            ("ZERO_APP_ID", app.to_owned()),
            ("ZERO_QUERY_URL", self.query_url.clone()),
            ("ZERO_ADMIN_PASSWORD", "bench".to_owned()),
            ("ZERO_LOG_LEVEL", "warn".to_owned()),
            ("ZERO_ENABLE_TELEMETRY", "false".to_owned()),
            ("DO_NOT_TRACK", "1".to_owned()),
        ];
        let log = folder.join("log");
        let begun = Instant::now();
        let process = match kind {
            Kind::ZeroCache => {
                let node = node_folder()?;
                let cli = node.join("node_modules/@rocicorp/zero/out/zero/src/cli.js");
                let cli = cli.to_str().context("a path in UTF-8")?;
                Guarded::start(node.join("node_modules/.bin/node"), &[cli], &environment, &log)?
            }
            Kind::Zql => Guarded::start(zql()?, &["serve"], &environment, &log)?,
        };
        // The shell that guards the program starts it a moment later; a tree once seen that is gone has ended.
        let seen = std::cell::Cell::new(false);
        let alive = || {
            let there = !process.tree().is_empty();
            seen.set(seen.get() || there);
            there || !seen.get()
        };
        wait_for_http(port, "/keepalive", START_LIMIT, alive).with_context(|| format!("see {}", log.display()))?;
        let start_seconds = begun.elapsed().as_secs_f64();
        Ok(Running { kind, url: format!("http://127.0.0.1:{port}"), start_seconds, process })
    }
}

impl Setup {
    /// The end of a server's log, for error messages.
    pub(crate) fn log_tail(&self, kind: Kind) -> String {
        let log = std::fs::read_to_string(self.folder.join(kind.name()).join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Running {
    /// What all processes of the server use.
    pub(crate) fn usage(&self) -> Usage {
        usage(&self.process.tree())
    }
}

/// The folder of the lock file, whose packages `make node` installs.
fn node_folder() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/node");
    if !folder.join("node_modules/.bin/node").exists() {
        bail!("run `make node` first: {} has no node_modules", folder.display());
    }
    Ok(folder.canonicalize()?)
}

/// The binary beside this one, or the one that `ZQL_BIN` names.
fn zql() -> Result<PathBuf> {
    let path = match std::env::var_os("ZQL_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("zql"),
    };
    if !path.is_file() {
        bail!("{} is missing: build it with `make build`", path.display());
    }
    Ok(path)
}
