//! How many mutations a group may make in a window of time.
//!
//! The window slides: what is left of the window before counts in proportion. Groups that made nothing for two windows
//! are forgotten when others come.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

/// Groups that are remembered before those that need not be are forgotten.
const SWEEP_AT: usize = 1024;

/// The limiter of all groups.
#[derive(Debug)]
pub(super) struct Limiter {
    max: f64,
    window: Duration,
    groups: Mutex<FxHashMap<Arc<str>, Count>>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    /// When the current window began.
    began: Instant,
    before: f64,
    now: f64,
}

impl Count {
    /// The counts of the window in which a moment lies.
    fn at(self, now: Instant, window: Duration) -> Count {
        let elapsed = now - self.began;
        if elapsed < window {
            return self;
        }
        let began = self.began + window;
        match elapsed < window * 2 {
            true => Count { began, before: self.now, now: 0.0 },
            false => Count { began: now, before: 0.0, now: 0.0 },
        }
    }
}

impl Limiter {
    pub(super) fn new(max: f64, window: Duration) -> Limiter {
        Limiter { max, window, groups: Mutex::default() }
    }

    /// Counts a mutation, unless that would be one too many.
    pub(super) fn allows(&self, group: &Arc<str>, now: Instant) -> bool {
        let mut groups = self.groups.lock();
        if groups.len() >= SWEEP_AT && !groups.contains_key(group) {
            groups.retain(|_, count| now - count.began < self.window * 2);
        }
        let fresh = Count { began: now, before: 0.0, now: 0.0 };
        let count = groups.entry(Arc::clone(group)).or_insert(fresh);
        *count = count.at(now, self.window);
        let left = 1.0 - (now - count.began).div_duration_f64(self.window);
        let allowed = count.now + count.before * left < self.max;
        if allowed {
            count.now += 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Limiter, SWEEP_AT};

    #[test]
    fn a_window_slides() {
        let limiter = Limiter::new(4.0, Duration::from_secs(10));
        let start = Instant::now();
        let mut allowed = Vec::new();
        for (second, tries) in [(0, 6), (9, 1), (10, 1), (15, 6), (19, 1), (100, 6)] {
            let now = start + Duration::from_secs(second);
            allowed.push((0..tries).filter(|_| limiter.allows(&"g".into(), now)).count());
        }
        // At 15 s half of the first window's four count.
        assert_eq!(allowed, [4, 0, 0, 2, 1, 4]);
        assert!(limiter.allows(&"other".into(), start));
    }

    #[test]
    fn idle_groups_are_forgotten() {
        let limiter = Limiter::new(1.0, Duration::from_secs(1));
        let start = Instant::now();
        for group in 0..SWEEP_AT {
            assert!(limiter.allows(&group.to_string().into(), start));
        }
        assert!(limiter.allows(&"g".into(), start + Duration::from_secs(2)));
        assert_eq!(limiter.groups.lock().len(), 1);
    }
}
