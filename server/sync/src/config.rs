//! The configuration of a server, checked: what [`Settings`] say, with defaults.
//!
//! Texts of errors are the reference's, so that whoever knows them finds them (operations sheet a.1).

use std::path::PathBuf;
use std::time::Duration;

use cvr_store::Limits;
use cvr_store::purge::PurgeOptions;
use zql_spec::protocol::connect::number;

use crate::api::Pattern;
use crate::auth::jwk::Key;
use crate::frames::deflate::Compression;
use crate::options::{ECS, Kind, NODE_ENV, OPTIONS, Settings, Status};

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

/// How an API server is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiConfig {
    /// Patterns of allowed URLs; the first is the default. Empty: there is no API server.
    pub urls: Vec<String>,
    /// Sent as `X-Api-Key`.
    pub api_key: Option<String>,
    /// Whether the client's cookies are sent on.
    pub forward_cookies: bool,
    /// Names, in lower case, of headers that a client may have sent.
    pub allowed_client_headers: Vec<String>,
    /// Names, in lower case, of headers of the upgrade request that are sent on.
    pub allowed_request_headers: Vec<String>,
}

/// How tokens are judged.
#[derive(Clone, Debug)]
pub(crate) struct AuthConfig {
    /// The keys that are configured: more than one is a mistake that is told to those who show a token.
    pub(crate) keys: Vec<KeySource>,
    /// `ZERO_AUTH_ISSUER`
    pub(crate) issuer: Option<String>,
    /// `ZERO_AUTH_AUDIENCE`
    pub(crate) audience: Option<String>,
    /// `ZERO_AUTH_REVALIDATE_INTERVAL_SECONDS`; absent for never.
    pub(crate) revalidate: Option<Duration>,
    /// `ZERO_AUTH_RETRANSFORM_INTERVAL_SECONDS`; absent for never.
    pub(crate) retransform: Option<Duration>,
}

/// Where the keys of JSON web tokens come from.
#[derive(Clone, Debug)]
pub(crate) enum KeySource {
    /// `ZERO_AUTH_JWK`
    Jwk(Box<Key>),
    /// `ZERO_AUTH_SECRET`
    Secret(String),
    /// `ZERO_AUTH_JWKS_URL`
    JwksUrl(String),
}

impl KeySource {
    /// Its name in the reference's messages.
    pub(crate) fn option(&self) -> &'static str {
        match self {
            KeySource::Jwk(_) => "jwk",
            KeySource::Secret(_) => "secret",
            KeySource::JwksUrl(_) => "jwksUrl",
        }
    }
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
        let query = match settings.list("ZERO_QUERY_URL") {
            Some(_) => api(settings, "ZERO_QUERY"),
            None => api(settings, "ZERO_GET_QUERIES"),
        };
        let mutate = mutate(settings);
        for (urls, name) in [(&query.urls, "ZERO_QUERY_URL"), (&mutate.urls, "ZERO_MUTATE_URL")] {
            for url in urls {
                if let Err(problem) = Pattern::new(url) {
                    return Err(error(format!(
                        "TypeError: Invalid input for {name}: {url:?} is no URL pattern: {problem}"
                    )));
                }
            }
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
            query,
            mutate,
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

fn error(text: impl Into<String>) -> ConfigError {
    ConfigError(text.into())
}

/// Checks every value that is set against the type of its option, served or not.
fn check_types(settings: &Settings) -> Result<(), ConfigError> {
    for option in OPTIONS {
        let env = option.env();
        let Some(value) = settings.text(&env) else { continue };
        let invalid = || error(format!("TypeError: Invalid input for {env}: {value:?}"));
        match option.kind {
            Kind::Text | Kind::List => {}
            Kind::Number => drop(number(value).ok_or_else(invalid)?),
            Kind::Bool => drop(boolean(settings, &env).ok_or_else(invalid)?),
            Kind::OneOf(path, names) => {
                if !names.contains(&value) {
                    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
                    return Err(error(format!(
                        "TypeError: Expected literal value {} at {path} Got {value:?}",
                        names.join(" or ")
                    )));
                }
            }
        }
    }
    Ok(())
}

fn boolean(settings: &Settings, env: &str) -> Option<bool> {
    match settings.text(env)?.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
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

fn purge(settings: &Settings) -> Result<PurgeOptions, ConfigError> {
    let option = |name: &str| format!("ZERO_CVR_GARBAGE_COLLECTION_{name}");
    let default = PurgeOptions::default();
    let seconds = |name: &str, unit: f64, default: Duration| match settings.text(&option(name)).and_then(number) {
        // Nothing is older than from now on, and longer than a century is never.
        Some(value) => Duration::from_secs_f64((value * unit).clamp(0.0, CENTURY)),
        None => default,
    };
    Ok(PurgeOptions {
        inactivity: seconds("INACTIVITY_THRESHOLD_HOURS", 3600.0, default.inactivity),
        interval: seconds("INITIAL_INTERVAL_SECONDS", 1.0, default.interval),
        batch: whole(settings, &option("INITIAL_BATCH_SIZE"), default.batch, 0..=1_000_000)?,
    })
}

/// How long health checks may stop; in ECS they do so before a task is to stop.
fn keepalive(settings: &Settings) -> Option<Duration> {
    let set = settings.text("ZERO_KEEPALIVE_TIMEOUT_MS").and_then(number).filter(|ms| *ms != 0.0);
    let ms = set.or_else(|| settings.text(ECS).map(|_| 20_000.0))?;
    (ms > 0.0).then(|| Duration::from_secs_f64((ms / 1000.0).min(CENTURY)))
}

/// A century in seconds.
const CENTURY: f64 = 100.0 * 365.0 * 24.0 * 3600.0;

/// The reference's switch for sockets that are silent; 0 turns it off.
fn limits(settings: &Settings) -> Result<Limits, ConfigError> {
    let name = "ZERO_PG_SOCKET_INACTIVITY_TIMEOUT";
    let default = Limits::default();
    let silence = match settings.text(name) {
        None => default.silence,
        Some(_) => {
            let ms: u64 = whole(settings, name, 0, 0..=1_000_000_000_000)?;
            (ms > 0).then(|| Duration::from_millis(ms))
        }
    };
    // Postgres is to give a lock up before the connection is given up.
    let half = silence.map_or(default.patience, |silence| silence / 2);
    Ok(Limits { silence, lock: default.lock.min(half), patience: default.patience.min(half) })
}

/// A whole number within bounds.
fn whole<T: TryFrom<i64>>(
    settings: &Settings,
    env: &str,
    default: T,
    allowed: std::ops::RangeInclusive<i64>,
) -> Result<T, ConfigError> {
    let Some(text) = settings.text(env) else { return Ok(default) };
    number(text)
        .filter(|value| value.fract() == 0.0 && value.abs() < 1e15)
        .map(|value| value as i64)
        .filter(|value| allowed.contains(value))
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| error(format!("TypeError: Invalid input for {env}: {text:?}")))
}

fn mutation_limit(settings: &Settings) -> Result<Option<(f64, Duration)>, ConfigError> {
    let window: u64 = whole(settings, "ZERO_PER_USER_MUTATION_LIMIT_WINDOW_MS", 60_000, 1..=1_000_000_000)?;
    let max = settings.text("ZERO_PER_USER_MUTATION_LIMIT_MAX").and_then(number);
    Ok(max.map(|max| (max, Duration::from_millis(window))))
}

fn auth(settings: &Settings) -> Result<AuthConfig, ConfigError> {
    let text = |env: &str| settings.text(env).map(str::to_owned);
    let jwk = text("ZERO_AUTH_JWK").map(|text| {
        let json = serde_json::from_str(&text).map_err(|error| error.to_string());
        json.and_then(|json| Key::from_json(&json)).map(|key| KeySource::Jwk(Box::new(key))).map_err(|problem| {
            error(format!("TypeError: Invalid input for ZERO_AUTH_JWK: not a usable key: {problem}"))
        })
    });
    let jwks_url = text("ZERO_AUTH_JWKS_URL").map(|text| match url::Url::parse(&text) {
        Ok(_) => Ok(KeySource::JwksUrl(text)),
        Err(problem) => Err(error(format!("TypeError: Invalid input for ZERO_AUTH_JWKS_URL: {text:?}: {problem}"))),
    });
    let secret = text("ZERO_AUTH_SECRET").map(|secret| Ok(KeySource::Secret(secret)));
    let interval = |name: &str| {
        let seconds = settings.text(&format!("ZERO_AUTH_{name}_INTERVAL_SECONDS")).and_then(number);
        // Longer than a century is never.
        let seconds = Some(seconds.unwrap_or(300.0)).filter(|seconds| *seconds > 0.0 && *seconds < 4e9);
        seconds.map(Duration::from_secs_f64)
    };
    Ok(AuthConfig {
        keys: [jwk, jwks_url, secret].into_iter().flatten().collect::<Result<_, _>>()?,
        issuer: text("ZERO_AUTH_ISSUER"),
        audience: text("ZERO_AUTH_AUDIENCE"),
        revalidate: interval("REVALIDATE"),
        retransform: interval("RETRANSFORM"),
    })
}

fn api(settings: &Settings, prefix: &str) -> ApiConfig {
    let list = |name: &str| settings.list(&format!("{prefix}_{name}")).unwrap_or_default();
    let lower = |names: Vec<String>| names.iter().map(|name| name.to_lowercase()).collect();
    ApiConfig {
        urls: list("URL"),
        api_key: settings.text(&format!("{prefix}_API_KEY")).map(str::to_owned),
        forward_cookies: boolean(settings, &format!("{prefix}_FORWARD_COOKIES")).unwrap_or(false),
        allowed_client_headers: lower(list("ALLOWED_CLIENT_HEADERS")),
        allowed_request_headers: lower(list("ALLOWED_REQUEST_HEADERS")),
    }
}

/// The mutate API. The older names count where the newer ones say nothing, but an older URL goes before a newer one, as
/// the reference has it.
fn mutate(settings: &Settings) -> ApiConfig {
    let (newer, older) = (api(settings, "ZERO_MUTATE"), api(settings, "ZERO_PUSH"));
    let list = |newer: Vec<String>, older: Vec<String>| if newer.is_empty() { older } else { newer };
    ApiConfig {
        urls: list(older.urls, newer.urls),
        api_key: newer.api_key.or(older.api_key),
        forward_cookies: boolean(settings, "ZERO_MUTATE_FORWARD_COOKIES").unwrap_or(older.forward_cookies),
        allowed_client_headers: list(newer.allowed_client_headers, older.allowed_client_headers),
        allowed_request_headers: list(newer.allowed_request_headers, older.allowed_request_headers),
    }
}

/// Characters of identifiers that nobody has to type.
const ID_ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

fn random_id() -> String {
    use rand::Rng;
    let mut rng = rand::rng();
    (0..21).map(|_| char::from(ID_ALPHABET[rng.random_range(0..ID_ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::{Config, LogFormat, Settings};

    const DB: (&str, &str) = ("ZERO_UPSTREAM_DB", "postgres://localhost/app");

    #[test]
    fn defaults() {
        let config = Config::new(&Settings::from_pairs([DB])).expect("only the database is required");
        assert_eq!(config.cvr_db, config.upstream_db);
        assert_eq!((config.port, config.cvr_max_conns, config.max_payload_bytes), (4848, 30, 10_485_760));
        assert_eq!(config.shard(), "zero_0");
        assert!(config.auto_reset && config.query.urls.is_empty() && config.without_effect.is_empty());
    }

    #[test]
    fn values() {
        let settings = Settings::from_pairs([
            DB,
            ("ZERO_PORT", " 0x10 "),
            ("ZERO_LOG_FORMAT", "json"),
            ("ZERO_AUTO_RESET", "FALSE"),
            ("ZERO_GET_QUERIES_URL", "http://a/q, http://b/*"),
            ("ZERO_GET_QUERIES_ALLOWED_CLIENT_HEADERS", "X-A"),
            ("ZERO_MUTATE_URL", "http://a/m"),
            ("ZERO_PUSH_URL", "http://b/m"),
            ("ZERO_MUTATE_API_KEY", "k"),
            ("ZERO_PUSH_FORWARD_COOKIES", "1"),
            ("ZERO_ADMIN_PASSWORD", "p"),
            ("ZERO_LITESTREAM_PORT", "1"),
            ("ZERO_APP_ID", ""),
        ]);
        let config = Config::new(&settings).expect("all values are good");
        assert_eq!((config.port, config.log_format, config.auto_reset), (16, LogFormat::Json, false));
        assert_eq!(config.query.urls, ["http://a/q", "http://b/*"]);
        assert_eq!(config.query.allowed_client_headers, ["x-a"]);
        assert_eq!(config.mutate.urls, ["http://b/m"]);
        assert_eq!(config.mutate.api_key.as_deref(), Some("k"));
        assert!(config.mutate.forward_cookies);
        assert_eq!(config.admin_password.as_deref(), Some("p"));
        assert_eq!(config.without_effect, ["ZERO_LITESTREAM_PORT"]);
    }

    #[test]
    fn purging() {
        let prefix = "ZERO_CVR_GARBAGE_COLLECTION";
        // Hours, seconds and groups as they are set, and what is made of them: milliseconds, milliseconds, groups.
        for (hours, interval, batch, expected) in [
            ("", "", "", (48 * 3_600_000, 60_000, 25)),
            ("0.5", "0.25", "0", (1_800_000, 250, 0)),
            ("0", "0", "1e3", (0, 0, 1000)),
            ("-1", "-1", "7", (0, 0, 7)),
            ("Infinity", "1e99", "1", (3_153_600_000_000, 3_153_600_000_000, 1)),
        ] {
            let names = ["INACTIVITY_THRESHOLD_HOURS", "INITIAL_INTERVAL_SECONDS", "INITIAL_BATCH_SIZE"];
            let mut settings = Settings::from_pairs([DB]);
            for (name, value) in names.into_iter().zip([hours, interval, batch]) {
                settings.set(&format!("{prefix}_{name}"), value);
            }
            let purge = Config::new(&settings).expect("good settings").cvr_purge;
            let found = (purge.inactivity.as_millis(), purge.interval.as_millis(), purge.batch);
            assert_eq!(found, expected, "{hours} {interval} {batch}");
        }
    }

    #[test]
    fn health_checks_that_stop() {
        for (value, ecs, expected) in [
            ("", "", None),
            ("0", "", None),
            ("-5", "", None),
            ("1500", "", Some(1500)),
            ("", "http://x", Some(20_000)),
            ("0", "http://x", Some(20_000)),
            ("1500", "http://x", Some(1500)),
        ] {
            let mut settings = Settings::from_pairs([DB]);
            settings.set("ZERO_KEEPALIVE_TIMEOUT_MS", value);
            settings.set(super::ECS, ecs);
            let timeout = Config::new(&settings).expect("good settings").keepalive_timeout;
            assert_eq!(timeout.map(|timeout| timeout.as_millis()), expected, "{value} {ecs}");
        }
    }

    #[test]
    fn silence_of_the_database_of_records() {
        for (value, silence, patience) in [
            ("", Some(30_000), 15_000),
            ("120000", Some(120_000), 15_000),
            ("0", None, 15_000),
            ("500", Some(500), 250),
        ] {
            let mut settings = Settings::from_pairs([DB]);
            settings.set("ZERO_PG_SOCKET_INACTIVITY_TIMEOUT", value);
            let limits = Config::new(&settings).expect("good settings").cvr_limits;
            assert_eq!(limits.silence.map(|silence| silence.as_millis()), silence, "{value}");
            assert_eq!(limits.patience.as_millis(), patience, "{value}");
            assert!(limits.lock <= limits.patience);
        }
    }

    #[test]
    fn errors_are_those_of_the_reference() {
        for (name, value, expected) in [
            (
                "ZERO_UPSTREAM_DB",
                "",
                "TypeError: Missing required option ZERO_UPSTREAM_DB at upstream.db. Got undefined",
            ),
            ("ZERO_PORT", "abc", r#"TypeError: Invalid input for ZERO_PORT: "abc""#),
            ("ZERO_PORT", "70000", r#"TypeError: Invalid input for ZERO_PORT: "70000""#),
            ("ZERO_AUTO_RESET", "yes", r#"TypeError: Invalid input for ZERO_AUTO_RESET: "yes""#),
            ("ZERO_LITESTREAM_PORT", "x", r#"TypeError: Invalid input for ZERO_LITESTREAM_PORT: "x""#),
            ("ZERO_LOG_FORMAT", "xml", r#"TypeError: Expected literal value "text" or "json" at log.format Got "xml""#),
            (
                "ZERO_APP_ID",
                "Bad-App",
                "TypeError: The App ID may only consist of lower-case letters, numbers, and the underscore character \
                 at app.id. Got \"Bad-App\"",
            ),
            (
                "ZERO_AUTH_JWK",
                "{}",
                "TypeError: Invalid input for ZERO_AUTH_JWK: not a usable key: data did not match any variant of \
                 untagged enum AlgorithmParameters",
            ),
            (
                "ZERO_WEBSOCKET_COMPRESSION_OPTIONS",
                "{",
                "Error: Failed to parse ZERO_WEBSOCKET_COMPRESSION_OPTIONS: EOF while parsing an object at line 1 column 1",
            ),
            (
                "ZERO_QUERY_URL",
                "localhost/query",
                "TypeError: Invalid input for ZERO_QUERY_URL: \"localhost/query\" is no URL pattern: it is not a whole URL",
            ),
            ("ZERO_SHARD_ID", "x", "Error: ZERO_SHARD_ID is no longer an option. Please use ZERO_APP_ID instead."),
        ] {
            let mut settings = Settings::from_pairs([DB]);
            if name == DB.0 {
                settings = Settings::default();
            }
            settings.set("ZERO_WEBSOCKET_COMPRESSION", "true");
            settings.set(name, value);
            assert_eq!(Config::new(&settings).expect_err(name).0, expected);
        }
    }
}
