//! `zql`: the sync server and its tools in one binary.
//!
//! Subcommands parse their own arguments and own their output; this file only chooses. What a server is made
//! of is put together in [`serve`].

use std::process::ExitCode;

mod analyze;
mod logging;
mod progress;
mod serve;
mod statz;

/// Groups allocate and free rows on many threads; the system's allocator would keep the peaks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = clap::Command::new("zql")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A sync server for Zero clients: Postgres in, live queries out")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve::command())
        .subcommand(conformance::command())
        .subcommand(explain::command())
        .subcommands(terminal::commands());
    match command.get_matches().subcommand() {
        Some(("serve", matches)) => serve::main(matches),
        Some(("conformance", matches)) => conformance::main(matches),
        Some(("explain", matches)) => explain::main(matches),
        Some((name, matches)) => terminal::run(name, matches).unwrap_or(ExitCode::FAILURE),
        None => ExitCode::FAILURE,
    }
}
