//! Reads of the replica at one version, for graphs.
//!
//! One statement is prepared for all keys of a request, through the connection's statement cache, which
//! knows it by its text: equal for equal shapes of queries, whatever their constants. A key costs a
//! bind and an index search.

use std::sync::Arc;
use std::time::{Duration, Instant};

use zql_spec::schema::Table;
use zql_spec::value::Value;

use super::read::{Apply, Lookup, Read, ReadError};
use crate::commit::{Key, StoredRow};
use crate::query::{NodeId, Query};
use crate::replica::Reader;
use crate::sql::{Access, FilterPart, Sql, bind, fits, kept_exists, kept_select};

/// Keys of a request from which on mapping the file costs less than reading its pages one by one.
const MANY_KEYS: usize = 64;

/// A [`Read`] over a pinned version of the replica.
pub struct ReplicaRead {
    reader: Reader,
    begin: Instant,
}

impl ReplicaRead {
    /// Reads at the reader's version.
    pub fn new(reader: Reader) -> Self {
        ReplicaRead { reader, begin: Instant::now() }
    }

    /// Runs a statement once per key. `row` is given the key's position and each row found.
    fn each_key(
        &self,
        sql: &Sql,
        (table, columns): (&Table, &[usize]),
        keys: &[Key],
        row: &mut dyn FnMut(usize, &rusqlite::Row<'_>) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        if keys.len() >= MANY_KEYS {
            self.reader.read_much();
        }
        let mut statement = self.reader.prepare_cached(&sql.text).map_err(|error| self.reader.error(error))?;
        sql.bind_own(&mut statement).map_err(|error| self.reader.error(error))?;
        for (index, key) in keys.iter().enumerate() {
            // A value of another type than its column's equals nothing; SQLite would convert it.
            let fitting = |(&column, value): (&usize, &Value)| fits(table.columns[column].value_type, value);
            if !columns.iter().zip(key).all(fitting) {
                continue;
            }
            for (position, value) in key.iter().enumerate() {
                statement.raw_bind_parameter(position + 1, bind(value)).map_err(|error| self.reader.error(error))?;
            }
            let mut rows = statement.raw_query();
            while let Some(found) = rows.next().map_err(|error| self.reader.error(error))? {
                row(index, found)?;
            }
        }
        Ok(())
    }
}

impl Read for ReplicaRead {
    fn lookup(
        &mut self,
        lookup: &Lookup<'_>,
        keys: &[Key],
        found: &mut dyn FnMut(usize, Arc<StoredRow>),
    ) -> Result<(), ReadError> {
        let table = &lookup.query.nodes[lookup.node].table;
        let filter = match lookup.apply {
            Apply::Nothing => FilterPart::None,
            Apply::Simple => FilterPart::Simple,
            Apply::Complete => FilterPart::Full,
        };
        let access = Access {
            filter,
            lookup: lookup.columns,
            start: lookup.apply != Apply::Nothing,
            after: lookup.after,
            until: lookup.until,
            order: lookup.ordered,
            limit: lookup.limit,
            ..Access::default()
        };
        let sql = kept_select(lookup.query, lookup.node, &access);
        let codec = self.reader.snapshot().codec(table);
        self.each_key(&sql, (table, lookup.columns), keys, &mut |index, row| {
            found(index, codec.decode(row, 0)?);
            Ok(())
        })
    }

    fn exists(&mut self, query: &Query, node: NodeId, keys: &[Key]) -> Result<Vec<bool>, ReadError> {
        let columns = query.nodes[node].edge.as_ref().map_or(&[][..], |edge| &edge.child_columns);
        let sql = kept_exists(query, node);
        let mut exists = vec![false; keys.len()];
        self.each_key(&sql, (&query.nodes[node].table, columns), keys, &mut |index, _| {
            exists[index] = true;
            Ok(())
        })?;
        Ok(exists)
    }

    fn clock(&self) -> Option<Duration> {
        Some(self.begin.elapsed())
    }
}
