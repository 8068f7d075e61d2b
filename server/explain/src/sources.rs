//! Opens what queries are explained with: a replica or a statistics file, told apart by how the file begins.
//!
//! The replica that a zero-cache left behind is read too. A server adopts such a file by changing two bytes of its header;
//! here they are changed in a copy, as large as the file, in the folder for temporary files.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use engine::replica::Replica;
use planner::Statistics;
use planner::explain::Subject;
use tempfile::TempDir;

/// How every SQLite file begins.
const SQLITE: &[u8] = b"SQLite format 3\0";

/// Where a database file names its journal mode: one byte for writers, one for readers.
const MODE: std::ops::Range<usize> = 18..20;

/// The mode of zero-cache's own build of SQLite, which no other can read.
const TWO_LOGS: [u8; 2] = [3, 3];

/// A mode that every SQLite reads. What is in the file is the same.
const ROLLBACK: [u8; 2] = [1, 1];

/// A replica or statistics.
pub(crate) struct Source {
    subject: Subject,
    /// The file that is read.
    path: PathBuf,
    kind: Kind,
    /// Where the replica that is read lies, if that is a copy.
    _copy: Option<TempDir>,
}

enum Kind {
    Replica(Arc<Replica>),
    Statistics(Statistics),
}

impl Source {
    /// Opens a file.
    pub(crate) fn open(path: &Path) -> Result<Source> {
        let open = || {
            let head = head(path)?;
            if head.starts_with(SQLITE) {
                let copy = if head.get(MODE) == Some(&TWO_LOGS) { Some(readable_copy(path)?) } else { None };
                let (path, copy) = match copy {
                    Some((path, folder)) => (path, Some(folder)),
                    None => (path.to_owned(), None),
                };
                let Some(replica) = Replica::inspect(&path)? else {
                    bail!("it is an SQLite database and not a replica");
                };
                let subject = Subject::replica(&replica.pin()?);
                return Ok(Source { subject, path, kind: Kind::Replica(replica), _copy: copy });
            }
            let text = String::from_utf8(std::fs::read(path)?).unwrap_or_default();
            // One that was cut off is a broken statistics file rather than none.
            if !says_statistics(&text) && !text.contains("zql-statistics") {
                let what = if head.is_empty() { ": it is empty" } else { "" };
                bail!("it is neither a replica nor a statistics file{what}");
            }
            let statistics = Statistics::parse(&text).map_err(anyhow::Error::msg)?;
            let subject = Subject::statistics(statistics.clone())?;
            Ok(Source { subject, path: path.to_owned(), kind: Kind::Statistics(statistics), _copy: None })
        };
        open().with_context(|| format!("open {}", path.display()))
    }

    /// Whether a file is a replica or statistics, rather than queries.
    pub(crate) fn is_one(path: &Path) -> Result<bool> {
        let is_one = || -> Result<bool> {
            Ok(head(path)?.starts_with(SQLITE) || says_statistics(&String::from_utf8_lossy(&std::fs::read(path)?)))
        };
        is_one().with_context(|| format!("open {}", path.display()))
    }

    /// The replica, if it is one.
    pub(crate) fn replica(&self) -> Option<&Replica> {
        match &self.kind {
            Kind::Replica(replica) => Some(replica),
            Kind::Statistics(_) => None,
        }
    }

    /// The file that is read: the one that was named, or a copy of it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What queries are explained with.
    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Its statistics; of a replica with some of its values, if they may be told.
    pub(crate) fn statistics(&self, values: bool) -> Result<Statistics> {
        match &self.kind {
            Kind::Replica(replica) => Ok(Statistics::read(replica, values)?),
            Kind::Statistics(statistics) => Ok(statistics.clone()),
        }
    }

    /// Its indexes: table, columns, and whether unique.
    pub(crate) fn indexes(&self) -> Vec<(String, String)> {
        let mut indexes: Vec<(String, String)> = match &self.kind {
            Kind::Replica(replica) => replica
                .indexes()
                .into_iter()
                .map(|index| {
                    let columns: Vec<String> = index.columns.into_iter().map(|(column, _)| column).collect();
                    (index.table, columns.join(", "))
                })
                .collect(),
            Kind::Statistics(statistics) => statistics
                .tables
                .iter()
                .flat_map(|table| {
                    table.indexes.iter().map(|index| {
                        let columns: Vec<&str> = index.columns.iter().map(|(column, _)| column.as_str()).collect();
                        (table.name.clone(), columns.join(", "))
                    })
                })
                .collect(),
        };
        indexes.sort();
        indexes.dedup();
        indexes
    }
}

/// How a file begins.
fn head(path: &Path) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(MODE.end as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Whether a text is meant as statistics: JSON that names its format.
fn says_statistics(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok_and(|json| json.get("format").is_some())
}

/// A copy of zero-cache's file that SQLite reads. With a log beside the file its newest transactions are out of reach.
fn readable_copy(path: &Path) -> Result<(PathBuf, TempDir)> {
    for suffix in ["-wal", "-wal2"] {
        let mut log = path.as_os_str().to_owned();
        log.push(suffix);
        if std::fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
            bail!(
                "it is the replica of a zero-cache that runs or did not end in order: its newest transactions are in {}, \
                 which only zero-cache can read; stop it in order, or explain with the replica of this server",
                Path::new(&log).display()
            );
        }
    }
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("replica.db");
    std::fs::copy(path, &copy).context("copy it, because zero-cache's files cannot be read as they are")?;
    // The mode of the copied file may forbid to write it.
    std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let mut file = OpenOptions::new().write(true).open(&copy)?;
    file.seek(SeekFrom::Start(MODE.start as u64))?;
    file.write_all(&ROLLBACK)?;
    Ok((copy, folder))
}
