//! Settings and what becomes of them.

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
    for (value, silence, patience) in
        [("", Some(30_000), 15_000), ("120000", Some(120_000), 15_000), ("0", None, 15_000), ("500", Some(500), 250)]
    {
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
        ("ZERO_UPSTREAM_DB", "", "TypeError: Missing required option ZERO_UPSTREAM_DB at upstream.db. Got undefined"),
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
