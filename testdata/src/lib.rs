//! What tests, benchmarks and the demo share: a private Postgres, data sets and their generators, shrunk regressions.

pub mod node;
pub mod postgres;
pub mod process;
pub mod sync_server;
pub mod tracker;
pub mod world;
