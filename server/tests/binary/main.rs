//! Tests of the whole binary, from outside: real Postgres, real clients.

mod chaos;
mod client;
mod conformance;
mod demo;
mod explain;
mod large;
mod node;
mod protocol;
mod start;
mod statz;
mod stopping;
mod takeover;
mod truth;
mod watch;
mod worlds;

use std::path::{Path, PathBuf};

use testdata::postgres::{self, Postgres};
use testdata::sync_server::{Program, SyncServer};
use testdata::tracker::Sizes;

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_zql"))
}

/// A server on a small issue tracker of its own.
#[derive(Debug)]
struct Tracker {
    server: SyncServer,
    database: String,
    folder: tempfile::TempDir,
}

impl Tracker {
    /// Starts it; named queries are asked for at `query_url`.
    fn start(query_url: &str) -> Tracker {
        Tracker::on(postgres::shared(), query_url, "", &[])
    }

    /// On that cluster, after some more SQL, with these settings.
    fn on(postgres: &Postgres, query_url: &str, more: &str, settings: &[(&'static str, &str)]) -> Tracker {
        let database = postgres.database().expect("a database");
        Sizes::SMALL.load(postgres, &database).expect("the tracker's rows");
        postgres.psql(&database, more).expect(more);
        let folder = tempfile::tempdir().expect("a folder");
        let program = Program::Zql(PathBuf::from(binary()));
        let server =
            SyncServer::start_with(program, &database, query_url, folder.path(), settings).expect("the server");
        Tracker { server, database, folder }
    }

    fn sql(&self, sql: &str) -> String {
        postgres::shared().psql(&self.database, sql).expect(sql)
    }
}
