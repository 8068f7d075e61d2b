//! What the test data is held against: the published server and engine, a real Postgres; and the tidiness of the
//! workspace itself.

mod published_server;
mod reference;
mod tidy;
mod world_postgres;
