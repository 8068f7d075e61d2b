//! Values as bytes that sort as the values do.
//!
//! State holds keys of rows and groups for every row of every running query, so their size and the
//! cost of comparing them are what the engine's memory and much of its time are made of. A packed key
//! takes 32 bytes up to 23 bytes of content (two numbers, or a 21 character id) and compares with
//! one memcmp; longer ones go to the heap. Packing loses nothing: keys unpack to equal values.

use std::sync::Arc;

use smallvec::SmallVec;
use zql_spec::ast::Direction;
use zql_spec::value::Value;

use crate::commit::{Key, StoredRow};

/// Content bytes that fit without an allocation: what makes the whole 32 bytes long.
const INLINE_BYTES: usize = 23;

const NULL: u8 = 2;
const FALSE: u8 = 3;
const TRUE: u8 = 4;
const NUMBER: u8 = 5;
const STRING: u8 = 6;
const JSON: u8 = 7;

/// Ends a text; lower than every byte that can follow inside one.
const END: u8 = 0;
/// Begins an escaped byte: the bytes 0 and 1 are written as `ESCAPE 1` and `ESCAPE 2`.
const ESCAPE: u8 = 1;

/// A sequence of values. Orders and equals as the values do, in the directions it was packed with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Packed(SmallVec<[u8; INLINE_BYTES]>);

impl Packed {
    /// Packs values, all ascending.
    pub(crate) fn of<'a>(values: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut packed = Packed::default();
        for value in values {
            packed.push(value);
        }
        packed
    }

    /// Packs a row's columns, all ascending.
    pub(crate) fn columns(row: &StoredRow, columns: &[usize]) -> Self {
        Packed::of(columns.iter().map(|&column| &row.values[column]))
    }

    /// Packs a row's columns unless one of them is null, which joins nothing.
    pub(crate) fn joining(row: &StoredRow, columns: &[usize]) -> Option<Self> {
        let joins = columns.iter().all(|&column| !row.values[column].is_null());
        joins.then(|| Packed::columns(row, columns))
    }

    /// Packs a row's place in an order.
    pub(crate) fn place(row: &StoredRow, order: &[(usize, Direction)]) -> Self {
        Packed::ordered(order.iter().map(|&(column, _)| &row.values[column]), order)
    }

    /// Packs values as a place in an order.
    pub(crate) fn ordered<'a>(values: impl IntoIterator<Item = &'a Value>, order: &[(usize, Direction)]) -> Self {
        let mut packed = Packed::default();
        for (value, &(_, direction)) in values.into_iter().zip(order) {
            let begin = packed.0.len();
            packed.push(value);
            if direction == Direction::Desc {
                packed.0[begin..].iter_mut().for_each(|byte| *byte = !*byte);
            }
        }
        packed
    }

    fn push(&mut self, value: &Value) {
        let bytes = &mut self.0;
        match value {
            Value::Null => bytes.push(NULL),
            Value::Bool(false) => bytes.push(FALSE),
            Value::Bool(true) => bytes.push(TRUE),
            Value::Number(number) => {
                // Adding 0.0 turns −0 into 0. Negative numbers sort by falling magnitude: all bits flip.
                let bits = (number + 0.0).to_bits();
                let sortable = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
                bytes.push(NUMBER);
                bytes.extend_from_slice(&sortable.to_be_bytes());
            }
            Value::String(text) => push_text(bytes, STRING, text),
            Value::Json(text) => push_text(bytes, JSON, text),
        }
    }

    /// The values, if all were packed ascending.
    pub(crate) fn unpack(&self) -> Key {
        let mut rest = &self.0[..];
        let mut values = Key::new();
        while !rest.is_empty() {
            values.push(take(&mut rest, 0));
        }
        values
    }

    /// The values of a place in an order.
    pub(crate) fn unpack_place(&self, order: &[(usize, Direction)]) -> Key {
        let mut rest = &self.0[..];
        order.iter().map(|&(_, direction)| take(&mut rest, if direction == Direction::Desc { !0 } else { 0 })).collect()
    }

    /// The bytes, which are a key of their own: equal if the values are.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key with these bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Packed(SmallVec::from_slice(bytes))
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        if self.0.spilled() { self.0.capacity() } else { 0 }
    }
}

fn push_text(bytes: &mut SmallVec<[u8; INLINE_BYTES]>, tag: u8, text: &str) {
    bytes.push(tag);
    if text.bytes().all(|byte| byte > ESCAPE) {
        bytes.extend_from_slice(text.as_bytes());
    } else {
        for byte in text.bytes() {
            if byte <= ESCAPE {
                bytes.push(ESCAPE);
            }
            bytes.push(if byte <= ESCAPE { byte + 1 } else { byte });
        }
    }
    bytes.push(END);
}

/// Takes one value off the front; `flip` is what its bytes were combined with.
fn take(rest: &mut &[u8], flip: u8) -> Value {
    let tag = rest[0] ^ flip;
    *rest = &rest[1..];
    match tag {
        NULL => Value::Null,
        FALSE => Value::Bool(false),
        TRUE => Value::Bool(true),
        NUMBER => {
            let (number, after) = rest.split_at(8);
            *rest = after;
            let sortable = number.iter().fold(0, |bits: u64, byte| bits << 8 | u64::from(byte ^ flip));
            Value::Number(f64::from_bits(if sortable >> 63 == 1 { sortable & !(1 << 63) } else { !sortable }))
        }
        tag => {
            let text = take_text(rest, flip);
            if tag == JSON { Value::Json(text) } else { Value::String(text) }
        }
    }
}

fn take_text(rest: &mut &[u8], flip: u8) -> Arc<str> {
    let mut text = Vec::new();
    let mut escaped = false;
    let mut taken = 0;
    for byte in rest.iter().map(|byte| byte ^ flip) {
        taken += 1;
        match byte {
            END => break,
            ESCAPE if !escaped => escaped = true,
            byte => {
                text.push(if escaped { byte - 1 } else { byte });
                escaped = false;
            }
        }
    }
    *rest = &rest[taken..];
    Arc::from(String::from_utf8(text).expect("only whole strings are packed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Value> {
        vec![
            Value::Null,
            Value::Bool(false),
            Value::Bool(true),
            Value::Number(f64::NEG_INFINITY),
            Value::Number(-1e300),
            Value::Number(-2.5),
            Value::Number(0.0),
            Value::Number(5e-324),
            Value::Number(9.0),
            Value::Number(f64::INFINITY),
            Value::string(""),
            Value::string("\0"),
            Value::string("\0\0"),
            Value::string("\0a"),
            Value::string("\u{1}"),
            Value::string("\u{1}\u{1}"),
            Value::string("\u{2}"),
            Value::string("a"),
            Value::string("a\0"),
            Value::string("a\0b"),
            Value::string("ab"),
            Value::string("abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz"),
            Value::string("\u{FFFD}"),
            Value::string("😀"),
            Value::Json(Arc::from("[]")),
        ]
    }

    #[test]
    fn a_packed_key_takes_32_bytes() {
        assert_eq!(size_of::<Packed>(), 32);
        assert_eq!(Packed::of(&[Value::string("V1StGXR8_Z5jdHi6B-myT")]).heap_bytes(), 0);
    }

    #[test]
    fn packed_values_order_as_values_do() {
        let order = [(0, Direction::Desc), (1, Direction::Asc)];
        let samples = samples();
        for a in &samples {
            for b in &samples {
                assert_eq!(Packed::of([a]).cmp(&Packed::of([b])), a.cmp(b), "{a:?} {b:?}");
                for c in &samples {
                    let ascending = Packed::of([a, c]).cmp(&Packed::of([b, c]));
                    assert_eq!(ascending, a.cmp(b), "{a:?} {b:?} before {c:?}");
                    let place = Packed::ordered([a, c], &order).cmp(&Packed::ordered([b, a], &order));
                    assert_eq!(place, a.cmp(b).reverse().then_with(|| c.cmp(a)), "{a:?},{c:?} {b:?},{a:?}");
                }
            }
        }
        assert_eq!(Packed::of(&[Value::Number(-0.0)]), Packed::of(&[Value::Number(0.0)]));
    }

    #[test]
    fn packed_values_unpack() {
        let samples = samples();
        assert_eq!(Packed::of(&samples).unpack().to_vec(), samples);
        for (direction, other) in [(Direction::Asc, Direction::Desc), (Direction::Desc, Direction::Asc)] {
            for pair in samples.windows(2) {
                let order = [(0, direction), (1, other)];
                assert_eq!(Packed::ordered(pair, &order).unpack_place(&order).to_vec(), pair);
            }
        }
    }
}
