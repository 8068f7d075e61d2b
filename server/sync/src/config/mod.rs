//! The configuration of a server, checked: what [`Settings`] say, with defaults.
//!
//! [`values`] reads values of one type, [`api`], [`auth`] and [`records`] what several settings say together. Texts of errors are the
//! reference's, so that whoever knows them finds them (operations sheet a.1).

mod api;
mod auth;
mod records;
#[cfg(test)]
mod tests;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use cvr_store::Limits;
use cvr_store::purge::PurgeOptions;
use zql_spec::protocol::connect::number;

pub use self::api::ApiConfig;
use self::api::{mutate_api, query_api};
use self::auth::auth;
pub(crate) use self::auth::{AuthConfig, KeySource};
use self::records::{limits, purge};
use self::values::{CENTURY, boolean, check_types, error, whole};
use crate::frames::deflate::Compression;
use crate::options::{ECS, NODE_ENV, OPTIONS, Settings, Status};

/// A value that cannot be used. The text names the setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens.
    Info,
    /// What should not happen.
    Warn,
    /// What somebody must look at.
    Error,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The configuration of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// `ZERO_UPSTREAM_DB`
    pub upstream_db: String,
    /// `ZERO_CVR_DB`
    pub cvr_db: String,
    /// `ZERO_CVR_MAX_CONNS`
    pub cvr_max_conns: usize,
    /// `ZERO_CVR_GARBAGE_COLLECTION_*`
    pub cvr_purge: PurgeOptions,
    /// How long is waited for the database of records; the silence is `ZERO_PG_SOCKET_INACTIVITY_TIMEOUT`.
    pub cvr_limits: Limits,
    /// `ZERO_REPLICA_FILE`
    pub replica_file: PathBuf,
    /// `ZERO_PORT`; 0 lets the system choose.
    pub port: u16,
    /// `ZERO_KEEPALIVE_TIMEOUT_MS`
    pub keepalive_timeout: Option<Duration>,
    /// `ZERO_APP_ID`
    pub app_id: String,
    /// `ZERO_SHARD_NUM`
    pub shard_num: u32,
    /// `ZERO_APP_PUBLICATIONS`
    pub app_publications: Vec<String>,
    /// `ZERO_QUERY_*`, or the older `ZERO_GET_QUERIES_*`
    pub query: ApiConfig,
    /// `ZERO_MUTATE_*`, with what the older `ZERO_PUSH_*` say besides
    pub mutate: ApiConfig,
    /// `ZERO_UPSTREAM_MAX_CONNS`
    pub upstream_max_conns: usize,
    /// `ZERO_ENABLE_CRUD_MUTATIONS`
    pub crud_mutations: bool,
    /// `ZERO_PER_USER_MUTATION_LIMIT_MAX` and `_WINDOW_MS`
    pub(crate) mutation_limit: Option<(f64, Duration)>,
    /// `ZERO_AUTH_*`
    pub(crate) auth: AuthConfig,
    /// `ZERO_LOG_LEVEL`
    pub log_level: LogLevel,
    /// `ZERO_LOG_FORMAT`
    pub log_format: LogFormat,
    /// `ZERO_WEBSOCKET_COMPRESSION` and its options
    pub compression: Option<Compression>,
    /// `ZERO_WEBSOCKET_MAX_PAYLOAD_BYTES`
    pub max_payload_bytes: usize,
    /// `ZERO_TASK_ID`
    pub task_id: String,
    /// `ZERO_AUTO_RESET`
    pub auto_reset: bool,
    /// `ZERO_INITIAL_SYNC_TABLE_COPY_WORKERS`
    pub copy_workers: usize,
    /// `ZERO_UPSTREAM_PG_REPLICATION_SLOT_FAILOVER`
    pub slot_failover: bool,
    /// `ZERO_UPSTREAM_PG_STREAM_INBOUND_TIMEOUT_MS`
    pub inbound_timeout: Option<Duration>,
    /// `ZERO_ADMIN_PASSWORD`
    pub admin_password: Option<String>,
    /// Whether `NODE_ENV` says `development`.
    pub development: bool,
    /// `ZERO_SERVER_VERSION`
    pub server_version: String,
    /// Options that are set and have no effect yet.
    pub without_effect: Vec<String>,
}

impl Config {
    /// Checks settings.
    pub fn new(settings: &Settings) -> Result<Config, ConfigError> {
        check_types(settings)?;
        let text = |env: &str| settings.text(env).map(str::to_owned);
        let list = |env: &str| settings.list(env).unwrap_or_default();
        if settings.text("ZERO_SHARD_ID").is_some() {
            return Err(error("Error: ZERO_SHARD_ID is no longer an option. Please use ZERO_APP_ID instead."));
        }
        let upstream_db = text("ZERO_UPSTREAM_DB").ok_or_else(|| {
            error("TypeError: Missing required option ZERO_UPSTREAM_DB at upstream.db. Got undefined")
        })?;
        let app_id = text("ZERO_APP_ID").unwrap_or_else(|| "zero".to_owned());
        if !app_id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')) {
            return Err(error(format!(
                "TypeError: The App ID may only consist of lower-case letters, numbers, and the underscore character \
                 at app.id. Got {app_id:?}"
            )));
        }
        if settings.text("ZERO_CHANGE_STREAMER_URI").is_some() {
            return Err(error(
                "ZERO_CHANGE_STREAMER_URI: this server runs as a single node only, it cannot follow another",
            ));
        }
        let without_effect = OPTIONS
            .iter()
            .filter(|option| option.status == Status::NotYet)
            .map(|option| option.env())
            .filter(|env| settings.list(env).is_some())
            .collect();
        Ok(Config {
            cvr_db: text("ZERO_CVR_DB").unwrap_or_else(|| upstream_db.clone()),
            upstream_db,
            cvr_max_conns: whole(settings, "ZERO_CVR_MAX_CONNS", 30, 1..=10_000)?,
            cvr_purge: purge(settings)?,
            cvr_limits: limits(settings)?,
            replica_file: text("ZERO_REPLICA_FILE").unwrap_or_else(|| "zero.db".to_owned()).into(),
            port: whole(settings, "ZERO_PORT", 4848, 0..=65_535)?,
            keepalive_timeout: keepalive(settings),
            app_id,
            shard_num: whole(settings, "ZERO_SHARD_NUM", 0, 0..=i64::from(u32::MAX))?,
            app_publications: list("ZERO_APP_PUBLICATIONS"),
            query: query_api(settings)?,
            mutate: mutate_api(settings)?,
            upstream_max_conns: whole(settings, "ZERO_UPSTREAM_MAX_CONNS", 20, 1..=10_000)?,
            crud_mutations: boolean(settings, "ZERO_ENABLE_CRUD_MUTATIONS").unwrap_or(true),
            mutation_limit: mutation_limit(settings)?,
            auth: auth(settings)?,
            log_level: match settings.text("ZERO_LOG_LEVEL") {
                Some("debug") => LogLevel::Debug,
                Some("warn") => LogLevel::Warn,
                Some("error") => LogLevel::Error,
                _ => LogLevel::Info,
            },
            log_format: match settings.text("ZERO_LOG_FORMAT") {
                Some("json") => LogFormat::Json,
                _ => LogFormat::Text,
            },
            compression: compression(settings)?,
            max_payload_bytes: whole(
                settings,
                "ZERO_WEBSOCKET_MAX_PAYLOAD_BYTES",
                10_485_760,
                1..=i64::from(u32::MAX),
            )?,
            task_id: text("ZERO_TASK_ID").unwrap_or_else(random_id),
            auto_reset: boolean(settings, "ZERO_AUTO_RESET").unwrap_or(true),
            copy_workers: whole(settings, "ZERO_INITIAL_SYNC_TABLE_COPY_WORKERS", 5, 1..=1_000)?,
            slot_failover: boolean(settings, "ZERO_UPSTREAM_PG_REPLICATION_SLOT_FAILOVER").unwrap_or(false),
            inbound_timeout: settings
                .text("ZERO_UPSTREAM_PG_STREAM_INBOUND_TIMEOUT_MS")
                .and_then(number)
                .filter(|ms| (0.0..1e15).contains(ms))
                .map(|ms| Duration::from_millis(ms as u64)),
            admin_password: text("ZERO_ADMIN_PASSWORD"),
            development: settings.text(NODE_ENV) == Some("development"),
            server_version: text("ZERO_SERVER_VERSION").unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            without_effect,
        })
    }

    /// Whether a server may be started so: outside of development the inspector must have a password.
    pub fn check_production(&self) -> Result<(), ConfigError> {
        if self.admin_password.is_none() && !self.development {
            return Err(error(
                "missing --admin-password: required in production mode. Set ZERO_ADMIN_PASSWORD, or NODE_ENV=development \
                 where everybody may use the inspector.",
            ));
        }
        Ok(())
    }

    /// Name of the schema upstream that holds a shard's own tables: `<app>_<shard>`.
    pub fn shard(&self) -> String {
        format!("{}_{}", self.app_id, self.shard_num)
    }
}

/// Characters of identifiers that nobody has to type.
const ID_ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

fn random_id() -> String {
    use rand::Rng;
    let mut rng = rand::rng();
    (0..21).map(|_| char::from(ID_ALPHABET[rng.random_range(0..ID_ALPHABET.len())])).collect()
}

/// How long health checks may stop; in ECS they do so before a task is to stop.
fn keepalive(settings: &Settings) -> Option<Duration> {
    let set = settings.text("ZERO_KEEPALIVE_TIMEOUT_MS").and_then(number).filter(|ms| *ms != 0.0);
    let ms = set.or_else(|| settings.text(ECS).map(|_| 20_000.0))?;
    (ms > 0.0).then(|| Duration::from_secs_f64((ms / 1000.0).min(CENTURY)))
}

fn mutation_limit(settings: &Settings) -> Result<Option<(f64, Duration)>, ConfigError> {
    let window: u64 = whole(settings, "ZERO_PER_USER_MUTATION_LIMIT_WINDOW_MS", 60_000, 1..=1_000_000_000)?;
    let max = settings.text("ZERO_PER_USER_MUTATION_LIMIT_MAX").and_then(number);
    Ok(max.map(|max| (max, Duration::from_millis(window))))
}

/// How sockets are compressed, if they are.
fn compression(settings: &Settings) -> Result<Option<Compression>, ConfigError> {
    if boolean(settings, "ZERO_WEBSOCKET_COMPRESSION") != Some(true) {
        return Ok(None);
    }
    let name = "ZERO_WEBSOCKET_COMPRESSION_OPTIONS";
    let Some(options) = settings.text(name) else { return Ok(Some(Compression::default())) };
    Compression::parse(options).map(Some).map_err(|fault| error(format!("Error: Failed to parse {name}: {fault}")))
}
