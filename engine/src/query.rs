//! A ZQL query resolved against a schema.
//!
//! Resolution turns an AST into a flat list of nodes, one per table access, in preorder: the root is node
//! 0; below each node come the EXISTS subqueries of its filter in the order in which they are written
//! (through `and`/`or`), then its related subqueries, each followed by its own subtree. Columns are
//! positions, orders are completed with the primary key, literals are typed. Whatever can be wrong with a
//! query is wrong here, with the protocol's text; past this point a query runs.
//!
//! Cost is linear in the size of the AST. Depth is bounded by [`MAX_DEPTH`].

use std::sync::Arc;

use smallvec::SmallVec;
use zql_spec::ast::{Ast, Condition, CorrelatedSubquery, Direction, Literal, SimpleOperator, System, ValuePosition};
use zql_spec::schema::{Schema, Table};
use zql_spec::value::Value;

use crate::sql::Kept;

/// Rows of an EXISTS subquery that are kept, and synced, per parent row: enough for a client to evaluate
/// the EXISTS itself and to survive a local delete, as clients of the reference server are used to.
pub const WITNESS_CAP: usize = 3;

/// Deepest nesting of conditions and subqueries. Far above what people write, far below what would
/// exhaust a 2 MiB thread stack in any of the recursive passes.
pub const MAX_DEPTH: usize = 100;

/// Position of a node in [`Query::nodes`].
pub type NodeId = usize;

/// A resolved query.
#[derive(Clone, Debug)]
pub struct Query {
    /// All table accesses in preorder; the first is the root.
    pub nodes: Vec<Node>,
    /// What its graphs read by.
    pub(crate) kept: Kept,
}

/// One table access of a query.
#[derive(Clone, Debug)]
pub struct Node {
    /// The table read.
    pub table: Arc<Table>,
    /// What the node is for.
    pub role: Role,
    /// The parent node and the columns that tie rows to a parent row; absent for the root.
    pub edge: Option<Edge>,
    /// Which rows pass.
    pub filter: Filter,
    /// Complete order: ends with the primary key, so it is total.
    pub order: Vec<(usize, Direction)>,
    /// Where the order begins.
    pub start: Option<Start>,
    /// Rows kept (per parent row below the root). EXISTS nodes have none: see [`WITNESS_CAP`].
    pub limit: Option<usize>,
    /// EXISTS children, then related children, as node ids.
    pub children: Vec<NodeId>,
    /// Whether the node's rows are sent to clients. False below a permission.
    pub synced: bool,
    /// The relationship's name; empty for the root.
    pub alias: Arc<str>,
}

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The query's own rows.
    Root,
    /// Rows related to the parent's rows.
    Related,
    /// Rows that decide the parent's filter.
    Exists,
}

/// How a node's rows belong to its parent's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The parent node.
    pub parent: NodeId,
    /// Columns of the parent's table. Null in any of them means no rows.
    pub parent_columns: SmallVec<[usize; 1]>,
    /// Columns of this node's table, pairwise equal to the parent's.
    pub child_columns: SmallVec<[usize; 1]>,
}

/// A resolved filter.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Constant.
    Const(bool),
    /// All must hold. Never empty.
    And(Vec<Filter>),
    /// One must hold. Never empty.
    Or(Vec<Filter>),
    /// A comparison of a column with a constant.
    Compare(Comparison),
    /// Whether the child node has rows for the row.
    Exists {
        /// The EXISTS child.
        node: NodeId,
        /// `NOT EXISTS`.
        negated: bool,
    },
}

/// A comparison of a column with a constant. Two-valued: null never makes it true but for IS and IS NOT.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Position of the column.
    pub column: usize,
    /// The operator.
    pub op: SimpleOperator,
    /// The constant.
    pub literal: Literal,
    /// Which of its query's comparisons it is.
    pub place: Place,
}

/// Where a comparison stands in its query: the how-manieth of a node's filter. Equal queries but for their constants
/// have the same places, so that what was made for one can be used for the other. It is no part of what a filter
/// means: filters that differ in places alone are equal and print alike.
#[derive(Clone, Copy, Default)]
pub struct Place {
    node: u32,
    number: u32,
}

impl Place {
    /// The node, and the how-manieth of its comparisons it is: what tells places apart.
    pub fn key(self) -> (u32, u32) {
        (self.node, self.number)
    }
}

impl PartialEq for Place {
    fn eq(&self, _: &Place) -> bool {
        true
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("_")
    }
}

/// A resolved cursor.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// A value for each column of the node's order.
    pub values: Vec<Value>,
    /// Whether rows equal to the cursor are left out.
    pub exclusive: bool,
}

/// Why a query cannot run. The texts are those of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No such table.
    #[error("table '{table}' is not one of: {known}. Check the spelling and ensure that the table has a primary key.")]
    UnknownTable {
        /// The name asked for.
        table: String,
        /// The tables there are, comma-separated.
        known: String,
    },
    /// No such column.
    #[error("no such column: {table}.{column}")]
    UnknownColumn {
        /// The table.
        table: String,
        /// The name asked for.
        column: String,
    },
    /// A subquery has no name.
    #[error("Subquery must have an alias")]
    MissingAlias,
    /// A limit below zero.
    #[error("Limit must be non-negative")]
    NegativeLimit,
    /// A cursor in an EXISTS.
    #[error("EXISTS subqueries must not have start")]
    ExistsWithStart,
    /// Related rows in an EXISTS.
    #[error("EXISTS subqueries must not have related")]
    ExistsWithRelated,
    /// A parameter was not bound.
    #[error("static values should be resolved before creating predicates")]
    UnboundParameter,
    /// A LIKE pattern ends in a lone escape.
    #[error("LIKE pattern must not end with escape character")]
    TrailingEscape,
    /// A correlation names different numbers of columns.
    #[error("Correlation fields must have the same length")]
    UnevenCorrelation,
    /// Nested too deeply.
    #[error("the query is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
}

impl Query {
    /// Resolves an AST whose static parameters are bound.
    pub fn resolve(ast: &Ast, schema: &Schema) -> Result<Query, ResolveError> {
        let mut resolver = Resolver { schema, nodes: Vec::new() };
        resolver.node(ast, Role::Root, None, true, false, 0)?;
        Ok(Query::new(resolver.nodes))
    }

    /// A query of these nodes.
    pub fn new(mut nodes: Vec<Node>) -> Query {
        for (node, of_node) in nodes.iter_mut().enumerate() {
            let mut number = 0;
            number_comparisons(&mut of_node.filter, node as u32, &mut number);
        }
        Query { nodes, kept: Kept::default() }
    }

    /// The comparison at a place, and its node.
    pub fn comparison(&self, place: Place) -> Option<(&Node, &Comparison)> {
        let node = self.nodes.get(place.node as usize)?;
        Some((node, nth_comparison(&node.filter, &mut (place.number + 1))?))
    }

    /// The root node.
    pub fn root(&self) -> &Node {
        &self.nodes[0]
    }
}

fn number_comparisons(filter: &mut Filter, node: u32, number: &mut u32) {
    match filter {
        Filter::Compare(comparison) => {
            comparison.place = Place { node, number: *number };
            *number += 1;
        }
        Filter::And(filters) | Filter::Or(filters) => {
            filters.iter_mut().for_each(|filter| number_comparisons(filter, node, number));
        }
        Filter::Const(_) | Filter::Exists { .. } => {}
    }
}

/// The comparison at which `left` comes down to zero.
fn nth_comparison<'f>(filter: &'f Filter, left: &mut u32) -> Option<&'f Comparison> {
    match filter {
        Filter::Compare(comparison) => {
            *left -= 1;
            (*left == 0).then_some(comparison)
        }
        Filter::And(filters) | Filter::Or(filters) => filters.iter().find_map(|filter| nth_comparison(filter, left)),
        Filter::Const(_) | Filter::Exists { .. } => None,
    }
}

struct Resolver<'a> {
    schema: &'a Schema,
    nodes: Vec<Node>,
}

impl Resolver<'_> {
    fn node(
        &mut self,
        ast: &Ast,
        role: Role,
        parent: Option<(NodeId, &CorrelatedSubquery)>,
        synced: bool,
        flipped: bool,
        depth: usize,
    ) -> Result<NodeId, ResolveError> {
        if depth > MAX_DEPTH {
            return Err(ResolveError::TooDeep);
        }
        let table = self.table(&ast.table)?;
        let edge = match parent {
            Some((parent, subquery)) => Some(self.edge(parent, subquery, &table)?),
            None => None,
        };
        if role == Role::Exists && !flipped {
            if ast.start.is_some() {
                return Err(ResolveError::ExistsWithStart);
            }
            if !ast.related.is_empty() {
                return Err(ResolveError::ExistsWithRelated);
            }
        }
        let order = complete_order(ast, &table)?;
        let start = match &ast.start {
            Some(bound) => {
                for (column, _) in &bound.row {
                    column_index(&table, column)?;
                }
                let value = |&(column, _): &(usize, Direction)| {
                    let name = &table.columns[column].name;
                    bound.row.iter().find(|(key, _)| key == name).map_or(Value::Null, |(_, value)| value.clone())
                };
                Some(Start { values: order.iter().map(value).collect(), exclusive: bound.exclusive })
            }
            None => None,
        };
        let limit = row_limit(ast.limit)?.filter(|_| role != Role::Exists);
        let id = self.nodes.len();
        self.nodes.push(Node {
            table: Arc::clone(&table),
            role,
            edge,
            filter: Filter::Const(true),
            order,
            start,
            limit,
            children: Vec::new(),
            synced,
            alias: ast.alias.clone().unwrap_or_default(),
        });
        if let Some(condition) = &ast.r#where {
            let filter = self.filter(condition, id, &table, synced, depth + 1)?;
            self.nodes[id].filter = filter;
        }
        for related in effective_related(&ast.related)? {
            let synced = synced && related.system != System::Permissions;
            let child = self.node(&related.subquery, Role::Related, Some((id, related)), synced, false, depth + 1)?;
            self.nodes[id].children.push(child);
        }
        Ok(id)
    }

    fn table(&self, name: &str) -> Result<Arc<Table>, ResolveError> {
        self.schema.table(name).cloned().ok_or_else(|| ResolveError::UnknownTable {
            table: name.to_owned(),
            known: self.schema.tables.keys().map(AsRef::as_ref).collect::<Vec<_>>().join(","),
        })
    }

    fn edge(&self, parent: NodeId, subquery: &CorrelatedSubquery, table: &Table) -> Result<Edge, ResolveError> {
        let correlation = &subquery.correlation;
        if correlation.parent_field.len() != correlation.child_field.len() {
            return Err(ResolveError::UnevenCorrelation);
        }
        let parent_table = &self.nodes[parent].table;
        let positions = |table: &Table, names: &[Arc<str>]| {
            names.iter().map(|name| column_index(table, name)).collect::<Result<SmallVec<_>, _>>()
        };
        Ok(Edge {
            parent,
            parent_columns: positions(parent_table, &correlation.parent_field)?,
            child_columns: positions(table, &correlation.child_field)?,
        })
    }

    fn filter(
        &mut self,
        condition: &Condition,
        id: NodeId,
        table: &Table,
        synced: bool,
        depth: usize,
    ) -> Result<Filter, ResolveError> {
        if depth > MAX_DEPTH {
            return Err(ResolveError::TooDeep);
        }
        Ok(match condition {
            Condition::And(conditions) => {
                let mut filters = Vec::new();
                for condition in conditions {
                    match self.filter(condition, id, table, synced, depth + 1)? {
                        Filter::Const(true) => {}
                        filter => filters.push(filter),
                    }
                }
                if filters.contains(&Filter::Const(false)) {
                    Filter::Const(false)
                } else {
                    match filters.len() {
                        0 => Filter::Const(true),
                        1 => filters.remove(0),
                        _ => Filter::And(filters),
                    }
                }
            }
            Condition::Or(conditions) => {
                let mut filters = Vec::new();
                for condition in conditions {
                    match self.filter(condition, id, table, synced, depth + 1)? {
                        Filter::Const(false) => {}
                        filter => filters.push(filter),
                    }
                }
                if filters.contains(&Filter::Const(true)) {
                    Filter::Const(true)
                } else {
                    match filters.len() {
                        0 => Filter::Const(false),
                        1 => filters.remove(0),
                        _ => Filter::Or(filters),
                    }
                }
            }
            Condition::Exists { related, negated, flip, .. } => {
                if related.subquery.alias.is_none() {
                    return Err(ResolveError::MissingAlias);
                }
                let synced = synced && related.system != System::Permissions;
                let flipped = *flip == Some(true);
                let child =
                    self.node(&related.subquery, Role::Exists, Some((id, related)), synced, flipped, depth + 1)?;
                self.nodes[id].children.push(child);
                // A limit of zero leaves nothing to exist; every other limit leaves the truth alone.
                if row_limit(related.subquery.limit)? == Some(0) {
                    self.nodes[child].filter = Filter::Const(false);
                }
                Filter::Exists { node: child, negated: *negated }
            }
            Condition::Simple { op, left, right } => compare(table, *op, left, right)?,
        })
    }
}

/// Related subqueries by alias: the last one with an alias wins, in the place of the first.
fn effective_related(related: &[CorrelatedSubquery]) -> Result<Vec<&CorrelatedSubquery>, ResolveError> {
    let mut effective: Vec<&CorrelatedSubquery> = Vec::with_capacity(related.len());
    for subquery in related {
        let alias = subquery.subquery.alias.as_ref().ok_or(ResolveError::MissingAlias)?;
        match effective.iter_mut().find(|other| other.subquery.alias.as_ref() == Some(alias)) {
            Some(other) => *other = subquery,
            None => effective.push(subquery),
        }
    }
    Ok(effective)
}

fn column_index(table: &Table, column: &str) -> Result<usize, ResolveError> {
    table
        .column_index(column)
        .ok_or_else(|| ResolveError::UnknownColumn { table: table.name.to_string(), column: column.to_owned() })
}

/// The written order followed by the primary key columns it lacks, ascending. A column that is repeated
/// later in the order is inert and dropped.
fn complete_order(ast: &Ast, table: &Table) -> Result<Vec<(usize, Direction)>, ResolveError> {
    let mut order: Vec<(usize, Direction)> = Vec::new();
    for (column, direction) in &ast.order_by {
        let column = column_index(table, column)?;
        if !order.iter().any(|&(other, _)| other == column) {
            order.push((column, *direction));
        }
    }
    for &column in &table.primary_key {
        if !order.iter().any(|&(other, _)| other == column) {
            order.push((column, Direction::Asc));
        }
    }
    Ok(order)
}

/// A limit as a row count. A fractional limit is never reached exactly and so counts as none.
fn row_limit(limit: Option<f64>) -> Result<Option<usize>, ResolveError> {
    match limit {
        None => Ok(None),
        Some(limit) if limit < 0.0 => Err(ResolveError::NegativeLimit),
        Some(limit) if limit.fract() != 0.0 || limit >= u32::MAX as f64 => Ok(None),
        Some(limit) => Ok(Some(limit as usize)),
    }
}

fn compare(
    table: &Table,
    op: SimpleOperator,
    left: &ValuePosition,
    right: &ValuePosition,
) -> Result<Filter, ResolveError> {
    let literal = match right {
        ValuePosition::Literal(literal) => literal,
        ValuePosition::Static { .. } | ValuePosition::Column(_) => return Err(ResolveError::UnboundParameter),
    };
    if matches!(op, SimpleOperator::Like | SimpleOperator::NotLike | SimpleOperator::ILike | SimpleOperator::NotILike)
        && let Literal::Value(Value::String(pattern)) = literal
        && zql_spec::like::ends_with_escape(pattern)
    {
        return Err(ResolveError::TrailingEscape);
    }
    match left {
        ValuePosition::Column(name) => {
            let column = column_index(table, name)?;
            Ok(Filter::Compare(Comparison { column, op, literal: literal.clone(), place: Place::default() }))
        }
        ValuePosition::Literal(Literal::Value(value)) => {
            Ok(Filter::Const(zql_spec::compare::compare(value, op, literal)))
        }
        // A list on the left equals nothing.
        ValuePosition::Literal(Literal::List(_)) => Ok(Filter::Const(false)),
        ValuePosition::Static { .. } => Err(ResolveError::UnboundParameter),
    }
}
