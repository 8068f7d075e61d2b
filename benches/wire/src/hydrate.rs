//! From connect to the poke that completes a query.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use protocol_client::{Connection, Hello, Identity, hash_of};
use serde_json::Value;

use crate::cases::SCHEMA;

/// A query that takes longer has failed. Hundreds of groups at once wait for each other.
const LIMIT: Duration = Duration::from_secs(180);

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub milliseconds: f64,
    pub rows: usize,
    pub bytes: usize,
}

/// A client that is connected and holds its query.
#[derive(Debug)]
pub(crate) struct Held {
    pub identity: Identity,
    pub connection: Connection,
    pub sample: Sample,
}

/// Connects a new client group with one named query and waits for the end of the poke that says it is complete.
pub(crate) async fn hydrate(server: &str, ast: &Value) -> Result<Held> {
    let query = Hello::echoed(&ast.to_string());
    let hash = hash_of(&query).context("a put has a hash")?.to_owned();
    let identity = Identity::fresh(server);
    let begun = Instant::now();
    let work = async {
        let mut connection = Connection::open(&identity, None, Hello::new(SCHEMA, vec![query])).await?;
        let mut sample = Sample { milliseconds: 0.0, rows: 0, bytes: 0 };
        let mut got = false;
        loop {
            let text = connection.next_text().await?;
            sample.bytes += text.len();
            if text.starts_with(r#"["pokePart""#) {
                sample.rows += text.matches(r#"{"op":"put","tableName""#).count();
                got = got || text.contains("gotQueriesPatch") && gets(&text, &hash)?;
            } else if text.starts_with(r#"["pokeEnd""#) && got {
                sample.milliseconds = begun.elapsed().as_secs_f64() * 1e3;
                return Ok(Held { identity: identity.clone(), connection, sample });
            } else if text.starts_with(r#"["error""#) || text.starts_with(r#"["transformError""#) {
                bail!("the server answers {text}");
            }
        }
    };
    tokio::time::timeout(LIMIT, work).await.context("the query did not complete in time")?
}

fn gets(text: &str, hash: &str) -> Result<bool> {
    let message: Value = serde_json::from_str(text)?;
    let patch = message[1]["gotQueriesPatch"].as_array();
    Ok(patch.is_some_and(|patch| patch.iter().any(|op| op["op"] == "put" && op["hash"] == hash)))
}
