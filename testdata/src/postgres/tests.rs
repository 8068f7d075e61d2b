//! Private clusters from their start to their end.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn databases_are_separate_and_logical() {
    let postgres = shared();
    let (one, two) = (postgres.database().unwrap(), postgres.database().unwrap());
    postgres.psql(&one, "CREATE TABLE t(a int); INSERT INTO t VALUES (1), (2)").unwrap();
    assert_eq!(postgres.psql(&one, "SELECT a, a + 1 FROM t ORDER BY a").unwrap(), "1|2\n2|3");
    assert!(postgres.psql(&two, "SELECT * FROM t").unwrap_err().to_string().contains("does not exist"));
    assert_eq!(postgres.psql(&two, "SHOW wal_level").unwrap(), "logical");
}

#[test]
fn a_folder_is_kept_and_used_again() {
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let options = Options { folder: Some(parent.path().join("cluster")), durable: true, ..Options::default() };
    let first = Postgres::start(options.clone()).unwrap();
    let pid = first.pid().unwrap();
    first.create_database("kept").unwrap();
    first.psql(&first.url("kept"), "CREATE TABLE t AS SELECT 42 AS a").unwrap();
    drop(first);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let second = Postgres::start(options).unwrap();
    assert_eq!(second.psql(&second.url("kept"), "SELECT a FROM t").unwrap(), "42");
}

#[test]
fn a_stopped_server_starts_again_with_its_data_and_port() {
    let mut postgres = Postgres::start(Options::default()).unwrap();
    let url = postgres.database().unwrap();
    postgres.psql(&url, "CREATE TABLE t AS SELECT 1 AS a").unwrap();
    for (how, rows) in [(Stop::Fast, "1|2"), (Stop::Immediate, "1|2|3")] {
        postgres.psql(&url, &format!("INSERT INTO t VALUES ({})", rows.split('|').count())).unwrap();
        postgres.stop(how).unwrap();
        assert!(postgres.psql(&url, "SELECT 1").is_err(), "{how:?}");
        postgres.start_again().unwrap();
        assert_eq!(postgres.psql(&url, "SELECT string_agg(a::text, '|' ORDER BY a) FROM t").unwrap(), rows);
    }
}

#[test]
fn dropping_stops_the_server_and_removes_its_folder() {
    let postgres = Postgres::start(Options::default()).unwrap();
    let (pid, data) = (postgres.pid().unwrap(), postgres.data.clone());
    drop(postgres);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!data.exists());
}
