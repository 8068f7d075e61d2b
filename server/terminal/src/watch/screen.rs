//! The screen: drawn anew in place, or a line per event where the output is no terminal.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use crossterm::style::Stylize;
use protocol_client::{Poke, State};
use zql_spec::ast::Ast;
use zql_spec::protocol::downstream::RowOp;

use super::follow::Options;
use super::view::{Section, sections};

/// How long a changed row stays marked.
const MARKED: Duration = Duration::from_millis(1500);
/// Size of a terminal that does not tell its own.
const DEFAULT_SIZE: (u16, u16) = (100, 40);
/// No column is wider than this, so that one long text does not push the others out.
const WIDEST: usize = 40;
/// Lines above the first section, besides the heading.
const STATUS_LINES: usize = 4;

/// What the screen shows besides the rows.
#[derive(Debug)]
pub(super) struct Screen {
    /// Redraw in place, print lines, or nothing when lines of JSON are printed instead.
    mode: Mode,
    ast: Option<Ast>,
    heading: Vec<String>,
    server: String,
    connection: String,
    complete: Option<f64>,
    round_trip: Option<f64>,
    pokes: u64,
    last_poke: String,
    cookie: String,
    /// When each line that is shown was first shown.
    lines: HashMap<String, Instant>,
    dirty: bool,
    drawn: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    InPlace,
    Lines,
    Silent,
}

impl Screen {
    pub(super) fn new(options: &Options, terminal: bool) -> Screen {
        let mode = match (options.json, terminal) {
            (true, _) => Mode::Silent,
            (false, true) => Mode::InPlace,
            (false, false) => Mode::Lines,
        };
        Screen {
            mode,
            ast: options.ast.clone(),
            heading: options.heading.clone(),
            server: options.identity.server.clone(),
            connection: "connecting".to_owned(),
            complete: None,
            round_trip: None,
            pokes: 0,
            last_poke: "none yet".to_owned(),
            cookie: String::new(),
            lines: HashMap::new(),
            dirty: true,
            drawn: Instant::now(),
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty && self.mode == Mode::InPlace
    }

    pub(super) fn connected(&mut self, milliseconds: f64) {
        self.say(format!("connected in {milliseconds:.1} ms"));
    }

    pub(super) fn disconnected(&mut self, why: &str) {
        self.say(why.to_owned());
    }

    fn say(&mut self, connection: String) {
        if self.mode == Mode::Lines {
            println!("{connection}");
        }
        self.connection = connection;
        self.dirty = true;
    }

    pub(super) fn complete(&mut self, milliseconds: f64) {
        if self.mode == Mode::Lines {
            println!("complete {milliseconds:.1} ms after connecting");
        }
        self.complete = Some(milliseconds);
        self.dirty = true;
    }

    pub(super) fn answered(&mut self, milliseconds: f64) {
        self.round_trip = Some(milliseconds);
        self.dirty = true;
    }

    pub(super) fn poked(&mut self, poke: &Poke) {
        let (mut puts, mut dels) = (0, 0);
        for op in poke.rows() {
            match op {
                RowOp::Del { .. } => dels += 1,
                _ => puts += 1,
            }
        }
        self.pokes += 1;
        self.cookie = poke.cookie.clone();
        self.last_poke = format!(
            "{puts} rows put, {dels} deleted, {} bytes in {:.1} ms",
            poke.bytes,
            poke.ended.duration_since(poke.began).as_secs_f64() * 1e3
        );
        if self.mode == Mode::Lines {
            println!("poke to {}: {}", poke.cookie, self.last_poke);
        }
        self.dirty = true;
    }

    pub(super) fn draw_if_due(&mut self, state: &State, frame: Duration) {
        if self.dirty && self.drawn.elapsed() >= frame {
            self.draw(state);
        }
    }

    pub(super) fn draw(&mut self, state: &State) {
        self.dirty = false;
        self.drawn = Instant::now();
        if self.mode != Mode::InPlace {
            return;
        }
        // A terminal that nobody looks at, as under `script`, says that it has no size.
        let size = crossterm::terminal::size().ok().filter(|(width, height)| *width > 1 && *height > 1);
        let (width, height) = size.unwrap_or(DEFAULT_SIZE);
        let mut out = String::from("\x1b[?25l\x1b[H");
        let room = usize::from(height).saturating_sub(self.heading.len() + STATUS_LINES + 1);
        for line in &self.heading {
            push_line(&mut out, &cut(line, width.into()));
        }
        let complete = self.complete.map_or("not complete yet".to_owned(), |ms| format!("complete after {ms:.1} ms"));
        let ping = self.round_trip.map_or(String::new(), |ms| format!(", ping {ms:.1} ms"));
        push_line(&mut out, &cut(&format!("{} · {}{ping}", self.server, self.connection), width.into()));
        push_line(&mut out, &cut(&format!("{complete} · {} pokes · cookie {}", self.pokes, self.cookie), width.into()));
        push_line(&mut out, &cut(&format!("last poke: {}", self.last_poke), width.into()));
        let shown = sections(state, self.ast.as_ref(), room);
        let each = room / shown.len().max(1);
        let mut lines = HashMap::new();
        for section in &shown {
            self.draw_section(section, each, width.into(), &mut lines, &mut out);
        }
        self.lines = lines;
        // What an earlier, longer frame left below, and the cursor again.
        out.push_str("\x1b[J\x1b[?25h");
        let mut stdout = std::io::stdout();
        // A terminal that is gone is noticed by whoever ends us.
        let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush());
    }

    fn draw_section(
        &self,
        section: &Section,
        room: usize,
        width: usize,
        lines: &mut HashMap<String, Instant>,
        out: &mut String,
    ) {
        push_line(out, &section.title.as_str().bold().to_string());
        let widths = widths(section, room);
        push_line(out, &cut(&row(&section.columns, &widths), width).underlined().to_string());
        // Title and header take two lines of the room.
        for cells in section.rows.iter().take(room.saturating_sub(2)) {
            let line = cut(&row(cells, &widths), width);
            // On the first frame everything is new, and nothing is worth a mark.
            let unseen = if self.lines.is_empty() { Instant::now().checked_sub(MARKED) } else { None };
            let since = self.lines.get(&line).copied().or(unseen).unwrap_or_else(Instant::now);
            if since.elapsed() < MARKED {
                push_line(out, &line.as_str().yellow().bold().to_string());
            } else {
                push_line(out, &line);
            }
            lines.insert(line, since);
        }
    }
}

fn widths(section: &Section, room: usize) -> Vec<usize> {
    let cells = |column: usize| section.rows.iter().take(room).filter_map(move |row| row.get(column));
    section
        .columns
        .iter()
        .enumerate()
        .map(|(column, name)| {
            cells(column).chain([name]).map(|text| text.chars().count()).max().unwrap_or(0).min(WIDEST)
        })
        .collect()
}

fn row(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let _ = write!(line, "{:width$}  ", cut(&printable(cell), *width));
    }
    line.trim_end().to_owned()
}

/// Rows come from anybody: no control character of theirs may reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A line in place: what an earlier frame had after its end is wiped out.
fn push_line(out: &mut String, line: &str) {
    out.push_str(line);
    out.push_str("\x1b[K\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_and_cannot_talk_to_the_terminal() {
        let cells = ["a\x1b[2Jb".to_owned(), "x".repeat(9)];
        assert_eq!(row(&cells, &[8, 5]), "a [2Jb    xxxx…");
    }
}
