//! The wire: a server over a real Postgres, spoken to by a client that checks what the real one checks, and by raw
//! sockets where a client would not do what the test needs.

mod answers;
mod api_calls;
mod auth;
mod callers;
mod crud;
mod encodings;
mod ends;
mod faults;
mod flow;
mod gone;
mod groups;
mod handover;
mod handshake;
mod harness;
mod hashes;
mod http;
mod inspector;
mod lifetimes;
mod mutate_api;
mod mutations;
mod names;
mod outages;
mod permissions;
mod plain;
mod records;
mod refusals;
mod sent_away;
mod siblings;
mod statements;
mod transcript;
