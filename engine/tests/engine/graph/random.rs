//! Random queries, data and commits.

use std::collections::BTreeMap;

use engine::catalogue::Catalogue;
use zql_spec::ast::{Ast, Condition, Direction, SimpleOperator};
use zql_spec::schema::Schema;
use zql_spec::value::Value;

use super::build::{Build, cmp, exists, from, n, not_exists, or, permission, s, schema};
use super::check::{Checked, Client, graph};
use super::memory::Database;

/// A small generator (xorshift), so that a seed names a run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Foreign keys: (table, column, other table, its column). Each is walked in both directions.
const LINKS: [(&str, &str, &str, &str); 6] = [
    ("issue", "owner", "user", "id"),
    ("comment", "issue", "issue", "id"),
    ("comment", "author", "user", "id"),
    ("tag", "issue", "issue", "id"),
    ("tag", "label", "label", "id"),
    ("issue", "parent", "issue", "id"),
];

fn tables() -> Schema {
    schema(&[
        ("issue", &["*id", "owner", "parent", "kind", "rank"]),
        ("comment", &["*id", "issue", "author", "kind"]),
        ("user", &["*id", "kind"]),
        ("tag", &["*issue", "*label", "rank"]),
        ("label", &["*id", "kind"]),
    ])
}

/// Values are few, so that rows meet; only comments have many ids, so that groups outgrow their witnesses.
fn value(random: &mut Random, table: &str, column: &str) -> Value {
    if !matches!(column, "id" | "label") && random.chance(15) && column != "issue" {
        return Value::Null;
    }
    match column {
        "kind" => s(["x", "y", "z"][random.below(3)]),
        "rank" => n(random.below(5) as f64),
        "id" if table == "comment" => n(random.below(24) as f64),
        _ => n(random.below(5) as f64),
    }
}

fn row(random: &mut Random, schema: &Schema, table: &str) -> Vec<Value> {
    let definition = schema.table(table).expect("a table");
    definition.columns.iter().map(|column| value(random, table, &column.name)).collect()
}

fn links(table: &str) -> Vec<(&'static str, &'static str, &'static str)> {
    let there = LINKS.iter().filter(|link| link.0 == table).map(|&(_, column, other, key)| (column, other, key));
    let back = LINKS.iter().filter(|link| link.2 == table).map(|&(other, column, _, key)| (key, other, column));
    there.chain(back).collect()
}

fn condition(random: &mut Random, schema: &Schema, table: &str, depth: usize) -> Condition {
    match random.below(if depth == 0 { 2 } else { 7 }) {
        0 | 1 => {
            let columns = &schema.table(table).expect("a table").columns;
            let column = random.pick(columns).name.to_string();
            let op = *random.pick(&[
                SimpleOperator::Eq,
                SimpleOperator::Ne,
                SimpleOperator::Lt,
                SimpleOperator::Ge,
                SimpleOperator::Is,
                SimpleOperator::IsNot,
            ]);
            let value = value(random, table, &column);
            cmp(&column, op, value)
        }
        2 => Condition::And(conditions(random, schema, table, depth - 1)),
        3 => or(conditions(random, schema, table, depth - 1)),
        kind => {
            let links = links(table);
            let &(parent, other, child) = random.pick(&links);
            let ast = query(random, schema, other, depth - 1, false);
            let condition = if kind == 4 { not_exists(parent, child, ast) } else { exists(parent, child, ast) };
            if random.chance(15) { permission(condition) } else { condition }
        }
    }
}

fn conditions(random: &mut Random, schema: &Schema, table: &str, depth: usize) -> Vec<Condition> {
    (0..1 + random.below(3)).map(|_| condition(random, schema, table, depth)).collect()
}

fn query(random: &mut Random, schema: &Schema, table: &str, depth: usize, related: bool) -> Ast {
    let mut ast = from(table);
    if depth > 0 && random.chance(70) {
        ast = ast.filter(condition(random, schema, table, depth));
    }
    if !related {
        return ast;
    }
    if random.chance(50) {
        let column = random.pick(&schema.table(table).expect("a table").columns).name.to_string();
        ast = ast.order(&column, if random.chance(50) { Direction::Asc } else { Direction::Desc });
        if random.chance(20) {
            let at = value(random, table, &column);
            ast = ast.start(&[(&column, at)], random.chance(50));
        }
    }
    if random.chance(50) {
        ast = ast.first(random.below(5));
    }
    let links = links(table);
    for alias in ["a", "b"] {
        if depth > 0 && random.chance(40) {
            let &(parent, other, child) = random.pick(&links);
            ast = ast.related(alias, parent, child, query(random, schema, other, depth - 1, true));
        }
    }
    ast
}

fn write(random: &mut Random, database: &mut Database) {
    let schema = database.schema.clone();
    let names = ["issue", "issue", "comment", "comment", "comment", "tag", "tag", "user", "label"];
    let table = *random.pick(&names);
    let definition = schema.table(table).expect("a table");
    let keys: Vec<_> = database.tables[table].keys().cloned().collect();
    if keys.is_empty() || random.chance(35) {
        let row = row(random, &schema, table);
        return database.put(table, &row);
    }
    let key = random.pick(&keys).clone();
    if random.chance(40) {
        return database.delete(table, &key);
    }
    let mut values = database.tables[table][&key].values.to_vec();
    let column = random.below(values.len());
    values[column] = value(random, table, &definition.columns[column].name);
    database.update(table, &key, &values);
}

fn database(random: &mut Random) -> Database {
    let mut database = Database::new(tables());
    for _ in 0..random.below(100) {
        write(random, &mut database);
    }
    database.commit();
    database
}

fn root(random: &mut Random, database: &Database) -> Ast {
    let table = *random.pick(&["issue", "issue", "comment", "user", "tag"]);
    query(random, &database.schema, table, 3, true)
}

fn run(seed: u64, commits: usize) {
    let random = &mut Random::new(seed);
    let mut database = database(random);
    let ast = root(random, &database);
    println!("seed {seed}: {ast:?}");
    let mut checked = Checked::new(&ast, &mut database);
    let mut waiting = None;
    for step in 0..commits {
        for _ in 0..1 + random.below(5) {
            write(random, &mut database);
        }
        println!("step {step}");
        let commit = database.commit();
        let mut commit = match waiting.take() {
            None => commit,
            Some(mut composed) => {
                engine::commit::Commit::compose(&mut composed, &commit);
                composed
            }
        };
        // Now and then a reader falls behind, or a table is rewritten.
        match random.below(20) {
            0 => waiting = Some(commit),
            1 => {
                let table = commit.tables.keys().next().cloned();
                if let Some(table) = table {
                    commit.tables.remove(&table);
                    commit.rewritten.insert(table);
                }
                checked.commit(&commit, &mut database);
            }
            _ => drop(checked.commit(&commit, &mut database)),
        }
    }
}

/// Many queries in one catalogue: routing must leave out nothing that matters.
fn run_catalogue(seed: u64, graphs: usize, commits: usize) {
    let random = &mut Random::new(seed);
    let mut database = database(random);
    let mut catalogue = Catalogue::default();
    let mut clients = BTreeMap::new();
    println!("seed {seed}");
    for step in 0..commits {
        println!("step {step}");
        while clients.len() < graphs {
            let ast = root(random, &database);
            let graph = graph(&ast, &database);
            let client = Client::new(&graph, &mut database);
            let id = catalogue.insert(graph);
            println!("{id:?}: {ast:?}");
            clients.insert(id, client);
        }
        for _ in 0..1 + random.below(3) {
            write(random, &mut database);
        }
        let commit = database.commit();
        let advanced = match random.below(2) {
            0 => catalogue.commit(&commit, &mut database),
            _ => {
                let others = database.clone();
                catalogue.commit_parallel(&commit, &mut database, &mut |wanted| vec![others.clone(); wanted.min(2)])
            }
        };
        for (id, outcome) in advanced {
            let delta = outcome.unwrap_or_else(|_| {
                let hydration = database.hydrate(catalogue.get(id).expect("a running graph").query());
                catalogue.rehydrated(id, &hydration, None).expect("nothing to read")
            });
            assert!(!delta.changes.is_empty());
            clients.get_mut(&id).expect("a client").apply(&delta);
        }
        for (id, client) in &mut clients {
            client.check(catalogue.get(*id).expect("a running graph"), &mut database);
        }
        let ids: Vec<_> = clients.keys().copied().collect();
        let gone = *random.pick(&ids);
        catalogue.remove(gone);
        clients.remove(&gone);
    }
    clients.keys().for_each(|id| drop(catalogue.remove(*id)));
    assert_eq!(catalogue.route_count(), 0, "routes that lead nowhere");
}

fn seeds(variable: &str, default: u64) -> std::ops::Range<u64> {
    let read = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let from = read("GRAPH_SEED").unwrap_or(0);
    from..from + read(variable).unwrap_or(default)
}

#[test]
fn routed_queries_stay_true() {
    for seed in seeds("CATALOGUE_SEEDS", 20) {
        run_catalogue(seed, 25, 25);
    }
}

#[test]
fn random_queries_stay_true() {
    // A longer run: GRAPH_SEEDS=20000 cargo test -p engine --release random_queries
    for seed in seeds("GRAPH_SEEDS", 300) {
        run(seed, 25);
    }
}
