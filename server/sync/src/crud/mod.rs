//! CRUD mutations: writes that clients describe themselves and that this server carries out (protocol sheet §13).
//!
//! A mutation is one serializable transaction upstream, together with its number, so that it happens exactly once and in
//! the client's order. Permissions are judged inside the same transaction, on the rows as they are there. A connection's
//! mutations are done one after the other while its socket waits, so a client cannot have more than one in the works;
//! how many run at once is bounded by the pool. Nothing is kept between mutations but the counters of the rate limit.
//!
//! What an operation is and its SQL is in [`operation`], how values reach Postgres in [`value`], permissions as SQL in
//! [`condition`].

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use engine::replica::Replica;
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::Instant;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{IsolationLevel, Transaction};
use zql_spec::ast::Condition;
use zql_spec::json::Json;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};
use zql_spec::protocol::upstream::{Mutation, MutationType, Push};
use zql_spec::schema::Schema;
use zql_spec::static_params::StaticParams;

#[cfg(test)]
mod agreement;
mod condition;
mod limit;
mod operation;
mod value;

use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::Config;
use crate::permissions::live::{self, Live};
use crate::permissions::{Permissions, Write};
use limit::Limiter;
use operation::{Arguments, Kind, Operation, Tables};

/// Attempts of a transaction that cannot be put in order with others.
const ATTEMPTS: u32 = 10;

/// Longest delay before another attempt, in milliseconds: about one transaction, which is what it collided with.
const MAX_DELAY_MS: u64 = 10;

/// Collisions after which the others here are asked to let a mutation pass: turns among those that collided do not help
/// against newcomers, which win as often as they come.
const LET_PASS_AFTER: u32 = 3;

/// How long a mutation lets another pass at most, so that one that waits for a lock of the application holds up nobody.
const LET_PASS: Duration = Duration::from_millis(100);

/// How often, and after what delay, a mutation is tried again whose predecessor the API server may still be at.
const PREDECESSOR_ATTEMPTS: u32 = 2;
const PREDECESSOR_DELAY: Duration = Duration::from_millis(100);

/// How long one transaction may take before its connection is given up: longer than any lock of a healthy application.
const TRANSACTION_WAIT: Duration = Duration::from_secs(60);

/// Largest mutation number: those that a double counts exactly.
const MAX_ID: f64 = 9_007_199_254_740_991.0;

/// What became of a push, if it is to be told.
pub(crate) type Outcome = Result<(), Box<ErrorBody>>;

/// Carries CRUD mutations out.
#[derive(Debug)]
pub(crate) struct Crud {
    pool: Option<Pool>,
    replica: Arc<Replica>,
    permissions: Live,
    clock: Clock,
    limiter: Option<Limiter>,
    /// The tables as of a schema.
    tables: Mutex<Option<(Arc<Schema>, Arc<Tables>)>>,
    /// Mutations that collided take turns: a crowd at one row would collide again and again.
    turn: tokio::sync::Mutex<()>,
    /// Held together by mutations under way, alone by one that would otherwise not get through.
    way: tokio::sync::RwLock<()>,
    app_id: String,
    shard: String,
    /// Whether there is an API server that may be doing a client's earlier mutations.
    has_api: bool,
}

/// Why a mutation was not done, by what follows from it.
#[derive(Debug)]
enum Fault {
    /// Its number is not the next one; this one is.
    OutOfOrder(i64),
    /// It was done before.
    AlreadyProcessed,
    /// A permission is missing.
    Denied,
    /// It cannot be put in order with concurrent transactions.
    Collision,
    /// It can never be done; why.
    Failed(String),
    /// The database is away; why.
    Away(String),
    /// The deployed permissions cannot be read now.
    Unjudged,
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(database) = error.as_db_error() else { return Fault::Away(error.to_string()) };
        match database.code().code() {
            "40001" | "40P01" => Fault::Collision,
            // Connection trouble, lack of resources, an operator at work.
            code if ["08", "53", "57P"].iter().any(|class| code.starts_with(class)) => {
                Fault::Away(database.message().to_owned())
            }
            _ => Fault::Failed(format!("PostgresError: {}", database.message())),
        }
    }
}

impl Crud {
    /// Over a pool of sessions with the source database; none if CRUD mutations are not wanted.
    pub(crate) fn new(
        config: &Config,
        replica: &Arc<Replica>,
        permissions: Live,
        clock: Clock,
        pool: Option<Pool>,
    ) -> Crud {
        let limiter = config.mutation_limit.map(|(max, window)| Limiter::new(max, window));
        Crud {
            pool,
            replica: Arc::clone(replica),
            permissions,
            clock,
            limiter,
            tables: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            way: tokio::sync::RwLock::default(),
            app_id: config.app_id.clone(),
            shard: config.shard(),
            has_api: !config.mutate.urls.is_empty(),
        }
    }

    /// The tables that can be written now.
    fn tables(&self) -> Arc<Tables> {
        let schema = self.replica.schema();
        let mut cached = self.tables.lock();
        if let Some((known, tables)) = &*cached
            && Arc::ptr_eq(known, &schema)
        {
            return Arc::clone(tables);
        }
        let own = [&*self.app_id, &*self.shard];
        let tables = Arc::new(Tables::new(self.replica.tables(), &schema, &own));
        *cached = Some((schema, Arc::clone(&tables)));
        tables
    }

    /// Whether a push is for this server to carry out: its first mutation decides.
    pub(crate) fn concerns(push: &Push) -> bool {
        push.mutations.first().is_some_and(|mutation| mutation.r#type == MutationType::Crud)
    }

    /// Carries a push out. The error is for the client; most end its connection.
    pub(crate) async fn process(&self, group: &Arc<str>, auth: Option<&Auth>, push: &Push) -> Outcome {
        let fatal = |kind, message: &str| Err(Box::new(ErrorBody::new(kind, message)));
        let Some(pool) = &self.pool else {
            return fatal(ErrorKind::InvalidPush, "Support for legacy CRUD mutations is disabled");
        };
        let claims = match auth {
            None => None,
            Some(Auth { claims: Some(claims), .. }) => Some(Arc::clone(claims)),
            Some(_) => return fatal(ErrorKind::Internal, "Only JWT auth is supported for CRUD mutations"),
        };
        for mutation in &push.mutations {
            if mutation.r#type != MutationType::Crud {
                return fatal(ErrorKind::Internal, "Only CRUD mutations are supported");
            }
            if !(0.0..=MAX_ID).contains(&mutation.id) || mutation.id.fract() != 0.0 {
                return fatal(ErrorKind::InvalidMessage, "TypeError: Expected an integer at 1.mutations.id");
            }
            if self.limiter.as_ref().is_some_and(|limiter| !limiter.allows(group, Instant::now())) {
                return fatal(ErrorKind::MutationRateLimited, "Rate limit exceeded");
            }
            self.mutate(pool, group, claims.as_deref(), mutation).await?;
        }
        Ok(())
    }

    /// Carries one mutation out.
    async fn mutate(&self, pool: &Pool, group: &str, claims: Option<&Json>, mutation: &Mutation) -> Outcome {
        let invalid =
            |detail: String| Box::new(ErrorBody::new(ErrorKind::InvalidMessage, format!("TypeError: {detail}")));
        let [arguments] = mutation.args.as_slice() else {
            return Err(invalid("Expected one element at 1.mutations.args".to_owned()));
        };
        let arguments: Arguments = serde_json::from_str(arguments.get()).map_err(|error| invalid(error.to_string()))?;
        let id = mutation.id as i64;
        let client = &*mutation.client_id;
        let number = Numbered { group, client, id };
        let done = match live::current(&self.permissions, &self.clock).await {
            Some(Ok(permissions)) => {
                let work = Work { arguments: &arguments, permissions: &permissions, claims };
                self.done(pool, number, Some(&work)).await
            }
            Some(Err(error)) => Err(Fault::Failed(format!("Error: {error}"))),
            None => Err(Fault::Unjudged),
        };
        let failed = match done {
            Ok(()) | Err(Fault::AlreadyProcessed) => return Ok(()),
            Err(Fault::Denied) => {
                tracing::warn!(group, client, id, "a CRUD mutation is not permitted");
                None
            }
            Err(Fault::Failed(message)) => Some(message),
            Err(fault) => return Err(told(fault, number)),
        };
        // What cannot be done must not be tried for ever: only its number is taken.
        match self.done(pool, number, None).await {
            Ok(()) | Err(Fault::AlreadyProcessed) => {}
            Err(fault) => return Err(told(fault, number)),
        }
        match failed {
            None => Ok(()),
            Some(message) => {
                tracing::warn!(group, client, id, message, "a CRUD mutation failed");
                Err(Box::new(ErrorBody::new(ErrorKind::MutationFailed, message)))
            }
        }
    }

    /// Does a mutation, or only takes its number, as often as it needs.
    async fn done(&self, pool: &Pool, number: Numbered<'_>, work: Option<&Work<'_>>) -> Result<(), Fault> {
        let (mut collisions, mut early) = (0, 0);
        let mut turn = None;
        let mut shared = tokio::time::timeout(LET_PASS, self.way.read()).await.ok();
        let mut alone = None;
        loop {
            match self.attempt(pool, number, work).await {
                Err(Fault::Collision) if collisions + 1 < ATTEMPTS => {
                    collisions += 1;
                    drop(shared.take());
                    if turn.is_none() {
                        turn = Some(self.turn.lock().await);
                    }
                    if collisions >= LET_PASS_AFTER && alone.is_none() {
                        alone = tokio::time::timeout(LET_PASS, self.way.write()).await.ok();
                    }
                    let delay = rand::rng().random_range(0..MAX_DELAY_MS);
                    tokio::time::sleep(Duration::from_millis(delay)).await;
                }
                Err(Fault::OutOfOrder(_)) if self.has_api && early < PREDECESSOR_ATTEMPTS => {
                    early += 1;
                    tokio::time::sleep(PREDECESSOR_DELAY).await;
                }
                done => return done,
            }
        }
    }

    async fn attempt(&self, pool: &Pool, number: Numbered<'_>, work: Option<&Work<'_>>) -> Result<(), Fault> {
        let mut connection = pool.get().await.map_err(|error| Fault::Away(crate::api::causes(&error)))?;
        let outcome = tokio::time::timeout(TRANSACTION_WAIT, self.transaction(&mut connection, number, work)).await;
        match outcome {
            // A transaction that failed rolls back when it is dropped.
            Ok(outcome) => outcome,
            Err(_) => {
                // Nobody knows what state it is in.
                drop(Object::take(connection));
                Err(Fault::Away("a transaction takes too long".to_owned()))
            }
        }
    }

    async fn transaction(
        &self,
        connection: &mut Object,
        number: Numbered<'_>,
        work: Option<&Work<'_>>,
    ) -> Result<(), Fault> {
        let builder = connection.build_transaction().isolation_level(IsolationLevel::Serializable);
        let transaction = builder.start().await?;
        let sql = format!(
            "INSERT INTO \"{}\".clients AS current (\"clientGroupID\", \"clientID\", \"lastMutationID\") \
             VALUES ($1, $2, 1) ON CONFLICT (\"clientGroupID\", \"clientID\") \
             DO UPDATE SET \"lastMutationID\" = current.\"lastMutationID\" + 1 RETURNING \"lastMutationID\"",
            self.shard
        );
        let Numbered { group, client, id } = number;
        let row = transaction.query_typed_one(&sql, &[(&group, Type::TEXT), (&client, Type::TEXT)]).await?;
        let expected: i64 = row.try_get(0)?;
        match id.cmp(&expected) {
            std::cmp::Ordering::Less => return Err(Fault::AlreadyProcessed),
            std::cmp::Ordering::Greater => return Err(Fault::OutOfOrder(expected)),
            std::cmp::Ordering::Equal => {}
        }
        if let Some(work) = work {
            self.execute(&transaction, work).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Does the operations in order, if all of them are permitted.
    async fn execute(&self, transaction: &Transaction<'_>, work: &Work<'_>) -> Result<(), Fault> {
        let Work { arguments, permissions, claims } = *work;
        let failed = |message: String| Fault::Failed(format!("Error: {message}"));
        let tables = self.tables();
        let operations: Result<Vec<Operation>, String> =
            arguments.ops.iter().map(|raw| Operation::new(raw, &tables)).collect();
        let operations = operations.map_err(failed)?;
        let judge = Judge { transaction, permissions, claims, tables: &tables };
        // All that was there is judged before anything is written, and all that is there then, afterwards.
        let mut after = Vec::with_capacity(operations.len());
        for operation in &operations {
            after.push(match operation.kind {
                Kind::Insert => Some(Write::Inserted),
                Kind::Upsert => match judge.permits(operation, Write::BeforeUpdate).await? {
                    None => Some(Write::Inserted),
                    Some(true) => Some(Write::AfterUpdate),
                    Some(false) => return Err(Fault::Denied),
                },
                Kind::Update | Kind::Delete => {
                    let (before, after) = match operation.kind {
                        Kind::Update => (Write::BeforeUpdate, Some(Write::AfterUpdate)),
                        _ => (Write::Deleted, None),
                    };
                    // A row that is not there cannot be harmed.
                    if judge.permits(operation, before).await? == Some(false) {
                        return Err(Fault::Denied);
                    }
                    after
                }
            });
        }
        let mut written = Vec::with_capacity(operations.len());
        for operation in &operations {
            let rows = transaction.execute_typed(&operation.sql(), &[(&operation.record, Type::TEXT)]).await?;
            written.push(rows > 0);
        }
        for ((operation, after), written) in operations.iter().zip(after).zip(written) {
            if let Some(write) = after.filter(|_| written)
                && judge.permits(operation, write).await? == Some(false)
            {
                return Err(Fault::Denied);
            }
        }
        Ok(())
    }
}

/// What a mutation is to do.
#[derive(Clone, Copy, Debug)]
struct Work<'a> {
    arguments: &'a Arguments,
    permissions: &'a Permissions,
    claims: Option<&'a Json>,
}

/// Names a mutation.
#[derive(Clone, Copy, Debug)]
struct Numbered<'a> {
    group: &'a str,
    client: &'a str,
    id: i64,
}

/// What is told of a fault that ends the connection.
fn told(fault: Fault, number: Numbered<'_>) -> Box<ErrorBody> {
    let Numbered { client, id, .. } = number;
    Box::new(match fault {
        Fault::OutOfOrder(expected) => {
            let message = format!(
                "Push contains unexpected mutation id {id} for client {client}. Expected mutation id {expected}."
            );
            ErrorBody::new(ErrorKind::InvalidPush, message)
        }
        // Nothing is lost: the client has its mutations and sends them again when it is back.
        Fault::Away(message) => ErrorBody::rehome(format!("The source database failed: {message}"), false),
        Fault::Unjudged => ErrorBody::rehome("The deployed permissions cannot be read", false),
        Fault::Collision => ErrorBody::rehome("The mutation collides with others", false),
        Fault::Failed(message) => ErrorBody::new(ErrorKind::Internal, message),
        Fault::Denied | Fault::AlreadyProcessed => ErrorBody::new(ErrorKind::Internal, "the mutation was not done"),
    })
}

/// Judges operations by the permissions, inside their transaction.
struct Judge<'a> {
    transaction: &'a Transaction<'a>,
    permissions: &'a Permissions,
    claims: Option<&'a Json>,
    tables: &'a Tables,
}

impl Judge<'_> {
    /// Whether the row of an operation, as it is now, is permitted to be written so; nothing if there is no row.
    async fn permits(&self, operation: &Operation, write: Write) -> Result<Option<bool>, Fault> {
        let writes = |column: &str| operation.writes(column);
        let mut condition: Condition = self.permissions.of_write(&operation.table.name, write, writes);
        StaticParams { auth_data: self.claims, pre_mutation_row: None }.bind_condition(&mut condition);
        let mut writer = condition::Writer::new(self.tables, &operation.record);
        let condition = writer.condition(&condition, &operation.table);
        let condition = condition.map_err(|message| Fault::Failed(format!("Error: {message}")))?;
        let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
            writer.parameters.iter().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT)).collect();
        let row = self.transaction.query_typed_opt(&operation.check_sql(&condition), &parameters).await?;
        Ok(match row {
            Some(row) => Some(row.try_get(0)?),
            None => None,
        })
    }
}
