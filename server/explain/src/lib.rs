//! `zql explain`: how queries are answered from a replica, or would be, without a server and without Postgres.
//!
//! [`arguments`] says what can be asked for, [`sources`] opens what queries are explained with, [`queries`] reads them,
//! [`access`] puts permissions and claims into them, [`text`], [`html`] and [`json`] are renderings of the planner's report,
//! [`compare`] of two. [`changes`] makes changes and [`check`] tries advice on a copy of the data; nothing here changes a replica.
//!
//! It must not know how a query is planned. Cost is that of the reports: a few runs of each query.

mod access;
pub mod arguments;
mod changes;
mod check;
mod compare;
mod html;
mod json;
mod queries;
mod sources;
mod text;
mod units;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use planner::Planner;
use planner::explain::report::{QueryReport, Report, Totals};
use planner::explain::{Options, Subject};

use access::Access;
use arguments::{Explain, Format, When};
use changes::Scratch;
use queries::{Fault, Named, Queries, read_queries};
use sources::Source;
pub use text::Page;

use text::Canvas;

/// The exit code when a query could not be explained, also if others could.
pub const FAULTY: u8 = 1;

/// The exit code when a limit was exceeded.
pub const LIMIT_EXCEEDED: u8 = 2;

/// The subcommand, for a binary to add to its own.
pub fn command() -> Command {
    Explain::augment_args(
        Command::new("explain").about("Show how queries are answered from a replica, and what they cost"),
    )
}

/// Runs the subcommand to its end.
pub fn main(matches: &ArgMatches) -> ExitCode {
    let arguments = match Explain::from_arg_matches(matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let colour = match arguments.color {
        When::Always => true,
        When::Never => false,
        When::Auto => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    let width = crossterm::terminal::size().map_or(120, |(columns, _)| usize::from(columns));
    // A pipe gets lines that do not depend on the terminal that happens to be there.
    let width = if std::io::stdout().is_terminal() { width } else { 120 };
    let mut out = std::io::stdout().lock();
    match run(&arguments, Page { width, colour }, &mut out, &mut std::io::stderr()) {
        Ok(code) => ExitCode::from(code),
        // Whoever reads has seen enough: `zql explain … | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Explains what the arguments say and writes it out; what exceeds limits or cannot be explained is told to `told`. Gives the
/// exit code.
///
/// # Errors
/// When an argument, a file or a query is at fault.
pub fn run(arguments: &Explain, page: Page, out: &mut dyn Write, told: &mut dyn Write) -> Result<u8> {
    if let Some(pair) = &arguments.compare {
        return compare::run(arguments, &pair[0], &pair[1], page, (out, told));
    }
    let source = Source::open(arguments.replica()?)?;
    if let Some(file) = &arguments.dump_stats {
        let text = source.statistics(arguments.with_values)?.to_text();
        if file.as_os_str() == "-" {
            writeln!(out, "{text}")?;
        } else {
            std::fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))?;
        }
        if !arguments.has_queries() {
            return Ok(0);
        }
    }
    limits_need_a_run(arguments, source.subject())?;
    let access = Access::read(arguments, Some(&source))?;
    let Queries { good: queries, bad: mut faults } = access.apply(read_queries(arguments)?);
    let planner = Planner::new();
    let asked = arguments.analyze == Some(true);
    let mut copy = match arguments.analyze.unwrap_or(true) && !queries.is_empty() {
        true => Scratch::new(&source, arguments.replica()?, asked)?,
        false => None,
    };
    let mut reports = Vec::with_capacity(queries.len());
    for query in &queries {
        let mut report = match explain(&planner, source.subject(), query, arguments) {
            Ok(report) => report,
            Err(error) => {
                faults.push(Fault::of(query, error));
                continue;
            }
        };
        if let Some(copy) = &mut copy
            && let Err(error) = copy.measure(&query.ast, &mut report)
        {
            report.warnings.push(format!("what changes cost could not be measured: {error:#}"));
        }
        if arguments.check_advice {
            check::check(&source, query, &mut report)?;
        }
        reports.push(report);
    }
    if reports.is_empty() {
        return Err(Fault::all(faults));
    }
    let exceeded: Vec<String> = reports.iter().filter_map(|report| limits(arguments, report)).collect();
    match arguments.format {
        Format::Json => json::print(&reports, &faults, out)?,
        Format::Text => {
            let mut canvas = Canvas::new(page);
            for report in &reports {
                text::report(&mut canvas, report);
            }
            if reports.len() > 1 {
                text::summary(&mut canvas, &reports);
            }
            out.write_all(canvas.finish().as_bytes())?;
        }
    }
    if let Some(file) = &arguments.html {
        std::fs::write(file, html::page(&reports)).with_context(|| format!("write {}", file.display()))?;
    }
    out.flush()?;
    exit_code(&exceeded, &faults, told)
}

/// Tells what is wrong; gives the exit code.
fn exit_code(exceeded: &[String], faults: &[Fault], told: &mut dyn Write) -> Result<u8> {
    for line in exceeded {
        writeln!(told, "{line}")?;
    }
    for fault in faults {
        writeln!(told, "{fault}")?;
    }
    Ok(match (faults, exceeded) {
        ([], []) => 0,
        // What could not be asked may exceed anything.
        ([_, ..], _) => FAULTY,
        ([], _) => LIMIT_EXCEEDED,
    })
}

/// A limit that nothing is measured against would pass always, which is not what it was set for.
fn limits_need_a_run(arguments: &Explain, subject: &Subject) -> Result<()> {
    let limited = arguments.max_rows_visited.is_some() || arguments.max_ms.is_some();
    if arguments.analyze == Some(true) && !subject.has_data() {
        bail!("statistics have no rows to run a query on: --analyze needs a replica");
    }
    if limited && !subject.has_data() {
        bail!("statistics have no rows to run a query on: --max-rows-visited and --max-ms need a replica");
    }
    if limited && arguments.analyze == Some(false) {
        bail!("--max-rows-visited and --max-ms limit what a run takes, and --analyze=false runs nothing");
    }
    Ok(())
}

/// The report of one query.
fn explain(planner: &Planner, subject: &Subject, query: &Named, arguments: &Explain) -> Result<Report> {
    let options = Options {
        analyze: arguments.analyze.unwrap_or(true),
        advice: true,
        synced_rows: arguments.output_synced_rows,
        vended_rows: arguments.output_vended_rows.unwrap_or(0),
    };
    let report = planner.report(subject, &query.ast, &options);
    let mut report = report.with_context(|| format!("cannot explain {}", query.label()))?;
    report.name = query.name.clone();
    if let Some(asked) = &query.asked {
        report.query = QueryReport { after_permissions: Some(report.query.zql), ..QueryReport::of(asked) };
    }
    if let Some(zql) = &query.zql {
        report.query.zql.clone_from(zql);
    }
    report.warnings.extend(query.warnings.iter().cloned());
    if !subject.has_data() {
        let note = "made from statistics: how many keys a plan is for is estimated, where a server counts them";
        report.warnings.push(note.to_owned());
    }
    if (options.synced_rows || options.vended_rows > 0) && !report.source.analyzed {
        let note = "no rows are printed, because the query was not run: that needs a replica, and no --analyze=false";
        report.warnings.push(note.to_owned());
    }
    Ok(report)
}

/// What a report exceeds.
fn limits(arguments: &Explain, report: &Report) -> Option<String> {
    let name = report.name.as_deref().unwrap_or("the query");
    let Totals { rows_visited, ms, .. } = &report.totals;
    let visited = arguments.max_rows_visited.zip(*rows_visited).filter(|(most, visited)| visited > most);
    let late = arguments.max_ms.zip(*ms).filter(|(most, ms)| ms > most);
    let visited = visited.map(|(most, visited)| format!("visited {visited} rows, more than {most}"));
    let late = late.map(|(most, ms)| format!("took {ms} ms, more than {most}"));
    let exceeded: Vec<String> = visited.into_iter().chain(late).collect();
    (!exceeded.is_empty()).then(|| format!("{name} {}", exceeded.join(", and ")))
}
