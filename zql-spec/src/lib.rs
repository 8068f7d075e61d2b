//! The ZQL language and the Zero sync protocol, as data.
//!
//! This crate says what a query means and what a message looks like; it runs nothing. The language
//! part depends on serde alone, so that any implementation can be tested against it. The naive
//! evaluator *is* the semantics: every other way of answering a query must agree with it.
//!
//! It must not know DataFusion, SQLite, tokio, Postgres or sockets.

pub mod ast;
pub mod client_schema;
pub mod compare;
pub mod conformance;
pub mod format;
pub mod hash;
pub mod json;
pub mod like;
pub mod naive;
pub mod normal_form;
pub mod permissions;
pub mod protocol;
pub mod query_text;
pub mod schema;
pub mod static_params;
pub mod value;
pub mod version;
pub mod zero_schema;
