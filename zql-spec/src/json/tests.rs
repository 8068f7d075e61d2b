//! The JSON parser and printer against JavaScript's.

use super::{Json, MAX_DEPTH};

#[test]
fn text_is_what_javascript_prints() {
    let cases = [
        (r#"{"a":1.0,"b":[1e21,1e-7,-0,123456789012345680000,0.1,5e-324]}"#, None),
        (r#"{ "b" : 1 , "a" : 2 , "b" : 3 }"#, Some(r#"{"b":3,"a":2}"#)),
        (r#"{"b":1,"10":2,"9":3,"01":4,"4294967295":5}"#, Some(r#"{"9":3,"10":2,"b":1,"01":4,"4294967295":5}"#)),
        ("[-0,1.0,1E3,1e400]", Some("[0,1,1000,null]")),
        ("[1e21,1e-7,1e20]", Some("[1e+21,1e-7,100000000000000000000]")),
        (r#""é😀\n\"\/\u0001\u001f\u2028""#, Some("\"é😀\\n\\\"/\\u0001\\u001f\u{2028}\"")),
        (r#""\ud83d\ude00\ud83d\u0041""#, Some("\"😀\u{fffd}A\"")),
        (r#""\b\f\r\t\\""#, Some(r#""\b\f\r\t\\""#)),
    ];
    for (text, expected) in cases {
        let printed = Json::parse(text).unwrap().to_string();
        if let Some(expected) = expected {
            assert_eq!(printed, expected);
        }
        assert_eq!(Json::parse(&printed).unwrap().to_string(), printed, "printing is stable");
    }
}

#[test]
fn what_is_not_json_is_refused() {
    let cases = [
        "",
        " ",
        "nul",
        "tru",
        "01",
        "1.",
        ".5",
        "+1",
        "-",
        "1e",
        "\"",
        "\"\\",
        "\"\\u12",
        "\"\\x\"",
        "\"\n\"",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[1 2]",
        "{",
        "{a:1}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":1",
        "1 2",
        "é",
        "NaN",
        "'a'",
    ];
    for text in cases {
        assert!(Json::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(Json::parse(&nested(MAX_DEPTH)).is_ok());
    assert!(Json::parse(&nested(MAX_DEPTH + 2)).is_err());
    assert!(Json::parse(&"[{\"a\":".repeat(1_000_000)).is_err());
}

#[test]
fn every_prefix_and_every_changed_byte_is_handled() {
    let text = r#"{"a":[1,-2.5e-3,true,null,"x\u00e9\ud83d\ude00"],"ü":{"b":false}}"#;
    for end in 0..text.len() {
        if let Some(prefix) = text.get(..end) {
            assert!(Json::parse(prefix).is_err());
        }
    }
    for at in 0..text.len() {
        for byte in [b'"', b'\\', b'{', b']', b'0', b'-', b'e', 0x7f, b' '] {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = byte;
            if let Ok(changed) = std::str::from_utf8(&bytes) {
                let _ = Json::parse(changed);
            }
        }
    }
}

#[test]
fn serde_goes_through_the_same_text() {
    let json: Json = serde_json::from_str(r#"{"z":1.0,"a":[1e21]}"#).unwrap();
    assert_eq!(serde_json::to_string(&json).unwrap(), r#"{"z":1,"a":[1e+21]}"#);
}
