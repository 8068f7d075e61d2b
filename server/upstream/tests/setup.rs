//! What is created upstream, and what the operator is told when it cannot be.

use testdata::postgres::{Options, Postgres};
use upstream::Error;

use crate::harness::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shard_is_as_the_reference_makes_it() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    world.config.task_id = "task".to_owned();
    let upstream = world.start().await;
    let queries = [
        ("SELECT tablename FROM pg_tables WHERE schemaname = 'zero'", "permissions"),
        (
            "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'zero_0'",
            "clients mutations publishedSchema replicas shardConfig versionHistory",
        ),
        ("SELECT string_agg(pubname, ' ' ORDER BY pubname) FROM pg_publication", "_zero_metadata_0 _zero_public_0"),
        ("SELECT string_agg(evtname, ' ' ORDER BY evtname) FROM pg_event_trigger", "zero_ddl_end_0 zero_ddl_start_0"),
        ("SELECT * FROM zero_0.\"versionHistory\"", "23|23|1|v"),
        ("SELECT publications, \"ddlDetection\" FROM zero_0.\"shardConfig\"", "{_zero_metadata_0,_zero_public_0}|t"),
        ("SELECT lock, permissions IS NULL, hash IS NULL FROM zero.permissions", "t|t|t"),
        (
            "SELECT string_agg(proname, ' ' ORDER BY proname, pronargs) FROM pg_proc WHERE pronamespace = 'zero_0'::regnamespace",
            "emit_ddl_end emit_ddl_start get_trigger_context notice_ignore schema_specs update_schemas update_schemas",
        ),
        (
            "SELECT slot LIKE 'zero\\_0\\__%', rank, \"initialSyncContext\"->>'taskID', \"subscriberContext\" FROM zero_0.replicas",
            "t|1|task|",
        ),
        (
            "SELECT string_agg(x->>'name', ' ') FROM zero_0.replicas, json_array_elements(\"initialSchema\"->'tables') x",
            "t permissions clients mutations",
        ),
        ("SELECT pubviaroot FROM pg_publication WHERE pubname = '_zero_public_0'", "t"),
    ];
    for (query, expected) in queries {
        assert_eq!(world.sql(query), expected, "{query}");
    }
    let version = world.sql("SELECT version FROM zero_0.replicas");
    assert_eq!(&*upstream.replica().state().replica_version, version);
    world.sql("UPDATE zero.permissions SET permissions = '{\"a\": 1}'");
    assert_eq!(world.sql("SELECT hash = md5(permissions::text) FROM zero.permissions"), "t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_that_do_not_fit() {
    let cases = [
        (vec!["gone", "here"], "Unknown or invalid publications. Specified: [gone,here]. Found: [here]"),
        (vec!["partly"], "PUBLICATION partly must publish insert, update, delete, and truncate"),
        (vec!["here", "narrow"], "Table t is exported with different columns: [id,a] vs [id]"),
        (vec!["_mine"], "reserved for internal use"),
        (vec!["no-good"], "Invalid publication \"no-good\""),
    ];
    let mut world = World::new(
        "CREATE TABLE t (id int PRIMARY KEY, a int);
         CREATE PUBLICATION here FOR TABLE t;
         CREATE PUBLICATION narrow FOR TABLE t (id);
         CREATE PUBLICATION partly FOR TABLE t WITH (publish = 'insert');",
    );
    for (publications, message) in cases {
        world.config.publications = publications.into_iter().map(str::to_owned).collect();
        let error = world.try_start().await.err().unwrap();
        assert!(matches!(error, Error::Config(_)) && error.to_string().contains(message), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upper_case_publications_stream() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION \"Mixed\" FOR TABLE t");
    world.config.publications = vec!["Mixed".to_owned()];
    let mut followed = world.follow().await;
    followed.after(&world, "INSERT INTO t VALUES (1)").await;
    assert_eq!(crate::harness::dump(&world.path())["t"].len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_fail_name_the_setting() {
    let world = World::new("");
    let port = world.postgres.port();
    let cases = [
        (format!("postgres://postgres@127.0.0.1:{port}/nowhere"), true, "nowhere"),
        (format!("postgres://nobody@127.0.0.1:{port}/postgres"), true, "nobody"),
        ("postgres://postgres@127.0.0.1:1/postgres".to_owned(), false, "127.0.0.1:1/postgres"),
        (format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=require"), true, "sslmode"),
        ("http://x".to_owned(), true, "postgres://"),
    ];
    for (url, is_config, part) in cases {
        let mut config = world.config.clone();
        config.upstream_url = url.clone();
        let error = upstream::start(config, &world.path(), std::sync::Arc::new(|_| {})).await.err().unwrap();
        let text = error.to_string();
        assert!(text.contains("ZERO_UPSTREAM_DB") && text.contains(part), "{url}: {text}");
        assert_eq!(matches!(error, Error::Config(_)), is_config, "{url}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wal_level_must_be_logical() {
    let settings = vec![("wal_level".to_owned(), "replica".to_owned())];
    let postgres: &'static Postgres =
        Box::leak(Box::new(Postgres::start(Options { settings, ..Options::default() }).unwrap()));
    let world = World::on(postgres, "");
    let error = world.try_start().await.err().unwrap();
    assert_eq!(error.to_string(), "Postgres must be configured with \"wal_level = logical\" (currently: \"replica\")");
}

/// A role without superuser rights: no event triggers, no default publication, and REPLICATION is a must.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_superuser() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    let role = world.url.rsplit('/').next().unwrap().split('?').next().unwrap().replace("test", "role");
    world.sql(&format!(
        "CREATE ROLE {role} LOGIN; ALTER TABLE t OWNER TO {role};
         DO $$ BEGIN EXECUTE format('GRANT ALL ON DATABASE %I TO {role}', current_database()); END $$"
    ));
    world.config.upstream_url = world.url.replace("postgres@", &format!("{role}@"));
    let error = world.try_start().await.err().unwrap();
    assert!(error.to_string().contains("ZERO_APP_PUBLICATIONS"), "{error}");

    world.sql(&format!("SET ROLE {role}; CREATE PUBLICATION own FOR TABLE t"));
    world.config.publications = vec!["own".to_owned()];
    let error = world.try_start().await.err().unwrap();
    assert!(matches!(error, Error::Config(_)) && error.to_string().contains("REPLICATION"), "{error}");

    world.sql(&format!("ALTER ROLE {role} REPLICATION"));
    let mut followed = world.follow().await;
    assert_eq!(world.sql("SELECT \"ddlDetection\" FROM zero_0.\"shardConfig\""), "f");
    followed.after(&world, "INSERT INTO t VALUES (1)").await;
    // Without triggers a changed table is noticed when its next row comes.
    world.sql("ALTER TABLE t ADD COLUMN a int; INSERT INTO t VALUES (2, 2)");
    let error = followed.error().await;
    assert!(matches!(error, Error::ResetRequired(_)), "{error}");
    drop(followed);
    let followed = world.follow().await;
    assert_eq!(crate::harness::dump(&world.path())["t"].len(), 2);
    followed.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unclaimed_slots_are_dropped() {
    let mut world = World::new("CREATE TABLE t (id int PRIMARY KEY)");
    // Slots are the cluster's, not the database's: names of its own for this test.
    world.config.app_id = "claim".to_owned();
    world.sql("SELECT pg_create_logical_replication_slot('claim_0_a', 'pgoutput')");
    let upstream = world.start().await;
    assert_eq!(world.sql("SELECT slot FROM claim_0.replicas"), "claim_0_a");
    drop(upstream);
    // A second copy makes its own slot and, once it runs, removes the first.
    std::fs::remove_file(world.path()).unwrap();
    let mut followed = world.follow().await;
    assert_eq!(world.sql("SELECT slot FROM claim_0.replicas ORDER BY rank DESC LIMIT 1"), "claim_0_b");
    let mut left = String::new();
    for _ in 0..200 {
        left = world
            .sql("SELECT string_agg(slot_name, ' ') FROM pg_replication_slots WHERE database = current_database()");
        if left == "claim_0_b" {
            break;
        }
        followed.after(&world, "INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t").await;
    }
    assert_eq!(left, "claim_0_b");
    assert_eq!(world.sql("SELECT count(*) FROM claim_0.replicas"), "1");
}
