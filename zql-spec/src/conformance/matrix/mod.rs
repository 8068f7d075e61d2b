//! What the cases cover: every construct by the place in a query where it stands, as tables of counts.
//!
//! The rows are listed whether or not a case has them, so that a gap shows as an empty cell. `–` is what the language
//! does not have. Made from the cases alone: neither their expectations nor any implementation matter, but for the
//! effects of transactions, which are read from the expected changes.

mod walk;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use self::walk::Walk;
use super::dataset::DataSet;
use super::edit::operations;
use super::file::{Case, CaseFile};
use super::runner::parse_query;
use crate::ast::SimpleOperator;
use crate::naive::Operation;
use crate::schema::ValueType;

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
