//! What can go wrong with the store, by what the caller does about it.

use std::time::Duration;

use tokio_postgres::error::SqlState;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Error kind `Rehome`, `maxBackoffMs` 0 where another server owns the record: the group's clients
    /// connect again, and the record is loaded again.
    #[error("{0}")]
    Rehome(#[from] Rehome),
    /// Error kind `ClientNotFound`: the record is gone or unusable; the client starts again.
    #[error("{0}")]
    ClientNotFound(String),
    /// Error kind `SchemaVersionNotSupported`.
    #[error("{0}")]
    SchemaVersionNotSupported(String),
    /// Error kind `Internal`: Postgres cannot be reached, is shutting down or out of resources. Trying again later
    /// may work; whether a flush took place is not known, so the group's record is to be loaded again.
    #[error("{0}")]
    Postgres(String),
    /// Error kind `Internal`: Postgres does not take what was to be written, or what it holds is not what servers
    /// write. Trying the same again will fail again.
    #[error("{0}")]
    Refused(String),
    /// The database cannot be used with this version of the server at all. Fatal at start.
    #[error("{0}")]
    Unsupported(String),
}

/// Why a group's record may not be written from here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rehome {
    /// Another server claimed the record for a later connection. Expected when clients move.
    #[error("CVR ownership was transferred to {owner} at {granted_at} (last connect time: {last_connect_time})")]
    Ownership {
        /// The other server's task id.
        owner: String,
        /// Its clients' last connect time, ISO 8601.
        granted_at: String,
        /// Ours, ISO 8601.
        last_connect_time: String,
    },
    /// Somebody else wrote the record, or it was purged.
    #[error("CVR has been concurrently modified. Expected {expected}, got {actual}")]
    ConcurrentModification {
        /// The version that the update was made from.
        expected: String,
        /// The version in the store.
        actual: String,
    },
}

/// Why a use of a connection failed, by what becomes of the connection and of others.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing came for so long. Whether what was asked took place is not known.
    #[error("no answer for {0:?}")]
    Silent(Duration),
    /// Somebody else holds a lock for too long; nothing was written.
    #[error("{0}")]
    Locked(String),
    /// Tables are missing; nothing was written.
    #[error("{0}")]
    Gone(String),
    /// Everything else.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl From<Rehome> for Failure {
    fn from(rehome: Rehome) -> Self {
        Failure::Store(rehome.into())
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(locked) if *locked.code() == SqlState::LOCK_NOT_AVAILABLE => Failure::Locked(locked.to_string()),
            Some(gone) if [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME].contains(gone.code()) => {
                Failure::Gone(gone.to_string())
            }
            _ => Failure::Store(error.into()),
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // Classes of errors about data and statements; all others are about circumstances.
            Some(refusal) if ["0A", "22", "23", "42", "54"].contains(&&refusal.code().code()[..2]) => {
                StoreError::Refused(refusal.to_string())
            }
            Some(failure) => StoreError::Postgres(failure.to_string()),
            None => StoreError::Postgres(describe(&error)),
        }
    }
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        match error {
            deadpool_postgres::PoolError::Backend(error) => error.into(),
            error => StoreError::Postgres(describe(&error)),
        }
    }
}

/// An error and its causes in one line: `tokio_postgres` says only "error connecting to server" by itself.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
