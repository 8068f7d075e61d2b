//! What can go wrong while a hydration is planned or runs, by what the caller does about it.
//!
//! Errors of the leaves pass through DataFusion as external errors and come out as they went in.

use datafusion::common::DataFusionError;
use engine::hydration::HydrateError;
use engine::replica::ReplicaError;

/// Errors within the planner.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Reading the replica failed.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// More rows in one answer than can be numbered (2^32).
    #[error("the query has more than 4294967295 rows")]
    TooManyRows,
    /// A bug here.
    #[error("{0}")]
    Broken(&'static str),
    /// A bug here or in DataFusion.
    #[error("DataFusion: {0}")]
    DataFusion(DataFusionError),
}

/// Results within the planner.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Error::Replica(ReplicaError::from(error))
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Error::DataFusion(DataFusionError::from(error))
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(external) => match external.downcast::<Error>() {
                Ok(error) => *error,
                Err(external) => Error::DataFusion(DataFusionError::External(external)),
            },
            // A join's build side shares its error with all who wait for it.
            error => match shared(&error) {
                Some(message) => Error::Replica(ReplicaError::Value(message)),
                None => Error::DataFusion(error),
            },
        }
    }
}

/// The text of one of our errors that stands behind shared or annotated errors.
fn shared(error: &DataFusionError) -> Option<String> {
    match error.find_root() {
        DataFusionError::External(external) => external.downcast_ref::<Error>().and_then(|error| match error {
            Error::Replica(ReplicaError::Value(message)) => Some(message.clone()),
            _ => None,
        }),
        _ => None,
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        match error {
            Error::DataFusion(error) => error,
            error => DataFusionError::External(Box::new(error)),
        }
    }
}

impl From<Error> for HydrateError {
    fn from(error: Error) -> Self {
        match error {
            Error::Replica(error) => HydrateError::from(error),
            Error::TooManyRows => HydrateError::Query(error.to_string()),
            error => HydrateError::Internal(error.to_string()),
        }
    }
}
