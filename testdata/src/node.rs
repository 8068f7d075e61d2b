//! The real clients: runs the scenarios of testdata/node with the unmodified npm package against a server.
//!
//! `make node` installs the packages that the lock file pins, Node itself among them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::sync_server::SyncServer;

/// The folder with the lock file.
///
/// # Errors
/// When the packages are not installed.
pub fn folder() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("node");
    if !folder.join("node_modules/.stamp").exists() {
        bail!("{} has no packages: run `make node`", folder.display());
    }
    Ok(folder)
}

/// Node 22, which the lock file of the folder `tools` pins like any package. Called by its own path: Debian's npm makes
/// no link to it in `.bin`.
///
/// # Errors
/// When the packages are not installed, or there is none for this machine.
pub fn binary() -> Result<PathBuf> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => bail!("no pinned Node for {other}: testdata/node/tools/package.json lists x64 and arm64 on Linux"),
    };
    let binary = folder()?.join(format!("tools/node_modules/node-linux-{machine}/bin/node"));
    if !binary.exists() {
        bail!("{} is missing: run `make node` again", binary.display());
    }
    Ok(binary)
}

/// The application's API server of the scenarios. It ends when this is dropped or the process ends.
#[derive(Debug)]
pub struct Api {
    /// Where named queries are asked for.
    pub url: String,
    child: Child,
}

impl Api {
    /// Starts it on a port of its own.
    ///
    /// # Errors
    /// When Node or the packages are missing.
    pub fn start() -> Result<Api> {
        Api::start_script("api.js", &[])
    }

    /// Starts the one with custom mutators and users, on a database; JSON web tokens are of this secret. Named queries
    /// are asked for at `/query` of its URL, mutations are sent to `/mutate`.
    ///
    /// # Errors
    /// As [`Api::start`].
    pub fn start_with_mutators(database: &str, secret: &str) -> Result<Api> {
        Api::start_script("mutation-api.js", &[("DATABASE_URL", database), ("SECRET", secret)])
    }

    fn start_script(name: &str, environment: &[(&str, &str)]) -> Result<Api> {
        let mut command = script(name)?;
        command.envs(environment.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let mut output = lines(&mut child)?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).with_context(|| format!("{name} says {line:?}"))?;
        let url = ready["url"].as_str().with_context(|| format!("the URL of {name}"))?.to_owned();
        Ok(Api { url, child })
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // It runs until its input ends.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Runs all scenarios with a client package (`@rocicorp/zero` or `zero-1.4`) against a server on the small issue tracker.
/// A scenario may ask to kill the server and to start it again. Prints a line per scenario. Where `compressed` says whose
/// sockets to use (`node`, `ws`), all of them must be granted compression.
///
/// # Errors
/// Naming every scenario that failed, with what it expected.
pub fn scenarios(package: &str, server: &mut SyncServer, database: &str, compressed: Option<&str>) -> Result<()> {
    let mut environment = vec![("SERVER_URL", server.url()), ("DATABASE_URL", database.to_owned())];
    environment.extend(compressed.map(|sockets| ("COMPRESSED", sockets.to_owned())));
    let ran = run("scenarios.js", package, &environment, |what| match what {
        "kill server" => server.kill(),
        "start server" => server.restart().map(drop),
        _ => bail!("scenarios.js asks for {what:?}"),
    });
    ran.with_context(|| format!("log of the server:\n{}", server.log_tail()))
}

/// Runs the scenarios of mutations and tokens with a client package against two servers on the small issue tracker: one
/// that passes tokens on, and one of the app `jwt` that verifies them by the secret. Prints a line per scenario.
///
/// # Errors
/// Naming every scenario that failed, with what it expected.
pub fn mutations(
    package: &str,
    [server, jwt]: [&SyncServer; 2],
    api: &Api,
    database: &str,
    secret: &str,
) -> Result<()> {
    let environment = [
        ("SERVER_URL", server.url()),
        ("JWT_SERVER_URL", jwt.url()),
        ("API_URL", api.url.clone()),
        ("DATABASE_URL", database.to_owned()),
        ("SECRET", secret.to_owned()),
    ];
    let ran = run("mutations.js", package, &environment, |what| bail!("mutations.js asks for {what:?}"));
    ran.with_context(|| format!("logs of the servers:\n{}\n\n{}", server.log_tail(), jwt.log_tail()))
}

/// Runs a script of scenarios, and does what it asks for.
fn run(
    name: &str,
    package: &str,
    environment: &[(&str, String)],
    mut asked: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let mut command = script(name)?;
    command.arg(package).envs(environment.iter().map(|(name, value)| (name, value)));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(|| format!("start {name}"))?;
    let mut answers = child.stdin.take().ok_or_else(|| anyhow!("no pipe to {name}"))?;
    let mut failures = Vec::new();
    let mut passed = 0;
    for line in lines(&mut child)?.lines() {
        let line = line?;
        let Ok(event) = serde_json::from_str::<Value>(&line) else {
            println!("{line}");
            continue;
        };
        match (event["ask"].as_str(), event["error"].as_str()) {
            (Some(what), _) => {
                asked(what)?;
                writeln!(answers, "{what}")?;
            }
            (None, Some(error)) => failures.push(format!("{}: {error}", event["scenario"])),
            (None, None) => {
                passed += 1;
                println!("{package}: {} ({} ms)", event["scenario"].as_str().unwrap_or_default(), event["ms"]);
            }
        }
    }
    let status = child.wait()?;
    if !failures.is_empty() {
        bail!("{}", failures.join("\n\n"));
    }
    if !status.success() || passed == 0 {
        bail!("{name} ended with {status} after {passed} scenarios");
    }
    Ok(())
}

/// Two tabs of a real Chromium against a server on the small issue tracker: see browser.js.
///
/// # Errors
/// When Chromium is missing, or with what was expected and seen.
pub fn browser(server: &SyncServer, database: &str) -> Result<()> {
    let chromium = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(|name| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
    });
    let chromium = chromium.context("no Chromium in PATH: run `make browser`")?;
    let output = script("browser.js")?
        .env("SERVER_URL", server.url())
        .env("DATABASE_URL", database)
        .env("CHROMIUM", chromium)
        .stdin(Stdio::null())
        .output()
        .context("start browser.js")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("browser.js ended with {}:\n{said}\n\nlog of the server:\n{}", output.status, server.log_tail());
    }
    Ok(())
}

fn script(name: &str) -> Result<Command> {
    let (binary, folder) = (binary()?, folder()?);
    let mut command = Command::new(binary);
    command.arg(folder.join(name)).current_dir(folder);
    Ok(command)
}

fn lines(child: &mut Child) -> Result<BufReader<ChildStdout>> {
    Ok(BufReader::new(child.stdout.take().ok_or_else(|| anyhow!("no pipe from Node"))?))
}
