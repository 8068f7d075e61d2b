//! Tests of the operator graph against an evaluation by brute force.

mod build;
mod check;
mod contents;
mod memory;
mod random;
mod scenarios;
