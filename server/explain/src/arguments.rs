//! The arguments of `zql explain`.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// In a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Show how queries are answered from a replica, and what they cost.
#[derive(Clone, Debug, Default, Args)]
pub struct Explain {
    /// The replica, or a statistics file made of one by --dump-stats. Neither is changed.
    #[arg(long, value_name = "FILE", env = "ZERO_REPLICA_FILE")]
    pub replica: Option<PathBuf>,
    /// A query as text: "issue.where('open', true).limit(10)". Relationships need --schema.
    #[arg(long, value_name = "ZQL")]
    pub query: Option<String>,
    /// A query as a JSON file (or as JSON itself), with the server's names, or several: a list, an object by name, or one a
    /// line.
    #[arg(long, value_name = "FILE|JSON", conflicts_with = "query")]
    pub ast: Option<PathBuf>,
    /// A file of many queries: texts that end in ";", or JSON as for --ast.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["query", "ast"])]
    pub file: Option<PathBuf>,
    /// The application's schema as JSON; texts then use its names and relationships.
    #[arg(long, value_name = "FILE")]
    pub schema: Option<PathBuf>,
    /// Narrow the queries to what permissions let a user read: those that are deployed in the replica, or a document.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub apply_permissions: Option<Option<PathBuf>>,
    /// The claims of a user as JSON, for permissions and for queries with parameters.
    #[arg(long, value_name = "JSON")]
    pub auth_data: Option<String>,
    /// The app whose deployed permissions are meant.
    #[arg(long, value_name = "ID", env = "ZERO_APP_ID", default_value = "zero")]
    pub app_id: String,
    /// Run the queries and measure them, and on a copy of the replica what changes cost. That is done if there is data, and
    /// the copy made if the replica is small, unless this is false; true makes the copy in any case.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub analyze: Option<bool>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Also write a page for a browser.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the replica's statistics to a file, "-" for the output: plans can be studied with it, and no row is in it.
    #[arg(long, value_name = "FILE")]
    pub dump_stats: Option<PathBuf>,
    /// Let --dump-stats also write values that many rows have, and some between the others: constants that are rare or
    /// common are then planned as on the replica.
    #[arg(long, requires = "dump_stats")]
    pub with_values: bool,
    /// Show what two replicas (or statistics files), or two versions of a query (as files), differ in. Limits are for B.
    #[arg(long, num_args = 2, value_names = ["A", "B"],
        conflicts_with_all = ["html", "dump_stats", "check_advice", "output_synced_rows", "output_vended_rows"])]
    pub compare: Option<Vec<PathBuf>>,
    /// Make each advised index on a copy of the replica and measure the query there.
    #[arg(long)]
    pub check_advice: bool,
    /// Exit with code 2 if SQLite visits more rows for a query. Needs a replica, since the query has to be run.
    #[arg(long, value_name = "ROWS")]
    pub max_rows_visited: Option<u64>,
    /// Exit with code 2 if a query takes longer. Needs a replica, since the query has to be run.
    #[arg(long, value_name = "MS")]
    pub max_ms: Option<f64>,
    /// Print the rows that a client would get.
    #[arg(long)]
    pub output_synced_rows: bool,
    /// Print the first rows that SQLite gave for each statement.
    #[arg(long, value_name = "ROWS", num_args = 0..=1, default_missing_value = "100", require_equals = true)]
    pub output_vended_rows: Option<usize>,
    /// When to use colours.
    #[arg(long, value_enum, default_value_t)]
    pub color: When,
}

impl Explain {
    /// The replica that was named.
    pub(crate) fn replica(&self) -> Result<&Path> {
        self.replica.as_deref().ok_or_else(|| anyhow!("name a replica or a statistics file with --replica"))
    }

    /// Whether any query was named.
    pub(crate) fn has_queries(&self) -> bool {
        self.query.is_some() || self.ast.is_some() || self.file.is_some()
    }
}
