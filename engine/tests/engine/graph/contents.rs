//! Large commits that fill a column: graphs that it does not move take them by their own rows, and must come out as those
//! that test every row.

use std::collections::BTreeMap;

use engine::catalogue::{Catalogue, GraphId};
use engine::commit::{Commit, Outline};
use zql_spec::ast::{Ast, Direction};

use super::build::{Build, eq, exists, from, n, or, permission, s, schema};
use super::check::{Client, graph};
use super::memory::Database;

/// Rows of the table that is edited whole: more than make a commit large.
const ROWS: usize = 1_200;

fn id(row: usize) -> String {
    format!("t{row:04}")
}

/// `t` in ten states with one child each, of which some have a tag.
fn database() -> Database {
    let tables: &[(&str, &[&str])] =
        &[("t", &["*id", "state", "rank", "body"]), ("c", &["*id", "of", "tag"]), ("o", &["*id", "rank"])];
    let mut database = Database::new(schema(tables));
    for row in 0..ROWS {
        database.put("t", &t(row, "old"));
        let tag = if row % 97 == 0 { s("rare") } else { s("usual") };
        database.put("c", &[s(&format!("c{row}")), s(&id(row)), tag]);
    }
    (0..20).for_each(|row| database.put("o", &[s(&format!("o{row}")), n(row as f64)]));
    database.commit();
    database
}

fn t(row: usize, body: &str) -> [zql_spec::value::Value; 4] {
    [s(&id(row)), s(&format!("s{}", row % 10)), n((row * 7 % ROWS) as f64), s(body)]
}

fn queries() -> Vec<Ast> {
    let rare = || exists("id", "of", from("c").filter(eq("tag", s("rare"))));
    vec![
        // None of these is moved by `body`.
        from("t").order("rank", Direction::Desc).first(20),
        from("t").filter(rare()),
        from("t").filter(or([eq("id", s(&id(5))), rare()])),
        from("t").filter(permission(rare())).order("rank", Direction::Asc).first(7),
        from("c").filter(eq("tag", s("rare"))).related("t", "of", "id", from("t")),
        from("o").related("t", "rank", "rank", from("t").first(1)),
        from("c").filter(exists("of", "id", from("t").filter(eq("rank", n(7.0))))),
        from("t").filter(rare()).related("t", "id", "id", from("t")),
        // These are, or hold too many rows.
        from("t").filter(eq("body", s("new"))).first(5),
        from("t"),
        from("t").order("body", Direction::Asc).first(3),
        from("t").filter(rare()).related("by body", "body", "id", from("o")),
    ]
}

/// The same commit, of which nothing is known beyond its rows.
fn plain(commit: &Commit) -> Commit {
    let mut plain = commit.clone();
    plain.tables.values_mut().for_each(|table| table.outline = None);
    plain
}

struct Running {
    catalogue: Catalogue,
    clients: BTreeMap<GraphId, Client>,
}

impl Running {
    fn new(database: &mut Database) -> Running {
        let mut running = Running { catalogue: Catalogue::default(), clients: BTreeMap::new() };
        for ast in queries() {
            let graph = graph(&ast, database);
            let client = Client::new(&graph, database);
            running.clients.insert(running.catalogue.insert(graph), client);
        }
        running
    }

    /// Takes a commit and tells which graphs changed which rows.
    fn commit(&mut self, commit: &Commit, database: &mut Database) -> Vec<(GraphId, Vec<String>)> {
        let mut told = Vec::new();
        for (id, outcome) in self.catalogue.commit(commit, database) {
            let delta = outcome.unwrap_or_else(|_| {
                let hydration = database.hydrate(self.catalogue.get(id).expect("a running graph").query());
                self.catalogue.rehydrated(id, &hydration, None).expect("nothing to read")
            });
            self.clients.get_mut(&id).expect("a client").apply(&delta);
            let row = |change: &engine::graph::RowDelta| {
                format!("{}{:?} {}>{}", change.table, change.key, change.before, change.after)
            };
            let mut rows: Vec<String> = delta.changes.iter().map(row).collect();
            rows.sort();
            told.push((id, rows));
        }
        for (id, client) in &mut self.clients {
            client.check(self.catalogue.get(*id).expect("a running graph"), database);
        }
        told.sort();
        told
    }
}

/// Makes a commit and has it taken with and without what is known of it.
fn taken(database: &mut Database, running: &mut [Running; 2]) -> Vec<(GraphId, Vec<String>)> {
    let commit = database.commit();
    let by_rows = running[0].commit(&commit, database);
    let by_test = running[1].commit(&plain(&commit), database);
    assert_eq!(by_rows, by_test);
    by_rows
}

#[test]
fn filling_a_column_is_taken_alike_however_it_is_taken() {
    let mut database = database();
    let mut running = [Running::new(&mut database), Running::new(&mut database)];

    (0..ROWS).for_each(|row| database.put("t", &t(row, "new")));
    let told = taken(&mut database, &mut running);
    let counts: Vec<usize> = told.iter().map(|(_, rows)| rows.len()).collect();
    // The window, the rare ones, …; the query of `c` by an EXISTS has the one row of `t` as its witness.
    assert_eq!(counts, [20, 13, 14, 7, 13, 20, 1, 13, 5, ROWS, 3, 13]);

    // Rows that move, in the same commit: children that come and go, and a row of the table itself.
    (0..ROWS).for_each(|row| database.put("t", &t(row, "newer")));
    database.delete("c", &[s("c97")]);
    database.put("c", &[s("c1"), s(&id(1)), s("rare")]);
    database.put("o", &[s("o3"), n(1000.0)]);
    let told = taken(&mut database, &mut running);
    assert!(told.iter().any(|(_, rows)| rows.iter().any(|row| row.ends_with("1>0"))), "a row leaves");

    (0..ROWS).for_each(|row| database.put("t", &t(row, "newest")));
    database.put("t", &[s(&id(3)), s("s1"), n(5000.0), s("newest")]);
    let told = taken(&mut database, &mut running);
    assert!(told.iter().any(|(_, rows)| rows.iter().any(|row| row.ends_with("0>1"))), "a row enters the window");

    (0..ROWS).for_each(|row| database.put("t", &t(row, "last")));
    database.delete("t", &[s(&id(97))]);
    taken(&mut database, &mut running);
}

#[test]
fn what_is_known_of_commits_is_composed() {
    let mut database = database();
    let outline = |commit: &Commit| commit.tables["t"].outline.clone();
    let changed = |columns: &[usize]| {
        Some(Outline { key: [0].into_iter().collect(), changed: columns.iter().copied().collect() })
    };
    database.put("t", &t(1, "new"));
    let mut first = database.commit();
    assert_eq!(outline(&first), changed(&[3]));
    database.put("t", &[s(&id(2)), s("s9"), n(14.0), s("old")]);
    let second = database.commit();
    assert_eq!(outline(&second), changed(&[1]));
    first.compose(&second);
    assert_eq!(outline(&first), changed(&[1, 3]));
    // A row that comes or goes changes all its columns, and so does one that does both.
    database.delete("t", &[s(&id(3))]);
    let third = database.commit();
    database.put("t", &t(3, "old"));
    let fourth = database.commit();
    first.compose(&third);
    first.compose(&fourth);
    assert!(outline(&first).is_some_and(|outline| outline.changed == engine::commit::ColumnSet::ALL));
    // What is not known of one commit is not known of both.
    database.put("t", &t(4, "new"));
    first.compose(&plain(&database.commit()));
    assert_eq!(outline(&first), None);
}
