//! Replica, SQL and graph against the naive evaluator, over generated worlds. Hydrations come from the
//! naive evaluator, so no planner is needed; the planner's tests run the same worlds with its own.
//!
//! A failure is shrunk and saved under `testdata/regressions`, where it is replayed ever after.
//! `WORLD=<seed>` runs one world, `FIRST=<seed> WORLDS=<n>` that many from there.

use std::sync::Arc;

use engine::query::Query;
use testdata::world::{Compared, ISSUES, Options, regressions, run_case, run_seed};
use zql_spec::ast::Ast;
use zql_spec::json::Json;
use zql_spec::naive::{Database, Evaluation};

fn options() -> Options<'static> {
    Options { queries: 20, transactions: 12, hydrate_every: 6, hydrate: None }
}

#[test]
fn generated_worlds() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("WORLD") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("FIRST").unwrap_or(0);
            first..first + number("WORLDS").unwrap_or(12)
        }
    };
    let mut total = Compared::default();
    for seed in seeds {
        total += run_seed(seed, &options()).unwrap_or_else(|failure| panic!("{failure}\nreplay with WORLD={seed}"));
    }
    println!("{total:?}");
    assert!(total.with_rows * 2 > total.queries, "most queries have an answer: {total:?}");
    assert!(total.changes > total.queries, "answers change: {total:?}");
}

#[test]
fn past_failures() {
    for (name, case) in regressions().expect("the cases are readable") {
        run_case(&case, &options()).unwrap_or_else(|failure| panic!("{name}: {failure}"));
    }
}

/// A query that is wrong in one way is refused with the same words by the engine and the naive evaluator.
#[test]
fn invalid_queries() {
    let cases = [
        r#"{"table":"nosuch"}"#,
        r#"{"table":"issue","orderBy":[["nosuch","asc"]]}"#,
        r#"{"table":"issue","limit":-1}"#,
        r#"{"table":"issue","start":{"row":{"nosuch":1},"exclusive":true}}"#,
        r#"{"table":"issue","where":{"type":"simple","op":"=","left":{"type":"column","name":"nosuch"},"right":{"type":"literal","value":1}}}"#,
        r#"{"table":"issue","where":{"type":"simple","op":"=","left":{"type":"column","name":"id"},"right":{"type":"static","anchor":"authData","field":"sub"}}}"#,
        r#"{"table":"issue","where":{"type":"simple","op":"=","left":{"type":"static","anchor":"authData","field":"sub"},"right":{"type":"literal","value":1}}}"#,
        r#"{"table":"issue","where":{"type":"simple","op":"NOT ILIKE","left":{"type":"column","name":"title"},"right":{"type":"literal","value":"a\\"}}}"#,
        r#"{"table":"issue","related":[{"correlation":{"parentField":["id"],"childField":["issue"]},"subquery":{"table":"comment"}}]}"#,
        r#"{"table":"issue","related":[{"correlation":{"parentField":["nosuch"],"childField":["issue"]},"subquery":{"table":"comment","alias":"c"}}]}"#,
        r#"{"table":"issue","related":[{"correlation":{"parentField":["id"],"childField":["nosuch"]},"subquery":{"table":"comment","alias":"c"}}]}"#,
        r#"{"table":"issue","related":[{"correlation":{"parentField":["id","number"],"childField":["issue"]},"subquery":{"table":"comment","alias":"c"}}]}"#,
        r#"{"table":"issue","where":{"type":"correlatedSubquery","op":"EXISTS","related":{"correlation":{"parentField":["id"],"childField":["issue"]},"subquery":{"table":"comment"}}}}"#,
        r#"{"table":"issue","where":{"type":"correlatedSubquery","op":"EXISTS","related":{"correlation":{"parentField":["id"],"childField":["issue"]},"subquery":{"table":"comment","alias":"c","limit":-1}}}}"#,
        r#"{"table":"issue","where":{"type":"correlatedSubquery","op":"EXISTS","related":{"correlation":{"parentField":["id"],"childField":["issue"]},"subquery":{"table":"comment","alias":"c","start":{"row":{},"exclusive":true}}}}}"#,
        r#"{"table":"issue","where":{"type":"correlatedSubquery","op":"NOT EXISTS","related":{"correlation":{"parentField":["id"],"childField":["issue"]},"subquery":{"table":"comment","alias":"c","related":[{"correlation":{"parentField":["author"],"childField":["id"]},"subquery":{"table":"user","alias":"a"}}]}}}}"#,
    ];
    let database = Database::new(Arc::new(ISSUES.schema()));
    for text in cases {
        let ast = Ast::parse_strict(&Json::parse(text).expect("JSON")).expect("an AST");
        let expected = Evaluation::new(&database, &ast).map(drop).expect_err(text).to_string();
        let found = Query::resolve(&ast, &database.schema).map(drop).expect_err(text).to_string();
        assert_eq!(found, expected, "{text}");
    }
}
