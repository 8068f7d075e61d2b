//! What `/statz` tells: counts of the databases, the replica file and the machine (operations sheet f).
//!
//! Names are the reference's, so that what reads them goes on reading them. Counts of records are made by Postgres, on a
//! connection of their own that ends with the request; they grow with the records and are bounded by a time limit.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use cvr_store::Store;
use cvr_store::active::ActiveUsers;
use engine::replica::Replica;
use serde_json::{Value, json};
use sync::config::Config;
use sync::statz::{Group, Stats};
use zql_spec::version::StateVersion;

/// How long Postgres may count.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(50);

/// Where everything is found.
pub(crate) struct Statz {
    pub(crate) config: Arc<Config>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) store: Store,
}

impl Stats for Statz {
    fn group<'a>(
        &'a self,
        name: &'a str,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Group, String>> + Send + 'a>> {
        Box::pin(async move {
            let Config { upstream_db, cvr_db, .. } = &*self.config;
            match name {
                "upstream" => self.counted(upstream_db, "ZERO_UPSTREAM_DB", "statz-upstream", "", &upstream()).await,
                "cvr" => self.counted(cvr_db, "ZERO_CVR_DB", "statz-cvr", "/cvr", &cvr()).await,
                "changeLog" => {
                    let size = self.replica.change_log_size().map_err(|error| error.to_string())?;
                    Ok(vec![named("changeLogSize", json!([{ "change_log_size": size }]))])
                }
                "replica" => self.file(),
                "replication" => {
                    let version = self.replica.state().state_version;
                    let lsn = StateVersion::from_shared(version).ok().and_then(|version| version.lsn());
                    let lsn = lsn.map(|lsn| format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff));
                    Ok(vec![named("lsn", json!(lsn))])
                }
                "activeUsers" => self.store.active_users().await.map(active_users).map_err(|error| error.to_string()),
                _ => Ok(machine()),
            }
        })
    }
}

fn named(name: &str, value: Value) -> (String, Value) {
    (name.to_owned(), value)
}

impl Statz {
    /// Has a database answer questions about one of this shard's schemas; each answer is a list of rows.
    async fn counted(
        &self,
        url: &str,
        setting: &'static str,
        purpose: &str,
        suffix: &str,
        questions: &[(&str, String)],
    ) -> Result<Group, String> {
        let (config, tls) = upstream::pool_parts(url, setting, purpose).map_err(|error| error.to_string())?;
        let client = match tls {
            Some(tls) => {
                let (client, connection) = config.connect(tls).await.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                client
            }
            None => {
                let (client, connection) =
                    config.connect(tokio_postgres::NoTls).await.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                client
            }
        };
        let schema = format!("\"{}{suffix}\"", self.config.shard());
        let settings = format!("SET statement_timeout = {}", STATEMENT_TIMEOUT.as_millis());
        client.batch_execute(&settings).await.map_err(|error| explain(&error))?;
        let mut group = Group::new();
        for (name, question) in questions {
            let question = question.replace("{schema}", &schema);
            let sql = format!("SELECT coalesce(json_agg(answer), '[]')::text FROM ({question}) answer");
            let row = client.query_one(&sql, &[]).await.map_err(|error| explain(&error))?;
            let value = serde_json::from_str(row.get(0)).map_err(|error| error.to_string())?;
            group.push(named(name, value));
        }
        Ok(group)
    }

    fn file(&self) -> Result<Group, String> {
        let facts = self.replica.file_facts().map_err(|error| error.to_string())?;
        let value = |text: String| text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number));
        let mut group: Group = facts.into_iter().map(|(name, text)| named(name, value(text))).collect();
        let metadata = std::fs::metadata(&self.config.replica_file).map_err(|error| error.to_string())?;
        let ms = |time: std::io::Result<std::time::SystemTime>| {
            time.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs_f64() * 1000.0)
        };
        let stats = json!({ "size": metadata.len(), "mtimeMs": ms(metadata.modified()), "atimeMs": ms(metadata.accessed()),
            "birthtimeMs": ms(metadata.created()) });
        group.push(named("db file stats", stats));
        Ok(group)
    }
}

/// What Postgres says of a refusal.
fn explain(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Questions about the tables of this shard beside the application's.
fn upstream() -> Vec<(&'static str, String)> {
    vec![
        ("numReplicas", r#"SELECT count(*) AS c FROM {schema}."replicas""#.to_owned()),
        ("numClientsWithMutations", r#"SELECT count(*) AS c FROM {schema}."clients""#.to_owned()),
        ("numMutationsProcessed", r#"SELECT sum("lastMutationID") AS c FROM {schema}."clients""#.to_owned()),
    ]
}

/// A desire that is in force, and one that ended and whose query is still kept, by the clock of its group.
const ACTIVE: &str = r#"coalesce("inactivatedAtMs" IS NULL AND NOT d."deleted", true)"#;
const INACTIVE: &str = r#"coalesce("inactivatedAtMs" + coalesce("ttlMs", 300000) > i."ttlClock", false)"#;

/// A question for percentiles of a column, which Postgres sorts once for all of them, and for other aggregates of it.
fn percentiles(column: &str, wanted: &[u32], name: &dyn Fn(u32) -> String, others: &str, of: &str) -> String {
    let shares: Vec<String> = wanted.iter().map(|p| format!("0.{p}")).collect();
    let named: Vec<String> =
        wanted.iter().zip(1..).map(|(&p, place)| format!(r#"shares[{place}] AS "{}""#, name(p))).collect();
    let shares = shares.join(", ");
    format!(
        r#"SELECT {}, told.* FROM (SELECT percentile_cont(ARRAY[{shares}]) WITHIN GROUP (ORDER BY {column}) AS shares
        FROM ({of}) of_shares) of_all, (SELECT {others} FROM ({of}) of_others) told"#,
        named.join(", ")
    )
}

/// Questions about client view records.
fn cvr() -> Vec<(&'static str, String)> {
    let desires = r#"{schema}."desires" d JOIN {schema}."instances" i USING ("clientGroupID")"#;
    let count = |condition: &str| format!("SELECT count(*) AS c FROM {desires} WHERE {condition}");
    let spread = |what: &str| {
        let counts = format!(r#"SELECT count(*) AS n FROM {what} GROUP BY "clientGroupID""#);
        percentiles("n", &[50, 75, 90, 95, 99], &|p| format!("p{p}"), "min(n), max(n), avg(n)", &counts)
    };
    let of_groups = |condition: &str| {
        format!(
            r#"SELECT "clientGroupID", count(DISTINCT "clientID") AS num_clients, count(*) AS num_queries FROM {desires}
            WHERE {condition} GROUP BY "clientGroupID" ORDER BY num_queries DESC"#
        )
    };
    let length = r#"length("clientAST"::text)"#;
    let extent = "min(n) AS minimum_length, max(n) AS maximum_length, round(avg(n)) AS average_length, \
                  count(*) AS total_records";
    let lengths = format!(r#"SELECT {length} AS n FROM {{schema}}."queries""#);
    let sizes = percentiles("n", &[25, 50, 75, 90, 95, 99], &|p| format!("{p}th_percentile"), extent, &lengths);
    vec![
        ("totalNumQueries", count("true")),
        ("numUniqueQueryHashes", r#"SELECT count(DISTINCT "queryHash") AS c FROM {schema}."desires""#.to_owned()),
        ("numActiveQueries", count(ACTIVE)),
        ("numInactiveQueries", count(INACTIVE)),
        ("numDeletedQueries", count(r#"d."deleted""#)),
        ("freshQueriesPercentiles", spread(&format!("{desires} WHERE {ACTIVE} OR {INACTIVE}"))),
        ("rowsPerClientGroupPercentiles", spread(r#"{schema}."rows""#)),
        ("astSizes", sizes),
        (
            "biggestAstHash",
            format!(
                r#"SELECT "queryHash", {length} AS ast_length FROM {{schema}}."queries" ORDER BY {length} DESC NULLS LAST
                LIMIT 1"#
            ),
        ),
        ("totalActiveQueriesPerClientAndClientGroup", of_groups(ACTIVE)),
        ("totalInactiveQueriesPerClientAndClientGroup", of_groups(INACTIVE)),
        (
            "totalRowsPerClientGroup",
            r#"SELECT "clientGroupID", count(*) AS c FROM {schema}."rows" GROUP BY "clientGroupID" ORDER BY c DESC"#
                .to_owned(),
        ),
        (
            "numRowsPerQuery",
            r#"SELECT key AS "queryHash", count(*) AS row_count FROM {schema}."rows", jsonb_object_keys("refCounts") key
            GROUP BY key ORDER BY row_count DESC"#
                .to_owned(),
        ),
    ]
}

/// Users, by the names of the reference's gauges.
fn active_users(users: ActiveUsers) -> Group {
    let ActiveUsers { groups_last_day, profiles, with_fallback } = users;
    let mut group = vec![named("active_users_last_day", json!(groups_last_day))];
    for (suffix, counts) in [("", profiles), ("_legacy", with_fallback)] {
        let spans = ["1da", "7da", "30da"].into_iter().zip(counts);
        group.extend(spans.map(|(span, count)| named(&format!("users_{span}{suffix}"), json!(count))));
    }
    group
}

/// The machine. What it does not tell is null.
fn machine() -> Group {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let numbers = |text: &str| -> Vec<f64> { text.split_whitespace().filter_map(|word| word.parse().ok()).collect() };
    let memory = read("/proc/meminfo");
    let bytes = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| numbers(line).first().map(|kilobytes| kilobytes * 1024.0))
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let online = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count().max(processors);
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    vec![
        named("load avg", json!(numbers(&read("/proc/loadavg")).into_iter().take(3).collect::<Vec<f64>>())),
        named("uptime", json!(numbers(&read("/proc/uptime")).first())),
        named("total mem", json!(bytes("MemTotal"))),
        named("free mem", json!(bytes("MemAvailable"))),
        named("cpus", json!(online)),
        named("available parallelism", json!(processors)),
        named("platform", json!(std::env::consts::OS)),
        named("arch", json!(arch)),
        named("release", json!(read("/proc/sys/kernel/osrelease").trim())),
    ]
}
