//! Rows that stand aside while their unique values are held by another row of the same transaction.
//!
//! Upstream checks uniqueness at the end of a statement, or of the transaction; SQLite checks every row.
//! So a row whose unique value is taken by another moves aside. When the stream comes to it, it is
//! written back with its new values; what still stands aside at the end comes back unchanged if its
//! place is free, and was replaced otherwise. Needed only for swaps inside a transaction and for
//! inserts of rows that are there already, so it may cost a scan of the rows that stand aside.

use std::sync::Arc;

use rusqlite::params_from_iter;

use super::SqliteValue;
use super::error::ReplicaError;
use super::relation::RelationInfo;
use super::writer::{Tx, is_unique_violation};

/// A row that stands aside. Its old image is tracked already, as if it had been deleted.
pub(super) struct Displaced {
    pub(super) info: Arc<RelationInfo>,
    /// All columns of the table.
    pub(super) values: Vec<SqliteValue>,
    version: SqliteValue,
}

impl Tx<'_> {
    /// Moves aside all rows, but one, that hold a unique value of a row to be written.
    pub(super) fn displace_conflicts(
        &mut self,
        info: &Arc<RelationInfo>,
        whole: &[SqliteValue],
        except: Option<i64>,
    ) -> Result<(), ReplicaError> {
        let mut rowids = Vec::new();
        for (columns, find) in &info.unique {
            let key: Vec<&SqliteValue> = columns.iter().map(|&column| &whole[column]).collect();
            if key.contains(&&SqliteValue::Null) {
                continue;
            }
            let mut statement = self.writer.connection.prepare_cached(find)?;
            let mut rows = statement.query(params_from_iter(key))?;
            while let Some(row) = rows.next()? {
                let rowid: i64 = row.get(0)?;
                if Some(rowid) != except && !rowids.contains(&rowid) {
                    rowids.push(rowid);
                }
            }
        }
        for rowid in rowids {
            let old = match self.track.current(&info.name, rowid) {
                Some(image) => Some(Arc::clone(image)),
                None => self.read_image(info, rowid)?,
            };
            let mut values = self.read_whole_versioned(info, rowid)?;
            let version = values.pop().unwrap_or(SqliteValue::Null);
            self.writer.connection.prepare_cached(&info.delete)?.execute([rowid])?;
            if let (Some(visible), Some(old)) = (&info.visible, old) {
                self.track.note(&visible.table, rowid, Some(old), None);
            }
            self.displaced.push(Displaced { info: Arc::clone(info), values, version });
        }
        Ok(())
    }

    /// The row with this key, if it stands aside. It no longer does.
    pub(super) fn take_displaced(
        &mut self,
        info: &RelationInfo,
        key: &[SqliteValue],
    ) -> Result<Option<Displaced>, ReplicaError> {
        let columns: Vec<usize> = info.key.iter().map(|&position| info.columns[position]).collect();
        let position = self.displaced.iter().position(|row| {
            row.info.name == info.name
                && columns.len() == key.len()
                && columns.iter().zip(key).all(|(&column, value)| same(&row.values[column], value))
        });
        Ok(position.map(|position| self.displaced.swap_remove(position)))
    }

    /// Writes a row of all columns, moving others aside.
    pub(super) fn insert_whole(
        &mut self,
        info: &Arc<RelationInfo>,
        values: &[SqliteValue],
        version: &SqliteValue,
    ) -> Result<(), ReplicaError> {
        match self.try_insert_whole(info, values, version) {
            Err(ReplicaError::Sqlite(error)) if is_unique_violation(&error) => {
                self.displace_conflicts(info, values, None)?;
                self.try_insert_whole(info, values, version)
            }
            result => result,
        }
    }

    fn try_insert_whole(
        &mut self,
        info: &RelationInfo,
        values: &[SqliteValue],
        version: &SqliteValue,
    ) -> Result<(), ReplicaError> {
        self.writer
            .connection
            .prepare_cached(&info.insert_all)?
            .execute(params_from_iter(values.iter().chain([version])))?;
        let rowid = self.writer.connection.last_insert_rowid();
        let image = self.read_image(info, rowid)?;
        if let (Some(visible), Some(image)) = (&info.visible, image) {
            self.track.note(&visible.table, rowid, None, Some(image));
        }
        Ok(())
    }

    /// Brings back what still stands aside, at the end of the transaction or before a schema change.
    pub(super) fn settle(&mut self) -> Result<(), ReplicaError> {
        for row in std::mem::take(&mut self.displaced) {
            match self.try_insert_whole(&row.info, &row.values, &row.version) {
                Err(ReplicaError::Sqlite(error)) if is_unique_violation(&error) => {
                    tracing::debug!(table = &*row.info.name, "a row was replaced by one with the same unique value");
                }
                result => result?,
            }
        }
        Ok(())
    }

    fn read_whole_versioned(&self, info: &RelationInfo, rowid: i64) -> Result<Vec<SqliteValue>, ReplicaError> {
        let mut statement = self.writer.connection.prepare_cached(&info.all)?;
        Ok(statement.query_row([rowid], |row| (0..=info.width).map(|column| row.get(column)).collect())?)
    }
}

/// Whether a stored value is the one that arrives: integers and reals of the same size are.
fn same(stored: &SqliteValue, arriving: &SqliteValue) -> bool {
    match (stored, arriving) {
        (SqliteValue::Integer(integer), SqliteValue::Real(real))
        | (SqliteValue::Real(real), SqliteValue::Integer(integer)) => *integer as f64 == *real,
        (SqliteValue::Integer(integer), SqliteValue::Text(text)) => text.parse() == Ok(*integer),
        (stored, arriving) => stored == arriving,
    }
}
