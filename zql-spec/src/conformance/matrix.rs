//! What the cases cover: every construct by the place in a query where it stands, as tables of counts.
//!
//! The rows are listed whether or not a case has them, so that a gap shows as an empty cell. `–` is what the language
//! does not have. Made from the cases alone: neither their expectations nor any implementation matter, but for the
//! effects of transactions, which are read from the expected changes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use super::dataset::DataSet;
use super::edit::operations;
use super::file::{Case, CaseFile};
use super::runner::parse_query;
use crate::ast::{Ast, Condition, CorrelatedSubquery, Direction, Literal, SimpleOperator, System, ValuePosition};
use crate::naive::Operation;
use crate::schema::{Column, Table, ValueType};
use crate::value::Value;

/// Where in a query something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Root,
    Related,
    NestedRelated,
    BehindJunction,
    Exists,
    NotExists,
    NestedExists,
    ExistsBehindJunction,
}

/// All places, with the heads of their columns.
const PLACES: [(Place, &str); 8] = [
    (Place::Root, "root"),
    (Place::Related, "related"),
    (Place::NestedRelated, "related²"),
    (Place::BehindJunction, "related by junction"),
    (Place::Exists, "exists"),
    (Place::NotExists, "not exists"),
    (Place::NestedExists, "exists²"),
    (Place::ExistsBehindJunction, "exists by junction"),
];

impl Place {
    fn is_exists(self) -> bool {
        use Place::{Exists, ExistsBehindJunction, NestedExists, NotExists};
        matches!(self, Exists | NotExists | NestedExists | ExistsBehindJunction)
    }
}

/// The constructs that are counted, and whether an EXISTS subquery may have them.
const CONSTRUCTS: [(&str, bool); 39] = [
    ("no filter", true),
    ("and", true),
    ("or", true),
    ("and in or", true),
    ("or in and", true),
    ("always true", true),
    ("always false", true),
    ("literal = literal", true),
    ("exists", true),
    ("not exists", true),
    ("exists in and", true),
    ("exists in or", true),
    ("not exists in or", true),
    ("two exists", true),
    ("exists, flip: true", true),
    ("exists, flip: false", true),
    ("exists, scalar: true", true),
    ("exists by several columns", true),
    ("exists by junction", true),
    ("exists for permissions", true),
    ("related, many", false),
    ("related, one", false),
    ("related by several columns", false),
    ("related by junction", false),
    ("two related", false),
    ("no order", true),
    ("order asc", true),
    ("order desc", true),
    ("order by several", true),
    ("order by a nullable column", true),
    ("order by the key", true),
    ("limit", true),
    ("limit 0", true),
    ("limit 1 or one()", true),
    ("start, exclusive", false),
    ("start, inclusive", false),
    ("start, at null", false),
    ("start and limit", false),
    ("order and limit", true),
];

/// What an operation does to a table of the query.
const OPERATIONS: [&str; 6] = ["insert", "update", "update of the key", "delete", "truncate", "several at once"];
/// What becomes of the answer.
const EFFECTS: [&str; 5] = ["comes", "goes", "moves", "changes", "nothing"];

/// What is done with columns of a Postgres type.
const USES: [&str; 6] = ["returned", "compared", "ordered by", "cursor", "joined by", "changed"];

type Counts = BTreeMap<String, [usize; PLACES.len()]>;

/// The coverage of a set of cases.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    cases: BTreeMap<String, usize>,
    comparisons: Counts,
    constructs: Counts,
    transactions: Counts,
    types: BTreeMap<String, [usize; USES.len()]>,
}

impl Matrix {
    /// Counts the cases of a file.
    ///
    /// # Errors
    /// When a case cannot be read.
    pub fn add(&mut self, name: &str, file: &CaseFile, data: &Arc<DataSet>) -> Result<(), String> {
        for column in data.tables.iter().flat_map(|table| &table.columns) {
            self.types.entry(column.pg_type.to_string()).or_default();
        }
        for case in &file.cases {
            self.add_case(case, data).map_err(|what| format!("{name}, line {}: {what}", case.line))?;
        }
        *self.cases.entry(name.to_owned()).or_default() += file.cases.len();
        Ok(())
    }

    fn add_case(&mut self, case: &Case, data: &DataSet) -> Result<(), String> {
        let query = parse_query(&case.query, data)?;
        let mut walk = Walk { matrix: self, data, tables: Vec::new() };
        walk.level(&query.ast, Place::Root);
        let tables = walk.tables;
        let mut database = data.database.clone();
        for step in &case.steps {
            let transaction = operations(&step.operations, data, &database)?;
            for operation in &transaction {
                let kinds = [Some(kind(operation)), (transaction.len() > 1).then_some("several at once")];
                let places = tables.iter().filter(|(table, _)| table == operation.table());
                for (_, place) in places {
                    for kind in kinds.iter().flatten() {
                        for effect in effects(step.change.as_deref().unwrap_or_default()) {
                            count(&mut self.transactions, &format!("{kind}: {effect}"), *place);
                        }
                    }
                }
                if let Operation::Update { table, key, row } = operation {
                    let old = database.tables.get(table).and_then(|rows| rows.get(key));
                    let columns = data.table(table).into_iter().flat_map(|table| &table.columns);
                    for (at, column) in columns.enumerate() {
                        if old.is_some_and(|old| old[at] != row[at]) {
                            self.used(&column.pg_type, "changed");
                        }
                    }
                }
                database.apply(std::slice::from_ref(operation));
            }
        }
        Ok(())
    }

    fn used(&mut self, pg_type: &str, usage: &str) {
        if let Some(at) = USES.iter().position(|other| *other == usage) {
            self.types.entry(pg_type.to_owned()).or_default()[at] += 1;
        }
    }

    /// The number of cases.
    pub fn len(&self) -> usize {
        self.cases.values().sum()
    }

    /// Whether there is no case.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The empty cells of the tables of comparisons and constructs.
    pub fn gaps(&self) -> Vec<String> {
        let empty = |counts: &Counts, row: &str, in_exists: bool| -> Vec<String> {
            let cells = counts.get(row).copied().unwrap_or_default();
            let places =
                PLACES.iter().zip(cells).filter(|((place, _), count)| *count == 0 && (in_exists || !place.is_exists()));
            places.map(|((_, name), _)| format!("{row}: {name}")).collect()
        };
        let comparisons = comparison_rows().into_iter().flat_map(|row| empty(&self.comparisons, &row, true));
        let constructs = CONSTRUCTS.iter().flat_map(|(row, in_exists)| empty(&self.constructs, row, *in_exists));
        comparisons.chain(constructs).collect()
    }

    /// The tables as Markdown.
    pub fn print(&self) -> String {
        let mut out = String::from(
            "# What the cases cover\n\nGenerated by `zql conformance --matrix`; a test keeps it current. Each number counts cases or the places in\nthem. `·` is a gap, `–` what the language does not have.\n",
        );
        let _ = writeln!(
            out,
            "\n## Cases\n\n{} cases, {} gaps below.\n\n| file | cases |\n| --- | --- |",
            self.len(),
            self.gaps().len()
        );
        for (name, count) in &self.cases {
            let _ = writeln!(out, "| {name} | {count} |");
        }
        out.push_str("\n## Comparisons\n\nOperator, type of the column, and whether the column may be null or the literal is. The places are those of the\nlevel whose rows are compared; `²` is inside another of its kind.\n");
        table(&mut out, "comparison", comparison_rows().into_iter().map(|row| (row, true)), &self.comparisons);
        out.push_str("\n## Constructs\n");
        let rows = CONSTRUCTS.iter().map(|(row, in_exists)| ((*row).to_owned(), *in_exists));
        table(&mut out, "construct", rows, &self.constructs);
        out.push_str(
            "\n## Transactions\n\nWhat happens to a table at a place of the query, and what becomes of the answer.\n",
        );
        let rows =
            OPERATIONS.iter().flat_map(|kind| EFFECTS.iter().map(move |effect| (format!("{kind}: {effect}"), true)));
        table(&mut out, "operation: effect", rows, &self.transactions);
        out.push_str("\n## Types of Postgres\n");
        let _ = writeln!(out, "\n| type | {} |\n|{}", USES.join(" | "), " --- |".repeat(USES.len() + 1));
        for (name, cells) in &self.types {
            let cells: Vec<String> = cells.iter().map(|count| cell(*count)).collect();
            let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
        }
        out
    }
}

fn cell(count: usize) -> String {
    if count == 0 { "·".to_owned() } else { count.to_string() }
}

fn table(out: &mut String, head: &str, rows: impl Iterator<Item = (String, bool)>, counts: &Counts) {
    let heads: Vec<&str> = PLACES.iter().map(|(_, name)| *name).collect();
    let _ = writeln!(out, "\n| {head} | {} |\n|{}", heads.join(" | "), " --- |".repeat(heads.len() + 1));
    for (row, in_exists) in rows {
        let cells = counts.get(&row).copied().unwrap_or_default();
        let cells = PLACES.iter().zip(cells).map(|((place, _), count)| {
            if count == 0 && !in_exists && place.is_exists() { "–".to_owned() } else { cell(count) }
        });
        let _ = writeln!(out, "| {row} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}

fn count(counts: &mut Counts, row: &str, place: Place) {
    let at = PLACES.iter().position(|(other, _)| *other == place).unwrap_or_default();
    counts.entry(row.to_owned()).or_default()[at] += 1;
}

/// The operators that a type has.
fn operators(value_type: ValueType) -> &'static [SimpleOperator] {
    use SimpleOperator::{Eq, Ge, Gt, ILike, In, Is, IsNot, Le, Like, Lt, Ne, NotILike, NotIn, NotLike};
    match value_type {
        ValueType::String => &[Eq, Ne, Is, IsNot, Lt, Gt, Le, Ge, Like, NotLike, ILike, NotILike, In, NotIn],
        ValueType::Number | ValueType::Boolean => &[Eq, Ne, Is, IsNot, Lt, Gt, Le, Ge, In, NotIn],
        // Documents are compared with nothing but null.
        ValueType::Json => &[Is, IsNot],
    }
}

fn comparison_rows() -> Vec<String> {
    let mut rows = Vec::new();
    for value_type in [ValueType::String, ValueType::Number, ValueType::Boolean, ValueType::Json] {
        for op in operators(value_type) {
            let name = format!("{} {}", value_type.name(), op.name());
            if value_type != ValueType::Json {
                rows.push(format!("{name}, not null"));
                rows.push(format!("{name}, nullable"));
            }
            rows.push(match op {
                SimpleOperator::In | SimpleOperator::NotIn => format!("{name} []"),
                _ => format!("{name} null"),
            });
        }
    }
    rows
}

fn kind(operation: &Operation) -> &'static str {
    match operation {
        Operation::Insert { .. } => "insert",
        Operation::Update { key, row, .. } if !key.iter().all(|value| row.contains(value)) => "update of the key",
        Operation::Update { .. } => "update",
        Operation::Delete { .. } => "delete",
        Operation::Truncate { .. } => "truncate",
    }
}

/// The kinds of change among the lines of one.
fn effects(change: &[String]) -> Vec<&'static str> {
    let has = |sign: &str| {
        change.iter().any(|line| {
            let line =
                line.strip_prefix("in ").and_then(|rest| rest.split_once(": ")).map_or(&**line, |(_, line)| line);
            line.starts_with(sign)
        })
    };
    let mut effects: Vec<&str> =
        ["+", "-", ">", "~"].into_iter().zip(EFFECTS).filter(|(sign, _)| has(sign)).map(|(_, effect)| effect).collect();
    if effects.is_empty() {
        effects.push("nothing");
    }
    effects
}

/// Goes through a query and counts.
struct Walk<'m> {
    matrix: &'m mut Matrix,
    data: &'m DataSet,
    tables: Vec<(Arc<str>, Place)>,
}

impl Walk<'_> {
    fn level(&mut self, ast: &Ast, place: Place) {
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
            Condition::Simple { op, left, right } => match left {
                ValuePosition::Column(name) => self.comparison(*op, table, name, right, place),
                _ => count(&mut self.matrix.constructs, "literal = literal", place),
            },
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
    }
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
