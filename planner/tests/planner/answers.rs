//! Each construct against answers computed by hand, by the chosen plan and by others.

use engine::hydration::Hydrate;
use planner::Planner;
use zql_spec::ast::{Ast, Bound, Condition, Direction, SimpleOperator};
use zql_spec::value::Value;

use crate::tracker::*;

/// The first columns of the rows of each node, sorted.
fn answer(planner: &Planner, ast: &Ast, snapshot: &std::sync::Arc<engine::replica::Snapshot>) -> Vec<Vec<String>> {
    let query = resolve(ast, snapshot);
    let hydration = planner.hydrate(&query, snapshot).unwrap();
    assert_eq!(hydration.version, snapshot.version);
    let first = |value: &Value| match value {
        Value::String(text) => text.to_string(),
        other => format!("{other:?}"),
    };
    let nodes = hydration.nodes.iter().map(|rows| {
        let mut names: Vec<String> = rows.iter().map(|row| first(&row.values[0])).collect();
        names.sort();
        names
    });
    nodes.collect()
}

#[test]
fn constructs() {
    use SimpleOperator::{Eq, Ge, Lt};
    let directory = tempfile::tempdir().unwrap();
    // Issues i0 … i19, owners u0 … u3, issues 9 and 19 without; issue 7 is rare; 30 comments.
    let snapshot = tracker(&directory.path().join("replica.db"), 4, 20);
    let label =
        |name: &str| from("issue_label").filter(exists("label", "id", from("label").filter(equal("name", name))));
    let or = |conditions: Vec<Condition>| Condition::Or(conditions);
    let i = |numbers: &[i64]| {
        let mut names: Vec<String> = numbers.iter().map(|number| format!("i{number}")).collect();
        names.sort();
        names
    };
    let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut cursor = from("issue").order("priority", Direction::Desc).limit(3);
    cursor.start = Some(Bound {
        row: vec![("priority".into(), Value::Number(4.0)), ("id".into(), Value::string("i14"))],
        exclusive: true,
    });
    let cases: Vec<(&str, Ast, Vec<Vec<String>>)> = vec![
        ("point", from("issue").filter(equal("id", "i3")), vec![i(&[3])]),
        (
            "nothing",
            from("issue").filter(equal("id", "x")).related("c", "id", "issue", from("comment")),
            vec![vec![], vec![]],
        ),
        ("first", from("issue").order("modified", Direction::Asc).limit(2), vec![i(&[18, 19])]),
        ("no rows wanted", from("issue").limit(0), vec![vec![]]),
        ("cursor", cursor, vec![i(&[19, 4, 9])]),
        (
            "related",
            from("issue").filter(number("modified", Ge, 18.0)).related("owner", "owner", "id", from("user")),
            vec![i(&[0, 1, 2]), strings(&["u0", "u1", "u2"])],
        ),
        (
            "first related",
            from("issue").filter(or(vec![equal("id", "i3"), equal("id", "i9")])).related(
                "comments",
                "id",
                "issue",
                from("comment").order("created", Direction::Desc).limit(1),
            ),
            // Comments are numbered through: issues 1, 2, 3 have 1, 2, 3; issue 9 has the 13th.
            vec![i(&[3, 9]), strings(&["c13", "c6"])],
        ),
        (
            "null belongs to nothing",
            from("issue").filter(equal("id", "i9")).related("o", "owner", "id", from("user")),
            vec![i(&[9]), vec![]],
        ),
        (
            "exists through a junction",
            from("issue").filter(exists("id", "issue", label("rare"))),
            vec![i(&[7]), i(&[7]), strings(&["rare"])],
        ),
        (
            "not exists holds for null",
            from("issue")
                .filter(not_exists("owner", "id", from("user").filter(equal("id", "u1"))))
                .filter(number("modified", Lt, 12.0)),
            vec![i(&[9, 10, 11, 12, 14, 15, 16, 18, 19]), vec![]],
        ),
        (
            "witnesses of a disjunction",
            from("issue").filter(or(vec![
                equal("id", "i4"),
                exists("id", "issue", label("rare")),
                not_exists("id", "issue", from("comment")),
            ])),
            vec![i(&[0, 4, 7, 8, 12, 16]), i(&[7]), strings(&["rare"]), strings(&["c10", "c11", "c12"])],
        ),
        (
            "and within or",
            from("issue").filter(or(vec![
                Condition::And(vec![
                    number("priority", Eq, 2.0),
                    exists("owner", "id", from("user").filter(equal("name", "User 3"))),
                ]),
                equal("id", "i0"),
            ])),
            vec![i(&[0, 7]), strings(&["u3"])],
        ),
        (
            "exists without rows",
            from("issue").filter(exists("id", "issue", from("comment").limit(0))),
            vec![vec![], vec![]],
        ),
        (
            "types that differ never meet",
            from("issue").filter(not_exists("priority", "id", from("user"))).limit(1),
            vec![i(&[0]), vec![]],
        ),
        (
            "pairs of columns",
            from("issue_label").filter(equal("issue", "i7")).filter(exists(
                "issue,label",
                "issue,label",
                from("issue_label").filter(equal("label", "rare")),
            )),
            vec![i(&[7]), i(&[7])],
        ),
        (
            "limit after exists",
            from("issue")
                .order("modified", Direction::Asc)
                .filter(exists("owner", "id", from("user").filter(equal("name", "User 3"))))
                .limit(2),
            vec![i(&[15, 11]), strings(&["u3"])],
        ),
    ];
    for (name, ast, expected) in cases {
        assert_eq!(answer(&Planner::new(), &ast, &snapshot), expected, "{name}");
        for dice in 0..16 {
            let planner = Planner::careless(dice);
            let plan = || planner.explain(&resolve(&ast, &snapshot), &snapshot).unwrap();
            assert_eq!(answer(&planner, &ast, &snapshot), expected, "{name}, dice {dice}:\n{}", plan());
        }
    }
}

#[test]
fn witnesses_are_few() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = tracker(&directory.path().join("replica.db"), 2, 100);
    // Each user owns more than three issues.
    let ast = from("user").filter(exists("id", "owner", from("issue")));
    for planner in (0..8).map(Planner::careless).chain([Planner::new()]) {
        let counts: Vec<usize> = answer(&planner, &ast, &snapshot).iter().map(Vec::len).collect();
        assert_eq!(counts, [2, 6]);
    }
}

#[test]
fn values_that_clients_cannot_be_given() {
    let directory = tempfile::tempdir().unwrap();
    let mut load = begin(&directory.path().join("replica.db"));
    let rows = (0..30).map(|id| vec![int(id), int(if id == 20 { (1 << 53) + 2 } else { id })]);
    let indexes = table(&mut load, "t", &[("id", "int8|NOT_NULL"), ("big", "int8")], &["!id"], rows);
    load.create_index(&indexes[0]).unwrap();
    let snapshot = load.finish().unwrap().pin().unwrap();
    let everything = from("t").related("same", "id", "id", from("t"));
    for planner in (0..8).map(Planner::careless).chain([Planner::new()]) {
        let error = planner.hydrate(&resolve(&everything, &snapshot), &snapshot).unwrap_err();
        assert_eq!(error.to_string(), "value 9007199254740994 (in t.big) is outside of supported bounds");
        let fine = from("t").filter(number("id", SimpleOperator::Lt, 20.0)).related("same", "id", "id", from("t"));
        assert_eq!(planner.hydrate(&resolve(&fine, &snapshot), &snapshot).unwrap().nodes[1].len(), 20);
    }
}

#[test]
fn tables_that_grow_after_they_were_analysed() {
    let directory = tempfile::tempdir().unwrap();
    let mut load = begin(&directory.path().join("replica.db"));
    let mut indexes = table(&mut load, "a", &[("id", "int8|NOT_NULL")], &["!id"], [vec![int(0)]]);
    indexes.extend(table(&mut load, "b", &[("id", "int8|NOT_NULL"), ("a", "int8")], &["!id", "a"], []));
    for index in &indexes {
        load.create_index(index).unwrap();
    }
    let replica = load.finish().unwrap();
    let mut writer = replica.writer().unwrap();
    let mut tx = writer.begin("02").unwrap();
    let (a, b) = (tx.relation("a", &["id"], &["id"]).unwrap(), tx.relation("b", &["id", "a"], &["id"]).unwrap());
    for id in 1..3000 {
        tx.insert(&a, &[int(id)]).unwrap();
        tx.insert(&b, &[int(id), int(id)]).unwrap();
    }
    tx.commit().unwrap();
    let snapshot = replica.pin().unwrap();
    let query =
        resolve(&from("a").filter(number("id", SimpleOperator::Eq, 7.0)).related("b", "id", "a", from("b")), &snapshot);
    let plan = Planner::new().explain(&query, &snapshot).unwrap();
    assert!(plan.contains("Lookup by a"), "{plan}");
}

#[test]
fn hydrations_run_beside_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = tracker(&directory.path().join("replica.db"), 50, 5_000);
    let rare = from("issue_label").filter(exists("label", "id", from("label").filter(equal("name", "rare"))));
    let asts = [
        from("issue").related("comments", "id", "issue", from("comment")),
        from("issue").filter(exists("id", "issue", rare.clone())),
        from("issue").filter(not_exists("id", "issue", rare)).order("modified", Direction::Desc).limit(40),
        from("user").filter(exists("id", "author", from("comment"))),
    ];
    let planner = Planner::new();
    let alone: Vec<_> = asts.iter().map(|ast| answer(&planner, ast, &snapshot)).collect();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (planner, asts, alone, snapshot) = (&planner, &asts, &alone, &snapshot);
            scope.spawn(move || {
                for turn in 0..8 {
                    let query = (thread + turn) % asts.len();
                    assert_eq!(answer(planner, &asts[query], snapshot), alone[query]);
                }
            });
        }
    });
}

#[test]
fn queries_of_unusual_size() {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = tracker(&directory.path().join("replica.db"), 4, 20);
    let mut deep = from("issue").filter(equal("id", "i5"));
    for _ in 0..20 {
        deep = from("issue").filter(exists("id", "id", deep));
    }
    let wide = |count: usize, any: bool| {
        let conditions =
            (0..count).map(|_| exists("id", "issue", from("comment").filter(equal("issue", "i5")))).collect();
        from("issue").filter(if any { Condition::Or(conditions) } else { Condition::And(conditions) })
    };
    let many = from("issue").filter(Condition::Or((0..3000).map(|id| equal("id", &format!("i{id}"))).collect()));
    for planner in [Planner::new(), Planner::careless(1), Planner::careless(2), Planner::careless(3)] {
        assert_eq!(answer(&planner, &deep, &snapshot)[0], ["i5"]);
        assert_eq!(answer(&planner, &wide(100, false), &snapshot)[0], ["i5"]);
        assert_eq!(answer(&planner, &wide(100, true), &snapshot)[0], ["i5"]);
        assert_eq!(answer(&planner, &many, &snapshot)[0].len(), 20);
    }
}
