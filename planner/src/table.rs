//! The replica's tables as DataFusion tables, at one pinned version.
//!
//! Hydration builds its plans itself and does not come by here; this is for whoever wants to ask the
//! replica questions that ZQL cannot say. Comparisons of a column with a constant of its type are answered by
//! SQLite, and so are limits; everything else by DataFusion. Times are numbers and JSON is text, as in ZQL.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use engine::query::{Comparison, Filter, Node, Place, Query, Role};
use engine::replica::Snapshot;
use zql_spec::ast::{Direction, Literal, SimpleOperator};
use zql_spec::schema::{Table, ValueType};
use zql_spec::value::Value;

use crate::choose::conjunction;
use crate::plan::{Col, Leaf, Probe};
use crate::run::Run;
use crate::scan::SqliteScanExec;
use crate::statement::{Shapes, Statement, schema};

/// A table of the replica at one version.
#[derive(Debug)]
pub struct SqliteTable {
    snapshot: Arc<Snapshot>,
    table: Arc<Table>,
    schema: SchemaRef,
}

impl SqliteTable {
    /// The table of this name, if queries can see it.
    pub fn new(snapshot: &Arc<Snapshot>, name: &str) -> Option<SqliteTable> {
        let table = Arc::clone(snapshot.schema.table(name)?);
        let columns: Vec<Col> = (0..table.columns.len()).map(Col::Column).collect();
        let schema = schema(&table, &columns);
        Some(SqliteTable { snapshot: Arc::clone(snapshot), table, schema })
    }

    /// A comparison that SQLite can answer exactly.
    fn filter(&self, expr: &Expr) -> Option<Filter> {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return None };
        if *op == Operator::And {
            return Some(conjunction(vec![self.filter(left)?, self.filter(right)?]));
        }
        let op = match op {
            Operator::Eq => SimpleOperator::Eq,
            Operator::NotEq => SimpleOperator::Ne,
            Operator::Lt => SimpleOperator::Lt,
            Operator::LtEq => SimpleOperator::Le,
            Operator::Gt => SimpleOperator::Gt,
            Operator::GtEq => SimpleOperator::Ge,
            _ => return None,
        };
        let (Expr::Column(column), Expr::Literal(literal, _)) = (&**left, &**right) else { return None };
        let column = self.table.column_index(&column.name)?;
        let value = match (self.table.columns[column].value_type, literal) {
            (ValueType::String, ScalarValue::Utf8(Some(text))) => Value::string(text.as_str()),
            (ValueType::Number, ScalarValue::Float64(Some(number))) if !number.is_nan() => Value::Number(*number),
            (ValueType::Boolean, ScalarValue::Boolean(Some(bool))) => Value::Bool(*bool),
            _ => return None,
        };
        Some(Filter::Compare(Comparison { column, op, literal: Literal::Value(value), place: Place::default() }))
    }
}

#[async_trait]
impl TableProvider for SqliteTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::common::Result<Vec<TableProviderFilterPushDown>> {
        let answer = |filter: &&Expr| match self.filter(filter) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(answer).collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let filter = conjunction(filters.iter().filter_map(|filter| self.filter(filter)).collect());
        let node = Node {
            table: Arc::clone(&self.table),
            role: Role::Root,
            edge: None,
            filter,
            order: self.table.primary_key.iter().map(|&column| (column, Direction::Asc)).collect(),
            start: None,
            limit: None,
            children: Vec::new(),
            synced: true,
            alias: Arc::from(""),
        };
        let run = Run::new(&Arc::new(Query::new(vec![node])), &self.snapshot)?;
        let columns: Vec<Col> = match projection {
            Some(columns) => columns.iter().map(|&column| Col::Column(column)).collect(),
            None => (0..self.table.columns.len()).map(Col::Column).collect(),
        };
        let leaf = Leaf {
            node: 0,
            filter: run.query.root().filter.clone(),
            truths: Vec::new(),
            lookup: Probe::None,
            order: false,
            limit,
            // DataFusion polls on threads of a runtime, whose other work a scan in place would hold up.
            stream: true,
            likelihoods: Arc::default(),
            shapes: Shapes::default(),
        };
        let statement = Arc::clone(Statement::of(&run.query, &leaf, &columns));
        Ok(Arc::new(SqliteScanExec::new(run, statement, leaf.stream, None, None)))
    }
}
