//! A leaf's SQLite statement and how its rows become Arrow.
//!
//! Strings are not copied through Arrow and back: a whole row is decoded once into the hydration's arena
//! and travels as its position; only columns that joins or sorts compare are Arrow columns of their own.
//!
//! A batch grows with [`BATCH_ROWS`] in scans and with the rows of a batch of keys in look-ups.

use std::sync::{Arc, OnceLock};

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Array, RecordBatch, RecordBatchOptions, StringBuilder, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine::commit::StoredRow;
use engine::query::Query;
use engine::replica::RowCodec;
use engine::sql::Sql;
use engine::sql::leaf::{LeafSelect, LookUp, Project, leaf_select};
use rusqlite::Row;
use rusqlite::types::ValueRef;
use zql_spec::schema::{Table, ValueType};
use zql_spec::value::Value;

use crate::error::Result;
use crate::plan::{Col, Leaf, Probe};
use crate::run::Arena;

/// Rows of a batch: enough for vectorised joins to pay, and small enough to stay in a core's cache.
pub(crate) const BATCH_ROWS: usize = 8192;

/// The statements of a leaf: as it is, and with a key as its parameters. They are written once for all queries of a shape.
pub(crate) type Shapes = Arc<[OnceLock<Arc<Statement>>; 2]>;

/// The text of a statement, the schema of what it gives, and where each column comes from: the same for all queries of
/// a shape, which differ in constants alone.
#[derive(Debug)]
pub(crate) struct Statement {
    /// The text, and the constants of the query it was written for.
    pub(crate) sql: Sql,
    /// The Arrow schema of the columns.
    pub(crate) schema: SchemaRef,
    /// The table that is read.
    pub(crate) table: Arc<Table>,
    columns: Vec<(Source, Kind)>,
    /// Where the whole row begins in SQLite's row, if it is selected.
    row_offset: Option<usize>,
}

/// Where a column's values come from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// A column of SQLite's row.
    Selected(usize),
    /// A column of the whole row that was decoded.
    OfRow(usize),
    /// The row's position in the arena.
    Position,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Position,
    RowId,
    Truth,
    Value(ValueType),
}

/// The Arrow type of a ZQL type. JSON is compared by its text.
pub(crate) fn data_type(value_type: ValueType) -> DataType {
    match value_type {
        ValueType::String | ValueType::Json => DataType::Utf8,
        ValueType::Number => DataType::Float64,
        ValueType::Boolean => DataType::Boolean,
    }
}

/// The Arrow field of a column of a relation over a table.
pub(crate) fn field(table: &Table, column: Col) -> Field {
    match column {
        Col::Row => Field::new("row", DataType::UInt32, false),
        Col::RowId => Field::new("rowid", DataType::Int64, false),
        Col::Column(column) => {
            let of_table = &table.columns[column];
            Field::new(&*of_table.name, data_type(of_table.value_type), true)
        }
        Col::Truth(truth) => Field::new(format!("truth{truth}"), DataType::Boolean, false),
        Col::Mark(node) => Field::new(format!("exists{node}"), DataType::Boolean, false),
    }
}

/// The Arrow schema of a relation over a table.
pub(crate) fn schema(table: &Table, columns: &[Col]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|&column| field(table, column)).collect::<Vec<_>>()))
}

impl Statement {
    /// The statement of a leaf that gives these columns.
    pub(crate) fn of<'l>(query: &Query, leaf: &'l Leaf, columns: &[Col]) -> &'l Arc<Statement> {
        leaf.shapes[0].get_or_init(|| Arc::new(Statement::new(query, leaf, columns)))
    }

    /// The same for the rows that have a key.
    pub(crate) fn keyed<'l>(query: &Query, leaf: &'l Leaf, columns: &[Col], key: Vec<usize>) -> &'l Arc<Statement> {
        leaf.shapes[1].get_or_init(|| {
            let leaf = Leaf { lookup: Probe::Columns(key), ..leaf.clone() };
            Arc::new(Statement::new(query, &leaf, columns))
        })
    }
}

impl Statement {
    fn new(query: &Query, leaf: &Leaf, columns: &[Col]) -> Statement {
        let table = &query.nodes[leaf.node].table;
        let whole = columns.contains(&Col::Row);
        let mut project: Vec<Project<'_>> = Vec::new();
        let mut select = |item| {
            project.push(item);
            Source::Selected(project.len() - 1)
        };
        let sources = columns
            .iter()
            .map(|&column| match column {
                Col::Row => (Source::Position, Kind::Position),
                Col::RowId => (select(Project::RowId), Kind::RowId),
                Col::Truth(truth) => (select(Project::Truth(&leaf.truths[truth])), Kind::Truth),
                Col::Column(column) => {
                    let kind = Kind::Value(table.columns[column].value_type);
                    (if whole { Source::OfRow(column) } else { select(Project::Column(column)) }, kind)
                }
                Col::Mark(_) => unreachable!("marks come from joins, not from statements"),
            })
            .collect();
        let row_offset = whole.then_some(project.len());
        if whole {
            project.push(Project::WholeRow);
        }
        if project.is_empty() {
            // SQL selects something; the rows are only counted.
            project.push(Project::RowId);
        }
        let select = LeafSelect {
            project: &project,
            filter: &leaf.filter,
            lookup: match &leaf.lookup {
                Probe::None => LookUp::None,
                Probe::Columns(columns) => LookUp::Columns(columns),
                Probe::RowId => LookUp::RowId,
            },
            start: leaf.lookup != Probe::RowId,
            order: leaf.order,
            limit: leaf.limit,
            likelihoods: &leaf.likelihoods,
        };
        Statement {
            sql: leaf_select(query, leaf.node, &select),
            schema: schema(table, columns),
            table: Arc::clone(table),
            columns: sources,
            row_offset,
        }
    }
}

impl Statement {
    /// Where SQLite's row has a column of the relation, and the column's type.
    pub(crate) fn stored(&self, position: usize) -> (usize, ValueType) {
        let (source, kind) = self.columns[position];
        let at = match source {
            Source::Selected(selected) => selected,
            Source::OfRow(column) => self.whole_row() + column,
            Source::Position => unreachable!("a position is not stored"),
        };
        match kind {
            Kind::Value(value_type) => (at, value_type),
            Kind::Position | Kind::RowId | Kind::Truth => unreachable!("only columns of a table are keys"),
        }
    }

    /// Where the whole row begins in SQLite's row.
    pub(crate) fn whole_row(&self) -> usize {
        self.row_offset.unwrap_or_default()
    }
}

/// Collects rows of a statement into batches.
pub(crate) struct Batcher<'a> {
    statement: &'a Statement,
    codec: &'a RowCodec<'a>,
    columns: Vec<Column>,
    rows: usize,
}

enum Column {
    Positions(Vec<u32>),
    RowIds(Vec<i64>),
    Number(Float64Builder),
    Text(StringBuilder),
    Boolean(BooleanBuilder),
}

impl<'a> Batcher<'a> {
    /// An empty batch.
    pub(crate) fn new(statement: &'a Statement, codec: &'a RowCodec<'a>) -> Self {
        let columns = statement.columns.iter().map(|&(_, kind)| Column::new(kind)).collect();
        Batcher { statement, codec, columns, rows: 0 }
    }

    /// How many rows are in.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// Adds SQLite's current row.
    pub(crate) fn push(&mut self, row: &Row<'_>, arena: &mut Arena) -> Result<()> {
        let position = match self.statement.row_offset {
            Some(offset) => arena.push(self.codec.decode(row, offset))?,
            None => 0,
        };
        for (column, &(source, kind)) in self.columns.iter_mut().zip(&self.statement.columns) {
            match source {
                Source::Position => column.push_position(position),
                Source::OfRow(of_row) => match arena.last() {
                    Some(row) => column.push_value(&row.values[of_row]),
                    None => {
                        let offset = self.statement.row_offset.unwrap_or_default();
                        column.push_stored(row.get_ref(offset + of_row)?, kind);
                    }
                },
                Source::Selected(selected) => column.push_stored(row.get_ref(selected)?, kind),
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// The batch so far; the next one starts empty.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        let arrays = self.columns.iter_mut().map(Column::finish).collect();
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.statement.schema), arrays, &options)?)
    }
}

impl Column {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Position => Column::Positions(Vec::new()),
            Kind::RowId => Column::RowIds(Vec::new()),
            Kind::Truth | Kind::Value(ValueType::Boolean) => Column::Boolean(BooleanBuilder::new()),
            Kind::Value(ValueType::Number) => Column::Number(Float64Builder::new()),
            Kind::Value(ValueType::String | ValueType::Json) => Column::Text(StringBuilder::new()),
        }
    }

    fn push_position(&mut self, position: u32) {
        if let Column::Positions(positions) = self {
            positions.push(position);
        }
    }

    fn push_value(&mut self, value: &Value) {
        match (self, value) {
            (Column::Number(column), Value::Number(number)) => column.append_value(number + 0.0),
            (Column::Number(column), _) => column.append_null(),
            (Column::Text(column), Value::String(text) | Value::Json(text)) => column.append_value(text),
            (Column::Text(column), _) => column.append_null(),
            (Column::Boolean(column), Value::Bool(bool)) => column.append_value(*bool),
            (Column::Boolean(column), _) => column.append_null(),
            (Column::Positions(_) | Column::RowIds(_), _) => unreachable!("positions and rowids are no values"),
        }
    }

    /// A stored value, read as the language reads its type.
    fn push_stored(&mut self, value: ValueRef<'_>, kind: Kind) {
        match self {
            Column::RowIds(column) => column.push(value.as_i64().unwrap_or_default()),
            Column::Number(column) => match value {
                // −0 and 0 are one number, but not one key to a hash table.
                ValueRef::Real(number) => column.append_value(number + 0.0),
                ValueRef::Integer(number) => column.append_value(number as f64),
                _ => column.append_null(),
            },
            Column::Boolean(column) => match (value, kind) {
                (ValueRef::Integer(number), _) => column.append_value(number != 0),
                (ValueRef::Real(number), _) => column.append_value(number != 0.0),
                // A condition that SQL leaves unknown is false.
                (_, Kind::Truth) => column.append_value(false),
                _ => column.append_null(),
            },
            Column::Text(column) => match value {
                ValueRef::Text(text) => match std::str::from_utf8(text) {
                    Ok(text) => column.append_value(text),
                    Err(_) => column.append_value(String::from_utf8_lossy(text)),
                },
                // Text that a column's affinity made a number.
                ValueRef::Integer(number) => column.append_value(number.to_string()),
                ValueRef::Real(number) => column.append_value(ryu_js::Buffer::new().format(number)),
                _ => column.append_null(),
            },
            Column::Positions(_) => unreachable!("a position is not stored"),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Column::Positions(positions) => Arc::new(UInt32Array::from(std::mem::take(positions))),
            Column::RowIds(rowids) => Arc::new(Int64Array::from(std::mem::take(rowids))),
            Column::Number(column) => Arc::new(column.finish()),
            Column::Text(column) => Arc::new(column.finish()),
            Column::Boolean(column) => Arc::new(column.finish()),
        }
    }
}

/// Values of columns of a table as they come, to be one batch.
pub(crate) struct Columns(Vec<Column>);

impl Columns {
    /// No rows yet of these columns.
    pub(crate) fn of_table(table: &Table, columns: &[usize]) -> Self {
        let column = |&column: &usize| Column::new(Kind::Value(table.columns[column].value_type));
        Columns(columns.iter().map(column).collect())
    }

    /// Adds values of a row.
    pub(crate) fn push_row(&mut self, row: &StoredRow, columns: &[usize]) {
        self.0.iter_mut().zip(columns).for_each(|(builder, &column)| builder.push_value(&row.values[column]));
    }

    /// The batch, of so many rows.
    pub(crate) fn finish(&mut self, schema: SchemaRef, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let arrays = self.0.iter_mut().map(Column::finish).collect();
        Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
    }
}

impl std::fmt::Debug for Columns {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Columns").finish_non_exhaustive()
    }
}
