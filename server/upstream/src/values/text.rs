//! Values as Postgres prints them.

use engine::replica::SqliteValue;

use super::{Decoder, Kind, ValueError, array, time};

/// Decodes one cell of the stream, or of a copied column that is sent as text.
pub(crate) fn decode_text(decoder: Decoder, text: &[u8]) -> Result<SqliteValue, ValueError> {
    match decoder.array {
        None => scalar(decoder.kind, text),
        Some(delimiter) => array::to_json(decoder.kind, delimiter, text).map(SqliteValue::Text),
    }
}

/// Decodes one scalar.
pub(super) fn scalar(kind: Kind, text: &[u8]) -> Result<SqliteValue, ValueError> {
    match kind {
        Kind::Bool => match text {
            b"t" => Ok(SqliteValue::Integer(1)),
            b"f" => Ok(SqliteValue::Integer(0)),
            _ => Err(ValueError { kind: "bool" }),
        },
        Kind::Int2 | Kind::Int4 | Kind::Int8 => {
            utf8(text)?.parse().map(SqliteValue::Integer).map_err(|_| ValueError { kind: "integer" })
        }
        Kind::Float4 | Kind::Float8 | Kind::Numeric => number(text),
        Kind::Bytea => bytea(text).map(SqliteValue::Blob),
        Kind::Timestamp => time::timestamp_text(text, false).ok_or(ValueError { kind: "timestamp" }),
        Kind::TimestampTz => time::timestamp_text(text, true).ok_or(ValueError { kind: "timestamptz" }),
        Kind::Date => time::date_text(text).ok_or(ValueError { kind: "date" }),
        Kind::Time => time::time_text(text).ok_or(ValueError { kind: "time" }),
        Kind::TimeTz => time::time_tz_text(text).ok_or(ValueError { kind: "timetz" }),
        Kind::Text | Kind::Uuid | Kind::Json | Kind::Jsonb | Kind::Other => {
            Ok(SqliteValue::Text(utf8(text)?.to_owned()))
        }
    }
}

/// A number by its decimal text. What is not a number is NULL, as JSON has it.
pub(super) fn number(text: &[u8]) -> Result<SqliteValue, ValueError> {
    match text {
        b"NaN" => Ok(SqliteValue::Null),
        b"Infinity" => Ok(SqliteValue::Real(f64::INFINITY)),
        b"-Infinity" => Ok(SqliteValue::Real(f64::NEG_INFINITY)),
        _ => {
            let number: f64 = utf8(text)?.parse().map_err(|_| ValueError { kind: "number" })?;
            // Rust reads "inf" and "nan" in any case, which Postgres does not print.
            if text.iter().any(|byte| byte.is_ascii_alphabetic() && *byte != b'e') {
                return Err(ValueError { kind: "number" });
            }
            Ok(SqliteValue::Real(number))
        }
    }
}

pub(super) fn utf8(text: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(text).map_err(|_| ValueError { kind: "text" })
}

fn bytea(text: &[u8]) -> Result<Vec<u8>, ValueError> {
    let wrong = || ValueError { kind: "bytea" };
    let digits = text.strip_prefix(b"\\x").ok_or_else(wrong)?;
    if !digits.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    digits
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(wrong)
}
