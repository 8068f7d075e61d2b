//! Scenarios of the reference engine (reference/ivm.md §6) by their net effect: a transaction gives one
//! delta, so a row that the reference removes and adds again is edited or untouched here. Every step is checked by
//! brute force too.

use engine::commit::Key;
use zql_spec::ast::{Ast, Condition, Direction};
use zql_spec::value::Value;

use super::build::{Build, NULL, eq, exists, from, n, not_exists, or, permission, s, schema};
use super::check::Checked;
use super::memory::Database;

/// Data, a query and its graph. Rows are written `name value …`; see [`Case::step`].
struct Case {
    database: Database,
    checked: Checked,
}

/// A value as tests write it: a number, `-` for null, or a string.
fn value(text: &str) -> Value {
    match text {
        "-" => NULL,
        text => text.parse::<f64>().map_or_else(|_| s(text), n),
    }
}

fn values(text: &str) -> Vec<Value> {
    text.split_whitespace().map(value).collect()
}

fn write(database: &mut Database, write: &str) {
    let (what, row) = write.trim().split_once(' ').expect("what is written");
    let (operation, table) = what.split_at(1);
    let key_columns = database.schema.table(table).expect("a table").primary_key.len();
    let row = values(row);
    match operation {
        "+" => database.put(table, &row),
        "-" => database.delete(table, &row[..key_columns]),
        _ => panic!("{write}"),
    }
}

impl Case {
    fn new(tables: &[(&str, &[&str])], rows: &str, ast: &Ast) -> Self {
        Case::with_keys(tables, &[], rows, ast)
    }

    /// With other keys than the replica's for some tables.
    fn with_keys(tables: &[(&str, &[&str])], keys: &[(&str, &str)], rows: &str, ast: &Ast) -> Self {
        let mut database = Database::new(schema(tables));
        database.client_schema =
            database.schema.with_primary_keys(keys.iter().map(|&(table, column)| (table, vec![column])));
        rows.split(',').filter(|row| !row.trim().is_empty()).for_each(|row| write(&mut database, row));
        database.commit();
        let checked = Checked::new(ast, &mut database);
        Case { database, checked }
    }

    /// Commits `+table values` (insert or replace) and `-table key` writes, and compares the delta: `+` for
    /// rows that come, `-` for rows that leave, `=` for edits, `before>after` for other counts; sorted.
    #[track_caller]
    fn step(&mut self, writes: &str, expected: &str) -> &mut Self {
        writes.split(',').for_each(|row| write(&mut self.database, row));
        let commit = self.database.commit();
        let delta = self.checked.commit(&commit, &mut self.database);
        let mut found: Vec<String> = delta
            .changes
            .iter()
            .map(|change| {
                let sign = match (change.before, change.after) {
                    (0, 1) => "+".to_owned(),
                    (1, 0) => "-".to_owned(),
                    (before, after) if before == after => "=".to_owned(),
                    (before, after) => format!("{before}>{after}"),
                };
                format!("{sign}{}{}", change.table, key(&change.key))
            })
            .collect();
        found.sort();
        let mut expected: Vec<&str> = expected.split_whitespace().collect();
        expected.sort_unstable();
        assert_eq!(found, expected, "after {writes}");
        self
    }
}

fn key(key: &Key) -> String {
    let text = |value: &Value| match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.to_string(),
        other => format!("{other:?}"),
    };
    key.iter().map(|value| format!(".{}", text(value))).collect()
}

const ROWS: &[(&str, &[&str])] = &[("t", &["*id", "v"])];

/// A table in the order of `v` with a limit, and steps over it.
fn window(rows: &str, limit: usize, steps: &[(&str, &str)]) {
    let ast = from("t").order("v", Direction::Asc).first(limit);
    let mut case = Case::new(ROWS, rows, &ast);
    for (writes, expected) in steps {
        case.step(writes, expected);
    }
}

#[test]
fn windows_take_the_first_rows() {
    let abc = "+t a 1,+t b 3,+t c 5";
    window(abc, 2, &[("+t d 2", "-t.b +t.d"), ("+t e 9", ""), ("+t f 0", "-t.d +t.f")]);
    window("+t a 3", 1, &[("+t b 1", "-t.a +t.b")]);
    window("+t a 3", 3, &[("+t b 1", "+t.b"), ("+t c 5", "+t.c")]);
    window("", 2, &[("+t b 1", "+t.b"), ("-t b", "-t.b")]);
    window(abc, 2, &[("-t a", "-t.a +t.c"), ("-t b", "-t.b"), ("-t c", "-t.c")]);
    window(abc, 2, &[("-t b", "-t.b +t.c")]);
    window("+t a 1,+t b 3", 2, &[("-t b", "-t.b"), ("+t b 3", "+t.b")]);
    window(abc, 2, &[("-t c", "")]);
    window(abc, 0, &[("+t d 0", ""), ("-t a", "")]);
    window("+t a 1,+t b 3", 1, &[("+t a 2", "=t.a"), ("+t a 0", "=t.a"), ("+t a 9", "-t.a +t.b")]);
    window("+t a 1,+t b 3", 1, &[("+t b 0", "-t.a +t.b")]);
    window("+t a 1", 2, &[("+t a 9", "=t.a")]);
}

#[test]
fn edits_move_rows_within_windows() {
    window(
        "+t a 1,+t b 3,+t c 5,+t d 7",
        2,
        &[
            ("+t a 2", "=t.a"),
            ("+t b 2.5", "=t.b"),
            ("+t b 1", "=t.b"),
            ("+t a 4", "=t.a"),
            ("+t a 6", "-t.a +t.c"),
            ("+t d 0", "-t.c +t.d"),
            ("+t d 9", "-t.d +t.c"),
            ("+t b 5.5", "=t.b"),
            ("+t d 8", ""),
            // Several at once: the net effect.
            ("-t b,-t c,+t z 0,+t y 0", "-t.b -t.c +t.z +t.y"),
            ("+t z 99,+t y 98", "-t.z -t.y +t.a +t.d"),
            ("-t a,+t a 6", "=t.a"),
        ],
    );
}

const COMMENTS: &[(&str, &[&str])] = &[("issue", &["*id", "o"]), ("c", &["*id", "issue", "t"])];

#[test]
fn related_rows_follow_their_parent() {
    let ast = from("issue").related("cs", "id", "issue", from("c"));
    Case::new(COMMENTS, "+issue 1 x,+issue 2 x,+c a 1 p", &ast)
        .step("+c b 1 p", "+c.b")
        .step("+c b 1 q", "=c.b")
        .step("+c b 2 q", "=c.b")
        .step("+c b - q", "-c.b")
        .step("+c b - r", "")
        .step("+c z 99 r", "")
        .step("+issue 3 x", "+issue.3")
        .step("+issue 1 y", "=issue.1")
        .step("-issue 1", "-issue.1 -c.a")
        .step("+issue 99 x", "+issue.99 +c.z")
        .step("-issue 99,-c z", "-issue.99 -c.z");
}

#[test]
fn rows_shared_by_parents_stay_while_one_holds_them() {
    let tables: &[(&str, &[&str])] = &[("issue", &["*id", "o"]), ("user", &["*id", "name"])];
    let ast = from("issue").related("owner", "o", "id", from("user"));
    Case::new(tables, "+issue 1 u1,+issue 2 u1,+issue 3 -,+user u1 a,+user u2 b", &ast)
        .step("+user u1 c", "=user.u1")
        .step("-user u1", "-user.u1")
        .step("+user u1 d", "+user.u1")
        .step("+issue 1 u2", "=issue.1 +user.u2")
        .step("+issue 2 u2", "=issue.2 -user.u1")
        .step("-issue 1", "-issue.1")
        .step("-issue 2", "-issue.2 -user.u2");
}

#[test]
fn a_row_counts_once_per_node_that_holds_it() {
    let tables: &[(&str, &[&str])] = &[("emp", &["*id", "mgr"])];
    let ast = from("emp").related("reports", "id", "mgr", from("emp")).related("mgr", "mgr", "id", from("emp"));
    Case::new(tables, "+emp 1 -,+emp 2 1,+emp 3 2", &ast)
        .step("+emp 4 1", "0>2emp.4")
        .step("-emp 2", "3>0emp.2 2>1emp.3")
        .step("+emp 2 1", "0>3emp.2 1>2emp.3");
}

#[test]
fn related_windows_are_per_parent() {
    let ast = from("issue").related("cs", "id", "issue", from("c").order("t", Direction::Desc).first(1));
    Case::new(COMMENTS, "+issue 1 x,+issue 2 x,+issue 3 x,+c a 1 5,+c b 1 7,+c c 2 1", &ast)
        .step("+c d 1 9", "-c.b +c.d")
        .step("+c e 1 1", "")
        .step("-c d", "-c.d +c.b")
        .step("+c b 1 3", "-c.b +c.a")
        .step("+c a 2 5", "=c.a +c.b -c.c")
        .step("+c f 3 1", "+c.f")
        .step("+issue 4 x,+c g 4 1", "+issue.4 +c.g")
        .step("+c h 99 1", "")
        .step("+issue 99 x", "+issue.99 +c.h")
        .step("-issue 1", "-issue.1 -c.b")
        .step("+c z 1 99", "")
        .step("+issue 1 x", "+issue.1 +c.z");
}

#[test]
fn children_follow_a_window_of_parents() {
    let ast = from("issue").first(2).related("cs", "id", "issue", from("c"));
    Case::new(COMMENTS, "+issue 1 x,+issue 2 x,+issue 3 x,+c a 1 p,+c b 3 p", &ast)
        .step("+c d 3 p", "")
        .step("-issue 1", "-issue.1 -c.a +issue.3 +c.b +c.d")
        .step("+issue 0 x", "+issue.0 -issue.3 -c.b -c.d");
}

#[test]
fn witnesses_are_few_and_stay() {
    let ast = from("issue").filter(exists("id", "issue", from("c")));
    let rows = "+issue 1 x,+issue 2 x,+c a 1 p,+c b 1 p,+c c 1 p,+c d 1 p";
    Case::new(COMMENTS, rows, &ast)
        .step("-c b", "-c.b +c.d")
        .step("+c z 1 p", "")
        .step("+c a 1 q", "=c.a")
        .step("-c a", "-c.a +c.z")
        .step("-c c", "-c.c")
        .step("-c d", "-c.d")
        .step("-c z", "-issue.1 -c.z")
        .step("+c y 2 p", "+issue.2 +c.y")
        .step("+c x 2 p", "+c.x")
        .step("+c y 1 p", "+issue.1 =c.y")
        .step("+issue 3 x", "");
    // A permission's rows decide and are not sent.
    let ast = from("issue").filter(permission(exists("id", "issue", from("c"))));
    Case::new(COMMENTS, rows, &ast)
        .step("-c b", "")
        .step("-c a,-c c", "")
        .step("-c d", "-issue.1")
        .step("+c y 2 p", "+issue.2")
        .step("+c y 1 p", "+issue.1 -issue.2");
}

#[test]
fn not_exists_holds_while_there_is_none() {
    let ast = from("issue").filter(not_exists("id", "issue", from("c")));
    Case::new(COMMENTS, "+issue 1 x,+issue 2 x,+c a 2 p", &ast)
        .step("+c b 1 p", "-issue.1")
        .step("+c c 1 p", "")
        .step("-c b", "")
        .step("-c c", "+issue.1")
        .step("+issue 3 x", "+issue.3")
        .step("+issue 4 x,+c d 4 p", "");
    // A null joins nothing, so nothing exists.
    let ast = from("c").filter(not_exists("issue", "id", from("issue")));
    Case::new(COMMENTS, "+issue 1 x,+c a 1 p,+c b - p,+c d 7 p", &ast)
        .step("+c a - p", "+c.a")
        .step("+issue 7 x", "-c.d")
        .step("-issue 7", "+c.d");
}

#[test]
fn windows_over_exists_refill() {
    let ast = from("issue").filter(exists("id", "issue", from("c"))).first(1);
    Case::new(COMMENTS, "+issue 1 x,+issue 2 x,+issue 3 x,+c a 2 p,+c b 3 p", &ast)
        .step("+c c 1 p", "-issue.2 -c.a +issue.1 +c.c")
        .step("-c c", "-issue.1 -c.c +issue.2 +c.a");
}

#[test]
fn one_row_may_decide_for_many() {
    let tables: &[(&str, &[&str])] = &[("issue", &["*id", "o"]), ("user", &["*id", "name"])];
    let rows = "+user u1 a,+user u2 b,+issue 1 u1,+issue 2 u1,+issue 3 u2,+issue 4 u1,+issue 5 u2";
    let ast = from("issue").filter(exists("o", "id", from("user")));
    Case::new(tables, rows, &ast)
        .step("-user u1", "-issue.1 -issue.2 -issue.4 -user.u1")
        .step("+user u1 a", "+issue.1 +issue.2 +issue.4 +user.u1");
    Case::new(tables, rows, &ast.first(2))
        .step("-user u1", "-issue.1 -issue.2 -user.u1 +issue.3 +issue.5 +user.u2")
        .step("+user u1 a", "+issue.1 +issue.2 +user.u1 -issue.3 -issue.5 -user.u2");
}

#[test]
fn or_and_and_of_exists() {
    let typed = |t: &str| exists("id", "issue", from("c").filter(eq("t", s(t))));
    let ast = from("issue").filter(or([eq("o", s("x")), exists("id", "issue", from("c"))]));
    Case::new(COMMENTS, "+issue 1 x,+issue 3 -,+c a 1 p", &ast)
        .step("-c a", "-c.a")
        .step("+c a 1 p", "+c.a")
        .step("+issue 1 y", "=issue.1")
        .step("-c a", "-issue.1 -c.a")
        .step("+issue 3 x", "+issue.3");
    let ast = from("issue").filter(or([typed("p"), typed("q")]));
    Case::new(COMMENTS, "+issue 1 x,+c a 1 p,+c b 1 q", &ast)
        .step("-c a", "-c.a")
        .step("+c b 1 p", "=c.b")
        .step("+c b 1 z", "-issue.1 -c.b");
    let ast = from("issue").filter(Condition::And(vec![typed("p"), typed("q")]));
    Case::new(COMMENTS, "+issue 1 x,+c a 1 p,+c b 1 q", &ast)
        .step("-c a", "-issue.1 -c.b -c.a")
        .step("+c a 1 p", "+issue.1 +c.a +c.b")
        .step("+c b 1 p", "-issue.1 -c.a -c.b");
}

#[test]
fn junctions() {
    let tables: &[(&str, &[&str])] = &[("issue", &["*id"]), ("il", &["*issue", "*label"]), ("label", &["*id", "name"])];
    let rows = "+issue 1,+issue 2,+label x lx,+label y ly,+il 1 x,+il 2 x";
    let labels = from("il").related("labels", "label", "id", from("label"));
    let ast = from("issue").related("labels", "id", "issue", labels);
    Case::new(tables, rows, &ast)
        .step("+il 2 y", "+il.2.y +label.y")
        .step("+label x lz", "=label.x")
        .step("-il 1 x,-il 2 x", "-il.1.x -il.2.x -label.x");
    let named = from("il").filter(exists("label", "id", from("label").filter(eq("name", s("lx")))));
    let ast = from("issue").filter(exists("id", "issue", named));
    Case::new(tables, "+issue 1,+label x lx,+label y ly,+il 1 y", &ast)
        .step("+label y lx", "+issue.1 +il.1.y +label.y")
        .step("+label y ly", "-issue.1 -il.1.y -label.y")
        .step("+il 1 x", "+issue.1 +il.1.x +label.x");
}

#[test]
fn cursors() {
    let start = |exclusive| from("t").order("v", Direction::Asc).start(&[("v", n(2)), ("id", s("b"))], exclusive);
    let rows = "+t a 1,+t b 2,+t c 3,+t d 4,+t e 5";
    Case::new(ROWS, rows, &start(true))
        .step("+t a 0", "")
        .step("+t a 9", "+t.a")
        .step("+t a 2", "-t.a")
        .step("-t b", "");
    Case::new(ROWS, rows, &start(false)).step("+t a 2", "").step("+t b 2", "=t.b").step("-t b", "-t.b");
    Case::new(ROWS, rows, &start(true).first(2)).step("+t x 3.5", "+t.x -t.d").step("-t c", "-t.c +t.d");
}

#[test]
fn filters() {
    let ast = from("t").filter(eq("v", s("x")));
    Case::new(ROWS, "+t a x,+t b y", &ast)
        .step("+t a y", "-t.a")
        .step("+t a x", "+t.a")
        .step("+t a x", "=t.a")
        .step("+t b z", "")
        // Inserted and deleted in one transaction.
        .step("+t c x,-t c", "");
}

#[test]
fn clients_choose_the_identity_of_rows() {
    let tables: &[(&str, &[&str])] = &[("t", &["*id", "slug", "v"]), ("c", &["*id", "t"])];
    let rows = "+t 1 a x,+t 2 b x,+t 3 d y,+c 7 a,+c 8 b";
    for ast in [from("t").filter(eq("v", s("x"))), from("t").filter(eq("v", s("x"))).first(5)] {
        let ast = ast.related("cs", "slug", "t", from("c"));
        Case::with_keys(tables, &[("t", "slug")], rows, &ast)
            .step("+t 1 a x", "=t.a")
            // A new key is a new row; its children follow by the same column.
            .step("+t 1 e x", "-t.a -c.7 +t.e")
            .step("+t 1 a x", "+t.a +c.7 -t.e")
            // Two rows swap keys: each key has another row now.
            .step("+t 1 b x,+t 2 a x", "=t.a =t.b")
            .step("+t 1 a x,+t 2 b y", "=t.a -t.b -c.8")
            // A key passes from a row that is out to one that is in.
            .step("-t 3,+t 4 d x", "+t.d");
    }
}

#[test]
fn an_edit_that_a_query_does_not_look_at_reads_nothing() {
    let tables: &[(&str, &[&str])] = &[("issue", &["*id", "o", "text"]), ("c", &["*id", "issue", "text"])];
    let ast = from("issue")
        .filter(eq("o", s("x")))
        .filter(exists("id", "issue", from("c")))
        .order("o", Direction::Asc)
        .first(2)
        .related("cs", "id", "issue", from("c"));
    let mut database = Database::new(schema(tables));
    for row in ["+issue 1 x t", "+issue 2 x t", "+issue 3 x t", "+c a 1 t", "+c b 2 t", "+c d 3 t"] {
        write(&mut database, row);
    }
    database.commit();
    let mut graph = super::check::graph(&ast, &database);
    for row in ["+issue 1 x u", "+issue 3 x u", "+c a 1 u", "+c d 3 u"] {
        write(&mut database, row);
    }
    let commit = database.commit();
    database.reads = 0;
    let delta = graph.advance(&commit, &mut database).expect("an advance");
    let mut keys: Vec<String> =
        delta.changes.iter().map(|change| format!("{}{}", change.table, key(&change.key))).collect();
    keys.sort();
    assert_eq!(keys, ["c.a", "issue.1"]);
    assert_eq!(database.reads, 0);
}

#[test]
fn what_brings_in_too_much_is_hydrated_instead() {
    let tables: &[(&str, &[&str])] = &[("issue", &["*id", "o"]), ("user", &["*id", "name"])];
    let ast = from("issue").filter(exists("o", "id", from("user")));
    let mut database = Database::new(schema(tables));
    for id in 0..6_000 {
        database.put("issue", &[n(id), s("u1")]);
    }
    database.commit();
    let mut graph = super::check::graph(&ast, &database);
    database.put("user", &[s("u1"), s("a")]);
    let commit = database.commit();
    assert!(matches!(graph.advance(&commit, &mut database), Err(engine::graph::AdvanceError::HydrateInstead)));
    let hydration = database.hydrate(graph.query());
    assert_eq!(graph.rehydrated(&hydration).changes.len(), 6_001);
    // Taking it all away is decided in memory but for one probe, so it is done.
    database.delete("user", &[s("u1")]);
    let commit = database.commit();
    let delta = graph.advance(&commit, &mut database).expect("an advance");
    assert_eq!(delta.changes.len(), 6_001);
    assert!(delta.changes.iter().all(|change| change.after == 0));
}
