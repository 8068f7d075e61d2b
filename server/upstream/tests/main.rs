//! The upstream side against a real Postgres: one cluster for the binary, one database a test.

mod bundles;
mod harness;
mod initial;
mod resume;
mod setup;
mod streaming;
mod tls;
mod values;
