//! The options of the reference server, by name: what exists, of which type, and whether it is served.
//!
//! A deployment of zero-cache brings its environment with it. Every option of release 1.9 is known here, so
//! that it is accepted and checked; one that has no effect yet is named in the log when it is set.
//! Precedence: command line, environment, `.env` in the working directory.

use std::collections::BTreeMap;

/// The type of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// What JavaScript's `Number()` reads.
    Number,
    /// `true`, `1`, `false`, `0`.
    Bool,
    /// Texts, comma-separated in the environment.
    List,
    /// One of these, at this path of the reference's configuration object.
    OneOf(&'static str, &'static [&'static str]),
}

/// What setting an option does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It is served.
    Served,
    /// It has no effect yet.
    NotYet,
    /// It concerns a mechanism that this server does not have; nothing is lost.
    Moot,
}

/// One option.
#[derive(Debug)]
pub(crate) struct OptionSpec {
    /// The flag without dashes; the environment variable is `ZERO_` and the flag in capitals.
    pub(crate) flag: &'static str,
    pub(crate) kind: Kind,
    pub(crate) status: Status,
    /// For `--help`; empty for options that are not shown.
    pub(crate) help: &'static str,
}

const fn served(flag: &'static str, kind: Kind, help: &'static str) -> OptionSpec {
    OptionSpec { flag, kind, status: Status::Served, help }
}

const fn not_yet(flag: &'static str, kind: Kind) -> OptionSpec {
    OptionSpec { flag, kind, status: Status::NotYet, help: "" }
}

const fn moot(flag: &'static str, kind: Kind) -> OptionSpec {
    OptionSpec { flag, kind, status: Status::Moot, help: "" }
}

use Kind::{Bool, List, Number, OneOf, Text};

const LEVELS: &[&str] = &["debug", "info", "warn", "error"];

/// All options, in the reference's order.
pub(crate) const OPTIONS: &[OptionSpec] = &[
    served("upstream-db", Text, "URL of the source database: a direct connection, not a pooled one"),
    not_yet("upstream-type", OneOf("upstream.type", &["pg", "custom"])),
    served("upstream-max-conns", Number, "Connections to the source database for CRUD mutations"),
    moot("upstream-max-conns-per-worker", Number),
    served("upstream-pg-replication-slot-failover", Bool, "Create the replication slot with FAILOVER (Postgres 17)"),
    served("upstream-pg-stream-inbound-timeout-ms", Number, "Silence after which the replication stream is reopened"),
    served("push-url", List, ""),
    served("push-api-key", Text, ""),
    served("push-forward-cookies", Bool, ""),
    served("push-allowed-client-headers", List, ""),
    served("push-allowed-request-headers", List, ""),
    served("mutate-url", List, "Where mutations are sent; URL patterns, the first is the default"),
    served("mutate-api-key", Text, "Sent as X-Api-Key to the mutate URL"),
    served("mutate-forward-cookies", Bool, "Forward the client's cookies to the mutate URL"),
    served("mutate-allowed-client-headers", List, "Headers that clients may have sent to the mutate URL"),
    served("mutate-allowed-request-headers", List, "Headers of the client's upgrade request to send to the mutate URL"),
    served("get-queries-url", List, ""),
    served("get-queries-api-key", Text, ""),
    served("get-queries-forward-cookies", Bool, ""),
    served("get-queries-allowed-client-headers", List, ""),
    served("get-queries-allowed-request-headers", List, ""),
    served("query-url", List, "Where named queries are turned into ASTs; URL patterns, the first is the default"),
    served("query-api-key", Text, "Sent as X-Api-Key to the query URL"),
    served("query-forward-cookies", Bool, "Forward the client's cookies to the query URL"),
    served("query-allowed-client-headers", List, "Headers that clients may have sent to the query URL"),
    served("query-allowed-request-headers", List, "Headers of the client's upgrade request to send to the query URL"),
    served("enable-crud-mutations", Bool, "Carry out CRUD mutations of clients (deprecated)"),
    served("cvr-db", Text, "URL of the database for client view records; default: the source database"),
    served("cvr-max-conns", Number, "Connections to the database of client view records"),
    moot("cvr-max-conns-per-worker", Number),
    served(
        "cvr-garbage-collection-inactivity-threshold-hours",
        Number,
        "Hours after which the record of a client group that nobody uses is forgotten",
    ),
    served(
        "cvr-garbage-collection-initial-interval-seconds",
        Number,
        "Seconds between rounds of forgetting records while there is something to forget",
    ),
    served(
        "cvr-garbage-collection-initial-batch-size",
        Number,
        "Records forgotten a round, at first; 0 keeps them for ever",
    ),
    not_yet("query-hydration-stats", Bool),
    moot("sqlite-corruption-checks", Bool),
    moot("enable-query-planner", Bool),
    moot("enable-query-covering", Bool),
    moot("yield-threshold-ms", Number),
    not_yet("change-db", Text),
    not_yet("change-max-conns", Number),
    not_yet("change-statement-timeout-ms", Number),
    not_yet("change-log-batch-size", Number),
    served("replica-file", Text, "The SQLite replica"),
    not_yet("replica-vacuum-interval-hours", Number),
    served("log-level", OneOf("log.level", LEVELS), "debug, info, warn or error"),
    served("log-format", OneOf("log.format", &["text", "json"]), "text or json"),
    not_yet("log-slow-row-threshold", Number),
    not_yet("log-slow-hydrate-threshold", Number),
    moot("log-ivm-sampling", Number),
    served("app-id", Text, "Namespace of everything created in Postgres"),
    served("app-publications", List, "Publications to replicate; default: all tables of schema public"),
    served("shard-id", Text, ""),
    served("shard-num", Number, ""),
    served("auth-jwk", Text, "Key that verifies tokens as JSON web tokens (deprecated)"),
    served("auth-jwks-url", Text, "URL of the keys that verify tokens as JSON web tokens (deprecated)"),
    served("auth-secret", Text, "Secret that verifies tokens as JSON web tokens (deprecated)"),
    served("auth-issuer", Text, "Issuer that a JSON web token must name (deprecated)"),
    served("auth-audience", Text, "Audience that a JSON web token must name (deprecated)"),
    served(
        "auth-revalidate-interval-seconds",
        Number,
        "How often the query URL is asked whether a user is still known",
    ),
    served("auth-retransform-interval-seconds", Number, "How often named queries are transformed again"),
    served("port", Number, "Port for clients"),
    served(
        "keepalive-timeout-ms",
        Number,
        "Drain when nobody has asked /keepalive for so long after somebody did; 0: never",
    ),
    not_yet("change-streamer-uri", Text),
    not_yet("change-streamer-mode", OneOf("changeStreamer.mode", &["dedicated", "discover"])),
    not_yet("change-streamer-port", Number),
    not_yet("change-streamer-address", Text),
    not_yet("change-streamer-protocol", OneOf("changeStreamer.protocol", &["ws", "wss"])),
    not_yet("change-streamer-discovery-interface-preferences", List),
    not_yet("change-streamer-startup-delay-ms", Number),
    not_yet("change-streamer-back-pressure-limit-heap-proportion", Number),
    not_yet("change-streamer-flow-control-consensus-padding-seconds", Number),
    served("task-id", Text, "Names this process as owner of records; default: random"),
    served("per-user-mutation-limit-max", Number, "CRUD mutations that a client group may make in a window"),
    served("per-user-mutation-limit-window-ms", Number, "Length of that window"),
    moot("num-sync-workers", Number),
    served("auto-reset", Bool, "Copy everything again when the replica cannot be continued"),
    not_yet("replication-lag-report-interval-ms", Number),
    served("admin-password", Text, "Opens the inspector; without one it stays closed"),
    served("websocket-compression", Bool, "Compress sockets of clients that can (permessage-deflate)"),
    served("websocket-compression-options", Text, "JSON: threshold in bytes, zlibDeflateOptions.level"),
    served("websocket-max-payload-bytes", Number, "Largest message accepted from a client"),
    not_yet("litestream-executable", Text),
    not_yet("litestream-executable-v5", Text),
    not_yet("litestream-restore-using-v5", Bool),
    not_yet("litestream-backup-using-v5", Bool),
    not_yet("litestream-config-path", Text),
    not_yet("litestream-vfs-extension-path", Text),
    not_yet("litestream-vfs-probe-interval-ms", Number),
    not_yet("litestream-vfs-probe-timeout-ms", Number),
    not_yet("litestream-vfs-log-file", Text),
    not_yet("litestream-log-level", OneOf("litestream.logLevel", LEVELS)),
    not_yet("litestream-backup-url", Text),
    not_yet("litestream-endpoint", Text),
    not_yet("litestream-region", Text),
    not_yet("litestream-port", Number),
    not_yet("litestream-checkpoint-threshold-mb", Number),
    not_yet("litestream-min-checkpoint-page-count", Number),
    not_yet("litestream-max-checkpoint-page-count", Number),
    not_yet("litestream-incremental-backup-interval-minutes", Number),
    not_yet("litestream-snapshot-backup-interval-hours", Number),
    not_yet("litestream-restore-parallelism", Number),
    not_yet("litestream-multipart-concurrency", Number),
    not_yet("litestream-multipart-size", Number),
    moot("storage-db-tmp-dir", Text),
    served("initial-sync-table-copy-workers", Number, "Connections that copy tables at the same time"),
    moot("initial-sync-profile-copy", Bool),
    moot("initial-sync-text-copy", Bool),
    not_yet("shadow-sync-enabled", Bool),
    not_yet("shadow-sync-interval-hours", Number),
    not_yet("shadow-sync-sample-rate", Number),
    not_yet("shadow-sync-max-rows-per-table", Number),
    moot("target-client-row-count", Number),
    moot("lazy-startup", Bool),
    served("server-version", Text, "Version string of the start log"),
    moot("enable-telemetry", Bool),
    not_yet("cloud-event-sink-env", Text),
    not_yet("cloud-event-extension-overrides-env", Text),
];

impl OptionSpec {
    /// The environment variable.
    pub(crate) fn env(&self) -> String {
        format!("ZERO_{}", self.flag.to_uppercase().replace('-', "_"))
    }
}

/// Set in a container of Amazon's ECS, whose health checks end before a task is stopped.
pub(crate) const ECS: &str = "ECS_CONTAINER_METADATA_URI_V4";

/// Says `development` where the inspector needs no password; not an option, but deployments set it.
pub(crate) const NODE_ENV: &str = "NODE_ENV";

/// Option values as texts: what was set, by environment variable name.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    values: BTreeMap<String, Vec<String>>,
}

impl Settings {
    /// Values from the environment; `.env` in the working directory fills what is unset there.
    pub fn from_env() -> Self {
        let mut settings = Settings::default();
        let file = std::fs::read_to_string(".env").unwrap_or_default();
        let lines = file.lines().filter_map(env_line);
        for (name, value) in lines.chain(std::env::vars()) {
            settings.set(&name, &value);
        }
        settings
    }

    /// Values given as pairs of environment variable and text, for embedding and tests.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut settings = Settings::default();
        for (name, value) in pairs {
            settings.set(name, value);
        }
        settings
    }

    /// Sets one value as the environment would. An empty value counts as unset.
    pub fn set(&mut self, name: &str, value: &str) {
        if (name.starts_with("ZERO_") || name == NODE_ENV || name == ECS) && !value.is_empty() {
            let is_list = OPTIONS.iter().any(|option| option.kind == List && option.env() == name);
            let values = match is_list {
                true => value.split(',').map(|item| item.trim().to_owned()).collect(),
                false => vec![value.to_owned()],
            };
            self.values.insert(name.to_owned(), values);
        }
    }

    /// Lets the command line override.
    pub fn apply(&mut self, matches: &clap::ArgMatches) {
        for option in OPTIONS {
            if let Some(values) = matches.get_many::<String>(option.flag) {
                self.values.insert(option.env(), values.cloned().collect());
            }
        }
    }

    /// The single value of an option.
    pub(crate) fn text(&self, env: &str) -> Option<&str> {
        self.values.get(env).and_then(|values| values.first()).map(String::as_str)
    }

    /// The values of a list option.
    pub(crate) fn list(&self, env: &str) -> Option<Vec<String>> {
        self.values.get(env).cloned()
    }
}

/// One line of a `.env` file: `NAME=value`, the value perhaps quoted, perhaps after `export`.
fn env_line(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
    let value = value.trim();
    let quoted = ['"', '\'', '`'].iter().find_map(|&quote| {
        let (inner, _) = value.strip_prefix(quote)?.split_once(quote)?;
        Some(inner)
    });
    let value = quoted.unwrap_or_else(|| value.split(" #").next().unwrap_or_default().trim_end());
    Some((name.trim().to_owned(), value.to_owned()))
}

/// The command line of `zql serve`: one flag an option.
pub fn arguments(command: clap::Command) -> clap::Command {
    OPTIONS.iter().fold(command, |command, option| {
        let mut arg = clap::Arg::new(option.flag)
            .long(option.flag)
            .value_name(match option.kind {
                Text | List | OneOf(..) => "text",
                Number => "number",
                Bool => "bool",
            })
            .help(format!("{} [env: {}]", option.help, option.env()))
            .hide(option.help.is_empty());
        arg = match option.kind {
            Bool => arg.num_args(0..=1).default_missing_value("true"),
            List => arg.num_args(1..).action(clap::ArgAction::Append),
            _ => arg,
        };
        command.arg(arg)
    })
}

#[cfg(test)]
mod tests {
    use super::{OPTIONS, env_line};

    #[test]
    fn every_option_of_the_reference_is_known() {
        assert_eq!(OPTIONS.len(), 117);
        let mut names: Vec<&str> = OPTIONS.iter().map(|option| option.flag).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 117);
    }

    #[test]
    fn lines_of_an_env_file() {
        for (line, expected) in [
            ("ZERO_PORT=1", Some(("ZERO_PORT", "1"))),
            ("export A = \"b # c\" # d", Some(("A", "b # c"))),
            ("A=b # c", Some(("A", "b"))),
            ("# A=b", None),
            ("", None),
        ] {
            let got = env_line(line);
            assert_eq!(got.as_ref().map(|(name, value)| (name.as_str(), value.as_str())), expected, "{line}");
        }
    }
}
