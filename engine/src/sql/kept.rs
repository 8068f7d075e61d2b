//! The statements by which the graphs of a query read, once they were written.
//!
//! Writing one takes longer than what it reads: a few rows by a key. A query has a handful of them, of its nodes and the ways in
//! which these are read, and those that begin at a place in the node's order, which is another each time, are not kept. What is
//! kept lives and dies with the query; graphs of one query share it.

use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Access, FilterPart, Sql, SqliteValue, node_exists, node_select};
use crate::query::{NodeId, Query};

/// Statements that are kept of a query: far more than there are ways to read the nodes of any that people write.
const KEPT_MAX: usize = 256;

/// Statements of one query. A copy of a query begins with none.
#[derive(Default)]
pub(crate) struct Kept {
    written: Mutex<Vec<(Way, Arc<Sql>)>>,
}

/// How a node is read.
#[derive(PartialEq)]
struct Way {
    node: NodeId,
    /// Whether it is only asked if there is a row.
    exists: bool,
    columns: SmallVec<[usize; 2]>,
    filter: FilterPart,
    start: bool,
    order: bool,
    /// Whether there is a limit. How many rows it is stands in a value, the last one: it changes with what an advance may
    /// still read.
    limited: bool,
}

impl Clone for Kept {
    fn clone(&self) -> Self {
        Kept::default()
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("_")
    }
}

impl Kept {
    fn get(&self, way: Way, write: impl FnOnce() -> Sql) -> Arc<Sql> {
        let mut written = self.written.lock();
        if let Some((_, sql)) = written.iter().find(|(known, _)| *known == way) {
            return Arc::clone(sql);
        }
        let sql = Arc::new(write());
        if written.len() < KEPT_MAX {
            written.push((way, Arc::clone(&sql)));
        }
        sql
    }
}

/// [`node_select`], kept if it reads from the beginning to the end.
pub(crate) fn kept_select(query: &Query, node: NodeId, access: &Access<'_>) -> Arc<Sql> {
    let write = || node_select(query, node, access);
    if access.after.is_some() || access.until.is_some() || !access.lookup_many.is_empty() {
        return Arc::new(write());
    }
    let &Access { filter, lookup, start, order, limit, .. } = access;
    let way = Way { node, exists: false, columns: lookup.into(), filter, start, order, limited: limit.is_some() };
    limited(query.kept.get(way, write), limit)
}

/// A statement with this limit.
fn limited(sql: Arc<Sql>, limit: Option<usize>) -> Arc<Sql> {
    let Some(limit) = limit.map(|limit| SqliteValue::Integer(limit as i64)) else { return sql };
    if sql.binds.last() == Some(&limit) {
        return sql;
    }
    let mut sql = Arc::unwrap_or_clone(sql);
    if let Some(last) = sql.binds.last_mut() {
        *last = limit;
    }
    Arc::new(sql)
}

/// [`node_exists`], kept.
pub(crate) fn kept_exists(query: &Query, node: NodeId) -> Arc<Sql> {
    let way = Way {
        node,
        exists: true,
        columns: SmallVec::new(),
        filter: FilterPart::Full,
        start: true,
        order: false,
        limited: true,
    };
    query.kept.get(way, || node_exists(query, node))
}
