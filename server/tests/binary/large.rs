//! A query of a million rows: it completes, and whoever else is connected does not notice.
//!
//! On a Postgres of its own, because writing the record of a million rows keeps a cluster busy.

use std::time::{Duration, Instant};

use protocol_client::{Connection, Hello, Identity, hash_of};
use testdata::node::Api;
use testdata::postgres::{Options, Postgres};
use zql_spec::protocol::upstream::DesiredOp;

use crate::Tracker;

const ROWS: usize = 1_000_000;

const TABLE: &str = "CREATE TABLE reading (id int PRIMARY KEY, value text NOT NULL);
    INSERT INTO reading SELECT n, md5(n::text) FROM generate_series(1, 1000000) n; ANALYZE reading";

const SCHEMA: &str = r#"{"tables":{
"issue":{"columns":{"id":{"type":"string"},"title":{"type":"string"}},"primaryKey":["id"]},
"reading":{"columns":{"id":{"type":"number"},"value":{"type":"string"}},"primaryKey":["id"]}}}"#;

/// Everything may be read.
const PERMISSIONS: &str = r#"UPDATE zql.permissions SET permissions = '{"tables":{"reading":{"row":{"select":[["allow",{"type":"and","conditions":[]}]]}}}}'"#;

/// What part of the time that the rows take a neighbour's commit may take meanwhile, at most and in the middle. Shares
/// of it, because a machine that compiles takes five times as long for both. At rest, about a twentieth and a
/// thousandth.
const NEIGHBOUR_MAX: u32 = 2;
const NEIGHBOUR_MEDIAN: u32 = 50;

/// All processes of the server at the end: rows of 100 bytes, their keys in the graph and in the record.
const MEMORY_MAX: u64 = 1_500_000_000;

/// How long the whole may take.
const PATIENCE: Duration = Duration::from_secs(120);

async fn connect(url: &str, query: DesiredOp) -> Connection {
    let identity = Identity { user_id: Some("u1".into()), ..Identity::fresh(url) };
    Connection::open(&identity, None, Hello::new(SCHEMA, vec![query])).await.expect("a socket")
}

/// Reads until a poke that holds the text has ended; gives how many rows came on the way. The frames are not parsed: a
/// client that is slow would be measured instead of the server.
async fn until(connection: &mut Connection, wanted: &str) -> usize {
    let (mut rows, mut found) = (0, false);
    loop {
        let text = tokio::time::timeout(PATIENCE, connection.next_text()).await.expect("an answer in time");
        let text = text.expect("a message");
        assert!(!text.starts_with(r#"["error""#), "{text}");
        rows += text.matches(r#""tableName""#).count();
        found |= text.contains(wanted);
        if found && text.starts_with(r#"["pokeEnd""#) {
            return rows;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_disturb_nobody() {
    let postgres = Postgres::start(Options::default()).expect("a Postgres of its own");
    let api = Api::start().expect("the API server");
    let tracker = Tracker::on(&postgres, &api.url, TABLE, &[]);
    let url = tracker.server.url();
    let sql = |sql: &str| postgres.psql(&tracker.database, sql).expect(sql);

    let list = Hello::named("issues.list", r#"[{"limit":5}]"#);
    let hash = hash_of(&list).expect("a hash").to_owned();
    let mut neighbour = connect(&url, list).await;
    until(&mut neighbour, &format!(r#""gotQueriesPatch":[{{"op":"put","hash":"{hash}""#)).await;

    // Arrived when the next commit has.
    sql(PERMISSIONS);
    let mut latencies = Vec::new();
    let mut probe = async || {
        let mark = format!("probe {}", latencies.len());
        sql(&format!("UPDATE issue SET title = '{mark}', modified = now() + interval '9 years' WHERE id = 'i5'"));
        let sent = Instant::now();
        until(&mut neighbour, &mark).await;
        latencies.push(sent.elapsed());
    };
    probe().await;

    let everything = Hello::ast(r#"{"table":"reading","orderBy":[["id","asc"]]}"#);
    let hash = hash_of(&everything).expect("a hash").to_owned();
    let greedy_url = url.clone();
    let greedy = tokio::spawn(async move {
        let begun = Instant::now();
        let mut greedy = connect(&greedy_url, everything).await;
        let rows = until(&mut greedy, &format!(r#""gotQueriesPatch":[{{"op":"put","hash":"{hash}""#)).await;
        (rows, begun.elapsed(), greedy)
    });
    while !greedy.is_finished() {
        probe().await;
    }
    let (rows, elapsed, greedy) = greedy.await.expect("the rows");
    // The record is being written now, which is no reason to wait either.
    for _ in 0..5 {
        probe().await;
    }
    let memory = tracker.server.usage().memory;
    drop(greedy);
    latencies.sort();
    let (median, worst) = (latencies[latencies.len() / 2], latencies[latencies.len() - 1]);
    println!(
        "{ROWS} rows in {elapsed:?}; {} commits meanwhile, after {median:?}, the slowest {worst:?}; {} MB",
        latencies.len(),
        memory / 1_000_000
    );
    assert_eq!(rows, ROWS);
    assert!(latencies.len() > 5, "the neighbour was served meanwhile");
    assert!(worst < elapsed / NEIGHBOUR_MAX, "a neighbour's commit took {worst:?} of {elapsed:?}");
    assert!(median < elapsed / NEIGHBOUR_MEDIAN, "neighbours' commits took {median:?} of {elapsed:?}");
    assert!(memory < MEMORY_MAX, "{memory} bytes");
}
