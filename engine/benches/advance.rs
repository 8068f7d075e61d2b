//! What a commit costs the graphs, by how many are registered.
//!
//! Registers pages of issues (`issue where id = ?` with comments, their authors, the owner and a read permission),
//! each a query of its own, beside one feed; then times `Catalogue::commit` for small commits, and prints medians
//! per number of registered queries. Flat is the aim: a commit should cost what it touches.
//!
//! `cargo bench -p engine --bench advance [-- max-queries]`

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::catalogue::Catalogue;
use engine::commit::{Commit, Key};
use engine::graph::read::{Apply, Lookup};
use engine::graph::{Graph, Read, ReplicaRead};
use engine::hydration::Hydration;
use engine::query::{Query, Role, WITNESS_CAP};
use engine::replica::{ColumnSpec, IndexSpec, Origin, Replica, TableSpec, Writer};
use rusqlite::types::Value as Lite;
use zql_spec::ast::{
    Ast, Condition, CorrelatedSubquery, Correlation, Direction, Literal, SimpleOperator, System, ValuePosition,
};
use zql_spec::value::Value;

const ISSUES: i64 = 100_000;
const COMMENTS_PER_ISSUE: i64 = 3;
const USERS: i64 = 1_000;
const PROJECTS: i64 = 100;
const ROUNDS: i64 = 300;

type Error = Box<dyn std::error::Error>;

const TABLES: [(&str, &[&str]); 4] = [
    ("project", &["id", "visibility"]),
    ("user", &["id", "name"]),
    ("issue", &["id", "owner", "project", "modified", "title"]),
    ("comment", &["id", "issue", "author", "text"]),
];

fn index(table: &str, columns: &[&str], unique: bool) -> IndexSpec {
    let name = format!("{table}_{}", columns.join("_"));
    let columns = columns.iter().map(|&column| (column.to_owned(), Direction::Asc)).collect();
    IndexSpec { name, table: table.to_owned(), unique, columns }
}

fn text(kind: &str, id: i64) -> Lite {
    Lite::Text(format!("{kind} {id}"))
}

fn load(path: &Path) -> Result<Arc<Replica>, Error> {
    let origin = Origin { replica_version: "01".to_owned(), publications: Vec::new(), context: "{}".to_owned() };
    let mut load = Replica::create(path, &origin)?;
    for (name, columns) in TABLES {
        let spec = |column: &&str| {
            let text = matches!(*column, "name" | "title" | "text" | "visibility");
            let key = if *column == "id" { "|NOT_NULL" } else { "" };
            ColumnSpec::from_declared(column, &format!("{}{key}", if text { "text" } else { "int8" }))
        };
        let table =
            TableSpec { name: name.to_owned(), columns: columns.iter().map(spec).collect(), ..TableSpec::default() };
        let table = load.create_table(&table)?;
        let rows = match name {
            "project" => PROJECTS,
            "user" => USERS,
            "issue" => ISSUES,
            _ => ISSUES * COMMENTS_PER_ISSUE,
        };
        for from in (0..rows).step_by(50) {
            let row = |id| match name {
                "project" => vec![Lite::Integer(id), Lite::Text("public".to_owned())],
                "user" => vec![Lite::Integer(id), text("user", id)],
                "issue" => issue(id, 0),
                _ => vec![
                    Lite::Integer(id),
                    Lite::Integer(id / COMMENTS_PER_ISSUE),
                    Lite::Integer(id % USERS),
                    text("comment", id),
                ],
            };
            load.append(table, &mut (from..rows.min(from + 50)).flat_map(row).collect())?;
        }
        load.create_index(&index(name, &["id"], true))?;
    }
    load.create_index(&index("issue", &["owner"], false))?;
    load.create_index(&index("issue", &["project"], false))?;
    load.create_index(&index("issue", &["modified", "id"], false))?;
    load.create_index(&index("comment", &["issue"], false))?;
    load.create_index(&index("comment", &["author"], false))?;
    Ok(load.finish()?)
}

fn issue(id: i64, edit: i64) -> Vec<Lite> {
    vec![
        Lite::Integer(id),
        Lite::Integer(id % USERS),
        Lite::Integer(id % PROJECTS),
        Lite::Integer(id),
        text("issue", id * 1_000 + edit),
    ]
}

fn from(table: &str) -> Ast {
    Ast { table: Arc::from(table), alias: Some(Arc::from(table)), ..Ast::default() }
}

fn subquery(parent: &str, child: &str, ast: Ast, system: System) -> CorrelatedSubquery {
    let correlation = Correlation { parent_field: vec![Arc::from(parent)], child_field: vec![Arc::from(child)] };
    CorrelatedSubquery { correlation, subquery: Box::new(ast), hidden: false, system }
}

fn eq(column: &str, value: Value) -> Condition {
    let (left, right) = (ValuePosition::Column(Arc::from(column)), ValuePosition::Literal(Literal::Value(value)));
    Condition::Simple { op: SimpleOperator::Eq, left, right }
}

fn permission() -> Condition {
    let mut project = from("project");
    project.r#where = Some(eq("visibility", Value::string("public")));
    let related = subquery("project", "id", project, System::Permissions);
    Condition::Exists { related, negated: false, flip: None, scalar: None }
}

/// The page of an issue.
fn page(id: i64) -> Ast {
    let mut comments = from("comment");
    comments.related.push(subquery("author", "id", from("user"), System::Client));
    let mut issue = from("issue");
    issue.r#where = Some(Condition::And(vec![eq("id", Value::Number(id as f64)), permission()]));
    issue.related.push(subquery("id", "issue", comments, System::Client));
    issue.related.push(subquery("owner", "id", from("user"), System::Client));
    issue
}

/// The latest issues with their owners.
fn feed() -> Ast {
    let mut issue = from("issue");
    issue.r#where = Some(permission());
    issue.order_by.push((Arc::from("modified"), Direction::Desc));
    issue.limit = Some(50.0);
    issue.related.push(subquery("owner", "id", from("user"), System::Client));
    issue
}

/// Issues of a project that someone commented on.
fn commented(project: i64) -> Ast {
    let related = subquery("id", "issue", from("comment"), System::Client);
    let exists = Condition::Exists { related, negated: false, flip: None, scalar: None };
    let mut issue = from("issue");
    issue.r#where = Some(Condition::And(vec![eq("project", Value::Number(project as f64)), exists]));
    issue.order_by.push((Arc::from("modified"), Direction::Desc));
    issue.limit = Some(20.0);
    issue
}

/// A first answer by the reads that maintenance uses.
fn hydrate(query: &Query, read: &mut dyn Read, version: Arc<str>) -> Result<Hydration, Error> {
    let mut nodes: Vec<Vec<_>> = Vec::new();
    for (id, node) in query.nodes.iter().enumerate() {
        let mut keys: Vec<Key> = match &node.edge {
            None => vec![Key::new()],
            Some(edge) => nodes[edge.parent]
                .iter()
                .map(|row: &Arc<engine::commit::StoredRow>| row.key(&edge.parent_columns))
                .collect(),
        };
        keys.sort();
        keys.dedup();
        keys.retain(|_| node.synced);
        let lookup = Lookup {
            ordered: true,
            limit: if node.role == Role::Exists { Some(WITNESS_CAP) } else { node.limit },
            ..Lookup::new(query, id, node.edge.as_ref().map_or(&[][..], |edge| &edge.child_columns), Apply::Complete)
        };
        let mut rows = Vec::new();
        read.lookup(&lookup, &keys, &mut |_, row| rows.push(row))?;
        nodes.push(rows);
    }
    Ok(Hydration { version, nodes })
}

struct World {
    replica: Arc<Replica>,
    writer: Writer,
    version: i64,
    catalogue: Catalogue,
}

impl World {
    fn register(&mut self, asts: impl Iterator<Item = Ast>) -> Result<(), Error> {
        let snapshot = self.replica.pin()?;
        let mut read = ReplicaRead::new(snapshot.reader()?);
        for ast in asts {
            let query = Arc::new(Query::resolve(&ast, &snapshot.schema)?);
            let hydration = hydrate(&query, &mut read, Arc::clone(&snapshot.version))?;
            self.catalogue.insert(Graph::new(query, &hydration));
        }
        Ok(())
    }

    fn write(&mut self, table: &str, row: &[Lite], update: bool) -> Result<Commit, Error> {
        self.version += 1;
        let mut tx = self.writer.begin(&format!("1{:04}", self.version))?;
        let columns = TABLES.iter().find(|(name, _)| *name == table).map_or(&[][..], |(_, columns)| *columns);
        let relation = tx.relation(table, columns, &["id"])?;
        match update {
            true => {
                let new: Vec<Option<Lite>> = row.iter().cloned().map(Some).collect();
                tx.update(&relation, None, &new)?;
            }
            false => tx.insert(&relation, row)?,
        }
        Ok(tx.commit()?)
    }

    /// Medians over commits of one kind: time and graphs that changed.
    fn time(&mut self, kind: &str, commit: &dyn Fn(&mut World, i64) -> Result<Commit, Error>) -> Result<(), Error> {
        let mut times = Vec::new();
        let mut changed = 0;
        for round in 0..ROUNDS {
            let commit = commit(self, round)?;
            let snapshot = self.replica.pin()?;
            let mut read = ReplicaRead::new(snapshot.reader()?);
            let start = Instant::now();
            let advanced = self.catalogue.commit(&commit, &mut read);
            times.push(start.elapsed());
            for (_, outcome) in &advanced {
                if let Err(error) = outcome {
                    return Err(error.to_string().into());
                }
            }
            changed += advanced.len();
        }
        times.sort_unstable();
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        println!(
            "{:>8} {kind:<28} {:>9.1} µs median {:>9.1} µs p95 {:>7.2} graphs changed",
            self.catalogue.len(),
            micros(times[times.len() / 2]),
            micros(times[times.len() * 95 / 100]),
            changed as f64 / ROUNDS as f64,
        );
        Ok(())
    }
}

fn main() -> Result<(), Error> {
    let most = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(ISSUES);
    let folder = tempfile::tempdir()?;
    let replica = load(&folder.path().join("replica.db"))?;
    let writer = replica.writer()?;
    let mut world = World { replica, writer, version: 0, catalogue: Catalogue::default() };
    world.register(std::iter::once(feed()))?;
    let mut registered = 0;
    let mut next = ISSUES * COMMENTS_PER_ISSUE;
    for target in [1, 100, 10_000, 100_000].into_iter().filter(|target| *target <= most) {
        let start = Instant::now();
        world.register((registered..target).map(page))?;
        registered = target;
        let state: usize = (0..world.catalogue.len() as u64)
            .filter_map(|id| world.catalogue.get(engine::catalogue::GraphId(id)))
            .map(Graph::state_bytes)
            .sum();
        println!(
            "{target} pages registered in {:.1} s, {} bytes of state each, {} MB in all",
            start.elapsed().as_secs_f64(),
            state / world.catalogue.len(),
            resident_mb(),
        );
        let first = next;
        next += 2 * ROUNDS;
        let on = |round: i64| (round * 7919) % target;
        world.time("insert a comment", &|world, round| {
            let row = [Lite::Integer(first + round), Lite::Integer(on(round)), Lite::Integer(7), text("new", round)];
            world.write("comment", &row, false)
        })?;
        world.time("edit a comment", &|world, round| {
            let row = [Lite::Integer(first + round), Lite::Integer(on(round)), Lite::Integer(7), text("edit", round)];
            world.write("comment", &row, true)
        })?;
        world.time("edit an issue", &|world, round| world.write("issue", &issue(on(round), round), true))?;
        world.time("comment on no open page", &|world, round| {
            let id = Lite::Integer(first + ROUNDS + round);
            world.write("comment", &[id, Lite::Null, Lite::Integer(7), text("new", round)], false)
        })?;
        world.time("rename a project", &|world, round| {
            world.write("project", &[Lite::Integer(round % PROJECTS), Lite::Text("public".to_owned())], true)
        })?;
    }
    world.register((0..PROJECTS).map(commented))?;
    let first = next;
    world.time("comment, 100 EXISTS by project", &|world, round| {
        let row = [Lite::Integer(first + round), Lite::Integer(round), Lite::Integer(7), text("new", round)];
        world.write("comment", &row, false)
    })?;
    Ok(())
}

/// Memory of the process, where the system tells.
fn resident_mb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(0) / 1024
}
