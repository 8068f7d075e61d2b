//! A live server under test: started here with a private Postgres, or running somewhere already.
//!
//! All data sets lie in one upstream database, beside a table in which every lane counts its transactions: a poke with
//! the new count holds all that the transaction changed. Queries come as named queries whose only argument is their
//! AST, so the server must ask the API that is served here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use testdata::postgres::Postgres;
use testdata::sync_server::{Program, SyncServer};
use testdata::world::{data_sql, definition, schema_sql};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::RwLock;
use tokio_postgres::NoTls;
use zql_spec::conformance::DataSet;

use crate::wire::{Wire, probe};

/// The table of counts.
pub(crate) const MARKS: &str = "zql_conformance";

/// By which servers that are started here know the tokens of the suite's users.
const SECRET: &str = "a secret of the suite";

/// How often dropping the tables is tried when a signal comes: what the server does to new tables may run then, and Postgres may
/// find that it and the drop wait for each other, and end the drop.
const DROP_TRIES: usize = 4;

/// A live server.
pub(crate) struct Target {
    /// Its name in reports.
    pub(crate) name: String,
    /// Where clients connect.
    pub(crate) url: String,
    /// The database that it replicates.
    pub(crate) upstream: String,
    /// Whether it is this project's server.
    pub(crate) own: bool,
    /// Whether the tables came after the server, which may not know them at once.
    pub(crate) late: bool,
    /// Shared by whoever writes to the suite's tables, and held alone by whoever drops them: a transaction has locks of some and
    /// waits for others.
    pub(crate) writing: Arc<RwLock<()>>,
    /// The secret by which it knows tokens, if it lets whoever shows one see all rows of the data sets.
    pub(crate) secret: Option<&'static str>,
    runtime: Runtime,
    clean_up: Option<String>,
    server: Option<SyncServer>,
    _folder: Option<tempfile::TempDir>,
}

impl Target {
    /// Starts a server over a database of the private Postgres.
    pub(crate) fn start(program: Program, postgres: &Postgres, data: &[Arc<DataSet>]) -> Result<Target> {
        let runtime = runtime()?;
        let upstream = postgres.database()?;
        let (name, own) = (program.name().to_owned(), program != Program::ZeroCache);
        runtime.block_on(execute(&upstream, &create(data)))?;
        let api = runtime.block_on(query_api::serve(([127, 0, 0, 1], 0).into(), query_api::argument))?;
        let folder = tempfile::Builder::new().prefix("zql-conformance-").tempdir()?;
        let app = program.app();
        let server = SyncServer::start_with(program, &upstream, &api, folder.path(), &[("ZERO_AUTH_SECRET", SECRET)])?;
        runtime.block_on(execute(&upstream, &permit(app, data)))?;
        let url = server.url();
        Ok(Target {
            name,
            url,
            upstream,
            own,
            late: false,
            writing: Arc::default(),
            secret: Some(SECRET),
            runtime,
            clean_up: None,
            server: Some(server),
            _folder: Some(folder),
        })
    }

    /// Takes a server that runs: makes the data sets' tables in its upstream database and drops them at the end, also if
    /// that comes by a signal. It must ask for named queries at this address. With `clean`, what an earlier run left is
    /// dropped first.
    pub(crate) fn running(
        url: &str,
        upstream: &str,
        api: SocketAddr,
        data: &[Arc<DataSet>],
        clean: bool,
    ) -> Result<Target> {
        let runtime = runtime()?;
        runtime.block_on(probe(url))?;
        let there = runtime.block_on(tables(upstream, data)).context("nothing was changed")?;
        let left = there.iter().any(|table| table == MARKS);
        match there.as_slice() {
            [] => {}
            _ if left && clean => runtime.block_on(execute(upstream, &drop_all(data)))?,
            _ if left => bail!(
                "an earlier run left tables of the suite in the upstream database ({}): --clean drops them; nothing was \
                 changed",
                there.join(", ")
            ),
            _ => bail!(
                "the upstream database has tables that are called as those of the suite ({}): use another database; nothing \
                 was changed",
                there.join(", ")
            ),
        }
        let api = runtime
            .block_on(query_api::serve(api, query_api::argument))
            .with_context(|| format!("listening for queries at {api}; --queries names another address"))?;
        // From here on a signal ends the process only after what it made is dropped.
        let signals = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        runtime.block_on(execute(upstream, &create(data)))?;
        let clean_up = drop_all(data);
        let writing = Arc::default();
        runtime.spawn(clean_up_by_signal(signals, Arc::clone(&writing), upstream.to_owned(), clean_up.clone()));
        eprintln!("the tables of the suite are made in the upstream database and dropped at the end");
        let target = Target {
            name: url.to_owned(),
            url: url.to_owned(),
            upstream: upstream.to_owned(),
            own: false,
            late: true,
            writing,
            secret: None,
            runtime,
            clean_up: Some(clean_up),
            server: None,
            _folder: None,
        };
        Wire::connect(&target, "ready")?.ready(&api)?;
        Ok(target)
    }

    /// Whether the server answers.
    pub(crate) fn probe(&self) -> Result<()> {
        self.runtime.block_on(probe(&self.url))
    }

    /// The end of the server's log, when it was started here.
    pub(crate) fn log(&self) -> String {
        self.server.as_ref().map(SyncServer::log_tail).unwrap_or_default()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(sql) = self.clean_up.take()
            && let Err(error) = self.runtime.block_on(execute(&self.upstream, &sql))
        {
            eprintln!("the tables of the suite could not be dropped, --clean does it the next time: {error:#}");
        }
    }
}

/// This project's server: the binary that runs, or the one that the environment names.
pub(crate) fn own_program() -> Result<Program> {
    Ok(Program::Zql(match std::env::var_os("ZQL_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?,
    }))
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

fn create(data: &[Arc<DataSet>]) -> String {
    let mut sql = format!("CREATE TABLE {MARKS} (lane text PRIMARY KEY, n int4 NOT NULL);\n");
    for data in data {
        let definition = definition(data);
        sql.push_str(&schema_sql(definition));
        sql.push_str(&data_sql(definition, &data.database));
    }
    sql
}

/// Lets everybody see every row of the data sets: queries of a client's own see nothing otherwise.
fn permit(app: &str, data: &[Arc<DataSet>]) -> String {
    let rules = json!({ "row": { "select": [["allow", { "type": "and", "conditions": [] }]] } });
    let names = data.iter().flat_map(|data| &data.tables).map(|table| table.name.to_string());
    let tables: Map<String, Value> = names.map(|name| (name, rules.clone())).collect();
    format!("UPDATE {app}.permissions SET permissions = '{}'", json!({ "tables": tables }))
}

fn drop_all(data: &[Arc<DataSet>]) -> String {
    let mut sql = format!("DROP TABLE IF EXISTS {MARKS};\n");
    for data in data {
        for table in &data.tables {
            sql.push_str(&format!("DROP TABLE IF EXISTS \"{}\";\n", table.name));
        }
        for (name, _) in &data.enums {
            sql.push_str(&format!("DROP TYPE IF EXISTS {name};\n"));
        }
    }
    sql
}

/// The tables of the suite that are in a database.
async fn tables(url: &str, data: &[Arc<DataSet>]) -> Result<Vec<String>> {
    let own = data.iter().flat_map(|data| &data.tables).map(|table| &*table.name);
    let own: Vec<&str> = own.chain([MARKS]).collect();
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("the upstream database")?;
    let connection = tokio::spawn(connection);
    let sql = "SELECT table_name::text FROM information_schema.tables \
               WHERE table_schema = 'public' AND table_name = ANY($1) ORDER BY 1";
    let rows = client.query(sql, &[&own]).await;
    drop(client);
    connection.await.context("the connection to the upstream database")??;
    Ok(rows?.iter().map(|row| row.get(0)).collect())
}

/// Drops the tables when the process is told to end, and ends it. What else was started ends with it.
async fn clean_up_by_signal(
    (mut interrupt, mut terminate): (Signal, Signal),
    writing: Arc<RwLock<()>>,
    upstream: String,
    sql: String,
) {
    let code = tokio::select! {
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    };
    eprintln!("dropping the tables of the suite");
    // Until the end: cases that wait for it go no further.
    let _alone = writing.write().await;
    let mut dropped = execute(&upstream, &sql).await;
    for _ in 1..DROP_TRIES {
        if dropped.is_err() {
            dropped = execute(&upstream, &sql).await;
        }
    }
    if let Err(error) = dropped {
        eprintln!("the tables of the suite could not be dropped, --clean does it the next time: {error:#}");
    }
    std::process::exit(code);
}

async fn execute(url: &str, sql: &str) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("the upstream database")?;
    let connection = tokio::spawn(connection);
    let done = client.batch_execute(sql).await;
    drop(client);
    connection.await.context("the connection to the upstream database")??;
    match done {
        Ok(()) => Ok(()),
        Err(error) => match error.as_db_error() {
            Some(error) => bail!("{}", error.message()),
            None => Err(error.into()),
        },
    }
}
