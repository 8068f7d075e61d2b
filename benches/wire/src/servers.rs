//! The two servers, started from outside and told the same.

use std::path::PathBuf;

use anyhow::Result;
use testdata::sync_server::{Program, SyncServer};

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

    /// The app that [`SyncServer::start_with`] makes for it.
    pub(crate) fn app(self) -> &'static str {
        match self {
            Kind::ZeroCache => "reference",
            Kind::Zql => "zql",
        }
    }

    fn program(self) -> Result<Program> {
        Ok(match self {
            Kind::ZeroCache => Program::ZeroCache,
            // The binary beside this one, or the one that the environment names.
            Kind::Zql => Program::Zql(match std::env::var_os("ZQL_BIN") {
                Some(path) => PathBuf::from(path),
                None => std::env::current_exe()?.with_file_name("zql"),
            }),
        })
    }
}

/// Where things are and what both servers are told.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub database: String,
    /// The API server of both: named queries at `/query`, mutations at `/mutate`.
    pub api_url: String,
    /// Replicas and logs.
    pub folder: PathBuf,
}

impl Setup {
    /// Starts a server and waits until it answers. Its replica is kept in the folder from one start to the next.
    pub(crate) fn start(&self, kind: Kind) -> Result<SyncServer> {
        let (query, mutate) = (format!("{}/query", self.api_url), format!("{}/mutate", self.api_url));
        let (program, folder) = (kind.program()?, self.folder.join(kind.name()));
        SyncServer::start_with(program, &self.database, &query, &folder, &[("ZERO_MUTATE_URL", &mutate)])
    }
}
