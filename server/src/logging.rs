//! The log: what happens on standard output, what should not happen on standard error.
//!
//! Lines carry a time, also in JSON, where the reference has none. Libraries are heard from `warn` on,
//! except for the HTTP server, which takes a client that hangs up for an error.

use std::io::{stderr, stdout};

use sync::config::{LogFormat, LogLevel};
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

/// Crates of this workspace, as they are named in the log.
const OWN: [&str; 8] = ["zql", "sync", "upstream", "views", "cvr_store", "planner", "engine", "cvr"];

/// Starts logging. A second call in one process does nothing.
pub(crate) fn start(level: LogLevel, format: LogFormat) {
    let name = match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    };
    let others = if level == LogLevel::Error { "error" } else { "warn" };
    let own: Vec<String> = OWN.iter().map(|target| format!("{target}={name}")).collect();
    let filter = EnvFilter::new(format!("{others},warp=off,hyper=off,{}", own.join(",")));
    let writer = stderr.with_max_level(Level::WARN).or_else(stdout);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // An error says that whoever embeds this has set up logging already.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&stdout())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
