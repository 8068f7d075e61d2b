//! Arrays as Postgres prints them, to JSON text.
//!
//! `{1,NULL,{…}}`, elements quoted where needed, with an optional prefix of bounds (`[2:3]=`). Elements
//! become what their type becomes as a scalar, in JSON: booleans as `true` and `false`, times as
//! milliseconds, JSON embedded, everything that is not a number or JSON as a string.

use engine::replica::SqliteValue;

use super::text::{scalar, utf8};
use super::{Kind, ValueError};

/// Postgres's own limit of dimensions.
const DIMENSIONS_MAX: usize = 6;

/// The JSON text of an array.
pub(super) fn to_json(kind: Kind, delimiter: u8, text: &[u8]) -> Result<String, ValueError> {
    // Bounds other than 1 are printed before the array; JSON has no place for them.
    let start = match text.first() {
        Some(b'[') => text.iter().position(|&byte| byte == b'=').map_or(text.len(), |at| at + 1),
        _ => 0,
    };
    let mut parser = Parser { kind, delimiter, rest: &text[start..], json: String::with_capacity(text.len() + 8) };
    parser.array(1)?;
    if parser.rest.is_empty() { Ok(parser.json) } else { Err(WRONG) }
}

const WRONG: ValueError = ValueError { kind: "array" };

struct Parser<'a> {
    kind: Kind,
    delimiter: u8,
    rest: &'a [u8],
    json: String,
}

impl Parser<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn array(&mut self, depth: usize) -> Result<(), ValueError> {
        if depth > DIMENSIONS_MAX || !self.eat(b'{') {
            return Err(WRONG);
        }
        self.json.push('[');
        if self.eat(b'}') {
            self.json.push(']');
            return Ok(());
        }
        loop {
            match self.rest.first() {
                Some(b'{') => self.array(depth + 1)?,
                Some(b'"') => self.quoted()?,
                Some(_) => self.bare()?,
                None => return Err(WRONG),
            }
            if self.eat(b'}') {
                self.json.push(']');
                return Ok(());
            }
            if !self.eat(self.delimiter) {
                return Err(WRONG);
            }
            self.json.push(',');
        }
    }

    fn bare(&mut self) -> Result<(), ValueError> {
        let delimiter = self.delimiter;
        let length = self.rest.iter().position(|&byte| byte == delimiter || byte == b'}').ok_or(WRONG)?;
        let (element, rest) = self.rest.split_at(length);
        self.rest = rest;
        if element == b"NULL" {
            self.json.push_str("null");
            return Ok(());
        }
        self.element(element)
    }

    fn quoted(&mut self) -> Result<(), ValueError> {
        let mut element = Vec::new();
        let mut at = 1;
        loop {
            match self.rest.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    element.push(*self.rest.get(at + 1).ok_or(WRONG)?);
                    at += 2;
                }
                Some(&byte) => {
                    element.push(byte);
                    at += 1;
                }
                None => return Err(WRONG),
            }
        }
        self.rest = &self.rest[at + 1..];
        self.element(&element)
    }

    fn element(&mut self, text: &[u8]) -> Result<(), ValueError> {
        match self.kind {
            Kind::Json | Kind::Jsonb => compact_json(utf8(text)?, &mut self.json),
            Kind::Bool => {
                let SqliteValue::Integer(value) = scalar(self.kind, text)? else { return Err(WRONG) };
                self.json.push_str(if value == 1 { "true" } else { "false" });
            }
            // As a string: JSON has no bytes.
            Kind::Bytea => push_string(utf8(text)?, &mut self.json),
            _ => match scalar(self.kind, text)? {
                SqliteValue::Integer(value) => self.json.push_str(&value.to_string()),
                SqliteValue::Real(value) if value.is_finite() => push_number(value, &mut self.json),
                SqliteValue::Text(value) => push_string(&value, &mut self.json),
                SqliteValue::Real(_) | SqliteValue::Null | SqliteValue::Blob(_) => self.json.push_str("null"),
            },
        }
        Ok(())
    }
}

fn push_number(value: f64, json: &mut String) {
    // Whole numbers without a fraction, as JavaScript writes them, as long as every digit counts.
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        json.push_str(&(value as i64).to_string());
    } else {
        // serde_json writes the shortest text that reads as the same number.
        json.push_str(&serde_json::Number::from_f64(value).map_or_else(|| "null".to_owned(), |n| n.to_string()));
    }
}

fn push_string(text: &str, json: &mut String) {
    json.push_str(&serde_json::Value::from(text).to_string());
}

/// JSON without white space between its tokens.
fn compact_json(text: &str, json: &mut String) {
    let mut in_string = false;
    let mut escaped = false;
    for c in text.chars() {
        if in_string {
            json.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if !matches!(c, ' ' | '\n' | '\r' | '\t') {
            json.push(c);
            in_string = c == '"';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays() {
        let cases = [
            (Kind::Int4, "{}", "[]"),
            (Kind::Int4, "{1,NULL,-3}", "[1,null,-3]"),
            (Kind::Int4, "[2:3]={1,2}", "[1,2]"),
            (Kind::Int4, "{{1,2},{3,4}}", "[[1,2],[3,4]]"),
            (
                Kind::Text,
                r#"{"a,b","q\"uote","NULL",NULL,"",plain,"back\\slash"}"#,
                r#"["a,b","q\"uote","NULL",null,"","plain","back\\slash"]"#,
            ),
            (Kind::Bool, "{t,f,NULL}", "[true,false,null]"),
            (Kind::Int8, "{9007199254740993}", "[9007199254740993]"),
            (Kind::Float8, "{1.5,Infinity,NaN,1e+21,3}", "[1.5,null,null,1e+21,3]"),
            (Kind::Float4, "{1.1}", "[1.1]"),
            (Kind::Jsonb, r#"{"{\"a\": [1, 2], \"b c\": \"x \\\" y\"}"}"#, r#"[{"a":[1,2],"b c":"x \" y"}]"#),
            (Kind::Timestamp, r#"{"1970-01-01 00:00:01"}"#, "[1000]"),
            (Kind::Date, "{1970-01-02}", "[86400000]"),
            (Kind::Bytea, r#"{"\\x01ff"}"#, r#"["\\x01ff"]"#),
        ];
        for (kind, text, json) in cases {
            assert_eq!(to_json(kind, b',', text.as_bytes()).as_deref(), Ok(json), "{text}");
        }
        assert_eq!(
            to_json(Kind::Other, b';', b"{(1,1),(0,0);(2,2),(1,1)}").as_deref(),
            Ok(r#"["(1,1),(0,0)","(2,2),(1,1)"]"#)
        );
    }

    #[test]
    fn malformed_arrays_are_errors() {
        for text in
            ["", "{", "}", "{1", "{1,", "{1,}", "{\"a}", "{\"a\\", "{1}x", "{{{{{{{1}}}}}}}", "[1:2]", "{x}", "1"]
        {
            assert!(to_json(Kind::Int4, b',', text.as_bytes()).is_err(), "{text}");
        }
    }
}
