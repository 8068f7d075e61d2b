//! A live server as an implementation: a client of its own for each case, over WebSocket, and transactions by SQL.
//!
//! The server's answer is what the client makes of the rows that it holds. One lane runs one case at a time; lanes with
//! data sets of their own run beside each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jsonwebtoken::EncodingKey;
use protocol_client::{Connection, Error, Event, Hello, Identity, Keys, State, hash_of};
use testdata::world::{definition, operations_sql};
use tokio::runtime::Runtime;
use tokio::sync::RwLock;
use tokio_postgres::NoTls;
use zql_spec::ast::{Ast, Condition, Literal, SimpleOperator, ValuePosition};
use zql_spec::client_schema::{ClientTable, ClientType};
use zql_spec::conformance::{Asked, Backend, BackendError, DataSet, Held, Query, Reply};
use zql_spec::json::Json;
use zql_spec::naive::{Database, Operation, Row};
use zql_spec::protocol::error::ErrorKind;
use zql_spec::schema::ValueType;
use zql_spec::value::Value;

use crate::client;
use crate::target::{MARKS, Target};
use crate::undo::undo;

/// A step that takes longer has been lost. Far above what a busy machine needs.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// How long opening a socket may take. The server is there or it is not.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Wait between attempts while a server learns of tables that are new to it.
const AGAIN: Duration = Duration::from_millis(250);

/// A client that follows its queries.
type Client = (Connection, State);

/// Why a client did not get as far as that.
enum Unopened {
    /// The server does not know the tables, perhaps not yet.
    Unknown(String),
    /// The server refuses the query.
    Refused(String),
    /// The API server gave no query for what it was asked.
    Untransformed(String),
    /// There is no answer.
    Lost(String),
}

/// Whether a server answers at this URL at all.
pub(crate) async fn probe(url: &str) -> Result<()> {
    let (identity, schema) = (Identity::fresh(url), Wire::schema(None));
    let opened = Connection::open(&identity, None, Hello::new(&schema, Vec::new()));
    match tokio::time::timeout(PROBE_LIMIT, opened).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => bail!("no sync server answers at {url}: {error}"),
        Err(_) => bail!("no sync server answers at {url} within {} seconds", PROBE_LIMIT.as_secs()),
    }
}

/// A lane to a live server.
pub(crate) struct Wire {
    name: String,
    url: String,
    lane: String,
    runtime: Runtime,
    upstream: tokio_postgres::Client,
    writing: Arc<RwLock<()>>,
    /// How many transactions this lane has made.
    marks: i32,
    own: bool,
    late: bool,
    secret: Option<&'static str>,
    running: Option<Running>,
}

struct Running {
    data: Arc<DataSet>,
    query: Query,
    database: Database,
    /// None when the query was refused.
    client: Option<(Connection, State)>,
}

impl Wire {
    /// A lane of this name.
    pub(crate) fn connect(target: &Target, lane: &str) -> Result<Wire> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connect = tokio_postgres::connect(&target.upstream, NoTls);
        let (upstream, connection) = runtime.block_on(connect).context("the upstream database")?;
        runtime.spawn(async move {
            // Its end shows at the next statement.
            let _ = connection.await;
        });
        let lane = lane.to_owned();
        let mark = format!("INSERT INTO {MARKS} VALUES ('{lane}', 0)");
        let writing = Arc::clone(&target.writing);
        runtime.block_on(write(&writing, &upstream, &mark)).context("the table of counts")?;
        let (name, url) = (target.name.clone(), target.url.clone());
        let Target { own, late, secret, .. } = *target;
        Ok(Wire { name, url, lane, runtime, upstream, writing, marks: 0, own, late, secret, running: None })
    }

    fn commit(&mut self, data: &DataSet, transaction: &[Operation]) -> Result<(), BackendError> {
        let marks = self.marks + 1;
        let sql = operations_sql(definition(data), transaction);
        let sql = format!("BEGIN;\n{sql}UPDATE {MARKS} SET n = {marks} WHERE lane = '{}';\nCOMMIT", self.lane);
        let done = self.runtime.block_on(write(&self.writing, &self.upstream, &sql));
        done.map_err(|error| {
            let error = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
            BackendError(format!("{error}\n{sql}"))
        })?;
        self.marks = marks;
        Ok(())
    }

    /// The schema of a client: the table of counts, and the tables of a data set.
    fn schema(data: Option<&DataSet>) -> String {
        let mut schema = data.map(|data| data.zero.client_schema()).unwrap_or_default();
        let columns = [("lane", ValueType::String), ("n", ValueType::Number)];
        let columns = columns.map(|(name, value_type)| (Arc::from(name), ClientType::Value(value_type)));
        let marks = ClientTable { columns: columns.into(), primary_key: Some(vec!["lane".into()]) };
        schema.tables.insert(MARKS.into(), marks);
        schema.to_json().to_string()
    }

    /// Waits until the server knows the suite's tables and answers a query over them.
    ///
    /// # Errors
    /// When it does not, with what to do.
    pub(crate) fn ready(&self, api: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.open(None, None) {
                Ok(_) => return Ok(()),
                Err(Unopened::Unknown(_)) if begun.elapsed() < STEP_LIMIT => self.wait(),
                Err(Unopened::Unknown(what)) => bail!(
                    "{} does not know the tables that were made in the upstream database ({what}): does it replicate that \
                     database, and all tables of `public`?",
                    self.url
                ),
                Err(Unopened::Untransformed(what)) => bail!(
                    "{} does not get queries from the suite's API: {what}\nStart it with ZERO_QUERY_URL={api}, or name \
                     another address with --queries",
                    self.url
                ),
                Err(Unopened::Refused(what)) => bail!("{} refuses the suite's first query: {what}", self.url),
                Err(Unopened::Lost(what)) => bail!(
                    "{} does not answer the suite's first query: {what}\nIt has to be started with ZERO_QUERY_URL={api}",
                    self.url
                ),
            }
        }
    }

    fn wait(&self) {
        // The timer is made inside the runtime, which it belongs to.
        self.runtime.block_on(async { tokio::time::sleep(AGAIN).await });
    }

    /// Opens a client for a query and follows it until the query is complete and the last transaction has come.
    fn open(&self, data: Option<&DataSet>, query: Option<&Query>) -> Result<Client, Unopened> {
        let marks = Ast {
            table: MARKS.into(),
            r#where: Some(Condition::Simple {
                op: SimpleOperator::Eq,
                left: ValuePosition::Column("lane".into()),
                right: ValuePosition::Literal(Literal::Value(Value::string(&*self.lane))),
            }),
            ..Ast::default()
        };
        let named = |ast: &Ast| Hello::echoed(&ast.to_json().to_string());
        let mut wanted = vec![named(&marks)];
        wanted.extend(query.map(|query| match &query.asked {
            // The server binds parameters in queries of a client's own, not in what an application makes of a name.
            Some(asked) => Hello::ast(&asked.written.to_json().to_string()),
            None => named(&query.ast),
        }));
        let identity = self.identity(query.and_then(|query| query.asked.as_ref())).map_err(Unopened::Lost)?;
        let hashes: Vec<String> = wanted.iter().filter_map(|op| hash_of(op).map(str::to_owned)).collect();
        let schema = Self::schema(data);
        let follow = async {
            let mut connection = Connection::open(&identity, None, Hello::new(&schema, wanted)).await?;
            let mut state = State::new(Keys::from_schema(&schema));
            while !hashes.iter().all(|hash| state.got.contains(hash)) || mark(&state) != Some(self.marks) {
                match connection.next().await? {
                    Event::Poke(poke) => state.apply(&poke)?,
                    Event::TransformError(errors) => {
                        return Ok(Err(serde_json::to_string(&errors).unwrap_or_default()));
                    }
                    _ => {}
                }
            }
            Ok(Ok((connection, state)))
        };
        match self.runtime.block_on(async { tokio::time::timeout(STEP_LIMIT, follow).await }) {
            Ok(Ok(Ok(client))) => Ok(client),
            Ok(Ok(Err(errors))) => Err(Unopened::Untransformed(errors)),
            Ok(Err(Error::Server(body))) => Err(match body.kind {
                ErrorKind::SchemaVersionNotSupported => Unopened::Unknown(body.message.clone()),
                ErrorKind::TransformFailed => Unopened::Untransformed(body.message.clone()),
                _ => Unopened::Refused(body.message.clone()),
            }),
            Ok(Err(error)) => Err(Unopened::Lost(error.to_string())),
            Err(_) => Err(Unopened::Lost("the query does not become complete".into())),
        }
    }

    /// A new client, of a user with these claims.
    fn identity(&self, asked: Option<&Asked>) -> Result<Identity, String> {
        let fresh = Identity::fresh(&self.url);
        let user = asked.and_then(|asked| Some((asked, asked.claims.get("sub")?.as_str()?)));
        let (Some((asked, user)), Some(secret)) = (user, self.secret) else { return Ok(fresh) };
        let key = EncodingKey::from_secret(secret.as_bytes());
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &asked.claims, &key);
        let auth = Some(token.map_err(|error| error.to_string())?);
        Ok(Identity { user_id: Some(user.to_owned()), auth, ..fresh })
    }

    fn reply(&self) -> Result<Reply, BackendError> {
        let Some(Running { data, query, .. }) = &self.running else {
            return Err(BackendError("no query was asked".into()));
        };
        client::answer(data, query, &self.rows()?).map(Reply::Answer)
    }

    fn rows(&self) -> Result<Held, BackendError> {
        let Some(Running { data, client: Some((_, state)), .. }) = &self.running else {
            return Err(BackendError("no query was asked".into()));
        };
        let mut rows = Held::new();
        for table in &data.tables {
            for held in state.table(&table.name) {
                let cell = |column: &zql_spec::conformance::DataColumn| {
                    let json = held.get(&*column.name).map_or_else(|| "null".to_owned(), ToString::to_string);
                    let json = Json::parse(&json).map_err(|error| BackendError(error.to_string()))?;
                    column.value(&json).map_err(|what| BackendError(format!("{what} in a row of {}", table.name)))
                };
                let row: Row = table.columns.iter().map(cell).collect::<Result<_, BackendError>>()?;
                rows.entry(Arc::clone(&table.name)).or_default().push(row);
            }
        }
        Ok(rows)
    }
}

/// Runs SQL on the suite's tables, unless they are about to be dropped.
async fn write(
    writing: &RwLock<()>,
    upstream: &tokio_postgres::Client,
    sql: &str,
) -> Result<(), tokio_postgres::Error> {
    let _shared = writing.read().await;
    upstream.batch_execute(sql).await
}

/// How many of the lane's transactions the client has seen.
fn mark(state: &State) -> Option<i32> {
    state.table(MARKS).next()?.get("n")?.as_i64()?.try_into().ok()
}

impl Backend for Wire {
    fn name(&self) -> &str {
        &self.name
    }

    fn refuses_in_our_words(&self) -> bool {
        self.own
    }

    fn begin(&mut self, data: &Arc<DataSet>, query: &Query) -> Result<Reply, BackendError> {
        if query.asked.is_some() && self.secret.is_none() {
            return Ok(Reply::Skipped("it is not known by which secret the server knows users".into()));
        }
        let begun = Instant::now();
        let opened = loop {
            match self.open(Some(data), Some(query)) {
                // Only when the tables are new to the server, parts of which may learn of them later than others.
                Err(Unopened::Unknown(_)) if self.late && begun.elapsed() < STEP_LIMIT => self.wait(),
                opened => break opened,
            }
        };
        self.late = false;
        let (client, refused) = match opened {
            Ok(client) => (Some(client), None),
            Err(Unopened::Refused(text) | Unopened::Untransformed(text)) => (None, Some(text)),
            Err(Unopened::Unknown(text)) => return Err(BackendError(format!("the schema is refused: {text}"))),
            Err(Unopened::Lost(what)) => return Err(BackendError(what)),
        };
        let (data, query) = (Arc::clone(data), query.clone());
        self.running = Some(Running { database: data.database.clone(), data, query, client });
        refused.map_or_else(|| self.reply(), |text| Ok(Reply::Refused(text)))
    }

    fn step(&mut self, transaction: &[Operation], after: &Database) -> Result<Reply, BackendError> {
        let Some(data) = self.running.as_ref().map(|running| Arc::clone(&running.data)) else {
            return Err(BackendError("no query was asked".into()));
        };
        self.commit(&data, transaction)?;
        let marks = self.marks;
        let Some(Running { client: Some((connection, state)), database, .. }) = &mut self.running else {
            return Err(BackendError("the query was refused".into()));
        };
        *database = after.clone();
        let follow = async {
            while mark(state) != Some(marks) {
                let poke = connection.next_poke().await?;
                state.apply(&poke)?;
            }
            Ok::<(), Error>(())
        };
        match self.runtime.block_on(async { tokio::time::timeout(STEP_LIMIT, follow).await }) {
            Ok(Ok(())) => self.reply(),
            Ok(Err(error)) => Err(BackendError(error.to_string())),
            Err(_) => Err(BackendError("the transaction does not come".into())),
        }
    }

    fn held(&self) -> Option<Held> {
        self.rows().ok()
    }

    fn end(&mut self) -> Result<(), BackendError> {
        let Some(Running { data, database, .. }) = self.running.take() else { return Ok(()) };
        let back = undo(&database, &data.database);
        if back.is_empty() { Ok(()) } else { self.commit(&data, &back) }
    }
}
