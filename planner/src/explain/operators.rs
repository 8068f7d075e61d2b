//! Plans as data: what each operator does, how SQLite reads for it, and what was counted.

use engine::query::Query;
use engine::replica::{PlanLine, Reader, SqliteValue};
use rustc_hash::FxHashMap;
use serde_json::Value as Json;

use super::report::{Access, Operator, Parameter, SqlitePlanLine, StatementReport};
use crate::error::Result;
use crate::measure::{LeafTally, OpTally};
use crate::plan::{Col, Leaf, Match, Op, Probe, Rel, Truth};
use crate::statement::Statement;

/// From how many times off an estimate is marked.
const OFF: f64 = 10.0;

/// Describes the plans of a query.
pub(super) struct Describer<'a> {
    query: &'a Query,
    /// Asked for SQLite's plan where nothing was counted.
    reader: &'a Reader,
    /// Whether rows that SQLite gave are part of the description.
    vended: bool,
    plans: FxHashMap<String, Vec<PlanLine>>,
}

impl<'a> Describer<'a> {
    pub(super) fn new(query: &'a Query, reader: &'a Reader, vended: bool) -> Self {
        Describer { query, reader, vended, plans: FxHashMap::default() }
    }

    /// A plan, with what its operators did if there is a tally for each, in preorder. It was run for so many keys.
    pub(super) fn plan(&mut self, rel: &Rel, tally: &[OpTally], keys: Option<u64>) -> Result<Operator> {
        self.operator(rel, &mut tally.iter(), keys).map(|(operator, _)| operator)
    }

    /// An operator and the milliseconds that it and its inputs took.
    fn operator(
        &mut self,
        rel: &Rel,
        tally: &mut std::slice::Iter<'_, OpTally>,
        keys: Option<u64>,
    ) -> Result<(Operator, f64)> {
        let own = tally.next().map(|own| match &rel.op {
            Op::Keys => OpTally { rows: keys.unwrap_or(0), ..OpTally::default() },
            // Part of a join: it gave what its statement gave.
            _ if own.time.is_zero() => OpTally { rows: own.leaf.read, time: own.leaf.time, leaf: own.leaf.clone() },
            _ => own.clone(),
        });
        let own = own.as_ref();
        let access = match &rel.op {
            Op::Scan(leaf) | Op::Lookup { leaf, .. } => Some(self.access(rel, leaf, own.map(|own| &own.leaf))?),
            _ => None,
        };
        let (mut inputs, mut below) = (Vec::new(), 0.0);
        for input in rel.inputs() {
            let (input, ms) = self.operator(input, tally, keys)?;
            inputs.push(input);
            below += ms;
        }
        let total = own.map_or(0.0, |own| own.time.as_secs_f64() * 1e3);
        let operator = Operator {
            label: label(self.query, rel),
            node: rel.node,
            rows_estimated: rel.rows,
            rows: own.map(|own| own.rows),
            off: own.and_then(|own| off(rel.rows, own.rows)),
            cost: rel.cost,
            ms: own.map(|_| round((total - below).max(0.0))),
            access,
            inputs,
        };
        Ok((operator, total))
    }

    fn access(&mut self, rel: &Rel, leaf: &Leaf, tally: Option<&LeafTally>) -> Result<Access> {
        let statement = Statement::of(self.query, leaf, &rel.columns);
        let binds = statement.sql.values_of(self.query);
        let counted = tally.filter(|tally| !tally.plan.is_empty());
        // A single key goes into the statement where many are looked up beside it.
        let keyed = counted.filter(|tally| tally.sql != statement.sql.text);
        let before = keyed.map_or(statement.sql.lookup, |tally| last_parameter(&tally.sql).saturating_sub(binds.len()));
        let sql = keyed.map_or(&statement.sql.text, |tally| &tally.sql).clone();
        let lines = match counted {
            Some(tally) => tally.plan.clone(),
            None => self.sqlite_plan(&sql)?,
        };
        let (method, indexes) = method(&lines, leaf.node);
        let parameters = binds
            .iter()
            .enumerate()
            .map(|(position, value)| Parameter { name: format!("?{}", before + position + 1), value: json(value) });
        Ok(Access {
            table: self.query.nodes[leaf.node].table.name.to_string(),
            method,
            indexes,
            sorts: lines.iter().any(|line| line.text.starts_with("USE TEMP B-TREE")),
            parameters: parameters.collect(),
            sqlite_plan: lines.iter().map(line).collect(),
            executions: tally.map(|tally| tally.executions),
            rows_read: tally.map(|tally| tally.read),
            rows_visited: tally.map(LeafTally::visited),
            bytes: tally.map(|tally| tally.bytes),
            ms: tally.map(|tally| round(tally.time.as_secs_f64() * 1e3)),
            vended_rows: tally
                .filter(|_| self.vended)
                .map(|tally| tally.rows.iter().map(|row| Json::Array(row.iter().map(json).collect())).collect()),
            sql,
        })
    }

    /// SQLite's plan for a statement, without running it.
    fn sqlite_plan(&mut self, sql: &str) -> Result<Vec<PlanLine>> {
        if let Some(lines) = self.plans.get(sql) {
            return Ok(lines.clone());
        }
        let mut statement = self.reader.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
        let mut rows = statement.raw_query();
        let (mut depths, mut lines) = (FxHashMap::<i64, usize>::default(), Vec::new());
        while let Some(row) = rows.next()? {
            let (id, parent): (i64, i64) = (row.get(0)?, row.get(1)?);
            let depth = depths.get(&parent).map_or(0, |depth| depth + 1);
            depths.insert(id, depth);
            lines.push(PlanLine { depth, text: row.get(3)?, loops: None, visits: None });
        }
        self.plans.insert(sql.to_owned(), lines.clone());
        Ok(lines)
    }
}

/// The number of a statement's last parameter.
fn last_parameter(sql: &str) -> usize {
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    sql.split('?').skip(1).filter_map(|rest| digits(rest).parse().ok()).max().unwrap_or(0)
}

/// How SQLite reads the table of a node, by the lines of its plan that name the node.
fn method(lines: &[PlanLine], node: usize) -> (&'static str, Vec<String>) {
    let (scan, search) = (format!("SCAN n{node}"), format!("SEARCH n{node}"));
    let names =
        |text: &str, begin: &str| text.strip_prefix(begin).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    let of_node = || lines.iter().filter(|line| names(&line.text, &scan) || names(&line.text, &search));
    let mut indexes: Vec<String> = Vec::new();
    for line in of_node() {
        let index = line.text.split(" INDEX ").nth(1).and_then(|rest| rest.split(" (").next());
        if let Some(index) = index.map(str::to_owned).filter(|index| !indexes.contains(index)) {
            indexes.push(index);
        }
    }
    let method = match of_node().next() {
        Some(line) if line.text.contains("USING INTEGER PRIMARY KEY") => "rowid",
        Some(line) if line.text.starts_with("SEARCH") => "search",
        _ => "scan",
    };
    (method, indexes)
}

fn line(line: &PlanLine) -> SqlitePlanLine {
    SqlitePlanLine { depth: line.depth, text: line.text.clone(), loops: line.loops, visited: line.visits }
}

/// How many times more rows came than expected, if that is worth a mark.
fn off(estimated: f64, rows: u64) -> Option<f64> {
    let times = (rows as f64).max(1.0) / estimated.max(1.0);
    (times >= OFF || times <= 1.0 / OFF).then_some(times)
}

/// To a microsecond: more digits only make reports hard to read.
pub(super) fn round(ms: f64) -> f64 {
    // A sum of nothing is −0.
    (ms * 1e3).round() / 1e3 + 0.0
}

fn json(value: &SqliteValue) -> Json {
    match value {
        SqliteValue::Null => Json::Null,
        SqliteValue::Integer(number) => Json::from(*number),
        SqliteValue::Real(number) => Json::from(*number),
        SqliteValue::Text(text) => Json::from(text.as_str()),
        SqliteValue::Blob(bytes) => Json::from(format!("{} bytes", bytes.len())),
    }
}

/// The statements of operators, each once, in the order in which they first stand.
pub(super) fn statements(operators: &[&Operator]) -> Vec<StatementReport> {
    let mut statements: Vec<StatementReport> = Vec::new();
    for access in operators.iter().filter_map(|operator| operator.access.as_ref()) {
        let at = match statements.iter().position(|statement| statement.sql == access.sql) {
            Some(at) => at,
            None => {
                statements.push(StatementReport {
                    table: access.table.clone(),
                    sql: access.sql.clone(),
                    plan: access.sqlite_plan.clone(),
                    executions: 0,
                    rows_read: 0,
                    rows_visited: 0,
                    ms: 0.0,
                });
                statements.len() - 1
            }
        };
        let statement = &mut statements[at];
        statement.executions += access.executions.unwrap_or(0);
        statement.rows_read += access.rows_read.unwrap_or(0);
        statement.rows_visited += access.rows_visited.unwrap_or(0);
        statement.ms = round(statement.ms + access.ms.unwrap_or(0.0));
    }
    statements
}

/// What an operator does.
fn label(query: &Query, rel: &Rel) -> String {
    let table = &query.nodes[rel.node].table;
    match &rel.op {
        Op::Empty => "Empty".to_owned(),
        Op::Keys => "ParentKeys".to_owned(),
        Op::Scan(leaf) if leaf.stream => "Scan (streamed)".to_owned(),
        Op::Scan(_) => "Scan".to_owned(),
        Op::Lookup { leaf: Leaf { lookup: Probe::Columns(columns), .. }, .. } => {
            let names: Vec<&str> = columns.iter().map(|&column| &*table.columns[column].name).collect();
            format!("Lookup by {}", names.join(", "))
        }
        Op::Lookup { .. } => "Fetch".to_owned(),
        Op::Join { kind, build_rows, .. } => {
            let kind = match kind {
                Match::Semi => "SemiJoin".to_owned(),
                Match::Anti => "AntiJoin".to_owned(),
                Match::Mark(node) => format!("MarkJoin exists{node}"),
            };
            format!("{kind} (hash of {})", if *build_rows { "rows" } else { "keys" })
        }
        Op::Filter { truth, .. } => format!("Filter {}", describe_truth(truth)),
        Op::Distinct { .. } => "Distinct".to_owned(),
        Op::Concat { .. } => "Concat".to_owned(),
        Op::Sort { fetch: Some(fetch), .. } => format!("TopK {fetch}"),
        Op::Sort { fetch: None, .. } => "Sort".to_owned(),
        Op::First { keys, limit, .. } if keys.is_empty() => format!("Limit {limit}"),
        Op::First { limit, .. } => format!("First {limit} per key"),
    }
}

fn describe_truth(truth: &Truth) -> String {
    let column = |column: &Col| match column {
        Col::Truth(truth) => format!("truth{truth}"),
        Col::Mark(node) => format!("exists{node}"),
        Col::Row | Col::RowId | Col::Column(_) => "?".to_owned(),
    };
    match truth {
        Truth::Col(of) => column(of),
        Truth::Not(of) => format!("not {}", column(of)),
        Truth::And(terms) | Truth::Or(terms) => {
            let word = if matches!(truth, Truth::And(_)) { " and " } else { " or " };
            let terms: Vec<String> = terms.iter().map(describe_truth).collect();
            format!("({})", terms.join(word))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::off;

    #[test]
    fn estimates_are_marked_from_ten_times_on() {
        for (estimated, rows, expected) in [
            (10.0, 100, Some(10.0)),
            (10.0, 99, None),
            (100.0, 10, Some(0.1)),
            (100.0, 11, None),
            (1_000.0, 0, Some(0.001)),
            // A row or none is no matter.
            (0.01, 9, None),
            (9.0, 0, None),
        ] {
            assert_eq!(off(estimated, rows), expected, "{estimated} {rows}");
        }
    }
}
