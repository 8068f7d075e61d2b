//! ZQL values, their equality and their total order.
//!
//! A value is what a client sees in a row or writes as a literal. The order is that of the language:
//! null lowest, false before true, numbers by size with −0 equal to 0, strings by UTF-8 bytes. It is
//! total within a column, whose values are of one type or null; across types it is by type, so that
//! the order stays total without meaning anything.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::json::Json;

/// One ZQL value.
#[derive(Clone, Debug)]
pub enum Value {
    /// SQL NULL or JSON `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A JavaScript number. Never NaN; may be infinite (infinite timestamps).
    Number(f64),
    /// A string.
    String(Arc<str>),
    /// A JSON document, as its text. Compared by text: the language gives JSON no other meaning.
    Json(Arc<str>),
}

/// A value that is borrowed from wherever it is kept.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// As [`Value::Null`].
    Null,
    /// As [`Value::Bool`].
    Bool(bool),
    /// As [`Value::Number`].
    Number(f64),
    /// As [`Value::String`].
    String(&'a str),
    /// As [`Value::Json`].
    Json(&'a str),
}

impl From<ValueRef<'_>> for Value {
    #[inline(always)]
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Value::Null,
            ValueRef::Bool(bool) => Value::Bool(bool),
            ValueRef::Number(number) => Value::Number(number),
            ValueRef::String(text) => Value::String(Arc::from(text)),
            ValueRef::Json(text) => Value::Json(Arc::from(text)),
        }
    }
}

impl<'a> From<&'a Value> for ValueRef<'a> {
    #[inline(always)]
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => ValueRef::Null,
            Value::Bool(bool) => ValueRef::Bool(*bool),
            Value::Number(number) => ValueRef::Number(*number),
            Value::String(text) => ValueRef::String(text),
            Value::Json(text) => ValueRef::Json(text),
        }
    }
}

impl Value {
    /// A string value.
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Value::String(text.into())
    }

    /// Whether the value is null.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Equality as correlations and `=` see it: null equals nothing, not even null.
    pub fn joins(&self, other: &Value) -> bool {
        !self.is_null() && self == other
    }

    /// A JSON value as a ZQL value; objects and arrays become documents.
    pub fn from_json(json: &Json) -> Value {
        match json {
            Json::Null => Value::Null,
            Json::Bool(bool) => Value::Bool(*bool),
            Json::Number(number) => Value::Number(*number),
            Json::String(text) => Value::String(Arc::clone(text)),
            Json::Array(_) | Json::Object(_) => Value::Json(json.to_string().into()),
        }
    }

    /// The value as JSON. A document that is no JSON becomes null.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Null => Json::Null,
            Value::Bool(bool) => Json::Bool(*bool),
            Value::Number(number) => Json::Number(*number),
            Value::String(text) => Json::String(Arc::clone(text)),
            Value::Json(text) => Json::parse(text).unwrap_or(Json::Null),
        }
    }

    fn type_rank(&self) -> u8 {
        match self {
            Value::Null => 0,
            Value::Bool(_) => 1,
            Value::Number(_) => 2,
            Value::String(_) => 3,
            Value::Json(_) => 4,
        }
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            // Adding 0.0 turns −0 into 0, which the language does not tell apart.
            (Value::Number(a), Value::Number(b)) => (a + 0.0).total_cmp(&(b + 0.0)),
            (Value::String(a), Value::String(b)) | (Value::Json(a), Value::Json(b)) => a.as_bytes().cmp(b.as_bytes()),
            _ => self.type_rank().cmp(&other.type_rank()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // Images of a row share what a write left as it was, and that is equal without a look at it.
            (Value::String(a), Value::String(b)) | (Value::Json(a), Value::Json(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => self.cmp(other) == Ordering::Equal,
        }
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u8(self.type_rank());
        match self {
            Value::Null => {}
            Value::Bool(b) => state.write_u8(u8::from(*b)),
            Value::Number(n) => state.write_u64((n + 0.0).to_bits()),
            Value::String(s) | Value::Json(s) => s.hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Value;

    #[test]
    fn order_is_that_of_the_language() {
        let ascending = [
            Value::Null,
            Value::Bool(false),
            Value::Bool(true),
            Value::Number(f64::NEG_INFINITY),
            Value::Number(-0.0),
            Value::Number(1.5),
            Value::string(""),
            Value::string("\u{FFFD}"),
            Value::string("😀"),
        ];
        assert!(ascending.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(Value::Number(-0.0), Value::Number(0.0));
        assert!(!Value::Null.joins(&Value::Null));
    }
}
