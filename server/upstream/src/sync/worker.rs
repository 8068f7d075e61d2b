//! A worker of the initial copy: one connection, one table after another.

use std::sync::atomic::Ordering;

use engine::replica::SqliteValue;
use futures::TryStreamExt;
use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::copy_format::{CopyReader, Malformed};
use super::{Batch, CopyTable, Shared, import_snapshot};
use crate::connection::Target;
use crate::error::Error;
use crate::values::{ValueError, decode_binary, decode_text};

/// Cells in a batch at most: some hundreds of rows, enough for SQLite's multi-row inserts.
const BATCH_CELLS: usize = 8192;

/// Bytes in a batch at most, so that wide rows do not pile up.
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// Copies tables until none is left.
pub(super) async fn copy_tables(
    target: &Target,
    snapshot: &str,
    shared: &Shared,
    batches: &mpsc::Sender<Batch>,
) -> Result<(), Error> {
    let client = import_snapshot(target, "initial-sync-copy-worker", snapshot).await?;
    loop {
        let next = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some(table) = usize::try_from(next).ok().filter(|&next| next < shared.tables.len()) else { return Ok(()) };
        copy_table(&client, shared, table, batches).await?;
        shared.tables[table].done.store(true, Ordering::Relaxed);
    }
}

async fn copy_table(
    client: &Client,
    shared: &Shared,
    index: usize,
    batches: &mpsc::Sender<Batch>,
) -> Result<(), Error> {
    let table = &shared.tables[index];
    let context = || Error::postgres(format!("copy table {}", table.spec.name));
    let stream = client.copy_out(&table.statement).await.map_err(context())?;
    let mut stream = std::pin::pin!(stream);
    let mut reader = CopyReader::default();
    let mut values = spare(shared);
    let mut size = 0;
    while let Some(chunk) = stream.try_next().await.map_err(context())? {
        if shared.failed.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        reader.push(&chunk);
        size += chunk.len();
        table.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        let mut rows = 0;
        while read_row(&mut reader, table, &mut values)? {
            rows += 1;
            if values.len() >= BATCH_CELLS || size >= BATCH_BYTES {
                let full = std::mem::replace(&mut values, spare(shared));
                batches.send(Batch { table: index, values: full }).await.map_err(|_| stopped())?;
                size = 0;
            }
        }
        table.rows.fetch_add(rows, Ordering::Relaxed);
    }
    if !reader.ended() {
        return Err(Error::Protocol(format!("the copy of table {} ended early", table.spec.name)));
    }
    if !values.is_empty() {
        batches.send(Batch { table: index, values }).await.map_err(|_| stopped())?;
    }
    Ok(())
}

const STOPPED: &str = "the copy stopped";

/// The loader is gone or another worker failed; theirs is the error that counts.
pub(super) fn stopped() -> Error {
    Error::Protocol(STOPPED.to_owned())
}

/// Whether an error only says that another one came first.
pub(super) fn is_stopped(error: &Error) -> bool {
    matches!(error, Error::Protocol(text) if text == STOPPED)
}

fn spare(shared: &Shared) -> Vec<SqliteValue> {
    shared.spare.lock().pop().unwrap_or_else(|| Vec::with_capacity(BATCH_CELLS + 256))
}

/// Why a row cannot be read.
enum RowError {
    Malformed(Malformed),
    Value(usize, ValueError),
}

impl From<Malformed> for RowError {
    fn from(error: Malformed) -> Self {
        RowError::Malformed(error)
    }
}

fn read_row(reader: &mut CopyReader, table: &CopyTable, values: &mut Vec<SqliteValue>) -> Result<bool, Error> {
    let decoders = &table.decoders;
    let result = reader.row(decoders.len(), |column, bytes| {
        let decoder = decoders[column];
        let value = match bytes {
            None => SqliteValue::Null,
            Some(bytes) if decoder.copies_binary() => {
                decode_binary(decoder.kind, bytes).map_err(|error| RowError::Value(column, error))?
            }
            Some(bytes) => decode_text(decoder, bytes).map_err(|error| RowError::Value(column, error))?,
        };
        values.push(value);
        Ok(())
    });
    result.map_err(|error| match error {
        RowError::Malformed(error) => Error::Protocol(format!("table {}: {error}", table.spec.name)),
        RowError::Value(column, error) => {
            let column = &table.spec.columns[column];
            Error::Protocol(format!("table {}, column {} ({}): {error}", table.spec.name, column.name, column.pg_type))
        }
    })
}
