//! Texts become the queries that the library makes of them, and come back.

use super::*;
use crate::ast::Ast;
use crate::json::Json;

/// What `createSchema` of the library printed for a small issue tracker.
const SCHEMA: &str = r#"{"tables":{
    "issue":{"name":"issue","columns":{"id":{"type":"string","optional":false,"customType":null},"ownerId":{"type":"string","optional":true,"customType":null,"serverName":"owner_id"},"n":{"type":"number","optional":false,"customType":null},"open":{"type":"boolean","optional":false,"customType":null}},"primaryKey":["id"],"serverName":"issues"},
    "user":{"name":"user","columns":{"id":{"type":"string","optional":false,"customType":null},"name":{"type":"string","optional":false,"customType":null}},"primaryKey":["id"]},
    "issueLabel":{"name":"issueLabel","columns":{"issueId":{"type":"string","optional":false,"customType":null},"labelId":{"type":"string","optional":false,"customType":null}},"primaryKey":["issueId","labelId"]},
    "label":{"name":"label","columns":{"id":{"type":"string","optional":false,"customType":null},"name":{"type":"string","optional":false,"customType":null}},"primaryKey":["id"]}},
    "relationships":{"issue":{"owner":[{"sourceField":["ownerId"],"destField":["id"],"destSchema":"user","cardinality":"one"}],"labels":[{"sourceField":["id"],"destField":["issueId"],"destSchema":"issueLabel","cardinality":"many"},{"sourceField":["labelId"],"destField":["id"],"destSchema":"label","cardinality":"many"}]},
    "user":{"issues":[{"sourceField":["id"],"destField":["ownerId"],"destSchema":"issue","cardinality":"many"}]}}}"#;

fn schema() -> ZeroSchema {
    ZeroSchema::parse(&Json::parse(SCHEMA).unwrap()).unwrap()
}

#[test]
fn texts_become_queries() {
    let simple = |column: &str, op: &str, value: &str| {
        format!(
            r#"{{"type":"simple","left":{{"type":"column","name":"{column}"}},"right":{{"type":"literal","value":{value}}},"op":"{op}"}}"#
        )
    };
    let cases = [
        ("issue", r#"{"table":"issue"}"#.to_owned()),
        (" issue ; ", r#"{"table":"issue"}"#.to_owned()),
        ("app.issue.limit(2)", r#"{"table":"app.issue","limit":2}"#.to_owned()),
        (
            "issue.where('open', true)\n  .orderBy('modified', \"desc\").limit(10).one();",
            format!(
                r#"{{"table":"issue","where":{},"limit":1,"orderBy":[["modified","desc"]]}}"#,
                simple("open", "=", "true")
            ),
        ),
        (
            r"t.where('a', '>=', -1.5e3).where('b', 'IN', ['x', 2, true,]).where('c', 'IS NOT', null)",
            format!(
                r#"{{"table":"t","where":{{"type":"and","conditions":[{},{},{}]}}}}"#,
                simple("a", ">=", "-1500"),
                simple("b", "IN", r#"["x",2,true]"#),
                simple("c", "IS NOT", "null")
            ),
        ),
        (
            r"t.where('a', 'it\'s \u00e9\n\uD83D\ude00')",
            format!(r#"{{"table":"t","where":{}}}"#, simple("a", "=", r#""it's é\n😀""#)),
        ),
        (
            "t.orderBy('n','asc').start({n: 1, 'id': \"x\"}, {inclusive: true}).limit(5)",
            r#"{"table":"t","start":{"row":{"n":1,"id":"x"},"exclusive":false},"limit":5,"orderBy":[["n","asc"]]}"#
                .to_owned(),
        ),
    ];
    for (text, expected) in cases {
        let query = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(query.ast.to_json().to_string(), expected, "{text}");
        assert_eq!(query.format.singular, text.contains("one()"));
    }
}

/// The ASTs and formats are what the library itself made of these texts.
#[test]
fn relationships_become_what_the_library_makes_of_them() {
    let cases = [
        (
            "issue.related('labels').whereExists('labels', l => l.where('name', 'x'), {flip: true, scalar: true})",
            r#"{"table":"issue","related":[{"system":"client","correlation":{"parentField":["id"],"childField":["issueId"]},"hidden":true,"subquery":{"table":"issueLabel","alias":"labels","related":[{"system":"client","correlation":{"parentField":["labelId"],"childField":["id"]},"subquery":{"table":"label","alias":"labels"}}]}}],"where":{"type":"correlatedSubquery","related":{"system":"client","correlation":{"parentField":["id"],"childField":["issueId"]},"subquery":{"table":"issueLabel","alias":"zsubq_labels","where":{"type":"correlatedSubquery","related":{"system":"client","correlation":{"parentField":["labelId"],"childField":["id"]},"subquery":{"table":"label","alias":"zsubq_zhidden_labels","where":{"type":"simple","left":{"type":"column","name":"name"},"right":{"type":"literal","value":"x"},"op":"="}}},"op":"EXISTS","flip":true,"scalar":true}}},"op":"EXISTS","flip":true}}"#,
        ),
        (
            "issue.related('labels', l => l.one())",
            r#"{"table":"issue","related":[{"system":"client","correlation":{"parentField":["id"],"childField":["issueId"]},"hidden":true,"subquery":{"table":"issueLabel","alias":"labels","related":[{"system":"client","correlation":{"parentField":["labelId"],"childField":["id"]},"subquery":{"table":"label","alias":"labels","limit":1}}]}}]}"#,
        ),
        (
            "issue.where(({not,exists,or,cmp}) => not(or(cmp('n','>',1), exists('owner'))))",
            r#"{"table":"issue","where":{"type":"and","conditions":[{"type":"simple","op":"<=","left":{"type":"column","name":"n"},"right":{"type":"literal","value":1}},{"type":"correlatedSubquery","related":{"system":"client","correlation":{"parentField":["ownerId"],"childField":["id"]},"subquery":{"table":"user","alias":"zsubq_owner"}},"op":"NOT EXISTS"}]}}"#,
        ),
        (
            "issue.where(({and,or,cmp}) => and(or(), cmp('n','>',1))).where('n',2)",
            r#"{"table":"issue","where":{"type":"or","conditions":[]}}"#,
        ),
        (
            "issue.where(({and}) => and()).where('n', 2)",
            r#"{"table":"issue","where":{"type":"simple","left":{"type":"column","name":"n"},"right":{"type":"literal","value":2},"op":"="}}"#,
        ),
        ("issue.where(eb => eb.and())", r#"{"table":"issue","where":{"type":"and","conditions":[]}}"#),
        (
            "issue.where(({and, or, cmp}) => or(and(), cmp('n', 1), undefined))",
            r#"{"table":"issue","where":{"type":"and","conditions":[]}}"#,
        ),
        (
            "issue.where((eb) => eb.or(eb.cmp('n',3), eb.or(eb.cmp('n',1), eb.eb.or(eb.cmp('n',2), eb.cmp('n',4)))))",
            r#"{"table":"issue","where":{"type":"or","conditions":[{"type":"simple","left":{"type":"column","name":"n"},"right":{"type":"literal","value":3},"op":"="},{"type":"simple","left":{"type":"column","name":"n"},"right":{"type":"literal","value":1},"op":"="},{"type":"simple","left":{"type":"column","name":"n"},"right":{"type":"literal","value":2},"op":"="},{"type":"simple","left":{"type":"column","name":"n"},"right":{"type":"literal","value":4},"op":"="}]}}"#,
        ),
        (
            "issue.where('n','IS NOT',undefined).where('n',undefined)",
            r#"{"table":"issue","where":{"type":"and","conditions":[{"type":"simple","left":{"type":"column","name":"n"},"right":{"type":"literal","value":null},"op":"IS NOT"},{"type":"simple","left":{"type":"column","name":"n"},"right":{"type":"literal","value":null},"op":"="}]}}"#,
        ),
        (
            "issue.whereExists('owner', {flip: true})",
            r#"{"table":"issue","where":{"type":"correlatedSubquery","related":{"system":"client","correlation":{"parentField":["ownerId"],"childField":["id"]},"subquery":{"table":"user","alias":"zsubq_owner"}},"op":"EXISTS","flip":true}}"#,
        ),
        (
            "issue.related('owner', l => l.limit(2).orderBy('name', 'asc').start({name: 'x'}))",
            r#"{"table":"issue","related":[{"system":"client","correlation":{"parentField":["ownerId"],"childField":["id"]},"subquery":{"table":"user","alias":"owner","limit":2,"orderBy":[["name","asc"]],"start":{"row":{"name":"x"},"exclusive":true}}}]}"#,
        ),
        (
            "issue.where(({cmpLit}) => cmpLit(1, '=', 1))",
            r#"{"table":"issue","where":{"type":"simple","left":{"type":"literal","value":1},"right":{"type":"literal","value":1},"op":"="}}"#,
        ),
        (
            "issue.where(({not,cmp,and}) => not(and(cmp('n','LIKE',1), cmp('n','IS',null), cmp('n','NOT IN',[1]), cmp('n',1))))",
            r#"{"table":"issue","where":{"type":"or","conditions":[{"type":"simple","op":"NOT LIKE","left":{"type":"column","name":"n"},"right":{"type":"literal","value":1}},{"type":"simple","op":"IS NOT","left":{"type":"column","name":"n"},"right":{"type":"literal","value":null}},{"type":"simple","op":"IN","left":{"type":"column","name":"n"},"right":{"type":"literal","value":[1]}},{"type":"simple","op":"!=","left":{"type":"column","name":"n"},"right":{"type":"literal","value":1}}]}}"#,
        ),
        (
            "issue.where(({exists, not}) => not(exists('labels', l => l.where('name', 'x'))))",
            r#"{"table":"issue","where":{"type":"correlatedSubquery","related":{"system":"client","correlation":{"parentField":["id"],"childField":["issueId"]},"subquery":{"table":"issueLabel","alias":"zsubq_labels","where":{"type":"correlatedSubquery","related":{"system":"client","correlation":{"parentField":["labelId"],"childField":["id"]},"subquery":{"table":"label","alias":"zsubq_zhidden_labels","where":{"type":"simple","left":{"type":"column","name":"name"},"right":{"type":"literal","value":"x"},"op":"="}}},"op":"EXISTS"}}},"op":"NOT EXISTS"}}"#,
        ),
    ];
    for (text, expected) in cases {
        let query = parse_with(text, &schema()).unwrap_or_else(|error| panic!("{text}: {error}"));
        let expected = Ast::parse_strict(&Json::parse(expected).unwrap()).unwrap();
        assert_eq!(query.ast, expected, "{text}");
    }
    let format =
        parse_with("issue.related('owner').related('labels', l => l.one()).limit(5)", &schema()).unwrap().format;
    let shape = [("owner", true), ("labels", true)];
    assert!(!format.singular && shape.iter().all(|(name, one)| format.relationship(name).singular == *one));
    assert!(!parse_with("issue.related('labels')", &schema()).unwrap().format.relationship("labels").singular);
}

#[test]
fn queries_are_printed_in_one_form() {
    let cases = [
        ("issue", ""),
        ("issue.where('open', true).where('n', '>=', 2)", ""),
        (
            "issue.where(({and, cmp}) => and(cmp('open', true), cmp('n', '=', 2)))",
            "issue.where('open', true).where('n', 2)",
        ),
        (
            "issue.where(e => e.or(e.cmp('n', 1), e.and(e.cmp('n', '>', 2), e.not(e.exists('owner')))))",
            "issue.where(({and, cmp, exists, not, or}) => or(cmp('n', 1), and(cmp('n', '>', 2), not(exists('owner')))))",
        ),
        ("issue.where(({or}) => or())", ""),
        ("issue.where(({and}) => and())", "issue"),
        ("issue.where(({exists, not}) => not(exists('labels', q => q.where('name', 'x'))))", ""),
        ("issue.whereExists('labels', q => q.where('name', 'it\\'s \\\\ \\n'), {flip: true, scalar: false})", ""),
        ("issue.whereExists('owner', q => q.whereExists('issues', {scalar: true}).limit(0))", ""),
        ("issue.related('owner').related('labels', q => q.where('name', 'IN', ['a', 'b']).one())", ""),
        ("user.related('issues', q => q.related('labels').orderBy('n', 'desc').limit(1).start({n: 1, id: 'x'}))", ""),
        ("issue.orderBy('n', 'asc').orderBy('id', 'desc').one().start({n: -0.5}, {inclusive: true})", ""),
        (
            "issue.where(({cmpLit}) => cmpLit('a', 'IS NOT', null)).where('id', authParam('sub')).where('n', '<', authParam(['a', 'b']))",
            "",
        ),
        ("issue.where('id', 'NOT IN', [])", ""),
    ];
    for (text, expected) in cases {
        let expected = if expected.is_empty() { text } else { expected };
        let query = parse_with(text, &schema()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(print(&query.ast, &query.format), expected);
        let again = parse_with(expected, &schema()).unwrap();
        // Always-true filters are not written.
        assert!(again == query || expected == "issue", "{text}");
    }
}

#[test]
fn mistakes_are_placed() {
    let cases = [
        ("", "expected a table at position 0"),
        ("t.where(", "expected a value at position 8"),
        ("t.where('a')", "where does not take 1 arguments at position 2"),
        ("t.where('a', '~', 1)", "there is no operator ~ at position 13"),
        ("t.where('a', 'IN', 1)", "IN takes a list at position 19"),
        ("t.limit(-1)", "Limit must be non-negative at position 8"),
        ("t.limit(1.5)", "Limit must be an integer at position 8"),
        (
            "t.related('x')",
            "relationships need the application's schema; without it give the query as JSON at position 10",
        ),
        (
            "t.nope()",
            "there is no nope: expected where, whereExists, related, orderBy, start, limit or one at position 2",
        ),
        ("t.where('a', 'b", "the text does not end at position 15"),
        ("t x", "expected '.' at position 2"),
        ("t.where('a', é)", "expected a value at position 13"),
        ("t()", "expected a table at position 0"),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
    }
    let cases = [
        ("nope", "there is no table nope; there are issue, issueLabel, label, user at position 0"),
        ("issue.where('x', 1)", "issue has no column x; it has id, ownerId, n, open at position 12"),
        ("issue.start({x: 1})", "issue has no column x; it has id, ownerId, n, open at position 12"),
        ("issue.related('x')", "issue has no relationship x; it has labels, owner at position 14"),
        ("label.related('x')", "label has no relationship x; it has none at position 14"),
        ("issue.related('labels', l => l.limit(3))", "limit is not supported behind a junction table at position 31"),
        (
            "issue.related('owner', l => x.limit(3))",
            "the function must return a query that begins with l at position 28",
        ),
        ("issue.related('owner', 1)", "expected a function: q => q… at position 23"),
        ("issue.whereExists('owner', {flop: true})", "there is no option flop; there are flip, scalar at position 27"),
        ("issue.where(({cmp}) => or(cmp('n', 1)))", "or is not among the function's parameters at position 23"),
        (
            "issue.where(({xor}) => xor(1))",
            "there is no xor in a filter: it has and, cmp, cmpLit, eb, exists, not, or at position 23",
        ),
        ("issue.where(eb => cmp('n', 1))", "expected a condition of eb: eb.cmp(…) at position 18"),
        ("issue.where(eb => eb.cmp('n', 1).cmp('n', 2))", "nothing can be called on a condition at position 21"),
        ("issue.where(eb => eb.and(1))", "expected a condition at position 25"),
        ("issue.where(eb => eb)", "expected a condition such as cmp(…) at position 18"),
    ];
    for (text, expected) in cases {
        assert_eq!(parse_with(text, &schema()).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn no_prefix_panics() {
    let text = "issue.where('n', 'IN', [1, -2.5e3, {x: \"\\u00e9\"}]).where(({or, cmp}) => or(cmp('n', authParam(['a']))))\
                .related('owner', o => o.one()).start({n: 1}, {inclusive: true}).one()";
    for (end, _) in text.char_indices() {
        let _ = parse_with(&text[..end], &schema());
    }
    for deep in ["[", "f(", "(x)=>x(", "{a:", "a=>a.b("] {
        assert!(parse(&format!("t.where('a', {})", deep.repeat(100_000))).is_err());
    }
}
