//! The messages of the Zero sync protocol, as data.
//!
//! A client opens a WebSocket ([`connect`], [`sec_protocol`]), sends [`upstream`] messages and receives
//! [`downstream`] ones; what goes wrong is told as an [`error`] body. Every message is a JSON pair of a
//! type name and a body. The same types serve a server and a client, so each encodes and decodes.
//!
//! Decoding takes text from outside: it never panics, and its recursion is bounded. Unknown keys are
//! accepted, because newer clients may send them; the reference refuses them.
//!
//! It must not know sockets, time or what a message causes. Cost is linear in the size of a message.

pub mod connect;
pub mod downstream;
pub mod error;
pub mod inspect;
pub mod sec_protocol;
pub mod upstream;

mod limits;

/// Oldest protocol version that is served.
pub const MIN_VERSION: u32 = 30;

/// Protocol version of release 1.9, the newest that a zero-cache of that release serves.
pub const RELEASE_VERSION: u32 = 51;

/// First protocol version whose pokes travel in binary pieces.
pub const CHUNKS_SINCE: u32 = 52;

/// Newest protocol version that is served.
pub const MAX_VERSION: u32 = 52;

/// Why a connection with this protocol version is refused; absent when it is served.
pub fn unsupported_version(version: f64) -> Option<error::ErrorBody> {
    let who = if version < f64::from(MIN_VERSION) {
        "client"
    } else if version > f64::from(MAX_VERSION) || version.fract() != 0.0 {
        "server"
    } else {
        return None;
    };
    let version = ryu_js::Buffer::new().format(version).to_owned();
    let message = format!(
        "server is at sync protocol v{MAX_VERSION} and does not support v{version}. \
         The {who} must be updated to a newer release."
    );
    Some(error::ErrorBody::new(error::ErrorKind::VersionNotSupported, message))
}
