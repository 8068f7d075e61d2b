//! Child processes that never outlive us, and what a tree of processes uses.
//!
//! Must not know what the processes are. As with the private Postgres, a small shell between us and the program waits on a
//! pipe that closes when this process ends in whatever way, and then stops the program.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, anyhow, bail};
use rand::Rng;

/// Clock ticks a second in /proc/*/stat: 100 on every Linux that Rust's standard library runs on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Ports below are often taken by services.
const FIRST_PORT: u16 = 10_000;

/// First of the ports that Linux gives to outgoing connections, unless it is told otherwise.
const LINUX_OUTGOING: u16 = 32_768;

/// How often a condition outside this process is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// A program that is stopped (SIGTERM) when this value is dropped or this process ends.
#[derive(Debug)]
pub struct Guarded {
    shell: Child,
    program: u32,
    lifeline: Option<ChildStdin>,
}

impl Guarded {
    /// Starts a program. Its output is appended to the file; it has no standard input.
    ///
    /// # Errors
    /// When the shell or the file cannot be opened. That the program itself is missing shows in the file.
    pub fn start(
        program: impl AsRef<std::ffi::OsStr>,
        args: &[&str],
        environment: &[(&str, String)],
        output: &Path,
    ) -> Result<Guarded> {
        let file = fs::OpenOptions::new().create(true).append(true).open(output)?;
        let script = "exec 3<&0 4>&1 >&2; \"$@\" </dev/null 3<&- 4>&- & child=$!; echo $child >&4; exec 4>&-; \
                      read -r _ <&3; kill -TERM $child 2>/dev/null; wait $child";
        let mut shell = Command::new("sh")
            .args(["-c", script, "guarded"])
            .arg(program.as_ref())
            .args(args)
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            // A Ctrl-C in the terminal is for us.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", program.as_ref().display()))?;
        let lifeline = shell.stdin.take();
        let mut told = String::new();
        shell.stdout.take().context("the shell's output")?.read_to_string(&mut told)?;
        let program = told.trim().parse().context("the program's number")?;
        Ok(Guarded { shell, program, lifeline })
    }

    /// Whether the program has not ended.
    pub fn is_running(&self) -> bool {
        // The shell may have waited for it, and its number be given to another process since.
        running(self.program) && parent(self.program) == Some(self.shell.id())
    }

    /// The program and everything that it started, and nothing when it has ended.
    pub fn tree(&self) -> Vec<u32> {
        let mut tree = descendants(self.shell.id());
        tree.retain(|pid| *pid != self.shell.id());
        tree
    }

    /// Kills the program and everything that it started without warning, and waits until all are gone.
    ///
    /// # Errors
    /// When `kill` cannot be run.
    pub fn kill(mut self) -> Result<()> {
        let tree = self.tree();
        let pids: Vec<String> = tree.iter().map(u32::to_string).collect();
        Command::new("sh").args(["-c", "kill -KILL \"$@\"", "kill"]).args(&pids).stderr(Stdio::null()).status()?;
        self.end();
        while tree.iter().any(|pid| running(*pid)) {
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Sends the program a signal (`TERM`, say) and waits until it has ended; gives its exit code.
    ///
    /// # Errors
    /// When it does not end in time. It is killed then.
    pub fn stop(self, signal: &str, limit: Duration) -> Result<i32> {
        let tree = self.tree();
        if !self.is_running() {
            bail!("the program has ended already");
        }
        signal_all(signal, &[self.program])?;
        self.end_within(&tree, limit).with_context(|| format!("after SIG{signal}"))
    }

    /// Waits until the program ends by itself; gives its exit code.
    ///
    /// # Errors
    /// When it does not end in time. It is killed then.
    pub fn ended(self, limit: Duration) -> Result<i32> {
        let tree = self.tree();
        self.end_within(&tree, limit)
    }

    fn end_within(mut self, tree: &[u32], limit: Duration) -> Result<i32> {
        let begun = Instant::now();
        while tree.iter().any(|pid| running(*pid)) {
            if begun.elapsed() > limit {
                self.kill()?;
                bail!("the program did not end within {limit:?}");
            }
            std::thread::sleep(POLL);
        }
        drop(self.lifeline.take());
        self.shell.wait()?.code().context("the shell beside the program was killed")
    }

    fn end(&mut self) {
        drop(self.lifeline.take());
        let _ = self.shell.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends a signal to processes; those that have ended do not matter.
pub(crate) fn signal_all(signal: &str, pids: &[u32]) -> Result<()> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    Command::new("kill").arg(format!("-{signal}")).args(&pids).stderr(Stdio::null()).status()?;
    Ok(())
}

/// Whether the process exists and has not ended (a zombie has).
pub(crate) fn running(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields.first().is_some_and(|state| state != "Z"))
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// Fields of /proc/PID/stat from the state on; the program's name before them may hold blanks.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// A process and all its descendants.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(pid) = tree.get(next) {
        tree.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    tree
}

/// What processes use.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Memory in bytes, shared pages divided among those who share them (PSS).
    pub memory: u64,
    /// CPU time since each process began, in seconds, user and system.
    pub cpu: f64,
}

/// What these processes use together. One that ended counts nothing.
pub fn usage(pids: &[u32]) -> Usage {
    let mut sum = Usage::default();
    for pid in pids {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0");
        sum.memory += pss.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) * 1024;
        let ticks = |at: usize| stat(*pid).and_then(|fields| fields.get(at)?.parse::<f64>().ok()).unwrap_or(0.0);
        // utime and stime, fields 14 and 15 of the file, counted from the state (3).
        sum.cpu += (ticks(11) + ticks(12)) / TICKS_PER_SECOND;
    }
    sum
}

/// A port on 127.0.0.1 that is free together with the `following` next ones.
///
/// It is none of those that the system gives to outgoing connections: one of those may be taken while its server is
/// away for a moment, by the very client that tries to reach it.
///
/// # Errors
/// When none is found.
pub fn free_port(following: u16) -> Result<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let outgoing = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(LINUX_OUTGOING);
    let end = outgoing.max(FIRST_PORT + 1000) - following;
    for _ in 0..1000 {
        let first = rand::rng().random_range(FIRST_PORT..end);
        let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).ok();
        let all: Option<Vec<_>> = (first..=first + following).map(free).collect();
        if all.is_some() {
            return Ok(first);
        }
    }
    Err(anyhow!("no {} free ports in a row", following + 1))
}

/// Waits until a server answers `GET path` on 127.0.0.1 with 200.
///
/// # Errors
/// When it does not within the limit or `alive` says that it has ended.
pub fn wait_for_http(port: u16, path: &str, limit: Duration, alive: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    loop {
        if http_ok(port, path).unwrap_or(false) {
            return Ok(());
        }
        if !alive() {
            bail!("the server on port {port} ended before it was ready");
        }
        if start.elapsed() > limit {
            bail!("no server on port {port} after {limit:?}");
        }
        std::thread::sleep(POLL);
    }
}

fn http_ok(port: u16, path: &str) -> Result<bool> {
    use std::io::Write;
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = [0; 12];
    socket.read_exact(&mut answer)?;
    Ok(answer.ends_with(b" 200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_stopped_by_a_signal_or_killed() {
        for (script, code) in [
            ("trap 'exit 7' TERM; echo up; while :; do :; done", Some(7)),
            ("trap '' TERM; echo up; while :; do :; done", None),
        ] {
            let output = tempfile::NamedTempFile::new().unwrap();
            let guarded = Guarded::start("sh", &["-c", script], &[], output.path()).unwrap();
            while !fs::read_to_string(output.path()).unwrap().contains("up") {
                std::thread::yield_now();
            }
            assert!(guarded.is_running());
            let tree = guarded.tree();
            let limit = if code.is_some() { Duration::from_secs(60) } else { Duration::from_millis(100) };
            assert_eq!(guarded.stop("TERM", limit).ok(), code, "{script}");
            assert!(!tree.iter().any(|pid| running(*pid)));
        }
    }

    #[test]
    fn a_program_that_ended_is_noticed() {
        let output = tempfile::NamedTempFile::new().unwrap();
        let guarded = Guarded::start("true", &[], &[], output.path()).unwrap();
        while guarded.is_running() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_is_seen_and_killed_with_what_it_started() {
        let output = tempfile::NamedTempFile::new().unwrap();
        let script = "sh -c 'echo up; exec sleep 1000' & wait";
        let guarded = Guarded::start("sh", &["-c", script], &[], output.path()).unwrap();
        while !fs::read_to_string(output.path()).unwrap().contains("up") {
            std::thread::yield_now();
        }
        let tree = guarded.tree();
        assert!(tree.len() >= 2, "{tree:?}");
        assert!(usage(&tree).memory > 0);
        guarded.kill().unwrap();
        assert!(!tree.iter().any(|pid| running(*pid)));
    }
}
