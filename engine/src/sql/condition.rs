//! Filters, cursors and correlations as SQL conditions.
//!
//! A condition made here is only ever used where null counts as false (below WHERE, AND, OR and EXISTS,
//! never below NOT), so a comparison may leave null where the language says false.

use sqlparser::ast::{BinaryOperator, Expr};
use zql_spec::ast::{Direction, Literal, SimpleOperator};
use zql_spec::schema::{Table, ValueType};
use zql_spec::value::Value;

use super::{Builder, FilterPart, Origin, bind, fits, json_array, syntax};
use crate::query::{Comparison, Filter, Node, NodeId, Query};

/// Which side of a bound in the node's order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    After,
    Until,
}

impl Builder {
    /// A node's filter for the row that the node's alias names.
    pub(super) fn filter(&mut self, query: &Query, node: NodeId, filter: &Filter, part: FilterPart) -> Expr {
        match filter {
            Filter::Const(truth) => syntax::constant(*truth),
            Filter::And(filters) => syntax::and(self.cheap_first(query, node, filters, part)),
            Filter::Or(filters) => syntax::or(self.cheap_first(query, node, filters, part)),
            Filter::Compare(comparison) => self.comparison(&query.nodes[node].table, &alias(node), comparison),
            Filter::Exists { node: child, negated } => {
                let subquery = self.exists_select(query, *child, node, part);
                syntax::exists(subquery, *negated)
            }
        }
    }

    /// The filters in an order in which those that need no subquery come first: SQLite decides them as they are written, and
    /// stops when it knows.
    fn cheap_first(&mut self, query: &Query, node: NodeId, filters: &[Filter], part: FilterPart) -> Vec<Expr> {
        let mut ordered: Vec<&Filter> = filters.iter().collect();
        ordered.sort_by_key(|filter| !matches!(filter, Filter::Compare(_) | Filter::Const(_)));
        ordered.into_iter().map(|filter| self.filter(query, node, filter, part)).collect()
    }

    /// `SELECT 1` of the EXISTS node's rows that belong to the parent's current row.
    fn exists_select(
        &mut self,
        query: &Query,
        child: NodeId,
        parent: NodeId,
        part: FilterPart,
    ) -> sqlparser::ast::Query {
        let node = &query.nodes[child];
        let mut conditions = Vec::new();
        if let Some(edge) = &node.edge {
            let parent_table = &query.nodes[parent].table;
            for (&outer, &inner) in edge.parent_columns.iter().zip(&edge.child_columns) {
                conditions.push(if parent_table.columns[outer].value_type == node.table.columns[inner].value_type {
                    let inner = comparable(&node.table, &alias(child), inner);
                    syntax::binary(inner, BinaryOperator::Eq, comparable(parent_table, &alias(parent), outer))
                } else {
                    syntax::constant(false)
                });
            }
        }
        conditions.extend(self.whole_filter(query, child, part));
        if let Some(start) = &node.start {
            conditions.extend(self.bound(query, child, &start.values, Side::After, !start.exclusive));
        }
        syntax::select(
            vec![syntax::integer(1)],
            syntax::table(&node.table.name, Some(&alias(child))),
            conditions,
            Vec::new(),
            None,
        )
    }

    /// The node's filter as a list of conditions that all must hold, so that none of them hides an index.
    pub(super) fn whole_filter(&mut self, query: &Query, node: NodeId, part: FilterPart) -> Vec<Expr> {
        let simple;
        let filter = match part {
            FilterPart::None => return Vec::new(),
            FilterPart::Simple => {
                simple = simple_part(&query.nodes[node].filter);
                &simple
            }
            FilterPart::Full => &query.nodes[node].filter,
        };
        match filter {
            Filter::Const(true) => Vec::new(),
            Filter::And(filters) => filters.iter().map(|filter| self.filter(query, node, filter, part)).collect(),
            filter => vec![self.filter(query, node, filter, part)],
        }
    }

    fn comparison(&mut self, table: &Table, alias: &str, comparison: &Comparison) -> Expr {
        let condition = self.bare_comparison(table, alias, comparison);
        match self.likelihoods.get(&comparison.place.key()) {
            Some(&share) => syntax::likelihood(condition, share),
            None => condition,
        }
    }

    fn bare_comparison(&mut self, table: &Table, alias: &str, comparison: &Comparison) -> Expr {
        use SimpleOperator as Op;
        let Comparison { column, op, literal, place } = comparison;
        let (place, literal_of) = (*place, Origin::Literal(*place));
        let value_type = table.columns[*column].value_type;
        let name = syntax::column(alias, &table.columns[*column].name);
        let operand = comparable(table, alias, *column);
        match (op, literal) {
            (Op::In | Op::NotIn, Literal::List(list)) => {
                let typed: Vec<&Value> = list.iter().filter(|value| fits(value_type, value)).collect();
                let negated = *op == Op::NotIn;
                match (typed.is_empty(), negated) {
                    (true, true) => syntax::is_not_null(name),
                    (true, false) => syntax::constant(false),
                    // One value makes an equality, which the optimiser knows best.
                    (false, false) if typed.len() == 1 => {
                        syntax::binary(operand, BinaryOperator::Eq, self.bind(Origin::OneOf(place), bind(typed[0])))
                    }
                    (false, true) if typed.len() == 1 => {
                        syntax::binary(operand, BinaryOperator::NotEq, self.bind(Origin::OneOf(place), bind(typed[0])))
                    }
                    (false, _) => {
                        let list = self.bind(Origin::List(place), json_array(typed).into());
                        let value = Expr::Identifier("value".into());
                        let each = syntax::select(vec![value], syntax::json_each(list), Vec::new(), Vec::new(), None);
                        syntax::in_subquery(operand, each, negated)
                    }
                }
            }
            (Op::In | Op::NotIn, Literal::Value(_)) | (_, Literal::List(_)) => syntax::constant(false),
            (Op::Is, Literal::Value(Value::Null)) => syntax::is_null(name),
            (Op::IsNot, Literal::Value(Value::Null)) => syntax::is_not_null(name),
            (_, Literal::Value(Value::Null)) => syntax::constant(false),
            (Op::Like | Op::NotLike | Op::ILike | Op::NotILike, Literal::Value(pattern)) => {
                if value_type != ValueType::String {
                    return syntax::constant(false);
                }
                let minds_case = matches!(op, Op::Like | Op::NotLike);
                let wanted = !matches!(op, Op::NotLike | Op::NotILike);
                if minds_case && let Some(glob) = glob(pattern) {
                    return syntax::glob(operand, self.bind(Origin::Glob(place), glob.into()), wanted);
                }
                let function = if minds_case { "zql_like" } else { "zql_ilike" };
                let pattern = self.bind(Origin::Pattern(place), pattern_text(pattern).into());
                let matched = syntax::call(function, vec![operand, pattern]);
                syntax::binary(matched, BinaryOperator::Eq, syntax::constant(wanted))
            }
            (op, Literal::Value(value)) if !fits(value_type, value) => match op {
                Op::Ne => syntax::is_not_null(name),
                Op::IsNot => syntax::constant(true),
                _ => syntax::constant(false),
            },
            (op, Literal::Value(value)) => {
                let operator = match op {
                    Op::Eq | Op::Is => BinaryOperator::Eq,
                    Op::Ne => BinaryOperator::NotEq,
                    Op::Lt => BinaryOperator::Lt,
                    Op::Gt => BinaryOperator::Gt,
                    Op::Le => BinaryOperator::LtEq,
                    Op::Ge => BinaryOperator::GtEq,
                    _ => {
                        let differs =
                            syntax::binary(operand, BinaryOperator::NotEq, self.bind(literal_of, bind(value)));
                        return syntax::or(vec![differs, syntax::is_null(name)]);
                    }
                };
                let ranged = matches!(op, Op::Lt | Op::Gt | Op::Le | Op::Ge);
                let operand = if ranged { order_operand(operand, value) } else { operand };
                syntax::binary(operand, operator, self.bind(literal_of, bind(value)))
            }
        }
    }

    /// Rows on one side of a bound in the node's order; rows equal to it pass if `inclusive`.
    ///
    /// The order is expanded column by column; a redundant bound on the first column leads, so that an
    /// index on it is entered at the right place.
    pub(super) fn bound(
        &mut self,
        query: &Query,
        node: NodeId,
        values: &[Value],
        side: Side,
        inclusive: bool,
    ) -> Vec<Expr> {
        let (id, alias) = (node, alias(node));
        let node = &query.nodes[node];
        let (table, order) = (&*node.table, &node.order);
        let mut alternatives = Vec::with_capacity(order.len() + 1);
        for (depth, (&(column, direction), value)) in order.iter().zip(values).enumerate() {
            let upwards = (direction == Direction::Asc) == (side == Side::After);
            let from = Origin::Start(id, depth);
            let beyond = self.beyond((table, &alias), column, (value, from), upwards, false);
            if beyond == syntax::constant(false) {
                continue;
            }
            let mut all = self.equal_prefix(id, node, values, depth);
            all.push(beyond);
            alternatives.push(syntax::and(all));
        }
        if inclusive {
            let all = self.equal_prefix(id, node, values, order.len());
            alternatives.push(syntax::and(all));
        }
        let mut conditions = Vec::with_capacity(2);
        if let (Some(&(column, direction)), Some(value)) = (order.first(), values.first())
            && order.len() > 1
            && !value.is_null()
        {
            let upwards = (direction == Direction::Asc) == (side == Side::After);
            // Downwards a nullable column would need OR IS NULL, which enters no index.
            if upwards || !table.columns[column].nullable {
                conditions.push(self.beyond((table, &alias), column, (value, Origin::Start(id, 0)), upwards, true));
            }
        }
        conditions.push(syntax::or(alternatives));
        conditions
    }

    fn equal_prefix(&mut self, id: NodeId, node: &Node, values: &[Value], depth: usize) -> Vec<Expr> {
        let (table, alias) = (&*node.table, &alias(id));
        let mut all = Vec::with_capacity(depth + 1);
        for (place, (&(column, _), value)) in node.order.iter().zip(values).take(depth).enumerate() {
            let value_type = table.columns[column].value_type;
            all.push(if value.is_null() {
                syntax::is_null(syntax::column(alias, &table.columns[column].name))
            } else if fits(value_type, value) {
                let value = self.bind(Origin::Start(id, place), bind(value));
                syntax::binary(comparable(table, alias, column), BinaryOperator::Eq, value)
            } else {
                syntax::constant(false)
            });
        }
        all
    }

    /// Rows whose column is greater (`upwards`) or less than the value in the total order, null lowest.
    fn beyond(
        &mut self,
        (table, alias): (&Table, &str),
        column: usize,
        (value, from): (&Value, Origin),
        upwards: bool,
        or_equal: bool,
    ) -> Expr {
        let name = syntax::column(alias, &table.columns[column].name);
        let nullable = table.columns[column].nullable;
        let value_type = table.columns[column].value_type;
        if value.is_null() {
            return if upwards { syntax::is_not_null(name) } else { syntax::constant(false) };
        }
        if !fits(value_type, value) {
            // Across types the order is by type, so every non-null value is on one side.
            let above = type_rank(value_type) > value_rank(value);
            return match (upwards, above) {
                (true, true) => syntax::is_not_null(name),
                (true, false) => syntax::constant(false),
                (false, true) => syntax::is_null(name),
                (false, false) => syntax::constant(true),
            };
        }
        let operator = match (upwards, or_equal) {
            (true, false) => BinaryOperator::Gt,
            (true, true) => BinaryOperator::GtEq,
            (false, false) => BinaryOperator::Lt,
            (false, true) => BinaryOperator::LtEq,
        };
        let operand = order_operand(comparable(table, alias, column), value);
        let beyond = syntax::binary(operand, operator, self.bind(from, bind(value)));
        if upwards || !nullable { beyond } else { syntax::or(vec![beyond, syntax::is_null(name)]) }
    }
}

/// The name of a node's table in a statement.
pub(super) fn alias(node: NodeId) -> String {
    format!("n{node}")
}

/// A column as it is compared: JSON by its text, even where SQLite stored a bare number.
pub(super) fn comparable(table: &Table, alias: &str, column: usize) -> Expr {
    let name = syntax::column(alias, &table.columns[column].name);
    if table.columns[column].value_type == ValueType::Json { syntax::cast_text(name) } else { name }
}

/// The operand of a `<` or `>`. Text types other than Postgres's text and varchar are declared so that
/// SQLite would compare a numeric-looking bound as a number, below all text; hiding the affinity keeps it text.
fn order_operand(operand: Expr, value: &Value) -> Expr {
    match value {
        Value::String(text) if looks_numeric(text) => syntax::without_affinity(operand),
        _ => operand,
    }
}

/// Whether SQLite might read the text as a number. May err towards yes.
pub fn looks_numeric(text: &str) -> bool {
    let text = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) && text.parse::<f64>().is_ok()
}

/// The comparisons that hold whatever the EXISTS say.
fn simple_part(filter: &Filter) -> Filter {
    match filter {
        Filter::Exists { .. } => Filter::Const(true),
        Filter::And(filters) => {
            let mut parts: Vec<Filter> =
                filters.iter().map(simple_part).filter(|part| *part != Filter::Const(true)).collect();
            match parts.len() {
                0 => Filter::Const(true),
                1 => parts.remove(0),
                _ => Filter::And(parts),
            }
        }
        Filter::Or(filters) => {
            let parts: Vec<Filter> = filters.iter().map(simple_part).collect();
            if parts.contains(&Filter::Const(true)) { Filter::Const(true) } else { Filter::Or(parts) }
        }
        filter => filter.clone(),
    }
}

/// What GLOB may be given: it looks for what follows a `*` anew wherever that may begin.
const GLOB_STARS_MAX: usize = 4;
const GLOB_BYTES_MAX: usize = 1_000;

/// The pattern of LIKE as one of SQLite's GLOB, which means the same and needs no function of ours; none if it is long or has
/// many `%`, of which ours takes any number.
pub(super) fn glob(pattern: &Value) -> Option<String> {
    if !is_glob(pattern) {
        return None;
    }
    let text = pattern_text(pattern);
    let mut glob = String::with_capacity(text.len() + 8);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '%' => glob.push('*'),
            '_' => glob.push('?'),
            letter => match if letter == '\\' { letters.next().unwrap_or('\\') } else { letter } {
                special @ ('*' | '?' | '[') => glob.extend(['[', special, ']']),
                letter => glob.push(letter),
            },
        }
    }
    Some(glob)
}

/// Whether the pattern of LIKE is given to GLOB: what SQL text depends on.
pub fn is_glob(pattern: &Value) -> bool {
    let Value::String(text) = pattern else { return false };
    text.len() <= GLOB_BYTES_MAX && text.bytes().filter(|&byte| byte == b'%').count() <= GLOB_STARS_MAX
}

/// A pattern as text.
pub(super) fn pattern_text(pattern: &Value) -> String {
    match pattern {
        Value::String(text) | Value::Json(text) => text.to_string(),
        Value::Number(number) => ryu_js::Buffer::new().format(*number).to_owned(),
        Value::Bool(bool) => bool.to_string(),
        Value::Null => String::new(),
    }
}

fn type_rank(value_type: ValueType) -> u8 {
    match value_type {
        ValueType::Boolean => 1,
        ValueType::Number => 2,
        ValueType::String => 3,
        ValueType::Json => 4,
    }
}

fn value_rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Json(_) => 4,
    }
}
