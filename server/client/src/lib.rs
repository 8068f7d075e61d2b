//! A client of the Zero sync protocol: a socket that speaks its messages ([`Connection`]) and what a client holds after
//! them ([`State`]). `zql watch`, the tests and the benchmarks stand on it, against this server and zero-cache alike.
//!
//! It checks what the real client asserts about messages and pokes (protocol sheet §6, §15, §16), so that a test that uses
//! it fails where a browser would. It must not know a server's inside, and keeps no optimistic mutations. What it holds grows with the
//! rows that the server sends.

mod connection;
mod identity;
mod state;
mod strict;

pub use connection::{Connection, Event};
pub use identity::{Hello, Identity, hash_of};
pub use state::{Keys, Poke, Rows, State};

use zql_spec::protocol::error::ErrorBody;

/// Why a connection ended or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server sent an error message. Whether to reconnect follows from its kind.
    #[error("the server says {:?}: {}", .0.kind, .0.message)]
    Server(Box<ErrorBody>),
    /// The server closed the socket; reconnecting is right.
    #[error("the server closed the connection (code {code:?}, reason {reason:?})")]
    Closed {
        /// Code of the close frame; absent when it had none or the socket just ended.
        code: Option<u16>,
        /// Reason of the close frame.
        reason: String,
    },
    /// The server did something that makes the real client give up.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// The socket failed, or could not be opened; reconnecting is right.
    #[error("connection failed: {0}")]
    Transport(String),
}

impl Error {
    /// Whether a client should connect again by itself, as the real one does (protocol sheet §15, §17).
    pub fn is_transient(&self) -> bool {
        use zql_spec::protocol::error::ErrorKind::{Rebalance, Rehome, ServerOverloaded};
        match self {
            Error::Server(body) => matches!(body.kind, Rehome | Rebalance | ServerOverloaded),
            Error::Closed { code, .. } => *code != Some(1002),
            Error::Protocol(_) => false,
            Error::Transport(_) => true,
        }
    }
}
