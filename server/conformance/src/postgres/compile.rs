//! Query → one SELECT of Postgres that gives the whole answer as JSON.
//!
//! Each table access reads a derived table whose columns are ZQL values (numbers are doubles, times milliseconds, texts
//! compare by bytes), so that nothing above it needs to know Postgres's types. A row is `[[values…], relationship, …]`,
//! a relationship the list of its rows. EXISTS is EXISTS; a hidden hop is a lateral join whose rows are made distinct.
//! Literals are bound. That SQL's third truth value counts as false needs no care: NOT stands before EXISTS only.

use std::sync::Arc;

use sqlparser::ast::{BinaryOperator, DataType, Expr, Query as Select};
use zql_spec::ast::{Ast, Condition, CorrelatedSubquery, Direction, Literal, System, ValuePosition};
use zql_spec::conformance::{DataColumn, DataSet, DataTable};
use zql_spec::schema::ValueType;
use zql_spec::value::Value;

use super::syntax::{self, Parts};

/// A value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Bind {
    Text(String),
    Number(f64),
    Bool(bool),
}

/// A statement with its parameters' values.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) text: String,
    pub(crate) binds: Vec<Bind>,
}

/// Why there is no statement.
#[derive(Debug)]
pub(crate) enum Unable {
    /// The query has no meaning.
    Refused(String),
    /// It has one that SQL cannot say.
    Skipped(String),
}

pub(super) type Result<T> = std::result::Result<T, Unable>;

/// Compiles a query.
pub(crate) fn compile(data: &DataSet, ast: &Ast) -> Result<Statement> {
    let mut compiler = Compiler { data, binds: Vec::new(), aliases: 0 };
    let level = compiler.level(ast, None, true)?;
    let list = syntax::cast(syntax::scalar(aggregate(select_rows(level, ast))), DataType::Text);
    let text = syntax::select(Parts { projection: vec![(list, "list".into())], ..Parts::default() }).to_string();
    Ok(Statement { text, binds: compiler.binds })
}

pub(super) struct Compiler<'d> {
    data: &'d DataSet,
    pub(super) binds: Vec<Bind>,
    aliases: usize,
}

/// A table access under way.
struct Level {
    /// The row as JSON.
    row: Expr,
    from: sqlparser::ast::TableFactor,
    conditions: Vec<Expr>,
    /// The completed order; ends with the whole primary key.
    order: Vec<(Expr, bool)>,
    alias: String,
}

/// Which rows of a level belong: columns of the level that equal columns of a parent.
struct Join<'a> {
    parent: &'a str,
    columns: Vec<(&'a Arc<str>, &'a Arc<str>)>,
}

impl<'a> Join<'a> {
    fn of(parent: &'a str, subquery: &'a CorrelatedSubquery) -> Self {
        let correlation = &subquery.correlation;
        Join { parent, columns: correlation.parent_field.iter().zip(&correlation.child_field).collect() }
    }
}

/// The rows of a level as column `r`, in order.
fn select_rows(level: Level, ast: &Ast) -> Select {
    syntax::select(Parts {
        projection: vec![(level.row, "r".into())],
        from: vec![level.from],
        conditions: level.conditions,
        order: level.order.into_iter().map(|(expr, ascending)| syntax::sort(expr, ascending)).collect(),
        limit: limit(ast),
        ..Parts::default()
    })
}

/// One JSON list of the rows of a SELECT.
fn aggregate(rows: Select) -> Select {
    let list = syntax::call("jsonb_agg", vec![syntax::column("rows", "r")]);
    let list = syntax::call("coalesce", vec![list, syntax::call("jsonb_build_array", Vec::new())]);
    let from = vec![syntax::derived(rows, "rows", false)];
    syntax::select(Parts { projection: vec![(list, "list".into())], from, ..Parts::default() })
}

/// The limit, when it is one that limits.
fn limit(ast: &Ast) -> Option<usize> {
    ast.limit.filter(|limit| limit.fract() == 0.0).map(|limit| limit as usize)
}

impl<'d> Compiler<'d> {
    fn alias(&mut self) -> String {
        self.aliases += 1;
        format!("t{}", self.aliases)
    }

    fn table(&self, name: &str) -> Result<&'d DataTable> {
        self.data.table(name).ok_or_else(|| Unable::Refused(format!("table '{name}' is not one of the data set's")))
    }

    fn level(&mut self, ast: &Ast, join: Option<&Join<'_>>, with_related: bool) -> Result<Level> {
        if join.is_some() && ast.alias.is_none() {
            return Err(Unable::Refused("Subquery must have an alias".into()));
        }
        if ast.limit.is_some_and(|limit| limit < 0.0) {
            return Err(Unable::Refused("Limit must be non-negative".into()));
        }
        let table = self.table(&ast.table)?;
        let alias = self.alias();
        let mut conditions = Vec::new();
        if let Some(join) = join {
            for (parent, child) in &join.columns {
                column(table, child)?;
                let parent = syntax::column(join.parent, parent);
                conditions.push(syntax::binary(parent, BinaryOperator::Eq, syntax::column(&alias, child)));
            }
        }
        let order = self.order(ast, table)?;
        conditions.extend(self.start(ast, &order, &alias)?);
        if let Some(condition) = &ast.r#where {
            conditions.push(self.condition(condition, table, &alias)?);
        }
        let mut parts = vec![syntax::call(
            "jsonb_build_array",
            table.columns.iter().map(|column| syntax::column(&alias, &column.name)).collect(),
        )];
        if with_related {
            for related in visible(ast) {
                parts.push(syntax::scalar(self.related(related, &alias)?));
            }
        }
        Ok(Level {
            row: syntax::call("jsonb_build_array", parts),
            from: values_of(table, &alias),
            conditions,
            order: order.iter().map(|(c, ascending)| (syntax::column(&alias, &c.name), *ascending)).collect(),
            alias,
        })
    }

    fn related(&mut self, related: &CorrelatedSubquery, parent: &str) -> Result<Select> {
        let join = Join::of(parent, related);
        let [behind] = related.subquery.related.as_slice() else {
            if related.hidden {
                return Err(Unable::Skipped("a hidden hop that leads to several tables".into()));
            }
            let level = self.level(&related.subquery, Some(&join), true)?;
            return Ok(aggregate(select_rows(level, &related.subquery)));
        };
        if !related.hidden {
            let level = self.level(&related.subquery, Some(&join), true)?;
            return Ok(aggregate(select_rows(level, &related.subquery)));
        }
        self.junction(&related.subquery, &join, behind)
    }

    /// The rows behind a junction: for each hop its rows, then each once, in their own order.
    fn junction(&mut self, hop: &Ast, join: &Join<'_>, behind: &CorrelatedSubquery) -> Result<Select> {
        let level = self.level(hop, Some(join), false)?;
        let key = &behind.correlation.parent_field;
        let hops = syntax::select(Parts {
            projection: key.iter().map(|name| (syntax::column(&level.alias, name), name.to_string())).collect(),
            from: vec![level.from],
            conditions: level.conditions,
            order: level.order.into_iter().map(|(expr, ascending)| syntax::sort(expr, ascending)).collect(),
            limit: limit(hop),
            ..Parts::default()
        });
        let hop_alias = self.alias();
        let level = self.level(&behind.subquery, Some(&Join::of(&hop_alias, behind)), true)?;
        let names: Vec<String> = (0..level.order.len()).map(|at| format!("o{at}")).collect();
        let ascending: Vec<bool> = level.order.iter().map(|(_, ascending)| *ascending).collect();
        let mut projection = vec![(level.row, "r".to_owned())];
        projection.extend(level.order.iter().map(|(expr, _)| expr.clone()).zip(names.iter().cloned()));
        let rows = syntax::select(Parts {
            projection,
            from: vec![level.from],
            conditions: level.conditions,
            order: level.order.into_iter().map(|(expr, ascending)| syntax::sort(expr, ascending)).collect(),
            limit: limit(&behind.subquery),
            ..Parts::default()
        });
        let alias = self.alias();
        let sorted = || names.iter().map(|name| syntax::column(&alias, name));
        Ok(aggregate(syntax::select(Parts {
            projection: vec![(syntax::column(&alias, "r"), "r".into())],
            distinct_on: sorted().collect(),
            from: vec![syntax::derived(hops, &hop_alias, false), syntax::derived(rows, &alias, true)],
            order: sorted().zip(ascending).map(|(expr, ascending)| syntax::sort(expr, ascending)).collect(),
            ..Parts::default()
        })))
    }

    /// The written order, then the primary key.
    fn order<'t>(&self, ast: &Ast, table: &'t DataTable) -> Result<Vec<(&'t DataColumn, bool)>> {
        let mut order = Vec::new();
        for (name, direction) in &ast.order_by {
            order.push((column(table, name)?, *direction == Direction::Asc));
        }
        for name in &table.primary_key {
            order.push((column(table, name)?, true));
        }
        Ok(order)
    }

    /// Rows after the cursor: those that come later in the first column in which they differ from it.
    fn start(&mut self, ast: &Ast, order: &[(&DataColumn, bool)], alias: &str) -> Result<Option<Expr>> {
        let Some(start) = &ast.start else { return Ok(None) };
        let mut ways = Vec::new();
        let mut equal: Vec<Expr> = Vec::new();
        for (column, ascending) in order {
            let cursor = start.row.iter().find(|(name, _)| *name == column.name).map(|(_, value)| value);
            let own = || syntax::column(alias, &column.name);
            let (later, same) = match cursor {
                None | Some(Value::Null) if *ascending => (syntax::is_not_null(own()), syntax::is_null(own())),
                None | Some(Value::Null) => (syntax::constant(false), syntax::is_null(own())),
                Some(value) => {
                    let Some(bound) = self.bind(value, column.value_type) else {
                        return Err(Unable::Skipped("a cursor of another type".into()));
                    };
                    let op = if *ascending { BinaryOperator::Gt } else { BinaryOperator::Lt };
                    let mut later = syntax::binary(own(), op, bound.clone());
                    if !ascending {
                        later = syntax::or(vec![later, syntax::is_null(own())]);
                    }
                    (later, syntax::same(own(), bound, false))
                }
            };
            let mut way = equal.clone();
            way.push(later);
            ways.push(syntax::and(way));
            equal.push(same);
        }
        if !start.exclusive {
            ways.push(syntax::and(equal));
        }
        Ok(Some(syntax::or(ways)))
    }

    fn condition(&mut self, condition: &Condition, table: &DataTable, alias: &str) -> Result<Expr> {
        Ok(match condition {
            Condition::And(conditions) => syntax::and(self.conditions(conditions, table, alias)?),
            Condition::Or(conditions) => syntax::or(self.conditions(conditions, table, alias)?),
            Condition::Exists { related, negated, flip, .. } => {
                let subquery = &related.subquery;
                if *flip != Some(true) && (subquery.start.is_some() || !subquery.related.is_empty()) {
                    let what = if subquery.start.is_some() { "start" } else { "related" };
                    return Err(Unable::Refused(format!("EXISTS subqueries must not have {what}")));
                }
                let level = self.level(subquery, Some(&Join::of(alias, related)), false)?;
                let rows = syntax::select(Parts {
                    projection: vec![(syntax::integer(1), "one".into())],
                    from: vec![level.from],
                    conditions: level.conditions,
                    limit: limit(subquery).filter(|limit| *limit == 0),
                    ..Parts::default()
                });
                syntax::exists(rows, *negated)
            }
            Condition::Simple { op, left, right } => {
                let ValuePosition::Literal(right) = right else {
                    return Err(Unable::Refused("static values should be resolved before creating predicates".into()));
                };
                match left {
                    ValuePosition::Column(name) => {
                        let column = column(table, name)?;
                        self.compare(syntax::column(alias, name), Some(column.value_type), *op, right)?
                    }
                    ValuePosition::Literal(Literal::Value(left)) => {
                        let value_type = type_of(left);
                        let left = match value_type {
                            Some(value_type) => self.bind(left, value_type),
                            None => Some(syntax::cast(null(), DataType::Text)),
                        };
                        let left = left.ok_or_else(|| Unable::Skipped("a document as a literal".into()))?;
                        self.compare(left, value_type, *op, right)?
                    }
                    _ => return Err(Unable::Skipped("a comparison of this kind".into())),
                }
            }
        })
    }

    fn conditions(&mut self, conditions: &[Condition], table: &DataTable, alias: &str) -> Result<Vec<Expr>> {
        conditions.iter().map(|condition| self.condition(condition, table, alias)).collect()
    }
}

fn null() -> Expr {
    Expr::value(sqlparser::ast::Value::Null)
}

fn type_of(value: &Value) -> Option<ValueType> {
    match value {
        Value::Null => None,
        Value::Bool(_) => Some(ValueType::Boolean),
        Value::Number(_) => Some(ValueType::Number),
        Value::String(_) => Some(ValueType::String),
        Value::Json(_) => Some(ValueType::Json),
    }
}

fn column<'t>(table: &'t DataTable, name: &str) -> Result<&'t DataColumn> {
    let found = table.columns.iter().find(|column| &*column.name == name);
    found.ok_or_else(|| Unable::Refused(format!("no such column: {}.{name}", table.name)))
}

/// The relationships of a level that a client sees: the last one of a name, in the first one's place.
pub(super) fn visible(ast: &Ast) -> Vec<&CorrelatedSubquery> {
    let alias = |related: &CorrelatedSubquery| related.subquery.alias.clone();
    let first = |at: usize| ast.related[..at].iter().all(|other| alias(other) != alias(&ast.related[at]));
    let last = |at: usize| ast.related.iter().rfind(|other| alias(other) == alias(&ast.related[at]));
    let effective = (0..ast.related.len()).filter(|&at| first(at)).filter_map(last);
    effective.filter(|related| related.system != System::Permissions).collect()
}

/// A table's rows as ZQL values.
fn values_of(table: &DataTable, alias: &str) -> sqlparser::ast::TableFactor {
    let value = |column: &DataColumn| {
        let own = syntax::bare_column(&column.name);
        let base = column.pg_type.split('(').next().unwrap_or_default().trim();
        let expr = match (column.value_type, base) {
            (ValueType::Boolean, _) => own,
            // As the type prints itself: a cast pads or trims some types.
            (ValueType::String, _) => syntax::collate(syntax::printed(own), "C"),
            (ValueType::Json, _) => syntax::call("to_jsonb", vec![own]),
            (ValueType::Number, "date" | "time" | "timetz" | "timestamp" | "timestamptz") => syntax::milliseconds(own),
            (ValueType::Number, _) => syntax::cast(own, syntax::double()),
        };
        (expr, column.name.to_string())
    };
    let rows = Parts {
        projection: table.columns.iter().map(value).collect(),
        from: vec![syntax::table(&table.name, None)],
        ..Parts::default()
    };
    syntax::derived(syntax::select(rows), alias, false)
}
