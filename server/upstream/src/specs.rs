//! Published tables and indexes as the replica declares them.

use engine::replica::{IndexSpec, TableSpec};
use zql_spec::ast::Direction;

use crate::names::lite_name;
use crate::published::{PublishedIndex, PublishedSchema, PublishedTable};
use crate::values::column_spec;

/// The replica's table for a published one.
pub(crate) fn table_spec(table: &PublishedTable) -> TableSpec {
    TableSpec {
        name: table.lite_name(),
        upstream_schema: table.schema.clone(),
        upstream_name: table.name.clone(),
        columns: table.columns_in_order().iter().map(|(name, column)| column_spec(name, column)).collect(),
        metadata: None,
    }
}

/// The replica's index for a published one; `None` if its table is not published.
pub(crate) fn index_spec(schema: &PublishedSchema, index: &PublishedIndex) -> Option<IndexSpec> {
    schema.table(&index.schema, &index.table_name)?;
    let direction = |text: &String| if text == "DESC" { Direction::Desc } else { Direction::Asc };
    Some(IndexSpec {
        name: index.lite_name(),
        table: lite_name(&index.schema, &index.table_name),
        unique: index.unique,
        columns: index.columns.iter().map(|(name, order)| (name.clone(), direction(order))).collect(),
    })
}
