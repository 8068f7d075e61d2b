//! Identity, sharing and size of rows.

use super::*;
use crate::row::{RefCounts, RowRecord, RowsLoader};

#[test]
fn a_row_is_the_same_however_its_key_is_written() {
    let one = TableKey::new("t".into(), &["b".into(), "a".into()]);
    let other = TableKey::new("t".into(), &["a".into(), "b".into()]);
    let x = RowId::new(&one, &[Value::Number(2.0), Value::string("x")]);
    let y = RowId::new(&other, &[Value::string("x"), Value::Number(2.0)]);
    assert_eq!(x, y);
    assert_eq!(x.to_json(), r#"{"a":"x","b":2}"#);
    let mut loader = RowsLoader::default();
    assert_eq!(loader.row_id("t", r#"{"b": 2.0, "a": "x"}"#).unwrap(), x);
    assert_ne!(loader.row_id("u", r#"{"b": 2, "a": "x"}"#).unwrap(), x);
    assert_ne!(loader.row_id("t", r#"{"b": "2", "a": "x"}"#).unwrap(), x);
}

#[test]
fn keys_as_json() {
    let key = TableKey::new("t".into(), &["k\"".into()]);
    for (value, text) in [
        (Value::Null, "null"),
        (Value::Bool(true), "true"),
        (Value::Number(-0.0), "0"),
        (Value::Number(1e21), "1e+21"),
        (Value::Number(9_007_199_254_740_991.0), "9007199254740991"),
        (Value::string("é\"\n"), r#""é\"\n""#),
    ] {
        let row = RowId::new(&key, std::slice::from_ref(&value));
        assert_eq!(row.to_json(), format!(r#"{{"k\"":{text}}}"#));
        assert_eq!(RowsLoader::default().row_id("t", &row.to_json()).unwrap(), row);
    }
}

#[test]
fn stored_rows() {
    let mut loader = RowsLoader::default();
    loader.add("t", r#"{"id": "1"}"#, "03", "1aa:01", r#"{"q": 2, "p": 1, "z": -1}"#).unwrap();
    loader.add("t", r#"{"id": "2"}"#, "03", "1aa:01", r#"{"q": 0}"#).unwrap();
    for bad in [("[]", "03", "{}"), ("{}", "zz", "{}"), ("{}", "03", "[]"), ("{}", "03", r#"{"q":"1"}"#)] {
        assert!(loader.add("t", bad.0, "03", bad.1, bad.2).is_err(), "{bad:?}");
    }
    let rows = loader.finish();
    assert_eq!(rows.len(), 1, "a row that nobody holds is no row");
    assert_eq!((rows.count_of("q"), rows.count_of("z")), (1, 0));
}

#[test]
fn records_are_small() {
    // Beside the key's text, which is shared with the engine's row where it came from there.
    assert!(size_of::<(RowId, RowRecord)>() <= 96, "{}", size_of::<(RowId, RowRecord)>());
    assert_eq!(size_of::<RefCounts>(), 16);
    // Few are kept empty, however a group came to its size.
    let mut group = Group::at("00");
    group
        .config(|update| {
            update.ensure_client("c", "zero_0");
            update.put_desired("c", &[put_query("q")])
        })
        .unwrap();
    let ids: Vec<&'static str> = (0..2_000).map(|id| &*id.to_string().leak()).collect();
    let mut state = 0;
    for (from, to) in [(0, 130), (130, 1_100), (1_100, 1_101), (1_101, 2_000), (2_000, 10)] {
        let count = u32::from(from < to);
        let changed = &ids[from.min(to)..from.max(to)];
        let rows: Vec<Received> =
            changed.iter().map(|id| Received { query: "q", id, count, version: Some("01") }).collect();
        state += 1;
        let hash = [("q", "h")];
        group.update(&format!("0{state}"), if from == 0 { &hash } else { &[] }, &[], &[&rows]).unwrap();
        assert_eq!(group.rows.len(), to);
        assert!(group.rows.capacity() <= to + to / 4 + 20, "{} for {to}", group.rows.capacity());
    }
}
