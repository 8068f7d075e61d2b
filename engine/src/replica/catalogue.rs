//! The replica's own tables and the schema that queries see.
