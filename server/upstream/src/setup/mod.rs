//! Everything the shard needs in the upstream database: checks, schemas, tables, functions, event
//! triggers, publications, replication slots.
//!
//! Objects and their names are zero-cache's (reference: shard version 23), so that either program can
//! take over from the other. Every step is safe to repeat.

pub(crate) mod change_log;
pub(crate) mod checks;
pub(crate) mod publications;
pub(crate) mod shard;
pub(crate) mod slots;
pub(crate) mod triggers;
