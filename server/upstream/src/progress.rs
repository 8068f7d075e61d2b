//! How far an initial copy is, for whoever shows it.

/// One table of an initial copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableProgress {
    /// The table's name in the replica.
    pub table: String,
    /// Rows copied so far.
    pub rows: u64,
    /// Rows expected: Postgres' estimate, so the copy may end above or below it.
    pub total_rows: u64,
    /// Bytes received so far.
    pub bytes: u64,
    /// Size of the table on Postgres' disk.
    pub total_bytes: u64,
    /// Whether the table is complete.
    pub done: bool,
}

/// What the upstream side is doing before it streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Checks and creates what a shard needs upstream.
    SettingUp,
    /// Copies tables; sent when it starts, a few times a second, and when a table is complete.
    Copying(Vec<TableProgress>),
    /// All rows are in; creates indexes and gathers statistics.
    Indexing,
    /// The replica is complete.
    Done {
        /// Rows copied in total.
        rows: u64,
        /// How long the copy took, in milliseconds.
        elapsed_ms: u64,
    },
}
