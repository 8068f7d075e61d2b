//! What clients do to a record.

use std::sync::Arc;

use super::*;
use crate::record::{LMIDS, MUTATION_RESULTS};

const NOTHING: [&str; 0] = [];

#[test]
fn a_new_record_is_written_even_if_nothing_happens() {
    let mut group = Group::new();
    assert_eq!(group.config(|_| Ok(())).unwrap(), NOTHING);
    assert_eq!((group.version().as_str(), group.wrote()), ("00", Some([0; 5])));
    let flush = group.last_flush.clone().unwrap();
    assert!(flush.first && flush.cvr.last_active == 1001.0 && flush.cvr.ttl_clock == 1001.0);
    // Afterwards nothing is nothing: version and times stay.
    assert_eq!(group.config(|_| Ok(())).unwrap(), NOTHING);
    assert_eq!((group.wrote(), group.cvr.last_active), (None, 1001.0));
}

#[test]
fn first_client_brings_internal_queries() {
    let mut group = Group::new();
    group
        .config(|update| {
            update.ensure_client("c1", "zero_0");
            update.ensure_client("c1", "zero_0");
            Ok(())
        })
        .unwrap();
    assert_eq!((group.version().as_str(), group.wrote()), ("00:01", Some([1, 0, 2, 0, 0])));
    let ast = |id: &str| match &group.cvr.queries[id].body {
        Body::Internal(ast) => ast.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        ast(LMIDS),
        r#"{"schema":"","table":"zero_0.clients","where":{"type":"simple","left":{"type":"column","name":"clientGroupID"},"op":"=","right":{"type":"literal","value":"g"}},"orderBy":[["clientGroupID","asc"],["clientID","asc"]]}"#
    );
    assert!(ast(MUTATION_RESULTS).contains(r#""where":{"type":"and","conditions":[{"type":"simple""#));
    group
        .config(|update| {
            update.ensure_client("c2", "zero_0");
            Ok(())
        })
        .unwrap();
    assert_eq!((group.version().as_str(), group.wrote()), ("00:02", Some([1, 0, 0, 0, 0])));
    // Clients cannot desire them.
    group.config(|update| update.put_desired("c1", &[put_query(LMIDS)])).unwrap();
    assert_eq!(group.wrote(), None);
}

#[test]
fn client_schema_is_set_once() {
    let mut group = Group::at("1aa");
    let schema = |text: &str| Arc::new(serde_json::from_str(text).unwrap());
    let first = schema(
        r#"{"tables":{"issue":{"columns":{"id":{"type":"string"},"n":{"type":"number"}},"primaryKey":["id"]}}}"#,
    );
    let reordered = schema(
        r#"{"tables":{"issue":{"primaryKey":["id"],"columns":{"n":{"type":"number"},"id":{"type":"string"}}}}}"#,
    );
    let other = schema(
        r#"{"tables":{"issue":{"primaryKey":["id"],"columns":{"n":{"type":"string"},"id":{"type":"string"}}}}}"#,
    );
    group.config(|update| update.set_client_schema(&first)).unwrap();
    assert_eq!((group.version().as_str(), group.wrote()), ("1aa", Some([0; 5])));
    group.config(|update| update.set_client_schema(&reordered)).unwrap();
    assert_eq!(group.wrote(), None);
    assert_eq!(
        group.config(|update| update.set_client_schema(&other)),
        Err(CvrError::InvalidConnectionRequest("Provided schema does not match previous schema".to_owned()))
    );
    for (profile, wrote) in [("cgg", true), ("cgg", false), ("p1", true)] {
        group
            .config(|update| {
                update.set_profile_id(profile);
                Ok(())
            })
            .unwrap();
        assert_eq!(group.last_flush.as_ref().is_some_and(|flush| flush.identity_changed), wrote, "{profile}");
    }
}

#[test]
fn many_changes_make_one_version() {
    let mut group = Group::at("1a9");
    group
        .config(|update| {
            for client in ["a", "d"] {
                update.ensure_client(client, "zero_0");
                update.put_desired(client, &[put_query("one")])?;
            }
            Ok(())
        })
        .unwrap();
    group.cvr.version = version("1aa");
    let lines = group
        .config(|update| {
            update.inactivate("a", &["one".into(), "unknown".into()], 5.0)?;
            let custom = Put {
                query: "custom".into(),
                body: Some(Body::Custom { name: "n".into(), args: "[1]".into() }),
                ttl: None,
            };
            update.put_desired("a", &[put_query("two"), put_query("three"), custom])?;
            update.ensure_client("b", "zero_0");
            update.put_desired("b", &[put_query("two"), put_query("four"), put_query("five")])?;
            update.ensure_client("c", "zero_0");
            update.put_desired("c", &[])?;
            update.clear_desired("d")
        })
        .unwrap();
    assert_eq!(
        lines,
        [
            "desired a del one @1aa:01",
            "desired a put two @1aa:01",
            "desired a put three @1aa:01",
            "desired a put custom @1aa:01",
            "desired b put two @1aa:01",
            "desired b put four @1aa:01",
            "desired b put five @1aa:01",
            "desired d del one @1aa:01",
        ]
    );
    assert_eq!((group.version().as_str(), group.wrote()), ("1aa:01", Some([2, 0, 6, 8, 0])));
}

#[test]
fn desires() {
    // What is done to a client that desires `q` with a TTL of 10 ms, what it is told, and the desire after it.
    type Change = fn(&mut ConfigUpdate) -> Result<(), CvrError>;
    let cases: &[(&str, Change, &[&str], &str)] = &[
        ("identical put", |u| u.put_desired("c", &[put_ttl("q", 10.0)]), &[], "active ttl 10"),
        ("shorter TTL", |u| u.put_desired("c", &[put_ttl("q", 5.0)]), &[], "active ttl 10"),
        ("longer TTL", |u| u.put_desired("c", &[put_ttl("q", 20.0)]), &["desired c put q"], "active ttl 20"),
        ("for ever", |u| u.put_desired("c", &[put_ttl("q", -1.0)]), &["desired c put q"], "active ttl 600000"),
        ("del", |u| u.inactivate("c", &["q".into()], 7.0), &["desired c del q"], "inactive at 7 ttl 10"),
        ("del of another", |u| u.inactivate("c", &["x".into()], 7.0), &[], "active ttl 10"),
        ("clear", |u| u.clear_desired("c"), &["desired c del q"], "none"),
        (
            "del then put",
            |u| {
                u.inactivate("c", &["q".into()], 7.0)?;
                u.put_desired("c", &[put_ttl("q", 3.0)])
            },
            &["desired c del q", "desired c put q"],
            "active ttl 3",
        ),
        (
            "put then del",
            |u| {
                u.put_desired("c", &[put_ttl("q", 30.0)])?;
                u.inactivate("c", &["q".into()], 7.0)
            },
            &["desired c put q", "desired c del q"],
            "inactive at 7 ttl 30",
        ),
        (
            "client deleted",
            |u| {
                u.delete_client("c", 9.0);
                Ok(())
            },
            &["desired c del q"],
            "inactive at 9 ttl 10",
        ),
        (
            "unknown client deleted",
            |u| {
                u.delete_client("x", 9.0);
                Ok(())
            },
            &[],
            "active ttl 10",
        ),
    ];
    for (name, change, patches, desire) in cases {
        let mut group = Group::at("01");
        group
            .config(|update| {
                update.ensure_client("c", "zero_0");
                update.put_desired("c", &[put_ttl("q", 10.0)])
            })
            .unwrap();
        let lines = group.config(*change).unwrap();
        let expected: Vec<String> = patches.iter().map(|patch| format!("{patch} @01:02")).collect();
        assert_eq!(lines, expected, "{name}");
        assert_eq!(group.version(), if patches.is_empty() { "01:01" } else { "01:02" }, "{name}");
        assert_eq!(group.last_flush.is_some(), !patches.is_empty(), "{name}");
        let stored =
            group.cvr.queries["q"].clients.get("c").map_or("none".to_owned(), |desire| match desire.inactivated_at {
                Some(at) => format!("inactive at {at} ttl {}", desire.ttl),
                None => format!("active ttl {}", desire.ttl),
            });
        assert_eq!(stored, *desire, "{name}");
        let desired = group.cvr.clients.get("c").is_some_and(|desired| desired.contains("q"));
        assert_eq!(desired, desire.starts_with("active"), "{name}");
        if let Some(write) = group.last_flush.as_ref().and_then(|flush| flush.desires.first()) {
            assert_eq!(write.deleted, !desire.starts_with("active"), "{name}");
            assert_eq!(write.ttl, if *name == "clear" { 300_000.0 } else { group.cvr.queries["q"].clients["c"].ttl });
        }
    }
}

#[test]
fn a_deleted_client_leaves_its_desires_and_all_rows_behind() {
    let mut group = Group::at("00");
    group
        .config(|update| {
            for client in ["a", "b", "c"] {
                update.ensure_client(client, "zero_0");
                update.put_desired(client, &[put_query("q"), put_query(client)])?;
            }
            Ok(())
        })
        .unwrap();
    group.update("01", &[("q", "h")], &[], &[&[put("q", "1", 1, "01")]]).unwrap();
    let lines = group
        .config(|update| {
            update.delete_client("b", 9.0);
            Ok(())
        })
        .unwrap();
    assert_eq!(lines, ["desired b del b @01:01", "desired b del q @01:01"]);
    assert_eq!(group.wrote(), Some([0, 1, 2, 2, 0]), "no row is written");
    assert_eq!(group.cvr.clients.keys().map(|client| &**client).collect::<Vec<_>>(), ["a", "c"]);
    let desires = |query: &str| -> Vec<String> {
        let desire = |(client, desire): (&Arc<str>, &crate::record::Desire)| {
            format!("{client} {:?} {}", desire.inactivated_at, desire.ttl)
        };
        group.cvr.queries[query].clients.iter().map(desire).collect()
    };
    assert_eq!(desires("q"), ["a None 300000", "b Some(9.0) 300000", "c None 300000"]);
    assert_eq!(desires("b"), ["b Some(9.0) 300000"]);
    assert_eq!(group.row("1").unwrap(), r#"01 @01 {"q":1}"#);
}

#[test]
fn times_are_written_with_whatever_is_written() {
    let mut group = Group::at("01");
    group
        .config(|update| {
            update.ensure_client("c", "zero_0");
            Ok(())
        })
        .unwrap();
    let times = |group: &Group| (group.cvr.last_active, group.cvr.ttl_clock);
    let before = times(&group);
    group.config(|update| update.put_desired("c", &[put_query("q")])).unwrap();
    let after = times(&group);
    assert!(after.0 > before.0 && after.1 > before.1);
    group.config(|_| Ok(())).unwrap();
    assert_eq!((group.wrote(), times(&group)), (None, after));
}

#[test]
fn deleting_a_client_without_desires_writes_but_does_not_step() {
    let mut group = Group::at("01");
    group
        .config(|update| {
            update.ensure_client("c", "zero_0");
            Ok(())
        })
        .unwrap();
    group
        .config(|update| {
            update.delete_client("c", 1.0);
            Ok(())
        })
        .unwrap();
    assert_eq!((group.version().as_str(), group.wrote()), ("01:01", Some([0, 1, 0, 0, 0])));
    assert!(group.cvr.clients.is_empty());
}

#[test]
fn a_put_without_a_query_is_refused() {
    let mut group = Group::at("01");
    let error = group.config(|update| {
        update.ensure_client("c", "zero_0");
        update.put_desired("c", &[Put { query: "q".into(), body: None, ttl: None }])
    });
    assert!(matches!(error, Err(CvrError::Internal(_))), "{error:?}");
    assert_eq!(group.version(), "01");
}

#[test]
fn what_a_query_asks_is_what_was_said_of_it_first() {
    let custom = || Body::Custom { name: "n".into(), args: "[]".into() };
    for (first, then) in
        [(custom(), put_query("other").body), (put_query("q").body.unwrap(), Some(custom())), (custom(), None)]
    {
        let mut group = Group::at("01");
        group
            .config(|update| {
                update.ensure_client("c", "zero_0");
                update.ensure_client("d", "zero_0");
                update.put_desired("c", &[Put { query: "q".into(), body: Some(first.clone()), ttl: None }])
            })
            .unwrap();
        let again = Put { query: "q".into(), body: then.clone(), ttl: None };
        let lines = group.config(|update| update.put_desired("d", &[again])).unwrap();
        assert_eq!(lines, ["desired d put q @01:02"]);
        assert_eq!(group.cvr.queries["q"].body, first, "{then:?}");
        assert_eq!(group.last_flush.as_ref().unwrap().queries[0].query.body, first, "{then:?}");
    }
}

#[test]
fn base_cookies() {
    let not_found = || Err(CvrError::ClientNotFound("Client not found".to_owned()));
    let cases = [
        ("00", None, Ok(())),
        ("00", Some("00"), Ok(())),
        ("00", Some("00:01"), not_found()),
        ("00", Some("07"), not_found()),
        ("07", None, Ok(())),
        ("07", Some("06:03"), Ok(())),
        ("07", Some("07"), Ok(())),
        ("07", Some("08"), Err(CvrError::InvalidBaseCookie("CVR is at version 07".to_owned()))),
        ("07:01", Some("07.01"), Err(CvrError::InvalidBaseCookie("CVR is at version 07:01".to_owned()))),
    ];
    for (at, base, expected) in cases {
        assert_eq!(Group::at(at).cvr.check_base(base.map(version).as_ref()), expected, "{at} {base:?}");
    }
    let mut group = Group::at("01");
    group.cvr.replica_version = Some("101".into());
    assert_eq!(
        group.cvr.check_replica("01"),
        Err(CvrError::ClientNotFound("Cannot sync from older replica: CVR=101, DB=01".to_owned()))
    );
    assert_eq!(group.cvr.check_replica("102"), Ok(()));
    group.cvr.version = version("00:03");
    assert_eq!(group.cvr.check_replica("01"), Ok(()));
}
