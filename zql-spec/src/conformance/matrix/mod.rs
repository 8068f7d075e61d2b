//! What the cases cover: every construct by the place in a query where it stands, as tables of counts.
//!
//! The rows are listed whether or not a case has them, so that a gap shows as an empty cell. `–` is what the language
//! does not have, or what cannot happen. Made from the cases alone: neither their expectations nor any implementation matter, but for the
//! effects of transactions, which are read from the expected changes.

mod possible;
mod walk;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use self::possible::{compares, happens, is_used};
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
const CONSTRUCTS: [(&str, bool); 44] = [
    ("no filter", true),
    ("and", true),
    ("or", true),
    ("and in or", true),
    ("or in and", true),
    ("always true", true),
    ("always false", true),
    ("literal = literal", true),
    ("parameter", true),
    ("parameter on the left", true),
    ("parameter that is a list", true),
    ("parameter without a claim", true),
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
    ("related for permissions", false),
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

/// Types of literals, as they stand on the left of a comparison or beside a column of another type.
const LITERALS: [&str; 4] = ["string", "number", "boolean", "null"];

type Counts = BTreeMap<String, [usize; PLACES.len()]>;

/// The coverage of a set of cases.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    cases: BTreeMap<String, usize>,
    comparisons: Counts,
    constructs: Counts,
    transactions: Counts,
    types: BTreeMap<String, (ValueType, [usize; USES.len()])>,
    /// Comparisons of a literal with something, by operator.
    literals: BTreeMap<&'static str, [usize; LITERALS.len()]>,
    /// Comparisons of a column with a literal of another type, by the column's type.
    mixed: BTreeMap<&'static str, [usize; LITERALS.len()]>,
}

impl Matrix {
    /// Counts the cases of a file.
    ///
    /// # Errors
    /// When a case cannot be read.
    pub fn add(&mut self, name: &str, file: &CaseFile, data: &Arc<DataSet>) -> Result<(), String> {
        for column in data.tables.iter().flat_map(|table| &table.columns) {
            self.types.entry(column.pg_type.to_string()).or_insert((column.value_type, Default::default()));
        }
        for case in &file.cases {
            self.add_case(case, data).map_err(|what| format!("{name}, line {}: {what}", case.line))?;
        }
        *self.cases.entry(name.to_owned()).or_default() += file.cases.len();
        Ok(())
    }

    fn add_case(&mut self, case: &Case, data: &DataSet) -> Result<(), String> {
        let query = parse_query(&case.query, data)?;
        let mut walk = Walk { matrix: self, data, claims: case.claims.as_ref(), tables: Vec::new() };
        walk.level(&query.ast, Place::Root);
        let tables = walk.tables;
        let mut database = data.database.clone();
        for step in &case.steps {
            let transaction = operations(&step.operations, data, &database)?;
            for operation in &transaction {
                // What one of several operations did by itself, the change does not tell.
                let kind = if transaction.len() > 1 { "several at once" } else { kind(operation) };
                let places = tables.iter().filter(|(table, _)| table == operation.table());
                for (_, place) in places {
                    for effect in effects(step.change.as_deref().unwrap_or_default()) {
                        count(&mut self.transactions, &format!("{kind}: {effect}"), *place);
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
        let at = USES.iter().position(|other| *other == usage);
        if let (Some(at), Some((_, counts))) = (at, self.types.get_mut(pg_type)) {
            counts[at] += 1;
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

    /// The empty cells of all tables, but for those that cannot be filled.
    pub fn gaps(&self) -> Vec<String> {
        self.tables().iter().flat_map(Table::gaps).collect()
    }

    /// The tables as Markdown.
    pub fn print(&self) -> String {
        let tables = self.tables();
        let mut out = String::from(
            "# What the cases cover\n\nGenerated by `zql conformance --matrix`; a test keeps it current. Each number counts cases or the places in\nthem. `·` is a gap, `–` what the language does not have or what cannot happen.\n",
        );
        let _ = writeln!(
            out,
            "\n## Cases\n\n{} cases, {} gaps below.\n\n| file | cases |\n| --- | --- |",
            self.len(),
            tables.iter().flat_map(Table::gaps).count()
        );
        for (name, count) in &self.cases {
            let _ = writeln!(out, "| {name} | {count} |");
        }
        tables.iter().for_each(|table| table.print(&mut out));
        out
    }

    /// Everything that is counted. A cell that is none cannot be filled.
    fn tables(&self) -> Vec<Table> {
        let places: Vec<&'static str> = PLACES.iter().map(|(_, name)| *name).collect();
        let by_place = |counts: &Counts, row: String, possible: &dyn Fn(Place) -> bool| {
            let cells = counts.get(&row).copied().unwrap_or_default();
            let cell = |((place, _), count): (&(Place, &str), usize)| (count > 0 || possible(*place)).then_some(count);
            (row, PLACES.iter().zip(cells).map(cell).collect::<Vec<_>>())
        };
        let comparisons = comparison_rows().into_iter().map(|row| by_place(&self.comparisons, row, &|_| true));
        let constructs = CONSTRUCTS.iter().map(|(row, in_exists)| {
            by_place(&self.constructs, (*row).to_owned(), &|place| *in_exists || !place.is_exists())
        });
        let transactions = OPERATIONS.iter().flat_map(|kind| EFFECTS.iter().map(move |effect| (*kind, *effect)));
        let transactions = transactions.map(|(kind, effect)| {
            by_place(&self.transactions, format!("{kind}: {effect}"), &|place| {
                happens(kind, effect, !place.is_exists())
            })
        });
        let types = self.types.iter().map(|(name, (value_type, counts))| {
            let cells = USES.iter().zip(counts);
            let cell = |(usage, count): (&&str, &usize)| (*count > 0 || is_used(*value_type, usage)).then_some(*count);
            (name.clone(), cells.map(cell).collect())
        });
        let literals = operators(ValueType::String).iter().map(|op| {
            let counts = self.literals.get(op.name()).copied().unwrap_or_default();
            let cell = |(of, count): (&&str, usize)| (count > 0 || compares(*op, of)).then_some(count);
            (op.name().to_owned(), LITERALS.iter().zip(counts).map(cell).collect())
        });
        let mixed = LITERALS[..3].iter().map(|column| {
            let counts = self.mixed.get(column).copied().unwrap_or_default();
            // Null has a row for each operator above.
            let cell = |(of, count): (&&str, usize)| (of != column && *of != "null").then_some(count);
            ((*column).to_owned(), LITERALS.iter().zip(counts).map(cell).collect())
        });
        vec![
            Table {
                title: "Comparisons",
                about: "Operator, type of the column, and whether the column may be null or the literal is. The places are those of the\nlevel whose rows are compared; `²` is inside another of its kind.\n",
                head: "comparison",
                columns: places.clone(),
                rows: comparisons.collect(),
            },
            Table {
                title: "Literals on the left",
                about: "By operator and type of the literal, at all places together.\n",
                head: "operator",
                columns: LITERALS.to_vec(),
                rows: literals.collect(),
            },
            Table {
                title: "Literals of another type than their column",
                about: "By the types of column and literal, at all places together.\n",
                head: "column",
                columns: LITERALS.to_vec(),
                rows: mixed.collect(),
            },
            Table {
                title: "Constructs",
                about: "A parameter is a static one that is bound to the claims of whoever asks.\n",
                head: "construct",
                columns: places.clone(),
                rows: constructs.collect(),
            },
            Table {
                title: "Transactions",
                about: "What happens to a table at a place of the query, and what becomes of the answer.\n",
                head: "operation: effect",
                columns: places,
                rows: transactions.collect(),
            },
            Table {
                title: "Types of Postgres",
                about: "",
                head: "type",
                columns: USES.to_vec(),
                rows: types.collect(),
            },
        ]
    }
}

/// A table of counts.
struct Table {
    title: &'static str,
    about: &'static str,
    head: &'static str,
    columns: Vec<&'static str>,
    /// Each with its cells; none where there can be nothing.
    rows: Vec<(String, Vec<Option<usize>>)>,
}

impl Table {
    fn gaps(&self) -> Vec<String> {
        let of_row = |(row, cells): &(String, Vec<Option<usize>>)| -> Vec<String> {
            let empty = self.columns.iter().zip(cells).filter(|(_, cell)| **cell == Some(0));
            empty.map(|(column, _)| format!("{}: {row}: {column}", self.title)).collect()
        };
        self.rows.iter().flat_map(of_row).collect()
    }

    fn print(&self, out: &mut String) {
        let _ = writeln!(out, "\n## {}", self.title);
        if !self.about.is_empty() {
            let _ = write!(out, "\n{}", self.about);
        }
        let rules = " --- |".repeat(self.columns.len() + 1);
        let _ = writeln!(out, "\n| {} | {} |\n|{rules}", self.head, self.columns.join(" | "));
        for (row, cells) in &self.rows {
            let cells: Vec<String> = cells
                .iter()
                .map(|cell| match cell {
                    None => "–".to_owned(),
                    Some(0) => "·".to_owned(),
                    Some(count) => count.to_string(),
                })
                .collect();
            let _ = writeln!(out, "| {row} | {} |", cells.join(" | "));
        }
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
