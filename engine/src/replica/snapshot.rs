//! Pinned versions and the connections that read them.
#![allow(unsafe_code)]

use std::ops::Deref;
use std::sync::Arc;

use rusqlite::Connection;
use zql_spec::schema::{Schema, Table};

use super::codec::RowCodec;
use super::error::ReplicaError;
use crate::commit::{StoredRow, Version};
use crate::sql::Sql;

/// One version of the replica, readable as long as this lives. Hold it briefly: it keeps the
/// write-ahead log from being reset.
pub struct Snapshot {
    /// The pinned version.
    pub version: Version,
    /// What queries can see at that version.
    pub schema: Arc<Schema>,
}

impl Snapshot {
    /// A pooled connection that reads at exactly this version. For one thread at a time.
    pub fn reader(self: &Arc<Self>) -> Result<Reader, ReplicaError> {
        unimplemented!()
    }

    /// The codec for rows of a table at this version.
    pub fn codec(&self, table: &Arc<Table>) -> RowCodec {
        let _ = table;
        unimplemented!()
    }
}

/// A connection inside a read transaction at the snapshot's version. Goes back to the pool when dropped.
pub struct Reader {
    connection: Connection,
}

impl Reader {
    /// The version read.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        unimplemented!()
    }

    /// Runs a node's SELECT and decodes its rows. `lookup` holds a value for each of [`Sql::lookup`].
    pub fn rows(
        &self,
        sql: &Sql,
        table: &Arc<Table>,
        lookup: &[zql_spec::value::Value],
    ) -> Result<Vec<Arc<StoredRow>>, ReplicaError> {
        let _ = (sql, table, lookup);
        unimplemented!()
    }
}

impl Deref for Reader {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}
