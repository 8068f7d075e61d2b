//! Everything between a client's socket and the running queries.
//!
//! [`config`] reads the environment, [`http`] opens the port, a [`socket`] speaks with one client, a
//! [`group`] holds what its clients share: their record, their queries, their pokes. The [`hub`] knows who is
//! connected. A [`push`] goes to the application's API server. Row data passes through as text that is made once a row.
//!
//! It must not know DataFusion or how changes arrive from Postgres: it is given a replica, the running queries
//! over it and a store of records.
//!
//! A connection costs two tasks and its queue, a group one task, its record and a few small maps. A commit costs the
//! groups whose rows changed one record update, one write (many groups share a statement) and one socket write a
//! client; others hear nothing.

pub mod clock;
pub mod config;
pub mod frames;
pub mod heartbeat;
pub mod http;
pub mod hub;
pub mod inspect;
pub mod options;
pub mod poke;
pub mod row_text;
pub mod statz;

mod api;
mod auth;
mod client_schemas;
mod crud;
mod group;
mod outbox;
mod permissions;
mod push;
mod replica;
mod socket;
