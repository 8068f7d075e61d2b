//! Where the programs of Postgres are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where Debian has them, by version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The folder with `initdb` and `postgres`: beside the `initdb` in `PATH`, else Debian's newest version.
///
/// # Errors
/// When there is none; the message says what to install.
pub fn binaries() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    find(&path.unwrap_or_default(), Path::new(DEBIAN))
}

fn find(path: &[PathBuf], debian: &Path) -> Result<PathBuf> {
    let in_path = path
        .iter()
        // A link in PATH may point at one program only; the folder it leads to has them all.
        .filter_map(|dir| fs::canonicalize(dir.join("initdb")).ok())
        .filter_map(|initdb| initdb.parent().map(Path::to_path_buf));
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir(debian)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    debian.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    in_path
        .chain(debian.into_iter().map(|(_, dir)| dir))
        .find(|dir| dir.join("initdb").is_file() && dir.join("postgres").is_file())
        .context("no Postgres server found (initdb): install Debian's package `postgresql`")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Folders under one, each with files of these names.
    fn files(root: &Path, folders: &[(&str, &[&str])]) {
        for (folder, names) in folders {
            fs::create_dir_all(root.join(folder)).unwrap();
            names.iter().for_each(|name| fs::write(root.join(folder).join(name), "").unwrap());
        }
    }

    #[test]
    fn who_has_no_initdb_is_told_what_to_install() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        // A client alone is no server, and neither is half of one.
        files(
            &root,
            &[("path", &["psql"]), ("half", &["initdb"]), ("debian/17/bin", &["psql"]), ("debian/x/bin", &[])],
        );
        for debian in ["debian", "nowhere"] {
            let error = find(&[root.join("path"), root.join("half")], &root.join(debian)).unwrap_err();
            let expected = "no Postgres server found (initdb): install Debian's package `postgresql`";
            assert_eq!(error.to_string(), expected, "{debian}");
        }
    }

    #[test]
    fn a_server_in_the_path_goes_before_the_newest_of_debian() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        let server: &[&str] = &["initdb", "postgres"];
        files(&root, &[("debian/9/bin", server), ("debian/17/bin", server), ("own", server), ("path", &[])]);
        std::os::unix::fs::symlink(root.join("own/initdb"), root.join("path/initdb")).unwrap();
        for (path, found) in [(&[][..], "debian/17/bin"), (&[root.join("empty"), root.join("path")], "own")] {
            assert_eq!(find(path, &root.join("debian")).unwrap(), root.join(found));
        }
    }
}
