//! The flushes of many groups as the parameters of one statement, and what became of each.

use std::sync::Arc;

use cvr::flush::{Flush, RowWrite};
use cvr::record::Body;
use rustc_hash::FxHashSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use crate::Rehome;
use crate::error::Failure;
use crate::sql::{self, Kind};

/// Prepared statements of one connection.
pub(crate) struct Statements {
    rows: Statement,
    all: Statement,
    behind: Statement,
    refusals: Statement,
    free: Statement,
}

impl Statements {
    pub(crate) async fn prepare(client: &Client, schema: &str) -> Result<Self, Failure> {
        Ok(Statements {
            rows: client.prepare(&sql::flush(schema, Kind::Rows)).await?,
            all: client.prepare(&sql::flush(schema, Kind::All)).await?,
            behind: client.prepare(&sql::behind(schema)).await?,
            refusals: client.prepare(&sql::refusals(schema)).await?,
            free: client.prepare(&sql::free(schema)).await?,
        })
    }
}

/// A flush to write, and whether its rows are written with it or behind it.
pub(crate) struct Entry<'a> {
    pub(crate) flush: &'a Arc<Flush>,
    pub(crate) with_rows: bool,
}

/// Runs the statements with nothing to write, so that the first client does not wait for them to be planned.
pub(crate) async fn warm_up(client: &Client, statements: &Statements) -> Result<(), Failure> {
    let (instances, rows, config) = (Instances::new(&[]), RowArrays::default(), Config::default());
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&""];
    instances.push(&mut parameters);
    rows.push(&mut parameters);
    client.query(&statements.rows, &parameters).await?;
    config.push(&mut parameters);
    client.query(&statements.all, &parameters).await?;
    Ok(())
}

/// Writes a batch; the outcome of each flush in order. `Err` means that nothing is known to be written.
///
/// A group must occur only once: Postgres would see only one of its updates.
pub(crate) async fn write(
    client: &Client,
    statements: &Statements,
    task_id: &str,
    entries: &[Entry<'_>],
) -> Result<Vec<Result<(), Rehome>>, Failure> {
    let instances = Instances::new(entries);
    let rows = RowArrays::new(
        entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.with_rows)
            .flat_map(|(group, entry)| entry.flush.rows.iter().map(move |row| (group, row))),
    );
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&task_id];
    instances.push(&mut parameters);
    rows.push(&mut parameters);
    let config = Config::new(entries);
    let statement = match &config {
        Some(config) => {
            config.push(&mut parameters);
            &statements.all
        }
        None => &statements.rows,
    };
    let mut outcomes: Vec<Result<(), Rehome>> =
        vec![Err(Rehome::ConcurrentModification { expected: String::new(), actual: String::new() }); entries.len()];
    let mut written = 0;
    for row in client.query(statement, &parameters).await? {
        let position: i64 = row.try_get(0)?;
        if let Some(outcome) = usize::try_from(position - 1).ok().and_then(|index| outcomes.get_mut(index)) {
            *outcome = Ok(());
            written += 1;
        }
    }
    if written < entries.len() {
        explain(client, statements, task_id, entries, &mut outcomes).await?;
    }
    Ok(outcomes)
}

/// Finds out why groups were not written.
async fn explain(
    client: &Client,
    statements: &Statements,
    task_id: &str,
    entries: &[Entry<'_>],
    outcomes: &mut [Result<(), Rehome>],
) -> Result<(), Failure> {
    let refused: Vec<usize> = (0..entries.len()).filter(|&index| outcomes[index].is_err()).collect();
    let groups: Vec<&str> = refused.iter().map(|&index| &*entries[index].flush.cvr.group).collect();
    let times: Vec<f64> = refused.iter().map(|&index| entries[index].flush.last_connect_time).collect();
    for (index, row) in refused.iter().zip(client.query(&statements.refusals, &[&task_id, &groups, &times]).await?) {
        let foreign: bool = row.try_get(1)?;
        outcomes[*index] = Err(if foreign {
            Rehome::Ownership {
                owner: row.try_get::<_, Option<String>>(2)?.unwrap_or_else(|| "null".to_owned()),
                granted_at: row.try_get::<_, Option<String>>(3)?.unwrap_or_default(),
                last_connect_time: row.try_get::<_, Option<String>>(4)?.unwrap_or_default(),
            }
        } else {
            Rehome::ConcurrentModification {
                expected: entries[*index].flush.expected.to_string(),
                actual: row.try_get::<_, Option<String>>(0)?.unwrap_or_else(|| "00".to_owned()),
            }
        });
    }
    Ok(())
}

/// Which groups of a batch nobody else has locked at this moment; new ones are among them.
pub(crate) async fn free(
    client: &Client,
    statements: &Statements,
    entries: &[Entry<'_>],
) -> Result<Vec<bool>, Failure> {
    let groups: Vec<&str> = entries.iter().map(|entry| &*entry.flush.cvr.group).collect();
    let free = client.query(&statements.free, &[&groups]).await?;
    let free: FxHashSet<&str> = free.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(entries.iter().map(|entry| entry.flush.first || free.contains(&*entry.flush.cvr.group)).collect())
}

/// A part of a group's rows to write behind its poke.
pub(crate) struct Behind<'a> {
    pub(crate) group: &'a str,
    /// The record's version, if these are the last rows up to it.
    pub(crate) complete: Option<String>,
    pub(crate) rows: &'a [RowWrite],
}

/// Writes rows behind pokes. Not tied to owner or version: committing the record granted the right.
pub(crate) async fn write_behind(
    client: &Client,
    statements: &Statements,
    parts: &[Behind<'_>],
) -> Result<(), Failure> {
    let groups: Vec<&str> = parts.iter().map(|part| part.group).collect();
    let versions: Vec<Option<&str>> = parts.iter().map(|part| part.complete.as_deref()).collect();
    let rows = RowArrays::new(
        parts.iter().enumerate().flat_map(|(group, part)| part.rows.iter().map(move |row| (group, row))),
    );
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&groups, &versions];
    rows.push(&mut parameters);
    client.execute(&statements.behind, &parameters).await?;
    Ok(())
}

struct Instances<'a> {
    group: Vec<&'a str>,
    expected: Vec<String>,
    version: Vec<String>,
    last_active: Vec<f64>,
    ttl_clock: Vec<f64>,
    replica_version: Vec<Option<&'a str>>,
    last_connect_time: Vec<f64>,
    with_rows: Vec<bool>,
    first: Vec<bool>,
    identity: Vec<bool>,
    client_schema: Vec<Option<String>>,
    profile_id: Vec<Option<&'a str>>,
}

impl<'a> Instances<'a> {
    fn new(entries: &'a [Entry<'a>]) -> Self {
        let flushes = || entries.iter().map(|entry| &**entry.flush);
        let identity = |flush: &Flush| flush.first || flush.identity_changed;
        Instances {
            group: flushes().map(|flush| &*flush.cvr.group).collect(),
            expected: flushes().map(|flush| flush.expected.to_string()).collect(),
            version: flushes().map(|flush| flush.cvr.version.to_string()).collect(),
            last_active: flushes().map(|flush| flush.cvr.last_active).collect(),
            ttl_clock: flushes().map(|flush| flush.cvr.ttl_clock).collect(),
            replica_version: flushes().map(|flush| flush.cvr.replica_version.as_deref()).collect(),
            last_connect_time: flushes().map(|flush| flush.last_connect_time).collect(),
            with_rows: entries.iter().map(|entry| entry.with_rows).collect(),
            first: flushes().map(|flush| flush.first).collect(),
            identity: flushes().map(identity).collect(),
            client_schema: flushes()
                .map(|flush| flush.cvr.client_schema.as_ref().filter(|_| identity(flush)).map(ToString::to_string))
                .collect(),
            profile_id: flushes().map(|flush| flush.cvr.profile_id.as_deref().filter(|_| identity(flush))).collect(),
        }
    }

    fn push<'b>(&'b self, to: &mut Vec<&'b (dyn ToSql + Sync)>) {
        to.extend([
            &self.group as &(dyn ToSql + Sync),
            &self.expected,
            &self.version,
            &self.last_active,
            &self.ttl_clock,
            &self.replica_version,
            &self.last_connect_time,
            &self.with_rows,
            &self.first,
            &self.identity,
            &self.client_schema,
            &self.profile_id,
        ]);
    }
}

#[derive(Default)]
struct RowArrays<'a> {
    group: Vec<i32>,
    table: Vec<&'a str>,
    row_key: Vec<String>,
    row_version: Vec<&'a str>,
    patch_version: Vec<String>,
    ref_counts: Vec<Option<String>>,
}

/// Groups are named by their position in the batch, from 1 as Postgres counts. Batches are far smaller than `i32`.
fn position(index: usize) -> i32 {
    i32::try_from(index + 1).unwrap_or(i32::MAX)
}

impl<'a> RowArrays<'a> {
    fn new(rows: impl Iterator<Item = (usize, &'a RowWrite)>) -> Self {
        let mut arrays = RowArrays::default();
        for (group, write) in rows {
            arrays.group.push(position(group));
            arrays.table.push(write.row.table());
            arrays.row_key.push(write.row.to_json());
            arrays.row_version.push(&write.row_version);
            arrays.patch_version.push(write.patch_version.to_string());
            arrays.ref_counts.push(write.ref_counts.as_ref().map(|counts| {
                let mut text = String::new();
                counts.write_json(&mut text);
                text
            }));
        }
        arrays
    }

    fn push<'b>(&'b self, to: &mut Vec<&'b (dyn ToSql + Sync)>) {
        to.extend([
            &self.group as &(dyn ToSql + Sync),
            &self.table,
            &self.row_key,
            &self.row_version,
            &self.patch_version,
            &self.ref_counts,
        ]);
    }
}

/// Clients, queries and desires of a batch.
#[derive(Default)]
struct Config<'a> {
    new_clients: (Vec<i32>, Vec<&'a str>),
    deleted_clients: (Vec<i32>, Vec<&'a str>),
    query_group: Vec<i32>,
    query: Vec<&'a str>,
    ast: Vec<Option<&'a str>>,
    name: Vec<Option<&'a str>>,
    args: Vec<Option<&'a str>>,
    query_version: Vec<Option<String>>,
    hash: Vec<Option<&'a str>>,
    hash_version: Vec<Option<String>>,
    internal: Vec<Option<bool>>,
    query_deleted: Vec<bool>,
    signature: Vec<Option<&'a str>>,
    desire_group: Vec<i32>,
    desire_client: Vec<&'a str>,
    desire_query: Vec<&'a str>,
    desire_version: Vec<String>,
    desire_deleted: Vec<bool>,
    ttl: Vec<f64>,
    inactivated_at: Vec<Option<f64>>,
}

impl<'a> Config<'a> {
    /// `None` if no flush of the batch needs the statement that writes these.
    fn new(entries: &'a [Entry<'a>]) -> Option<Self> {
        let mut config = Config::default();
        let mut needed = false;
        for (index, entry) in entries.iter().enumerate() {
            let flush = entry.flush;
            let group = position(index);
            needed |= flush.first || flush.identity_changed;
            for client in &flush.new_clients {
                config.new_clients.0.push(group);
                config.new_clients.1.push(client);
            }
            for client in &flush.deleted_clients {
                config.deleted_clients.0.push(group);
                config.deleted_clients.1.push(client);
            }
            for write in &flush.queries {
                let query = &write.query;
                let (ast, name, args): (Option<&str>, Option<&str>, Option<&str>) = match &query.body {
                    Body::Ast(ast) | Body::Internal(ast) => (Some(ast), None, None),
                    Body::Custom { name, args } => (None, Some(name), Some(args)),
                };
                config.query_group.push(group);
                config.query.push(&write.id);
                config.ast.push(ast);
                config.name.push(name);
                config.args.push(args);
                config.query_version.push(query.patch_version.as_ref().map(ToString::to_string));
                config.hash.push(query.transformation_hash.as_deref());
                config.hash_version.push(query.transformation_version.as_ref().map(ToString::to_string));
                config.internal.push(query.body.is_internal().then_some(true));
                config.query_deleted.push(write.deleted);
                config.signature.push(query.signature.text());
            }
            for write in &flush.desires {
                config.desire_group.push(group);
                config.desire_client.push(&write.client);
                config.desire_query.push(&write.query);
                config.desire_version.push(write.patch_version.to_string());
                config.desire_deleted.push(write.deleted);
                config.ttl.push(write.ttl);
                config.inactivated_at.push(write.inactivated_at);
            }
        }
        needed |= !(config.new_clients.0.is_empty()
            && config.deleted_clients.0.is_empty()
            && config.query_group.is_empty()
            && config.desire_group.is_empty());
        needed.then_some(config)
    }

    fn push<'b>(&'b self, to: &mut Vec<&'b (dyn ToSql + Sync)>) {
        to.extend([
            &self.new_clients.0 as &(dyn ToSql + Sync),
            &self.new_clients.1,
            &self.deleted_clients.0,
            &self.deleted_clients.1,
            &self.query_group,
            &self.query,
            &self.ast,
            &self.name,
            &self.args,
            &self.query_version,
            &self.hash,
            &self.hash_version,
            &self.internal,
            &self.query_deleted,
            &self.signature,
            &self.desire_group,
            &self.desire_client,
            &self.desire_query,
            &self.desire_version,
            &self.desire_deleted,
            &self.ttl,
            &self.inactivated_at,
        ]);
    }
}
