//! How fast a graph takes the rows of large commits.
//!
//! It must not know a clock: times come as values. One number a graph, whatever it takes.

use std::time::Duration;

/// What a graph needs for a row of a large commit that it sees. Queries differ tenfold, and machines as well, so it is
/// learned from the commits that the graph takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    nanos: u64,
}

impl Default for Pace {
    fn default() -> Self {
        // Before a graph has taken a large commit: measured by the benchmark of large commits.
        Pace { nanos: 2_000 }
    }
}

impl Pace {
    /// What so many rows take.
    pub(super) fn of(self, rows: usize) -> Duration {
        Duration::from_nanos(self.nanos.saturating_mul(rows as u64))
    }

    /// So many rows took so long. The newest commit counts as much as all before it.
    pub(super) fn took(&mut self, time: Duration, rows: usize) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) / rows.max(1) as u64;
        self.nanos = (self.nanos / 2).saturating_add(nanos / 2);
    }

    /// Hydrating was chosen. What once took twice as long because the machine was busy is tried again after some forty more.
    pub(super) fn untried(&mut self) {
        self.nanos -= self.nanos / 64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_learned_and_slowly_forgotten() {
        let mut pace = Pace::default();
        let prior = pace.of(1_000);
        for _ in 0..10 {
            pace.took(Duration::from_millis(40), 1_000);
        }
        let slow = pace.of(1_000);
        assert!(slow > prior * 7 && slow < Duration::from_millis(41), "{slow:?}");
        (0..45).for_each(|_| pace.untried());
        assert!(pace.of(1_000) < slow / 2, "{:?}", pace.of(1_000));
        pace.took(Duration::MAX, 1);
        pace.took(Duration::MAX, 1);
        assert!(pace.of(usize::MAX) > slow, "nothing overflows");
    }
}
