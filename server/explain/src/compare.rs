//! What two explanations differ in: of one query on two replicas, or of two versions of a query on one.
//!
//! Nodes are matched by their way from the root (names of relationships), so a node that comes or goes does
//! not make all others differ. Numbers that are within a tenth of each other count as equal. Which of the two it is,
//! two sources or two queries, is told by the files.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use planner::Planner;
use planner::explain::report::{NodeReport, Operator, Report};
use serde::Serialize;
use serde_json::json;

use crate::access::Access;
use crate::arguments::{Explain, Format};
use crate::json::Error;
use crate::queries::{Fault, Named, Queries, read_file, read_queries, read_schema};
use crate::sources::Source;
use crate::text::{self, Canvas, Ink, Page};
use crate::units::{count, size, time};

/// Numbers that differ by less are as good as equal.
const ALIKE: f64 = 0.1;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Difference {
    /// Where: a node, `totals`, `advice`, `indexes`.
    at: String,
    /// What of it.
    what: &'static str,
    /// In A; absent where A has none.
    a: Option<String>,
    /// In B.
    b: Option<String>,
}

/// What there is to tell of a query: what it is called, how each side explains it, and what they differ in.
#[derive(Serialize)]
struct Pair {
    name: Option<String>,
    differences: Vec<Difference>,
    a: Option<Report>,
    b: Option<Report>,
}

impl Pair {
    fn new(name: Option<String>, a: Option<Report>, b: Option<Report>) -> Pair {
        let differences = match (&a, &b) {
            (Some(a), Some(b)) => differences(a, b),
            // A query that one side lacks.
            (a, b) => {
                let text = |report: &Option<Report>| report.as_ref().map(|report| report.query.zql.clone());
                vec![Difference { at: "query".to_owned(), what: "text", a: text(a), b: text(b) }]
            }
        };
        Pair { name, differences, a, b }
    }
}

/// Compares what two files lead to.
pub(crate) fn run(
    arguments: &Explain,
    a: &Path,
    b: &Path,
    page: Page,
    (out, told): (&mut dyn Write, &mut dyn Write),
) -> Result<u8> {
    let mut faults = Vec::new();
    let pairs = match (Source::is_one(a)?, Source::is_one(b)?) {
        (true, true) => of_sources(arguments, a, b, &mut faults)?,
        (false, false) => of_queries(arguments, a, b, &mut faults)?,
        (one, _) => {
            let (source, queries) = if one { (a, b) } else { (b, a) };
            bail!(
                "{} is a replica or a statistics file, and {} is none: compare two of them, or two files of queries with \
                 --replica",
                source.display(),
                queries.display()
            );
        }
    };
    if pairs.is_empty() {
        return Err(Fault::all(faults));
    }
    match arguments.format {
        Format::Json => {
            let told = json!({ "comparisons": pairs, "errors": Error::all(&faults) });
            serde_json::to_writer_pretty(&mut *out, &told)?;
            writeln!(out)?;
        }
        Format::Text => {
            let mut canvas = Canvas::new(page);
            pairs.iter().for_each(|pair| show(&mut canvas, pair));
            out.write_all(canvas.finish().as_bytes())?;
        }
    }
    out.flush()?;
    // B is what is to come, and has to keep within the limits.
    let exceeded = pairs.iter().filter_map(|pair| crate::limits(arguments, pair.b.as_ref()?));
    crate::exit_code(&exceeded.collect::<Vec<_>>(), &faults, told)
}

/// One query or several on two replicas.
fn of_sources(arguments: &Explain, a: &Path, b: &Path, faults: &mut Vec<Fault>) -> Result<Vec<Pair>> {
    let (a, b) = (Source::open(a)?, Source::open(b)?);
    crate::limits_need_a_run(arguments, b.subject())?;
    let Queries { good, bad } = Access::read(arguments, None)?.apply(read_queries(arguments)?);
    faults.extend(bad);
    let mut pairs = Vec::new();
    for query in &good {
        // A planner remembers statistics for a while, so each side has its own.
        let one = crate::explain(&Planner::new(), a.subject(), query, arguments);
        let other = crate::explain(&Planner::new(), b.subject(), query, arguments);
        let mut report = |side: &str, report: Result<Report>| match report {
            Ok(report) => Some(report),
            Err(error) => {
                faults.push(Fault::of(query, error.context(side.to_owned())));
                None
            }
        };
        if let (Some(one), Some(other)) = (report("on A", one), report("on B", other)) {
            let mut pair = Pair::new(query.name.clone(), Some(one), Some(other));
            pair.differences.extend(only("indexes", "index", &index_names(&a), &index_names(&b)));
            pairs.push(pair);
        }
    }
    Ok(pairs)
}

/// Two versions of queries on one replica. Queries are matched by their names; one in each file needs none.
fn of_queries(arguments: &Explain, a: &Path, b: &Path, faults: &mut Vec<Fault>) -> Result<Vec<Pair>> {
    let source = Source::open(arguments.replica()?)?;
    crate::limits_need_a_run(arguments, source.subject())?;
    let (schema, access) = (read_schema(arguments)?, Access::read(arguments, Some(&source))?);
    let mut read = |file: &Path| -> Result<Vec<Named>> {
        let Queries { good, bad } = access.apply(read_file(file, schema.as_ref())?);
        faults.extend(bad);
        Ok(good)
    };
    let (mut ones, mut others) = (read(a)?, read(b)?);
    // What cannot be read in one file is no query that the other has alone.
    let broken: Vec<Option<String>> = faults.iter().map(|fault| fault.name.clone()).collect();
    ones.retain(|query| !broken.contains(&query.name));
    others.retain(|query| !broken.contains(&query.name));
    if ones.len() == 1 && others.len() == 1 && broken.is_empty() {
        ones[0].name = None;
        others[0].name = None;
    }
    let mut report = |query: &Named| {
        let report = crate::explain(&Planner::new(), source.subject(), query, arguments);
        report.map_err(|error| faults.push(Fault::of(query, error))).ok()
    };
    let mut pairs = Vec::new();
    for one in &ones {
        let other = others.iter().find(|other| other.name == one.name);
        match (report(one), other.map(&mut report)) {
            (Some(one), None) => pairs.push(Pair::new(one.name.clone(), Some(one), None)),
            (Some(one), Some(Some(other))) => pairs.push(Pair::new(one.name.clone(), Some(one), Some(other))),
            // Told as a fault already.
            (None, _) | (_, Some(None)) => {}
        }
    }
    for other in others.iter().filter(|other| !ones.iter().any(|one| one.name == other.name)) {
        if let Some(other) = report(other) {
            pairs.push(Pair::new(other.name.clone(), None, Some(other)));
        }
    }
    Ok(pairs)
}

fn index_names(source: &Source) -> Vec<String> {
    source.indexes().into_iter().map(|(table, columns)| format!("{table}({columns})")).collect()
}

/// All differences of two reports.
fn differences(a: &Report, b: &Report) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut add = |at: &str, what: &'static str, a: String, b: String| {
        if a != b {
            found.push(Difference { at: at.to_owned(), what, a: Some(a), b: Some(b) });
        }
    };
    add("query", "text", a.query.zql.clone(), b.query.zql.clone());
    let (one, other) = (&a.totals, &b.totals);
    let mut measured = |what: &'static str, a: Option<f64>, b: Option<f64>, unit: fn(f64) -> String| {
        if let (Some(a), Some(b)) = (a, b)
            && !alike(a, b)
        {
            add("totals", what, unit(a), unit(b));
        }
    };
    measured("rows", one.rows_out.map(|rows| rows as f64), other.rows_out.map(|rows| rows as f64), count);
    measured(
        "rows visited",
        one.rows_visited.map(|rows| rows as f64),
        other.rows_visited.map(|rows| rows as f64),
        count,
    );
    measured("time", one.ms.map(|ms| ms * 1e3), other.ms.map(|ms| ms * 1e3), time);
    measured("expected cost", Some(one.cost), Some(other.cost), time);
    measured("state", Some(a.maintenance.bytes), Some(b.maintenance.bytes), size);
    let paths = |report: &Report| -> Vec<(String, usize)> {
        report.nodes.iter().map(|node| (path(report, node), node.id)).collect()
    };
    let (in_a, in_b) = (paths(a), paths(b));
    for (path, id) in &in_a {
        let one = &a.nodes[*id];
        let Some((_, other)) = in_b.iter().find(|(other, _)| other == path) else {
            found.push(Difference { at: path.clone(), what: "node", a: Some(shape_of(one)), b: None });
            continue;
        };
        node_differences(path, one, &b.nodes[*other], &mut found);
    }
    for (path, id) in in_b.iter().filter(|(path, _)| !in_a.iter().any(|(other, _)| other == path)) {
        found.push(Difference { at: path.clone(), what: "node", a: None, b: Some(shape_of(&b.nodes[*id])) });
    }
    let advised = |report: &Report| -> Vec<String> {
        report.advice.iter().map(|advice| advice.sql.clone().unwrap_or_else(|| advice.why.clone())).collect()
    };
    found.extend(only("advice", "advice", &advised(a), &advised(b)));
    found
}

fn node_differences(path: &str, a: &NodeReport, b: &NodeReport, found: &mut Vec<Difference>) {
    let mut add = |what: &'static str, a: String, b: String| {
        if a != b {
            found.push(Difference { at: path.to_owned(), what, a: Some(a), b: Some(b) });
        }
    };
    add("plan", shape_of(a), shape_of(b));
    let numbers = [
        ("rows of the table", Some(a.table_rows), Some(b.table_rows)),
        ("rows", a.rows.map(|rows| rows as f64), b.rows.map(|rows| rows as f64)),
        ("rows visited", a.rows_visited.map(|rows| rows as f64), b.rows_visited.map(|rows| rows as f64)),
        ("rows expected", Some(a.rows_estimated), Some(b.rows_estimated)),
    ];
    for (what, a, b) in numbers {
        if let (Some(a), Some(b)) = (a, b)
            && !alike(a, b)
        {
            add(what, count(a), count(b));
        }
    }
}

/// What one list has and the other lacks.
fn only(at: &str, what: &'static str, a: &[String], b: &[String]) -> Vec<Difference> {
    let missing = |from: &[String], of: &String| !from.contains(of);
    let of_a = a.iter().filter(|of| missing(b, of)).map(|of| (Some(of.clone()), None));
    let of_b = b.iter().filter(|of| missing(a, of)).map(|of| (None, Some(of.clone())));
    of_a.chain(of_b).map(|(a, b)| Difference { at: at.to_owned(), what, a, b }).collect()
}

fn alike(a: f64, b: f64) -> bool {
    (a - b).abs() <= ALIKE * a.abs().max(b.abs())
}

/// The way to a node from the root.
fn path(report: &Report, node: &NodeReport) -> String {
    let own = if node.role == "exists" {
        format!("exists {}", node.alias.strip_prefix("zsubq_").unwrap_or(&node.alias))
    } else if node.alias.is_empty() {
        node.table.clone()
    } else {
        node.alias.clone()
    };
    match node.parent {
        Some(parent) => format!("{} / {own}", path(report, &report.nodes[parent])),
        None => own,
    }
}

/// The operators of a node's plan with the indexes that they use, on one line.
fn shape_of(node: &NodeReport) -> String {
    fn shape(operator: &Operator) -> String {
        let own = match &operator.access {
            Some(access) if access.indexes.is_empty() => {
                format!("{} {} by {}", operator.label, access.table, access.method)
            }
            Some(access) => format!("{} {} by index {}", operator.label, access.table, access.indexes.join(", ")),
            None => operator.label.clone(),
        };
        match operator.inputs.as_slice() {
            [] => own,
            inputs => format!("{own} ← {}", inputs.iter().map(shape).collect::<Vec<_>>().join(" + ")),
        }
    }
    node.plan.as_ref().map_or_else(|| node.without_plan.unwrap_or_default().to_owned(), shape)
}

fn show(canvas: &mut Canvas, pair: &Pair) {
    let (one, differences) = (pair.a.as_ref().or(pair.b.as_ref()), &pair.differences);
    let name = pair.name.clone().or_else(|| Some(one?.query.zql.clone())).unwrap_or_default();
    text::zql(canvas, &name);
    let source = |report: &Option<Report>| match report {
        Some(report) => format!("{} at version {}", report.source.kind, report.source.version),
        None => "has no such query".to_owned(),
    };
    let sources = format!("A: {} · B: {}", source(&pair.a), source(&pair.b));
    canvas.line([(Ink::Dim, sources.as_str())]);
    if differences.is_empty() {
        canvas.line([(Ink::Good, "nothing differs")]);
    }
    let mut at = "";
    for difference in differences {
        if difference.at != at {
            at = &difference.at;
            canvas.blank();
            canvas.line([(Ink::Name, at)]);
        }
        canvas.line([(Ink::Dim, "  "), (Ink::Dim, difference.what)]);
        if let Some(a) = &difference.a {
            canvas.wrapped("    A ", Ink::Bad, a);
        }
        if let Some(b) = &difference.b {
            canvas.wrapped("    B ", Ink::Good, b);
        }
    }
    canvas.blank();
}
