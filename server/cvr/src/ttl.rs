//! How long a query outlives the last client that desires it.
//!
//! Time is the group's own: its TTL clock stands still while no client is connected, so that a query does not expire
//! while its clients are offline. One timer a group wakes it for the query that expires first; looking for it takes
//! as many steps as the group has queries and desires.

use crate::record::{Cvr, Query};
use crate::row::QueryId;

/// A desire's time to live if the client names none, in ms.
pub const DEFAULT_TTL: f64 = 300_000.0;

/// Longest time to live, in ms: what "forever" means.
pub const MAX_TTL: f64 = 600_000.0;

/// Expirations this close together, in ms, are handled at once, so that they make one poke.
pub const HYSTERESIS: f64 = 50.0;

/// A time to live as the server honours it: negative, infinite and longer than [`MAX_TTL`] mean [`MAX_TTL`].
pub fn clamp(ttl: f64) -> f64 {
    if ttl.is_nan() {
        0.0
    } else if !(0.0..=MAX_TTL).contains(&ttl) {
        MAX_TTL
    } else {
        ttl
    }
}

/// When a query that no client desires any more expires, on the TTL clock. `None` while it is desired, and
/// for internal queries. A query that no client remembers expired long ago.
fn expiry(query: &Query) -> Option<f64> {
    if query.body.is_internal() {
        return None;
    }
    query.clients.values().try_fold(0.0, |latest: f64, client| {
        let inactivated_at = client.inactivated_at?;
        Some(latest.max(inactivated_at + clamp(client.ttl)))
    })
}

/// The queries that have expired by this time on the TTL clock.
pub fn expired(cvr: &Cvr, ttl_clock: f64) -> Vec<QueryId> {
    let is_expired = |(_, query): &(&QueryId, &Query)| expiry(query).is_some_and(|expiry| expiry <= ttl_clock);
    cvr.queries.iter().filter(is_expired).map(|(id, _)| QueryId::clone(id)).collect()
}

/// A group's TTL clock and the timer that goes by it. Times are ms of a clock that does not go backwards, passed in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// What the TTL clock showed when it was last read.
    clock: f64,
    /// When that was; `None` while it stands still.
    read_at: Option<f64>,
    /// When to look for expired queries.
    wake_at: Option<f64>,
}

impl Schedule {
    /// A clock that stands still at `clock`: nobody is connected.
    pub fn new(clock: f64) -> Self {
        Schedule { clock, read_at: None, wake_at: None }
    }

    /// Sets the clock to what the record says.
    pub fn set_clock(&mut self, clock: f64, now: f64) {
        self.clock = clock;
        self.read_at = self.read_at.map(|_| now);
    }

    /// A client connected: the clock goes on.
    pub fn resume(&mut self, now: f64) {
        self.read_at.get_or_insert(now);
    }

    /// The last client left: the clock stands still, and with it all expiry.
    pub fn pause(&mut self, now: f64) {
        self.clock(now);
        self.read_at = None;
        self.wake_at = None;
    }

    /// What the TTL clock shows now.
    pub fn clock(&mut self, now: f64) -> f64 {
        if let Some(read_at) = &mut self.read_at {
            self.clock += (now - *read_at).max(0.0);
            *read_at = now;
        }
        self.clock
    }

    /// Sets the timer for the query that expires first, if there is one and the clock goes.
    pub fn plan(&mut self, cvr: &Cvr, now: f64) {
        let clock = self.clock(now);
        let earliest = cvr.queries.values().filter_map(expiry).min_by(f64::total_cmp);
        let delay = |expiry: f64| (expiry - clock + HYSTERESIS).clamp(HYSTERESIS, MAX_TTL);
        self.wake_at = earliest.filter(|_| self.read_at.is_some()).map(|expiry| now + delay(expiry));
    }

    /// When to call [`Schedule::wake`].
    pub fn wake_at(&self) -> Option<f64> {
        self.wake_at
    }

    /// Whether the timer has run out; it stops then, until the next [`Schedule::plan`].
    pub fn wake(&mut self, now: f64) -> bool {
        let due = self.wake_at.is_some_and(|at| at <= now);
        if due {
            self.wake_at = None;
        }
        due
    }
}
