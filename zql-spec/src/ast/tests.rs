//! The parser and printer of ASTs against the rules of the wire.

use crate::ast::Ast;
use crate::json::Json;

fn strict(text: &str) -> Result<Ast, String> {
    Ast::parse_strict(&Json::parse(text).unwrap()).map_err(|error| error.to_string())
}

/// Every construct of the language, with keys in the order in which they are printed.
const EVERYTHING: &str = concat!(
    r#"{"schema":"","table":"issue","where":{"type":"and","conditions":["#,
    r#"{"type":"simple","left":{"type":"column","name":"n"},"right":{"type":"literal","value":[1,"a",true]},"op":"NOT IN"},"#,
    r#"{"type":"simple","left":{"type":"literal","value":null},"right":{"type":"static","anchor":"authData","field":"sub"},"op":"IS"},"#,
    r#"{"type":"simple","left":{"type":"static","anchor":"preMutationRow","field":["a","b"]},"right":{"type":"literal","value":1.5},"op":"<="},"#,
    r#"{"type":"or","conditions":[]},"#,
    r#"{"type":"correlatedSubquery","related":{"system":"permissions","correlation":{"parentField":["id","k"],"childField":["issueId","k"]},"#,
    r#""subquery":{"table":"comment","alias":"zsubq_comments"}},"op":"NOT EXISTS","flip":false,"scalar":true}]},"#,
    r#""related":[{"correlation":{"parentField":["id"],"childField":["issueId"]},"hidden":true,"#,
    r#""subquery":{"table":"issueLabel","alias":"labels"},"system":"client"}],"#,
    r#""start":{"row":{"n":1,"j":{"a":[null]},"s":null},"exclusive":true},"limit":-1.5,"orderBy":[["n","asc"],["id","desc"]]}"#,
);

#[test]
fn printing_gives_back_what_was_parsed() {
    let ast = strict(EVERYTHING).unwrap();
    assert_eq!(ast.to_json().to_string(), EVERYTHING);
    assert_eq!(Ast::parse_lenient(&ast.to_json()).unwrap(), ast);
}

#[test]
fn every_op_round_trips() {
    for op in
        ["=", "!=", "IS", "IS NOT", "<", ">", "<=", ">=", "LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE", "IN", "NOT IN"]
    {
        let text = format!(
            r#"{{"table":"t","where":{{"type":"simple","left":{{"type":"column","name":"a"}},"right":{{"type":"literal","value":"x"}},"op":"{op}"}}}}"#
        );
        assert_eq!(strict(&text).unwrap().to_json().to_string(), text);
    }
}

#[test]
fn unknown_keys_are_refused_from_clients_only() {
    let cases = [
        (r#"{"table":"t","foo":1}"#, "Unexpected property foo"),
        (r#"{"table":"t","foo":1,"bar":2}"#, "Unexpected properties foo, bar"),
        (r#"{"table":"t","where":{"type":"and","conditions":[],"x":1}}"#, "Unexpected property x at where"),
        (
            r#"{"table":"t","where":{"type":"simple","op":"=","left":{"type":"column","name":"a","x":1},"right":{"type":"literal","value":1}}}"#,
            "Unexpected property x at where.left",
        ),
        (r#"{"table":"t","start":{"row":{},"exclusive":true,"x":1}}"#, "Unexpected property x at start"),
        (
            r#"{"table":"t","related":[{"correlation":{"parentField":["a"],"childField":["b"]},"subquery":{"table":"u","x":1}}]}"#,
            "Unexpected property x at related.0.subquery",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(strict(text).unwrap_err(), message);
        assert!(Ast::parse_lenient(&Json::parse(text).unwrap()).is_ok(), "{text}");
    }
}

#[test]
fn wrong_shapes_are_refused_from_everybody() {
    let simple = |op: &str, left: &str, right: &str| {
        format!(r#"{{"table":"t","where":{{"type":"simple","op":"{op}","left":{left},"right":{right}}}}}"#)
    };
    let column = r#"{"type":"column","name":"a"}"#;
    let one = r#"{"type":"literal","value":1}"#;
    let cases = [
        ("[]".to_owned(), "Expected object. Got []"),
        ("{}".to_owned(), "Missing property table"),
        (r#"{"table":1}"#.to_owned(), "Expected string at table Got 1"),
        (r#"{"table":"t","limit":null}"#.to_owned(), "Expected number at limit Got null"),
        (r#"{"table":"t","orderBy":[["a","up"]]}"#.to_owned(), "Expected literal value \"asc\" or \"desc\" at orderBy.0.1 Got \"up\""),
        (r#"{"table":"t","orderBy":[["a"]]}"#.to_owned(), "Expected array of a column and a direction at orderBy.0 Got [\"a\"]"),
        (r#"{"table":"t","start":{"row":{}}}"#.to_owned(), "Missing property exclusive at start"),
        (r#"{"table":"t","where":{"type":"xor"}}"#.to_owned(), "Invalid union value: {\"type\":\"xor\"} at where"),
        (simple("==", column, one), "Expected an operator of the language at where.op Got \"==\""),
        (simple("=", one, column), "Invalid union value: {\"type\":\"column\",\"name\":\"a\"} at where.right"),
        (
            simple("IN", column, r#"{"type":"literal","value":[null]}"#),
            "Expected string, number or boolean at where.right.value.0 Got null",
        ),
        (
            r#"{"table":"t","related":[{"correlation":{"parentField":[],"childField":["b"]},"subquery":{"table":"u"}}]}"#.to_owned(),
            "Expected array with at least 1 element at related.0.correlation.parentField Got []",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(strict(&text).unwrap_err(), message);
        assert!(Ast::parse_lenient(&Json::parse(&text).unwrap()).is_err(), "{text}");
    }
}

#[test]
fn errors_can_be_placed_in_a_message() {
    let error = Ast::parse_strict(&Json::parse(r#"{"table":"t","foo":1}"#).unwrap()).unwrap_err();
    assert_eq!(error.under("ast").under(0).to_string(), "Unexpected property foo at 0.ast");
}
