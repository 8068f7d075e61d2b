//! pgoutput, protocol version 1: the messages of a logical replication stream.
//!
//! Messages borrow from the received bytes; a tuple is checked to its end when it is read and its cells
//! are walked without copying. Every read is checked: malformed input is an error, never a panic. Begin,
//! Commit and logical messages are decoded by the connection's own client, so they are not here.

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// It ends too early.
    #[error("malformed replication message: {0} is cut off")]
    Truncated(&'static str),
    /// It holds something the protocol does not have.
    #[error("malformed replication message: {0}")]
    Unexpected(String),
}

/// A message of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// What a table looks like; comes before its first change and after it was altered.
    Relation(RelationMessage),
    /// A new row.
    Insert { relation: u32, new: Tuple<'a> },
    /// A changed row. `old` is the old key, or with identity `full` the old row; absent when the key stayed.
    Update { relation: u32, old: Option<Tuple<'a>>, new: Tuple<'a> },
    /// A deleted row: its key, or with identity `full` the row.
    Delete { relation: u32, old: Tuple<'a> },
    /// Emptied tables.
    Truncate { relations: Vec<u32> },
    /// A data type or an origin; nothing depends on them.
    Ignored,
}

/// A table as the stream describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelationMessage {
    pub(crate) oid: u32,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// `d`efault, `n`othing, `f`ull or `i`ndex.
    pub(crate) identity: u8,
    pub(crate) columns: Vec<RelationColumn>,
}

/// A column of a table in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelationColumn {
    /// Whether it belongs to the replica identity.
    pub(crate) key: bool,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
}

/// The cells of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple<'a> {
    count: usize,
    cells: &'a [u8],
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell<'a> {
    Null,
    /// A large value that did not change and was not sent.
    Unchanged,
    Text(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// How many cells there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The cells in order.
    pub(crate) fn cells(&self) -> Cells<'a> {
        Cells { left: self.count, reader: Reader { rest: self.cells } }
    }
}

/// Walks the cells of a tuple.
#[derive(Clone, Debug)]
pub(crate) struct Cells<'a> {
    left: usize,
    reader: Reader<'a>,
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The tuple was walked to its end when it was read, so this succeeds.
        self.reader.cell().ok()
    }
}

/// Decodes one message.
pub(crate) fn decode(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut reader = Reader { rest: bytes };
    let message = match reader.u8("tag")? {
        b'R' => Message::Relation(reader.relation()?),
        b'I' => {
            let relation = reader.u32("relation")?;
            reader.expect(b'N', "insert")?;
            Message::Insert { relation, new: reader.tuple()? }
        }
        b'U' => {
            let relation = reader.u32("relation")?;
            let old = match reader.u8("update")? {
                b'K' | b'O' => {
                    let old = reader.tuple()?;
                    reader.expect(b'N', "update")?;
                    Some(old)
                }
                b'N' => None,
                other => return Err(unexpected("update", other)),
            };
            Message::Update { relation, old, new: reader.tuple()? }
        }
        b'D' => {
            let relation = reader.u32("relation")?;
            match reader.u8("delete")? {
                b'K' | b'O' => Message::Delete { relation, old: reader.tuple()? },
                other => return Err(unexpected("delete", other)),
            }
        }
        b'T' => {
            let count = reader.u32("truncate")?;
            // CASCADE and RESTART IDENTITY: all that is truncated is listed, and there are no sequences here.
            reader.u8("truncate")?;
            // Four bytes each, so the input itself bounds the count.
            if reader.rest.len() / 4 < count as usize {
                return Err(Malformed::Truncated("truncate"));
            }
            Message::Truncate { relations: (0..count).map(|_| reader.u32("truncate")).collect::<Result<_, _>>()? }
        }
        b'Y' | b'O' => return Ok(Message::Ignored),
        other => return Err(unexpected("tag", other)),
    };
    if reader.rest.is_empty() { Ok(message) } else { Err(Malformed::Unexpected("bytes after the end".to_owned())) }
}

fn unexpected(what: &str, byte: u8) -> Malformed {
    Malformed::Unexpected(format!("{what} has the byte {byte:#04x}"))
}

#[derive(Clone, Debug)]
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        self.take(N, what)?.try_into().map_err(|_| Malformed::Truncated(what))
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(what)?[0])
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Malformed> {
        match self.u8(what)? {
            found if found == byte => Ok(()),
            found => Err(unexpected(what, found)),
        }
    }

    fn text(&mut self, what: &'static str) -> Result<String, Malformed> {
        let length = self.rest.iter().position(|&byte| byte == 0).ok_or(Malformed::Truncated(what))?;
        let text = self.take(length + 1, what)?;
        String::from_utf8(text[..length].to_vec()).map_err(|_| Malformed::Unexpected(format!("{what} is not UTF-8")))
    }

    fn relation(&mut self) -> Result<RelationMessage, Malformed> {
        let oid = self.u32("relation")?;
        let schema = self.text("relation")?;
        let name = self.text("relation")?;
        let identity = self.u8("relation")?;
        let count = self.u16("relation")?;
        let mut columns = Vec::new();
        for _ in 0..count {
            let flags = self.u8("column")?;
            let name = self.text("column")?;
            let type_oid = self.u32("column")?;
            self.u32("column")?;
            columns.push(RelationColumn { key: flags & 1 == 1, name, type_oid });
        }
        // An empty schema stands for pg_catalog.
        let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
        Ok(RelationMessage { oid, schema, name, identity, columns })
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, Malformed> {
        let count = usize::from(self.u16("tuple")?);
        let cells = self.rest;
        for _ in 0..count {
            self.cell()?;
        }
        Ok(Tuple { count, cells: &cells[..cells.len() - self.rest.len()] })
    }

    fn cell(&mut self) -> Result<Cell<'a>, Malformed> {
        match self.u8("cell")? {
            b'n' => Ok(Cell::Null),
            b'u' => Ok(Cell::Unchanged),
            b't' => {
                let length = self.u32("cell")?;
                Ok(Cell::Text(self.take(length as usize, "cell")?))
            }
            other => Err(unexpected("cell", other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(cells: &[Option<&str>]) -> Vec<u8> {
        let mut bytes = (cells.len() as u16).to_be_bytes().to_vec();
        for cell in cells {
            match cell {
                None => bytes.push(b'n'),
                Some("<unchanged>") => bytes.push(b'u'),
                Some(text) => {
                    bytes.push(b't');
                    bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
                    bytes.extend_from_slice(text.as_bytes());
                }
            }
        }
        bytes
    }

    fn samples() -> Vec<Vec<u8>> {
        let mut relation = b"R\0\0\0\x07public\0t\0d\0\x02".to_vec();
        relation.extend_from_slice(b"\x01id\0\0\0\0\x17\xff\xff\xff\xff\0b\0\0\0\0\x19\xff\xff\xff\xff");
        let row = tuple(&[Some("1"), None]);
        let insert = [b"I\0\0\0\x07N".as_slice(), &row].concat();
        let update = [b"U\0\0\0\x07K".as_slice(), &row, b"N", &tuple(&[Some("2"), Some("<unchanged>")])].concat();
        let plain_update = [b"U\0\0\0\x07N".as_slice(), &row].concat();
        let delete = [b"D\0\0\0\x07O".as_slice(), &row].concat();
        let truncate = b"T\0\0\0\x02\x03\0\0\0\x07\0\0\0\x08".to_vec();
        vec![relation, insert, update, plain_update, delete, truncate, b"Y\0\0\0\x01x\0y\0".to_vec()]
    }

    #[test]
    fn messages() {
        let samples = samples();
        let decoded: Vec<Message<'_>> = samples.iter().map(|bytes| decode(bytes).unwrap()).collect();
        let Message::Relation(relation) = &decoded[0] else { panic!("{:?}", decoded[0]) };
        assert_eq!((relation.oid, relation.name.as_str(), relation.identity), (7, "t", b'd'));
        assert_eq!(relation.columns.iter().map(|c| (c.key, c.type_oid)).collect::<Vec<_>>(), [(true, 23), (false, 25)]);
        let Message::Insert { relation: 7, new } = decoded[1] else { panic!("{:?}", decoded[1]) };
        assert_eq!(new.cells().collect::<Vec<_>>(), [Cell::Text(b"1"), Cell::Null]);
        let Message::Update { old: Some(old), new, .. } = decoded[2] else { panic!("{:?}", decoded[2]) };
        assert_eq!(old.len(), 2);
        assert_eq!(new.cells().collect::<Vec<_>>(), [Cell::Text(b"2"), Cell::Unchanged]);
        assert!(matches!(decoded[3], Message::Update { old: None, .. }));
        assert!(matches!(decoded[4], Message::Delete { .. }));
        assert_eq!(decoded[5], Message::Truncate { relations: vec![7, 8] });
        assert_eq!(decoded[6], Message::Ignored);
    }

    #[test]
    fn malformed_messages_are_errors() {
        for sample in samples() {
            for length in 0..sample.len() {
                if sample[0] != b'Y' {
                    assert!(decode(&sample[..length]).is_err(), "cut to {length}: {sample:?}");
                }
            }
            for at in 0..sample.len() {
                for byte in [0, 1, b'u', 0x7f, 0x80, 0xff] {
                    let mut bytes = sample.clone();
                    bytes[at] = byte;
                    if let Ok(Message::Insert { new, .. }) = decode(&bytes) {
                        assert_eq!(new.cells().count(), new.len());
                    }
                }
            }
        }
        assert!(decode(b"Z").is_err());
        assert!(decode(b"T\xff\xff\xff\xff\0\0\0\0\x01").is_err());
    }
}
