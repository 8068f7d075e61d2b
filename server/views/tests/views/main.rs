//! The views over a real replica: consistency under random load, and what happens at the edges.

mod edges;
mod group;
mod hydrator;
mod load;
mod world;
