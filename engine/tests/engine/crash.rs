//! A process that is killed at any moment loses no commit that it reported, applies none twice, and
//! leaves no half-loaded replica that opens.
//!
//! Each test runs this binary again as the process to be killed, in the `child_…` tests, which do
//! nothing when run by themselves.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use engine::replica::{ColumnSpec, IndexSpec, InitialLoad, Origin, Replica, SqliteValue, TableSpec};
use zql_spec::ast::Direction;

const REPLICA: &str = "CRASH_TEST_REPLICA";

/// Rows of one transaction: each inserts this many and moves the balance of all rows but one.
const ROWS: i64 = 10;

fn version(n: i64) -> String {
    format!("1{n:08}")
}

fn begin(path: &Path) -> InitialLoad {
    let origin = Origin { replica_version: version(0), publications: vec!["p".to_owned()], context: "{}".to_owned() };
    Replica::create(path, &origin).unwrap()
}

fn table() -> TableSpec {
    let columns = [("id", "int8|NOT_NULL"), ("tx", "int8"), ("text", "text")];
    TableSpec {
        name: "t".to_owned(),
        columns: columns.map(|(name, declared)| ColumnSpec::from_declared(name, declared)).into(),
        ..TableSpec::default()
    }
}

fn index() -> IndexSpec {
    IndexSpec {
        name: "t_id".to_owned(),
        table: "t".to_owned(),
        unique: true,
        columns: vec![("id".to_owned(), Direction::Asc)],
    }
}

fn row(id: i64, tx: i64) -> Vec<SqliteValue> {
    vec![SqliteValue::Integer(id), SqliteValue::Integer(tx), SqliteValue::Text("x".repeat(200))]
}

fn report(what: &str) {
    println!("@{what}");
    std::io::stdout().flush().unwrap();
}

/// Writes transactions for ever.
#[test]
fn child_writer() {
    let Some(path) = std::env::var_os(REPLICA).map(PathBuf::from) else { return };
    let replica = Replica::open(&path).unwrap().unwrap();
    let mut writer = replica.writer().unwrap();
    let first: i64 = replica.state().state_version[1..].parse().unwrap();
    for n in first + 1.. {
        let mut tx = writer.begin(&version(n)).unwrap();
        let relation = tx.relation("t", &["id", "tx", "text"], &["id"]).unwrap();
        for k in 0..ROWS {
            tx.insert(&relation, &row(n * ROWS + k, n)).unwrap();
        }
        // Row 0 counts the transactions.
        let update = row(0, n).into_iter().map(Some).collect::<Vec<_>>();
        tx.update(&relation, None, &update).unwrap();
        tx.commit().unwrap();
        report(&n.to_string());
    }
}

/// Loads rows, reporting where it is.
#[test]
fn child_loader() {
    let Some(path) = std::env::var_os(REPLICA).map(PathBuf::from) else { return };
    let mut load = begin(&path);
    let target = load.create_table(&table()).unwrap();
    report("created");
    for batch in 0..200 {
        let mut rows: Vec<SqliteValue> = (0..500).flat_map(|k| row(batch * 500 + k, 0)).collect();
        load.append(target, &mut rows).unwrap();
        if batch % 50 == 0 {
            report("batch");
        }
    }
    load.create_index(&index()).unwrap();
    report("indexed");
    load.finish().unwrap();
    report("finished");
}

fn spawn(test: &str, path: &Path) -> (Child, impl Iterator<Item = String>) {
    // The harness names a test by its module in this binary.
    let module = module_path!().split_once("::").unwrap().1;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::{test}"), "--nocapture", "--test-threads=1"])
        .env(REPLICA, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The harness's own words may precede the mark on the first line.
    let reports =
        lines.map_while(Result::ok).filter_map(|line| line.split_once('@').map(|(_, report)| report.to_owned()));
    (child, reports)
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_writer_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replica.db");
    let mut load = begin(&path);
    let target = load.create_table(&table()).unwrap();
    load.append(target, &mut row(0, 0)).unwrap();
    load.create_index(&index()).unwrap();
    drop(load.finish().unwrap());

    for kills in [1, 3, 10, 57, 200] {
        let (child, mut reports) = spawn("child_writer", &path);
        let reported: i64 = reports.nth(kills - 1).unwrap().parse().unwrap();
        kill(child);
        let replica = Replica::open(&path).unwrap().unwrap();
        let stands: i64 = replica.state().state_version[1..].parse().unwrap();
        assert!(stands >= reported, "reported {reported}, stands at {stands}");
        let reader = replica.pin().unwrap().reader().unwrap();
        let (rows, ids, newest, counter): (i64, i64, i64, i64) = reader
            .query_row(
                "SELECT count(*), count(DISTINCT id), max(tx), (SELECT tx FROM t WHERE id = 0) FROM t",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )
            .unwrap();
        assert_eq!((rows, ids, newest, counter), (stands * ROWS + 1, stands * ROWS + 1, stands, stands));
        let check: String = reader.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
}

#[test]
fn a_killed_load_leaves_nothing_that_opens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replica.db");
    for stop in ["created", "batch", "indexed"] {
        let (child, mut reports) = spawn("child_loader", &path);
        assert!(reports.any(|report| report == stop), "{stop} was reported");
        kill(child);
        // After the last index the load may have been faster than the kill.
        if let Some(replica) = Replica::open(&path).unwrap() {
            assert_eq!(stop, "indexed");
            drop(replica);
            Replica::delete(&path).unwrap();
        }
    }
    // The next load is not disturbed by what the killed ones left.
    let (mut child, mut reports) = spawn("child_loader", &path);
    assert!(reports.any(|report| report == "finished"));
    child.wait().unwrap();
    let replica = Replica::open(&path).unwrap().unwrap();
    let reader = replica.pin().unwrap().reader().unwrap();
    let rows: i64 = reader.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 100_000);
    // A replica that is there stays until a new load is complete.
    let (child, mut reports) = spawn("child_loader", &path);
    assert!(reports.any(|report| report == "batch"));
    kill(child);
    assert!(Replica::open(&path).unwrap().is_some());
}
