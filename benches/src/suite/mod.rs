//! First answers to every query of the conformance suite, each against its lower bound ([`bound`]), in worlds of many copies of
//! the suite's data sets: `make bench-suite`.
//!
//! Nobody picked these queries, so they show what a picked list leaves out. Keys, and whatever relates rows, differ between
//! copies; all else is the same in all. Both sides must give the same rows. Each query is measured a few times by turns; one
//! that is above its target is measured again, longer, before it counts as that.

mod bound;
mod statement;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use engine::hydration::Hydrate;
use engine::query::Query;
use planner::Planner;
use testdata::world::{copies, definition, load_replica};
use zql_spec::conformance::{CaseFile, DataSet, query_of};

use self::bound::{Bound, Essence};
use crate::answer::{Answering, texts};
use crate::hand::Sink;
use crate::hydration::{SINGLE_TARGET, TARGET};
use crate::measure::turns;
use crate::report::{Cell, Report, Section};

/// How often a query above its target is measured again, and for how much longer.
const AGAIN: u32 = 2;
const LONGER: u32 = 10;

/// The share of a target up to which one measurement is enough.
const NEAR: f64 = 0.9;

/// How many queries are listed: those that are furthest from their bounds.
const LISTED: usize = 25;

/// Of a larger world every so manieth query is measured, and so many that came nearest to their targets in the one before:
/// a query takes its time ten times, and ten times the rows.
const EVERY: usize = 8;
const NEAREST: usize = 40;

/// Which queries are measured.
pub(crate) struct Selection {
    every: usize,
    named: HashSet<String>,
}

impl Selection {
    /// All queries.
    pub(crate) fn all() -> Selection {
        Selection { every: 1, named: HashSet::new() }
    }
}

/// A query of the suite.
struct Asked {
    name: String,
    query: Arc<Query>,
}

/// What came out for a query.
struct Outcome {
    name: String,
    rows: usize,
    target: f64,
    zql: f64,
    /// Microseconds by hand; none when each way by hand takes longer than twice the server.
    by_hand: Option<f64>,
    /// How it is read by hand.
    bound: String,
}

impl Outcome {
    /// At most 1 when nothing by hand was as fast.
    fn ratio(&self) -> f64 {
        self.by_hand.map_or(0.0, |by_hand| self.zql / by_hand)
    }

    fn held(&self) -> bool {
        self.ratio() <= self.target
    }
}

/// Measures the queries whose file or name contains `only`, in worlds with so many rows in each data set's largest table of
/// those that queries begin at. Gives what is to be measured in a larger one.
pub(crate) fn run(
    issues: i64,
    only: &str,
    selection: &Selection,
    budget: Duration,
    report: &mut Report,
) -> Result<Selection> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zql-spec/cases");
    let files = read(&cases, "case")?;
    let files: Vec<(String, CaseFile)> = files
        .into_iter()
        .map(|(name, text)| Ok((name.clone(), CaseFile::parse(&text).with_context(|| name)?)))
        .collect::<Result<_>>()?;
    let mut section = Section::new(
        &format!("suite-{issues}"),
        &format!("First answers to the conformance suite's queries over {issues} issues"),
        &["data set", "queries", "slower by hand", "median ratio", "95 of 100", "highest", "above the target"],
    );
    let mut all = Vec::new();
    for (name, text) in read(&cases.join("data"), "json")? {
        let data = DataSet::parse(&name, &text)?;
        let outcomes = of_data(&data, &files, issues, (only, selection), budget)?;
        if outcomes.is_empty() {
            continue;
        }
        let mut ratios: Vec<f64> = outcomes.iter().map(Outcome::ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |share: f64| ratios[((ratios.len() - 1) as f64 * share).round() as usize];
        let missed = outcomes.iter().filter(|outcome| !outcome.held()).count();
        section.row(vec![
            Cell::text(&name),
            Cell::count(outcomes.len()),
            Cell::count(outcomes.iter().filter(|outcome| outcome.by_hand.is_none()).count()),
            Cell::ratio(at(0.5)),
            Cell::ratio(at(0.95)),
            Cell::ratio(at(1.0)),
            Cell::count(missed).held(missed == 0),
        ]);
        all.extend(outcomes.into_iter().map(|outcome| (name.clone(), outcome)));
    }
    if selection.every > 1 {
        section.note(format!(
            "Of each data set every {EVERY}th query, and the {NEAREST} that came nearest to their targets in the smaller world."
        ));
    }
    report.add(section);
    let share = |outcome: &Outcome| outcome.ratio() / outcome.target;
    all.sort_by(|(_, one), (_, other)| share(other).total_cmp(&share(one)));
    let named = all.iter().take(NEAREST).map(|(_, outcome)| outcome.name.clone()).collect();
    report.add(furthest(issues, &all));
    Ok(Selection { every: EVERY, named })
}

/// The queries that come closest to their targets, or miss them.
fn furthest(issues: i64, all: &[(String, Outcome)]) -> Section {
    let mut section = Section::new(
        &format!("suite-furthest-{issues}"),
        &format!("Those furthest from their bounds over {issues} issues"),
        &["case", "data set", "rows", "by hand", "zql", "ratio", "at most"],
    );
    let missed = all.iter().filter(|(_, outcome)| !outcome.held()).count();
    for (data, outcome) in all.iter().take(LISTED.max(missed)) {
        section.row(vec![
            Cell::text(&outcome.name),
            Cell::text(data),
            Cell::count(outcome.rows),
            Cell::micros(outcome.by_hand.unwrap_or(f64::NAN)),
            Cell::micros(outcome.zql),
            Cell::ratio(outcome.ratio()).held(outcome.held()),
            Cell::ratio(outcome.target),
        ]);
    }
    section
}

/// Measures the queries over one data set.
fn of_data(
    data: &DataSet,
    files: &[(String, CaseFile)],
    issues: i64,
    selected: (&str, &Selection),
    budget: Duration,
) -> Result<Vec<Outcome>> {
    let definition = definition(data);
    let base = definition.tables.iter().map(|table| table.rows);
    let base = data.table("issue").map_or_else(|| base.max(), |issue| Some(data.database.rows(&issue.name).count()));
    let number = (issues as usize).div_ceil(base.unwrap_or(1).max(1));
    let folder = tempfile::tempdir()?;
    let begin = Instant::now();
    let replica = load_replica(definition, &folder.path().join("replica.db"), |table| {
        copies(definition, &data.database, number, table)
    })?;
    let snapshot = replica.pin()?;
    let asked = queries(data, files, &snapshot.schema, selected)?;
    eprintln!("  {}: {} queries, {number} copies made in {:.0?}", data.name, asked.len(), begin.elapsed());
    let reader = snapshot.reader()?;
    reader.read_much();
    reader.set_prepared_statement_cache_capacity(256);
    let answering = Answering { planner: Planner::new(), snapshot: &snapshot, texts: texts(&snapshot) };
    let mut outcomes = Vec::new();
    for Asked { name, query } in asked {
        let outcome = measure(&answering, &reader, &name, &query, budget).with_context(|| name.clone())?;
        if !outcome.held() {
            eprintln!("  ✗ {name}: {} rows, {:.1} µs, {:.2} times", outcome.rows, outcome.zql, outcome.ratio());
            eprintln!("{}\n{}", outcome.bound, answering.planner.explain(&query, &snapshot)?);
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// The distinct queries of the suite over a data set.
fn queries(
    data: &DataSet,
    files: &[(String, CaseFile)],
    schema: &zql_spec::schema::Schema,
    (only, selection): (&str, &Selection),
) -> Result<Vec<Asked>> {
    let mut seen = HashSet::new();
    let mut asked = Vec::new();
    for (file, cases) in files.iter().filter(|(_, file)| *file.data == *data.name) {
        for case in &cases.cases {
            let name = format!("{file}: {}", case.name);
            let Ok(query) = query_of(case, data) else { continue };
            let Ok(query) = Query::resolve(&query.ast, schema) else { continue };
            if !name.contains(only) || !seen.insert(format!("{:?}", query.nodes)) {
                continue;
            }
            if seen.len() % selection.every == 0 || selection.named.contains(&name) {
                asked.push(Asked { name, query: Arc::new(query) });
            }
        }
    }
    Ok(asked)
}

fn measure(
    answering: &Answering<'_>,
    reader: &engine::replica::Reader,
    name: &str,
    query: &Arc<Query>,
    budget: Duration,
) -> Result<Outcome> {
    let mut ours = Essence::new(query);
    let mut rows = 0;
    answering.planner.stream(query, answering.snapshot, &mut |node, row| {
        let mut text = String::new();
        answering.texts[&query.nodes[node].table.name].write_found(&row, &mut text)?;
        ours.row(query, node, &text);
        rows += 1;
        Ok(())
    })?;
    let begin = Instant::now();
    answering.write(query, &mut Sink::default())?;
    let once = begin.elapsed();
    let single = query.nodes.len() == 1;
    let mut outcome = Outcome {
        name: name.to_owned(),
        rows,
        target: if single { SINGLE_TARGET } else { TARGET },
        zql: once.as_secs_f64() * 1e6,
        by_hand: None,
        bound: String::new(),
    };
    // Twice the time, because what is compared costs a digest.
    let Some(bound) = Bound::find(reader, query, once * 2 + Duration::from_millis(2))? else { return Ok(outcome) };
    outcome.bound = bound.describe();
    let theirs = bound.essence()?;
    ensure!(ours == theirs, "not the rows by hand: {ours:?} is not {theirs:?}\n{}", outcome.bound);
    let (mut sink, mut other) = (Sink::default(), Sink::default());
    for again in 0..=AGAIN {
        // Both have run before. What takes long is measured once, unless that is near the target.
        let (budget, least) = if again == 0 { (budget, 1) } else { (budget * LONGER, 3) };
        let [by_hand, zql] = turns::<_, anyhow::Error>(
            budget,
            least,
            [&mut || bound.read(&mut sink), &mut || answering.write(query, &mut other)],
        )?;
        (outcome.by_hand, outcome.zql) = (Some(by_hand), zql);
        if outcome.ratio() <= if again == 0 { outcome.target * NEAR } else { outcome.target } {
            break;
        }
    }
    Ok(outcome)
}

/// The files of a folder by name, without their ending.
fn read(folder: &Path, ending: &str) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == ending) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, std::fs::read_to_string(&path)?));
        }
    }
    files.sort();
    Ok(files)
}
