//! The explanation of a query as data. Text, JSON and HTML are renderings of it.
//!
//! Field names in JSON are camel case. Times are milliseconds, costs are the planner's: microseconds on the
//! machine that its constants were measured on. What was not measured is null. A report grows with the query, but for
//! rows that were asked for.

use serde::Serialize;
use zql_spec::ast::Ast;
use zql_spec::format::Format;
use zql_spec::hash::ast_hash;
use zql_spec::query_text;

/// The explanation of one query.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What the caller calls the query.
    pub name: Option<String>,
    /// The query.
    pub query: QueryReport,
    /// What it was explained with.
    pub source: SourceReport,
    /// The whole.
    pub totals: Totals,
    /// The plan of each node, parents first.
    pub nodes: Vec<NodeReport>,
    /// Every statement that was (or would be) sent to SQLite, once.
    pub statements: Vec<StatementReport>,
    /// How the answer is kept current.
    pub maintenance: Maintenance,
    /// What would make it cheaper.
    pub advice: Vec<Advice>,
    /// What to keep in mind when reading this.
    pub warnings: Vec<String>,
    /// The rows that a client would get, by table, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_rows: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The query.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryReport {
    /// As canonical ZQL text: of the normal form that the hash is of.
    pub zql: String,
    /// The hash that names it in the protocol.
    pub hash: String,
    /// As it came.
    pub ast: serde_json::Value,
    /// The text of what is run instead, if permissions or claims of a user were put into it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_permissions: Option<String>,
}

impl QueryReport {
    /// Of a query.
    pub fn of(ast: &Ast) -> QueryReport {
        let json = ast.to_json();
        let text = json.to_string();
        QueryReport {
            zql: query_text::canonical(ast, &Format::default()),
            hash: ast_hash(&json),
            ast: serde_json::from_str(&text).unwrap_or_default(),
            after_permissions: None,
        }
    }
}

/// What a query was explained with.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceReport {
    /// `replica` or `statistics`.
    pub kind: &'static str,
    /// The version that was read.
    pub version: String,
    /// Whether the query was run and measured.
    pub analyzed: bool,
}

/// Sums over the query.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Rows that SQLite visited.
    pub rows_visited: Option<u64>,
    /// Rows that SQLite gave to the planner's operators.
    pub rows_read: Option<u64>,
    /// Distinct rows of the answer.
    pub rows_out: Option<u64>,
    /// Rows that the answer is expected to have.
    pub rows_estimated: f64,
    /// Bytes of the values that SQLite gave.
    pub bytes_read: Option<u64>,
    /// Statements started.
    pub executions: Option<u64>,
    /// Time to run it.
    pub ms: Option<f64>,
    /// Time to plan it.
    pub plan_ms: f64,
    /// Expected cost.
    pub cost: f64,
}

/// A node of the query: one access to a table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Its number, in preorder.
    pub id: usize,
    /// The table.
    pub table: String,
    /// The relationship's name; empty for the root.
    pub alias: String,
    /// `root`, `related` or `exists`.
    pub role: &'static str,
    /// Whether an EXISTS is negated.
    pub negated: bool,
    /// How an EXISTS is decided: `flipped` (its keys are collected first, and rows looked up by them), `joined` (its keys
    /// are collected once and compared) or `probed` (for each row).
    pub decided: Option<&'static str>,
    /// The node above.
    pub parent: Option<usize>,
    /// Pairs of columns that tie its rows to those above: of the parent, of this table.
    pub on: Vec<(String, String)>,
    /// Whether its rows are sent to clients.
    pub synced: bool,
    /// Distinct keys of the parent's rows that it was expected to be read by.
    pub keys_estimated: Option<f64>,
    /// Those that it was read by.
    pub keys: Option<u64>,
    /// How many rows its table has.
    pub table_rows: f64,
    /// Rows expected.
    pub rows_estimated: f64,
    /// Rows that came.
    pub rows: Option<u64>,
    /// Bytes of their values.
    pub bytes: Option<u64>,
    /// Rows that SQLite visited for it.
    pub rows_visited: Option<u64>,
    /// Time for it.
    pub ms: Option<f64>,
    /// Expected cost.
    pub cost: f64,
    /// Why it has no plan of its own.
    pub without_plan: Option<&'static str>,
    /// Its plan.
    pub plan: Option<Operator>,
    /// The plans that were priced, the cheapest first, the chosen one among them.
    pub alternatives: Vec<Alternative>,
}

/// An operator of a plan.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Operator {
    /// What it does.
    pub label: String,
    /// The node whose rows it handles.
    pub node: usize,
    /// Rows expected.
    pub rows_estimated: f64,
    /// Rows that came.
    pub rows: Option<u64>,
    /// How many times off the estimate was, if by ten times or more. Above 1: more came than expected.
    pub off: Option<f64>,
    /// Expected cost, inputs included.
    pub cost: f64,
    /// Time without its inputs.
    pub ms: Option<f64>,
    /// How it reads its table, if it does.
    pub access: Option<Access>,
    /// Where its rows come from.
    pub inputs: Vec<Operator>,
}

/// How an operator reads a table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// The table.
    pub table: String,
    /// `scan`, `search` (by an index) or `rowid`.
    pub method: &'static str,
    /// The indexes that SQLite uses for the table.
    pub indexes: Vec<String>,
    /// Whether SQLite sorts.
    pub sorts: bool,
    /// What is sent to SQLite.
    pub sql: String,
    /// The constants of the statement, by parameter; parameters before the first are keys.
    pub parameters: Vec<Parameter>,
    /// SQLite's own plan.
    pub sqlite_plan: Vec<SqlitePlanLine>,
    /// How often the statement was started.
    pub executions: Option<u64>,
    /// Rows that it gave.
    pub rows_read: Option<u64>,
    /// Rows that SQLite visited for that.
    pub rows_visited: Option<u64>,
    /// Bytes of the values that it gave.
    pub bytes: Option<u64>,
    /// Time in SQLite, decoding included.
    pub ms: Option<f64>,
    /// The first rows that it gave, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vended_rows: Option<Vec<serde_json::Value>>,
}

/// A constant of a statement.
#[derive(Clone, Debug, Serialize)]
pub struct Parameter {
    /// Its name: `?1`.
    pub name: String,
    /// Its value.
    pub value: serde_json::Value,
}

/// A line of SQLite's plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SqlitePlanLine {
    /// How deep it stands.
    pub depth: usize,
    /// As SQLite says it.
    pub text: String,
    /// How often the loop was started.
    pub loops: Option<u64>,
    /// Rows that it visited.
    pub visited: Option<u64>,
}

/// A plan that was priced, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alternative {
    /// What the node is read for: `rows`, `keys` of an EXISTS, or a `branch` of an OR.
    pub purpose: &'static str,
    /// How.
    pub what: String,
    /// Expected cost; absent if it is not possible.
    pub cost: Option<f64>,
    /// Expected rows.
    pub rows_estimated: Option<f64>,
    /// Whether it was chosen.
    pub chosen: bool,
    /// Why it was not.
    pub why: Option<String>,
}

/// A statement of SQLite, over all places that use it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatementReport {
    /// The table that it reads.
    pub table: String,
    /// Its text.
    pub sql: String,
    /// SQLite's plan.
    pub plan: Vec<SqlitePlanLine>,
    /// How often it was started.
    pub executions: u64,
    /// Rows that it gave.
    pub rows_read: u64,
    /// Rows that SQLite visited for that.
    pub rows_visited: u64,
    /// Time in SQLite.
    pub ms: f64,
}

/// How the answer is kept current.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Maintenance {
    /// The nodes of the graph.
    pub nodes: Vec<GraphNode>,
    /// What a change of one row costs, by table.
    pub changes: Vec<ChangeCost>,
    /// Rows that are held.
    pub rows: f64,
    /// Bytes of the state.
    pub bytes: f64,
    /// Whether sizes are those of a graph that was built, rather than estimates.
    pub measured: bool,
}

/// A node of the maintenance graph.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GraphNode {
    /// Its number.
    pub id: usize,
    /// Its table.
    pub table: String,
    /// The relationship's name.
    pub alias: String,
    /// What it keeps.
    pub keeps: String,
    /// Columns that decide whether a row is in.
    pub reacts_to: Vec<String>,
    /// Columns whose values name its groups.
    pub group_columns: Vec<String>,
    /// The ways in which a change of its table finds it.
    pub found_by: Vec<String>,
    /// Groups that are held.
    pub groups: f64,
    /// Rows that are held.
    pub rows: f64,
    /// Bytes of its state.
    pub bytes: f64,
}

/// What the change of one row of a table costs the query.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeCost {
    /// The table.
    pub table: String,
    /// The share of its rows whose change reaches the query.
    pub reaches: f64,
    /// Expected cost when it does.
    pub cost_when_reached: f64,
    /// Expected cost of a change of any row.
    pub cost: f64,
    /// What is read of the replica then.
    pub reads: Vec<String>,
    /// What changes that reach it took, if that was tried on a copy.
    pub measured: Option<MeasuredChanges>,
}

/// Changes that were made on a copy of the data and undone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MeasuredChanges {
    /// How many.
    pub changes: usize,
    /// Microseconds that keeping the answer current took for half of them at most.
    pub median: f64,
}

/// Something to do, or to know.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Advice {
    /// `index`, `correlation`, `sort`, `limit`, `size` or `filter`.
    pub kind: &'static str,
    /// A statement for Postgres.
    pub sql: Option<String>,
    /// The index that it makes, in the replica's names.
    pub index: Option<AdvisedIndex>,
    /// Why.
    pub why: String,
    /// How many times cheaper it becomes, if that was tried.
    pub gain: Option<f64>,
    /// What the gain is of: `query` or `changes`.
    pub gain_of: Option<&'static str>,
    /// What answering the query costs before and after, in microseconds.
    pub query_cost: Option<(f64, f64)>,
    /// What a change that reaches the query costs before and after, over all tables.
    pub changes_cost: Option<(f64, f64)>,
    /// What every change of the table costs besides, because the index is written, in microseconds.
    pub write_cost: Option<f64>,
    /// Milliseconds before and after on a copy of the data with the index, if that was asked for.
    pub measured_ms: Option<(f64, f64)>,
    /// Rows visited before and after on that copy.
    pub measured_visited: Option<(u64, u64)>,
}

/// An index that does not exist yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdvisedIndex {
    /// The table.
    pub table: String,
    /// Its columns with their directions, `asc` or `desc`.
    pub columns: Vec<(String, &'static str)>,
}

impl Advice {
    /// What becomes cheaper and how many times, with the costs before and after: what is worth telling.
    pub fn gains(&self) -> Vec<(&'static str, f64, (f64, f64))> {
        let gains = [("to answer", self.query_cost), ("to keep current", self.changes_cost)];
        let gains = gains.into_iter().filter_map(|(what, cost)| {
            let (before, after) = cost?;
            Some((what, before / after.max(1e-9), (before, after)))
        });
        gains.filter(|(_, gain, _)| *gain >= 1.1).collect()
    }

    /// Advice without a statement.
    pub(crate) fn note(kind: &'static str, why: String) -> Advice {
        Advice {
            kind,
            sql: None,
            index: None,
            why,
            gain: None,
            gain_of: None,
            query_cost: None,
            changes_cost: None,
            write_cost: None,
            measured_ms: None,
            measured_visited: None,
        }
    }
}

impl Report {
    /// All operators of all nodes, in the order in which they are shown.
    pub fn operators(&self) -> Vec<&Operator> {
        fn walk<'r>(operator: &'r Operator, into: &mut Vec<&'r Operator>) {
            into.push(operator);
            operator.inputs.iter().for_each(|input| walk(input, into));
        }
        let mut operators = Vec::new();
        self.nodes.iter().filter_map(|node| node.plan.as_ref()).for_each(|plan| walk(plan, &mut operators));
        operators
    }
}
