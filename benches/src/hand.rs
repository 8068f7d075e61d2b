//! The lower bound: what a person would write by hand for one query, with rusqlite, knowing the data and the indexes.
//!
//! Each case gives the same rows as the server does, each once, and writes them as the same text. Statements are
//! prepared once and read on the same kind of connection.

use std::collections::HashSet;
use std::rc::Rc;

use anyhow::Result;
use rusqlite::{Connection, Params, Row, params};
use rustc_hash::FxHashMap;
use zql_spec::schema::Schema;

use crate::written::{self, Format};

/// Text that is kept before it is thought sent.
const SENT_BYTES: usize = 1 << 16;

/// Where rows go: written as text, counted, and forgotten.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    text: String,
    /// Rows so far.
    pub(crate) rows: usize,
    /// Bytes of their text.
    pub(crate) bytes: usize,
    /// A digest of all rows in any order; only kept by a checked sink.
    pub(crate) digest: u64,
    check: bool,
}

impl Sink {
    /// A sink that keeps a digest.
    pub(crate) fn checked() -> Sink {
        Sink { check: true, ..Sink::default() }
    }

    /// Takes one row.
    pub(crate) fn row(&mut self, write: impl FnOnce(&mut String)) {
        let begin = self.text.len();
        write(&mut self.text);
        self.rows += 1;
        self.bytes += self.text.len() - begin;
        if self.check {
            let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
            let row = self.text.as_bytes()[begin..].iter().fold(0xCBF2_9CE4_8422_2325, hash);
            self.digest = self.digest.wrapping_add(row);
        }
        if self.text.len() > SENT_BYTES {
            self.text.clear();
        }
    }
}

/// Reads tables by hand.
pub(crate) struct Hand<'a> {
    connection: &'a Connection,
    /// Where the rows go.
    pub(crate) sink: Sink,
    schema: &'a Schema,
    /// By table and the rest of the statement: whoever writes by hand does so once.
    prepared: FxHashMap<(&'static str, &'static str), Rc<Prepared>>,
}

/// A statement, and what its rows are written with.
struct Prepared {
    sql: String,
    format: Format,
}

impl<'a> Hand<'a> {
    /// Reads tables of a schema with this connection.
    pub(crate) fn new(connection: &'a Connection, schema: &'a Schema, sink: Sink) -> Self {
        Hand { connection, sink, schema, prepared: FxHashMap::default() }
    }

    /// Gives all rows of a statement, which selects the table's columns first, and lets `also` see them.
    fn rows(
        &mut self,
        table: &'static str,
        tail: &'static str,
        params: impl Params,
        also: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        self.each(table, tail, [params], also)
    }

    /// Gives the rows of a statement that is run for each of many parameters.
    fn each<P: Params>(
        &mut self,
        table: &'static str,
        tail: &'static str,
        params: impl IntoIterator<Item = P>,
        mut also: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let prepared = match self.prepared.get(&(table, tail)) {
            Some(prepared) => Rc::clone(prepared),
            None => {
                let of = written::table(self.schema, table)?;
                let sql = format!("SELECT {} FROM \"{table}\" t {tail}", written::columns(of, "t"));
                let prepared = Rc::new(Prepared { sql, format: Format::of(of) });
                self.prepared.insert((table, tail), Rc::clone(&prepared));
                prepared
            }
        };
        let mut statement = self.connection.prepare_cached(&prepared.sql)?;
        for params in params {
            let mut rows = statement.query(params)?;
            while let Some(row) = rows.next()? {
                let mut written = Ok(());
                self.sink.row(|out| written = prepared.format.write(row, out));
                written?;
                also(row)?;
            }
        }
        Ok(())
    }

    /// Gives the rows with these ids.
    fn by_id<'k>(&mut self, table: &'static str, ids: impl IntoIterator<Item = &'k String>) -> Result<()> {
        self.each(table, "WHERE t.id = ?1", ids.into_iter().map(|id| [id]), |_| Ok(()))
    }

    fn ids(&self, sql: &str, params: impl Params) -> Result<Vec<String>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let ids = statement.query_map(params, |row| row.get(0))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }

    // ---- the queries ---------------------------------------------------------------------------------

    /// One table, one statement, whose constants are parameters: it is prepared once for all users and all keys.
    pub(crate) fn single(&mut self, tail: &'static str, params: impl Params) -> Result<()> {
        self.rows("issue", tail, params, |_| Ok(()))
    }

    /// The newest issues with creator, assignee if `everything`, labels and latest comments.
    pub(crate) fn page(&mut self, issues: u32, everything: bool) -> Result<()> {
        let (mut keys, mut users, mut labels) = (Vec::new(), HashSet::new(), HashSet::new());
        let tail = "ORDER BY t.modified DESC, t.id LIMIT ?1";
        self.rows("issue", tail, [issues], |row| {
            keys.push(row.get::<_, String>(0)?);
            users.insert(row.get::<_, String>(5)?);
            if everything {
                users.extend(row.get::<_, Option<String>>(6)?);
            }
            Ok(())
        })?;
        self.by_id("user", &users)?;
        self.each("issue_label", "WHERE t.issue_id = ?1", keys.iter().map(|id| [id]), |row| {
            labels.insert(row.get::<_, String>(1)?);
            Ok(())
        })?;
        self.by_id("label", &labels)?;
        let tail = "WHERE t.issue_id = ?1 ORDER BY t.created DESC, t.id LIMIT 10";
        self.each("comment", tail, keys.iter().map(|id| [id]), |_| Ok(()))
    }

    /// All issues with the label named `rare`, by a junction; all its rows are witnesses.
    pub(crate) fn labelled(&mut self, junction: &'static str) -> Result<()> {
        let mut keys = Vec::new();
        let labels = self.ids("SELECT id FROM label WHERE name = 'rare'", [])?;
        self.by_id("label", &labels)?;
        self.each(junction, "WHERE t.label_id = ?1", labels.iter().map(|id| [id]), |row| {
            keys.push(row.get::<_, String>(0)?);
            Ok(())
        })?;
        self.by_id("issue", &keys)
    }

    /// The newest 1 000 issues with a label whose name ends in `are`.
    pub(crate) fn searched(&mut self) -> Result<()> {
        let labels = self.ids("SELECT id FROM label WHERE name LIKE '%are'", [])?;
        self.by_id("label", &labels)?;
        let [label] = &labels[..] else { anyhow::bail!("one label is called so") };
        let mut keys = Vec::new();
        let tail = "WHERE t.id IN (SELECT issue_id FROM issue_label WHERE label_id = ?1) \
                    ORDER BY t.modified DESC, t.id LIMIT 1000";
        self.rows("issue", tail, [label], |row| {
            keys.push(row.get::<_, String>(0)?);
            Ok(())
        })?;
        let tail = "WHERE t.issue_id = ?1 AND t.label_id = ?2";
        self.each("issue_label", tail, keys.iter().map(|id| [id, label]), |_| Ok(()))
    }

    /// Issues created by or assigned to one user, or with the label named `rare`.
    pub(crate) fn mine_or_labelled(&mut self) -> Result<()> {
        let mut seen = HashSet::new();
        let labels = self.ids("SELECT id FROM label WHERE name = 'rare'", [])?;
        self.by_id("label", &labels)?;
        let mut keys = Vec::new();
        self.each("issue_label", "WHERE t.label_id = ?1", labels.iter().map(|id| [id]), |row| {
            keys.push(row.get::<_, String>(0)?);
            Ok(())
        })?;
        self.by_id("issue", &keys)?;
        seen.extend(keys);
        let mine = self.ids(
            "SELECT id FROM issue WHERE creator_id = 'u7' UNION SELECT id FROM issue WHERE assignee_id = 'u7'",
            [],
        )?;
        self.by_id("issue", mine.iter().filter(|id| !seen.contains(*id)))
    }

    /// The newest issues without comments.
    pub(crate) fn uncommented(&mut self) -> Result<()> {
        let tail = "WHERE NOT EXISTS (SELECT 1 FROM comment c WHERE c.issue_id = t.id) \
                    ORDER BY t.modified DESC, t.id LIMIT 50";
        self.rows("issue", tail, [], |_| Ok(()))
    }

    /// Users who never commented; the comments have no index by author.
    pub(crate) fn silent(&mut self) -> Result<()> {
        let tail = "WHERE t.id NOT IN (SELECT creator_id FROM comment)";
        self.rows("user", tail, [], |_| Ok(()))
    }

    /// Every issue and every comment.
    pub(crate) fn with_comments(&mut self) -> Result<()> {
        self.rows("issue", "", [], |_| Ok(()))?;
        self.rows("comment", "", [], |_| Ok(()))
    }

    /// Issues with these ids.
    pub(crate) fn named(&mut self, ids: &[&str]) -> Result<()> {
        self.each("issue", "WHERE t.id = ?1", ids.iter().map(|id| [id]), |_| Ok(()))
    }

    /// The 50 issues after a place in the order of the newest.
    pub(crate) fn after(&mut self, modified: f64, id: &str) -> Result<()> {
        let tail = "WHERE t.modified <= ?1 AND (t.modified < ?1 OR t.id > ?2) ORDER BY t.modified DESC, t.id LIMIT 50";
        self.rows("issue", tail, params![modified, id], |_| Ok(()))
    }

    /// Every user with the three newest issues.
    pub(crate) fn latest_of_users(&mut self) -> Result<()> {
        let mut users = Vec::new();
        self.rows("user", "", [], |row| {
            users.push(row.get::<_, String>(0)?);
            Ok(())
        })?;
        let tail = "WHERE t.creator_id = ?1 ORDER BY t.modified DESC, t.id LIMIT 3";
        self.each("issue", tail, users.iter().map(|id| [id]), |_| Ok(()))
    }

    /// One user, the user's issues, and their comments.
    pub(crate) fn three_levels(&mut self, user: &str) -> Result<()> {
        self.by_id("user", [&user.to_owned()])?;
        let mut issues = Vec::new();
        self.rows("issue", "WHERE t.creator_id = ?1", [user], |row| {
            issues.push(row.get::<_, String>(0)?);
            Ok(())
        })?;
        self.each("comment", "WHERE t.issue_id = ?1", issues.iter().map(|id| [id]), |_| Ok(()))
    }

    /// Issues that users of this name commented on; neither names nor the authors of comments have an index.
    pub(crate) fn commented_by(&mut self, name: &str) -> Result<()> {
        let users = self.ids("SELECT id FROM user WHERE name = ?1", [name])?;
        self.by_id("user", &users)?;
        let [user] = &users[..] else { anyhow::bail!("one user is called so") };
        let mut issues = HashSet::new();
        self.rows("comment", "WHERE t.creator_id = ?1", [user], |row| {
            issues.insert(row.get::<_, String>(1)?);
            Ok(())
        })?;
        self.by_id("issue", &issues)
    }

    /// The newest 100 issues that a user commented on, and these comments.
    pub(crate) fn newest_commented_by(&mut self, user: &str) -> Result<()> {
        let mut issues = Vec::new();
        let tail = "WHERE t.id IN (SELECT issue_id FROM comment WHERE creator_id = ?1) \
                    ORDER BY t.modified DESC, t.id LIMIT 100";
        self.rows("issue", tail, [user], |row| {
            issues.push(row.get::<_, String>(0)?);
            Ok(())
        })?;
        let tail = "WHERE t.issue_id = ?1 AND t.creator_id = ?2";
        self.each("comment", tail, issues.iter().map(|id| [id.as_str(), user]), |_| Ok(()))
    }

    /// Issues of nobody without comments.
    pub(crate) fn forgotten(&mut self) -> Result<()> {
        let tail = "WHERE t.assignee_id IS NULL AND NOT EXISTS (SELECT 1 FROM comment c WHERE c.issue_id = t.id)";
        self.rows("issue", tail, [], |_| Ok(()))
    }
}
