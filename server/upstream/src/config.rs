//! What the caller decides: plain values, already parsed from the environment.

use std::time::Duration;

/// Options of the upstream side. The environment variable of each is in its documentation.
#[derive(Clone, Debug)]
pub struct Config {
    /// `ZERO_UPSTREAM_DB`: the URL of the source database; a direct connection, not a pooled one.
    pub upstream_url: String,
    /// `ZERO_APP_ID`: the namespace of everything created upstream.
    pub app_id: String,
    /// `ZERO_SHARD_NUM`: the shard of the app.
    pub shard_num: u32,
    /// `ZERO_APP_PUBLICATIONS`: what to replicate; empty for all tables of schema `public`.
    pub publications: Vec<String>,
    /// `ZERO_TASK_ID`: names this process in the rows it leaves upstream.
    pub task_id: String,
    /// `ZERO_AUTO_RESET`: copy everything again when the replica cannot be continued.
    pub auto_reset: bool,
    /// `ZERO_INITIAL_SYNC_TABLE_COPY_WORKERS`: connections that copy tables at the same time.
    pub copy_workers: usize,
    /// `ZERO_UPSTREAM_PG_REPLICATION_SLOT_FAILOVER`: create the slot with FAILOVER (Postgres 17 and later).
    pub slot_failover: bool,
    /// `ZERO_UPSTREAM_PG_STREAM_INBOUND_TIMEOUT_MS`: silence after which the stream is opened again;
    /// unset: twice the server's `wal_sender_timeout`.
    pub inbound_timeout: Option<Duration>,
    /// What is known of this process and its platform; stored upstream beside the slot it takes.
    pub server_context: serde_json::Map<String, serde_json::Value>,
}

impl Config {
    /// A configuration with the documented default of every option.
    pub fn new(upstream_url: impl Into<String>) -> Self {
        Config {
            upstream_url: upstream_url.into(),
            app_id: "zero".to_owned(),
            shard_num: 0,
            publications: Vec::new(),
            task_id: "local".to_owned(),
            auto_reset: true,
            copy_workers: 5,
            slot_failover: false,
            inbound_timeout: None,
            server_context: serde_json::Map::new(),
        }
    }
}
