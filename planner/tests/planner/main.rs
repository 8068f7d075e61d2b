//! The planner over real replicas: hand-computed answers, the plans it chooses, and generated worlds.

mod answers;
mod choices;
mod explain;
mod growth;
mod linear;
mod many_keys;
mod notes;
mod shapes;
mod spreads;
mod tables;
mod tracker;
mod worlds;
