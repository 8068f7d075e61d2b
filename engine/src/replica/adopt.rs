//! Opening a file that zero-cache left behind.
//!
//! zero-cache serves from a journal mode that only its own build of SQLite knows, and says so in the file's header. When
//! it ends in order it folds its logs into the file and removes them; what is left differs from any other SQLite
//! database in two bytes, so changing those is all that taking the file over needs. With a log beside it the newest
//! transactions are out of reach, and the file is none that can be opened.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::{ReplicaError, beside};

/// Where a database file names its journal mode: one byte for writers, one for readers.
const MODE_OFFSET: u64 = 18;

/// The mode of zero-cache's serving processes.
const TWO_LOGS: [u8; 2] = [3, 3];

/// A rollback journal, from which SQLite changes to any other mode.
const ROLLBACK: [u8; 2] = [1, 1];

/// Makes a file of zero-cache one that SQLite opens; any other is left alone.
pub(super) fn adopt(path: &Path) -> Result<(), ReplicaError> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut mode = [0; 2];
    file.seek(SeekFrom::Start(MODE_OFFSET))?;
    if file.read_exact(&mut mode).is_err() || mode != TWO_LOGS {
        return Ok(());
    }
    for suffix in ["-wal", "-wal2"] {
        if File::open(beside(path, suffix)).and_then(|log| log.metadata()).is_ok_and(|log| log.len() > 0) {
            tracing::warn!(
                path = %path.display(),
                "the replica is a zero-cache's that runs or did not end in order: it cannot be taken over"
            );
            return Ok(());
        }
    }
    file.seek(SeekFrom::Start(MODE_OFFSET))?;
    file.write_all(&ROLLBACK)?;
    file.sync_all()?;
    tracing::info!(path = %path.display(), "taking over the replica of a zero-cache");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{adopt, beside};

    #[test]
    fn only_a_file_without_a_log_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replica.db");
        let made = rusqlite::Connection::open(&path).unwrap();
        made.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
        drop(made);
        let mark = |mode: u8| {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[18..20].fill(mode);
            std::fs::write(&path, bytes).unwrap();
        };
        let rows = || {
            let connection = rusqlite::Connection::open(&path)?;
            connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))
        };
        mark(3);
        assert!(rows().is_err());
        std::fs::write(beside(&path, "-wal2"), "frames").unwrap();
        adopt(&path).unwrap();
        assert!(rows().is_err());
        std::fs::write(beside(&path, "-wal2"), "").unwrap();
        adopt(&path).unwrap();
        assert_eq!(rows().unwrap(), 1);
        mark(2);
        adopt(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[18], 2);
    }
}
