//! What came out, three times: a table in the terminal, the same as Markdown and JSON for comparing runs, and a chart.
//!
//! A section is one benchmark. Its cells know their unit, so that JSON holds plain numbers, and whether a target was
//! held, so that a missed one stands out and makes the command say so.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde_json::{Map, Value, json};

/// A cell: what it says, what it means, and whether it is what was aimed for.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    value: Value,
    held: Option<bool>,
}

impl Cell {
    fn new(text: impl Into<String>, value: impl Into<Value>) -> Cell {
        Cell { text: text.into(), value: value.into(), held: None }
    }

    /// Words.
    pub(crate) fn text(text: &str) -> Cell {
        Cell::new(text, text)
    }

    /// A number of things.
    pub(crate) fn count(count: usize) -> Cell {
        let digits = count.to_string();
        let mut text = String::new();
        for (position, digit) in digits.chars().enumerate() {
            if position > 0 && (digits.len() - position).is_multiple_of(3) {
                text.push(' ');
            }
            text.push(digit);
        }
        Cell::new(text, count)
    }

    /// A time.
    pub(crate) fn micros(micros: f64) -> Cell {
        Cell::new(micros_text(micros), round(micros))
    }

    /// How many times.
    pub(crate) fn ratio(ratio: f64) -> Cell {
        Cell::new(format!("{ratio:.2}"), round(ratio))
    }

    /// A part of something.
    pub(crate) fn share(share: f64) -> Cell {
        Cell::new(format!("{:.1} %", share * 100.0), round(share))
    }

    /// A size in megabytes.
    pub(crate) fn megabytes(size: f64) -> Cell {
        Cell::new(format!("{size:.0} MB"), round(size))
    }

    /// A size in bytes.
    pub(crate) fn bytes(size: f64) -> Cell {
        Cell::new(format!("{size:.0} B"), round(size))
    }

    /// Marks whether the target was held.
    pub(crate) fn held(mut self, held: bool) -> Cell {
        self.held = Some(held);
        self
    }

    fn marked(&self) -> String {
        if self.held == Some(false) { format!("{} ✗", self.text) } else { self.text.clone() }
    }
}

fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// A time for people.
pub(crate) fn micros_text(micros: f64) -> String {
    match micros {
        micros if micros < 10.0 => format!("{micros:.1} µs"),
        micros if micros < 1e3 => format!("{micros:.0} µs"),
        micros if micros < 1e4 => format!("{:.1} ms", micros / 1e3),
        micros if micros < 1e6 => format!("{:.0} ms", micros / 1e3),
        micros => format!("{:.2} s", micros / 1e6),
    }
}

/// One benchmark's results.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Cell>>,
    notes: Vec<String>,
    /// Whether a missed target fails the command: what is counted does not depend on what else the machine does.
    binding: bool,
    /// Columns that the chart compares, by name.
    pub(crate) charted: Vec<String>,
}

impl Section {
    /// An empty section.
    pub(crate) fn new(id: &str, title: &str, columns: &[&str]) -> Section {
        Section {
            id: id.to_owned(),
            title: title.to_owned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
            notes: Vec::new(),
            binding: false,
            charted: Vec::new(),
        }
    }

    /// Draws these columns as bars.
    pub(crate) fn chart(&mut self, columns: &[&str]) {
        self.charted = columns.iter().map(|&column| column.to_owned()).collect();
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        eprintln!("  {}", cells.iter().map(Cell::marked).collect::<Vec<_>>().join("  "));
        self.rows.push(cells);
    }

    /// Adds a sentence below the table.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Makes a missed target fail the command.
    pub(crate) fn bind(&mut self) {
        self.binding = true;
    }

    /// What a row is about.
    pub(crate) fn label(&self, row: usize) -> String {
        self.rows[row].first().map(|cell| cell.text.clone()).unwrap_or_default()
    }

    /// A cell's number.
    pub(crate) fn number(&self, row: usize, column: &str) -> Option<f64> {
        let column = self.columns.iter().position(|name| name == column)?;
        self.rows[row][column].value.as_f64()
    }

    /// Targets that were missed.
    fn missed(&self) -> usize {
        self.rows.iter().flatten().filter(|cell| cell.held == Some(false)).count()
    }

    fn terminal(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header(&self.columns);
        for row in &self.rows {
            table.add_row(row.iter().map(Cell::marked));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    fn markdown(&self, out: &mut String) {
        let _ = writeln!(out, "\n## {}\n\n| {} |", self.title, self.columns.join(" | "));
        let _ = writeln!(out, "| --- |{}", " ---: |".repeat(self.columns.len() - 1));
        for row in &self.rows {
            let _ = writeln!(out, "| {} |", row.iter().map(Cell::marked).collect::<Vec<_>>().join(" | "));
        }
        for note in &self.notes {
            let _ = writeln!(out, "\n{note}");
        }
    }

    fn json(&self) -> Value {
        let row = |row: &Vec<Cell>| -> Value {
            let cells = self.columns.iter().zip(row).map(|(column, cell)| (column.clone(), cell.value.clone()));
            let missed: Vec<&String> = self
                .columns
                .iter()
                .zip(row)
                .filter(|(_, cell)| cell.held == Some(false))
                .map(|(column, _)| column)
                .collect();
            let mut cells: Map<String, Value> = cells.collect();
            if !missed.is_empty() {
                cells.insert("missed".to_owned(), json!(missed));
            }
            Value::Object(cells)
        };
        json!({"title": self.title, "rows": self.rows.iter().map(row).collect::<Vec<_>>(), "notes": self.notes})
    }
}

/// All results of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    sections: Vec<Section>,
}

impl Report {
    /// Adds a benchmark's results and prints them.
    pub(crate) fn add(&mut self, section: Section) {
        println!("\n{}\n{}", section.title, section.terminal());
        for note in &section.notes {
            println!("{note}");
        }
        self.sections.push(section);
    }

    /// The sections of the run that was recorded last, if there is one.
    pub(crate) fn recorded(folder: &Path, name: &str) -> Map<String, Value> {
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap_or_default();
        match serde_json::from_str::<Value>(&text) {
            Ok(Value::Object(mut run)) => match run.remove("sections") {
                Some(Value::Object(sections)) => sections,
                _ => Map::new(),
            },
            _ => Map::new(),
        }
    }

    /// Writes all results to a folder: a JSON and a Markdown file, and a chart for each section that has one. Parts that
    /// did not run keep what was recorded before, in JSON.
    pub(crate) fn write(
        &self,
        folder: &Path,
        name: &str,
        machine: &Value,
        command: &str,
        mut sections: Map<String, Value>,
    ) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        sections.extend(self.sections.iter().map(|section| (section.id.clone(), section.json())));
        let all = json!({"machine": machine, "sections": sections});
        std::fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(&all)? + "\n")?;
        let say = |what: &str| machine[what].as_str().map_or_else(|| machine[what].to_string(), str::to_owned);
        let mut text = format!(
            "# Benchmarks\n\nWritten by `{command}`. {} cores of {}, {}, Linux {}; load {} when it began. Times are medians; \
             what is compared took turns. `✗` marks a target that was missed.\n",
            say("cores"),
            say("processor"),
            say("memory"),
            say("kernel"),
            say("load"),
        );
        for section in &self.sections {
            section.markdown(&mut text);
            if !section.charted.is_empty() {
                let file = format!("{name}-{}.svg", section.id);
                std::fs::write(folder.join(&file), crate::chart::bars(section))?;
                let _ = writeln!(text, "\n![{}]({file})", section.title);
            }
        }
        std::fs::write(folder.join(format!("{name}.md")), text)?;
        Ok(())
    }

    /// Says how many targets were missed.
    ///
    /// # Errors
    /// If one of a section that binds was.
    pub(crate) fn judge(&self) -> Result<()> {
        let missed: usize = self.sections.iter().map(Section::missed).sum();
        if missed > 0 {
            println!("\n{missed} targets were missed; they are marked with ✗");
        }
        let broken = self.sections.iter().filter(|section| section.binding && section.missed() > 0);
        let broken: Vec<&str> = broken.map(|section| section.title.as_str()).collect();
        ensure!(broken.is_empty(), "what is counted must not grow unseen: {}", broken.join("; "));
        Ok(())
    }
}
