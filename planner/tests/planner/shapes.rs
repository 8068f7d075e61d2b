//! Queries of one shape share a plan: each must still be answered by its own constants.

use engine::hydration::Hydrate;
use planner::Planner;
use zql_spec::ast::{Ast, Bound, Condition, Direction, Literal, SimpleOperator, ValuePosition};
use zql_spec::value::Value;

use crate::tracker::*;

fn among(column: &str, op: SimpleOperator, values: &[&str]) -> Condition {
    let values = values.iter().map(|value| Value::string(*value)).collect();
    Condition::Simple {
        op,
        left: ValuePosition::Column(column.into()),
        right: ValuePosition::Literal(Literal::List(values)),
    }
}

fn after(modified: f64, id: &str) -> Ast {
    let mut ast = from("issue").order("modified", Direction::Desc).limit(5);
    let row = vec![("modified".into(), Value::Number(modified)), ("id".into(), Value::string(id))];
    ast.start = Some(Bound { row, exclusive: true });
    ast
}

#[test]
fn queries_of_one_shape_are_answered_by_their_own_constants() {
    use SimpleOperator as Op;
    let directory = tempfile::tempdir().unwrap();
    let snapshot = tracker(&directory.path().join("replica.db"), 50, 2_000);
    let labelled = |name: &str| {
        exists(
            "id",
            "issue",
            from("issue_label").filter(exists("label", "id", from("label").filter(equal("name", name)))),
        )
    };
    let mixed = |id: &str, owner: &str, label: &str| {
        from("issue").filter(Condition::Or(vec![equal("id", id), equal("owner", owner), labelled(label)])).related(
            "comments",
            "id",
            "issue",
            from("comment").filter(compare("body", Op::Ne, Value::string("Comment 3"))),
        )
    };
    let queries = [
        from("issue").filter(equal("id", "i1")),
        from("issue").filter(equal("id", "i2")),
        from("issue").filter(equal("id", "17")),
        from("issue").filter(compare("owner", Op::Is, Value::Null)),
        from("issue").filter(compare("owner", Op::Is, Value::string("u3"))),
        from("issue").filter(compare("owner", Op::IsNot, Value::string("u3"))),
        from("issue").filter(compare("title", Op::Like, Value::string("%19"))),
        from("issue").filter(compare("title", Op::Like, Value::string("%2_"))),
        from("issue").filter(compare("title", Op::Gt, Value::string("Issue 99"))),
        from("issue").filter(compare("title", Op::Gt, Value::string("99"))),
        from("issue").filter(compare("priority", Op::Eq, Value::string("3"))),
        from("issue").filter(number("priority", Op::Eq, 3.0)),
        from("issue").filter(number("priority", Op::Eq, 4.0)),
        from("issue").filter(among("id", Op::In, &[])),
        from("issue").filter(among("id", Op::In, &["i5"])),
        from("issue").filter(among("id", Op::In, &["i6"])),
        from("issue").filter(among("id", Op::In, &["i5", "i7"])),
        from("issue").filter(among("id", Op::In, &["i8", "i9"])),
        from("issue").filter(among("id", Op::NotIn, &["i8", "i9"])),
        after(500.0, "i1500"),
        after(7.0, "i1993"),
        mixed("i5", "u7", "rare"),
        mixed("i6", "u8", "label 3"),
        mixed("i7", "nobody", "nothing"),
    ];
    let shared = Planner::new();
    for round in 0..2 {
        for ast in &queries {
            let query = resolve(ast, &snapshot);
            let fresh = Planner::new().hydrate(&query, &snapshot).unwrap();
            let found = shared.hydrate(&query, &snapshot).unwrap();
            let rows = |nodes: Vec<Vec<std::sync::Arc<engine::commit::StoredRow>>>| -> Vec<Vec<String>> {
                let sorted = |rows: Vec<_>| {
                    let mut rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
                    rows.sort();
                    rows
                };
                nodes.into_iter().map(sorted).collect()
            };
            assert_eq!(rows(found.nodes), rows(fresh.nodes), "round {round}: {ast:?}");
        }
    }
}
