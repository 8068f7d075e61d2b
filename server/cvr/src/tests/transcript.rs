//! A group's life as observed on zero-cache 1.9.0: every patch with its version, and which clients lack it.

use super::*;
use crate::patch::lacks;

/// The lines that a client at this base is sent.
fn sent<'a>(lines: &'a [String], base: Option<&str>) -> Vec<&'a str> {
    let base = base.map(version);
    let at = |line: &str| version(line.rsplit('@').next().unwrap());
    lines.iter().map(String::as_str).filter(|line| lacks(base.as_ref(), &at(line))).collect()
}

#[test]
fn one_group_two_clients() {
    let mut group = Group::new();
    // c1 connects with nothing and desires qAll.
    let lines = group
        .config(|update| {
            update.ensure_client("c1", "zero_0");
            update.put_desired("c1", &[put_query("qAll")])
        })
        .unwrap();
    assert_eq!(lines, ["desired c1 put qAll @00:01"]);
    // The query runs at S1.
    let rows: Vec<Received> = ["1", "2", "3", "4", "5"].map(|id| put("qAll", id, 1, "01")).into();
    let executed = [("lmids", "hl"), ("mutationResults", "hm"), ("qAll", "h")];
    let lines = group.update("1s1", &executed, &[], &[&rows]).unwrap();
    assert_eq!(sent(&lines, Some("00:01")).len(), 6);
    assert_eq!(group.version(), "1s1");
    assert_eq!(group.row("3").unwrap(), r#"01 @1s1 {"qAll":1}"#);
    // A row is deleted upstream.
    let lines = group.update("1s2", &[], &[], &[&[count("qAll", "5", 0)]]).unwrap();
    assert_eq!((lines, group.version()), (vec!["del 5 @1s2".to_owned()], "1s2".to_owned()));
    // A commit that the group does not see.
    assert!(group.update("1s3", &[], &[], &[]).unwrap().is_empty());
    assert_eq!(group.version(), "1s2");
    // c2 connects with nothing and desires the same.
    let lines = group
        .config(|update| {
            update.ensure_client("c2", "zero_0");
            update.put_desired("c2", &[put_query("qAll")])
        })
        .unwrap();
    assert_eq!(sent(&lines, Some("1s2")), ["desired c2 put qAll @1s2:01"]);
    // c1 desires qTags; the replica has moved on when it runs.
    let lines = group.config(|update| update.put_desired("c1", &[put_ttl("qTags", 2000.0)])).unwrap();
    assert_eq!(lines, ["desired c1 put qTags @1s2:02"]);
    let lines = group
        .update("1s4", &[("qTags", "ht")], &[], &[&[put("qTags", "1", 1, "01"), put("qTags", "9", 1, "01")]])
        .unwrap();
    assert_eq!(sent(&lines, Some("1s2:02")), ["got put qTags @1s4", "put 9 01 @1s4"]);
    assert_eq!(sent(&lines, None).len(), 3, "a client that is behind also gets row 1");
    // It lets go of it; two seconds later the query expires.
    let lines = group.config(|update| update.inactivate("c1", &["qTags".into()], 10.0)).unwrap();
    assert_eq!(lines, ["desired c1 del qTags @1s4:01"]);
    let expired = crate::ttl::expired(&group.cvr, 2010.0);
    assert_eq!(expired, ["qTags".into()]);
    let lines = group.update("1s4", &[], &["qTags"], &[]).unwrap();
    assert_eq!(lines, ["got del qTags @1s4:02", "del 9 @1s4:02"]);
    // A client with nothing would get what is there, and nothing of what is gone.
    let (rows, queries) =
        crate::catch_up::from_nothing(&group.cvr, &group.rows, &group.cvr.version, &Default::default());
    assert_eq!(rows.iter().map(|patch| patch.to_version.to_string()).collect::<Vec<_>>(), ["1s1"; 4]);
    assert_eq!(
        queries.iter().map(query_patch).collect::<Vec<_>>(),
        ["got put qAll @1s1", "desired c1 put qAll @00:01", "desired c2 put qAll @1s2:01"]
    );
    let (rows, queries) =
        crate::catch_up::from_nothing(&group.cvr, &group.rows, &version("1s1"), &["qAll".into()].into_iter().collect());
    assert_eq!((rows.len(), queries.len()), (0, 2), "up to a version, without a query's rows");
    // The server starts again and runs everything again: an empty step, taken back.
    let rows: Vec<Received> = ["1", "2", "3", "4"].map(|id| put("qAll", id, 1, "01")).into();
    let lines = group.update("1s4", &executed, &[], &[&rows]).unwrap();
    assert!(sent(&lines, Some("1s4:02")).is_empty());
    assert_eq!((group.version().as_str(), group.wrote()), ("1s4:02", None));
    // A column with a default is added: every row has a new version.
    let rows: Vec<Received> = ["1", "2", "3", "4"].map(|id| put("qAll", id, 1, "1s5")).into();
    let lines = group.update("1s5", &[], &[], &[&rows]).unwrap();
    assert_eq!(sent(&lines, Some("1s4:02")).len(), 4);
}
