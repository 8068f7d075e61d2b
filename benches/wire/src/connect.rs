//! Many client groups that come at once, as after a deploy: how long until all have their rows, what each costs in memory,
//! and how many statements a poke costs the database of client view records afterwards.

use std::time::Instant;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use serde_json::json;
use testdata::postgres::Postgres;
use testdata::sync_server::SyncServer;

use crate::fanout::wait_for;
use crate::hydrate::{Held, hydrate};

/// What makes Postgres count statements.
pub(crate) const COUNTING: (&str, &str) = ("shared_preload_libraries", "pg_stat_statements");

/// Rows of the query.
const ROWS: u32 = 120;

/// Commits whose statements are counted, one after the other.
const COMMITS: u32 = 10;

/// How many times as many groups join after that.
const FURTHER: u32 = 2;

#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Outcome {
    pub groups: u32,
    /// From the first connect to the last completed query.
    pub seconds: f64,
    /// PSS of all processes of the server when all have their rows, the growth divided by the groups: with what is still
    /// in flight, rows on their way to the records for the most part.
    pub kilobytes_a_group_at_once: f64,
    /// The same after the commits: what a group costs that is connected and listens.
    pub kilobytes_a_group: f64,
    /// PSS when twice as many groups more have joined, the growth divided by those: without what a server allocates once
    /// for any number of groups.
    pub kilobytes_a_further_group: f64,
    /// Statements on the tables of records while commits reached every group, by pokes.
    pub statements_a_poke: f64,
}

pub(crate) async fn connect(server: &SyncServer, postgres: &Postgres, database: &str, groups: u32) -> Result<Outcome> {
    let list = json!({"table": "issue", "orderBy": [["modified", "desc"], ["id", "asc"]], "limit": ROWS});
    // Whatever is loaded for the first client alone is not the groups'.
    let first = hydrate(&server.url(), &list).await?;
    let memory = server.usage().memory;
    let begun = Instant::now();
    let mut held: Vec<Held> = try_join_all((0..groups).map(|_| async { hydrate(&server.url(), &list).await })).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let grown = |since: u64, by: u32| server.usage().memory.saturating_sub(since) as f64 / 1e3 / f64::from(by.max(1));
    let kilobytes_a_group_at_once = grown(memory, groups);
    drop(first);

    postgres.psql(database, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")?;
    let statements = || -> Result<f64> {
        let sql = "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid \
                   WHERE datname = current_database() AND query LIKE '%/cvr\"%'";
        postgres.psql(database, sql)?.parse().context("a number of statements")
    };
    let commit = |title: &str| {
        let sql = format!(
            "UPDATE issue SET title = '{title}', modified = now() \
             WHERE id = (SELECT id FROM issue ORDER BY modified DESC, id LIMIT 1)"
        );
        postgres.psql(database, &sql)
    };
    let mut before = 0.0;
    for number in 0..=COMMITS {
        let title = format!("for {} number {number}.", server.url());
        commit(&title)?;
        try_join_all(held.iter_mut().map(|client| wait_for(client, &title))).await?;
        if number == 0 {
            // What the servers wrote behind the connects is written by now.
            before = statements()?;
        }
    }
    let statements_a_poke = (statements()? - before) / f64::from(COMMITS * groups);
    let kilobytes_a_group = grown(memory, groups);
    let memory = server.usage().memory;
    let further = groups * FURTHER;
    held.extend(try_join_all((0..further).map(|_| async { hydrate(&server.url(), &list).await })).await?);
    for number in COMMITS + 1..=2 * COMMITS {
        let title = format!("for {} number {number}.", server.url());
        commit(&title)?;
        try_join_all(held.iter_mut().map(|client| wait_for(client, &title))).await?;
    }
    Ok(Outcome {
        groups,
        seconds,
        kilobytes_a_group_at_once,
        kilobytes_a_group,
        kilobytes_a_further_group: grown(memory, further),
        statements_a_poke,
    })
}
