//! What a client holds: rows, queries and its cookie, and how a poke changes them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde_json::Value;
use zql_spec::protocol::downstream::{JsonRow, PokePart, QueryOp, RowOp};

use crate::Error;
use crate::strict::named_result;

/// A whole poke.
#[derive(Debug)]
pub struct Poke {
    /// Its name.
    pub id: String,
    /// The cookie that it applies to.
    pub base: Option<String>,
    /// The cookie that it leads to.
    pub cookie: String,
    /// Its patches, in order.
    pub parts: Vec<PokePart>,
    /// Bytes of all its messages.
    pub bytes: usize,
    /// When its first message arrived.
    pub began: Instant,
    /// When its last message arrived.
    pub ended: Instant,
}

impl Poke {
    /// All changes of rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &RowOp> {
        self.parts.iter().flat_map(|part| part.rows_patch.iter().flatten())
    }

    /// All changes of got queries, in order.
    pub fn got(&self) -> impl Iterator<Item = &QueryOp> {
        self.parts.iter().flat_map(|part| part.got_queries_patch.iter().flatten())
    }

    /// Whether this poke says that the query's rows are complete.
    pub fn gets(&self, query: &str) -> bool {
        self.got().any(|op| matches!(op, QueryOp::Put { hash, .. } if hash == query))
    }
}

/// The columns that identify a row, by table.
#[derive(Clone, Debug, Default)]
pub struct Keys(BTreeMap<String, Vec<String>>);

impl Keys {
    /// From a client schema: `{"tables": {name: {"primaryKey": [column, …]}}}`. What is missing is guessed later.
    pub fn from_schema(schema: &str) -> Keys {
        let parsed: Value = serde_json::from_str(schema).unwrap_or_default();
        let tables = parsed["tables"].as_object().into_iter().flatten();
        Keys(
            tables
                .filter_map(|(name, table)| {
                    let columns = table["primaryKey"].as_array()?;
                    Some((name.clone(), columns.iter().filter_map(|c| c.as_str().map(str::to_owned)).collect()))
                })
                .collect(),
        )
    }

    /// The key's columns. Without a known key: the column `id`, else all columns that end in `id`, else all.
    fn columns<'a>(&'a self, table: &str, row: &'a JsonRow) -> Vec<&'a str> {
        match self.0.get(table) {
            Some(columns) => columns.iter().map(String::as_str).collect(),
            None if row.contains_key("id") => vec!["id"],
            None => {
                let ids = row.keys().filter(|name| name.to_lowercase().ends_with("id"));
                let ids: Vec<&str> = ids.map(String::as_str).collect();
                if ids.is_empty() { row.keys().map(String::as_str).collect() } else { ids }
            }
        }
    }

    /// The key of a row as text that is equal for equal keys.
    ///
    /// # Errors
    /// When a key column is missing or not a string, number or boolean: the real client gives up there.
    fn of(&self, table: &str, row: &JsonRow) -> Result<String, Error> {
        let values: Vec<&Value> =
            self.columns(table, row).into_iter().map(|column| row.get(column).unwrap_or(&Value::Null)).collect();
        if self.0.contains_key(table) && values.iter().any(|value| value.is_null() || value.is_object()) {
            return Err(Error::Protocol(format!("a row of {table} without its key: {row:?}")));
        }
        Ok(serde_json::to_string(&values).unwrap_or_default())
    }
}

/// Rows of one table by the text of their key.
pub type Rows = BTreeMap<String, JsonRow>;

/// Everything a client knows.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Of the last poke applied.
    pub cookie: Option<String>,
    /// Rows by table and key.
    pub rows: BTreeMap<String, Rows>,
    /// Queries whose rows are complete.
    pub got: BTreeSet<String>,
    /// Queries wanted, by client of the group.
    pub desired: BTreeMap<String, BTreeSet<String>>,
    /// Last processed mutation, by client of the group.
    pub last_mutation_ids: BTreeMap<String, f64>,
    /// Results of mutations, by client and number.
    pub results: BTreeMap<(String, i64), Value>,
    keys: Keys,
}

impl State {
    /// A new client's, which tells rows apart by these keys.
    pub fn new(keys: Keys) -> State {
        State { keys, ..State::default() }
    }

    /// That of a client that holds what led to a cookie, whatever it was.
    pub(crate) fn at(cookie: Option<&str>) -> State {
        State { cookie: cookie.map(str::to_owned), ..State::default() }
    }

    /// The rows of a table, in the order of their keys' text.
    pub fn table(&self, name: &str) -> impl Iterator<Item = &JsonRow> {
        self.rows.get(name).into_iter().flat_map(BTreeMap::values)
    }

    /// The columns that identify a row of a table: from the client schema, or guessed from the row.
    pub fn key_columns<'a>(&'a self, table: &str, row: &'a JsonRow) -> Vec<&'a str> {
        self.keys.columns(table, row)
    }

    /// The number of rows of all tables.
    pub fn len(&self) -> usize {
        self.rows.values().map(BTreeMap::len).sum()
    }

    /// Whether no row is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Applies a poke. A poke with the cookie that is already there changes nothing, whatever it holds.
    ///
    /// # Errors
    /// Where the real client would give up (protocol sheet §16); the state is then not to be used any more.
    pub fn apply(&mut self, poke: &Poke) -> Result<(), Error> {
        if self.follow(poke)? {
            poke.rows().try_for_each(|op| self.apply_row(op))?;
        }
        Ok(())
    }

    /// Applies a poke but for its rows. Tells whether these are to be applied.
    pub(crate) fn follow(&mut self, poke: &Poke) -> Result<bool, Error> {
        if poke.base != self.cookie {
            return Err(Error::Protocol(format!("unexpected base cookie {:?}; ours is {:?}", poke.base, self.cookie)));
        }
        let current = self.cookie.as_deref().unwrap_or("");
        if poke.cookie.as_str() < current {
            return Err(Error::Protocol(format!("cookie {} is before {current}", poke.cookie)));
        }
        if poke.cookie == current {
            if !poke.parts.is_empty() {
                return Err(Error::Protocol(format!("patches lost in a poke that stays at {current}")));
            }
            return Ok(false);
        }
        for part in &poke.parts {
            self.follow_part(part)?;
        }
        self.cookie = Some(poke.cookie.clone());
        Ok(true)
    }

    fn follow_part(&mut self, part: &PokePart) -> Result<(), Error> {
        for (client, id) in part.last_mutation_id_changes.iter().flatten() {
            let stored = self.last_mutation_ids.entry(client.clone()).or_insert(*id);
            if *id < *stored {
                return Err(Error::Protocol(format!("last mutation {id} of {client} is before {stored}")));
            }
            *stored = *id;
        }
        for (client, patch) in part.desired_queries_patches.iter().flatten() {
            patch_queries(self.desired.entry(client.clone()).or_default(), patch);
        }
        patch_queries(&mut self.got, part.got_queries_patch.as_deref().unwrap_or_default());
        for op in part.mutations_patch.iter().flatten() {
            match named_result(op).map_err(Error::Protocol)? {
                (name, None) => {
                    self.results.remove(&name);
                }
                (name, Some(result)) => {
                    let known = self.results.entry(name).or_insert_with(|| result.clone());
                    if known != result {
                        return Err(Error::Protocol(format!("a mutation has the result {result} after {known}")));
                    }
                }
            }
        }
        Ok(())
    }

    fn apply_row(&mut self, op: &RowOp) -> Result<(), Error> {
        match op {
            RowOp::Put { table_name, value } => {
                let key = self.keys.of(table_name, value)?;
                self.rows.entry(table_name.clone()).or_default().insert(key, value.clone());
            }
            RowOp::Del { table_name, id } => {
                // The server names the key columns here; a guess is put right by it.
                if !self.keys.0.contains_key(table_name) {
                    self.keys.0.insert(table_name.clone(), id.keys().cloned().collect());
                    let held = self.rows.remove(table_name).unwrap_or_default();
                    for row in held.into_values() {
                        let key = self.keys.of(table_name, &row)?;
                        self.rows.entry(table_name.clone()).or_default().insert(key, row);
                    }
                }
                let key = self.keys.of(table_name, id)?;
                if let Some(rows) = self.rows.get_mut(table_name) {
                    rows.remove(&key);
                }
            }
            RowOp::Update { table_name, id, merge, constrain } => {
                let key = self.keys.of(table_name, id)?;
                if let Some(row) = self.rows.get_mut(table_name).and_then(|rows| rows.get_mut(&key)) {
                    if let Some(columns) = constrain {
                        row.retain(|name, _| columns.contains(name));
                    }
                    row.extend(merge.clone().unwrap_or_default());
                }
            }
            RowOp::Clear => self.rows.clear(),
        }
        Ok(())
    }
}

fn patch_queries(queries: &mut BTreeSet<String>, patch: &[QueryOp]) {
    for op in patch {
        match op {
            QueryOp::Put { hash, .. } => {
                queries.insert(hash.clone());
            }
            QueryOp::Del { hash } => {
                queries.remove(hash);
            }
            QueryOp::Clear => queries.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poke(base: Option<&str>, cookie: &str, part: &str) -> Poke {
        let parts = if part.is_empty() {
            vec![]
        } else {
            vec![serde_json::from_str(&format!(r#"{{"pokeID":"p",{part}}}"#)).unwrap()]
        };
        let now = Instant::now();
        Poke {
            id: "p".into(),
            base: base.map(str::to_owned),
            cookie: cookie.into(),
            parts,
            bytes: 0,
            began: now,
            ended: now,
        }
    }

    #[test]
    fn pokes_add_up() {
        let mut state = State::new(Keys::from_schema(r#"{"tables":{"pair":{"primaryKey":["a","b"]}}}"#));
        for (base, cookie, part) in [
            (None, "00:01", r#""desiredQueriesPatches":{"c":[{"op":"put","hash":"h"}]}"#),
            (
                Some("00:01"),
                "0a",
                r#""gotQueriesPatch":[{"op":"put","hash":"h"}],"rowsPatch":[
                    {"op":"put","tableName":"pair","value":{"a":1,"b":"x","v":1}},
                    {"op":"put","tableName":"pair","value":{"a":1,"b":"y","v":1}},
                    {"op":"put","tableName":"other","value":{"id":"1","v":1}}]"#,
            ),
            (Some("0a"), "0a", ""),
            (
                Some("0a"),
                "0b",
                r#""rowsPatch":[{"op":"put","tableName":"pair","value":{"a":1,"b":"x","v":2}},
                    {"op":"del","tableName":"pair","id":{"a":1,"b":"y"}},
                    {"op":"put","tableName":"other","value":{"id":"1","v":2}}]"#,
            ),
        ] {
            state.apply(&poke(base, cookie, part)).unwrap();
        }
        assert_eq!(state.cookie.as_deref(), Some("0b"));
        assert!(state.got.contains("h") && state.desired["c"].contains("h"));
        let values: Vec<_> = state.table("pair").chain(state.table("other")).map(|row| row["v"].clone()).collect();
        assert_eq!(values, [2, 2]);
    }

    #[test]
    fn results_change_when_they_were_gone() {
        let mut state = State::default();
        let gone = r#""mutationsPatch":[{"op":"del","id":{"clientID":"c","id":1}}]"#;
        let (failed, done) = (result(r#"{"error":"app"}"#), result("{}"));
        for (base, cookie, part) in
            [(None, "0a", &*failed), (Some("0a"), "0b", &failed), (Some("0b"), "0c", gone), (Some("0c"), "0d", &done)]
        {
            state.apply(&poke(base, cookie, part)).unwrap();
        }
        assert_eq!(state.results[&("c".to_owned(), 1)], serde_json::json!({}));
    }

    fn result(result: &str) -> String {
        format!(r#""mutationsPatch":[{{"op":"put","mutation":{{"id":{{"clientID":"c","id":1}},"result":{result}}}}}]"#)
    }

    #[test]
    fn gives_up_where_the_real_client_does() {
        for (base, cookie, part) in [
            (Some("x"), "0b", ""),
            (None, "0b", ""),
            (Some("0a"), "09", ""),
            (Some("0a"), "0a", r#""rowsPatch":[]"#),
            (Some("0a"), "0b", r#""rowsPatch":[{"op":"put","tableName":"t","value":{"k":null}}]"#),
            (Some("0a"), "0b", r#""lastMutationIDChanges":{"c":1}"#),
            (Some("0a"), "0b", &result("{}")),
        ] {
            let mut state = State::new(Keys::from_schema(r#"{"tables":{"t":{"primaryKey":["k"]}}}"#));
            let first = format!(r#""lastMutationIDChanges":{{"c":2}},{}"#, result(r#"{"error":"app"}"#));
            state.apply(&poke(None, "0a", &first)).unwrap();
            assert!(state.apply(&poke(base, cookie, part)).is_err(), "{base:?} {cookie} {part}");
        }
    }
}
