//! The change log behind the commits: complete once the writer has ended, and honest about what it lost.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::replica::changelog::{ROWS_LOGGED_MAX, ROWS_WAITING};

/// The entries by table and key: version and kind.
fn log(path: &Path) -> BTreeMap<(String, String), (String, String)> {
    let connection = Connection::open(path).unwrap();
    let mut statement =
        connection.prepare(r#"SELECT "table", rowKey, stateVersion, op FROM "_zero.changeLog2""#).unwrap();
    let entries = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?)))).unwrap();
    entries.collect::<Result<_, _>>().unwrap()
}

fn entry(key: &str, version: &str, op: &str) -> ((String, String), (String, String)) {
    let table = if op == "r" { "" } else { "issue" };
    ((table.to_owned(), key.to_owned()), (version.to_owned(), op.to_owned()))
}

fn version(number: usize) -> String {
    format!("1{number:06}")
}

#[test]
fn entries_follow_the_commits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replica.db");
    let replica = open(&folder, &[row(1, "a"), row(2, "b")]);
    let mut writer = replica.writer().unwrap();
    let mut number = 0;
    let mut commit = |writer: &mut Writer, work: &dyn Fn(&mut Tx<'_>, &Relation)| {
        number += 1;
        let mut tx = writer.begin(&version(number)).unwrap();
        let relation = relation(&mut tx);
        work(&mut tx, &relation);
        tx.commit().unwrap();
        version(number)
    };
    let edited = commit(&mut writer, &|tx, relation| tx.update(relation, None, &sent(row(1, "edited"))).unwrap());
    assert_eq!(log(&path), BTreeMap::new(), "one row is not worth writing yet");
    // With nothing else to write, what waits is written.
    commit(&mut writer, &|_, _| {});
    assert_eq!(log(&path), BTreeMap::from([entry("{\"id\":1}", &edited, "s")]));
    // So it is when enough waits; of one row the latest change stays.
    let mut last = String::new();
    for id in 0..=ROWS_WAITING as i64 {
        last = commit(&mut writer, &|tx, relation| {
            tx.delete(relation, &[Lite::Integer(1)]).unwrap();
            tx.insert(relation, &row(100 + id, &format!("n{id}"))).unwrap();
        });
    }
    let entries = log(&path);
    assert!(entries.len() > ROWS_WAITING / 2, "{} entries", entries.len());
    assert_eq!(entries[&entry("{\"id\":1}", "", "d").0].1, "d");
    // And when the writer ends.
    drop(writer);
    let entries = log(&path);
    assert_eq!(entries.len(), 2 + ROWS_WAITING);
    assert_eq!(entries[&entry(&format!("{{\"id\":{}}}", 100 + ROWS_WAITING), "", "s").0], (last, "s".to_owned()));
    assert_eq!(&*replica.state().state_version, version(number));
}

#[test]
fn readers_start_over_where_rows_are_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replica.db");
    let replica = open(&folder, &[row(1, "a"), row(2, "b")]);
    let mut writer = replica.writer().unwrap();
    let mut tx = writer.begin("02").unwrap();
    let of_issues = relation(&mut tx);
    tx.update(&of_issues, None, &sent(row(1, "edited"))).unwrap();
    tx.commit().unwrap();

    // The writer was killed here: another process finds the file without the row's entry.
    let killed = folder.path().join("killed.db");
    replica.copy_to(&killed).unwrap();
    assert_eq!(log(&killed), BTreeMap::new());
    drop(Replica::open(&killed).unwrap().unwrap().writer().unwrap());
    assert_eq!(log(&killed), BTreeMap::from([entry("02", "02", "r")]));

    // Very many rows in one commit cover what waited.
    let mut tx = writer.begin("03").unwrap();
    for id in 0..=ROWS_LOGGED_MAX as i64 {
        tx.insert(&of_issues, &row(1000 + id, &format!("n{id}"))).unwrap();
    }
    tx.commit().unwrap();
    drop(writer);
    assert_eq!(log(&path), BTreeMap::from([entry("03", "03", "t")]));

    // The log is at the replica's version, so there is nothing to make up for.
    drop(replica.writer().unwrap());
    assert_eq!(log(&path).len(), 1);
}
