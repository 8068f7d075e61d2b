//! The time that client groups live by: when queries expire, groups are idle and records are noted as alive.
//!
//! One clock a server, handed to whoever waits for hours, so that a test can let hours pass. It must not know what is
//! waited for. Whoever sleeps is woken when the clock is moved, so nothing here grows.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

/// A clock that goes with the machine's, and ahead of it by as much as it was moved.
#[derive(Clone, Debug)]
pub struct Clock {
    started: Instant,
    ahead: Arc<watch::Sender<Duration>>,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { started: Instant::now(), ahead: Arc::default() }
    }
}

impl Clock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.ahead.send_modify(|ahead| *ahead += by);
    }

    /// Now, for deadlines.
    pub(crate) fn now(&self) -> Instant {
        Instant::now() + *self.ahead.borrow()
    }

    /// Now in ms since the clock was made: never goes back.
    pub(crate) fn elapsed_ms(&self) -> f64 {
        (self.now() - self.started).as_secs_f64() * 1000.0
    }

    /// The deadline that [`Clock::elapsed_ms`] reaches then.
    pub(crate) fn at_ms(&self, ms: f64) -> Instant {
        // Rounded up: at the deadline the time has come.
        self.started + Duration::from_millis(ms.ceil() as u64)
    }

    /// Now in ms since the epoch.
    pub(crate) fn wall_ms(&self) -> f64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + *self.ahead.borrow();
        wall.as_micros() as f64 / 1000.0
    }

    /// Waits until the clock shows this time.
    pub(crate) async fn sleep_until(&self, deadline: Instant) {
        let mut moved = self.ahead.subscribe();
        loop {
            let ahead = *moved.borrow_and_update();
            let Some(deadline) = deadline.checked_sub(ahead) else { return };
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return,
                Ok(()) = moved.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Clock;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[tokio::test]
    async fn who_sleeps_is_woken_when_the_clock_is_moved() {
        let clock = Clock::default();
        let (begun, wall) = (clock.elapsed_ms(), clock.wall_ms());
        let deadline = clock.now() + 2 * DAY;
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(deadline).await }
        });
        clock.advance(DAY);
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(DAY);
        sleeper.await.expect("awake");
        let ms = 2.0 * DAY.as_secs_f64() * 1000.0;
        assert!(clock.elapsed_ms() >= begun + ms && clock.wall_ms() >= wall + ms);
        // A deadline is never before the time that it is for.
        clock.sleep_until(clock.at_ms(begun + ms + 0.25)).await;
        assert!(clock.elapsed_ms() >= begun + ms + 0.25);
    }
}
