//! Which versions are pinned, and the gate that holds new pins back while the log is reset.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::snapshot::Snapshot;

/// How often pins that were given up are reminded: their holder may have been between two statements.
const REMIND: Duration = Duration::from_millis(50);

/// The living pins.
#[derive(Default)]
pub(super) struct Pins {
    gate: RwLock<()>,
    living: Mutex<Vec<Weak<Snapshot>>>,
    released: Condvar,
}

impl Pins {
    /// Held while a pin is made.
    pub(super) fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read()
    }

    /// No new pins while held.
    pub(super) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write()
    }

    pub(super) fn add(&self, snapshot: &Arc<Snapshot>) {
        let mut living = self.living.lock();
        living.retain(|pin| pin.strong_count() > 0);
        living.push(Arc::downgrade(snapshot));
    }

    /// A snapshot is about to be gone.
    pub(super) fn released(&self) {
        let mut living = self.living.lock();
        living.retain(|pin| pin.strong_count() > 0);
        self.released.notify_all();
    }

    /// How many versions are pinned and how long the oldest has been.
    pub(super) fn measure(&self) -> (usize, Duration) {
        let pins: Vec<Arc<Snapshot>> = self.living.lock().iter().filter_map(Weak::upgrade).collect();
        let oldest = pins.iter().map(|pin| pin.since.elapsed()).max().unwrap_or_default();
        (pins.len(), oldest)
    }

    /// Waits until nothing is pinned, giving up what is still pinned after `grace`. False if even that
    /// did not help within as long again.
    pub(super) fn drain(&self, grace: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let pins: Vec<Arc<Snapshot>> = {
                let mut living = self.living.lock();
                living.retain(|pin| pin.strong_count() > 0);
                if living.is_empty() {
                    return true;
                }
                if begun.elapsed() < grace {
                    self.released.wait_for(&mut living, REMIND);
                    continue;
                }
                living.iter().filter_map(Weak::upgrade).collect()
            };
            if begun.elapsed() > grace * 2 {
                return false;
            }
            for pin in &pins {
                pin.expire();
            }
            drop(pins);
            let mut living = self.living.lock();
            if !living.is_empty() {
                self.released.wait_for(&mut living, REMIND);
            }
        }
    }
}
