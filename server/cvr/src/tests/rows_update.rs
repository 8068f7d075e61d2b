//! What the engine does to a record.

use super::*;
use crate::record::Signature;

/// A group with client `c`, which desires these queries.
fn desiring(queries: &[&str]) -> Group {
    let mut group = Group::at("00");
    group
        .config(|update| {
            update.ensure_client("c", "zero_0");
            update.put_desired("c", &queries.iter().map(|query| put_query(query)).collect::<Vec<_>>())
        })
        .unwrap();
    group
}

/// A group at `1aa` where `a` holds rows 1 and 2, and `b` holds rows 2 and 3; all with version 03, sent at `1a0`.
fn holding() -> Group {
    let mut group = desiring(&["a", "b"]);
    let rows = [put("a", "1", 1, "03"), put("a", "2", 1, "03"), put("b", "2", 1, "03"), put("b", "3", 1, "03")];
    group.update("1a0", &[("a", "ha"), ("b", "hb")], &[], &[&rows]).unwrap();
    group.cvr.version = version("1aa");
    group
}

#[test]
fn a_query_is_got_with_its_rows() {
    let mut group = desiring(&["a", "b"]);
    assert_eq!(group.version(), "00:01");
    let rows = [put("a", "1", 1, "03"), put("a", "2", 1, "03"), put("b", "2", 2, "03")];
    let lines = group.update("1a0", &[("a", "ha"), ("b", "hb"), ("lmids", "hl")], &[], &[&rows]).unwrap();
    assert_eq!(
        lines,
        ["got put a @1a0", "got put b @1a0", "put 1 03 @1a0", "put 2 03 @1a0"],
        "internal queries are never got; a shared row is put once"
    );
    assert_eq!((group.version().as_str(), group.wrote()), ("1a0", Some([0, 0, 3, 0, 2])));
    assert_eq!(group.row("2").unwrap(), r#"03 @1a0 {"a":1,"b":2}"#);
    assert_eq!(group.cvr.queries["a"].patch_version.as_deref(), Some(&version("1a0")));
    assert_eq!(group.cvr.queries["lmids"].patch_version, None);
    assert_eq!(group.cvr.queries["lmids"].transformation_hash.as_deref(), Some("hl"));
    assert_eq!(group.cvr.replica_version.as_deref(), Some(REPLICA));
}

#[test]
fn got_at_the_same_state_takes_a_config_step() {
    let mut group = holding();
    group.config(|update| update.put_desired("c", &[put_query("q")])).unwrap();
    group.cvr.version = version("1aa");
    let rows = [put("q", "1", 1, "03"), put("q", "9", 1, "05")];
    let lines = group.update("1aa", &[("q", "h")], &[], &[&rows, &rows]).unwrap();
    assert_eq!(lines, ["got put q @1aa:01", "put 1 03 @1a0", "put 9 05 @1aa:01"], "row 1 only for those behind");
    assert_eq!(group.row("1").unwrap(), r#"03 @1a0 {"a":1,"q":1}"#);
    assert_eq!(group.row("9").unwrap(), r#"05 @1aa:01 {"q":1}"#);
}

#[test]
fn executed_again() {
    struct Case {
        name: &'static str,
        hash: &'static str,
        rows: &'static [(&'static str, &'static str)],
        lines: &'static [&'static str],
        version: &'static str,
    }
    let cases = [
        Case {
            name: "nothing changed: rows for those behind, nothing written, the version stays",
            hash: "ha",
            rows: &[("1", "03"), ("2", "03")],
            lines: &["put 1 03 @1a0", "put 2 03 @1a0"],
            version: "1aa",
        },
        Case {
            name: "same hash, other rows: the forced step carries them",
            hash: "ha",
            rows: &[("1", "03"), ("4", "03")],
            lines: &["put 1 03 @1a0", "put 4 03 @1aa:01"],
            version: "1aa:01",
        },
        Case {
            name: "a row lost to all queries is deleted",
            hash: "ha",
            rows: &[("2", "03")],
            lines: &["put 2 03 @1a0", "del 1 @1aa:01"],
            version: "1aa:01",
        },
        Case {
            name: "another hash is no news to clients",
            hash: "hx",
            rows: &[("1", "03"), ("2", "03")],
            lines: &["put 1 03 @1a0", "put 2 03 @1a0"],
            version: "1aa:01",
        },
        Case { name: "no rows at all", hash: "hx", rows: &[], lines: &["del 1 @1aa:01"], version: "1aa:01" },
        Case {
            name: "another hash with other rows",
            hash: "hx",
            rows: &[("2", "03"), ("4", "03")],
            lines: &["put 2 03 @1a0", "put 4 03 @1aa:01", "del 1 @1aa:01"],
            version: "1aa:01",
        },
        Case {
            name: "a changed row",
            hash: "ha",
            rows: &[("1", "04"), ("2", "03")],
            lines: &["put 1 04 @1aa:01", "put 2 03 @1a0"],
            version: "1aa:01",
        },
    ];
    for case in cases {
        let mut group = holding();
        let rows: Vec<Received> = case.rows.iter().map(|&(id, version)| put("a", id, 1, version)).collect();
        let lines = group.update("1aa", &[("a", case.hash)], &[], &[&rows]).unwrap();
        assert_eq!(lines, case.lines, "{}", case.name);
        assert_eq!(group.version(), case.version, "{}", case.name);
        assert_eq!(group.last_flush.is_some(), case.version != "1aa", "{}", case.name);
        let query = &group.cvr.queries["a"];
        assert_eq!(query.patch_version.as_deref(), Some(&version("1a0")), "{}", case.name);
        let hash_version = if case.hash == "ha" { "1a0" } else { "1aa:01" };
        assert_eq!(query.transformation_version.as_deref(), Some(&version(hash_version)), "{}", case.name);
        // What another query holds as well was never told anew, whatever this one holds now.
        assert!(group.row("2").unwrap().starts_with("03 @1a0 "), "{}", case.name);
        assert_eq!(group.row("3").unwrap(), r#"03 @1a0 {"b":1}"#, "{}", case.name);
    }
}

#[test]
fn queries_executed_together() {
    let mut group = holding();
    let rows = [put("a", "2", 1, "03"), put("b", "2", 2, "03"), put("a", "4", 1, "05"), put("b", "4", 1, "05")];
    let lines = group.update("1ab", &[("a", "ha"), ("b", "hx")], &[], &[&rows]).unwrap();
    let (puts, mut dels): (Vec<String>, Vec<String>) = lines.into_iter().partition(|line| line.starts_with("put"));
    dels.sort();
    assert_eq!(puts, ["put 2 03 @1a0", "put 4 05 @1ab"], "shared rows are put once");
    assert_eq!(dels, ["del 1 @1ab", "del 3 @1ab"]);
    assert_eq!(group.row("2").unwrap(), r#"03 @1a0 {"a":1,"b":2}"#);
    assert_eq!(group.row("4").unwrap(), r#"05 @1ab {"a":1,"b":1}"#);
}

#[test]
fn a_removed_query() {
    let mut group = holding();
    let lines = group.update("1aa", &[], &["a"], &[]).unwrap();
    assert_eq!(lines, ["got del a @1aa:01", "del 1 @1aa:01"]);
    assert_eq!(group.written_row("1").unwrap(), "03 @1aa:01 gone");
    assert_eq!(group.written_row("2").unwrap(), r#"03 @1a0 {"b":1}"#, "kept by another query, at its old version");
    assert!(group.row("1").is_none() && !group.cvr.queries.contains_key("a"));
    let write = &group.last_flush.as_ref().unwrap().queries[0];
    assert!(write.deleted && write.query.transformation_hash.is_none() && write.query.transformation_version.is_none());
    assert_eq!(write.query.patch_version.as_deref(), Some(&version("1aa:01")));
    // Its desire outlives it (a query that failed is removed although desired) and can end,
    let lines = group.config(|update| update.inactivate("c", &["a".into()], 5.0)).unwrap();
    assert_eq!((lines, group.wrote()), (vec!["desired c del a @1aa:02".to_owned()], Some([0, 0, 0, 1, 0])));
    // or it is put again and begins anew.
    group.config(|update| update.put_desired("c", &[put_query("a")])).unwrap();
    assert_eq!(group.wrote(), Some([0, 0, 1, 1, 0]));
    assert_eq!(group.cvr.queries["a"].patch_version, None);
}

#[test]
fn a_row_of_a_removed_query_goes_once() {
    let mut group = holding();
    let lines = group.update("1aa", &[], &["a"], &[&[count("a", "1", 0)]]).unwrap();
    assert_eq!(lines, ["got del a @1aa:01", "del 1 @1aa:01"]);
    assert_eq!(group.written_row("1").unwrap(), "03 @1aa:01 gone");
}

#[test]
fn a_query_never_got_is_removed_all_the_same() {
    let mut group = desiring(&["a"]);
    assert_eq!(group.update("00", &[], &["a"], &[]).unwrap(), ["got del a @00:02"]);
    assert!(matches!(group.update("00", &[], &["lmids"], &[]), Err(CvrError::Internal(_))));
    assert!(group.update("00", &[("unknown", "h")], &["unknown"], &[]).unwrap().is_empty());
    assert_eq!(group.wrote(), None);
}

#[test]
fn advances() {
    struct Case {
        name: &'static str,
        batches: &'static [&'static [fn() -> Received]],
        lines: &'static [&'static str],
        rows: &'static [(&'static str, Option<&'static str>)],
    }
    let cases = [
        Case { name: "nothing", batches: &[], lines: &[], rows: &[] },
        Case {
            name: "a changed row keeps its counts",
            batches: &[&[|| put("a", "1", 1, "1ab")]],
            lines: &["put 1 1ab @1ab"],
            rows: &[("1", Some(r#"1ab @1ab {"a":1}"#))],
        },
        Case {
            name: "a row changed in two queries is put once",
            batches: &[&[|| put("a", "2", 1, "1ab"), || put("b", "2", 1, "1ab")]],
            lines: &["put 2 1ab @1ab"],
            rows: &[("2", Some(r#"1ab @1ab {"a":1,"b":1}"#))],
        },
        Case {
            name: "a row that left its only query",
            batches: &[&[|| count("a", "1", 0)]],
            lines: &["del 1 @1ab"],
            rows: &[("1", None)],
        },
        Case {
            name: "a row that left one of two queries",
            batches: &[&[|| count("a", "2", 0)]],
            lines: &[],
            rows: &[("2", Some(r#"03 @1a0 {"b":1}"#))],
        },
        Case {
            name: "a row that moved between queries in one commit is not deleted in between",
            batches: &[&[|| count("a", "1", 0), || put("b", "1", 1, "03")]],
            lines: &["put 1 03 @1a0"],
            rows: &[("1", Some(r#"03 @1a0 {"b":1}"#))],
        },
        Case {
            name: "a count that grew",
            batches: &[&[|| count("a", "1", 2)]],
            lines: &[],
            rows: &[("1", Some(r#"03 @1a0 {"a":2}"#))],
        },
        Case {
            name: "a leave of a row that was not there",
            batches: &[&[|| count("a", "7", 0)]],
            lines: &[],
            rows: &[],
        },
        Case {
            name: "came and went in one batch",
            batches: &[&[|| put("a", "7", 1, "1ab"), || count("a", "7", 0)]],
            lines: &[],
            rows: &[],
        },
        Case {
            name: "came and went in two batches",
            batches: &[&[|| put("a", "7", 1, "1ab")], &[|| count("a", "7", 0)]],
            lines: &["put 7 1ab @1ab", "del 7 @1ab"],
            rows: &[],
        },
        Case {
            name: "went and came back as it was: never back in version, and nothing to write",
            batches: &[&[|| count("a", "1", 0)], &[|| put("a", "1", 1, "03")]],
            lines: &["del 1 @1ab", "put 1 03 @1ab"],
            rows: &[],
        },
        Case {
            name: "the same row again and again",
            batches: &[
                &[|| put("a", "1", 1, "03")],
                &[|| put("a", "1", 1, "1ab")],
                &[|| put("a", "1", 1, "03")],
                &[|| put("a", "1", 1, "1ab")],
            ],
            lines: &["put 1 03 @1a0", "put 1 1ab @1ab"],
            rows: &[("1", Some(r#"1ab @1ab {"a":1}"#))],
        },
    ];
    for case in cases {
        let mut group = holding();
        let batches: Vec<Vec<Received>> =
            case.batches.iter().map(|batch| batch.iter().map(|received| received()).collect()).collect();
        let batches: Vec<&[Received]> = batches.iter().map(Vec::as_slice).collect();
        let lines = group.update("1ab", &[], &[], &batches).unwrap();
        assert_eq!(lines, case.lines, "{}", case.name);
        assert_eq!(group.version(), if case.rows.is_empty() { "1aa" } else { "1ab" }, "{}", case.name);
        assert_eq!(group.wrote().map_or(0, |wrote| wrote[4]), case.rows.len(), "{}", case.name);
        for (id, expected) in case.rows {
            assert_eq!(group.row(id).as_deref(), *expected, "{}", case.name);
        }
    }
}

#[test]
fn a_row_that_changed_and_went_is_remembered_as_it_went() {
    // Where the key of a row changed, the row under the old key is of the change's version.
    for (batches, lines) in [
        (vec![vec![put("a", "1", 1, "1ab"), put("a", "1", 0, "1ab")]], vec!["del 1 @1ab"]),
        (vec![vec![put("a", "1", 1, "1ab")], vec![count("a", "1", 0)]], vec!["put 1 1ab @1ab", "del 1 @1ab"]),
    ] {
        let mut group = holding();
        let batches: Vec<&[Received]> = batches.iter().map(Vec::as_slice).collect();
        assert_eq!(group.update("1ab", &[], &[], &batches).unwrap(), lines);
        assert_eq!(group.written_row("1").unwrap(), "1ab @1ab gone");
    }
}

#[test]
fn a_row_that_comes_back_gets_a_new_version() {
    let mut group = holding();
    group.update("1ab", &[], &[], &[&[count("a", "1", 0)]]).unwrap();
    assert_eq!(group.update("1ac", &[], &[], &[&[put("a", "1", 1, "03")]]).unwrap(), ["put 1 03 @1ac"]);
    assert_eq!(group.row("1").unwrap(), r#"03 @1ac {"a":1}"#);
}

#[test]
fn signatures_say_how_rows_are_counted() {
    use Signature::{Absent, Impossible};
    let foreign = || Signature::Foreign("ff".into());
    // What is stored, how the rows are counted, and what is stored once the query ran again and found the same.
    for (stored, counts, expected) in [
        (Absent, Counts::Alike, Absent),
        (Absent, Counts::Own, Impossible),
        (Impossible, Counts::Own, Impossible),
        (Impossible, Counts::Alike, Absent),
        (foreign(), Counts::Alike, Absent),
        (foreign(), Counts::Own, Impossible),
    ] {
        let mut group = holding();
        Arc::make_mut(&mut group.cvr.queries)["a"].signature = stored.clone();
        let rows = [put("a", "1", 1, "03"), put("a", "2", 1, "03")];
        group.run("1aa", &[ran("a", "ha", counts)], &[], &[&rows]).unwrap();
        let context = format!("{stored:?}, {counts:?}");
        assert_eq!(group.cvr.queries["a"].signature, expected, "{context}");
        // A server that starts again writes nothing.
        assert_eq!(group.wrote(), (stored != expected).then_some([0, 0, 1, 0, 0]), "{context}");
        assert_eq!(group.cvr.queries["a"].transformation_version.as_deref(), Some(&version("1a0")), "{context}");
        assert_eq!(Signature::from_text(expected.text()), expected);
    }
}

#[test]
fn broken_promises_are_errors() {
    let internal = |result: Result<Vec<String>, CvrError>| assert!(matches!(result, Err(CvrError::Internal(_))));
    internal(holding().update("1a0", &[], &[], &[]));
    internal(holding().update("1ab", &[], &[], &[&[count("a", "7", 1)]]));
    // Rows change only with a version step.
    internal(holding().update("1aa", &[], &[], &[&[put("a", "1", 1, "1ab")]]));
    internal(holding().update("1aa", &[], &[], &[&[count("a", "1", 0)]]));
    let mut newer = holding();
    newer.cvr.replica_version = Some("102".into());
    internal(newer.update("1ab", &[], &[], &[]));
}
