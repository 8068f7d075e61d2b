//! The first answer to a query: one relational plan a node, run by DataFusion over the pinned replica.
//!
//! A query is answered level by level: the root first, then each child node by the distinct keys of its
//! parent's rows, so that every plan is chosen knowing how many keys there are. [`stats`] and [`cost`]
//! estimate, [`choose`] and [`assemble`] choose a [`plan`], [`physical`] builds DataFusion's operators, and the leaves
//! [`scan`] and [`lookup`] read SQLite.
//!
//! It must not know sockets or Postgres. Cost grows with the rows read; memory with the
//! keys that are joined; rows are handed on as they are found. Plans are kept by the shape of the query ([`plans`]).

mod assemble;
mod choose;
mod concat;
mod cost;
mod emit;
mod error;
pub mod explain;
mod first;
mod hydrate;
mod in_place;
mod keyed;
mod keys;
mod lookup;
mod measure;
mod operator;
mod parts;
mod physical;
mod plan;
mod plans;
mod reach;
mod run;
mod scan;
mod shape;
mod spread;
mod statement;
mod statistics;
mod stats;
mod table;
mod together;

pub use hydrate::Planner;
pub use statistics::Statistics;
pub use table::SqliteTable;
