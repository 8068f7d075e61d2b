//! Health checks that stop: whoever asked `/keepalive` until now wants this server to go.
//!
//! A load balancer that no longer sends clients here stops asking, and then the server is to drain
//! (`ZERO_KEEPALIVE_TIMEOUT_MS`). It counts from the first request on, because a server may be watched by nobody.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often is looked while the time runs.
const LOOKS: u32 = 4;

/// What is heard of health checks.
#[derive(Debug, Default)]
pub struct Heartbeat {
    last: Mutex<Option<Instant>>,
}

impl Heartbeat {
    /// Somebody asked.
    pub(crate) fn beat(&self) {
        *self.last.lock() = Some(Instant::now());
    }

    /// Returns when nobody has asked for so long after somebody did.
    pub async fn lost(&self, timeout: Duration) {
        let mut watch = Watch { timeout, looked: Instant::now() };
        loop {
            tokio::time::sleep(timeout / LOOKS).await;
            let last = *self.last.lock();
            if watch.is_lost(last, Instant::now()) {
                return;
            }
        }
    }
}

struct Watch {
    timeout: Duration,
    looked: Instant,
}

impl Watch {
    /// Looks. A machine that stood still does not take its own standstill for silence: what arrived meanwhile is read
    /// before the next look.
    fn is_lost(&mut self, last: Option<Instant>, now: Instant) -> bool {
        let stood_still = now.duration_since(self.looked) > self.timeout / 2;
        self.looked = now;
        last.is_some_and(|last| now.duration_since(last) >= self.timeout) && !stood_still
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, Watch};

    #[test]
    fn silence_after_the_first_request() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut watch = Watch { timeout: Duration::from_secs(20), looked: start };
        // When is looked, when somebody asked last, and whether that is too long ago.
        for (now, last, lost) in [
            (5, None, false),
            (10, Some(9), false),
            (15, Some(9), false),
            (20, Some(19), false),
            (25, Some(19), false),
            (30, Some(19), false),
            (35, Some(19), false),
            // The machine stood still.
            (90, Some(19), false),
            (95, Some(91), false),
            (100, Some(91), false),
            (110, Some(91), false),
            (111, Some(91), true),
        ] {
            assert_eq!(watch.is_lost(last.map(at), at(now)), lost, "{now}");
        }
    }
}
