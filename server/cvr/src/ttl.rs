//! How long a query outlives the last client that desires it.
//!
//! Time is the group's own: its TTL clock stands still while no client is connected, so that
//! a query does not expire while its clients are offline.

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
pub fn expiry(query: &Query) -> Option<f64> {
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

/// The queries that no client desires any more, with their expiry on the TTL clock, earliest first.
pub fn inactive(cvr: &Cvr) -> Vec<(QueryId, f64)> {
    let mut inactive: Vec<_> =
        cvr.queries.iter().filter_map(|(id, query)| Some((QueryId::clone(id), expiry(query)?))).collect();
    inactive.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    inactive
}

/// How long from now to look for expired queries, in ms; `None` if nothing is going to expire.
pub fn next_eviction(cvr: &Cvr, ttl_clock: f64) -> Option<f64> {
    let earliest = cvr.queries.values().filter_map(expiry).min_by(f64::total_cmp)?;
    Some((earliest - ttl_clock + HYSTERESIS).clamp(HYSTERESIS, MAX_TTL))
}

/// A group's TTL clock: advances with wall time while clients are connected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TtlClock {
    clock: f64,
    base: f64,
}

impl TtlClock {
    /// A clock that shows `clock` at wall time `now` (both ms).
    pub fn new(clock: f64, now: f64) -> Self {
        TtlClock { clock, base: now }
    }

    /// What the clock shows now. Wall time that went backwards does not count.
    pub fn read(&mut self, now: f64) -> f64 {
        self.clock += (now - self.base).max(0.0);
        self.base = now;
        self.clock
    }

    /// Forgets the time since the clock was last read: the first client connects after there was none.
    pub fn resume(&mut self, now: f64) {
        self.base = now;
    }
}
