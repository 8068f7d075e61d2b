//! Going through a query: what stands at which place.

use std::sync::Arc;

use super::{LITERALS, Matrix, Place, count};
use crate::ast::{Ast, Condition, CorrelatedSubquery, Direction, Literal, SimpleOperator, System, ValuePosition};
use crate::conformance::dataset::DataSet;
use crate::json::Json;
use crate::schema::{Column, Table};
use crate::static_params::StaticParams;
use crate::value::Value;

/// Goes through a query and counts.
pub(super) struct Walk<'m> {
    pub(super) matrix: &'m mut Matrix,
    pub(super) data: &'m DataSet,
    /// The claims of whoever asks.
    pub(super) claims: Option<&'m Json>,
    /// The tables of the query with their places, as they are come by.
    pub(super) tables: Vec<(Arc<str>, Place)>,
}

impl Walk<'_> {
    /// Counts a level and all below it.
    pub(super) fn level(&mut self, ast: &Ast, place: Place) {
        let Some(table) = self.data.schema.table(&ast.table).cloned() else { return };
        self.tables.push((Arc::clone(&table.name), place));
        let def = self.data.table(&ast.table);
        let pg_type = |name: &str| {
            def.and_then(|def| def.columns.iter().find(|column| &*column.name == name))
                .map(|column| Arc::clone(&column.pg_type))
        };
        if !place.is_exists() {
            for pg_type in table.columns.iter().filter_map(|column| pg_type(&column.name)) {
                self.matrix.used(&pg_type, "returned");
            }
        }
        let ordered = ast.order_by.iter().filter_map(|(name, _)| pg_type(name));
        let cursor = ast.start.iter().flat_map(|start| &start.row).filter_map(|(name, _)| pg_type(name));
        let uses: Vec<_> = ordered.map(|t| (t, "ordered by")).chain(cursor.map(|t| (t, "cursor"))).collect();
        uses.iter().for_each(|(pg_type, usage)| self.matrix.used(pg_type, usage));
        for name in level_constructs(ast, &table) {
            count(&mut self.matrix.constructs, name, place);
        }
        if let Some(condition) = &ast.r#where {
            self.condition(condition, &table, place, None);
        }
        for related in &ast.related {
            self.joined(related, &table);
            let child = match place {
                _ if is_behind(related) => Place::BehindJunction,
                Place::Root => Place::Related,
                _ => Place::NestedRelated,
            };
            if related.hidden {
                // The hop itself counts where its destination stands.
                self.tables.push((Arc::clone(&related.subquery.table), Place::BehindJunction));
                for behind in &related.subquery.related {
                    self.level(&behind.subquery, Place::BehindJunction);
                }
            } else {
                self.level(&related.subquery, child);
            }
        }
    }

    fn joined(&mut self, related: &CorrelatedSubquery, parent: &Table) {
        let correlation = &related.correlation;
        let parents = correlation.parent_field.iter().map(|name| (Arc::clone(&parent.name), name));
        let children = correlation.child_field.iter().map(|name| (Arc::clone(&related.subquery.table), name));
        for (table, name) in parents.chain(children) {
            let columns = self.data.table(&table).into_iter().flat_map(|table| &table.columns);
            if let Some(column) = columns.into_iter().find(|column| column.name == *name) {
                let pg_type = Arc::clone(&column.pg_type);
                self.matrix.used(&pg_type, "joined by");
            }
        }
    }

    fn condition(&mut self, condition: &Condition, table: &Table, place: Place, inside: Option<bool>) {
        match condition {
            Condition::And(conditions) | Condition::Or(conditions) => {
                let is_and = matches!(condition, Condition::And(_));
                let name = match (is_and, conditions.is_empty(), inside) {
                    (true, true, _) => "always true",
                    (false, true, _) => "always false",
                    (true, _, Some(false)) => "and in or",
                    (false, _, Some(true)) => "or in and",
                    (true, ..) => "and",
                    (false, ..) => "or",
                };
                count(&mut self.matrix.constructs, name, place);
                let is_exists = |condition: &&Condition| matches!(condition, Condition::Exists { .. });
                if conditions.iter().filter(is_exists).count() > 1 {
                    count(&mut self.matrix.constructs, "two exists", place);
                }
                conditions.iter().for_each(|child| self.condition(child, table, place, Some(is_and)));
            }
            Condition::Simple { op, left, right } => {
                self.parameters(left, right, place);
                match left {
                    ValuePosition::Column(name) => self.comparison(*op, table, name, right, place),
                    ValuePosition::Literal(literal) => {
                        count(&mut self.matrix.constructs, "literal = literal", place);
                        if let Some(at) = literal_type(literal) {
                            self.matrix.literals.entry(op.name()).or_default()[at] += 1;
                        }
                    }
                    ValuePosition::Static { .. } => {}
                }
            }
            Condition::Exists { related, negated, flip, scalar } => {
                self.joined(related, table);
                let by_junction = junction(related);
                let names = [
                    Some(if *negated { "not exists" } else { "exists" }),
                    (inside == Some(true)).then_some("exists in and"),
                    (inside == Some(false)).then_some(if *negated { "not exists in or" } else { "exists in or" }),
                    (*flip == Some(true)).then_some("exists, flip: true"),
                    (*flip == Some(false)).then_some("exists, flip: false"),
                    (*scalar == Some(true)).then_some("exists, scalar: true"),
                    (related.correlation.parent_field.len() > 1).then_some("exists by several columns"),
                    by_junction.then_some("exists by junction"),
                    (related.system == System::Permissions).then_some("exists for permissions"),
                ];
                names.into_iter().flatten().for_each(|name| count(&mut self.matrix.constructs, name, place));
                let child = match place {
                    _ if by_junction => {
                        self.tables.push((Arc::clone(&related.subquery.table), Place::ExistsBehindJunction));
                        if let Some(Condition::Exists { related: behind, .. }) = &related.subquery.r#where {
                            self.level(&behind.subquery, Place::ExistsBehindJunction);
                        }
                        return;
                    }
                    place if place.is_exists() => Place::NestedExists,
                    _ if *negated => Place::NotExists,
                    _ => Place::Exists,
                };
                self.level(&related.subquery, child);
            }
        }
    }

    /// Static parameters that are bound: where one stands and what it is bound to.
    fn parameters(&mut self, left: &ValuePosition, right: &ValuePosition, place: Place) {
        let Some(claims) = self.claims else { return };
        let params = StaticParams { auth_data: Some(claims), pre_mutation_row: None };
        for (position, is_left) in [(left, true), (right, false)] {
            let Some(literal) = params.bound(position) else { continue };
            let name = match literal {
                Literal::Value(Value::Null) => "parameter without a claim",
                Literal::List(_) => "parameter that is a list",
                Literal::Value(_) if is_left => "parameter on the left",
                Literal::Value(_) => "parameter",
            };
            count(&mut self.matrix.constructs, name, place);
        }
    }

    fn comparison(&mut self, op: SimpleOperator, table: &Table, name: &str, right: &ValuePosition, place: Place) {
        let columns = self.data.table(&table.name).into_iter().flat_map(|table| &table.columns);
        if let Some(pg_type) = columns.into_iter().find(|column| &*column.name == name).map(|c| Arc::clone(&c.pg_type))
        {
            self.matrix.used(&pg_type, "compared");
        }
        let Some(column) = table.columns.iter().find(|column| &*column.name == name) else { return };
        let Column { value_type, nullable, .. } = column;
        let operand = match right {
            ValuePosition::Literal(Literal::Value(Value::Null)) => " null",
            ValuePosition::Literal(Literal::List(list)) if list.is_empty() => " []",
            _ if *nullable => ", nullable",
            _ => ", not null",
        };
        count(&mut self.matrix.comparisons, &format!("{} {}{operand}", value_type.name(), op.name()), place);
        // A pattern is a text whatever it is compared with, and documents are compared with nothing.
        let literals = match right {
            ValuePosition::Literal(Literal::List(list)) => list.iter().filter_map(value_type_of).collect(),
            ValuePosition::Literal(literal) => literal_type(literal).into_iter().collect(),
            _ => Vec::new(),
        };
        if let Some(own) = LITERALS.iter().find(|name| **name == value_type.name()) {
            let counts = self.matrix.mixed.entry(own).or_default();
            literals.into_iter().for_each(|at: usize| counts[at] += 1);
        }
    }
}

/// The type of a literal, as a position among [`LITERALS`]; of a list that of its first value.
fn literal_type(literal: &Literal) -> Option<usize> {
    match literal {
        Literal::Value(value) => value_type_of(value),
        Literal::List(list) => list.first().and_then(value_type_of),
    }
}

fn value_type_of(value: &Value) -> Option<usize> {
    let name = match value {
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
        Value::Json(_) => return None,
    };
    LITERALS.iter().position(|other| *other == name)
}

fn is_behind(related: &CorrelatedSubquery) -> bool {
    related.hidden
}

/// Whether an EXISTS goes by a junction table: its subquery's filter is an EXISTS over the table behind it.
fn junction(related: &CorrelatedSubquery) -> bool {
    let behind = match &related.subquery.r#where {
        Some(Condition::Exists { related, .. }) => related.subquery.alias.as_deref(),
        _ => None,
    };
    behind.is_some_and(|alias| alias.starts_with("zsubq_zhidden_"))
}

/// The constructs of one level but for its conditions.
fn level_constructs(ast: &Ast, table: &Table) -> Vec<&'static str> {
    let column = |name: &str| table.columns.iter().position(|column| &*column.name == name);
    let ordered = |wanted: Direction| ast.order_by.iter().any(|(_, direction)| *direction == wanted);
    let nullable = |(name, _): &(Arc<str>, Direction)| column(name).is_some_and(|at| table.columns[at].nullable);
    let in_key = |(name, _): &(Arc<str>, Direction)| column(name).is_some_and(|at| table.primary_key.contains(&at));
    let start = ast.start.as_ref();
    let many = |related: &&CorrelatedSubquery| !related.hidden && !to_one(related);
    let rows = [
        (ast.r#where.is_none(), "no filter"),
        (ast.related.iter().any(|related| many(&related)), "related, many"),
        (ast.related.iter().any(|related| !related.hidden && to_one(related)), "related, one"),
        (ast.related.iter().any(|related| related.correlation.parent_field.len() > 1), "related by several columns"),
        (ast.related.iter().any(|related| related.hidden), "related by junction"),
        (ast.related.len() > 1, "two related"),
        (ast.related.iter().any(|related| related.system == System::Permissions), "related for permissions"),
        (ast.order_by.is_empty(), "no order"),
        (ordered(Direction::Asc), "order asc"),
        (ordered(Direction::Desc), "order desc"),
        (ast.order_by.len() > 1, "order by several"),
        (ast.order_by.iter().any(nullable), "order by a nullable column"),
        (ast.order_by.iter().any(in_key), "order by the key"),
        (ast.limit.is_some_and(|limit| limit > 1.0), "limit"),
        (ast.limit == Some(0.0), "limit 0"),
        (ast.limit == Some(1.0), "limit 1 or one()"),
        (start.is_some_and(|start| start.exclusive), "start, exclusive"),
        (start.is_some_and(|start| !start.exclusive), "start, inclusive"),
        (start.is_some_and(|start| start.row.iter().any(|(_, value)| value.is_null())), "start, at null"),
        (start.is_some() && ast.limit.is_some(), "start and limit"),
        (!ast.order_by.is_empty() && ast.limit.is_some(), "order and limit"),
    ];
    rows.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name).collect()
}

/// Whether a relationship leads to one row by its nature: it joins the child's `id`, as keys are called here.
fn to_one(related: &CorrelatedSubquery) -> bool {
    matches!(related.correlation.child_field.as_slice(), [field] if &**field == "id")
}
