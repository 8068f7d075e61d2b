//! The initial copy: what is copied and what is refused.

use std::sync::{Arc, Mutex};

use upstream::{Error, Progress, start};

use crate::harness::{World, dump};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_schemas_indexes_and_progress() {
    let world = World::new(
        "CREATE SCHEMA other; CREATE TABLE a (id int PRIMARY KEY, b text NOT NULL, UNIQUE (b DESC NULLS LAST, id));"
            .replace(" DESC NULLS LAST", "")
            .as_str(),
    );
    world.sql(
        "CREATE INDEX a_b ON a (b DESC);
         CREATE INDEX a_partial ON a (b) WHERE id > 3;
         CREATE INDEX a_expression ON a (lower(b));
         CREATE TABLE other.a (x int, y int, PRIMARY KEY (y, x));
         CREATE TABLE empty (id int PRIMARY KEY);
         CREATE TABLE unpublished.t (id int PRIMARY KEY)"
            .replace("CREATE TABLE unpublished.t (id int PRIMARY KEY)", "SELECT 1")
            .as_str(),
    );
    world.sql(
        "INSERT INTO a SELECT i, 'row ' || i FROM generate_series(1, 30000) i;
         INSERT INTO other.a SELECT i, -i FROM generate_series(1, 10) i;
         CREATE PUBLICATION zero_data FOR TABLE a, other.a, empty",
    );
    let mut config = world.config.clone();
    config.publications = vec!["zero_data".to_owned()];
    let told = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    let upstream =
        start(config, &world.path(), Arc::new(move |progress| hear.lock().unwrap().push(progress))).await.unwrap();

    let dump = dump(&world.path());
    assert_eq!(dump["a"].len(), 30_000);
    assert_eq!(dump["other.a"].len(), 10);
    assert!(dump["empty"].is_empty());
    let mut indexes: Vec<String> = upstream.replica().indexes().into_iter().map(|index| index.name).collect();
    indexes.retain(|name| !name.starts_with("zero"));
    indexes.sort();
    assert_eq!(indexes, ["a_b", "a_b_id_key", "a_pkey", "empty_pkey", "other.a_pkey"]);
    let schema = upstream.replica().schema();
    let other = schema.table("other.a").unwrap();
    let key: Vec<&str> = other.primary_key.iter().map(|&at| &*other.columns[at].name).collect();
    assert_eq!(key, ["y", "x"]);

    let told = told.lock().unwrap();
    assert_eq!(told.first(), Some(&Progress::SettingUp));
    assert!(matches!(told.last(), Some(Progress::Done { rows: 30_011.., .. })), "{:?}", told.last());
    let complete = told.iter().rev().find_map(|progress| match progress {
        Progress::Copying(tables) => tables.iter().find(|table| table.table == "a").cloned(),
        _ => None,
    });
    let complete = complete.unwrap();
    assert!(complete.done && complete.rows == 30_000 && complete.bytes > 30_000 * 10, "{complete:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_filters_and_column_lists() {
    let world = World::new(
        "CREATE TABLE t (id int PRIMARY KEY, kind text, secret text);
         CREATE TABLE u (id int PRIMARY KEY, n int);
         INSERT INTO t SELECT i, CASE i % 3 WHEN 0 THEN 'a' WHEN 1 THEN 'b' ELSE 'c' END, 's' FROM generate_series(1, 9) i;
         INSERT INTO u SELECT i, i FROM generate_series(1, 9) i;
         ALTER TABLE t REPLICA IDENTITY FULL;
         CREATE PUBLICATION one FOR TABLE t (id, kind) WHERE (kind = 'a'), TABLE u WHERE (n < 3);
         CREATE PUBLICATION two FOR TABLE t (id, kind) WHERE (kind = 'b'), TABLE u;"
            .replace("ALTER TABLE t REPLICA IDENTITY FULL;", "")
            .as_str(),
    );
    let mut world = world;
    world.config.publications = vec!["one".to_owned(), "two".to_owned()];
    let mut followed = world.follow().await;
    let copied = dump(&world.path());
    assert_eq!(copied["t"].len(), 6);
    assert!(copied["t"].iter().all(|row| !row.contains("secret")), "{copied:?}");
    assert_eq!(copied["u"].len(), 9, "a publication without a filter publishes every row");
    followed
        .after(&world, "INSERT INTO t VALUES (100, 'a', 's'), (101, 'c', 's'); INSERT INTO u VALUES (100, 100)")
        .await;
    followed.running.stop().await.unwrap();
    let streamed = dump(&world.path());
    assert_eq!((streamed["t"].len(), streamed["u"].len()), (7, 10));
    assert_eq!(streamed, world.fresh_dump().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_one_table() {
    let world = World::new(
        "CREATE TABLE p (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
         INSERT INTO p VALUES (1, '2024-05-05'), (2, '2025-05-05')",
    );
    let mut followed = world.follow().await;
    followed.after(&world, "INSERT INTO p VALUES (3, '2024-06-06'); UPDATE p SET at = '2025-01-01' WHERE id = 1").await;
    followed.running.stop().await.unwrap();
    let streamed = dump(&world.path());
    assert_eq!(streamed.keys().collect::<Vec<_>>(), ["p"]);
    assert_eq!(streamed["p"].len(), 3);
    assert_eq!(streamed, world.fresh_dump().await);
}

/// Each schema with what must be said of it; nothing may be left behind but the shard's objects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_tables_are_refused() {
    let cases = [
        (
            "CREATE TABLE t (id int PRIMARY KEY, _0_version text)",
            "Table \"t\" uses reserved column name \"_0_version\"",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY NOTHING",
            "Table \"t\" with REPLICA IDENTITY NOTHING cannot be replicated",
        ),
        ("CREATE TABLE \"a b\" (id int PRIMARY KEY)", "Table \"a b\" has invalid characters."),
        ("CREATE TABLE t (id int PRIMARY KEY, \"a b\" int)", "Column \"a b\" in table \"t\" has invalid characters."),
    ];
    for (schema, message) in cases {
        let world = World::new(schema);
        let Err(Error::Config(text)) = world.try_start().await else { panic!("{schema} was accepted") };
        assert_eq!(text, message);
        assert!(!world.path().exists());
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
        assert_eq!(world.sql(slots), "0");
        // Once it is mended, it works.
        world.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE t (id int PRIMARY KEY)");
        world.start().await;
    }
}
