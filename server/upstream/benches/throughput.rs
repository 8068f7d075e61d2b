//! How fast Postgres comes in: rows a second of the initial copy, changes and transactions a second of the
//! stream. Prints one JSON object a measurement, so that runs can be compared.
//!
//! `cargo bench -p upstream [-- rows]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use testdata::postgres::{Options, Postgres};
use tokio::sync::mpsc;
use upstream::{Config, start};
use zql_spec::version::{StateVersion, parse_lsn};

fn main() {
    let rows: u64 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(400_000);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure(rows));
}

fn report(what: &str, unit: &str, count: u64, elapsed: Duration) {
    let rate = count as f64 / elapsed.as_secs_f64();
    println!(
        "{{\"what\":\"{what}\",\"{unit}\":{count},\"seconds\":{:.3},\"per_second\":{rate:.0}}}",
        elapsed.as_secs_f64()
    );
}

async fn measure(rows: u64) {
    let postgres = Postgres::start(Options::default()).expect("a private Postgres");
    let url = postgres.database().expect("a database");
    let sql = |text: &str| postgres.psql(&url, text).expect("SQL");
    sql("CREATE TABLE narrow (id int PRIMARY KEY, v text);
         CREATE TABLE wide (id bigint PRIMARY KEY, title text, body text, at timestamptz, price numeric(10,2),
                            ok bool, who uuid, tags text[], extra jsonb);
         CREATE INDEX ON wide (who);");
    sql(&format!("INSERT INTO narrow SELECT i, 'row ' || i FROM generate_series(1, {rows}) i"));
    sql(&format!(
        "INSERT INTO wide SELECT i, 'title ' || i, repeat('body ', 20), now() - i * interval '1 s', i * 1.01, i % 2 = 0,
                gen_random_uuid(), ARRAY['a', 'b'], '{{\"k\": [1, 2, 3]}}' FROM generate_series(1, {rows} / 4) i"
    ));
    sql("VACUUM ANALYZE");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("replica.db");
    let config = Config::new(url.clone());
    let started = Instant::now();
    let upstream = start(config.clone(), &path, Arc::new(|_| {})).await.expect("an initial sync");
    report("initial sync", "rows", rows + rows / 4, started.elapsed());
    drop(upstream);

    let cases: [(&str, &str, u64, String); 4] = [
        (
            "one transaction of inserts",
            "changes",
            rows / 4,
            format!("INSERT INTO narrow SELECT {rows} + i, 'new' FROM generate_series(1, {rows} / 4) i"),
        ),
        (
            "one transaction of updates",
            "changes",
            rows / 4,
            format!("UPDATE narrow SET v = v || '!' WHERE id <= {rows} / 4"),
        ),
        (
            "one transaction of wide updates",
            "changes",
            rows / 8,
            format!("UPDATE wide SET title = title || '!' WHERE id <= {rows} / 8"),
        ),
        (
            "transactions of one insert",
            "transactions",
            rows / 8,
            // COMMIT inside a procedure: far faster than a client that sends them one by one.
            format!(
                "DO $$ BEGIN FOR i IN 1..{rows} / 8 LOOP INSERT INTO narrow VALUES (10000000 + i, 'tiny'); COMMIT; END LOOP; END $$"
            ),
        ),
    ];
    for (what, unit, count, text) in cases {
        // Written while nobody follows, so that only our side is measured (with the server's decoding).
        sql(&text);
        let target = parse_lsn(&sql("SELECT pg_current_wal_insert_lsn()")).expect("a position");
        sql("UPDATE zero.permissions SET permissions = to_jsonb(random())");
        let upstream = start(config.clone(), &path, Arc::new(|_| {})).await.expect("a resumed replica");
        let (sender, mut commits) = mpsc::unbounded_channel();
        let started = Instant::now();
        let running = upstream.run(move |commit| drop(sender.send(commit))).expect("a stream");
        let mut groups = 0;
        loop {
            let commit = commits.recv().await.expect("a commit");
            groups += 1;
            if StateVersion::from_shared(commit.version.clone()).ok().and_then(|v| v.lsn()).unwrap_or(0) >= target {
                break;
            }
        }
        report(what, unit, count, started.elapsed());
        println!("{{\"what\":\"{what}\",\"commits\":{groups}}}");
        running.stop().await.expect("a clean stop");
    }
}
