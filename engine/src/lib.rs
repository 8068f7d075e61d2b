//! The replica and the incremental engine.
//!
//! [`replica`] is the SQLite file: its catalogue, the one writer, pinned read versions. [`query`] is a
//! ZQL query resolved against a schema: a tree of nodes that hydration fills and [`graph`] keeps
//! current. A [`commit::Commit`] is what changed between two versions, with old and new rows, so that
//! nobody reads a log to find out. [`catalogue`] holds the running graphs and routes a commit to the
//! ones it touches.
//!
//! It must not know DataFusion, tokio, Postgres or sockets, and reads no clock.

pub mod byte_set;
pub mod catalogue;
pub mod commit;
pub mod graph;
pub mod hydration;
pub mod query;
pub mod replica;
pub mod sql;
