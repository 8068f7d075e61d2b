//! Calls → query, as the client library's builder makes it: the order of calls, the combination of conditions and the
//! generated aliases are the library's, so that hashes agree.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::arguments::{Argument, literal, operator, option, position};
use super::callback::Callback;
use super::logic::{and, simplify};
use super::syntax::{Arrow, Call, Chain, Expression, Parameter};
use super::{QueryTextError, Result, TypedQuery};
use crate::ast::{
    Ast, Bound, Condition, CorrelatedSubquery, Correlation, Direction, SimpleOperator, System, ValuePosition,
};
use crate::format::Format;
use crate::json::Json;
use crate::value::Value;
use crate::zero_schema::{Hop, ZeroSchema, ZeroTable};

/// What the alias of an EXISTS begins with.
pub(super) const EXISTS_PREFIX: &str = "zsubq_";
/// What the alias of the second hop of an EXISTS begins with.
pub(super) const HIDDEN_PREFIX: &str = "zsubq_zhidden_";
/// Makes the query that a text describes.
pub(super) fn query(chain: &Chain, schema: Option<&ZeroSchema>) -> Result<TypedQuery> {
    // `a.b.where(…)` is a query over the table `a.b`: names that are not called belong to the table's.
    let names = chain.then.iter().take_while(|call| call.args.is_none());
    let table = names.fold(chain.root.name.to_string(), |table, call| format!("{table}.{}", call.name));
    let table: Arc<str> = table.into();
    let position = chain.root.position;
    if chain.root.args.is_some() {
        return Err(error("expected a table", position));
    }
    let known = match schema {
        None => None,
        Some(schema) => Some(known_table(schema, &table, position)?),
    };
    let mut level = Level::new(table, schema, known, false);
    for call in chain.then.iter().skip_while(|call| call.args.is_none()) {
        level.apply(call)?;
    }
    Ok(TypedQuery { ast: level.ast, format: level.format })
}

pub(super) fn error(what: impl Into<String>, position: usize) -> QueryTextError {
    QueryTextError { what: what.into(), position }
}

fn known_table<'s>(schema: &'s ZeroSchema, name: &str, position: usize) -> Result<&'s ZeroTable> {
    schema.tables.get(name).ok_or_else(|| {
        let known: Vec<&str> = schema.tables.keys().map(|name| &**name).collect();
        error(format!("there is no table {name}; there are {}", known.join(", ")), position)
    })
}

/// A query that calls are applied to.
pub(super) struct Level<'s> {
    ast: Ast,
    format: Format,
    schema: Option<&'s ZeroSchema>,
    table: Option<&'s ZeroTable>,
    /// Whether it stands behind a junction, where the library allows neither order nor limit.
    behind_junction: bool,
}

impl<'s> Level<'s> {
    fn new(
        table: Arc<str>,
        schema: Option<&'s ZeroSchema>,
        known: Option<&'s ZeroTable>,
        behind_junction: bool,
    ) -> Self {
        let ast = Ast { table, ..Ast::default() };
        Level { ast, format: Format::default(), schema, table: known, behind_junction }
    }

    fn apply(&mut self, call: &Call) -> Result<()> {
        let position = call.position;
        let args = call.args.as_deref().ok_or_else(|| error("expected '('", position + call.name.len()))?;
        match (&*call.name, args) {
            ("where", [(Expression::Arrow(arrow), _)]) => {
                let condition = Callback::new(self, arrow).condition(&arrow.body)?;
                self.add(condition);
            }
            ("where", [column, rest @ ..]) if !rest.is_empty() && rest.len() <= 2 => {
                let condition = self.comparison(column, rest)?;
                self.add(condition);
            }
            ("whereExists", [name, rest @ ..]) => {
                let condition = self.exists(name, rest)?;
                self.add(condition);
            }
            ("related", [name]) => self.related(name, None)?,
            ("related", [name, (Expression::Arrow(arrow), _)]) => self.related(name, Some(arrow))?,
            ("related", [_, (_, at)]) => return Err(error("expected a function: q => q…", *at)),
            ("orderBy", [column, direction]) => {
                if self.behind_junction {
                    return Err(error("orderBy is not supported behind a junction table", position));
                }
                let direction = match literal(direction)?.as_str() {
                    Some("asc") => Direction::Asc,
                    Some("desc") => Direction::Desc,
                    _ => return Err(error("the direction is 'asc' or 'desc'", direction.1)),
                };
                self.ast.order_by.push((self.column(column)?, direction));
            }
            ("limit", [limit]) => {
                if self.behind_junction {
                    return Err(error("limit is not supported behind a junction table", position));
                }
                match literal(limit)?.as_f64() {
                    Some(number) if number < 0.0 => return Err(error("Limit must be non-negative", limit.1)),
                    Some(number) if number.fract() == 0.0 && number <= f64::from(i32::MAX) => {
                        self.ast.limit = Some(number);
                    }
                    _ => return Err(error("Limit must be an integer", limit.1)),
                }
            }
            ("one", []) => {
                self.ast.limit = Some(1.0);
                self.format.singular = true;
            }
            ("start", [row]) => self.ast.start = Some(self.bound(row, None)?),
            ("start", [row, options]) => self.ast.start = Some(self.bound(row, Some(options))?),
            ("where" | "whereExists" | "related" | "orderBy" | "limit" | "one" | "start", args) => {
                return Err(error(format!("{} does not take {} arguments", call.name, args.len()), position));
            }
            _ => {
                let known = "where, whereExists, related, orderBy, start, limit or one";
                return Err(error(format!("there is no {}: expected {known}", call.name), position));
            }
        }
        Ok(())
    }

    fn add(&mut self, condition: Condition) {
        self.ast.r#where = Some(simplify(match self.ast.r#where.take() {
            None => condition,
            Some(existing) => and(vec![existing, condition]),
        }));
    }

    fn column(&self, argument: &Argument) -> Result<Arc<str>> {
        let Json::String(name) = literal(argument)? else { return Err(error("the column is a text", argument.1)) };
        self.check_column(name, argument.1)?;
        Ok(Arc::clone(name))
    }

    fn check_column(&self, name: &str, position: usize) -> Result<()> {
        match self.table {
            Some(table) if table.column(name).is_none() => {
                let known: Vec<&str> = table.columns.iter().map(|column| &*column.name).collect();
                Err(error(format!("{} has no column {name}; it has {}", self.ast.table, known.join(", ")), position))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn comparison(&self, column: &Argument, rest: &[Argument]) -> Result<Condition> {
        let left = ValuePosition::Column(self.column(column)?);
        let (op, value) = match rest {
            [value] => (SimpleOperator::Eq, value),
            [op, value] => (operator(op)?, value),
            _ => return Err(error(format!("cmp does not take {} arguments", rest.len() + 1), column.1)),
        };
        Ok(Condition::Simple { op, left, right: position(op, value)? })
    }

    fn bound(&self, row: &Argument, options: Option<&Argument>) -> Result<Bound> {
        let entries = literal(row)?.as_object();
        let entries = entries.ok_or_else(|| error("start takes a row: {column: value}", row.1))?;
        for (column, _) in entries {
            self.check_column(column, row.1)?;
        }
        let inclusive = match options {
            Some(options) => option(options, &["inclusive"])?.remove("inclusive").unwrap_or(false),
            None => false,
        };
        let row = entries.iter().map(|(column, json)| (Arc::clone(column), Value::from_json(json))).collect();
        Ok(Bound { row, exclusive: !inclusive })
    }

    fn relationship(&self, argument: &Argument) -> Result<(Arc<str>, &'s ZeroSchema, &'s [Hop])> {
        let (Some(schema), Some(table)) = (self.schema, self.table) else {
            return Err(error(
                "relationships need the application's schema; without it give the query as JSON",
                argument.1,
            ));
        };
        let Json::String(name) = literal(argument)? else {
            return Err(error("the relationship is a text", argument.1));
        };
        let hops = table.relationships.get(name).ok_or_else(|| {
            let known: Vec<&str> = table.relationships.keys().map(|name| &**name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            error(format!("{} has no relationship {name}; it has {known}", self.ast.table), argument.1)
        })?;
        Ok((Arc::clone(name), schema, hops))
    }

    /// The query at the end of a relationship, as a callback makes it.
    fn destination(&self, schema: &'s ZeroSchema, hops: &[Hop], arrow: Option<&Arrow>) -> Result<Level<'s>> {
        let last = hops.last().expect("a relationship has one or two hops");
        let table = Arc::clone(&last.dest_table);
        let known = schema.tables.get(&table);
        let mut level = Level::new(table, Some(schema), known, hops.len() > 1);
        level.format.singular = last.one;
        if let Some(arrow) = arrow {
            let (root, Parameter::Name(name)) = (&arrow.body.root, &arrow.parameter) else {
                return Err(error("expected a function of a query: q => q…", arrow.body.root.position));
            };
            if root.name != *name || root.args.is_some() {
                return Err(error(format!("the function must return a query that begins with {name}"), root.position));
            }
            for call in &arrow.body.then {
                level.apply(call)?;
            }
        }
        Ok(level)
    }

    fn related(&mut self, name: &Argument, arrow: Option<&Arrow>) -> Result<()> {
        let at = name.1;
        let (name, schema, hops) = self.relationship(name)?;
        if name.starts_with(EXISTS_PREFIX) {
            return Err(error(format!("the names of relationships do not begin with {EXISTS_PREFIX}"), at));
        }
        let Level { mut ast, format, .. } = self.destination(schema, hops, arrow)?;
        ast.alias = Some(Arc::clone(&name));
        let related = match hops {
            [first, last] => {
                let related = vec![correlated(last, ast, false)];
                let junction = Ast {
                    table: Arc::clone(&first.dest_table),
                    alias: Some(Arc::clone(&name)),
                    related,
                    ..Ast::default()
                };
                correlated(first, junction, true)
            }
            hops => correlated(&hops[0], ast, false),
        };
        self.ast.related.push(related);
        self.format.relationships.insert(name, format);
        Ok(())
    }

    pub(super) fn exists(&self, name: &Argument, rest: &[Argument]) -> Result<Condition> {
        let (arrow, options) = match rest {
            [] => (None, None),
            [(Expression::Arrow(arrow), _)] => (Some(arrow), None),
            [options] => (None, Some(options)),
            [(Expression::Arrow(arrow), _), options] => (Some(arrow), Some(options)),
            _ => return Err(error("exists takes a relationship, a function q => q… and options", name.1)),
        };
        let mut flags = match options {
            Some(options) => option(options, &["flip", "scalar"])?,
            None => BTreeMap::new(),
        };
        let (flip, scalar) = (flags.remove("flip"), flags.remove("scalar"));
        let (name, schema, hops) = self.relationship(name)?;
        let Level { mut ast, .. } = self.destination(schema, hops, arrow)?;
        Ok(match hops {
            [first, last] => {
                ast.alias = Some(format!("{HIDDEN_PREFIX}{name}").into());
                let behind = Condition::Exists { related: correlated(last, ast, false), negated: false, flip, scalar };
                let junction = Ast {
                    table: Arc::clone(&first.dest_table),
                    alias: Some(format!("{EXISTS_PREFIX}{name}").into()),
                    r#where: Some(behind),
                    ..Ast::default()
                };
                Condition::Exists { related: correlated(first, junction, false), negated: false, flip, scalar: None }
            }
            hops => {
                ast.alias = Some(format!("{EXISTS_PREFIX}{name}").into());
                Condition::Exists { related: correlated(&hops[0], ast, false), negated: false, flip, scalar }
            }
        })
    }
}

fn correlated(hop: &Hop, subquery: Ast, hidden: bool) -> CorrelatedSubquery {
    CorrelatedSubquery {
        correlation: Correlation { parent_field: hop.source_field.clone(), child_field: hop.dest_field.clone() },
        subquery: Box::new(subquery),
        hidden,
        system: System::Client,
    }
}
