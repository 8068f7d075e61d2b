//! The lower bound of any query: its rows read by hand, node by node, parents first.
//!
//! A person would read a node's rows with one statement for each key that its parents hold, or with one statement for all,
//! keeping those whose key is wanted; and would try how each statement is written best. So does this: every way is timed and
//! the fastest kept. Finding it is not measured, running it is.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use engine::query::{NodeId, Query, Role, WITNESS_CAP};
use engine::replica::{Reader, SqliteValue};
use rusqlite::types::ValueRef;
use rusqlite::{ErrorCode, Row};
use rustc_hash::{FxHashMap, FxHashSet};

use super::statement::{Form, Statement, Wanted, statement};
use crate::hand::Sink;
use crate::written::Format;

/// What takes less is tried again, so many times.
const SHORT: Duration = Duration::from_millis(2);
const AGAIN: usize = 3;

/// A query as it is read by hand.
pub(crate) struct Bound<'a> {
    reader: &'a Reader,
    query: &'a Query,
    formats: Vec<Format>,
    /// By node: whether another node that is told reads the same table.
    shared: Vec<bool>,
    /// By node: how it is read; nothing for nodes that are not told.
    ways: Vec<Option<Way>>,
}

/// How the rows of a node are read.
#[derive(Clone, Debug)]
struct Way {
    statement: Statement,
    /// Most rows of a group, where one statement reads all groups.
    most: Option<usize>,
}

/// Keys that the rows of a node must have.
#[derive(Default)]
struct Keys {
    places: FxHashMap<Box<[u8]>, usize>,
    values: Vec<Vec<SqliteValue>>,
}

/// What a reading leaves behind.
struct Reading {
    sink: Sink,
    keys: Vec<Keys>,
    told: FxHashSet<Box<[u8]>>,
    encoded: Vec<u8>,
    /// Rows by node.
    told_of: Vec<usize>,
    /// Kept when answers are compared.
    essence: Option<Essence>,
}

/// Whether any rows of a node may be told as long as there are as many: it witnesses an EXISTS, or stands below such a node.
pub(crate) fn free(query: &Query, node: NodeId) -> bool {
    let of_node = &query.nodes[node];
    of_node.role == Role::Exists || of_node.edge.as_ref().is_some_and(|edge| free(query, edge.parent))
}

/// What must be alike in two answers: the rows that nobody may choose, and how many there are of each node whose parents
/// nobody may choose.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Essence {
    /// A digest of rows as (node, text), in any order.
    digest: u64,
    rows: Vec<usize>,
}

impl Essence {
    /// Nothing yet.
    pub(crate) fn new(query: &Query) -> Essence {
        Essence { digest: 0, rows: vec![0; query.nodes.len()] }
    }

    /// Takes a row of a node.
    pub(crate) fn row(&mut self, query: &Query, node: NodeId, text: &str) {
        if !query.nodes[node].edge.as_ref().is_some_and(|edge| free(query, edge.parent)) {
            self.rows[node] += 1;
        }
        if !free(query, node) {
            let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
            let row = text.as_bytes().iter().fold(0xCBF2_9CE4_8422_2325 ^ node as u64, hash);
            self.digest = self.digest.wrapping_add(row);
        }
    }
}

impl Reading {
    fn new(query: &Query, sink: Sink) -> Reading {
        Reading {
            sink,
            keys: query.nodes.iter().map(|_| Keys::default()).collect(),
            told: FxHashSet::default(),
            encoded: Vec::new(),
            told_of: vec![0; query.nodes.len()],
            essence: None,
        }
    }
}

impl<'a> Bound<'a> {
    /// Finds the fastest way to read a query; none if each takes some node longer than `limit`.
    pub(crate) fn find(reader: &'a Reader, query: &'a Query, limit: Duration) -> Result<Option<Bound<'a>>> {
        let told = |node: NodeId| query.nodes[node].synced;
        let readers = |node: NodeId| {
            let same = |&other: &NodeId| told(other) && query.nodes[other].table.name == query.nodes[node].table.name;
            (0..query.nodes.len()).filter(same).count()
        };
        let mut bound = Bound {
            reader,
            query,
            formats: query.nodes.iter().map(|node| Format::of(&node.table)).collect(),
            shared: (0..query.nodes.len()).map(|node| readers(node) > 1).collect(),
            ways: vec![None; query.nodes.len()],
        };
        let mut keys: Vec<Keys> = query.nodes.iter().map(|_| Keys::default()).collect();
        for node in (0..query.nodes.len()).filter(|&node| told(node)) {
            let mut best: Option<(Duration, Way, Reading)> = None;
            // Rows and digest as the server's own statement gives them: what differs is not the same answer.
            let mut right: Option<(usize, u64)> = None;
            for way in bound.candidates(node) {
                let limit = best.as_ref().map_or(limit, |(time, ..)| (*time).max(SHORT));
                let Some((mut time, mut reading)) = bound.attempt(node, &way, &keys[node], limit)? else { continue };
                // The first time a statement is prepared, which is long beside a few rows.
                for _ in 0..if time < SHORT { AGAIN } else { 0 } {
                    if let Some((again, same)) = bound.attempt(node, &way, &keys[node], limit)? {
                        (time, reading) = (time.min(again), same);
                    }
                }
                let free = free(query, node);
                let found =
                    if free { (reading.told_of[node], 0) } else { (reading.told_of[node], reading.sink.digest) };
                if *right.get_or_insert(found) == found && best.as_ref().is_none_or(|(least, ..)| time < *least) {
                    best = Some((time, way, reading));
                }
            }
            let Some((_, way, reading)) = best else { return Ok(None) };
            for (node, found) in reading.keys.into_iter().enumerate() {
                if !found.values.is_empty() {
                    keys[node] = found;
                }
            }
            bound.ways[node] = Some(way);
        }
        Ok(Some(bound))
    }

    /// The ways to read a node; the server's own text comes first.
    fn candidates(&self, node: NodeId) -> Vec<Way> {
        let of_node = &self.query.nodes[node];
        let most = match of_node.role {
            Role::Exists => Some(WITNESS_CAP),
            Role::Root | Role::Related => of_node.limit,
        };
        let root = of_node.edge.is_none();
        // Any rows may witness an EXISTS.
        let ordered = of_node.limit.is_some();
        let one_by_one = Wanted { one_group: true, ordered, limit: most };
        let at_once = Wanted { one_group: false, ordered, limit: None };
        let mut ways: Vec<Way> = Vec::new();
        for form in [Form::Server, Form::Exists, Form::In] {
            let mut add = |wanted: Wanted, most: Option<usize>| {
                if let Some(statement) = statement(self.query, node, wanted, form)
                    && ways.iter().all(|way| way.statement.text != statement.text)
                {
                    ways.push(Way { statement, most });
                }
            };
            add(one_by_one, None);
            if !root {
                add(at_once, most);
            }
        }
        ways
    }

    /// Reads a node in one way, unless it takes longer than `limit`.
    fn attempt(&self, node: NodeId, way: &Way, keys: &Keys, limit: Duration) -> Result<Option<(Duration, Reading)>> {
        let mut reading = Reading::new(self.query, Sink::checked());
        let interrupt = self.reader.get_interrupt_handle();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (result, time) = std::thread::scope(|scope| {
            scope.spawn(move || {
                if wait.recv_timeout(limit).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout) {
                    interrupt.interrupt();
                }
            });
            let begin = Instant::now();
            let result = self.read_node(node, way, keys, Some(begin + limit), &mut reading);
            let time = begin.elapsed();
            drop(done);
            (result, time)
        });
        match result {
            Ok(true) => Ok(Some((time, reading))),
            Ok(false) => Ok(None),
            Err(error) => match error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code) {
                Some(ErrorCode::OperationInterrupted) => Ok(None),
                _ => Err(error).with_context(|| way.statement.text.clone()),
            },
        }
    }

    /// What the answer is compared by.
    pub(crate) fn essence(&self) -> Result<Essence> {
        let mut reading = Reading::new(self.query, Sink::default());
        reading.essence = Some(Essence::new(self.query));
        self.read_all(&mut reading)?;
        reading.essence.context("it was kept")
    }

    /// Reads the whole query.
    pub(crate) fn read(&self, sink: &mut Sink) -> Result<()> {
        let mut reading = Reading::new(self.query, std::mem::take(sink));
        self.read_all(&mut reading)?;
        *sink = reading.sink;
        Ok(())
    }

    fn read_all(&self, reading: &mut Reading) -> Result<()> {
        for (node, way) in self.ways.iter().enumerate() {
            if let Some(way) = way {
                let keys = std::mem::take(&mut reading.keys[node]);
                self.read_node(node, way, &keys, None, reading)?;
            }
        }
        Ok(())
    }

    /// How the query is read, for people.
    pub(crate) fn describe(&self) -> String {
        let texts = self.ways.iter().flatten().map(|way| way.statement.text.as_str());
        texts.collect::<Vec<_>>().join("\n")
    }

    /// Reads a node's rows; whether it was done by `deadline`.
    fn read_node(
        &self,
        node: NodeId,
        way: &Way,
        keys: &Keys,
        deadline: Option<Instant>,
        reading: &mut Reading,
    ) -> Result<bool> {
        let Statement { text, lookup, binds } = &way.statement;
        let mut statement = self.reader.prepare_cached(text)?;
        for (position, value) in binds.iter().enumerate() {
            statement.raw_bind_parameter(lookup + position + 1, value)?;
        }
        let edge = self.query.nodes[node].edge.as_ref();
        if let (Some(edge), true) = (edge, *lookup == 0) {
            let taken = RefCell::new(vec![0usize; keys.values.len()]);
            let mut encoded = Vec::new();
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next()? {
                if !encode(row, &edge.child_columns, &mut encoded)? {
                    continue;
                }
                let Some(&place) = keys.places.get(&encoded[..]) else { continue };
                let mut taken = taken.borrow_mut();
                if way.most.is_some_and(|most| taken[place] >= most) {
                    continue;
                }
                taken[place] += 1;
                self.take(node, row, reading)?;
            }
            return Ok(true);
        }
        let once = [Vec::new()];
        let groups = if edge.is_some() { &keys.values[..] } else { &once[..] };
        for key in groups {
            for (position, value) in key.iter().enumerate() {
                statement.raw_bind_parameter(position + 1, value)?;
            }
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next()? {
                self.take(node, row, reading)?;
            }
            drop(rows);
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells a row, if it is the first time, and keeps its keys for the nodes below.
    fn take(&self, node: NodeId, row: &Row<'_>, reading: &mut Reading) -> Result<()> {
        let of_node = &self.query.nodes[node];
        let Reading { sink, keys, told, encoded, told_of, essence } = reading;
        told_of[node] += 1;
        if let Some(essence) = essence {
            let mut text = String::new();
            self.formats[node].write(row, &mut text)?;
            essence.row(self.query, node, &text);
        }
        let first = !self.shared[node] || {
            encode(row, &of_node.table.primary_key, encoded)?;
            encoded.extend_from_slice(of_node.table.name.as_bytes());
            !told.contains(&encoded[..]) && told.insert(encoded[..].into())
        };
        if first {
            let mut written = Ok(());
            sink.row(|out| written = self.formats[node].write(row, out));
            written?;
        }
        for &child in &of_node.children {
            let below = &self.query.nodes[child];
            let Some(edge) = below.edge.as_ref().filter(|_| below.synced) else { continue };
            let same = |(&parent, &of): (&usize, &usize)| {
                of_node.table.columns[parent].value_type == below.table.columns[of].value_type
            };
            if !edge.parent_columns.iter().zip(&edge.child_columns).all(same)
                || !encode(row, &edge.parent_columns, encoded)?
                || keys[child].places.contains_key(&encoded[..])
            {
                continue;
            }
            let place = keys[child].values.len();
            keys[child].places.insert(encoded[..].into(), place);
            let value = |&column: &usize| Ok(row.get::<_, SqliteValue>(column)?);
            keys[child].values.push(edge.parent_columns.iter().map(value).collect::<Result<_>>()?);
        }
        Ok(())
    }
}

/// The values of some columns as bytes that are equal when they are; whether none is null.
fn encode(row: &Row<'_>, columns: &[usize], bytes: &mut Vec<u8>) -> Result<bool> {
    bytes.clear();
    for &column in columns {
        match row.get_ref(column)? {
            ValueRef::Null => return Ok(false),
            ValueRef::Integer(number) => bytes.extend_from_slice(&(number as f64).to_ne_bytes()),
            ValueRef::Real(number) => bytes.extend_from_slice(&number.to_ne_bytes()),
            ValueRef::Text(text) | ValueRef::Blob(text) => {
                bytes.extend_from_slice(text);
                bytes.push(0xFF);
            }
        }
    }
    Ok(true)
}
