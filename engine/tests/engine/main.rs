//! The replica, its SQL and the operator graph from outside: killed at any moment, against brute force, and against
//! the naive evaluator over generated worlds.

mod crash;
mod differential;
mod graph;
