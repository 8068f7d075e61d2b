//! JSON as JavaScript sees it.
//!
//! Hashes of queries are hashes of JSON text, so the text must be what `JSON.stringify` would print:
//! object keys keep their order (integer-like keys first, as JavaScript engines do), numbers are printed
//! per ECMAScript, strings escape what JavaScript escapes. Every number is a double. A lone surrogate,
//! which Rust text cannot hold, is read as U+FFFD.
//!
//! Parsing is linear in the text, bounded in depth and never panics. A `Json` made by the parser is
//! therefore shallow enough for every recursive pass over it.

use std::fmt;
use std::sync::Arc;

mod parse;

pub use parse::JsonError;

/// Deepest nesting the parser accepts. An AST level costs about five levels of JSON, so this leaves room
/// for queries nested deeper than the engine runs, while recursion stays far below a 2 MiB stack.
pub const MAX_DEPTH: usize = 512;

/// A JSON value. Objects keep the order of their keys; no key occurs twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A double.
    Number(f64),
    /// A string.
    String(Arc<str>),
    /// An array.
    Array(Vec<Json>),
    /// An object.
    Object(Vec<(Arc<str>, Json)>),
}

impl Json {
    /// Parses a JSON text, as `JSON.parse` would.
    pub fn parse(text: &str) -> Result<Json, JsonError> {
        parse::parse(text)
    }

    /// A string.
    pub fn string(text: impl Into<Arc<str>>) -> Json {
        Json::String(text.into())
    }

    /// An object of these entries, in this order. The caller vouches that keys are distinct.
    pub fn object<'a>(entries: impl IntoIterator<Item = (&'a str, Json)>) -> Json {
        Json::Object(entries.into_iter().map(|(key, value)| (Arc::from(key), value)).collect())
    }

    /// The value of an object's key; nothing for absent keys and for other values.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.as_object()?.iter().find(|(other, _)| &**other == key).map(|(_, value)| value)
    }

    /// The entries of an object.
    pub fn as_object(&self) -> Option<&[(Arc<str>, Json)]> {
        if let Json::Object(entries) = self { Some(entries) } else { None }
    }

    /// The elements of an array.
    pub fn as_array(&self) -> Option<&[Json]> {
        if let Json::Array(elements) = self { Some(elements) } else { None }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Json::String(text) = self { Some(text) } else { None }
    }

    /// The value of a number.
    pub fn as_f64(&self) -> Option<f64> {
        if let Json::Number(number) = self { Some(*number) } else { None }
    }

    /// The value of a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        if let Json::Bool(bool) = self { Some(*bool) } else { None }
    }

    /// Appends the text `JSON.stringify` gives.
    pub fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(true) => out.push_str("true"),
            Json::Bool(false) => out.push_str("false"),
            Json::Number(number) => write_number(*number, out),
            Json::String(text) => write_string(text, out),
            Json::Array(elements) => {
                out.push('[');
                for (i, element) in elements.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    element.write(out);
                }
                out.push(']');
            }
            Json::Object(entries) => {
                out.push('{');
                for (i, (key, value)) in entries.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_string(key, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// The text `JSON.stringify` gives.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text);
        f.write_str(&text)
    }
}

/// Appends a number as ECMAScript prints it. Numbers that JSON cannot hold (infinities) become `null`.
pub fn write_number(number: f64, out: &mut String) {
    if !number.is_finite() {
        out.push_str("null");
    } else if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 {
        // The common case, and the one that turns −0 into 0.
        use fmt::Write;
        write!(out, "{}", number as i64).expect("writing to a string cannot fail");
    } else {
        out.push_str(ryu_js::Buffer::new().format_finite(number));
    }
}

/// Appends a quoted string, escaping only what `JSON.stringify` escapes.
pub fn write_string(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    let mut plain = 0;
    for (i, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain..i]);
        plain = i + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            0x0c => out.push_str("\\f"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => {
                out.push_str("\\u00");
                out.push(char::from(HEX[usize::from(control >> 4)]));
                out.push(char::from(HEX[usize::from(control & 15)]));
            }
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

/// Puts entries into the order in which JavaScript keeps them: array indices ascending, then the others
/// as first written. Of entries with equal keys the last value stays, at the first one's place.
fn javascript_entries(entries: Vec<(Arc<str>, Json)>) -> Vec<(Arc<str>, Json)> {
    // Objects of more keys than this look duplicates up instead of comparing all pairs.
    const FEW: usize = 16;
    let distinct = if entries.len() <= FEW {
        let mut distinct: Vec<(Arc<str>, Json)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            match distinct.iter_mut().find(|(other, _)| *other == key) {
                Some(entry) => entry.1 = value,
                None => distinct.push((key, value)),
            }
        }
        distinct
    } else {
        entries.into_iter().collect::<indexmap::IndexMap<Arc<str>, Json>>().into_iter().collect()
    };
    if distinct.iter().all(|(key, _)| array_index(key).is_none()) {
        return distinct;
    }
    let (mut indices, others): (Vec<_>, Vec<_>) = distinct.into_iter().partition(|(key, _)| array_index(key).is_some());
    indices.sort_by_key(|(key, _)| array_index(key));
    indices.extend(others);
    indices
}

/// The value of a key that JavaScript treats as an array index: the canonical text of 0 … 2³²−2.
fn array_index(key: &str) -> Option<u32> {
    if key.len() > 10 || !key.bytes().all(|b| b.is_ascii_digit()) || (key.len() > 1 && key.starts_with('0')) {
        return None;
    }
    key.parse::<u32>().ok().filter(|&index| index != u32::MAX)
}

impl serde::Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Through the text, because serde_json prints numbers in another way than JavaScript.
        let raw = serde_json::value::RawValue::from_string(self.to_string());
        raw.map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        let raw = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
        Json::parse(raw.get()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
