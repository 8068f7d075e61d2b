//! What all clients of the chaos run share: the queries and operations they choose from, who belongs together, and counts.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use protocol_client::{Hello, Identity, hash_of};
use serde_json::{Value, json};
use testdata::world::{ISSUES, QueryGenerator, Rng};
use tokio::sync::watch;
use zql_spec::ast::Ast;
use zql_spec::json::Json;
use zql_spec::naive::{Database, Evaluation};
use zql_spec::protocol::upstream::DesiredOp;

/// What happened to clients.
#[derive(Debug)]
pub(super) struct Tally {
    /// Mutations that came back.
    pub(super) confirmed: watch::Sender<u64>,
    /// Connections that a client dropped.
    pub(super) dropped: AtomicUsize,
    /// Connections that ended without a word.
    pub(super) closed: AtomicUsize,
    /// Clients that were told to connect again.
    pub(super) rehomed: AtomicUsize,
    /// Pushes that the application's server could not do.
    pub(super) parked: AtomicUsize,
    /// Clients that were told that the server does not know them.
    pub(super) anew: AtomicUsize,
}

impl Tally {
    pub(super) fn count(&self, counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) struct Town {
    server: String,
    pub(super) schema: String,
    queries: Vec<(String, DesiredOp)>,
    asts: BTreeMap<String, Ast>,
    common: Vec<BTreeMap<String, DesiredOp>>,
    /// The client group of each team: another one after its record was lost.
    groups: Mutex<Vec<String>>,
    pub(super) tally: Tally,
    /// Where each client stands, for people.
    notes: Mutex<Vec<String>>,
}

impl Town {
    /// `rows` are those of the tracker.
    pub(super) fn new(
        server: String,
        schema: String,
        rows: &Database,
        [queries, teams, clients]: [usize; 3],
        mut rng: Rng,
    ) -> Town {
        let mut town = Town {
            server,
            schema,
            queries: Vec::new(),
            asts: BTreeMap::new(),
            common: Vec::new(),
            groups: Mutex::new((0..teams).map(|_| Identity::fresh("").client_group_id).collect()),
            tally: Tally {
                confirmed: watch::channel(0).0,
                dropped: AtomicUsize::default(),
                closed: AtomicUsize::default(),
                rehomed: AtomicUsize::default(),
                parked: AtomicUsize::default(),
                anew: AtomicUsize::default(),
            },
            notes: Mutex::new(vec![String::new(); clients]),
        };
        let mut generator = QueryGenerator::new(&ISSUES, rows, rng.fork());
        while town.queries.len() < queries {
            let ast = generator.query();
            if Evaluation::new(rows, &ast).is_ok() {
                let query = town.wanted(&ast.to_json().to_string());
                town.queries.push(query);
            }
        }
        for team in 0..teams {
            let of_team = |table: &str, column: &str| {
                json!({ "table": table, "where": { "type": "simple", "op": "=",
                    "left": { "type": "column", "name": column }, "right": { "type": "literal", "value": team } } })
            };
            let asts = [json!({ "table": "tick" }), of_team("written", "team"), of_team("counter", "id")];
            let common = asts.iter().map(|ast| town.wanted(&ast.to_string())).collect();
            town.common.push(common);
        }
        town
    }

    /// The request for a query that is gone as soon as nobody wants it.
    fn wanted(&mut self, text: &str) -> (String, DesiredOp) {
        let mut query = Hello::echoed(text);
        if let DesiredOp::Put(put) = &mut query {
            put.ttl = Some(0.0);
        }
        let hash = hash_of(&query).expect("a hash").to_owned();
        let ast = Ast::parse_lenient(&Json::parse(text).expect("JSON")).expect("a query");
        self.asts.insert(hash.clone(), ast);
        (hash, query)
    }

    /// What a hash stands for.
    pub(super) fn ast(&self, hash: &str) -> &Ast {
        &self.asts[hash]
    }

    /// What everybody of a team wants.
    pub(super) fn common(&self, team: usize) -> BTreeMap<String, DesiredOp> {
        self.common[team].clone()
    }

    /// Some query.
    pub(super) fn query(&self, rng: &mut Rng) -> (String, DesiredOp) {
        rng.pick(&self.queries).clone()
    }

    /// A new client of a team. When the server does not know `lost`, the team's group is another one from now on.
    pub(super) fn identity(&self, team: usize, lost: Option<&Identity>) -> Identity {
        let mut groups = self.groups.lock().expect("not poisoned");
        let fresh = Identity::fresh(self.server.clone());
        if lost.is_some_and(|lost| lost.client_group_id == groups[team]) {
            groups[team] = fresh.client_group_id.clone();
        }
        Identity { client_group_id: groups[team].clone(), ..fresh }
    }

    /// An operation of a mutation that makes rows, changes them or removes them; it can always be carried out.
    pub(super) fn operation(&self, rng: &mut Rng, client: &str, id: u64) -> Value {
        let op = |kind: &str, table: &str, key: &[&str], value: Value| json!({ "op": kind, "tableName": table, "primaryKey": key, "value": value });
        let issue = format!("i{}", rng.below(60));
        match rng.below(10) {
            0..=4 => {
                let title = *rng.pick(&["open", "fix", "100%", "ÖFFNEN"]);
                let value = json!({ "id": issue, "title": title, "open": rng.percent(50), "priority": rng.below(4) });
                op("update", "issue", &["id"], value)
            }
            5..=6 => {
                let value = json!({ "id": format!("{client}-{id}"), "issue": issue, "author": format!("u{}", rng.below(14)),
                    "text": "fix", "likes": rng.below(3) });
                op("insert", "comment", &["id"], value)
            }
            7 => op("delete", "comment", &["id"], json!({ "id": format!("c{}", rng.below(90)) })),
            kind => {
                let mut value = json!({ "issue": issue, "label": format!("l{}", rng.below(7)) });
                if kind == 8 {
                    value["pinned"] = json!(rng.percent(50));
                    op("insert", "issue_label", &["issue", "label"], value)
                } else {
                    op("delete", "issue_label", &["issue", "label"], value)
                }
            }
        }
    }

    pub(super) fn note(&self, client: usize, note: impl FnOnce() -> String) {
        self.notes.lock().expect("not poisoned")[client] = note();
    }

    pub(super) fn notes(&self, clients: &[usize]) -> String {
        let notes = self.notes.lock().expect("not poisoned");
        clients.iter().map(|&client| notes[client].clone()).collect::<Vec<_>>().join("\n")
    }
}
