//! A private Postgres cluster for tests, benchmarks and the demo: found, initialised, started and stopped here, so that
//! nothing has to run on the machine beforehand.
//!
//! Must not know what is replicated from it. One cluster serves a whole test binary ([`shared`]); every test asks it for
//! a [`Postgres::database`] of its own. Nothing here grows with the data.
//!
//! The server is the child of a small shell that waits on a pipe from us. When this process ends in whatever way (drop,
//! panic, `kill -9`), the pipe closes, and the shell stops the server and removes a temporary folder. That needs no
//! `unsafe` and, unlike a parent-death signal, does not fire when the *thread* that started the server ends.

mod account;
mod binaries;
mod folder;
mod log;
mod options;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use self::account::Account;
pub use self::binaries::binaries;
use self::folder::{make, temporary_folder};
use self::log::Log;
use self::options::{CERTIFICATE, KEY};
pub use self::options::{Identity, Options};
use crate::process::{descendants, free_port, running, signal_all};

/// How long a start may take before it counts as failed. Crash recovery of a demo folder takes a few seconds at most.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a stop may take before it counts as failed.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a condition outside this process is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// How often a start is tried again with another port when the chosen one was taken in between.
const START_TRIES: usize = 5;

/// A running Postgres server. Dropping it stops the server.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    data: PathBuf,
    port: u16,
    log: Log,
    /// Closing this pipe makes the shell stop the server.
    lifeline: Option<ChildStdin>,
    shell: Child,
    databases: AtomicU32,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are ended, and everything is written.
    Fast,
    /// Nothing is written, as in a crash of the server: the next start recovers.
    Immediate,
}

/// The cluster that all tests of this process share, started at the first call.
///
/// # Panics
/// When Postgres cannot be started: no test that needs it can say anything useful then.
pub fn shared() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| Postgres::start(Options::default()).expect("a private Postgres for tests"))
}

impl Postgres {
    /// Makes the cluster if its folder holds none, starts the server and returns once it accepts connections.
    ///
    /// # Errors
    /// When Postgres is not installed, the folder cannot be used, or the server does not start; the message carries the
    /// server's own last lines.
    pub fn start(options: Options) -> Result<Postgres> {
        let bin = binaries()?;
        let account = Account::for_postgres()?;
        let (root, temporary) = match &options.folder {
            Some(folder) => (folder.clone(), false),
            None => (temporary_folder()?, true),
        };
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        let root = fs::canonicalize(&root)?;
        let data = root.join("data");
        make(&bin, &account, &root, &data)?;
        if let Some(identity) = &options.tls {
            account.write(&data.join(CERTIFICATE), &identity.certificate)?;
            account.write(&data.join(KEY), &identity.key)?;
        }
        let mut last = anyhow!("not tried");
        for _ in 0..START_TRIES {
            let port = free_port(0)?;
            match Self::spawn(&bin, &account, &root, &data, port, temporary, &options) {
                Ok(postgres) => return Ok(postgres),
                Err(error) => last = error,
            }
            if !last.to_string().contains("Address already in use") {
                break;
            }
        }
        Err(last)
    }

    fn spawn(
        bin: &Path,
        account: &Account,
        root: &Path,
        data: &Path,
        port: u16,
        temporary: bool,
        options: &Options,
    ) -> Result<Postgres> {
        // Immediate stop for what is thrown away, fast (checkpointed) for what is used again. `exec 3<&0` because a
        // shell gives background jobs /dev/null as standard input.
        // A line on the pipe is the signal to stop the server with, or `start`.
        let script = format!(
            "exec 3<&0; server=; start() {{ \"$@\" </dev/null 3<&- & server=$!; }}; \
             stop() {{ [ -z \"$server\" ] || {{ kill -\"$1\" $server 2>/dev/null; wait $server; server=; }}; }}; \
             start \"$@\"; \
             while read -r word <&3; do case $word in start) start \"$@\" ;; *) stop $word ;; esac; done; stop {}; {}",
            if temporary { "QUIT" } else { "INT" },
            if temporary { "exec rm -rf \"$ZQL_POSTGRES_ROOT\"" } else { "exit 0" },
        );
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg("postgres").arg(bin.join("postgres")).arg("-D").arg(data);
        for setting in options.settings(root, port) {
            command.arg("-c").arg(setting);
        }
        command
            .env("ZQL_POSTGRES_ROOT", root)
            .env("LC_ALL", "C")
            .current_dir(root)
            // Its own process group: a Ctrl-C in the terminal is for us, and we stop the server in order.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut shell = account.apply(&mut command).spawn().context("start the Postgres server")?;
        let lifeline = shell.stdin.take();
        let stderr = shell.stderr.take().ok_or_else(|| anyhow!("no pipe to the server's log"))?;
        let log = Log::follow(stderr);
        let postgres = Postgres {
            bin: bin.to_path_buf(),
            data: data.to_path_buf(),
            port,
            log,
            lifeline,
            shell,
            databases: AtomicU32::new(0),
        };
        postgres.until_ready()?;
        Ok(postgres)
    }

    fn until_ready(&self) -> Result<()> {
        if !self.log.tells_ready_within(START_TIMEOUT) {
            bail!("Postgres did not start in {}:\n{}", self.data.display(), self.log_tail());
        }
        Ok(())
    }

    /// Stops the server, which keeps its data and its port, and waits until it has ended.
    ///
    /// # Errors
    /// When it was not running, or does not end in time.
    pub fn stop(&mut self, how: Stop) -> Result<()> {
        let pid = self.pid()?;
        self.tell(match how {
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
        })?;
        let begun = Instant::now();
        while running(pid) {
            if begun.elapsed() > STOP_TIMEOUT {
                bail!("Postgres did not stop ({how:?}):\n{}", self.log_tail());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Starts the server again after [`Postgres::stop`], and returns once it accepts connections.
    ///
    /// # Errors
    /// With the server's own last lines, when it does not start.
    pub fn start_again(&mut self) -> Result<()> {
        self.tell("start")?;
        self.until_ready()
    }

    /// Lets all processes of the server stand still for so long: connections stay open, and nothing is answered.
    ///
    /// # Errors
    /// When it is not running.
    pub fn stand_still(&self, time: Duration) -> Result<()> {
        let processes = descendants(self.pid()?);
        signal_all("STOP", &processes)?;
        // A standstill has a length; nothing is waited for here.
        std::thread::sleep(time);
        signal_all("CONT", &processes)
    }

    /// Says a word to the shell that stands between us and the server.
    fn tell(&mut self, word: &str) -> Result<()> {
        let lifeline = self.lifeline.as_mut().context("the server's shell is gone")?;
        Ok(writeln!(lifeline, "{word}")?)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the postmaster, for reading what the server used.
    ///
    /// # Errors
    /// When the server is not running any more.
    pub fn pid(&self) -> Result<u32> {
        let file = fs::read_to_string(self.data.join("postmaster.pid"))?;
        file.lines().next().and_then(|line| line.trim().parse().ok()).ok_or_else(|| anyhow!("no pid in postmaster.pid"))
    }

    /// The URL of a database of this cluster, for the super-user and without a password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Creates an empty database with a fresh name and returns its URL.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn database(&self) -> Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.create_database(&name)?;
        Ok(self.url(&name))
    }

    /// Creates an empty database of the given name (letters, digits and `_`).
    ///
    /// # Errors
    /// When it exists or the server refuses.
    pub fn create_database(&self, name: &str) -> Result<()> {
        // template0 has no sessions, so that concurrent calls do not disturb each other.
        self.psql(&self.url("postgres"), &format!("CREATE DATABASE \"{name}\" TEMPLATE template0")).map(drop)
    }

    /// Runs SQL through `psql` in one session, stopping at the first error; returns the rows, unaligned, columns
    /// separated by `|`.
    ///
    /// # Errors
    /// With psql's message.
    pub fn psql(&self, url: &str, sql: &str) -> Result<String> {
        let psql = Some(self.bin.join("psql")).filter(|psql| psql.is_file()).unwrap_or_else(|| PathBuf::from("psql"));
        let mut child = Command::new(psql)
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--file=-"])
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start psql")?;
        let mut stdin = child.stdin.take().ok_or_else(|| anyhow!("no pipe to psql"))?;
        let sql = sql.to_owned();
        // A thread of its own: psql may print more than a pipe holds before it has read everything.
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, sql.as_bytes()));
        let output = child.wait_with_output()?;
        // A failed write means that psql stopped early; its own message says why.
        let _ = writer.join();
        if !output.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        self.log.tail()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.shell.wait();
    }
}
