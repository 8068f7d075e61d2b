//! Groups with a life of their own: at every moment, what each client holds is what its group's queries say.
//!
//! The model is a world of rows and queries, clients that come and go with their cookies, a store that keeps what flushes
//! write, and a server that forgets everything now and then. All choices follow from a seed.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::patch::lacks;

const QUERIES: [&str; 3] = ["a", "b", "c"];
const ROWS: usize = 6;
const CLIENTS: usize = 3;

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[derive(Default)]
struct Client {
    connected: bool,
    base: Option<CvrVersion>,
    rows: BTreeMap<String, String>,
    got: BTreeSet<String>,
}

/// A stored row: its own version, when it was last told, whether it is there.
type StoredRow = (String, CvrVersion, bool);

struct World {
    random: Random,
    state: u64,
    /// Versions of the rows.
    versions: Vec<String>,
    /// By query and row: how many nodes hold it.
    counts: BTreeMap<(&'static str, usize), u32>,
    cvr: Cvr,
    rows: Rows,
    running: BTreeSet<&'static str>,
    store: BTreeMap<String, StoredRow>,
    stored_got: BTreeMap<String, (CvrVersion, bool)>,
    clients: Vec<Client>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut cvr = Cvr::new("g");
        let mut setup = ConfigUpdate::new(&cvr);
        setup.ensure_client("c", "zero_0");
        let times = FlushTimes { last_connect_time: 0.0, last_active: 0.0, ttl_clock: 0.0 };
        cvr = setup.finish(times).1.unwrap().cvr.clone();
        let mut world = World {
            random: Random(seed),
            state: 36,
            versions: vec![String::new(); ROWS],
            counts: BTreeMap::new(),
            cvr,
            rows: Rows::default(),
            running: BTreeSet::new(),
            store: BTreeMap::new(),
            stored_got: BTreeMap::new(),
            clients: Vec::new(),
        };
        world.clients.resize_with(CLIENTS, Client::default);
        for row in 0..ROWS {
            world.versions[row] = world.state_text();
            for query in QUERIES {
                let count = world.random.below(3) as u32;
                world.counts.insert((query, row), count);
            }
        }
        world
    }

    fn state_text(&self) -> String {
        StateVersion::from_lsn(self.state).as_str().to_owned()
    }

    fn count(&self, query: &'static str, row: usize) -> u32 {
        self.counts[&(query, row)]
    }

    /// Something is committed upstream; the rows before it, by query.
    fn commit(&mut self) -> BTreeMap<(&'static str, usize), (u32, bool)> {
        self.state += 1;
        let mut before = BTreeMap::new();
        for row in 0..ROWS {
            let edited = self.random.below(3) == 0;
            for query in QUERIES {
                let count = self.count(query, row);
                if self.random.below(4) == 0 {
                    let now = self.random.below(3) as u32;
                    self.counts.insert((query, row), now);
                }
                before.insert((query, row), (count, edited));
            }
            if edited {
                self.versions[row] = self.state_text();
            }
        }
        before
    }

    fn begin(&self) -> QueryUpdate<String> {
        QueryUpdate::new(&self.cvr, StateVersion::from_lsn(self.state), &REPLICA.into()).unwrap()
    }

    fn receive(&mut self, update: &mut QueryUpdate<String>, query: &'static str, at: usize, with_contents: bool) {
        let version = self.versions[at].clone();
        let contents = with_contents.then(|| Contents { row_version: version.as_str().into(), value: version });
        let count = self.count(query, at);
        update.receive(&mut self.rows, &query.into(), row(&at.to_string()), count, contents);
    }

    /// Ends an update: the store takes it, connected clients are poked. `row_patches` came before.
    fn end(
        &mut self,
        mut update: QueryUpdate<String>,
        queries: Vec<QueryPatch>,
        mut row_patches: Vec<RowPatch<String>>,
    ) {
        update.drop_unreferenced(&mut self.rows);
        row_patches.extend(update.patches().unwrap());
        let times = FlushTimes { last_connect_time: 0.0, last_active: 0.0, ttl_clock: 0.0 };
        if let Some(flush) = update.finish(times).unwrap() {
            assert!(flush.cvr.version > self.cvr.version);
            self.cvr = flush.cvr.clone();
            self.rows.apply(&flush);
            for write in &flush.rows {
                let stored = (
                    write.row_version.to_string(),
                    CvrVersion::clone(&write.patch_version),
                    write.ref_counts.is_some(),
                );
                self.store.insert(write.row.to_json(), stored);
            }
            for write in flush.queries.iter().filter(|write| !write.query.body.is_internal()) {
                if let Some(version) = &write.query.patch_version {
                    self.stored_got.insert(write.id.to_string(), (CvrVersion::clone(version), !write.deleted));
                }
            }
        }
        for client in self.clients.iter_mut().filter(|client| client.connected) {
            for patch in queries.iter().filter(|patch| lacks(client.base.as_ref(), &patch.to_version)) {
                apply_got(&mut client.got, &patch.query, patch.put);
            }
            for patch in row_patches.iter().filter(|patch| lacks(client.base.as_ref(), &patch.to_version)) {
                apply_row(&mut client.rows, &patch.row.to_json(), patch.put.as_deref());
            }
            client.base = Some(self.cvr.version.clone());
        }
    }

    fn execute(&mut self, executed: &[&'static str], removed: &[&'static str]) {
        let mut update = self.begin();
        let ids: Vec<Executed> = executed.iter().map(|id| ran(id, "h", Counts::Own)).collect();
        let removed_ids: Vec<QueryId> = removed.iter().map(|id| (*id).into()).collect();
        let queries = update.track(&ids, &removed_ids).unwrap();
        let mut patches = Vec::new();
        for query in executed {
            for row in 0..ROWS {
                if self.count(query, row) > 0 {
                    self.receive(&mut update, query, row, true);
                }
                if self.random.below(3) == 0 {
                    patches.extend(update.patches().unwrap());
                }
            }
        }
        self.running.extend(executed);
        self.running.retain(|query| !removed.contains(query));
        self.end(update, queries, patches);
    }

    fn step(&mut self) {
        match self.random.below(10) {
            // A commit reaches the group.
            0..=3 => {
                let before = self.commit();
                let mut update = self.begin();
                for ((query, row), (count, edited)) in before {
                    let now = self.count(query, row);
                    let changed = now != count || (edited && now > 0);
                    if self.running.contains(query) && changed {
                        let with_contents = now > 0 && (count == 0 || edited);
                        self.receive(&mut update, query, row, with_contents);
                    }
                }
                let patches = update.patches().unwrap();
                self.end(update, Vec::new(), patches);
            }
            // A query is put and run, perhaps again.
            4 | 5 => {
                let query = QUERIES[self.random.below(QUERIES.len())];
                let mut update = ConfigUpdate::new(&self.cvr);
                update.put_desired("c", &[put_query(query)]).unwrap();
                let times = FlushTimes { last_connect_time: 0.0, last_active: 0.0, ttl_clock: 0.0 };
                if let Some(flush) = update.finish(times).1 {
                    for client in &mut self.clients {
                        if client.connected {
                            client.base = Some(flush.cvr.version.clone());
                        }
                    }
                    self.cvr = flush.cvr.clone();
                }
                self.execute(&[query], &[]);
            }
            // A query is removed.
            6 => {
                let query = QUERIES[self.random.below(QUERIES.len())];
                if self.running.contains(query) {
                    self.execute(&[], &[query]);
                }
            }
            // A client goes, or comes back with the cookie it has, or with nothing.
            7 | 8 => {
                let index = self.random.below(CLIENTS);
                let fresh = self.random.below(3) == 0;
                let client = &mut self.clients[index];
                client.connected = !client.connected;
                if client.connected {
                    if fresh {
                        *client = Client { connected: true, ..Client::default() };
                    }
                    self.catch_up(index);
                }
            }
            // The server starts again: it has the store's record, and all queries run anew, perhaps later.
            _ => {
                for _ in 0..self.random.below(3) {
                    self.commit();
                }
                let running: Vec<_> = self.running.iter().copied().collect();
                self.execute(&running, &[]);
            }
        }
    }

    /// As the store does it, or from memory.
    fn catch_up(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if client.base.is_none() && self.random.below(2) == 0 {
            let (rows, queries) =
                crate::catch_up::from_nothing(&self.cvr, &self.rows, &self.cvr.version, &Default::default());
            for patch in rows {
                let row = patch.row.to_json();
                let (version, ..) = &self.store[&row];
                client.rows.insert(row, version.clone());
            }
            client
                .got
                .extend(queries.iter().filter(|patch| patch.client.is_none()).map(|patch| patch.query.to_string()));
        } else {
            for (row, (version, at, present)) in &self.store {
                if lacks(client.base.as_ref(), at) {
                    apply_row(&mut client.rows, row, present.then_some(version));
                }
            }
            for (query, (at, present)) in &self.stored_got {
                if lacks(client.base.as_ref(), at) {
                    apply_got(&mut client.got, query, *present);
                }
            }
        }
        client.base = Some(self.cvr.version.clone());
    }

    fn check(&self, what: &str) {
        let key = |at: usize| row(&at.to_string()).to_json();
        let expected: BTreeMap<String, String> = (0..ROWS)
            .filter(|&row| self.running.iter().any(|query| self.count(query, row) > 0))
            .map(|row| (key(row), self.versions[row].clone()))
            .collect();
        let held: BTreeMap<String, String> =
            self.rows.iter().map(|(row, record)| (row.to_json(), record.row_version.to_string())).collect();
        assert_eq!(held, expected, "{what}: the record");
        let got: BTreeSet<String> = self.running.iter().map(|query| (*query).to_owned()).collect();
        for (index, client) in self.clients.iter().enumerate().filter(|(_, client)| client.connected) {
            assert_eq!(client.rows, expected, "{what}: client {index}");
            assert_eq!(client.got, got, "{what}: client {index}");
        }
    }
}

fn apply_row(rows: &mut BTreeMap<String, String>, row: &str, put: Option<&str>) {
    match put {
        Some(version) => rows.insert(row.to_owned(), version.to_owned()),
        None => rows.remove(row),
    };
}

fn apply_got(got: &mut BTreeSet<String>, query: &str, put: bool) {
    if put {
        got.insert(query.to_owned());
    } else {
        got.remove(query);
    }
}

#[test]
fn clients_hold_what_they_should() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        for step in 0..60 {
            world.step();
            world.check(&format!("seed {seed}, step {step}"));
        }
    }
}
