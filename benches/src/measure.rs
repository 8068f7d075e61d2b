//! Timing and the machine: alternating runs, medians, and what else the machine is doing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The median of some times, in microseconds.
pub(crate) fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// Runs things in turn for about `budget`, three times at least, and gives the medians of each, in microseconds. Taking
/// turns makes what else the machine does hit all alike.
pub(crate) fn in_turn<const N: usize, E>(
    budget: Duration,
    mut things: [&mut dyn FnMut() -> Result<(), E>; N],
) -> Result<[f64; N], E> {
    // Once unmeasured: caches, statements, and pages of the file.
    for thing in &mut things {
        thing()?;
    }
    turns(budget, 3, things)
}

/// The same of things that have run before, and at least so often.
pub(crate) fn turns<const N: usize, E>(
    budget: Duration,
    least: usize,
    mut things: [&mut dyn FnMut() -> Result<(), E>; N],
) -> Result<[f64; N], E> {
    let begin = Instant::now();
    let mut times = [const { Vec::new() }; N];
    while times[0].len() < least || begin.elapsed() < budget {
        for (thing, times) in things.iter_mut().zip(&mut times) {
            let start = Instant::now();
            thing()?;
            times.push(start.elapsed());
        }
    }
    Ok(times.map(|mut times| median(&mut times)))
}

/// A size that the kernel keeps for this process, in MB: `VmRSS` is what is resident, `VmHWM` the most that was.
pub(crate) fn resident_mb(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_ascii_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

/// Makes `VmHWM` start again from what is resident now. Only Linux can; elsewhere the peak is that of the process.
pub(crate) fn reset_peak() {
    // A refusal leaves the peak of the whole process, which is higher: no result looks better than it is.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The machine, for the head of every result.
pub(crate) fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let first = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("unknown", |(_, value)| value.trim()).to_owned()
    };
    let memory = first(&read("/proc/meminfo"), "MemTotal");
    json!({
        "processor": first(&read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "memory": memory.trim_end_matches(" kB").parse::<u64>().map_or(memory.clone(), |kb| format!("{} GB", kb >> 20)),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": read("/proc/loadavg").split_ascii_whitespace().next().unwrap_or("unknown"),
    })
}
