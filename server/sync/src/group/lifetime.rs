//! What time does to a group: its queries expire, its record is noted as alive, and without clients it ends.
//!
//! All timers go by the server's clock and are looked at in one place, so a group that waits costs one sleep. When queries
//! expire is the record's business; here is only when to look.

use std::time::Duration;

use cvr::flush::FlushTimes;
use cvr::ttl;
use tokio::time::Instant;

use super::queries::Mode;
use super::{Fault, Group};

/// How long a group outlives its last client: a page that reloads finds it warm.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How often the TTL clock of a connected group is noted, so that a crash loses little of it.
pub(super) const TOUCH_EVERY: Duration = Duration::from_secs(60);

impl Group {
    /// When the first of the timers runs out.
    pub(super) fn deadline(&self) -> Instant {
        let evict_at = self.schedule.wake_at().map(|at| self.services.clock.at_ms(at));
        let others = [evict_at, self.idle_at, self.retry_at, self.maintenance_at()];
        others.into_iter().flatten().fold(self.touch_at, Instant::min)
    }

    /// Does what the timers want done by now.
    pub(super) async fn on_timer(&mut self) -> Result<(), Fault> {
        let now = self.services.clock.now();
        if self.touch_at <= now {
            self.touch_at = now + TOUCH_EVERY;
            if !self.clients.is_empty() {
                self.touch().await;
            }
            self.forget_cached(now);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.subscribe_again()?;
        }
        self.maintain(now).await?;
        if self.schedule.wake(self.services.clock.elapsed_ms()) {
            self.evict().await?;
        }
        Ok(())
    }

    /// What the group's TTL clock shows.
    pub(super) fn ttl_clock(&mut self) -> f64 {
        self.schedule.clock(self.services.clock.elapsed_ms())
    }

    /// The times of an update that ends now.
    pub(super) fn times(&mut self) -> FlushTimes {
        FlushTimes {
            last_connect_time: self.last_connect_time,
            last_active: self.services.clock.wall_ms(),
            ttl_clock: self.ttl_clock(),
        }
    }

    /// Notes that the group is alive. A failure costs nothing but accuracy.
    pub(super) async fn touch(&mut self) {
        if self.record.as_ref().is_some_and(|record| record.cvr.stored) {
            let (now, clock) = (self.services.clock.wall_ms(), self.ttl_clock());
            if let Err(error) = self.services.store.touch(&self.id, now, clock).await {
                tracing::warn!(group = &*self.id, %error, "the TTL clock of a client group could not be noted");
            }
        }
    }

    /// Starts or ends the countdown to the group's end; without clients its clock stands still.
    pub(super) fn check_idle(&mut self) {
        if self.clients.is_empty() {
            self.idle_at = Some(self.services.clock.now() + KEEP_ALIVE);
            self.schedule.pause(self.services.clock.elapsed_ms());
        } else {
            self.idle_at = None;
        }
    }

    /// Takes out the queries that expired.
    async fn evict(&mut self) -> Result<(), Fault> {
        let clock = self.ttl_clock();
        if self.record.as_ref().is_some_and(|record| !ttl::expired(&record.cvr, clock).is_empty()) && self.synced {
            self.sync_queries(None, Mode::Missing).await?;
        }
        self.schedule_eviction();
        Ok(())
    }

    /// Sets the eviction timer to the next query that expires.
    pub(super) fn schedule_eviction(&mut self) {
        if let Some(record) = &self.record {
            self.schedule.plan(&record.cvr, self.services.clock.elapsed_ms());
        }
    }
}
