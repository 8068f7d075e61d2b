//! Opens what queries are explained with: a replica or a statistics file, told apart by how the file begins.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use engine::replica::Replica;
use planner::Statistics;
use planner::explain::Subject;

/// How every SQLite file begins.
const SQLITE: &[u8] = b"SQLite format 3\0";

/// A replica or statistics.
pub(crate) struct Source {
    subject: Subject,
    kind: Kind,
}

enum Kind {
    Replica(Arc<Replica>),
    Statistics(Statistics),
}

impl Source {
    /// Opens a file.
    pub(crate) fn open(path: &Path) -> Result<Source> {
        let open = || {
            if is_sqlite(path)? {
                let replica = Replica::inspect(path)?;
                let Some(replica) = replica else {
                    bail!("it is not a replica of this server (a replica that zero-cache made cannot be read)");
                };
                let subject = Subject::replica(&replica.pin()?);
                return Ok((subject, Kind::Replica(replica)));
            }
            let statistics = Statistics::parse(&std::fs::read_to_string(path)?).map_err(anyhow::Error::msg)?;
            Ok((Subject::statistics(statistics.clone())?, Kind::Statistics(statistics)))
        };
        let (subject, kind) = open().with_context(|| format!("open {}", path.display()))?;
        Ok(Source { subject, kind })
    }

    /// The replica, if it is one.
    pub(crate) fn replica(&self) -> Option<&Replica> {
        match &self.kind {
            Kind::Replica(replica) => Some(replica),
            Kind::Statistics(_) => None,
        }
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

/// Whether a file is a database. An empty one is none.
pub(crate) fn is_sqlite(path: &Path) -> Result<bool> {
    let mut begin = Vec::new();
    File::open(path)?.take(SQLITE.len() as u64).read_to_end(&mut begin)?;
    Ok(begin == SQLITE)
}
