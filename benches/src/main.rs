//! The benchmarks of planning, hydration and maintenance in one process: `make bench`.
//!
//! Each part prints a table, and the run is written to `benches/results` as Markdown, JSON and charts. What a part
//! aims for is written beside what it found. Ratios are taken within one run, by turns, because the machine may be
//! doing other things; they are what a run is compared by.

mod answer;
mod burst;
mod chart;
mod hand;
mod hot_path;
mod hydration;
mod large;
mod maintenance;
mod measure;
mod memory;
mod planning;
mod report;
mod suite;
mod tracker;
mod world;
mod written;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use report::Report;

/// The server's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Planning,
    Hydration,
    Memory,
    Maintenance,
    Large,
    Burst,
    HotPath,
    /// Every query of the conformance suite; takes long and is only measured when named.
    Suite,
}

/// Measures hydration and maintenance.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; everything when absent.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Numbers of issues to hydrate from.
    #[arg(long, value_delimiter = ',', default_value = "100000,1000000")]
    issues: Vec<i64>,
    /// Hydrate only queries whose name has this in it.
    #[arg(long, default_value = "")]
    query: String,
    /// Milliseconds for each query.
    #[arg(long, default_value_t = 1000)]
    budget: u64,
    /// Where to write the results.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Accept the instructions that are counted as what later runs may not exceed.
    #[arg(long)]
    accept: bool,
    /// The name of the results.
    #[arg(long, default_value = "bench")]
    name: String,
    /// Run one query of the memory benchmark in this process.
    #[arg(long, hide = true, requires = "replica")]
    memory_of: Option<usize>,
    /// Run the work whose instructions are counted in this process.
    #[arg(long, hide = true, requires = "replica")]
    hot_path: bool,
    /// The replica for it.
    #[arg(long, hide = true)]
    replica: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let (Some(number), Some(replica)) = (arguments.memory_of, &arguments.replica) {
        return memory::child(number, replica);
    }
    if let (true, Some(replica)) = (arguments.hot_path, &arguments.replica) {
        return hot_path::child(replica);
    }
    // A run of some parts is not recorded unless it is said where.
    let recorded = arguments.parts.is_empty() || arguments.output.is_some();
    let folder = arguments.output.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("results"));
    let before = Report::recorded(&folder, &arguments.name);
    let machine = measure::machine();
    let named = |part: Part| arguments.parts.contains(&part);
    let wanted = |part: Part| arguments.parts.is_empty() || named(part);
    let mut report = Report::default();
    if wanted(Part::Planning) {
        planning::run(&mut report)?;
    }
    if wanted(Part::Hydration) {
        for &issues in &arguments.issues {
            hydration::run(issues, &arguments.query, Duration::from_millis(arguments.budget), &mut report)?;
        }
    }
    if wanted(Part::Memory) {
        memory::run(arguments.issues.iter().copied().max().unwrap_or(1), &mut report)?;
    }
    if wanted(Part::Maintenance) {
        maintenance::run(&mut report)?;
    }
    if wanted(Part::Large) {
        large::run(&mut report)?;
    }
    if wanted(Part::Burst) {
        burst::run(&mut report)?;
    }
    if wanted(Part::HotPath) {
        let accepted = folder.join("instructions.json");
        hot_path::run(&accepted, arguments.accept, &mut report)?;
    }
    if named(Part::Suite) {
        let mut selection = suite::Selection::all();
        for &issues in &arguments.issues {
            let budget = Duration::from_millis(arguments.budget);
            selection = suite::run(issues, &arguments.query, &selection, budget, &mut report)?;
        }
    }
    if recorded {
        let command = if named(Part::Suite) { "make bench-suite" } else { "make bench" };
        report.write(&folder, &arguments.name, &machine, command, before)?;
        eprintln!("written to {}", folder.display());
    }
    report.judge()
}
