//! The folder of a cluster: where a passing one lives, and how one is made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::account::Account;

/// Makes a cluster in the folder unless it holds one.
pub(super) fn make(bin: &Path, account: &Account, root: &Path, data: &Path) -> Result<()> {
    if data.join("PG_VERSION").is_file() {
        return Ok(());
    }
    // An interrupted initdb leaves a folder that it refuses to use.
    if data.exists() {
        fs::remove_dir_all(data).with_context(|| format!("remove {}", data.display()))?;
    }
    account.own(root)?;
    let mut initdb = Command::new(bin.join("initdb"));
    initdb.args([
        "--auth=trust",
        "--username=postgres",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
        "--no-instructions",
    ]);
    run(account.apply(&mut initdb).arg("-D").arg(data))
}

/// A fresh folder directly under the system's temporary one: its path must stay short (a socket path has at most 107
/// bytes) and every parent must be open to the Postgres user.
pub(super) fn temporary_folder() -> Result<PathBuf> {
    Ok(tempfile::Builder::new().prefix("zql-pg-").tempdir()?.keep())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .current_dir("/")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
