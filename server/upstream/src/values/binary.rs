//! Values in Postgres's binary form, as the initial copy receives them.

use engine::replica::SqliteValue;

use super::text::{number, utf8};
use super::{Kind, ValueError, time};

/// Decodes one field of a binary copy. Kinds that are copied as text never come here.
pub(crate) fn decode_binary(kind: Kind, bytes: &[u8]) -> Result<SqliteValue, ValueError> {
    Ok(match kind {
        Kind::Bool => SqliteValue::Integer(i64::from(fixed::<1>(bytes, "bool")?[0] != 0)),
        Kind::Int2 => SqliteValue::Integer(i64::from(i16::from_be_bytes(fixed(bytes, "int2")?))),
        Kind::Int4 => SqliteValue::Integer(i64::from(i32::from_be_bytes(fixed(bytes, "int4")?))),
        Kind::Int8 => SqliteValue::Integer(i64::from_be_bytes(fixed(bytes, "int8")?)),
        Kind::Float4 => float4(f32::from_be_bytes(fixed(bytes, "float4")?))?,
        Kind::Float8 => float8(f64::from_be_bytes(fixed(bytes, "float8")?)),
        Kind::Numeric => numeric(bytes)?,
        Kind::Text | Kind::Json | Kind::Other => SqliteValue::Text(utf8(bytes)?.to_owned()),
        Kind::Jsonb => match bytes.split_first() {
            // The one version of the format there is.
            Some((1, text)) => SqliteValue::Text(utf8(text)?.to_owned()),
            _ => return Err(ValueError { kind: "jsonb" }),
        },
        Kind::Uuid => SqliteValue::Text(uuid(fixed(bytes, "uuid")?)),
        Kind::Bytea => SqliteValue::Blob(bytes.to_vec()),
        Kind::Timestamp | Kind::TimestampTz => time::timestamp_binary(i64::from_be_bytes(fixed(bytes, "timestamp")?))
            .ok_or(ValueError { kind: "timestamp" })?,
        Kind::Date => time::date_binary(i32::from_be_bytes(fixed(bytes, "date")?)),
        Kind::Time => time::time(i64::from_be_bytes(fixed(bytes, "time")?)),
        Kind::TimeTz => {
            let bytes: [u8; 12] = fixed(bytes, "timetz")?;
            let (micros, zone) = bytes.split_at(8);
            let micros = i64::from_be_bytes(fixed(micros, "timetz")?);
            time::time_tz(micros, i64::from(i32::from_be_bytes(fixed(zone, "timetz")?)))
        }
    })
}

fn fixed<const N: usize>(bytes: &[u8], kind: &'static str) -> Result<[u8; N], ValueError> {
    bytes.try_into().map_err(|_| ValueError { kind })
}

fn float8(value: f64) -> SqliteValue {
    if value.is_nan() { SqliteValue::Null } else { SqliteValue::Real(value) }
}

/// The double nearest to the shortest decimal of a float4, which is what its text gives.
fn float4(value: f32) -> Result<SqliteValue, ValueError> {
    if !value.is_finite() || value.fract() == 0.0 {
        return Ok(float8(f64::from(value)));
    }
    value.to_string().parse().map(SqliteValue::Real).map_err(|_| ValueError { kind: "float4" })
}

const NUMERIC_NEGATIVE: u16 = 0x4000;
const NUMERIC_NAN: u16 = 0xC000;
const NUMERIC_INFINITY: u16 = 0xD000;
const NUMERIC_NEGATIVE_INFINITY: u16 = 0xF000;

/// A numeric: groups of four decimal digits, the first of which counts 10000^weight.
fn numeric(bytes: &[u8]) -> Result<SqliteValue, ValueError> {
    let wrong = || ValueError { kind: "numeric" };
    let words: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let [count, weight, sign, _scale, digits @ ..] = words.as_slice() else { return Err(wrong()) };
    if !bytes.len().is_multiple_of(2) || digits.len() != usize::from(*count) || digits.iter().any(|&group| group > 9999)
    {
        return Err(wrong());
    }
    let negative = match *sign {
        0 => false,
        NUMERIC_NEGATIVE => true,
        NUMERIC_NAN => return Ok(SqliteValue::Null),
        NUMERIC_INFINITY => return Ok(SqliteValue::Real(f64::INFINITY)),
        NUMERIC_NEGATIVE_INFINITY => return Ok(SqliteValue::Real(f64::NEG_INFINITY)),
        _ => return Err(wrong()),
    };
    let weight = i64::from(*weight as i16);
    // Up to 15 digits before the point and none after: exact without going through text.
    if digits.is_empty() {
        return Ok(SqliteValue::Real(0.0));
    }
    if digits.len() <= 3 && weight + 1 == digits.len() as i64 {
        let whole = digits.iter().fold(0_i64, |value, &group| value * 10_000 + i64::from(group));
        return Ok(SqliteValue::Real(if negative { -(whole as f64) } else { whole as f64 }));
    }
    // The digits as one whole number with an exponent: the standard parser rounds correctly.
    let mut text = String::with_capacity(digits.len() * 4 + 12);
    if negative {
        text.push('-');
    }
    for group in digits {
        use std::fmt::Write as _;
        let _ = write!(text, "{group:04}");
    }
    let exponent = 4 * (weight + 1 - digits.len() as i64);
    text.push('e');
    text.push_str(&exponent.to_string());
    number(text.as_bytes())
}

fn uuid(bytes: [u8; 16]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 18] = [
        Kind::Bool,
        Kind::Int2,
        Kind::Int4,
        Kind::Int8,
        Kind::Float4,
        Kind::Float8,
        Kind::Numeric,
        Kind::Text,
        Kind::Uuid,
        Kind::Bytea,
        Kind::Json,
        Kind::Jsonb,
        Kind::Timestamp,
        Kind::TimestampTz,
        Kind::Date,
        Kind::Time,
        Kind::TimeTz,
        Kind::Other,
    ];

    #[test]
    fn any_bytes_are_a_value_or_an_error() {
        // A small linear congruential generator: the same bytes in every run.
        let mut state = 1_u64;
        for length in (0..40).cycle().take(20_000) {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 56) as u8
                })
                .collect();
            for kind in KINDS {
                let _ = decode_binary(kind, &bytes);
                let _ = super::super::decode_text(super::super::Decoder { kind, array: None }, &bytes);
                let _ = super::super::decode_text(super::super::Decoder { kind, array: Some(b',') }, &bytes);
            }
        }
    }

    #[test]
    fn numerics() {
        let encode = |weight: i16, sign: u16, digits: &[u16]| {
            let mut words = vec![digits.len() as u16, weight as u16, sign, 0];
            words.extend_from_slice(digits);
            words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>()
        };
        for (bytes, value) in [
            (encode(0, 0, &[]), 0.0),
            (encode(0, 0, &[42]), 42.0),
            (encode(1, NUMERIC_NEGATIVE, &[1, 5000]), -15_000.0),
            (encode(1, 0, &[1]), 10_000.0),
            (encode(0, 0, &[1, 1000]), 1.1),
            (encode(-1, 0, &[1]), 0.0001),
            (encode(0, NUMERIC_INFINITY, &[]), f64::INFINITY),
        ] {
            assert_eq!(numeric(&bytes), Ok(SqliteValue::Real(value)));
        }
        assert_eq!(numeric(&encode(0, NUMERIC_NAN, &[])), Ok(SqliteValue::Null));
        assert!(numeric(&encode(0, 0, &[10_000])).is_err());
    }
}
