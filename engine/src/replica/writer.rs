//! The one writer: upstream transactions in, commits out.
//!
//! A transaction of upstream is one SQLite transaction. Old images are read by key before each write,
//! so that the [`Commit`] says all there is to know. Values are SQLite storage values, already converted:
//! booleans as 0/1, JSON and arrays as text, times as milliseconds.
//!
//! A write costs a look-up by key and a write by row id, each through a prepared statement. An update sets only
//! columns whose value changed, so that it touches only their indexes. The change log follows in batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLockWriteGuard;
use rusqlite::{Connection, params};
use rustc_hash::FxHashMap;
use zql_spec::schema::Schema;

use super::catalogue::{Catalogue, now_ms, quote};
use super::changelog::ChangeLog;
use super::codec::RowCodec;
use super::displace::Displaced;
use super::error::ReplicaError;
use super::relation::{Mask, RelationInfo, Stored};
use super::statistics::{self, Churn, Stepped};
use super::track::Track;
use super::wal::LogUpkeep;
use super::{Published, Replica, SqliteValue};
use crate::commit::{Commit, StoredRow, Version};

/// Prepared statements of the writer: a handful for each table written.
const STATEMENTS_MAX: usize = 2048;

/// The write side of a replica. There is one.
pub struct Writer {
    replica: Arc<Replica>,
    pub(super) connection: Connection,
    change_log: ChangeLog,
    /// Grows with every schema change, so that relations resolved before are known to be stale.
    generation: u64,
    relations: FxHashMap<RelationKey, Arc<RelationInfo>>,
    pub(super) upkeep: LogUpkeep,
    churn: Churn,
}

type RelationKey = (String, Vec<String>, Vec<String>);

impl Writer {
    pub(super) fn open(replica: &Arc<Replica>) -> Result<Writer, ReplicaError> {
        let mut connection = super::open_connection(&replica.path, super::Access::Serve)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        connection.pragma_update(None, "cache_size", -64 * 1024)?;
        let pages = Arc::clone(&replica.wal_pages);
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, in_log: std::ffi::c_int| {
            pages.store(u64::try_from(in_log).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let version = replica.state().state_version;
        let change_log = ChangeLog::open(&connection, &replica.replica_version, &version)?;
        Ok(Writer {
            replica: Arc::clone(replica),
            connection,
            change_log,
            generation: 0,
            relations: FxHashMap::default(),
            upkeep: LogUpkeep::default(),
            churn: Churn::default(),
        })
    }

    /// Begins a transaction that leads to `version`, which must be greater than the newest one.
    /// Dropping the transaction rolls it back.
    ///
    /// Blocks while the write-ahead log has to be reset first.
    pub fn begin(&mut self, version: &str) -> Result<Tx<'_>, ReplicaError> {
        self.upkeep.tend(&self.replica, &self.connection)?;
        let published = Arc::clone(&self.replica.published.read());
        if *version <= *published.version {
            return Err(ReplicaError::Mismatch(format!("version {version} does not come after {}", published.version)));
        }
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Tx {
            version: Version::from(version),
            base: Arc::clone(&published.version),
            catalogue: Arc::clone(&published.catalogue),
            schema: Arc::clone(&published.schema),
            published,
            track: Track::default(),
            displaced: Vec::new(),
            schema_changed: false,
            reloaded: false,
            open: true,
            writer: self,
        })
    }

    /// Makes the statistics of what has changed much anew, one step of a few milliseconds at a time: for when there is
    /// nothing else to do, or now and then. False if there is nothing left to do.
    pub fn tend_statistics(&mut self) -> bool {
        let catalogue = Arc::clone(&self.replica.published.read().catalogue);
        let churn = &mut self.churn;
        let stepped = self.connection.unchecked_transaction().map_err(ReplicaError::from).and_then(|transaction| {
            let stepped = churn.step(&transaction, &catalogue)?;
            match stepped {
                Stepped::Nothing => transaction.rollback()?,
                _ => transaction.commit()?,
            }
            Ok(stepped)
        });
        match stepped {
            Ok(Stepped::Nothing) => return false,
            Ok(Stepped::Begun | Stepped::Last) => self.replica.renew_statistics(),
            Ok(Stepped::Index) => {}
            // Plans are worse without, and no less right. What was to be done is forgotten: it would fail again.
            Err(error) => {
                tracing::warn!(%error, "statistics cannot be made anew");
                self.churn = Churn::default();
            }
        }
        true
    }

    fn stale(&mut self) {
        self.generation += 1;
        self.relations.clear();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = self.change_log.finish(&self.connection, &self.replica.schema()) {
            tracing::warn!(%error, "the last rows of the change log were not written");
        }
        self.replica.writer_taken.store(false, Ordering::Release);
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// A table and the columns in which its rows arrive: names resolved and statements made once. Valid in
/// the transaction that made it and later ones, until the schema changes; making one that was made
/// before is a look-up.
#[derive(Clone, Debug)]
pub struct Relation(pub(super) Arc<RelationInfo>);

/// One upstream transaction.
pub struct Tx<'w> {
    pub(super) writer: &'w mut Writer,
    pub(super) version: Version,
    base: Version,
    pub(super) published: Arc<Published>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) schema: Arc<Schema>,
    pub(super) track: Track,
    pub(super) displaced: Vec<Displaced>,
    pub(super) schema_changed: bool,
    reloaded: bool,
    open: bool,
}

impl Tx<'_> {
    /// Resolves a table, the columns of its rows in the stream and the columns of its row key. An empty key
    /// stands for the table's own (replica identity `full`); if it has none, rows can only be inserted.
    pub fn relation(&mut self, table: &str, columns: &[&str], key: &[&str]) -> Result<Relation, ReplicaError> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let cache_key = (table.to_owned(), owned(columns), owned(key));
        if let Some(info) = self.writer.relations.get(&cache_key) {
            return Ok(Relation(Arc::clone(info)));
        }
        let generation = self.writer.generation;
        let info = RelationInfo::resolve(&self.catalogue, &self.schema, generation, table, columns, key)?;
        let info = Arc::new(info);
        self.writer.relations.insert(cache_key, Arc::clone(&info));
        Ok(Relation(info))
    }

    /// Inserts a row, replacing one with the same key. `row` has a value for each column of the relation.
    pub fn insert(&mut self, relation: &Relation, row: &[SqliteValue]) -> Result<(), ReplicaError> {
        let info = self.check(relation, row.len())?;
        let insert = |tx: &Self| {
            let mut statement = tx.writer.connection.prepare_cached(&info.insert)?;
            for (position, value) in row.iter().enumerate() {
                statement.raw_bind_parameter(position + 1, value)?;
            }
            statement.raw_bind_parameter(row.len() + 1, &*tx.version)?;
            statement.raw_execute()
        };
        match insert(self) {
            Err(error) if is_unique_violation(&error) => {
                let mut whole = vec![SqliteValue::Null; info.width];
                for (&column, value) in info.columns.iter().zip(row) {
                    whole[column] = value.clone();
                }
                self.displace_conflicts(info, &whole, None)?;
                insert(self)?;
            }
            result => {
                result?;
            }
        }
        let rowid = self.writer.connection.last_insert_rowid();
        let Some(visible) = info.visible.as_ref().filter(|visible| self.track.wants(&visible.table.name)) else {
            return Ok(());
        };
        let codec = RowCodec::new(&visible.table, None);
        let mut values = Vec::with_capacity(visible.source.len());
        let mut known = true;
        for (column, source) in visible.source.iter().enumerate() {
            match source.map(|source| visible.stored(&codec, column, &row[source])) {
                Some(Ok(Stored::As(value))) => values.push(value),
                Some(Ok(Stored::Unknown)) | None => {
                    known = false;
                    break;
                }
                Some(Err(error)) => {
                    self.unlistable(info, error)?;
                    return Ok(());
                }
            }
        }
        let image = if known {
            Some(Arc::new(StoredRow { values: values.into(), version: Arc::clone(&self.version) }))
        } else {
            self.read_image(info, rowid)?
        };
        self.track.note(&visible.table, rowid, None, image);
        Ok(())
    }

    /// Updates the row with the old key, or with the new row's key if no old key is given (values in the order
    /// of the relation's key). `None` in `row` is an unchanged column that upstream did not send. A row
    /// that is not there is inserted, with nulls for what was not sent.
    pub fn update(
        &mut self,
        relation: &Relation,
        old_key: Option<&[SqliteValue]>,
        row: &[Option<SqliteValue>],
    ) -> Result<(), ReplicaError> {
        let info = self.check(relation, row.len())?;
        let key = match old_key {
            Some(key) => key.to_vec(),
            None => info
                .key
                .iter()
                .map(|&position| row[position].clone())
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| ReplicaError::Mismatch(format!("an update of {} lacks its key", info.name)))?,
        };
        if let Some(displaced) = self.take_displaced(info, &key)? {
            let mut values = displaced.values;
            for (&column, value) in info.columns.iter().zip(row) {
                if let Some(value) = value {
                    values[column] = value.clone();
                }
            }
            let version = SqliteValue::Text(self.version.to_string());
            return self.insert_whole(info, &values, &version);
        }
        let Some(found) = self.find(info, &key)? else {
            let row: Vec<SqliteValue> = row.iter().map(|value| value.clone().unwrap_or(SqliteValue::Null)).collect();
            return self.insert(relation, &row);
        };
        let mut mask: Mask = row.iter().map(Option::is_some).collect();
        // What the row will read as; `None` once it is not known from here.
        let mut values = found.image.as_ref().map(|image| image.values.clone());
        if let (Some(visible), Some(image)) = (&info.visible, &found.image) {
            let codec = RowCodec::new(&visible.table, None);
            for (column, source) in visible.source.iter().enumerate() {
                let Some(source) = *source else { continue };
                let Some(value) = &row[source] else { continue };
                match visible.stored(&codec, column, value) {
                    Ok(Stored::As(value)) if value == image.values[column] => mask[source] = false,
                    Ok(Stored::As(value)) => {
                        if let Some(values) = &mut values {
                            values[column] = value;
                        }
                    }
                    Ok(Stored::Unknown) => values = None,
                    Err(error) => {
                        self.unlistable(info, error)?;
                        values = None;
                    }
                }
            }
        }
        self.execute_update(info, &mask, row, found.rowid)?;
        if let (Some(visible), Some(old)) = (&info.visible, found.image)
            && self.track.wants(&info.name)
        {
            let new = match values {
                Some(values) => Some(Arc::new(StoredRow { values, version: Arc::clone(&self.version) })),
                None => self.read_image(info, found.rowid)?,
            };
            self.track.note(&visible.table, found.rowid, Some(old), new);
        }
        Ok(())
    }

    fn execute_update(
        &mut self,
        info: &Arc<RelationInfo>,
        mask: &Mask,
        row: &[Option<SqliteValue>],
        rowid: i64,
    ) -> Result<(), ReplicaError> {
        let sql = info.update(mask);
        let update = |tx: &Self| {
            let mut statement = tx.writer.connection.prepare_cached(&sql)?;
            let mut parameter = 0;
            for (value, _) in row.iter().zip(mask).filter(|(_, set)| **set) {
                parameter += 1;
                statement.raw_bind_parameter(parameter, value)?;
            }
            statement.raw_bind_parameter(parameter + 1, &*tx.version)?;
            statement.raw_bind_parameter(parameter + 2, rowid)?;
            statement.raw_execute()
        };
        match update(self) {
            Err(error) if is_unique_violation(&error) => {
                let mut whole = self.read_whole(info, rowid)?;
                for (&column, value) in info.columns.iter().zip(row) {
                    if let Some(value) = value {
                        whole[column] = value.clone();
                    }
                }
                self.displace_conflicts(info, &whole, Some(rowid))?;
                update(self)?;
            }
            result => {
                result?;
            }
        }
        Ok(())
    }

    /// Deletes the row with this key (values of the relation's key columns, in the order given there).
    pub fn delete(&mut self, relation: &Relation, key: &[SqliteValue]) -> Result<(), ReplicaError> {
        let info = self.check(relation, relation.0.columns.len())?;
        if self.take_displaced(info, key)?.is_some() {
            return Ok(());
        }
        if let Some(found) = self.find(info, key)? {
            self.writer.connection.prepare_cached(&info.delete)?.execute([found.rowid])?;
            if let (Some(visible), Some(image)) = (&info.visible, found.image) {
                self.track.note(&visible.table, found.rowid, Some(image), None);
            }
        }
        Ok(())
    }

    /// Deletes all rows of a table.
    pub fn truncate(&mut self, table: &str) -> Result<(), ReplicaError> {
        let name: Arc<str> = match self.schema.table(table) {
            Some(visible) => Arc::clone(&visible.name),
            None if self.catalogue.table(table).is_some() => Arc::from(table),
            None => return Err(ReplicaError::Mismatch(format!("Unknown table {table}"))),
        };
        self.writer.connection.execute_batch(&format!("DELETE FROM {}", quote(table)))?;
        self.displaced.retain(|row| row.info.name != name);
        if self.schema.table(table).is_some() {
            self.track.rewrite(&name);
        }
        Ok(())
    }

    /// Lets what follows belong to a later upstream transaction of the same commit: many small ones cost
    /// little more than one. Rows keep the version of their own transaction.
    pub fn advance(&mut self, version: &str) -> Result<(), ReplicaError> {
        if *version <= *self.version {
            return Err(ReplicaError::Mismatch(format!("version {version} does not come after {}", self.version)));
        }
        self.settle()?;
        self.version = Version::from(version);
        Ok(())
    }

    /// Commits. The new version is visible to pins made after this returns.
    pub fn commit(mut self) -> Result<Commit, ReplicaError> {
        self.settle()?;
        let track = std::mem::take(&mut self.track);
        let commit = track.commit(Arc::clone(&self.base), Arc::clone(&self.version), self.schema_changed);
        let connection = &self.writer.connection;
        let logged = self.writer.change_log.write(connection, &self.schema, &commit)?;
        connection
            .prepare_cached(r#"UPDATE "_zero.replicationState" SET stateVersion = ?, writeTimeMs = ? WHERE lock = 1"#)?
            .execute(params![&*self.version, now_ms()])?;
        let published = Arc::new(Published {
            version: Arc::clone(&self.version),
            schema: Arc::clone(&self.schema),
            catalogue: Arc::clone(&self.catalogue),
            // Plans may use indexes that are no more, and should use those that are new.
            statistics: if self.reloaded { statistics::next() } else { self.published.statistics },
        });
        {
            let mut current: RwLockWriteGuard<'_, Arc<Published>> = self.writer.replica.published.write();
            connection.prepare_cached("COMMIT")?.execute([])?;
            *current = published;
        }
        self.open = false;
        self.writer.change_log.committed(&commit, logged);
        self.writer.churn.note(&commit, self.reloaded);
        Ok(commit)
    }

    /// Reads the catalogue again after a schema change inside the transaction.
    pub(super) fn reload(&mut self) -> Result<(), ReplicaError> {
        let catalogue = Catalogue::read(&self.writer.connection)?;
        let schema = catalogue.schema();
        self.schema_changed |=
            schema != *self.published.schema || catalogue.min_versions != self.published.catalogue.min_versions;
        self.catalogue = Arc::new(catalogue);
        self.schema =
            if schema == *self.published.schema { Arc::clone(&self.published.schema) } else { Arc::new(schema) };
        self.writer.stale();
        self.reloaded = true;
        Ok(())
    }

    fn check<'r>(&self, relation: &'r Relation, columns: usize) -> Result<&'r Arc<RelationInfo>, ReplicaError> {
        let info = &relation.0;
        if info.generation != self.writer.generation {
            return Err(ReplicaError::Mismatch(format!("the schema of {} changed since it was resolved", info.name)));
        }
        if info.columns.len() != columns {
            return Err(ReplicaError::Mismatch(format!(
                "a row of {} has {columns} values for {} columns",
                info.name,
                info.columns.len()
            )));
        }
        Ok(info)
    }
}

impl Drop for Tx<'_> {
    fn drop(&mut self) {
        if self.open {
            if let Err(error) = self.writer.connection.execute_batch("ROLLBACK") {
                tracing::error!(%error, "rollback failed");
            }
            if self.reloaded {
                self.writer.stale();
            }
        }
    }
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").field("version", &self.version).finish_non_exhaustive()
    }
}

pub(super) fn is_unique_violation(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE)
}
