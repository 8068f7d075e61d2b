//! `zql conformance`: the test suite of the language on real implementations.
//!
//! The cases, their format and their runner are `zql_spec::conformance`. Here are the backends that need more than that:
//! [`in_process`] (planner and engine), [`postgres`] (the query as SQL) and [`wire`] (a live server, this one or the
//! published zero-cache), and the command. It must not know a server's inside.

mod client;
mod command;
mod fuzz;
mod in_process;
mod lanes;
mod postgres;
mod progress;
mod report;
mod suite;
mod target;
#[cfg(test)]
mod tests;
mod undo;
mod wire;

pub use command::{command, main};
