//! Tables, columns and indexes as the replica file declares them.
//!
//! A column's declared SQLite type is the upstream type followed by flags, so that the file alone says
//! what a column holds: `int4|NOT_NULL`, `mood|NOT_NULL|TEXT_ENUM`, `int4[]|TEXT_ARRAY`. This module makes
//! and reads these strings and maps them to ZQL types. It must not touch SQLite.

use zql_spec::ast::Direction;
use zql_spec::schema::ValueType;

/// A replicated table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableSpec {
    /// Name in the replica: `issue`, or `schema.table` outside Postgres's `public`.
    pub name: String,
    /// The table's schema upstream, for `_zero.tableMetadata`.
    pub upstream_schema: String,
    /// The table's name upstream.
    pub upstream_name: String,
    /// Columns in upstream order.
    pub columns: Vec<ColumnSpec>,
    /// What the change source wants to remember about the table (JSON); kept in `_zero.tableMetadata`.
    pub metadata: Option<String>,
}

/// A replicated column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnSpec {
    /// Name.
    pub name: String,
    /// Upstream type name without dimensions: `int4`, `varchar`, `mood`.
    pub pg_type: String,
    /// Array dimensions; 0 for a scalar.
    pub dimensions: u8,
    /// Whether the (element) type is an enum.
    pub is_enum: bool,
    /// Whether upstream forbids null.
    pub not_null: bool,
    /// Declared length (`varchar(n)`).
    pub max_length: Option<i64>,
    /// For a column added to an existing table: what existing rows get, as a SQLite literal (`1`, `'x'`).
    pub default: Option<String>,
    /// JSON saying how to fill the column while it is being backfilled; hides the column until cleared.
    pub backfill: Option<String>,
}

/// An index mirrored from upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSpec {
    /// Name, unique in the replica.
    pub name: String,
    /// The table's name in the replica.
    pub table: String,
    /// Whether upstream guarantees uniqueness. Partial and expression indexes must not be passed.
    pub unique: bool,
    /// Columns and directions.
    pub columns: Vec<(String, Direction)>,
}

impl ColumnSpec {
    /// The declared type: `<pg type>[dims][|NOT_NULL][|TEXT_ENUM][|TEXT_ARRAY]`.
    pub fn declared_type(&self) -> String {
        let mut text = self.pg_type.clone();
        for _ in 0..self.dimensions {
            text.push_str("[]");
        }
        if self.not_null {
            text.push_str("|NOT_NULL");
        }
        if self.is_enum {
            text.push_str("|TEXT_ENUM");
        }
        if self.dimensions > 0 {
            text.push_str("|TEXT_ARRAY");
        }
        text
    }

    /// Reads a declared type, in the forms of older replicas too (`x[]` without a flag, flags in any order).
    pub fn from_declared(name: &str, declared: &str) -> Self {
        let mut parts = declared.split('|');
        let mut column = ColumnSpec { name: name.to_owned(), ..ColumnSpec::default() };
        let mut dims = 0;
        let mut strip = |part: &str| {
            let mut base = part;
            while let Some(shorter) = base.strip_suffix("[]") {
                base = shorter;
                dims += 1;
            }
            base.to_owned()
        };
        column.pg_type = strip(parts.next().unwrap_or_default());
        let mut array = false;
        for part in parts {
            match strip(part).as_str() {
                "NOT_NULL" => column.not_null = true,
                "TEXT_ENUM" => column.is_enum = true,
                "TEXT_ARRAY" => array = true,
                _ => {}
            }
        }
        if array && dims == 0 {
            dims = 1;
        }
        column.dimensions = dims;
        column
    }

    /// The ZQL type of the column, or `None` if clients cannot see columns of its type.
    pub fn value_type(&self) -> Option<ValueType> {
        if self.dimensions > 0 {
            return Some(ValueType::Json);
        }
        let by_name = named_type(&self.pg_type);
        if self.is_enum { by_name.or(Some(ValueType::String)) } else { by_name }
    }

    /// Whether the column's values may be sent to clients now.
    pub fn visible_type(&self) -> Option<ValueType> {
        if self.backfill.is_some() { None } else { self.value_type() }
    }

    /// Whether SQLite turns numeric-looking text into numbers in this column (its type affinity).
    pub fn coerces_text(&self) -> bool {
        let declared = self.declared_type().to_ascii_uppercase();
        if declared.contains("INT") {
            return true;
        }
        !["CHAR", "CLOB", "TEXT", "BLOB"].iter().any(|name| declared.contains(name))
    }
}

/// ZQL types by upstream type name; arguments such as `(10,2)` are ignored.
fn named_type(pg_type: &str) -> Option<ValueType> {
    let mut name = String::with_capacity(pg_type.len());
    let mut depth = 0;
    for c in pg_type.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            c if depth == 0 => name.push(c.to_ascii_lowercase()),
            _ => {}
        }
    }
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(match name.as_str() {
        "smallint" | "integer" | "int" | "int2" | "int4" | "int8" | "bigint" | "smallserial" | "serial" | "serial2"
        | "serial4" | "serial8" | "bigserial" | "decimal" | "numeric" | "real" | "double precision" | "float"
        | "float4" | "float8" => ValueType::Number,
        "date"
        | "time"
        | "timetz"
        | "timestamp"
        | "timestamptz"
        | "time with time zone"
        | "time without time zone"
        | "timestamp with time zone"
        | "timestamp without time zone" => ValueType::Number,
        "bpchar" | "character" | "character varying" | "text" | "varchar" | "uuid" | "cidr" | "inet" | "macaddr"
        | "macaddr8" | "pg_lsn" | "ean13" | "isbn" | "isbn13" | "ismn" | "ismn13" | "issn" | "issn13" | "upc" => {
            ValueType::String
        }
        "bool" | "boolean" => ValueType::Boolean,
        "json" | "jsonb" => ValueType::Json,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_round_trip() {
        for (declared, value_type) in [
            ("int8|NOT_NULL", Some(ValueType::Number)),
            ("mood|NOT_NULL|TEXT_ENUM", Some(ValueType::String)),
            ("int4[][]|TEXT_ARRAY", Some(ValueType::Json)),
            ("mood[]|TEXT_ENUM|TEXT_ARRAY", Some(ValueType::Json)),
            ("numeric(10, 2)", Some(ValueType::Number)),
            ("TIMESTAMP(3) with time zone", Some(ValueType::Number)),
            ("bytea", None),
            // `char(n)` is `bpchar`; this is the type of one byte, which zero-cache replicates and does not sync.
            ("char", None),
            ("interval", None),
            ("TEXT", Some(ValueType::String)),
        ] {
            let column = ColumnSpec::from_declared("c", declared);
            assert_eq!(column.declared_type(), declared);
            assert_eq!(column.value_type(), value_type, "{declared}");
        }
    }

    #[test]
    fn declared_types_of_older_replicas() {
        for (declared, modern) in [
            ("int4[]", "int4[]|TEXT_ARRAY"),
            ("int4|TEXT_ARRAY[]", "int4[]|TEXT_ARRAY"),
            ("int4|NOT_NULL[]", "int4[]|NOT_NULL|TEXT_ARRAY"),
        ] {
            assert_eq!(ColumnSpec::from_declared("c", declared).declared_type(), modern);
        }
    }

    #[test]
    fn affinity() {
        for (declared, coerces) in [
            ("TEXT", false),
            ("varchar|NOT_NULL", false),
            ("uuid", true),
            ("json", true),
            ("int4[]|TEXT_ARRAY", true),
            ("bool[]|TEXT_ARRAY", false),
            ("mood|TEXT_ENUM", false),
        ] {
            assert_eq!(ColumnSpec::from_declared("c", declared).coerces_text(), coerces, "{declared}");
        }
    }
}
