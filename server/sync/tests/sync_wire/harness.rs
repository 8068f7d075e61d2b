//! A server over a database of its own, an API server that answers what it is told, and clients.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_postgres::{Manager, Pool};
use engine::replica::Replica;
use futures::FutureExt;
use protocol_client::{Connection, Error, Event, Hello, Identity, Poke, hash_of};
use serde_json::{Value, json};
use sync::config::Config;
use sync::hub::Hub;
use sync::options::Settings;
use testdata::postgres::shared;
use tokio::sync::{Notify, RwLock, oneshot, watch};
use warp::Filter;
use zql_spec::protocol::error::{ErrorBody, ErrorKind, ErrorOrigin, ErrorReason};
use zql_spec::protocol::upstream::DesiredOp;

use crate::plain::Plain;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Two tables that most tests use.
pub(crate) const SCHEMA: &str = "CREATE TABLE issue (id text PRIMARY KEY, title text, open bool NOT NULL);
     CREATE TABLE comment (id text PRIMARY KEY, issue_id text NOT NULL, body text);
     INSERT INTO issue VALUES ('i1', 'first', true), ('i2', 'second', false);
     INSERT INTO comment VALUES ('c1', 'i1', 'hello');";

/// What a client of these tables sends.
pub(crate) const CLIENT_SCHEMA: &str = r#"{"tables":{"comment":{"columns":{"body":{"type":"string"},"id":{"type":"string"},"issue_id":{"type":"string"}},"primaryKey":["id"]},"issue":{"columns":{"id":{"type":"string"},"open":{"type":"boolean"},"title":{"type":"string"}},"primaryKey":["id"]}}}"#;

/// All issues with their comments.
pub(crate) const ISSUES: &str = r#"{"table":"issue","related":[{"correlation":{"parentField":["id"],"childField":["issue_id"]},"subquery":{"table":"comment","alias":"comments"},"system":"client"}],"orderBy":[["id","asc"]]}"#;

/// The same as the reference's API server answers it.
const ISSUES_AS_OBSERVED: &str = r#"{"table":"issue","related":[{"correlation":{"parentField":["id"],"childField":["issue_id"]},"subquery":{"table":"comment","alias":"comments"},"system":"client"}]}"#;

pub(crate) struct Server {
    /// `http://127.0.0.1:port`
    pub(crate) url: String,
    /// The database's URL.
    pub(crate) database: String,
    pub(crate) hub: Arc<Hub>,
    pub(crate) api: Arc<Api>,
    /// How many commits with rows the replica has had.
    pub(crate) commits: watch::Receiver<usize>,
    replica: Arc<Replica>,
    views: Arc<views::Views>,
    pub(crate) hydrator: Arc<Plain>,
    stream: Option<upstream::Running>,
    store: cvr_store::Store,
    stop: Option<oneshot::Sender<()>>,
    folder: Arc<tempfile::TempDir>,
}

/// The application's API server. The query `ast` is its first argument, `issues.all` that of the reference's transcript,
/// `changing` is [`Api::changing`], others are refused.
pub(crate) struct Api {
    pub(crate) calls: AtomicUsize,
    /// A status to answer everything with, 0 for none.
    pub(crate) status: AtomicUsize,
    /// Tokens that are not known (any more).
    pub(crate) unknown: Mutex<Vec<String>>,
    /// The user to answer, if any.
    pub(crate) user: Mutex<Option<Value>>,
    /// What the query `changing` is at the moment.
    pub(crate) changing: Mutex<Value>,
    /// Tokens and queries of the calls that nobody waited for yet.
    seen: Mutex<Vec<(String, usize)>>,
    /// Queries that are refused, by their hashes.
    pub(crate) refused: Mutex<Vec<String>>,
    /// Calls wait while somebody holds it closed.
    pub(crate) door: RwLock<()>,
    /// The token whose calls alone wait at the door; without one all do.
    pub(crate) held: Mutex<Option<String>>,
    /// All tokens that were seen.
    pub(crate) tokens: Mutex<BTreeSet<String>>,
    /// Tells that another call came.
    arrived: Notify,
}

impl Default for Api {
    fn default() -> Self {
        Api {
            calls: AtomicUsize::default(),
            status: AtomicUsize::default(),
            unknown: Mutex::default(),
            user: Mutex::default(),
            changing: Mutex::default(),
            seen: Mutex::default(),
            refused: Mutex::default(),
            door: RwLock::default(),
            held: Mutex::default(),
            tokens: Mutex::default(),
            arrived: Notify::new(),
        }
    }
}

impl Api {
    /// Waits for the next call with this token: how many queries it asked for.
    pub(crate) async fn call_with(&self, token: &str) -> usize {
        let call = || {
            let mut seen = self.seen.lock().expect("not poisoned");
            let position = seen.iter().position(|(seen, _)| seen == token)?;
            Some(seen.remove(position).1)
        };
        patiently(async {
            loop {
                let arrived = self.arrived.notified();
                if let Some(queries) = call() {
                    return queries;
                }
                arrived.await;
            }
        })
        .await
    }
}

impl Server {
    pub(crate) async fn start(schema: &str) -> Server {
        let database = shared().database().expect("a database");
        shared().psql(&database, schema).expect("the schema is good");
        Server::over(database, Arc::new(tempfile::tempdir().expect("a folder")), Arc::default(), &[]).await
    }

    pub(crate) async fn start_with(schema: &str, pairs: &[(&str, &str)]) -> Server {
        let database = shared().database().expect("a database");
        shared().psql(&database, schema).expect("the schema is good");
        Server::over(database, Arc::new(tempfile::tempdir().expect("a folder")), Arc::default(), pairs).await
    }

    async fn over(database: String, folder: Arc<tempfile::TempDir>, api: Arc<Api>, pairs: &[(&str, &str)]) -> Server {
        let _ = tracing_subscriber::fmt().with_env_filter("sync=debug,views=info").with_test_writer().try_init();
        let upstream = upstream::start(
            upstream::Config::new(database.clone()),
            &folder.path().join("replica.db"),
            Arc::new(|_| {}),
        )
        .await
        .expect("a replica");
        let replica = Arc::clone(upstream.replica());
        let hydrator = Arc::<Plain>::default();
        let answers = Arc::clone(&hydrator);
        let views = views::Views::start(Arc::clone(&replica), answers, views::Options::default()).expect("threads");
        let views = Arc::new(views);
        let notified = Arc::clone(&views);
        let (counter, commits) = watch::channel(0);
        let stream = upstream
            .run(move |commit| {
                let rows = commit.row_count();
                notified.committed(commit).expect("a pin");
                counter.send_modify(|commits| *commits += usize::from(rows > 0));
            })
            .expect("a stream");
        let shared = (replica, views, hydrator, commits);
        Server { stream: Some(stream), ..Server::serve(shared, database, folder, api, pairs).await }
    }

    /// Another server of this deployment: on the same replica and records, with groups of its own.
    pub(crate) async fn beside(&self) -> Server {
        let (replica, views) = (Arc::clone(&self.replica), Arc::clone(&self.views));
        let shared = (replica, views, Arc::clone(&self.hydrator), self.commits.clone());
        Server::serve(shared, self.database.clone(), Arc::clone(&self.folder), Arc::clone(&self.api), &[]).await
    }

    async fn serve(
        (replica, views, hydrator, commits): (Arc<Replica>, Arc<views::Views>, Arc<Plain>, watch::Receiver<usize>),
        database: String,
        folder: Arc<tempfile::TempDir>,
        api: Arc<Api>,
        pairs: &[(&str, &str)],
    ) -> Server {
        let query_url = serve_api(Arc::clone(&api)).await;
        let mut settings = Settings::from_pairs([("ZERO_UPSTREAM_DB", database.as_str())]);
        // One that is set to nothing stands for none.
        if pairs.iter().all(|(name, _)| *name != "ZERO_QUERY_URL") {
            settings.set("ZERO_QUERY_URL", &query_url);
        }
        for (name, value) in pairs {
            settings.set(name, value);
        }
        let config = Arc::new(Config::new(&settings).expect("good settings"));
        let (parameters, _) = upstream::pool_parts(&database, "ZERO_UPSTREAM_DB", "test").expect("a URL");
        let upstream_pool = config.crud_mutations.then(|| {
            let manager = Manager::new(parameters, tokio_postgres::NoTls);
            Pool::builder(manager).max_size(8).build().expect("a pool")
        });
        let (parameters, _) = upstream::pool_parts(&config.cvr_db, "ZERO_CVR_DB", "test").expect("a URL");
        let manager = Manager::new(parameters, tokio_postgres::NoTls);
        let pool = Pool::builder(manager).max_size(8).build().expect("a pool");
        let options = cvr_store::Options { schema: "zero_0/cvr".to_owned(), task_id: config.task_id.clone() };
        let store = cvr_store::Store::open(pool, options).await.expect("a store");
        let hub = Hub::new(config, Arc::clone(&replica), Arc::clone(&views), store.clone(), upstream_pool);
        let listener = sync::http::listen(0, true).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(sync::http::serve(Arc::clone(&hub), listener, stopped.map(|_| ())));
        let (stream, stop) = (None, Some(stop));
        Server { url, database, hub, api, commits, replica, views, hydrator, stream, store, stop, folder }
    }

    /// Stops in order and starts anew over the same database and replica.
    pub(crate) async fn restart(self) -> Server {
        let (database, folder, api) = self.stop().await;
        Server::over(database, folder, api, &[]).await
    }

    /// Stops in order and starts anew with a replica that is copied again, after some SQL.
    pub(crate) async fn copied_anew(self, meanwhile: &str) -> Server {
        let (database, _, api) = self.stop().await;
        shared().psql(&database, meanwhile).expect("good SQL");
        Server::over(database, Arc::new(tempfile::tempdir().expect("a folder")), api, &[]).await
    }

    async fn stop(mut self) -> (String, Arc<tempfile::TempDir>, Arc<Api>) {
        self.stop.take();
        self.hub.drain(PATIENCE).await;
        self.store.close().await;
        self.stream.take().expect("running").stop().await.expect("stopped in order");
        let Server { database, folder, api, hub, store, replica, views, .. } = self;
        drop((hub, store, replica, views));
        (database, folder, api)
    }

    /// The version at which the newest replica was copied.
    pub(crate) fn replica_version(&self) -> String {
        self.sql("SELECT max(version COLLATE \"C\") FROM zero_0.replicas").trim().to_owned()
    }

    /// Runs SQL in the replica's file, as another program would.
    pub(crate) fn replica_sql(&self, sql: &str) {
        let file = rusqlite::Connection::open(self.folder.path().join("replica.db")).expect("a file");
        file.busy_timeout(PATIENCE).expect("a timeout");
        file.execute_batch(sql).expect("good SQL");
    }

    /// Purges the records of groups that were inactive for two days; gives how many.
    pub(crate) async fn purge(&self) -> u64 {
        let inactivity = Duration::from_secs(48 * 3600);
        self.store.purge_round(inactivity, u32::MAX).await.expect("a round").groups
    }

    /// A session of the test's own with the database.
    pub(crate) async fn session(&self) -> tokio_postgres::Client {
        let (parameters, _) = upstream::pool_parts(&self.database, "ZERO_UPSTREAM_DB", "test").expect("a URL");
        let (client, connection) = parameters.connect(tokio_postgres::NoTls).await.expect("a session");
        tokio::spawn(connection);
        client
    }

    /// Runs SQL upstream.
    pub(crate) fn sql(&self, sql: &str) -> String {
        shared().psql(&self.database, sql).expect("good SQL")
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::fresh(self.url.clone())
    }

    /// Connects a new client that wants these queries.
    pub(crate) async fn connect(&self, desired: Vec<DesiredOp>) -> (Identity, Connection) {
        let identity = self.identity();
        let connection = open(&identity, None, Hello::new(CLIENT_SCHEMA, desired)).await;
        (identity, connection)
    }
}

/// The hash of a query.
pub(crate) fn hash(op: &DesiredOp) -> String {
    hash_of(op).expect("a query").to_owned()
}

/// A query that the API server of these tests answers with this AST.
pub(crate) fn query(ast: &str) -> DesiredOp {
    Hello::echoed(ast)
}

pub(crate) async fn open(identity: &Identity, cookie: Option<&str>, hello: Hello) -> Connection {
    patiently(Connection::open(identity, cookie, hello)).await.expect("a connection")
}

/// A client that has all issues.
pub(crate) async fn join(identity: &Identity, change: impl FnOnce(&mut Hello)) -> Connection {
    let wanted = query(ISSUES);
    let hash = hash_of(&wanted).expect("a query").to_owned();
    let mut hello = Hello::new(CLIENT_SCHEMA, vec![wanted]);
    change(&mut hello);
    let mut connection = open(identity, None, hello).await;
    pokes_until_got(&mut connection, &hash).await;
    connection
}

/// The next poke.
pub(crate) async fn poke(connection: &mut Connection) -> Poke {
    patiently(connection.next_poke()).await.expect("a poke")
}

/// Pokes until one completes a query, that one last.
pub(crate) async fn pokes_until_got(connection: &mut Connection, hash: &str) -> Vec<Poke> {
    let mut pokes = Vec::new();
    loop {
        let poke = poke(connection).await;
        let gets = poke.gets(hash);
        pokes.push(poke);
        if gets {
            return pokes;
        }
    }
}

/// The error that ends a connection, whatever comes before it.
pub(crate) async fn error(connection: &mut Connection) -> ErrorBody {
    patiently(async {
        let body = loop {
            match connection.next().await {
                Ok(_) => {}
                Err(Error::Server(body)) => break *body,
                Err(other) => panic!("an error message was expected, not {other}"),
            }
        };
        // A mutation that fails leaves the socket as it is.
        if !matches!(body.kind, ErrorKind::MutationFailed | ErrorKind::MutationRateLimited) {
            let end = connection.next().await;
            assert!(matches!(&end, Err(Error::Closed { code: None, .. })), "after {body:?}: {end:?}");
        }
        assert_whole(&body);
        body
    })
    .await
}

/// That an error has what its kind has and nothing else (protocol sheet §15).
fn assert_whole(body: &ErrorBody) {
    let failed = [ErrorKind::PushFailed, ErrorKind::TransformFailed].contains(&body.kind);
    let written = serde_json::to_value(body).expect("JSON");
    for member in written.as_object().expect("an object").keys() {
        let belongs = match member.as_str() {
            "kind" | "message" | "origin" => true,
            "maxBackoffMs" => body.kind == ErrorKind::Rehome,
            "mutationIDs" => body.kind == ErrorKind::PushFailed,
            "queryIDs" => body.kind == ErrorKind::TransformFailed,
            "status" | "bodyPreview" => failed && body.reason == Some(ErrorReason::Http),
            "reason" | "details" => failed,
            _ => false,
        };
        assert!(belongs, "{member} of {written}");
    }
    assert!(body.origin == Some(ErrorOrigin::ZeroCache) || failed && body.origin.is_some(), "{written}");
}

pub(crate) async fn next(connection: &mut Connection) -> Event {
    patiently(connection.next()).await.expect("an event")
}

pub(crate) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened for a minute")
}

async fn serve_api(api: Arc<Api>) -> String {
    let token = warp::header::optional::<String>("authorization");
    let route = warp::body::json().and(token).then(move |body: Value, token: Option<String>| {
        let api = Arc::clone(&api);
        async move { called(&api, &body, token).await }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(warp::serve(route).incoming(listener).run());
    format!("http://{address}/query")
}

async fn called(api: &Api, body: &Value, token: Option<String>) -> impl warp::Reply + use<> {
    let token = token.as_deref().and_then(|token| token.strip_prefix("Bearer ")).unwrap_or_default().to_owned();
    api.calls.fetch_add(1, Ordering::Relaxed);
    let mut status = api.status.load(Ordering::Relaxed);
    if api.unknown.lock().expect("not poisoned").contains(&token) {
        status = 401;
    }
    let queries = body[1].as_array().expect("queries");
    let waits = api.held.lock().expect("not poisoned").as_ref().is_none_or(|held| *held == token);
    api.tokens.lock().expect("not poisoned").insert(token.clone());
    api.seen.lock().expect("not poisoned").push((token, queries.len()));
    api.arrived.notify_waiters();
    let _open = if waits { Some(api.door.read().await) } else { None };
    if status != 0 {
        let status = warp::http::StatusCode::from_u16(status as u16).expect("a status");
        return warp::reply::with_status(warp::reply::json(&json!("no")), status);
    }
    let results: Vec<Value> = queries.iter().map(|query| answer(api, query)).collect();
    let mut answer = json!({ "kind": "QueryResponse", "queries": results });
    if let Some(user) = &*api.user.lock().expect("not poisoned") {
        answer["userID"] = user.clone();
    }
    warp::reply::with_status(warp::reply::json(&answer), warp::http::StatusCode::OK)
}

fn answer(api: &Api, query: &Value) -> Value {
    let refused =
        query["id"].as_str().is_some_and(|id| api.refused.lock().expect("not poisoned").iter().any(|no| no == id));
    match query["name"].as_str().filter(|_| !refused) {
        Some("issues.all") => {
            let ast: Value = serde_json::from_str(ISSUES_AS_OBSERVED).expect("JSON");
            json!({ "id": query["id"], "name": "issues.all", "ast": ast })
        }
        Some("ast") => json!({ "id": query["id"], "name": "ast", "ast": query["args"][0] }),
        Some("changing") => {
            json!({ "id": query["id"], "name": "changing", "ast": *api.changing.lock().expect("not poisoned") })
        }
        _ => json!({ "error": "app", "id": query["id"], "name": query["name"], "message": "nope" }),
    }
}
