//! The rows that a transaction finds before it writes them, and reads back when it cannot know what was stored.
//!
//! A row costs a look-up by key and decoding its visible columns; images of tables that are not listed any more are
//! not decoded.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params_from_iter};

use super::SqliteValue;
use super::codec::RowCodec;
use super::error::ReplicaError;
use super::relation::RelationInfo;
use super::writer::Tx;
use crate::commit::StoredRow;

/// A row found by key.
pub(super) struct Found {
    pub(super) rowid: i64,
    pub(super) image: Option<Arc<StoredRow>>,
}

impl Tx<'_> {
    /// The row with a key, with its image if that is wanted and can be read.
    pub(super) fn find(
        &mut self,
        info: &Arc<RelationInfo>,
        key: &[SqliteValue],
    ) -> Result<Option<Found>, ReplicaError> {
        if info.find.is_empty() || key.len() != info.key.len() {
            return Err(ReplicaError::Mismatch(format!(
                "Cannot replicate table \"{}\" without a PRIMARY KEY or UNIQUE INDEX",
                info.name
            )));
        }
        let mut unreadable = None;
        let found = {
            let mut statement = self.writer.connection.prepare_cached(&info.find)?;
            let mut rows = statement.query(params_from_iter(key))?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let rowid = row.get(0)?;
            let visible = info.visible.as_ref().filter(|visible| self.track.wants(&visible.table.name));
            let image = match (visible, self.track.current(&info.name, rowid)) {
                (Some(_), Some(image)) => Some(Arc::clone(image)),
                (Some(visible), None) => {
                    let min_version = self.catalogue.min_versions.get(&info.name);
                    match RowCodec::new(&visible.table, min_version).decode(row, 1) {
                        Ok(image) => Some(image),
                        Err(error) => {
                            unreadable = Some(error);
                            None
                        }
                    }
                }
                (None, _) => None,
            };
            Found { rowid, image }
        };
        if let Some(error) = unreadable {
            self.unlistable(info, error)?;
        }
        Ok(Some(found))
    }

    /// The image of a row as it is now stored. A value that cannot be given to clients gives the table up.
    pub(super) fn read_image(
        &mut self,
        info: &RelationInfo,
        rowid: i64,
    ) -> Result<Option<Arc<StoredRow>>, ReplicaError> {
        let Some(visible) = info.visible.as_ref().filter(|visible| self.track.wants(&visible.table.name)) else {
            return Ok(None);
        };
        let min_version = self.catalogue.min_versions.get(&info.name);
        let codec = RowCodec::new(&visible.table, min_version);
        let image = self
            .writer
            .connection
            .prepare_cached(&info.image)?
            .query_row([rowid], |row| Ok(codec.decode(row, 0)))
            .optional()?;
        match image {
            Some(Err(error)) => {
                self.unlistable(info, error)?;
                Ok(None)
            }
            Some(Ok(image)) => Ok(Some(image)),
            None => Ok(None),
        }
    }

    pub(super) fn read_whole(&self, info: &RelationInfo, rowid: i64) -> Result<Vec<SqliteValue>, ReplicaError> {
        let mut statement = self.writer.connection.prepare_cached(&info.all)?;
        Ok(statement.query_row([rowid], |row| (0..info.width).map(|column| row.get(column)).collect())?)
    }

    /// A row that clients cannot be given: queries that read it fail when they hydrate, all others go on.
    pub(super) fn unlistable(&mut self, info: &RelationInfo, error: ReplicaError) -> Result<(), ReplicaError> {
        let ReplicaError::Value(_) = &error else { return Err(error) };
        tracing::warn!(table = &*info.name, %error, "a row cannot be given to clients");
        self.track.rewrite(&info.name);
        Ok(())
    }
}
