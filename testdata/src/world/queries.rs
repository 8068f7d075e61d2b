//! Random queries over a data set, with every construct of the language.
//!
//! Literals come from the values of the columns they are compared with, so that filters both match and
//! miss; cursors come from rows. One query in a few is deliberately odd: literals of other types, empty
//! and/or, duplicate names, columns repeated in an order.

use std::sync::Arc;

use zql_spec::ast::{
    Ast, Bound, Condition, CorrelatedSubquery, Correlation, Direction, Literal, SimpleOperator, System, ValuePosition,
};
use zql_spec::naive::Database;
use zql_spec::schema::ValueType;
use zql_spec::value::Value;

use super::dataset::{ColumnDef, DataSet, Relationship, TableDef};
use super::rng::Rng;

/// Makes queries.
#[derive(Debug)]
pub struct QueryGenerator<'a> {
    data: &'a DataSet,
    database: &'a Database,
    rng: Rng,
    /// Conditions and subqueries that may still be added to the query at hand; bounds its size.
    budget: usize,
}

impl<'a> QueryGenerator<'a> {
    /// A generator; cursors are taken from the database's rows.
    pub fn new(data: &'a DataSet, database: &'a Database, rng: Rng) -> Self {
        QueryGenerator { data, database, rng, budget: 0 }
    }

    /// The next query.
    pub fn query(&mut self) -> Ast {
        self.budget = 2 + self.rng.below(9);
        let table = self.rng.pick(self.data.tables);
        self.ast(table, None, 0, false)
    }

    fn spend(&mut self) -> bool {
        self.budget = self.budget.saturating_sub(1);
        self.budget > 0
    }

    fn ast(&mut self, table: &'static TableDef, alias: Option<&str>, depth: usize, exists: bool) -> Ast {
        let mut ast = Ast { table: table.name.into(), alias: alias.map(Arc::from), ..Ast::default() };
        if self.rng.percent(if exists { 50 } else { 65 }) {
            ast.r#where = Some(self.condition(table, depth, 0));
        }
        if self.rng.percent(if exists { 15 } else { 60 }) {
            for _ in 0..1 + self.rng.below(3) {
                let column = self.comparable_column(table);
                ast.order_by.push((column.name.into(), self.direction()));
            }
        }
        // The limit of an EXISTS means nothing unless it is zero; it must be ignored otherwise.
        if self.rng.percent(if exists { 15 } else { 45 }) {
            ast.limit = Some(if self.rng.percent(8) { 0.0 } else { 1.0 + self.rng.below(6) as f64 });
        }
        if !exists {
            if self.rng.percent(25) {
                ast.start = self.cursor(table, &ast.order_by);
            }
            if depth < 3 {
                self.add_related(table, &mut ast, depth);
            }
        }
        ast
    }

    fn add_related(&mut self, table: &TableDef, ast: &mut Ast, depth: usize) {
        let relationships: Vec<&Relationship> =
            self.data.relationships.iter().filter(|other| other.from == table.name).collect();
        if relationships.is_empty() {
            return;
        }
        let count = if self.rng.percent(55) { 1 + self.rng.below(2) } else { 0 };
        for _ in 0..count {
            if !self.spend() {
                break;
            }
            let relationship = *self.rng.pick(&relationships);
            let system = if self.rng.percent(4) { System::Permissions } else { System::Client };
            let mut subquery = self.ast(self.data.table(relationship.to), Some(relationship.name), depth + 1, false);
            if let Some((columns, to, to_columns)) = relationship.then
                && self.rng.percent(85)
            {
                let behind = self.ast(self.data.table(to), Some(relationship.name), depth + 2, false);
                if self.rng.percent(70) {
                    subquery = Ast { table: subquery.table, alias: subquery.alias, ..Ast::default() };
                }
                subquery.related = vec![correlated(columns, to_columns, behind, false, System::Client)];
                ast.related.push(correlated(
                    relationship.from_columns,
                    relationship.to_columns,
                    subquery,
                    true,
                    system,
                ));
                continue;
            }
            ast.related.push(correlated(relationship.from_columns, relationship.to_columns, subquery, false, system));
        }
    }

    fn condition(&mut self, table: &'static TableDef, depth: usize, nesting: usize) -> Condition {
        let more = self.spend() && nesting < 4;
        match self.rng.below(100) {
            0..=19 if more => Condition::And(self.conditions(table, depth, nesting)),
            20..=44 if more => Condition::Or(self.conditions(table, depth, nesting)),
            45..=74 if more && depth < 4 => self.exists(table, depth),
            _ => self.simple(table),
        }
    }

    fn conditions(&mut self, table: &'static TableDef, depth: usize, nesting: usize) -> Vec<Condition> {
        let count = if self.rng.percent(6) { 0 } else { 1 + self.rng.below(3) };
        (0..count).map(|_| self.condition(table, depth, nesting + 1)).collect()
    }

    fn exists(&mut self, table: &'static TableDef, depth: usize) -> Condition {
        let relationships: Vec<&Relationship> =
            self.data.relationships.iter().filter(|other| other.from == table.name).collect();
        if relationships.is_empty() {
            return self.simple(table);
        }
        let relationship = *self.rng.pick(&relationships);
        let alias = format!("zsubq_{}", relationship.name);
        let system = if self.rng.percent(12) { System::Permissions } else { System::Client };
        let flag = |rng: &mut Rng| if rng.percent(20) { Some(rng.percent(50)) } else { None };
        let mut subquery = self.ast(self.data.table(relationship.to), Some(&alias), depth + 1, true);
        let mut flip = flag(&mut self.rng);
        if self.rng.percent(4) {
            // Only flipped subqueries may have a cursor and related rows.
            flip = Some(true);
            let table = self.data.table(relationship.to);
            subquery.start = self.cursor(table, &subquery.order_by);
            if depth < 2 {
                self.add_related(table, &mut subquery, depth + 1);
            }
        }
        if let Some((columns, to, to_columns)) = relationship.then
            && self.rng.percent(70)
        {
            let hidden = format!("zsubq_zhidden_{}", relationship.name);
            let behind = self.ast(self.data.table(to), Some(&hidden), depth + 2, true);
            subquery.r#where = Some(Condition::Exists {
                related: correlated(columns, to_columns, behind, false, System::Client),
                negated: self.rng.percent(15),
                flip: flag(&mut self.rng),
                scalar: None,
            });
        }
        Condition::Exists {
            related: correlated(relationship.from_columns, relationship.to_columns, subquery, false, system),
            negated: self.rng.percent(35),
            flip,
            scalar: flag(&mut self.rng),
        }
    }

    fn simple(&mut self, table: &TableDef) -> Condition {
        if self.rng.percent(3) {
            let left = ValuePosition::Literal(Literal::Value(self.odd_value()));
            let right = ValuePosition::Literal(Literal::Value(self.odd_value()));
            return Condition::Simple { op: SimpleOperator::Is, left, right };
        }
        let columns: Vec<&ColumnDef> = table.visible().collect();
        let column = *self.rng.pick(&columns);
        let (op, literal) = self.comparison(column);
        Condition::Simple {
            op,
            left: ValuePosition::Column(column.name.into()),
            right: ValuePosition::Literal(literal),
        }
    }

    fn comparison(&mut self, column: &ColumnDef) -> (SimpleOperator, Literal) {
        use SimpleOperator::{Eq, Ge, Gt, ILike, In, Is, IsNot, Le, Like, Lt, Ne, NotILike, NotIn, NotLike};
        let value_type = column.fill.value_type().expect("visible columns have a type");
        if value_type == ValueType::Json {
            // The language compares documents with nothing but null.
            return (*self.rng.pick(&[Is, IsNot]), Literal::Value(Value::Null));
        }
        if value_type == ValueType::String && self.rng.percent(30) {
            let pattern = self.pattern(column);
            return (*self.rng.pick(&[Like, NotLike, ILike, NotILike]), Literal::Value(pattern));
        }
        if self.rng.percent(20) {
            let count = self.rng.below(4);
            let list = (0..count).map(|_| self.literal(column)).filter(|value| !value.is_null()).collect();
            return (*self.rng.pick(&[In, NotIn]), Literal::List(list));
        }
        let op = *self.rng.pick(&[Eq, Eq, Ne, Is, IsNot, Lt, Gt, Le, Ge]);
        let null = if matches!(op, Is | IsNot) { 50 } else { 4 };
        let value = if self.rng.percent(null) { Value::Null } else { self.literal(column) };
        (op, Literal::Value(value))
    }

    fn literal(&mut self, column: &ColumnDef) -> Value {
        if self.rng.percent(3) { self.odd_value() } else { column.fill.value(&mut self.rng) }
    }

    /// A literal of whatever type: clients are typed, their users' casts are not.
    fn odd_value(&mut self) -> Value {
        let values = [
            Value::Null,
            Value::Bool(true),
            Value::Number(1.0),
            Value::Number(0.5),
            Value::Number(-0.0),
            Value::string("1"),
            Value::string("true"),
            Value::string(""),
            Value::Number(9_007_199_254_740_993.0),
        ];
        self.rng.pick(&values).clone()
    }

    fn pattern(&mut self, column: &ColumnDef) -> Value {
        let Value::String(text) = column.fill.value(&mut self.rng) else { return Value::string("%") };
        let chars: Vec<char> = text.chars().collect();
        let mut pattern = String::new();
        let take = self.rng.below(chars.len() + 1);
        for &c in &chars[..take] {
            if matches!(c, '%' | '_' | '\\') && self.rng.percent(80) {
                pattern.push('\\');
                pattern.push(c);
            } else if c == '\\' {
                pattern.push_str("\\\\");
            } else if self.rng.percent(20) {
                pattern.push('_');
            } else {
                pattern.push(c);
            }
        }
        if take < chars.len() || self.rng.percent(10) {
            pattern.push('%');
        }
        if self.rng.percent(20) {
            pattern.insert(0, '%');
        }
        Value::string(pattern)
    }

    fn comparable_column(&mut self, table: &TableDef) -> &'static ColumnDef {
        let comparable = |column: &&ColumnDef| column.fill.value_type() != Some(ValueType::Json);
        let columns: Vec<&'static ColumnDef> = table.visible().filter(comparable).collect();
        columns[self.rng.below(columns.len())]
    }

    fn direction(&mut self) -> Direction {
        if self.rng.percent(50) { Direction::Asc } else { Direction::Desc }
    }

    fn cursor(&mut self, table: &TableDef, order: &[(Arc<str>, Direction)]) -> Option<Bound> {
        let rows: Vec<_> = self.database.rows(table.name).collect();
        if rows.is_empty() {
            return None;
        }
        let row = *self.rng.pick(&rows);
        let mut columns: Vec<&str> =
            order.iter().map(|(column, _)| &**column).chain(table.primary_key.iter().copied()).collect();
        columns.dedup();
        let mut cursor: Vec<(Arc<str>, Value)> = Vec::new();
        for column in columns {
            if self.rng.percent(15) || cursor.iter().any(|(other, _)| **other == *column) {
                continue;
            }
            let value = match self.rng.below(100) {
                0..=5 => Value::Null,
                6..=15 => table.columns.iter().find(|other| other.name == column)?.fill.value(&mut self.rng),
                _ => row[table.position(column)].clone(),
            };
            cursor.push((column.into(), value));
        }
        Some(Bound { row: cursor, exclusive: self.rng.percent(50) })
    }
}

fn correlated(
    parent_columns: &[&str],
    child_columns: &[&str],
    subquery: Ast,
    hidden: bool,
    system: System,
) -> CorrelatedSubquery {
    let names = |columns: &[&str]| columns.iter().map(|column| Arc::from(*column)).collect();
    CorrelatedSubquery {
        correlation: Correlation { parent_field: names(parent_columns), child_field: names(child_columns) },
        subquery: Box::new(subquery),
        hidden,
        system,
    }
}
