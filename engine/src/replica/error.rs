//! What can go wrong with the replica, by what the caller does about it.

/// Errors of the replica.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// SQLite failed. If [`ReplicaError::is_corruption`], the file must be deleted and synced anew.
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file system failed.
    #[error("replica file: {0}")]
    Io(#[from] std::io::Error),
    /// A stored value that clients cannot be given; the query that reads it fails.
    #[error("{0}")]
    Value(String),
    /// The change does not fit the replica (unknown table or column): the stream and the file disagree,
    /// so the file must be synced anew.
    #[error("{0}")]
    Mismatch(String),
    /// The replica has its one writer already.
    #[error("the replica already has a writer")]
    WriterTaken,
    /// The pinned version was given up because it held back the log for too long. Pin again.
    #[error("the pinned version {0} was given up")]
    PinExpired(crate::commit::Version),
}

impl ReplicaError {
    /// Whether the file is damaged.
    pub fn is_corruption(&self) -> bool {
        matches!(
            self,
            ReplicaError::Sqlite(rusqlite::Error::SqliteFailure(error, _))
                if matches!(error.code, rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
        )
    }
}
