//! What came out: as a table for people and as JSON for comparing runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde_json::json;

use crate::cases::Case;
use crate::fanout::{Load, Outcome};
use crate::hydrate::Sample;
use crate::pushes::{self, Mutation};
use crate::servers::Kind;

/// How many times better than the reference the fan-out has to be.
const LATENCY_TARGET: f64 = 10.0;
const MEMORY_TARGET: f64 = 6.0;
const CPU_TARGET: f64 = 5.0;

/// Measurements of one query on one server.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(crate) struct Samples {
    pub milliseconds: Vec<f64>,
    pub rows: usize,
    pub bytes: usize,
}

impl Samples {
    pub(crate) fn add(&mut self, sample: Sample) {
        self.milliseconds.push(sample.milliseconds);
        self.rows = sample.rows;
        self.bytes = sample.bytes;
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.milliseconds)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub start_seconds: BTreeMap<Kind, f64>,
    pub hydration: Vec<(&'static Case, BTreeMap<Kind, Samples>)>,
    pub load: Option<Load>,
    pub fan_out: BTreeMap<Kind, Outcome>,
    pub connect: BTreeMap<Kind, crate::connect::Outcome>,
    pub pushes: BTreeMap<Mutation, BTreeMap<Kind, pushes::Outcome>>,
}

impl Report {
    pub(crate) fn new() -> Report {
        Report::default()
    }

    /// Writes the run as JSON.
    pub(crate) fn write(&self, output: Option<PathBuf>) -> Result<PathBuf> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let path = output.unwrap_or_else(|| {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../results").join(format!("wire-{seconds}.json"))
        });
        let cases: Vec<_> = self
            .hydration
            .iter()
            .map(|(case, samples)| json!({"case": case.name, "target": case.target, "servers": samples}))
            .collect();
        let run = json!({
            "unix_seconds": seconds,
            "cores": std::thread::available_parallelism().map(usize::from).unwrap_or(1),
            "start_seconds": self.start_seconds,
            "hydration": cases,
            "load": self.load,
            "fan_out": self.fan_out,
            "connect": self.connect,
            "pushes": self.pushes,
        });
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, serde_json::to_string_pretty(&run)? + "\n")?;
        Ok(path)
    }

    fn rows(&self) -> Vec<(String, [Option<f64>; 2], Option<f64>)> {
        let mut rows = Vec::new();
        for (case, samples) in &self.hydration {
            let of = |kind| samples.get(&kind).map(Samples::median);
            rows.push((format!("{}, ms", case.title), [of(Kind::ZeroCache), of(Kind::Zql)], case.target));
        }
        for (mutation, outcomes) in &self.pushes {
            let of = |what: fn(&pushes::Outcome) -> &[f64]| {
                [Kind::ZeroCache, Kind::Zql].map(|kind| outcomes.get(&kind).map(|outcome| median(what(outcome))))
            };
            // The ratio of a row is how many times less this server needs.
            let each = of(|outcome| &outcome.per_second).map(|rate| rate.map(|rate| 1e3 / rate));
            rows.push((format!("{} mutations of 20 clients: time a push, ms", mutation.name()), each, None));
            rows.push((format!("{} mutation alone, ms", mutation.name()), of(|outcome| &outcome.alone_ms), None));
        }
        if let Some(connect) = self.connect.values().next() {
            type What = fn(&crate::connect::Outcome) -> f64;
            let of = |what: What| [Kind::ZeroCache, Kind::Zql].map(|kind| self.connect.get(&kind).map(what));
            let name = format!("{} groups at once:", connect.groups);
            rows.push((format!("{name} until all have their rows, s"), of(|o| o.seconds), None));
            rows.push((format!("{name} memory a group then, kB"), of(|o| o.kilobytes_a_group_at_once), None));
            rows.push((format!("{name} memory a group that listens, kB"), of(|o| o.kilobytes_a_group), None));
            let further = |o: &crate::connect::Outcome| o.kilobytes_a_further_group;
            rows.push((format!("{name} memory a further group, kB"), of(further), None));
            rows.push((
                format!("{name} statements on records per 1 000 pokes"),
                of(|o| o.statements_a_poke * 1e3),
                None,
            ));
        }
        if let Some(load) = &self.load {
            let of =
                |what: fn(&Outcome) -> f64| [Kind::ZeroCache, Kind::Zql].map(|kind| self.fan_out.get(&kind).map(what));
            let name = format!("{} groups, {} commits/s:", load.groups, load.commits_per_second);
            rows.push((format!("{name} commit to client p50, ms"), of(|o| o.p50_ms), Some(LATENCY_TARGET)));
            rows.push((format!("{name} commit to client p99, ms"), of(|o| o.p99_ms), Some(LATENCY_TARGET)));
            rows.push((format!("{name} memory, MB"), of(|o| o.memory_mb), Some(MEMORY_TARGET)));
            rows.push((format!("{name} CPU of the server, s"), of(|o| o.cpu_seconds), Some(CPU_TARGET)));
            rows.push((format!("{name} CPU of Postgres, s"), of(|o| o.postgres_cpu_seconds), None));
        }
        rows
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        table.set_header(["", "zero-cache", "zql", "ratio", "wanted", ""]);
        for (name, [reference, ours], target) in self.rows() {
            let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.1}"));
            let ratio = reference.zip(ours).map(|(reference, ours)| reference / ours);
            let verdict =
                ratio.zip(target).map_or("", |(ratio, target)| if ratio >= target { "met" } else { "missed" });
            table.add_row([
                name,
                number(reference),
                number(ours),
                ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.1}×")),
                target.map_or("–".to_owned(), |target| format!("{target}×")),
                verdict.to_owned(),
            ]);
        }
        for column in 1..5 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        write!(f, "{table}")
    }
}
