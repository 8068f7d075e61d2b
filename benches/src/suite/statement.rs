//! The SQL a person would write for a node of a query, beside the server's own text.
//!
//! Conditions are written from their meaning: `IN (…)` with a parameter for each value, GLOB for patterns, and EXISTS
//! either as such or as `IN (SELECT …)`, which lets SQLite begin at the other end. What SQLite says otherwise than the language
//! (texts that look like numbers) comes out in the comparison of the rows, and such a statement is dropped.

use engine::query::{Comparison, Filter, NodeId, Query};
use engine::replica::SqliteValue;
use engine::sql::{Access, bind, fits, node_select};
use zql_spec::ast::{Direction, Literal, SimpleOperator as Op};
use zql_spec::schema::ValueType;
use zql_spec::value::Value;

use crate::written;

/// How the statement of a node is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As the server writes it.
    Server,
    /// By hand, EXISTS as EXISTS.
    Exists,
    /// By hand, EXISTS as IN.
    In,
}

/// A statement and its values. Parameters `?1…` are the look-up's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statement {
    pub(crate) text: String,
    pub(crate) lookup: usize,
    pub(crate) binds: Vec<SqliteValue>,
}

/// What to select of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Only the rows of one group.
    pub(crate) one_group: bool,
    /// In the node's order.
    pub(crate) ordered: bool,
    /// Most rows.
    pub(crate) limit: Option<usize>,
}

/// The statement of a node in a form, if it can be written so.
pub(crate) fn statement(query: &Query, node: NodeId, wanted: Wanted, form: Form) -> Option<Statement> {
    let of_node = &query.nodes[node];
    let lookup = match (&of_node.edge, wanted.one_group) {
        (Some(edge), true) => &edge.child_columns[..],
        _ => &[],
    };
    if form == Form::Server {
        let access = Access { lookup, start: true, order: wanted.ordered, limit: wanted.limit, ..Access::default() };
        let sql = node_select(query, node, &access);
        return Some(Statement { text: sql.text, lookup: sql.lookup, binds: sql.binds });
    }
    if of_node.start.is_some() {
        return None;
    }
    let mut writer = Writer { query, form, next: lookup.len(), binds: Vec::new() };
    let alias = alias(node);
    let mut conditions = Vec::new();
    for (position, &column) in lookup.iter().enumerate() {
        conditions.push(format!("{} = ?{}", writer.column(node, column)?, position + 1));
    }
    match writer.filter(node, &of_node.filter)? {
        all if all == TRUE => {}
        condition => conditions.push(condition),
    }
    let mut text =
        format!("SELECT {} FROM \"{}\" {alias}", written::columns(&of_node.table, &alias), of_node.table.name);
    if !conditions.is_empty() {
        text.push_str(&format!(" WHERE {}", conditions.join(" AND ")));
    }
    if wanted.ordered {
        let by = |&(column, direction): &(usize, Direction)| {
            let name = writer.column(node, column)?;
            Some(if direction == Direction::Asc { name } else { format!("{name} DESC") })
        };
        let order: Vec<String> = of_node.order.iter().map(by).collect::<Option<_>>()?;
        text.push_str(&format!(" ORDER BY {}", order.join(", ")));
    }
    if let Some(limit) = wanted.limit {
        text.push_str(&format!(" LIMIT {}", writer.bind(SqliteValue::Integer(limit as i64))));
    }
    Some(Statement { text, lookup: lookup.len(), binds: writer.binds })
}

const TRUE: &str = "1";
const FALSE: &str = "0";

fn alias(node: NodeId) -> String {
    format!("t{node}")
}

struct Writer<'q> {
    query: &'q Query,
    form: Form,
    next: usize,
    binds: Vec<SqliteValue>,
}

impl Writer<'_> {
    fn bind(&mut self, value: SqliteValue) -> String {
        self.binds.push(value);
        self.next += 1;
        format!("?{}", self.next)
    }

    /// A column; documents are not compared by hand.
    fn column(&self, node: NodeId, column: usize) -> Option<String> {
        let column = &self.query.nodes[node].table.columns[column];
        (column.value_type != ValueType::Json).then(|| format!("{}.\"{}\"", alias(node), column.name))
    }

    fn filter(&mut self, node: NodeId, filter: &Filter) -> Option<String> {
        Some(match filter {
            Filter::Const(true) => TRUE.to_owned(),
            Filter::Const(false) => FALSE.to_owned(),
            Filter::And(filters) => self.list(node, filters, " AND ")?,
            Filter::Or(filters) => format!("({})", self.list(node, filters, " OR ")?),
            Filter::Compare(comparison) => self.comparison(node, comparison)?,
            Filter::Exists { node: child, negated } => self.exists(node, *child, *negated)?,
        })
    }

    fn list(&mut self, node: NodeId, filters: &[Filter], by: &str) -> Option<String> {
        let parts: Option<Vec<String>> = filters.iter().map(|filter| self.filter(node, filter)).collect();
        Some(parts?.join(by))
    }

    fn exists(&mut self, node: NodeId, child: NodeId, negated: bool) -> Option<String> {
        let of_child = &self.query.nodes[child];
        let edge = of_child.edge.as_ref()?;
        if of_child.start.is_some() {
            return None;
        }
        let mut pairs = Vec::new();
        for (&parent, &of) in edge.parent_columns.iter().zip(&edge.child_columns) {
            if self.query.nodes[node].table.columns[parent].value_type != of_child.table.columns[of].value_type {
                return None;
            }
            pairs.push((self.column(node, parent)?, self.column(child, of)?));
        }
        let filter = self.filter(child, &of_child.filter)?;
        let from = format!("FROM \"{}\" {}", of_child.table.name, alias(child));
        let not = if negated { "NOT " } else { "" };
        if self.form == Form::Exists {
            let equal: Vec<String> = pairs.iter().map(|(outer, inner)| format!("{inner} = {outer}")).collect();
            return Some(format!("{not}EXISTS (SELECT 1 {from} WHERE {} AND {filter})", equal.join(" AND ")));
        }
        let (outer, inner): (Vec<String>, Vec<String>) = pairs.into_iter().unzip();
        let known: Vec<String> = inner.iter().map(|column| format!("{column} IS NOT NULL")).collect();
        let keys = format!("(SELECT {} {from} WHERE {} AND {filter})", inner.join(", "), known.join(" AND "));
        let tuple = if outer.len() == 1 { outer[0].clone() } else { format!("({})", outer.join(", ")) };
        let within = format!("{tuple} {not}IN {keys}");
        if !negated {
            return Some(within);
        }
        let unknown: Vec<String> = outer.iter().map(|column| format!("{column} IS NULL")).collect();
        Some(format!("({} OR {within})", unknown.join(" OR ")))
    }

    fn comparison(&mut self, node: NodeId, comparison: &Comparison) -> Option<String> {
        let Comparison { column, op, literal, .. } = comparison;
        let of = &self.query.nodes[node].table.columns[*column];
        let name = match (op, literal) {
            (Op::Is | Op::IsNot, Literal::Value(Value::Null)) => format!("{}.\"{}\"", alias(node), of.name),
            _ => self.column(node, *column)?,
        };
        let value = match literal {
            Literal::List(list) => {
                if !list.iter().all(|value| fits(of.value_type, value)) || list.is_empty() {
                    return None;
                }
                let values: Vec<String> = list.iter().map(|value| self.bind(bind(value))).collect();
                let not = match op {
                    Op::In => "",
                    Op::NotIn => "NOT ",
                    _ => return None,
                };
                return Some(format!("{name} {not}IN ({})", values.join(", ")));
            }
            Literal::Value(value) => value,
        };
        match (op, value) {
            (Op::Is, Value::Null) => return Some(format!("{name} IS NULL")),
            (Op::IsNot, Value::Null) => return Some(format!("{name} IS NOT NULL")),
            (_, value) if !fits(of.value_type, value) => return None,
            _ => {}
        }
        let operator = match op {
            Op::Eq | Op::Is => "=",
            Op::Ne => "<>",
            Op::IsNot => "IS NOT",
            Op::Lt => "<",
            Op::Le => "<=",
            Op::Gt => ">",
            Op::Ge => ">=",
            Op::Like | Op::NotLike | Op::ILike | Op::NotILike => return self.pattern(&name, *op, value),
            Op::In | Op::NotIn => return None,
        };
        Some(format!("{name} {operator} {}", self.bind(bind(value))))
    }

    fn pattern(&mut self, name: &str, op: Op, value: &Value) -> Option<String> {
        let Value::String(pattern) = value else { return None };
        let not = if matches!(op, Op::NotLike | Op::NotILike) { "NOT " } else { "" };
        // SQLite's own LIKE knows the case of ASCII alone, so by hand ILIKE is the server's function as well.
        let (call, pattern) = match op {
            Op::ILike | Op::NotILike => ("zql_ilike", pattern.to_string()),
            _ => ("GLOB", glob(pattern)?),
        };
        let pattern = self.bind(SqliteValue::Text(pattern));
        Some(match call {
            "GLOB" => format!("{name} {not}GLOB {pattern}"),
            function => format!("{not}{function}({name}, {pattern})"),
        })
    }
}

/// The pattern of LIKE as one of GLOB, which minds case.
fn glob(pattern: &str) -> Option<String> {
    let mut text = String::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '%' => text.push('*'),
            '_' => text.push('?'),
            letter => match if letter == '\\' { letters.next()? } else { letter } {
                special @ ('*' | '?' | '[') => text.extend(['[', special, ']']),
                letter => text.push(letter),
            },
        }
    }
    Some(text)
}
