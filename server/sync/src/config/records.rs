//! How the database of records is used: how long it is waited for, and what is purged from it.

use std::time::Duration;

use cvr_store::Limits;
use cvr_store::purge::PurgeOptions;
use zql_spec::protocol::connect::number;

use super::ConfigError;
use super::values::{CENTURY, whole};
use crate::options::Settings;

pub(super) fn purge(settings: &Settings) -> Result<PurgeOptions, ConfigError> {
    let option = |name: &str| format!("ZERO_CVR_GARBAGE_COLLECTION_{name}");
    let default = PurgeOptions::default();
    let seconds = |name: &str, unit: f64, default: Duration| match settings.text(&option(name)).and_then(number) {
        // Nothing is older than from now on, and longer than a century is never.
        Some(value) => Duration::from_secs_f64((value * unit).clamp(0.0, CENTURY)),
        None => default,
    };
    Ok(PurgeOptions {
        inactivity: seconds("INACTIVITY_THRESHOLD_HOURS", 3600.0, default.inactivity),
        interval: seconds("INITIAL_INTERVAL_SECONDS", 1.0, default.interval),
        batch: whole(settings, &option("INITIAL_BATCH_SIZE"), default.batch, 0..=1_000_000)?,
    })
}

/// The reference's switch for sockets that are silent; 0 turns it off.
pub(super) fn limits(settings: &Settings) -> Result<Limits, ConfigError> {
    let name = "ZERO_PG_SOCKET_INACTIVITY_TIMEOUT";
    let default = Limits::default();
    let silence = match settings.text(name) {
        None => default.silence,
        Some(_) => {
            let ms: u64 = whole(settings, name, 0, 0..=1_000_000_000_000)?;
            (ms > 0).then(|| Duration::from_millis(ms))
        }
    };
    // Postgres is to give a lock up before the connection is given up.
    let half = silence.map_or(default.patience, |silence| silence / 2);
    Ok(Limits { silence, lock: default.lock.min(half), patience: default.patience.min(half) })
}
