//! Generated worlds: a data set with rows, queries over it and transactions on it, all from one seed.
//!
//! They feed every comparison of two ways to answer a query. What fails is shrunk and kept as a
//! [`Case`] under `testdata/regressions`.

mod case;
mod dataset;
mod definition;
mod differential;
mod issues;
mod multiply;
mod music;
pub mod oracle;
mod postgres_sql;
mod queries;
mod replica;
mod rng;
mod shrink;
mod sql_hydrator;
mod transactions;

pub use case::{Case, regressions};
pub use dataset::{ColumnDef, DataSet, Fill, Relationship, TableDef};
pub use definition::definition;
pub use differential::{Compared, Hydrator, Options, run_case, run_seed};
pub use issues::ISSUES;
pub use multiply::{copies, multiply};
pub use music::MUSIC;
pub use postgres_sql::{data_sql, operations_sql, schema_sql, transaction_sql};
pub use queries::QueryGenerator;
pub use replica::{apply_to_replica, create_replica, load_replica};
pub use rng::Rng;
pub use shrink::shrink;
pub use sql_hydrator::SqlHydrator;
pub use transactions::{fill, transaction};
