//! The initial copy as a progress bar on a terminal, and as lines of the log elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use upstream::{OnProgress, Progress, TableProgress};

/// How often a copy that nobody watches is mentioned in the log.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Something to tell of the copy's progress.
pub(crate) fn reporter() -> OnProgress {
    let state = Mutex::new(State { bar: None, on_terminal: std::io::stderr().is_terminal(), logged: Instant::now() });
    Arc::new(move |progress| state.lock().report(progress))
}

struct State {
    bar: Option<ProgressBar>,
    on_terminal: bool,
    logged: Instant,
}

impl State {
    fn report(&mut self, progress: Progress) {
        match progress {
            Progress::SettingUp => tracing::debug!("setting up the upstream database"),
            Progress::Copying(tables) => self.copying(&tables),
            Progress::Indexing => {
                if let Some(bar) = &self.bar {
                    bar.set_message("creating indexes");
                }
                tracing::info!("all rows are copied; creating indexes");
            }
            Progress::Done { rows, elapsed_ms } => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
                tracing::info!(rows, elapsed_ms, "the replica is complete");
            }
        }
    }

    fn copying(&mut self, tables: &[TableProgress]) {
        let rows: u64 = tables.iter().map(|table| table.rows).sum();
        // Totals are Postgres's estimates: a table that is complete counts as it is.
        let total: u64 =
            tables.iter().map(|table| if table.done { table.rows } else { table.total_rows.max(table.rows) }).sum();
        let done = tables.iter().filter(|table| table.done).count();
        if self.on_terminal {
            let bar = self.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} rows, {eta} left")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
                ProgressBar::new(total).with_style(style)
            });
            bar.set_length(total);
            bar.set_position(rows);
            bar.set_message(format!("copying {done}/{} tables", tables.len()));
        } else if self.logged.elapsed() >= LOG_EVERY {
            self.logged = Instant::now();
            tracing::info!(rows, of = total, tables_done = done, tables = tables.len(), "copying tables");
        }
    }
}
