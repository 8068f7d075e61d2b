//! What can go wrong, by what the caller does about it.

/// An error of the upstream side.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting, the database's configuration or its schema must be changed by the operator; trying
    /// again does not help.
    #[error("{0}")]
    Config(String),
    /// The replica cannot be continued from upstream: it must be copied again. [`crate::start`] does so
    /// by itself when `auto_reset` is set; otherwise the operator decides.
    #[error("{0}")]
    ResetRequired(String),
    /// Another process took the replication slot, as a newer deployment does: stop quietly.
    #[error("{0}")]
    TakenOver(String),
    /// Postgres failed or cannot be reached; a later attempt may succeed.
    #[error("{context}: {}", describe(.source))]
    Postgres {
        /// What was being done.
        context: String,
        /// The driver's error.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The replication connection failed; a later attempt may succeed.
    #[error("{context}: {message}")]
    Stream {
        /// What was being done.
        context: String,
        /// The server's or the connection's message.
        message: String,
    },
    /// The replica file cannot be read or written.
    #[error("{context}: {message}")]
    Replica {
        /// What was being done.
        context: String,
        /// The file's error.
        message: String,
    },
    /// Upstream sent what its protocol does not allow, or what this version does not understand.
    #[error("{0}")]
    Protocol(String),
}

impl Error {
    /// Wraps a driver error with what was being done.
    pub(crate) fn postgres(context: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Error {
        let context = context.into();
        move |source| Error::Postgres { context, source }
    }

    /// The SQLSTATE of a Postgres error.
    pub fn sql_state(&self) -> Option<&str> {
        match self {
            Error::Postgres { source, .. } => source.code().map(|code| code.code()),
            _ => None,
        }
    }
}

/// A driver error with the server's own message, its SQLSTATE and every cause.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    use std::fmt::Write as _;
    if let Some(server) = error.as_db_error() {
        let mut text = format!("{} (SQLSTATE {})", server.message(), server.code().code());
        for more in [server.detail(), server.hint()].into_iter().flatten() {
            let _ = write!(text, "; {more}");
        }
        return text;
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            let _ = write!(text, ": {inner_text}");
        }
        cause = inner.source();
    }
    text
}
