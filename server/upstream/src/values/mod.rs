//! Postgres values to replica storage values.
//!
//! A value reaches us in two forms: binary from the initial copy and text from the stream. Both must give
//! the same cell, or a row would seem to change when it is only written again. So what a value becomes
//! is decided once per type here ([`Kind`]), the two decoders end in the same functions, and types
//! without a binary decoder of ours are copied as the text that the stream would carry.
//!
//! Where zero-cache's copy and stream disagree, the choice is: float4 by its shortest decimal (what
//! Postgres prints, 1.1), infinities kept, bytea as bytes, inet without a full netmask, NULL in arrays
//! as `null`.

mod array;
mod binary;
mod text;
mod time;

pub(crate) use binary::decode_binary;
pub(crate) use text::decode_text;

use crate::names::ident;
use crate::published::PublishedColumn;
use engine::replica::ColumnSpec;

/// Why a value cannot be stored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a value of type {kind}")]
pub(crate) struct ValueError {
    pub(crate) kind: &'static str,
}

/// What a scalar value becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 0 or 1.
    Bool,
    /// A 64-bit integer.
    Int2,
    /// A 64-bit integer.
    Int4,
    /// A 64-bit integer.
    Int8,
    /// A double with the value of the shortest decimal.
    Float4,
    /// A double.
    Float8,
    /// The nearest double.
    Numeric,
    /// Text as it is (also enum labels).
    Text,
    /// Lower-case text with dashes.
    Uuid,
    /// Bytes.
    Bytea,
    /// JSON text as written.
    Json,
    /// JSON text as Postgres prints it.
    Jsonb,
    /// Milliseconds since 1970, microseconds in the fraction.
    Timestamp,
    /// The same in UTC.
    TimestampTz,
    /// Milliseconds since 1970 of UTC midnight.
    Date,
    /// Milliseconds since midnight.
    Time,
    /// Milliseconds since midnight UTC.
    TimeTz,
    /// What Postgres prints.
    Other,
}

/// How to decode a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decoder {
    /// The kind of the value, or of an array's elements.
    pub(crate) kind: Kind,
    /// For an array: what separates its elements in text.
    pub(crate) array: Option<u8>,
}

impl Decoder {
    /// The decoder of a type: by object id for built-in types, else by what the replica knows of it.
    pub(crate) fn new(type_oid: u32, is_enum: bool, is_array: bool) -> Decoder {
        if !is_array {
            let kind = if is_enum { Kind::Text } else { scalar_kind(type_oid) };
            return Decoder { kind, array: None };
        }
        let kind = if is_enum { Kind::Text } else { element_kind(type_oid) };
        // `box` is the only type of Postgres whose elements are not separated by commas.
        Decoder { kind, array: Some(if type_oid == BOX_ARRAY { b';' } else { b',' }) }
    }

    /// Whether the copy sends this column in binary form; otherwise as the text that the stream has.
    pub(crate) fn copies_binary(&self) -> bool {
        self.array.is_none() && self.kind != Kind::Other
    }

    /// The expression that a copy selects for a column.
    pub(crate) fn copy_expression(&self, column: &str) -> String {
        let column = ident(column);
        if self.copies_binary() {
            return column;
        }
        // A cast to text is not what the stream has (inet, bpchar below a domain); `format` calls the output
        // function as the stream does. `IS NULL` would be true of a composite value of nulls.
        format!("CASE WHEN {column} IS DISTINCT FROM NULL THEN format('%s', {column}) END")
    }
}

const BOX_ARRAY: u32 = 1020;

fn scalar_kind(oid: u32) -> Kind {
    match oid {
        16 => Kind::Bool,
        17 => Kind::Bytea,
        20 => Kind::Int8,
        21 => Kind::Int2,
        23 => Kind::Int4,
        25 | 1042 | 1043 => Kind::Text,
        114 => Kind::Json,
        700 => Kind::Float4,
        701 => Kind::Float8,
        1082 => Kind::Date,
        1083 => Kind::Time,
        1114 => Kind::Timestamp,
        1184 => Kind::TimestampTz,
        1266 => Kind::TimeTz,
        1700 => Kind::Numeric,
        2950 => Kind::Uuid,
        3802 => Kind::Jsonb,
        _ => Kind::Other,
    }
}

fn element_kind(array_oid: u32) -> Kind {
    match array_oid {
        199 => Kind::Json,
        1000 => Kind::Bool,
        1005 => Kind::Int2,
        1007 => Kind::Int4,
        1016 => Kind::Int8,
        1009 | 1014 | 1015 => Kind::Text,
        1021 => Kind::Float4,
        1022 => Kind::Float8,
        1115 => Kind::Timestamp,
        1182 => Kind::Date,
        1183 => Kind::Time,
        1185 => Kind::TimestampTz,
        1231 => Kind::Numeric,
        1270 => Kind::TimeTz,
        2951 => Kind::Uuid,
        3807 => Kind::Jsonb,
        _ => Kind::Other,
    }
}

/// The replica's declaration of a published column.
pub(crate) fn column_spec(name: &str, column: &PublishedColumn) -> ColumnSpec {
    let mut pg_type = column.data_type.as_str();
    let mut dimensions = 0;
    if column.elem_pg_type_class.is_some() {
        while let Some(element) = pg_type.strip_suffix("[]") {
            pg_type = element;
            dimensions += 1;
        }
    }
    let class = column.elem_pg_type_class.as_deref().or(column.pg_type_class.as_deref());
    ColumnSpec {
        name: name.to_owned(),
        pg_type: pg_type.to_owned(),
        dimensions,
        is_enum: class == Some("e"),
        not_null: column.not_null == Some(true),
        max_length: column.character_maximum_length.map(i64::from),
        default: None,
        backfill: None,
    }
}

/// The decoder of a published column.
pub(crate) fn column_decoder(column: &PublishedColumn) -> Decoder {
    let spec = column_spec("", column);
    Decoder::new(column.type_oid, spec.is_enum, spec.dimensions > 0)
}
