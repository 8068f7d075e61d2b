//! Changes of every kind: the followed replica equals a fresh copy.

use upstream::Error;

use crate::harness::{World, dump};

const SCHEMA: &str = "
    CREATE SCHEMA other;
    CREATE TABLE t (id int PRIMARY KEY, a text, b int);
    CREATE TABLE composite (x int, y text, v jsonb, PRIMARY KEY (y, x));
    CREATE TABLE other.t (id uuid PRIMARY KEY, v text);
    CREATE TABLE whole (id int PRIMARY KEY, a text, big text); ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE indexed (id int, code text NOT NULL, v int);
    CREATE UNIQUE INDEX indexed_code ON indexed (code); ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_code;
    CREATE TABLE chosen (code text NOT NULL UNIQUE, v int);
    CREATE TABLE toasted (id int PRIMARY KEY, small int, big text);
    CREATE TABLE swapped (id int PRIMARY KEY, place int NOT NULL, UNIQUE (place) DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE keyless (a int);
    CREATE TABLE wholekeyless (a int); ALTER TABLE wholekeyless REPLICA IDENTITY FULL;
    CREATE PUBLICATION everything FOR TABLES IN SCHEMA public, other;
    INSERT INTO t SELECT i, 'a' || i, i FROM generate_series(1, 100) i;
    INSERT INTO composite SELECT i, 'y' || i % 3, '{\"k\": 1}' FROM generate_series(1, 20) i;
    INSERT INTO other.t SELECT gen_random_uuid(), i FROM generate_series(1, 10) i;
    INSERT INTO whole SELECT i, i, (SELECT string_agg(md5(j::text || i), '') FROM generate_series(1, 500) j) FROM generate_series(1, 5) i;
    INSERT INTO indexed SELECT i, 'c' || i, i FROM generate_series(1, 10) i;
    INSERT INTO chosen SELECT 'c' || i, i FROM generate_series(1, 10) i;
    INSERT INTO toasted SELECT i, i, (SELECT string_agg(md5(j::text || i), '') FROM generate_series(1, 500) j) FROM generate_series(1, 5) i;
    INSERT INTO swapped SELECT i, i FROM generate_series(1, 5) i;";

/// One transaction each; psql runs every statement in its own unless told otherwise.
const CHANGES: &[&str] = &[
    "INSERT INTO t VALUES (1000, NULL, 1), (1001, '', NULL)",
    "UPDATE t SET a = a || '!' WHERE id < 50",
    "UPDATE t SET id = id + 5000 WHERE id < 10",
    "DELETE FROM t WHERE id % 7 = 0",
    "BEGIN; INSERT INTO t VALUES (2000, 'x', 1); UPDATE t SET a = 'y' WHERE id = 2000; DELETE FROM t WHERE id = 2000; COMMIT",
    "BEGIN; DELETE FROM t WHERE id = 20; INSERT INTO t VALUES (20, 'again', 0); COMMIT",
    // Primary keys swapped through a third value, and moved along: every intermediate state is unique.
    "BEGIN; UPDATE t SET id = -1 WHERE id = 30; UPDATE t SET id = 30 WHERE id = 31; UPDATE t SET id = 31 WHERE id = -1; COMMIT",
    "BEGIN; INSERT INTO t VALUES (3000, 'rolled back', 0); ROLLBACK",
    "UPDATE composite SET v = '{\"k\": 2}' WHERE x % 2 = 0",
    "UPDATE composite SET x = x + 100, y = 'moved' WHERE x < 4",
    "DELETE FROM composite WHERE x = 10",
    "UPDATE other.t SET v = v || '?'",
    "DELETE FROM other.t WHERE v = '3?'",
    "UPDATE whole SET a = 'changed' WHERE id < 3",
    "UPDATE whole SET id = id + 10 WHERE id = 4",
    "DELETE FROM whole WHERE id = 5",
    "UPDATE indexed SET v = v + 1",
    "UPDATE indexed SET code = code || 'z' WHERE id < 4",
    "DELETE FROM indexed WHERE id = 9",
    "UPDATE chosen SET v = -v",
    "UPDATE chosen SET code = 'renamed' WHERE code = 'c5'",
    "DELETE FROM chosen WHERE code = 'c6'",
    "UPDATE toasted SET small = small + 1",
    "UPDATE toasted SET id = id + 10 WHERE id = 2",
    "UPDATE toasted SET big = 'short now' WHERE id = 3",
    // Conflicts within a transaction that are gone at its end.
    "UPDATE swapped SET place = 6 - place",
    "UPDATE swapped SET place = place + 1",
    "BEGIN; UPDATE swapped SET place = 2 WHERE id = 5; UPDATE swapped SET place = 99 WHERE place = 2 AND id <> 5; COMMIT",
    "INSERT INTO keyless VALUES (1), (1), (2)",
    "INSERT INTO wholekeyless VALUES (1), (2)",
    "TRUNCATE composite",
    "BEGIN; TRUNCATE t, other.t; INSERT INTO t VALUES (1, 'after', 1); COMMIT",
    // Nothing published: a transaction without changes.
    "SELECT pg_logical_emit_message(true, 'someone else', 'x')",
    "CREATE TABLE IF NOT EXISTS t (id int)",
    "INSERT INTO t SELECT i, repeat('x', 100), i FROM generate_series(10, 5000) i",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_change() {
    let mut world = World::new(SCHEMA);
    world.config.publications = vec!["everything".to_owned()];
    let mut followed = world.follow().await;
    for change in CHANGES {
        followed.after(&world, change).await;
        // Compared as they come, so that a failure names its change; the copy is compared at the end.
        let tables = dump(&world.path());
        let known: Vec<String> = tables.iter().map(|(name, rows)| format!("{name}|{}", rows.len())).collect();
        let counts: Vec<String> = tables.keys().map(|name| format!("SELECT '{name}', count(*) FROM {name}")).collect();
        assert_eq!(world.sql(&counts.join(" UNION ALL ")), known.join("\n"), "after {change}");
    }
    followed.running.stop().await.unwrap();
    assert_eq!(dump(&world.path()), world.fresh_dump().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_say_what_changed_and_keep_versions_apart() {
    let world = World::new("CREATE TABLE t (id int PRIMARY KEY, a text)");
    let mut followed = world.follow().await;
    let base = followed.replica.state().state_version;
    // Many transactions at once: some share a commit.
    let inserts: String = (0..300).map(|i| format!("INSERT INTO t VALUES ({i}, 'a{i}');")).collect();
    world.sql(&inserts);
    let mut rows = 0;
    let mut last = base;
    while rows < 300 {
        let commit = followed.commits.recv().await.unwrap();
        assert_eq!(commit.base, last, "commits form a chain");
        last = commit.version.clone();
        rows += commit.tables.get("t").map_or(0, |table| table.rows.len());
    }
    assert_eq!(followed.replica.state().state_version, last);
    let connection = rusqlite::Connection::open(world.path()).unwrap();
    let versions: i64 = connection.query_row("SELECT count(DISTINCT _0_version) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(versions, 300, "each row has the version of its own transaction");
}

/// Schema changes that need no values but those of the stream, each with rows written after it.
const SCHEMA_CHANGES: &[&str] = &[
    "CREATE TABLE n (id int PRIMARY KEY, a text UNIQUE); INSERT INTO n VALUES (1, 'x')",
    "BEGIN; CREATE TABLE m (id int PRIMARY KEY); INSERT INTO m VALUES (1); ALTER TABLE m ADD a text; INSERT INTO m VALUES (2, 'y'); COMMIT",
    "ALTER TABLE t ADD COLUMN plain int; INSERT INTO t (id, plain) VALUES (1000, 7); UPDATE t SET plain = 8 WHERE id = 1",
    "ALTER TABLE t ADD COLUMN flag bool NOT NULL DEFAULT true, ADD COLUMN note text DEFAULT 'it''s', ADD COLUMN n numeric DEFAULT -1.5",
    "ALTER TABLE t ADD COLUMN list int[] NOT NULL DEFAULT '{}'; INSERT INTO t (id) VALUES (1001)",
    "ALTER TABLE t RENAME COLUMN plain TO renamed; UPDATE t SET renamed = 9 WHERE id = 2",
    "ALTER TABLE t RENAME TO tt; INSERT INTO tt (id) VALUES (1002)",
    "ALTER TABLE tt DROP COLUMN note; INSERT INTO tt (id) VALUES (1003)",
    "ALTER TABLE tt ALTER COLUMN renamed TYPE bigint; UPDATE tt SET renamed = 9007199254740991 WHERE id = 3",
    "ALTER TABLE tt ALTER COLUMN a TYPE varchar(50); ALTER TABLE tt ALTER COLUMN a SET NOT NULL",
    "CREATE UNIQUE INDEX tt_a ON tt (a, id DESC); DROP INDEX tt_a; CREATE INDEX CONCURRENTLY tt_flag ON tt (flag)",
    "ALTER TABLE tt DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (a, id); UPDATE tt SET a = a || '!' WHERE id = 5",
    "CREATE TABLE late (code text NOT NULL UNIQUE, v int)",
    "BEGIN; ALTER TABLE tt ADD rolled int; ROLLBACK; INSERT INTO tt (id, a) VALUES (1004, 'z')",
    "ALTER SCHEMA other RENAME TO another; INSERT INTO another.o VALUES (2)",
    "CREATE SCHEMA unpublished; CREATE TABLE unpublished.x (id int); INSERT INTO unpublished.x VALUES (1)",
    "COMMENT ON TABLE tt IS 'nothing'",
    "DROP TABLE n",
    "CREATE TABLE n (id int PRIMARY KEY, other bool); INSERT INTO n VALUES (1, true)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_changes_are_followed() {
    let mut world = World::new(
        "CREATE SCHEMA other; CREATE TABLE other.o (id int PRIMARY KEY);
         CREATE TABLE t (id int PRIMARY KEY, a text DEFAULT '');
         CREATE PUBLICATION everything FOR TABLES IN SCHEMA public, other;
         INSERT INTO other.o VALUES (1); INSERT INTO t SELECT i, 'a' || i FROM generate_series(1, 50) i",
    );
    world.config.publications = vec!["everything".to_owned()];
    let mut followed = world.follow().await;
    for change in SCHEMA_CHANGES {
        followed.after(&world, change).await;
    }
    // The identity of its unique index was set behind our back, so that the row can be updated.
    while world.sql("SELECT relreplident FROM pg_class WHERE relname = 'late'") != "i" {
        followed.caught_up(&world).await;
    }
    followed.after(&world, "INSERT INTO late VALUES ('c', 1); UPDATE late SET v = 2").await;
    let streamed = followed.replica.schema();
    let mut indexes: Vec<String> = followed.replica.indexes().into_iter().map(|index| index.name).collect();
    followed.running.stop().await.unwrap();
    let (fresh, copied) = world.fresh().await;
    assert_eq!(dump(&world.path()), copied);
    for table in fresh.schema().tables.values().filter(|table| !table.name.starts_with("fresh")) {
        let known = streamed.table(&table.name).unwrap();
        let key = |table: &zql_spec::schema::Table| -> Vec<String> {
            table.primary_key.iter().map(|&at| table.columns[at].name.to_string()).collect()
        };
        assert_eq!(key(known), key(table), "key of {}", table.name);
        let columns = |table: &zql_spec::schema::Table| -> std::collections::BTreeMap<String, String> {
            table.columns.iter().map(|column| (column.name.to_string(), format!("{column:?}"))).collect()
        };
        assert_eq!(columns(known), columns(table), "columns of {}", table.name);
    }
    let mut expected: Vec<String> =
        fresh.indexes().into_iter().map(|index| index.name.replace("fresh", "zero")).collect();
    expected.sort();
    indexes.sort();
    assert_eq!(indexes, expected);
}

/// Changes that need values which the stream does not carry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_changes_that_ask_for_a_new_copy() {
    let cases = [
        ("ALTER TABLE t ADD COLUMN at timestamptz DEFAULT now()", "with the default now()"),
        ("ALTER TABLE t ADD COLUMN n int GENERATED ALWAYS AS IDENTITY", "without a default"),
        ("ALTER TABLE t ALTER COLUMN a TYPE int USING 5", "another type"),
        ("ALTER TABLE away.t2 SET SCHEMA public", "was published by ALTER TABLE"),
        ("CREATE TABLE made AS SELECT 1 AS id; INSERT INTO made VALUES (2)", "Table made"),
        ("ALTER TABLE t ADD COLUMN _0_version text", "reserved column name"),
    ];
    for (change, reason) in cases {
        let mut world = World::new(
            "CREATE SCHEMA away; CREATE TABLE away.t2 (id int PRIMARY KEY); INSERT INTO away.t2 VALUES (1);
             CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'a')",
        );
        let mut followed = world.follow().await;
        // What the replica does not show needs nothing.
        followed
            .after(&world, "ALTER TABLE t ALTER COLUMN a SET DEFAULT 'x'; ALTER TABLE t ALTER COLUMN a DROP DEFAULT")
            .await;
        world.sql(&format!("INSERT INTO t VALUES (2); {change}"));
        let error = followed.error().await;
        assert!(matches!(error, Error::ResetRequired(_)) && error.to_string().contains(reason), "{change}: {error}");
        drop(followed);
        world.config.auto_reset = false;
        let error = world.try_start().await.err().unwrap();
        assert!(matches!(error, Error::ResetRequired(_)) && error.to_string().contains("ZERO_AUTO_RESET"), "{error}");
        world.config.auto_reset = true;
        if !change.contains("_0_version") {
            drop(world.start().await);
            assert_eq!(dump(&world.path()), world.fresh_dump().await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_follow_the_rows() {
    let world = World::new(
        "CREATE TABLE s (id int PRIMARY KEY, kind text NOT NULL);
         CREATE INDEX s_kind ON s (kind);
         INSERT INTO s SELECT i, 'k' || i % 3 FROM generate_series(1, 3000) i;",
    );
    let mut followed = world.follow().await;
    let stat = || {
        let connection = rusqlite::Connection::open(world.path()).unwrap();
        let sql = "SELECT stat FROM sqlite_stat1 WHERE tbl = 's' AND idx = 's_kind'";
        connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap()
    };
    assert_eq!(stat(), "3000 1000");
    let before = followed.replica.pin().unwrap().statistics();
    followed.after(&world, "UPDATE s SET kind = 'k' || id").await;
    // There is a step after each commit: one for the table, and one for each of its indexes.
    for _ in 0..4 {
        followed.caught_up(&world).await;
    }
    assert_eq!(stat(), "3000 1");
    followed.caught_up(&world).await;
    assert!(followed.replica.pin().unwrap().statistics() > before);
}
