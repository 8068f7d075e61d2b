//! Postgres itself as an implementation: a query becomes one SELECT, a case one transaction that is rolled back.
//!
//! What it says is not up to us, which is why every case must pass here.

mod compare;
mod compile;
mod syntax;

use std::sync::Arc;

use anyhow::{Context, Result};
use testdata::world::{data_sql, definition, operations_sql, schema_sql};
use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls};
use zql_spec::ast::Ast;
use zql_spec::conformance::{Backend, BackendError, DataSet, Query, Reply, Tree, TreeNode};
use zql_spec::format::Format;
use zql_spec::json::Json;
use zql_spec::naive::{Database, Operation};

use self::compile::{Bind, Unable, compile, visible};

/// A database of Postgres that nobody else uses.
pub(crate) struct InPostgres {
    runtime: Runtime,
    client: Client,
    data: Option<Arc<DataSet>>,
    query: Option<Query>,
}

impl InPostgres {
    /// Connects to a database, in which the data sets' tables will be made.
    pub(crate) fn connect(url: &str) -> Result<InPostgres> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls)).context("Postgres")?;
        runtime.spawn(async move {
            // Its end shows at the next query.
            let _ = connection.await;
        });
        // Nested JSON looks expensive to the planner, and compiling each statement takes longer than running it.
        runtime.block_on(client.batch_execute("SET jit = off")).context("Postgres")?;
        Ok(InPostgres { runtime, client, data: None, query: None })
    }

    fn run(&self, sql: &str) -> Result<(), BackendError> {
        let done = self.runtime.block_on(self.client.batch_execute(sql));
        done.map_err(|error| BackendError(format!("{}\n{sql}", describe(&error))))
    }

    fn answer(&self) -> Result<Reply, BackendError> {
        let (Some(data), Some(query)) = (&self.data, &self.query) else {
            return Err(BackendError("no query was asked".into()));
        };
        let statement = match compile(data, &query.ast) {
            Ok(statement) => statement,
            Err(Unable::Refused(what)) => return Ok(Reply::Refused(what)),
            Err(Unable::Skipped(why)) => return Ok(Reply::Skipped(why)),
        };
        let binds: Vec<&(dyn ToSql + Sync)> = statement
            .binds
            .iter()
            .map(|bind| match bind {
                Bind::Text(text) => text as &(dyn ToSql + Sync),
                Bind::Number(number) => number,
                Bind::Bool(bool) => bool,
            })
            .collect();
        let broken = |what: String| BackendError(format!("{what}\n{}\n{:?}", statement.text, statement.binds));
        let row = self.runtime.block_on(self.client.query_one(&statement.text, &binds));
        // As text, because Postgres's JSON holds numbers that are longer than others read.
        let list: String = row.and_then(|row| row.try_get(0)).map_err(|error| broken(describe(&error)))?;
        let list = Json::parse(&list).map_err(|error| broken(error.to_string()))?;
        let rows = nodes(data, &query.ast, &query.format, &list).ok_or_else(|| broken(format!("answered {list}")))?;
        Ok(Reply::Answer(Tree { rows }))
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The rows of a level. Rows of hidden hops are left out by the statement already.
fn nodes(data: &DataSet, ast: &Ast, format: &Format, list: &Json) -> Option<Vec<TreeNode>> {
    let table = data.table(&ast.table)?;
    let key = table.key();
    let node = |json: &Json| {
        let (values, lists) = json.as_array()?.split_first()?;
        let cells = values.as_array()?.iter().zip(&table.columns);
        let row: Option<Vec<_>> = cells.map(|(cell, column)| column.value(cell).ok()).collect();
        let row = row?;
        let related = visible(ast).into_iter().zip(lists).map(|(related, list)| {
            let name = Arc::clone(related.subquery.alias.as_ref()?);
            let below = match related.subquery.related.as_slice() {
                [behind] if related.hidden => &behind.subquery,
                _ => &related.subquery,
            };
            let format = format.relationship(&name);
            Some((name, format.singular, nodes(data, below, format, list)?))
        });
        let related = related.collect::<Option<Vec<_>>>()?;
        let key = key.iter().map(|&column| row[column].clone()).collect();
        Some(TreeNode { table: Arc::clone(&table.name), key, row: row.into(), related })
    };
    list.as_array()?.iter().map(node).collect()
}

impl Backend for InPostgres {
    fn name(&self) -> &str {
        "postgres"
    }

    fn refuses_in_our_words(&self) -> bool {
        false
    }

    fn begin(&mut self, data: &Arc<DataSet>, query: &Query) -> Result<Reply, BackendError> {
        if self.data.as_ref().is_none_or(|loaded| loaded.name != data.name) {
            let definition = definition(data);
            self.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public")?;
            self.run(&format!("{}{}", schema_sql(definition), data_sql(definition, &data.database)))?;
            self.data = Some(Arc::clone(data));
        }
        self.query = Some(query.clone());
        self.run("BEGIN")?;
        self.answer()
    }

    fn step(&mut self, transaction: &[Operation], _: &Database) -> Result<Reply, BackendError> {
        let Some(data) = &self.data else { return Err(BackendError("no query was asked".into())) };
        self.run(&operations_sql(definition(data), transaction))?;
        self.answer()
    }

    fn end(&mut self) -> Result<(), BackendError> {
        self.query = None;
        self.run("ROLLBACK")
    }
}
