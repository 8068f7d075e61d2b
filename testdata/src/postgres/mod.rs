//! A private Postgres cluster for tests, benchmarks and the demo: found, initialised, started and stopped here, so that
//! nothing has to run on the machine beforehand.
//!
//! Must not know what is replicated from it. One cluster serves a whole test binary ([`shared`]); every test asks it for
//! a [`Postgres::database`] of its own. Nothing here grows with the data.
//!
//! The server is the child of a small shell that waits on a pipe from us. When this process ends in whatever way (drop,
//! panic, `kill -9`), the pipe closes, and the shell stops the server and removes a temporary folder. That needs no
//! `unsafe` and, unlike a parent-death signal, does not fire when the *thread* that started the server ends.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::process::{descendants, free_port, running, signal_all};
use account::Account;

mod account;

/// How long a start may take before it counts as failed. Crash recovery of a demo folder takes a few seconds at most.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a stop may take before it counts as failed.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a condition outside this process is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// How often a start is tried again with another port when the chosen one was taken in between.
const START_TRIES: usize = 5;

/// Lines of the server's log that are kept for error messages.
const LOG_LINES_KEPT: usize = 40;

/// What the server prints once it can be connected to (messages are forced to the C locale).
const READY: &str = "database system is ready to accept connections";

/// Files of the data folder that hold the server's [`Identity`].
const CERTIFICATE: &str = "server.crt";
const KEY: &str = "server.key";

/// How a cluster is made and where it lives.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the data lives. A folder that holds a cluster already is used again and kept at the end; without a folder
    /// a temporary one is made and removed.
    pub folder: Option<PathBuf>,
    /// Whether commits reach the disk (`fsync`). Tests do without.
    pub durable: bool,
    /// More settings, such as `("log_statement", "all")`; later ones win over this module's own.
    pub settings: Vec<(String, String)>,
    /// Serves TLS beside plain connections.
    pub tls: Option<Identity>,
}

/// What a server shows of itself in TLS, as PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

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
    /// Hears of each time that the server is ready.
    ready: Mutex<mpsc::Receiver<()>>,
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

type Log = Arc<Mutex<VecDeque<String>>>;

/// The cluster that all tests of this process share, started at the first call.
///
/// # Panics
/// When Postgres cannot be started: no test that needs it can say anything useful then.
pub fn shared() -> &'static Postgres {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    SHARED.get_or_init(|| Postgres::start(Options::default()).expect("a private Postgres for tests"))
}

/// The folder with `initdb` and `postgres`: beside the `initdb` in `PATH`, else Debian's newest version.
///
/// # Errors
/// When there is none; the message says what to install.
pub fn binaries() -> Result<PathBuf> {
    let in_path = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .unwrap_or_default()
        .into_iter()
        // A link in PATH may point at one program only; the folder it leads to has them all.
        .filter_map(|dir| fs::canonicalize(dir.join("initdb")).ok())
        .filter_map(|initdb| initdb.parent().map(Path::to_path_buf));
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    debian.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    in_path
        .chain(debian.into_iter().map(|(_, dir)| dir))
        .find(|dir| dir.join("initdb").is_file() && dir.join("postgres").is_file())
        .ok_or_else(|| anyhow!("no Postgres server found (initdb): install Debian's package `postgresql`"))
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
        if !data.join("PG_VERSION").is_file() {
            // An interrupted initdb leaves a folder that it refuses to use.
            if data.exists() {
                fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
            }
            account.own(&root)?;
            run(account
                .apply(Command::new(bin.join("initdb")).args([
                    "--auth=trust",
                    "--username=postgres",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--no-sync",
                    "--no-instructions",
                    "-D",
                ]))
                .arg(&data))?;
        }
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
        for setting in settings(root, port, options) {
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
        let log: Log = Log::default();
        let ready = follow(stderr, Arc::clone(&log));
        let postgres = Postgres {
            bin: bin.to_path_buf(),
            data: data.to_path_buf(),
            port,
            log,
            lifeline,
            shell,
            ready: Mutex::new(ready),
            databases: AtomicU32::new(0),
        };
        postgres.until_ready()?;
        Ok(postgres)
    }

    fn until_ready(&self) -> Result<()> {
        // The sender goes away when the log ends, so a server that dies at once is noticed at once.
        let ready = self.ready.lock().map(|ready| ready.recv_timeout(START_TIMEOUT));
        if !matches!(ready, Ok(Ok(()))) {
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
        self.log.lock().map(|lines| lines.iter().cloned().collect::<Vec<_>>().join("\n")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.shell.wait();
    }
}

/// The settings of the command line: replication for many tests at once, and no durability unless asked for.
fn settings(root: &Path, port: u16, options: &Options) -> Vec<OsString> {
    let durable = if options.durable { "on" } else { "off" };
    let own = [
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("wal_level", "logical".to_owned()),
        ("max_wal_senders", "64".to_owned()),
        // One slot a database with a sync server on it, for good; a test binary has some dozens.
        ("max_replication_slots", "256".to_owned()),
        ("max_connections", "400".to_owned()),
        ("fsync", durable.to_owned()),
        // Always: the WAL sender sends what is flushed, and with this off a flush waits for the WAL writer's next round.
        ("synchronous_commit", "on".to_owned()),
        ("full_page_writes", durable.to_owned()),
        ("shared_buffers", "128MB".to_owned()),
        ("max_wal_size", "2GB".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("log_checkpoints", "off".to_owned()),
        ("log_replication_commands", "off".to_owned()),
        ("timezone", "UTC".to_owned()),
    ];
    let mut settings: Vec<OsString> =
        own.iter().map(|(name, value)| OsString::from(format!("{name}={value}"))).collect();
    let mut socket = OsString::from("unix_socket_directories=");
    socket.push(root);
    settings.push(socket);
    if options.tls.is_some() {
        settings.extend(
            ["ssl=on", &format!("ssl_cert_file={CERTIFICATE}"), &format!("ssl_key_file={KEY}")].map(OsString::from),
        );
    }
    settings.extend(options.settings.iter().map(|(name, value)| OsString::from(format!("{name}={value}"))));
    settings
}

/// Reads the log to its end on a thread of its own, keeping the last lines; the receiver hears each time that the server is ready.
fn follow(stderr: impl std::io::Read + Send + 'static, log: Log) -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines() {
            let Ok(line) = line else { break };
            if line.contains(READY) {
                // Nobody may be waiting for it any more.
                let _ = sender.send(());
            }
            if let Ok(mut lines) = log.lock() {
                if lines.len() == LOG_LINES_KEPT {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        }
    });
    receiver
}

/// A fresh folder directly under the system's temporary one: its path must stay short (a socket path has at most 107
/// bytes) and every parent must be open to the Postgres user.
fn temporary_folder() -> Result<PathBuf> {
    Ok(tempfile::Builder::new().prefix("zql-pg-").tempdir()?.keep())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .current_dir("/")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn databases_are_separate_and_logical() {
        let postgres = shared();
        let (one, two) = (postgres.database().unwrap(), postgres.database().unwrap());
        postgres.psql(&one, "CREATE TABLE t(a int); INSERT INTO t VALUES (1), (2)").unwrap();
        assert_eq!(postgres.psql(&one, "SELECT a, a + 1 FROM t ORDER BY a").unwrap(), "1|2\n2|3");
        assert!(postgres.psql(&two, "SELECT * FROM t").unwrap_err().to_string().contains("does not exist"));
        assert_eq!(postgres.psql(&two, "SHOW wal_level").unwrap(), "logical");
    }

    #[test]
    fn a_folder_is_kept_and_used_again() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let options = Options { folder: Some(parent.path().join("cluster")), durable: true, ..Options::default() };
        let first = Postgres::start(options.clone()).unwrap();
        let pid = first.pid().unwrap();
        first.create_database("kept").unwrap();
        first.psql(&first.url("kept"), "CREATE TABLE t AS SELECT 42 AS a").unwrap();
        drop(first);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        let second = Postgres::start(options).unwrap();
        assert_eq!(second.psql(&second.url("kept"), "SELECT a FROM t").unwrap(), "42");
    }

    #[test]
    fn a_stopped_server_starts_again_with_its_data_and_port() {
        let mut postgres = Postgres::start(Options::default()).unwrap();
        let url = postgres.database().unwrap();
        postgres.psql(&url, "CREATE TABLE t AS SELECT 1 AS a").unwrap();
        for (how, rows) in [(Stop::Fast, "1|2"), (Stop::Immediate, "1|2|3")] {
            postgres.psql(&url, &format!("INSERT INTO t VALUES ({})", rows.split('|').count())).unwrap();
            postgres.stop(how).unwrap();
            assert!(postgres.psql(&url, "SELECT 1").is_err(), "{how:?}");
            postgres.start_again().unwrap();
            assert_eq!(postgres.psql(&url, "SELECT string_agg(a::text, '|' ORDER BY a) FROM t").unwrap(), rows);
        }
    }

    #[test]
    fn dropping_stops_the_server_and_removes_its_folder() {
        let postgres = Postgres::start(Options::default()).unwrap();
        let (pid, data) = (postgres.pid().unwrap(), postgres.data.clone());
        drop(postgres);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert!(!data.exists());
    }
}
