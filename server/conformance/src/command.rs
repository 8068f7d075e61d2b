//! `zql conformance`: the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, FromArgMatches};
use indicatif::ProgressBar;
use testdata::postgres::{Options, Postgres};
use testdata::sync_server::Program;
use zql_spec::conformance::Case;

use crate::fuzz::fuzz;
use crate::lanes::{Subject, run_all};
use crate::progress;
use crate::report::{self, Format};
use crate::suite::Suite;
use crate::target::{Target, own_program};

/// Run the test suite of ZQL on implementations of it.
#[derive(Debug, Args)]
pub(crate) struct Conformance {
    /// Only cases whose file or name contains one of these texts.
    filter: Vec<String>,
    /// Implementations without a server: naive, in-process and postgres if this is absent, none with --target.
    #[arg(long, value_delimiter = ',')]
    on: Option<Vec<Kind>>,
    /// Start a server with a private Postgres and test it.
    #[arg(long, value_delimiter = ',')]
    server: Vec<Server>,
    /// How many of each server of --server, among which the cases are dealt out.
    #[arg(long, default_value_t = 3, value_name = "N")]
    instances: usize,
    /// Test a server that runs: ws://host:port. It must ask for named queries at the address of --queries.
    #[arg(long, requires = "upstream")]
    target: Option<String>,
    /// The database that the server of --target replicates. The suite makes its tables there and drops them at the end.
    #[arg(long)]
    upstream: Option<String>,
    /// Drop what a run with --target that was killed left in its database.
    #[arg(long, requires = "target")]
    clean: bool,
    /// Where to answer a server's questions for named queries; its ZERO_QUERY_URL is http://ADDRESS/query.
    #[arg(long, default_value = "127.0.0.1:4999", value_name = "ADDRESS")]
    queries: SocketAddr,
    /// The server of --target is the published zero-cache: cases that name one of its defects may fail.
    #[arg(long)]
    reference: bool,
    /// A folder of cases instead of those that are built in.
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Fill in what the cases of the folder expect from the naive evaluator, and what they cover; a human reads the diff.
    #[arg(long, requires = "cases", conflicts_with_all = ["filter", "on", "server", "target"])]
    rewrite: bool,
    /// Print what all cases cover.
    #[arg(long, conflicts_with_all = ["filter", "on", "server", "target"])]
    matrix: bool,
    /// Random queries and transactions over the data sets instead of the cases.
    #[arg(long, conflicts_with_all = ["rewrite", "matrix", "filter"])]
    fuzz: bool,
    /// For how many seconds to do that.
    #[arg(long, default_value_t = 30, requires = "fuzz", value_name = "N")]
    seconds: u64,
    /// The number of the first round; another one each time when absent.
    #[arg(long, requires = "fuzz", value_name = "S")]
    seed: Option<u64>,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// An implementation without a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Naive,
    InProcess,
    Postgres,
    /// None of them.
    None,
}

/// A server that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Server {
    /// This project's.
    Zql,
    /// The npm package that the project pins.
    ZeroCache,
}

/// The subcommand, for a binary to add to its own.
pub fn command() -> clap::Command {
    Conformance::augment_args(
        clap::Command::new("conformance").about("Run the test suite of ZQL on this server, on others and on Postgres"),
    )
}

/// Runs the subcommand. Exit codes: 0 when all passed, 1 when something failed, 2 when it could not be run.
pub fn main(matches: &clap::ArgMatches) -> ExitCode {
    let arguments = match Conformance::from_arg_matches(matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    match arguments.run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// A seed that was hardly used before.
fn new_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |since| since.as_millis() as u64)
}

/// A Postgres, or why it is needed and what can be done without it.
fn needed<T>(started: Result<T>, for_servers: bool) -> Result<T> {
    let without = if for_servers { "" } else { "; without one: --on naive,in-process" };
    started.with_context(|| format!("a private Postgres is needed{without}"))
}

impl Conformance {
    /// Runs; tells whether nothing failed.
    fn run(&self) -> Result<bool> {
        let mut suite = match &self.cases {
            Some(folder) => Suite::folder(folder)?,
            None => Suite::built_in()?,
        };
        if self.rewrite {
            let written = suite.rewrite()?;
            println!("{}", if written.is_empty() { "nothing changed".to_owned() } else { written.join("\n") });
            return Ok(true);
        }
        if self.matrix {
            print!("{}", suite.matrix()?.print());
            return Ok(true);
        }
        let starting = progress::starting(progress::target(self.format));
        let on = self.on();
        let postgres = if on.contains(&Kind::Postgres) || !self.server.is_empty() {
            starting.set_message("a private Postgres is started");
            Some(needed(Postgres::start(Options::default()), !self.server.is_empty())?)
        } else {
            None
        };
        let targets = self.targets(&suite, postgres.as_ref(), &starting)?;
        starting.finish_and_clear();
        let mut subjects = Vec::new();
        for kind in &on {
            subjects.push(match kind {
                Kind::Naive => Subject::Naive,
                Kind::InProcess => Subject::InProcess,
                Kind::Postgres => Subject::Postgres(postgres.as_ref().context("Postgres was started")?),
                Kind::None => continue,
            });
        }
        subjects.extend(targets.iter().map(|(targets, reference)| Subject::Live { targets, reference: *reference }));
        let wanted = |file: &str, case: &Case| {
            self.filter.is_empty() || self.filter.iter().any(|text| file.contains(text) || case.name.contains(text))
        };
        let what = if self.fuzz { "seconds" } else { "cases" };
        let progress = progress::running(progress::target(self.format), what);
        let results = if self.fuzz {
            let seed = self.seed.unwrap_or_else(new_seed);
            if self.format == Format::Text {
                eprintln!("rounds from --seed {seed} on, for {} seconds", self.seconds);
            }
            fuzz(&suite, &subjects, seed, Duration::from_secs(self.seconds), &progress)
        } else {
            run_all(&suite, &subjects, &wanted, &progress)
        };
        progress.finish_and_clear();
        let results = results?;
        if results.is_empty() {
            bail!("no case was run");
        }
        println!("{}", report::print(&results, self.format).trim_end());
        let failures = report::failures(&results);
        let logs = targets.iter().flat_map(|(targets, _)| targets).map(|target| (&target.name, target.log()));
        for (name, log) in logs.filter(|(_, log)| failures > 0 && !log.is_empty()) {
            eprintln!("log of {name}:\n{log}");
        }
        Ok(failures == 0)
    }

    /// The live servers by kind, and whether it is the reference.
    fn targets(
        &self,
        suite: &Suite,
        postgres: Option<&Postgres>,
        starting: &ProgressBar,
    ) -> Result<Vec<(Vec<Target>, bool)>> {
        let mut targets = Vec::new();
        for server in &self.server {
            let program = match server {
                Server::Zql => own_program()?,
                Server::ZeroCache => Program::ZeroCache,
            };
            let postgres = postgres.context("Postgres was started")?;
            // Random rounds are run by one client.
            let instances = if self.fuzz { 1 } else { self.instances.max(1) };
            let start = |instance: usize| {
                starting.set_message(format!("{} is started ({} of {instances})", program.name(), instance + 1));
                Target::start(program.clone(), postgres, &suite.data)
            };
            let started = (0..instances).map(start).collect::<Result<Vec<_>>>()?;
            targets.push((started, *server == Server::ZeroCache));
        }
        if let (Some(url), Some(upstream)) = (&self.target, &self.upstream) {
            starting.set_message(format!("{url} learns of the suite's tables"));
            let target = Target::running(url, upstream, self.queries, &suite.data, self.clean)?;
            targets.push((vec![target], self.reference));
        }
        Ok(targets)
    }

    /// Implementations without a server.
    fn on(&self) -> Vec<Kind> {
        match (&self.on, &self.target) {
            (Some(on), _) => on.clone(),
            (None, Some(_)) => Vec::new(),
            (None, None) => vec![Kind::Naive, Kind::InProcess, Kind::Postgres],
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn who_has_no_postgres_is_told_what_to_install_and_what_can_be_run_without() {
        for (for_servers, expected) in [
            (false, "a private Postgres is needed; without one: --on naive,in-process: no initdb"),
            // A server that is started replicates from it.
            (true, "a private Postgres is needed: no initdb"),
        ] {
            let error = needed::<()>(Err(anyhow!("no initdb")), for_servers).unwrap_err();
            assert_eq!(format!("{error:#}"), expected);
        }
    }
}
