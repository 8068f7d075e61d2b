//! What people see in a terminal: `zql watch`, a client of any Zero server, and `zql demo`, which starts everything that
//! is needed to see one change live.
//!
//! Both stand outside the server and reach it only by its protocol, so this crate must not know its inside.

pub mod demo;
pub mod watch;

use std::process::ExitCode;

use clap::{ArgMatches, Args, Command, FromArgMatches};

/// The subcommands of this crate, for a binary to add to its own.
pub fn commands() -> [Command; 2] {
    [
        watch::Watch::augment_args(Command::new("watch").about("Follow a query of any Zero server in the terminal")),
        demo::Demo::augment_args(
            Command::new("demo")
                .about("Start a private Postgres with sample data, the server on it, and watch a query change live"),
        ),
    ]
}

/// Runs one of the subcommands to its end; nothing when the name is not one of them.
pub fn run(name: &str, matches: &ArgMatches) -> Option<ExitCode> {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return Some(failure(&error.into())),
    };
    let result = match name {
        "watch" => watch::Watch::from_arg_matches(matches).map(|watch| runtime.block_on(watch.run())),
        "demo" => demo::Demo::from_arg_matches(matches).map(|demo| runtime.block_on(demo.run())),
        _ => return None,
    };
    // What still runs is a reader of standard input or a name look-up: nothing to wait for.
    runtime.shutdown_background();
    Some(match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => failure(&error),
        Err(error) => error.exit(),
    })
}

fn failure(error: &anyhow::Error) -> ExitCode {
    eprintln!("{error:#}");
    ExitCode::FAILURE
}
