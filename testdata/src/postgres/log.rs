//! The log of a server: its last lines, and each time that it says that it is ready.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// Lines that are kept for error messages.
const LINES_KEPT: usize = 40;

/// What the server prints once it can be connected to (messages are forced to the C locale).
const READY: &str = "database system is ready to accept connections";

/// A log that is read to its end.
#[derive(Debug)]
pub(super) struct Log {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Hears of each time that the server is ready.
    ready: Mutex<mpsc::Receiver<()>>,
}

impl Log {
    /// Reads a log on a thread of its own.
    pub(super) fn follow(log: impl Read + Send + 'static) -> Log {
        let (sender, receiver) = mpsc::channel();
        let lines: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(log).lines() {
                let Ok(line) = line else { break };
                if line.contains(READY) {
                    // Nobody may be waiting for it any more.
                    let _ = sender.send(());
                }
                if let Ok(mut kept) = kept.lock() {
                    if kept.len() == LINES_KEPT {
                        kept.pop_front();
                    }
                    kept.push_back(line);
                }
            }
        });
        Log { lines, ready: Mutex::new(receiver) }
    }

    /// Waits until the server says that it is ready; tells whether it does. The log of a server that dies ends, so that is
    /// noticed at once.
    pub(super) fn tells_ready_within(&self, limit: Duration) -> bool {
        matches!(self.ready.lock().map(|ready| ready.recv_timeout(limit)), Ok(Ok(())))
    }

    /// The last lines.
    pub(super) fn tail(&self) -> String {
        self.lines.lock().map(|lines| lines.iter().cloned().collect::<Vec<_>>().join("\n")).unwrap_or_default()
    }
}
