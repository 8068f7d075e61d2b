//! The text of a poke: patches in order, in parts of at most a hundred and of about a megabyte (protocol sheet §8).
//!
//! Text goes straight into the message, so a row is copied once per distinct client base, and the messages
//! of a poke leave in one batch.

use zql_spec::json::write_string;

use crate::outbox::Frame;

/// What precedes the body of a part.
const PART_HEAD: &str = r#"["pokePart","#;

/// Patches of a part, of whatever kind.
const PART_PATCHES: usize = 100;

/// Bytes of rows from which on a part ends: a hundred rows may hold documents, and a client parses a part as a whole.
const PART_BYTES: usize = 1 << 20;

/// Builds the parts of one poke.
#[derive(Debug)]
pub struct PokeText {
    /// The beginning of each part.
    head: String,
    parts: Vec<String>,
    /// The part being built: its beginning, and rows if there are any.
    rows: String,
    has_rows: bool,
    last_mutation_ids: String,
    got: String,
    mutations: String,
    desired: Vec<(Box<str>, String)>,
    patches: usize,
}

impl PokeText {
    /// Begins a poke.
    pub fn new(poke_id: &str) -> Self {
        let mut head = format!(r#"{PART_HEAD}{{"pokeID":"#);
        write_string(poke_id, &mut head);
        PokeText {
            head,
            parts: Vec::new(),
            rows: String::new(),
            has_rows: false,
            last_mutation_ids: String::new(),
            got: String::new(),
            mutations: String::new(),
            desired: Vec::new(),
            patches: 0,
        }
    }

    /// Adds a row patch by writing its JSON.
    pub fn row(&mut self, write: impl FnOnce(&mut String)) {
        if self.rows.is_empty() {
            self.rows.push_str(&self.head);
        }
        self.rows.push_str(if self.has_rows { "," } else { r#","rowsPatch":["# });
        self.has_rows = true;
        write(&mut self.rows);
        self.added();
    }

    /// Adds that a query became got, or is no longer.
    pub fn got(&mut self, query: &str, put: bool) {
        query_op(&mut self.got, query, put);
        self.added();
    }

    /// Adds that a client desires a query, or no longer.
    pub fn desired(&mut self, client: &str, query: &str, put: bool) {
        let ops = match self.desired.iter_mut().position(|(other, _)| **other == *client) {
            Some(position) => &mut self.desired[position].1,
            None => {
                self.desired.push((client.into(), String::new()));
                &mut self.desired.last_mut().expect("an element was pushed").1
            }
        };
        query_op(ops, query, put);
        self.added();
    }

    /// Adds a client's last mutation id.
    pub fn last_mutation_id(&mut self, client: &str, write_id: impl FnOnce(&mut String)) {
        separate(&mut self.last_mutation_ids);
        write_string(client, &mut self.last_mutation_ids);
        self.last_mutation_ids.push(':');
        write_id(&mut self.last_mutation_ids);
        self.added();
    }

    /// Adds a patch of a mutation's result by writing its JSON.
    pub fn mutation(&mut self, write: impl FnOnce(&mut String)) {
        separate(&mut self.mutations);
        write(&mut self.mutations);
        self.added();
    }

    fn added(&mut self) {
        self.patches += 1;
        if self.patches == PART_PATCHES || self.rows.len() >= PART_BYTES {
            self.end_part();
        }
    }

    fn end_part(&mut self) {
        if self.patches == 0 {
            return;
        }
        self.patches = 0;
        let mut part = std::mem::take(&mut self.rows);
        if self.has_rows {
            part.push(']');
            self.has_rows = false;
        } else {
            part.push_str(&self.head);
        }
        let mut field = |name: &str, open: char, body: &mut String, close: char| {
            if !body.is_empty() {
                part.push_str(",\"");
                part.push_str(name);
                part.push_str("\":");
                part.push(open);
                part.push_str(body);
                part.push(close);
                body.clear();
            }
        };
        field("lastMutationIDChanges", '{', &mut self.last_mutation_ids, '}');
        field("gotQueriesPatch", '[', &mut self.got, ']');
        field("mutationsPatch", '[', &mut self.mutations, ']');
        if !self.desired.is_empty() {
            let mut desired = String::new();
            for (client, ops) in self.desired.drain(..) {
                separate(&mut desired);
                write_string(&client, &mut desired);
                desired.push_str(":[");
                desired.push_str(&ops);
                desired.push(']');
            }
            field("desiredQueriesPatches", '{', &mut desired, '}');
        }
        part.push_str("}]");
        // The next part is likely as big as this one.
        self.rows = String::with_capacity(part.len().min(PART_BYTES));
        self.parts.push(part);
    }

    /// The remaining parts.
    pub fn finish(mut self) -> Vec<String> {
        self.end_part();
        self.parts
    }
}

fn separate(list: &mut String) {
    if !list.is_empty() {
        list.push(',');
    }
}

fn query_op(list: &mut String, query: &str, put: bool) {
    separate(list);
    list.push_str(if put { r#"{"op":"put","hash":"# } else { r#"{"op":"del","hash":"# });
    write_string(query, list);
    list.push('}');
}

/// First byte of a binary message that is a piece of a poke.
const CHUNK_TAG: u8 = 0;

/// Longest binary message, its first byte included.
const CHUNK_BYTES: usize = 1 << 20;

/// The parts of a poke as clients of protocol 52 and later take them (protocol sheet §20): one array of their bodies,
/// cut into binary messages. A poke without parts is an empty array.
pub(crate) fn chunks(parts: &[String]) -> Vec<Frame> {
    let bodies = parts.iter().map(|part| &part[PART_HEAD.len()..part.len() - 1]);
    let mut text = Vec::with_capacity(parts.iter().map(String::len).sum::<usize>() + 2);
    text.push(b'[');
    for (index, body) in bodies.enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(body.as_bytes());
    }
    text.push(b']');
    let chunk = |slice: &[u8]| Frame::Binary([&[CHUNK_TAG], slice].concat());
    text.chunks(CHUNK_BYTES - 1).map(chunk).collect()
}

/// The message that begins a poke.
pub fn poke_start(poke_id: &str, base_cookie: Option<&str>) -> String {
    let mut out = String::from(r#"["pokeStart",{"pokeID":"#);
    write_string(poke_id, &mut out);
    out.push_str(r#","baseCookie":"#);
    match base_cookie {
        Some(cookie) => write_string(cookie, &mut out),
        None => out.push_str("null"),
    }
    out.push_str("}]");
    out
}

/// The message that ends a poke.
pub fn poke_end(poke_id: &str, cookie: &str) -> String {
    let mut out = String::from(r#"["pokeEnd",{"pokeID":"#);
    write_string(poke_id, &mut out);
    out.push_str(r#","cookie":"#);
    write_string(cookie, &mut out);
    out.push_str("}]");
    out
}

#[cfg(test)]
mod tests {
    use zql_spec::protocol::downstream::Downstream;

    use super::{CHUNK_BYTES, Frame, PokeText, chunks, poke_end, poke_start};

    #[test]
    fn frames() {
        assert_eq!(poke_start("00:01", None), r#"["pokeStart",{"pokeID":"00:01","baseCookie":null}]"#);
        assert_eq!(poke_start("01", Some("00:01")), r#"["pokeStart",{"pokeID":"01","baseCookie":"00:01"}]"#);
        assert_eq!(poke_end("01", "01"), r#"["pokeEnd",{"pokeID":"01","cookie":"01"}]"#);
    }

    #[test]
    fn patches_of_all_kinds() {
        let mut poke = PokeText::new("p");
        poke.desired("C1", "h", true);
        poke.desired("C2", "h", false);
        poke.desired("C1", "g", true);
        poke.got("h", true);
        poke.last_mutation_id("C1", |out| out.push('3'));
        poke.mutation(|out| out.push_str(r#"{"op":"del","id":{}}"#));
        poke.row(|out| out.push_str(r#"{"op":"del","tableName":"t","id":{"a":1}}"#));
        poke.row(|out| out.push_str(r#"{"op":"del","tableName":"t","id":{"a":2}}"#));
        let parts = poke.finish();
        assert_eq!(
            parts,
            [concat!(
                r#"["pokePart",{"pokeID":"p","rowsPatch":[{"op":"del","tableName":"t","id":{"a":1}},"#,
                r#"{"op":"del","tableName":"t","id":{"a":2}}],"lastMutationIDChanges":{"C1":3},"#,
                r#""gotQueriesPatch":[{"op":"put","hash":"h"}],"mutationsPatch":[{"op":"del","id":{}}],"#,
                r#""desiredQueriesPatches":{"C1":[{"op":"put","hash":"h"},{"op":"put","hash":"g"}],"#,
                r#""C2":[{"op":"del","hash":"h"}]}}]"#
            )]
        );
        assert!(matches!(Downstream::parse(&parts[0]), Ok(Downstream::PokePart(_))));
    }

    #[test]
    fn chunks_are_one_array_of_bodies() {
        assert_eq!(chunks(&[]), [Frame::Binary(b"\0[]".to_vec())]);
        let mut poke = PokeText::new("p");
        for id in 0..20_000 {
            poke.row(|out| out.push_str(&format!(r#"{{"op":"del","tableName":"é","id":{{"a":"{id:0>80}"}}}}"#)));
        }
        let parts = poke.finish();
        let mut text = Vec::new();
        let frames = chunks(&parts);
        assert!(frames.len() > 1);
        for frame in &frames {
            let Frame::Binary(bytes) = frame else { panic!("text") };
            assert!(bytes.len() <= CHUNK_BYTES && bytes[0] == 0);
            text.extend_from_slice(&bytes[1..]);
        }
        let bodies: Vec<serde_json::Value> = serde_json::from_slice(&text).expect("an array");
        let expected: Vec<(String, serde_json::Value)> =
            parts.iter().map(|part| serde_json::from_str(part).expect("a part")).collect();
        assert_eq!(bodies, expected.into_iter().map(|(_, body)| body).collect::<Vec<_>>());
    }

    #[test]
    fn parts_end_at_a_hundred_patches_or_a_megabyte() {
        for (rows, bytes, expected) in [
            (250, 1, &[99, 100, 51][..]),
            (7, 300 << 10, &[4, 3]),
            (3, 1 << 20, &[1, 1, 1]),
            (2, 5 << 20, &[1, 1]),
            (11, 100 << 10, &[11]),
        ] {
            let mut poke = PokeText::new("p");
            poke.got("h", true);
            let text = "x".repeat(bytes);
            for _ in 0..rows {
                poke.row(|out| out.push_str(&format!(r#"{{"op":"put","tableName":"t","value":{{"a":"{text}"}}}}"#)));
            }
            let sizes: Vec<usize> = poke
                .finish()
                .iter()
                .map(|part| match Downstream::parse(part) {
                    Ok(Downstream::PokePart(part)) => part.rows_patch.map_or(0, |rows| rows.len()),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(sizes, expected, "{rows} rows of {bytes} bytes");
        }
    }
}
