//! Every type gives the same cell through the copy and through the stream.

use rusqlite::types::Value;

use crate::harness::{World, dump};

/// Type, an expression of it, and what the replica holds. Columns are named c0, c1, …
fn cases() -> Vec<(&'static str, &'static str, Value)> {
    let text = |text: &str| Value::Text(text.to_owned());
    use Value::{Blob, Integer, Null, Real};
    vec![
        ("bool", "true", Integer(1)),
        ("bool", "false", Integer(0)),
        ("int2", "-32768", Integer(-32768)),
        ("int4", "2147483647", Integer(2_147_483_647)),
        ("int8", "9223372036854775807", Integer(i64::MAX)),
        ("float4", "1.1", Real(1.1)),
        ("float4", "16777216", Real(16_777_216.0)),
        ("float4", "'NaN'", Null),
        ("float4", "'-Infinity'", Real(f64::NEG_INFINITY)),
        ("float4", "1e-30", Real(1e-30)),
        ("float8", "0.1", Real(0.1)),
        ("float8", "'Infinity'", Real(f64::INFINITY)),
        ("float8", "1e300", Real(1e300)),
        ("numeric(20,5)", "12345.678", Real(12345.678)),
        ("numeric", "100000000000000000000", Real(1e20)),
        ("numeric", "0.00000000000000000001", Real(1e-20)),
        ("numeric", "-42.00", Integer(-42)),
        ("numeric", "'NaN'", Null),
        ("numeric", "'Infinity'", Real(f64::INFINITY)),
        ("text", "'héllo'", text("héllo")),
        ("text", "'123'", text("123")),
        ("varchar(10)", "'v'", text("v")),
        ("char(5)", "'ab'", text("ab   ")),
        ("\"char\"", "'x'", text("x")),
        ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
        ("bytea", "'\\x00ff10'", Blob(vec![0, 255, 16])),
        ("json", "'{ \"b\" : 1, \"a\": [true] }'", text("{ \"b\" : 1, \"a\": [true] }")),
        ("jsonb", "'{ \"b\" : 1, \"a\": [true] }'", text("{\"a\": [true], \"b\": 1}")),
        ("timestamp", "'2024-01-02 03:04:05.123456'", Real(1_704_164_645_123.456)),
        ("timestamp", "'infinity'", Real(f64::INFINITY)),
        ("timestamp", "'0044-03-15 12:00:00 BC'", Integer(-63_517_780_800_000)),
        ("timestamptz", "'2024-01-02 03:04:05+05:30'", Integer(1_704_144_845_000)),
        ("timestamptz", "'-infinity'", Real(f64::NEG_INFINITY)),
        ("date", "'2024-02-29'", Integer(1_709_164_800_000)),
        ("date", "'infinity'", Real(f64::INFINITY)),
        ("time", "'24:00:00'", Integer(86_400_000)),
        ("time", "'12:34:56.789999'", Integer(45_296_789)),
        ("timetz", "'01:00:00+02'", Integer(82_800_000)),
        ("mood", "'happy'", text("happy")),
        ("inet", "'10.0.0.1'", text("10.0.0.1")),
        ("inet", "'10.0.0.0/8'", text("10.0.0.0/8")),
        ("cidr", "'10.0.0.0/8'", text("10.0.0.0/8")),
        ("macaddr", "'08:00:2b:01:02:03'", text("08:00:2b:01:02:03")),
        ("pg_lsn", "'16/B374D848'", text("16/B374D848")),
        ("interval", "'1 day 2 hours'", text("1 day 02:00:00")),
        ("money", "'12.34'", text("$12.34")),
        ("bit(3)", "B'101'", Integer(101)),
        ("xml", "'<a/>'", text("<a/>")),
        ("tsvector", "'a b'", text("'a' 'b'")),
        ("int4range", "'[1,3)'", text("[1,3)")),
        ("point", "'(1,2)'", text("(1,2)")),
        ("box", "'(2,2),(1,1)'", text("(2,2),(1,1)")),
        ("name", "'n'", text("n")),
        ("oid", "42", Integer(42)),
        ("positive", "7", Integer(7)),
        ("padded", "'p'", text("p    ")),
        ("pair", "ROW(NULL, NULL)::pair", text("(,)")),
        ("pair", "ROW(1, 'x')::pair", text("(1,x)")),
        ("int4[]", "'{1,NULL,3}'", text("[1,null,3]")),
        ("int4[]", "'{}'", text("[]")),
        ("int4[][]", "'{{1,2},{3,4}}'", text("[[1,2],[3,4]]")),
        ("int8[]", "'{9007199254740993}'", text("[9007199254740993]")),
        (
            "text[]",
            "ARRAY['a,b', 'q\"uote', 'NULL', NULL, '', E'new\\nline']",
            text(r#"["a,b","q\"uote","NULL",null,"","new\nline"]"#),
        ),
        ("bool[]", "'{t,f,NULL}'", text("[true,false,null]")),
        ("float8[]", "'{1.5,Infinity,2}'", text("[1.5,null,2]")),
        ("numeric[]", "'{1.10,2}'", text("[1.1,2]")),
        ("uuid[]", "'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'", text(r#"["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]"#)),
        ("jsonb[]", "ARRAY['{\"a\": 1}'::jsonb, 'null'::jsonb]", text(r#"[{"a":1},null]"#)),
        ("json[]", "ARRAY['[1, 2]'::json]", text("[[1,2]]")),
        ("timestamp[]", "'{1970-01-01 00:00:01}'", text("[1000]")),
        ("date[]", "'{1970-01-02}'", text("[86400000]")),
        ("time[]", "'{00:00:01}'", text("[1000]")),
        ("mood[]", "'{happy,sad}'", text(r#"["happy","sad"]"#)),
        ("inet[]", "'{10.0.0.1}'", text(r#"["10.0.0.1"]"#)),
        ("bytea[]", "ARRAY['\\x01'::bytea]", text(r#"["\\x01"]"#)),
        ("box[]", "ARRAY['(2,2),(1,1)'::box, '(1,1),(0,0)'::box]", text(r#"["(2,2),(1,1)","(1,1),(0,0)"]"#)),
        ("varchar(3)[]", "'{abc}'", text(r#"["abc"]"#)),
        ("positive[]", "'{1,2}'", text(r#"["1","2"]"#)),
    ]
}

const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE DOMAIN padded AS char(5);
    CREATE TYPE pair AS (a int, b text);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn value_roundtrip() {
    let cases = cases();
    let columns: Vec<String> = cases.iter().enumerate().map(|(at, (pg_type, ..))| format!("c{at} {pg_type}")).collect();
    let values: Vec<&str> = cases.iter().map(|(_, value, _)| *value).collect();
    let insert = |id: u32| format!("INSERT INTO t VALUES ({id}, {});", values.join(", "));
    let null_row = "INSERT INTO t (id) VALUES (100);";
    let world = World::new(&format!(
        "{TYPES} CREATE TABLE t (id int PRIMARY KEY, {}); {} {null_row}",
        columns.join(", "),
        insert(1)
    ));
    // Settings of a role must not change how the stream prints values.
    world.sql(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET datestyle = ''German''', current_database()); \
         EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Tokyo''', current_database()); \
         EXECUTE format('ALTER DATABASE %I SET intervalstyle = ''iso_8601''', current_database()); \
         EXECUTE format('ALTER DATABASE %I SET bytea_output = ''escape''', current_database()); \
         EXECUTE format('ALTER DATABASE %I SET extra_float_digits = -3', current_database()); END $$",
    );
    let mut followed = world.follow().await;
    followed.after(&world, &format!("SET timezone = 'UTC'; {}", insert(2))).await;

    let connection = rusqlite::Connection::open(world.path()).unwrap();
    for (at, (pg_type, value, expected)) in cases.iter().enumerate() {
        let cell = |id: u32| -> Value {
            connection.query_row(&format!("SELECT c{at} FROM t WHERE id = {id}"), [], |row| row.get(0)).unwrap()
        };
        assert_eq!(&cell(1), expected, "copied {pg_type} {value}");
        assert_eq!(&cell(2), expected, "streamed {pg_type} {value}");
        assert_eq!(cell(100), Value::Null, "copied NULL {pg_type}");
    }
    // The same rows written again are no change: the stream's form of a value is the copy's.
    followed.after(&world, "UPDATE t SET id = id").await;
    followed.running.stop().await.unwrap();
    assert_eq!(dump(&world.path()), world.fresh_dump().await);
}
