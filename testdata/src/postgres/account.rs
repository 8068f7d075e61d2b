//! The account that a private Postgres server runs under.
//!
//! Must not know clusters: it starts commands and hands folders over. Nothing here grows.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow};

/// Who runs the server: Postgres refuses to run as root.
#[derive(Debug)]
pub(super) enum Account {
    Own,
    Other { uid: u32, gid: u32 },
}

impl Account {
    pub(super) fn for_postgres() -> Result<Account> {
        use std::os::unix::fs::MetadataExt;
        // /proc/self belongs to the effective user.
        if fs::metadata("/proc/self").map(|meta| meta.uid()).unwrap_or(1) != 0 {
            return Ok(Account::Own);
        }
        let passwd = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        let account = |name: &str| {
            let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some(Account::Other { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        };
        account("postgres")
            .or_else(|| account("nobody"))
            .ok_or_else(|| anyhow!("running as root and found neither user `postgres` nor `nobody` to run Postgres as"))
    }

    pub(super) fn apply<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        match self {
            Account::Own => command,
            Account::Other { uid, gid } => command.uid(*uid).gid(*gid),
        }
    }

    /// Gives the folder to the account, closed to everyone else.
    pub(super) fn own(&self, folder: &Path) -> Result<()> {
        self.give(folder, 0o700)
    }

    /// Writes a file that nobody but the account can read.
    pub(super) fn write(&self, file: &Path, text: &str) -> Result<()> {
        fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        self.give(file, 0o600)
    }

    fn give(&self, path: &Path, mode: u32) -> Result<()> {
        if let Account::Other { uid, gid } = self {
            std::os::unix::fs::chown(path, Some(*uid), Some(*gid))
                .with_context(|| format!("give {} to the Postgres user", path.display()))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }
}
