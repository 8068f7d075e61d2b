//! Instructions from a WAL message to the text of a poke, counted by callgrind.
//!
//! Times on a machine that does other things tell little of a small change; instructions of the same work are nearly
//! the same in every run. The work runs in a process of its own under valgrind, which counts only while one of
//! the stages below is on the stack. Their names are found in valgrind's output, so they are never inlined.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use engine::catalogue::{Advanced, Catalogue};
use engine::commit::Commit;
use engine::graph::{Graph, ReplicaRead};
use engine::hydration::Hydrate;
use engine::replica::Tx;
use planner::Planner;
use serde_json::json;
use sync::poke::{PokeText, poke_end, poke_start};
use sync::row_text::{RowTexts, TableText};
use upstream::stream::Applier;

use crate::report::{Cell, Report, Section};
use crate::tracker::{self, USERS, related, simple};

/// Issues of the replica, and how many pages of one issue run.
const ISSUES: i64 = 2_000;

/// Changes that are counted; each is a transaction of one row.
const ROUNDS: i64 = 500;

/// How many times more than accepted a stage may take before the run fails.
const GROWTH_TARGET: f64 = 1.1;

/// The stages: what they do, and the function that does it.
const STAGES: [(&str, &str); 4] = [
    ("decode the message, write the row", "stage_apply"),
    ("commit the transaction, list what changed", "stage_commit"),
    ("advance the queries", "stage_advance"),
    ("write the poke", "stage_poke"),
];

#[inline(never)]
fn stage_apply(applier: &mut Applier, tx: &mut Tx<'_>, message: &[u8]) -> Result<()> {
    Ok(applier.message(tx, message)?)
}

#[inline(never)]
fn stage_commit(tx: Tx<'_>) -> Result<Commit> {
    Ok(tx.commit()?)
}

#[inline(never)]
fn stage_advance(catalogue: &mut Catalogue, commit: &Commit, read: &mut ReplicaRead) -> Vec<Advanced> {
    catalogue.commit(commit, read)
}

#[inline(never)]
fn stage_poke(advanced: &[Advanced], table: &TableText, texts: &RowTexts) -> Vec<String> {
    let mut frames = vec![poke_start("1a", Some("19"))];
    let mut poke = PokeText::new("1a");
    for change in advanced.iter().filter_map(|(_, delta)| delta.as_ref().ok()).flat_map(|delta| &delta.changes) {
        if let Some(row) = &change.row {
            let text = texts.put(table, row);
            poke.row(|out| out.push_str(&text));
        }
    }
    frames.extend(poke.finish());
    frames.push(poke_end("1a", "1a"));
    frames
}

/// Runs the work under valgrind and compares with the counts in the file `accepted`, which only a run that `accept`s them
/// writes: a baseline that each run replaced would let the counts creep.
pub(crate) fn run(accepted: &Path, accept: bool, report: &mut Report) -> Result<()> {
    let before: BTreeMap<String, usize> = match std::fs::read_to_string(accepted) {
        Ok(text) if !accept => serde_json::from_str(&text).with_context(|| format!("in {}", accepted.display()))?,
        _ => BTreeMap::new(),
    };
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    let folder = tempfile::tempdir()?;
    let counts = folder.path().join("callgrind.out");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--demangle=no", "--collect-atstart=no", "--error-exitcode=99"]);
    // One pattern for all: of several with the same beginning, valgrind 3.19 matches only the first.
    command.arg("--toggle-collect=*hot_path*stage_*");
    command.arg(format!("--callgrind-out-file={}", counts.display()));
    command.arg(std::env::current_exe()?).arg("--hot-path").arg("--replica").arg(folder.path().join("replica.db"));
    let Ok(output) = command.output() else {
        println!("valgrind is missing, so instructions are not counted");
        return Ok(());
    };
    ensure!(output.status.success(), "counting failed: {}", String::from_utf8_lossy(&output.stderr));
    let annotated = Command::new("callgrind_annotate")
        .args(["--inclusive=yes", "--threshold=100", "--auto=no"])
        .arg(&counts)
        .output()
        .context("callgrind_annotate comes with valgrind")?;
    let annotated = String::from_utf8_lossy(&annotated.stdout).into_owned();
    let mut section = Section::new(
        "hot-path",
        "Instructions of one changed row, from the WAL message to the poke",
        &["stage", "instructions", "accepted", "growth", "at most"],
    );
    section.bind();
    let mut add = |name: &str, instructions: usize| {
        let before = before.get(name).copied();
        let growth = before.map(|before| instructions as f64 / before.max(1) as f64);
        section.row(vec![
            Cell::text(name),
            Cell::count(instructions),
            before.map_or(Cell::text(""), Cell::count),
            growth.map_or(Cell::text(""), |growth| Cell::ratio(growth).held(growth <= GROWTH_TARGET)),
            Cell::ratio(GROWTH_TARGET),
        ]);
        counted.insert(name.to_owned(), instructions);
    };
    let mut all = 0;
    for (name, stage) in STAGES {
        let instructions = inclusive(&annotated, stage).with_context(|| format!("{stage} was not counted"))?;
        let each = (instructions / (ROUNDS as u64)) as usize;
        all += each;
        add(name, each);
    }
    add("all", all);
    report.add(section);
    if before.is_empty() {
        std::fs::write(accepted, serde_json::to_string_pretty(&counted)? + "\n")?;
    }
    Ok(())
}

/// The inclusive count of a function in callgrind_annotate's output.
fn inclusive(annotated: &str, function: &str) -> Option<u64> {
    let line = annotated.lines().find(|line| line.contains(function) && !line.contains("toggle"))?;
    let digits = line.split_ascii_whitespace().next()?.replace(',', "");
    digits.parse().ok()
}

/// The work: comments are edited, each on a page that shows it.
pub(crate) fn child(path: &Path) -> Result<()> {
    let replica = tracker::load(path, ISSUES)?;
    let planner = Planner::new();
    let mut catalogue = Catalogue::default();
    let snapshot = replica.pin()?;
    for issue in 0..ISSUES {
        let mut page = json!({"table": "comment", "where": simple("issue_id", "=", format!("i{issue}"))});
        page["related"] = json!([related("creator", "creator_id", "id", json!({"table": "user"}))]);
        let query = tracker::resolve(&page, &snapshot)?;
        let hydration = planner.hydrate(&query, &snapshot)?;
        catalogue.insert(Graph::new(query, &hydration));
    }
    let table = TableText::new(snapshot.schema.table("comment").context("comments are there")?);
    drop(snapshot);
    let texts = RowTexts::default();
    let mut writer = replica.writer()?;
    let mut applier = Applier::of_replica(&replica);
    let mut written = 0;
    for round in 0..ROUNDS {
        let mut tx = writer.begin(&format!("1{round:08}"))?;
        if round == 0 {
            applier.message(&mut tx, &relation())?;
        }
        stage_apply(&mut applier, &mut tx, &update(round))?;
        let commit = stage_commit(tx)?;
        let mut read = ReplicaRead::new(replica.pin()?.reader()?);
        let advanced = stage_advance(&mut catalogue, &commit, &mut read);
        let frames = stage_poke(&advanced, &table, &texts);
        ensure!(frames.len() == 3, "a change is poked");
        written += frames.iter().map(String::len).sum::<usize>();
    }
    eprintln!("{written} bytes of pokes");
    Ok(())
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
}

/// The columns of a comment, as pgoutput describes them: name and type.
const COMMENT: [(&str, u32); 5] = [("id", 25), ("issue_id", 25), ("creator_id", 25), ("body", 25), ("created", 701)];

/// The message that describes the table.
fn relation() -> Vec<u8> {
    let mut bytes = vec![b'R', 0, 0, 0, 42];
    text(&mut bytes, "public");
    text(&mut bytes, "comment");
    bytes.push(b'd');
    bytes.extend_from_slice(&(COMMENT.len() as u16).to_be_bytes());
    for (position, (name, oid)) in COMMENT.into_iter().enumerate() {
        bytes.push(u8::from(position == 0));
        text(&mut bytes, name);
        bytes.extend_from_slice(&oid.to_be_bytes());
        bytes.extend_from_slice(&(-1_i32).to_be_bytes());
    }
    bytes
}

/// The message that edits a comment.
fn update(round: i64) -> Vec<u8> {
    let issue = tracker::pick(round, 11, ISSUES);
    let creator = tracker::pick(round, 12, USERS);
    let cells = [
        format!("c{round}"),
        format!("i{issue}"),
        format!("u{creator}"),
        format!("edited in round {round}"),
        format!("{}", 1_800_000_000_000_i64 + round * 1000),
    ];
    let mut bytes = vec![b'U', 0, 0, 0, 42, b'N'];
    bytes.extend_from_slice(&(cells.len() as u16).to_be_bytes());
    for cell in cells {
        bytes.push(b't');
        bytes.extend_from_slice(&(cell.len() as u32).to_be_bytes());
        bytes.extend_from_slice(cell.as_bytes());
    }
    bytes
}
