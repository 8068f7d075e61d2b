//! The client view record (CVR): what each client group has, as pure logic.
//!
//! A record says which clients a group has, which queries they desire, which queries the group has got, and
//! which rows the clients hold at which version. An update takes a record and what happened (a client's
//! message: [`config`]; rows from the engine: [`rows_update`]) and gives patches for the clients and a
//! [`flush::Flush`] for the store; the caller sends `pokeEnd` once the flush is committed and takes
//! the flush's record as the new one. What fails on the way is simply dropped: no update changes a record
//! in place.
//!
//! It must not know IO, clocks or sockets: times are passed in. It grows with clients × queries (desires) and
//! with the distinct rows that a group holds (about 150 bytes a row besides the key's text, which is
//! shared with the engine's rows where they came from there).

pub mod catch_up;
pub mod config;
pub mod flush;
pub mod patch;
pub mod record;
pub mod row;
pub mod rows_update;
pub mod ttl;

mod counts;
mod draft;

#[cfg(test)]
mod tests;

/// Why an update is refused, by what the caller tells the client. The texts are those of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CvrError {
    /// Error kind `ClientNotFound`: the client forgets what it has and starts again.
    #[error("{0}")]
    ClientNotFound(String),
    /// Error kind `InvalidConnectionRequest`: the client's message contradicts the record.
    #[error("{0}")]
    InvalidConnectionRequest(String),
    /// Error kind `InvalidConnectionRequestBaseCookie`: the client has seen more than the record.
    #[error("{0}")]
    InvalidBaseCookie(String),
    /// Error kind `Internal`: a broken invariant, or a message the server should have refused.
    #[error("{0}")]
    Internal(String),
}
