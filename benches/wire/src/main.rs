//! Measures the published zero-cache and this server side by side: one run, one Postgres, the same data and client.
//!
//! Queries from connect to the poke that completes, and mutations, the servers taking turns; then many client groups at once, and many
//! on one list while a writer commits, one server at a time. Prints a row a query with the ratio and writes the run to
//! `benches/results`. It must not know the inside of either server.

mod api;
mod cases;
mod connect;
mod fanout;
mod hydrate;
mod pushes;
mod report;
mod servers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use testdata::postgres::{Options, Postgres};
use testdata::process::{Usage, descendants, usage};
use testdata::tracker::Sizes;

use crate::cases::{CASES, Case, MORE_TABLES, distinct};
use crate::fanout::{Load, fan_out};
use crate::hydrate::hydrate;
use crate::report::{Report, Samples};
use crate::servers::{Kind, Setup};

/// Measures the published zero-cache and this server side by side.
#[derive(Debug, Parser)]
struct Arguments {
    /// Servers to measure.
    #[arg(long, value_delimiter = ',', default_value = "zero-cache,zql")]
    servers: Vec<Kind>,
    /// Queries to measure: list, key, exists, exists-indexed, search, or, large. All when absent; `none` for none.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// How often the servers take turns.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Client groups that watch one list; 0 leaves this part out.
    #[arg(long, default_value_t = 50)]
    groups: u32,
    /// Commits a second while they watch.
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// For how many seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Client groups that connect at once; 0 leaves this part out.
    #[arg(long, default_value_t = 300)]
    connects: u32,
    /// How often the servers take turns with mutations; 0 leaves this part out.
    #[arg(long, default_value_t = 3)]
    pushes: u32,
    /// Where to write the run; a name with the date in benches/results when absent.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    eprintln!("starting Postgres and loading {:?}", Sizes::BENCH);
    let (name, value) = connect::COUNTING;
    let settings = vec![(name.to_owned(), value.to_owned())];
    let postgres = Postgres::start(Options { settings, ..Options::default() })?;
    let database = postgres.database()?;
    Sizes::BENCH.load(&postgres, &database)?;
    postgres.psql(&database, MORE_TABLES)?;
    let folder = tempfile::Builder::new().prefix("zql-bench-").tempdir()?;
    let setup = Setup {
        database: database.clone(),
        api_url: api::start(&database).await?,
        folder: folder.path().to_path_buf(),
    };

    let mut report = Report::new();
    let cases: Vec<&'static Case> = CASES
        .iter()
        .filter(|case| arguments.cases.is_empty() || arguments.cases.iter().any(|name| name == case.name))
        .collect();
    hydrations(&arguments, &setup, &cases, &mut report).await.context("measuring hydration")?;
    if arguments.pushes > 0 {
        eprintln!("mutations");
        report.pushes = pushes::pushes(&setup, &postgres, &arguments.servers, arguments.pushes).await?;
    }
    if arguments.connects > 0 {
        for kind in &arguments.servers {
            let server = setup.start(*kind)?;
            eprintln!("{}: {} groups at once", kind.name(), arguments.connects);
            let outcome = connect::connect(&server, &postgres, &database, arguments.connects)
                .await
                .with_context(|| format!("connects to {}: {}", kind.name(), server.log_tail()))?;
            report.connect.insert(*kind, outcome);
        }
    }
    if arguments.groups > 0 {
        let load = Load { groups: arguments.groups, commits_per_second: arguments.rate, seconds: arguments.seconds };
        let postmaster = postgres.pid()?;
        report.load = Some(load);
        for kind in &arguments.servers {
            // Alone: the other one would replicate the same commits.
            let server = setup.start(*kind)?;
            eprintln!(
                "{}: {} groups, {} commits/s, {} s",
                kind.name(),
                load.groups,
                load.commits_per_second,
                load.seconds
            );
            let postgres_usage = || -> Usage { usage(&descendants(postmaster)) };
            let outcome = fan_out(&server, &database, load, postgres_usage)
                .await
                .with_context(|| format!("fan-out of {}: {}", kind.name(), server.log_tail()))?;
            report.fan_out.insert(*kind, outcome);
        }
    }
    println!("{report}");
    let path = report.write(arguments.output)?;
    eprintln!("written to {}", path.display());
    Ok(())
}

async fn hydrations(arguments: &Arguments, setup: &Setup, cases: &[&'static Case], report: &mut Report) -> Result<()> {
    if cases.is_empty() {
        return Ok(());
    }
    let mut running = Vec::new();
    for kind in &arguments.servers {
        let begun = Instant::now();
        let server = setup.start(*kind)?;
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!("{} is ready after {seconds:.1} s", kind.name());
        report.start_seconds.insert(*kind, seconds);
        running.push((*kind, server));
    }
    let mut number = 0;
    for case in cases {
        let ast = (case.ast)();
        let mut samples: BTreeMap<Kind, Samples> = BTreeMap::new();
        for round in 0..=arguments.rounds {
            // The first round warms caches and compilers and is not counted.
            let repeats = if round == 0 { 1 } else { case.repeats };
            for (kind, server) in &running {
                for _ in 0..repeats {
                    number += 1;
                    let held = hydrate(&server.url(), &distinct(&ast, number))
                        .await
                        .with_context(|| format!("{} of {}: {}", case.name, kind.name(), server.log_tail()))?;
                    if round > 0 {
                        samples.entry(*kind).or_default().add(held.sample);
                    }
                }
            }
        }
        for (kind, samples) in &samples {
            eprintln!("{:7} {:10} {:9.1} ms, {} rows", case.name, kind.name(), samples.median(), samples.rows);
        }
        report.hydration.push((case, samples));
    }
    Ok(())
}
