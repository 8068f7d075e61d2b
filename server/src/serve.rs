//! `zql serve`: puts the server together, runs it, takes it apart.
//!
//! Start order: records, upstream (with the initial copy, if there is no replica), running queries, stream,
//! port. The port opens last, so a health check that succeeds means that clients are served. Exit codes are
//! the reference's: 0 after a drain, 14 where restarting is right or the operator must change a setting,
//! 255 otherwise.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, Pool, Runtime};
use sync::config::Config;
use sync::hub::Hub;
use sync::options::{self, Settings};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::analyze::Analyzer;
use crate::statz::Statz;
use crate::{logging, progress};

/// Stopped on purpose, or by a setting that somebody must change: not worth an alarm.
const EXIT_INTENTIONAL: u8 = 14;

/// Failed.
const EXIT_FAILURE: u8 = 255;

/// How long client groups may take to end when the server stops.
const DRAIN: Duration = Duration::from_secs(20);

/// How long what waits to be written to the records may take after that. Together with [`DRAIN`] less than the 30 s after
/// which an orchestrator kills.
const RECORDS: Duration = Duration::from_secs(5);

/// How long to wait for a free connection to a database before that counts as a failure.
const POOL_WAIT: Duration = Duration::from_secs(30);

/// The command line.
pub(crate) fn command() -> clap::Command {
    options::arguments(
        clap::Command::new("serve")
            .about("Runs the sync server")
            .after_help("Every option can be set in the environment, or in a file .env, under the name in brackets."),
    )
}

/// Runs the server until it is told to stop.
pub(crate) fn main(matches: &clap::ArgMatches) -> ExitCode {
    let mut settings = Settings::from_env();
    settings.apply(matches);
    let config = Config::new(&settings).and_then(|config| config.check_production().map(|()| config));
    let config = match config {
        Ok(config) => Arc::new(config),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    logging::start(config.log_level, config.log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime could not be started");
            return ExitCode::from(EXIT_FAILURE);
        }
    };
    match runtime.block_on(run(config)) {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(Failure { code, message }) => {
            if code == EXIT_INTENTIONAL {
                tracing::warn!("{message}");
            } else {
                tracing::error!("{message}");
            }
            ExitCode::from(code)
        }
    }
}

/// Why the server stopped.
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn fatal(message: impl Into<String>) -> Self {
        Failure { code: EXIT_FAILURE, message: message.into() }
    }

    fn intentional(message: impl Into<String>) -> Self {
        Failure { code: EXIT_INTENTIONAL, message: message.into() }
    }
}

impl From<upstream::Error> for Failure {
    fn from(error: upstream::Error) -> Self {
        use upstream::Error;
        let message = error.to_string();
        match error {
            Error::Config(_) => Failure::intentional(format!("exiting with configuration error: {message}")),
            Error::TakenOver(_) | Error::ResetRequired(_) => Failure::intentional(message),
            // An orchestrator starts the server again, which is right while Postgres is away.
            Error::Postgres { .. } | Error::Stream { .. } => Failure::intentional(message),
            Error::Replica { .. } | Error::Protocol(_) => Failure::fatal(message),
        }
    }
}

async fn run(config: Arc<Config>) -> Result<(), Failure> {
    let started = Instant::now();
    let signals = |kind| signal(kind).map_err(|error| Failure::fatal(format!("signals cannot be handled: {error}")));
    let mut terminate = signals(SignalKind::terminate())?;
    let mut interrupt = signals(SignalKind::interrupt())?;
    tracing::info!(
        version = config.server_version,
        protocol = zql_spec::protocol::MAX_VERSION,
        app = config.app_id,
        shard = config.shard_num,
        task = config.task_id,
        port = config.port,
        "starting"
    );
    for name in &config.without_effect {
        tracing::warn!("{name} is set but has no effect in this version");
    }
    if config.query.urls.is_empty() {
        tracing::warn!("ZERO_QUERY_URL is not set: named queries are not answered");
    }
    let server = tokio::select! {
        server = start(&config) => server?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let Server { hub, store, mut stream } = server;
    let listener = sync::http::listen(config.port, false)
        .map_err(|error| Failure::fatal(format!("cannot listen on port {} (ZERO_PORT): {error}", config.port)))?;
    let address = listener.local_addr().map_err(|error| Failure::fatal(error.to_string()))?;
    let (stop_http, stopped) = oneshot::channel::<()>();
    let http = tokio::spawn(sync::http::serve(Arc::clone(&hub), listener, async move {
        let _ = stopped.await;
    }));
    let purging = tokio::spawn({
        let (store, options) = (store.clone(), config.cvr_purge.clone());
        async move { store.purge(options).await }
    });
    tracing::info!("listening at http://{address}");
    tracing::info!("zql ready ({} ms)", started.elapsed().as_millis());

    let outcome = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        () = unwatched(&hub, config.keepalive_timeout) => None,
        ended = stream.ended() => Some(ended),
    };
    // The port closes first: health checks fail, and clients that reconnect find another server.
    drop(stop_http);
    let (connections, groups) = hub.sizes();
    tracing::info!(connections, groups, "draining");
    hub.drain(DRAIN).await;
    purging.abort();
    if tokio::time::timeout(RECORDS, store.close()).await.is_err() {
        tracing::warn!("rows of client view records were not written in time; their clients will sync again");
    }
    http.abort();
    match outcome {
        None => Ok(stream.stop().await?),
        Some(Ok(())) => Err(Failure::fatal("the stream of changes ended unexpectedly")),
        Some(Err(error)) => Err(error.into()),
    }
}

/// Returns when health checks have stopped, if that is to be noticed.
async fn unwatched(hub: &Hub, timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => hub.heartbeat.lost(timeout).await,
        None => std::future::pending().await,
    }
    tracing::info!(?timeout, "nobody asks /keepalive any more");
}

/// What runs.
struct Server {
    hub: Arc<Hub>,
    store: cvr_store::Store,
    stream: upstream::Running,
}

async fn start(config: &Arc<Config>) -> Result<Server, Failure> {
    let store = open_store(config).await?;
    let upstream = upstream::start(upstream_config(config), &config.replica_file, progress::reporter()).await?;
    let replica = Arc::clone(upstream.replica());
    let planner = Arc::new(planner::Planner::new());
    let hydrator: Arc<planner::Planner> = Arc::clone(&planner);
    let views = views::Views::start(Arc::clone(&replica), hydrator, views::Options::default())
        .map_err(|error| Failure::fatal(format!("the query threads could not be started: {error}")))?;
    let views = Arc::new(views);
    let notified = Arc::clone(&views);
    let stream = upstream.run(move |commit| {
        if let Err(error) = notified.committed(commit) {
            tracing::warn!(%error, "a version could not be read; its changes wait for the next one");
        }
    })?;
    let hub = Hub::new(Arc::clone(config), Arc::clone(&replica), views, store.clone(), open_upstream(config)?);
    hub.tell_by(Arc::new(Statz { config: Arc::clone(config), replica: Arc::clone(&replica), store: store.clone() }));
    hub.explain_by(Arc::new(Analyzer { planner, replica }));
    Ok(Server { hub, store, stream })
}

/// The pool for CRUD mutations, if they are wanted.
fn open_upstream(config: &Config) -> Result<Option<Pool>, Failure> {
    let wanted = config.crud_mutations;
    let pool = || pool(&config.upstream_db, "ZERO_UPSTREAM_DB", "sync-upstream", config.upstream_max_conns);
    wanted.then(pool).transpose().map(|pool| pool.map(|(pool, _)| pool))
}

/// A pool of sessions with a database, and the database's address.
fn pool(url: &str, setting: &'static str, purpose: &str, size: usize) -> Result<(Pool, String), Failure> {
    let (database, tls) = upstream::pool_parts(url, setting, purpose)?;
    let address = address(&database);
    let manager = match tls {
        Some(tls) => Manager::new(database, tls),
        None => Manager::new(database, tokio_postgres::NoTls),
    };
    let pool = Pool::builder(manager)
        .max_size(size)
        .wait_timeout(Some(POOL_WAIT))
        .create_timeout(Some(POOL_WAIT))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| Failure::fatal(format!("{setting}: {error}")))?;
    Ok((pool, address))
}

async fn open_store(config: &Config) -> Result<cvr_store::Store, Failure> {
    let setting = if config.cvr_db == config.upstream_db { "ZERO_UPSTREAM_DB" } else { "ZERO_CVR_DB" };
    let (pool, address) = pool(&config.cvr_db, setting, "sync-cvr", config.cvr_max_conns)?;
    let options = cvr_store::Options { schema: format!("{}/cvr", config.shard()), task_id: config.task_id.clone() };
    cvr_store::Store::open_with(pool, options, config.cvr_limits).await.map_err(|error| {
        Failure::intentional(format!(
            "the database of client view records, {address} ({setting}), cannot be used: {error}"
        ))
    })
}

/// Host, port and database, without secrets.
fn address(database: &tokio_postgres::Config) -> String {
    use tokio_postgres::config::Host;
    let host = match database.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = database.get_ports().first().copied().unwrap_or(5432);
    format!("{host}:{port}/{}", database.get_dbname().unwrap_or_default())
}

fn upstream_config(config: &Config) -> upstream::Config {
    upstream::Config {
        app_id: config.app_id.clone(),
        shard_num: config.shard_num,
        publications: config.app_publications.clone(),
        task_id: config.task_id.clone(),
        auto_reset: config.auto_reset,
        copy_workers: config.copy_workers,
        slot_failover: config.slot_failover,
        inbound_timeout: config.inbound_timeout,
        ..upstream::Config::new(config.upstream_db.clone())
    }
}
