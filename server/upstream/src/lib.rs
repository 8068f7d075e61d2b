//! Postgres in: set-up of the upstream database, the initial copy, and the stream of changes after it.
//!
//! [`start`] makes sure that the upstream database has what a shard needs (schemas, publications, event
//! triggers, a replication slot), that the replica file belongs to that slot, and copies the published
//! tables when it does not. [`Upstream::run`] then follows the slot: it decodes pgoutput, applies whole
//! transactions to the replica's writer and tells the caller about each commit. Postgres hears that a
//! transaction was received only after the replica holds it durably, so a crash at any point loses
//! nothing, and the replica's version says where to go on, so nothing is applied twice.
//!
//! Postgres is left as a zero-cache would leave it, so either can take over from the other.
//!
//! It must not know DataFusion, queries or the client protocol. One connection streams, whatever the
//! number of clients; memory is bounded by the stream's buffer and by one group of transactions.

pub mod config;
mod connection;
pub mod error;
pub mod names;
pub mod progress;
pub mod published;
mod setup;
mod specs;
pub mod start;
pub mod stream;
mod sync;
mod tls;
mod tls_relay;
mod validate;
mod values;

pub use config::Config;
pub use connection::pool_parts;
pub use error::Error;
pub use progress::{Progress, TableProgress};
pub use start::start;
pub use stream::{Running, Upstream};
pub use sync::OnProgress;
