//! Starting: continue the replica that is there, or copy everything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::replica::{Replica, ReplicaState};
use tokio_postgres::Client;
use tracing::{info, warn};

use crate::config::Config;
use crate::connection::Target;
use crate::error::Error;
use crate::names::{Names, check_publications};
use crate::setup::checks::check_server;
use crate::setup::shard::{self, Shard};
use crate::setup::{change_log, publications, slots};
use crate::stream::Upstream;
use crate::sync::{Copying, OnProgress, Synced, initial_sync, replica_error};

/// Sets up the upstream database, opens the replica at `path` or copies it, and gives what is needed to follow
/// the changes. A copy can take as long as the data needs; `progress` hears of it.
///
/// # Errors
/// [`Error::Config`] for what the operator must change; [`Error::ResetRequired`] when the replica cannot be
/// continued and `auto_reset` is off; others for failures that may pass.
pub async fn start(config: Config, path: &Path, progress: OnProgress) -> Result<Upstream, Error> {
    let names = Names::new(&config.app_id, config.shard_num)?;
    check_publications(&config.publications)?;
    let target = Arc::new(Target::parse(&config.upstream_url, "ZERO_UPSTREAM_DB")?);
    let mut client = target.connect("change-source-init").await?;
    let server = check_server(&client).await?;

    let opened = match open(path, config.auto_reset)? {
        Some(replica) => match resume(&client, &names, &config, &replica.state()).await {
            Ok((slot, shard)) => Some((replica, slot, shard)),
            Err(Error::ResetRequired(reason)) if config.auto_reset => {
                warn!(reason, "the replica cannot be continued; copying everything again");
                drop(replica);
                Replica::delete(path).map_err(replica_error("delete the replica file"))?;
                None
            }
            Err(error) => return Err(error),
        },
        None => None,
    };
    let (replica, slot, shard) = match opened {
        Some(opened) => opened,
        None => {
            let copying = Copying { target: &target, names: &names, config: &config, path, progress: &progress };
            let (synced, shard) = initial_sync(&copying, server, &mut client).await?;
            let Synced { replica, slot } = synced;
            clear_reset(path);
            (replica, slot, shard)
        }
    };
    let marker = reset_marker(path);
    let on_reset = Box::new(move |reason: &str| {
        if let Err(error) = std::fs::write(&marker, reason) {
            warn!(%error, "cannot note that the replica must be copied again");
        }
    });
    Ok(Upstream { replica, target, names, config, slot, shard, on_reset })
}

/// Opens the replica unless it must be copied again. A damaged file counts as none when that is allowed.
fn open(path: &Path, auto_reset: bool) -> Result<Option<Arc<Replica>>, Error> {
    if let Ok(reason) = std::fs::read_to_string(reset_marker(path)) {
        if !auto_reset {
            return Err(Error::ResetRequired(format!(
                "Reset required but --auto-reset is not enabled (ZERO_AUTO_RESET). {reason}"
            )));
        }
        info!(reason, "copying everything again");
        Replica::delete(path).map_err(replica_error("delete the replica file"))?;
        clear_reset(path);
        return Ok(None);
    }
    match Replica::open(path) {
        Ok(replica) => Ok(replica),
        Err(error) if error.is_corruption() && auto_reset => {
            warn!(%error, "the replica file is damaged; copying everything again");
            Replica::delete(path).map_err(replica_error("delete the replica file"))?;
            Ok(None)
        }
        Err(error) if error.is_corruption() => Err(Error::ResetRequired(format!(
            "the replica file {} is damaged: {error} (ZERO_REPLICA_FILE, ZERO_AUTO_RESET)",
            path.display()
        ))),
        Err(error) => Err(Error::Replica {
            context: format!("cannot open ZERO_REPLICA_FILE at \"{}\"", path.display()),
            message: error.to_string(),
        }),
    }
}

/// Whether the replica and what is upstream still belong together.
async fn resume(
    client: &Client,
    names: &Names,
    config: &Config,
    state: &ReplicaState,
) -> Result<(String, Shard), Error> {
    let reset = |reason: String| Err(Error::ResetRequired(reason));
    if shard::read(client, names).await?.is_none() {
        return reset(format!("upstream shard {} is not initialized", names.shard));
    }
    let Some((slot, _rank)) = slots::of_version(client, names, &state.replica_version).await? else {
        return reset(format!("upstream has no replica of version {}", state.replica_version));
    };
    let mut wanted =
        if config.publications.is_empty() { vec![names.default_publication()] } else { config.publications.clone() };
    wanted.push(names.metadata_publication());
    wanted.sort();
    wanted.dedup();
    if wanted != state.publications {
        return reset(format!(
            "requested publications changed: [{}] instead of [{}] (ZERO_APP_PUBLICATIONS)",
            wanted.join(","),
            state.publications.join(",")
        ));
    }
    let existing = publications::existing(client, &wanted).await?;
    if let Some(missing) = wanted.iter().find(|name| !existing.contains(name)) {
        return reset(format!("publication {missing} is missing upstream"));
    }
    let Some(slot_state) = slots::state(client, &slot).await? else {
        return reset(format!("replication slot {slot} is missing"));
    };
    if !slot_state.usable {
        return reset(format!("replication slot {slot} has been invalidated (max_slot_wal_keep_size)"));
    }
    let position = crate::stream::position_after(&state.state_version);
    let moved_on = position.is_none() || slot_state.confirmed_flush > position;
    if moved_on && !(position.is_some() && change_log::ends_at(client, names, state).await?) {
        return reset(format!(
            "the replica is at {} but its slot {slot} has moved on: changes between are gone",
            state.state_version
        ));
    }
    let shard = shard::read(client, names)
        .await?
        .ok_or_else(|| Error::ResetRequired(format!("upstream shard {} is not initialized", names.shard)))?;
    if shard.publications != wanted {
        return reset(format!("another server changed the publications of shard {}", names.shard));
    }
    Ok((slot, shard))
}

/// Notes beside the replica that it must be copied again: the file itself may be in use until the process ends.
fn reset_marker(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-reset-required");
    PathBuf::from(name)
}

fn clear_reset(path: &Path) {
    // It is usually not there.
    let _ = std::fs::remove_file(reset_marker(path));
}
