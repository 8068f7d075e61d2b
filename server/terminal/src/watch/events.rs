//! Events as lines of JSON, for scripts. Times are in milliseconds; `at` is the wall clock's, since 1970.

use std::time::{SystemTime, UNIX_EPOCH};

use protocol_client::{Poke, State};
use serde_json::{Value, json};
use zql_spec::protocol::downstream::{QueryError, QueryOp, RowOp};

/// The socket is open and accepted.
pub(super) fn connected(attempt: u32, milliseconds: f64) -> Value {
    json!({"event": "connected", "at": now(), "attempt": attempt, "ms": milliseconds})
}

/// A poke, whole: what it changed and how long its messages took to arrive.
pub(super) fn poke(poke: &Poke) -> Value {
    let rows: Vec<Value> = poke
        .rows()
        .map(|op| match op {
            RowOp::Put { table_name, value } => json!({"op": "put", "table": table_name, "row": value}),
            RowOp::Del { table_name, id } => json!({"op": "del", "table": table_name, "key": id}),
            other => serde_json::to_value(other).unwrap_or_default(),
        })
        .collect();
    let got: Vec<Value> = poke
        .got()
        .map(|op| match op {
            QueryOp::Put { hash, .. } => json!({"op": "put", "query": hash}),
            QueryOp::Del { hash } => json!({"op": "del", "query": hash}),
            QueryOp::Clear => json!({"op": "clear"}),
        })
        .collect();
    json!({
        "event": "poke",
        "at": now(),
        "base": poke.base,
        "cookie": poke.cookie,
        "rows": rows,
        "got": got,
        "bytes": poke.bytes,
        "ms": poke.ended.duration_since(poke.began).as_secs_f64() * 1e3,
    })
}

/// The query's rows are all there.
pub(super) fn complete(milliseconds: f64, state: &State) -> Value {
    json!({"event": "complete", "at": now(), "ms": milliseconds, "rows": state.len()})
}

/// The answer to a ping.
pub(super) fn pong(milliseconds: f64) -> Value {
    json!({"event": "pong", "ms": milliseconds})
}

/// The API server refused queries.
pub(super) fn transform_error(errors: &[QueryError]) -> Value {
    json!({"event": "transformError", "errors": errors})
}

/// The connection is gone.
pub(super) fn disconnected(why: &protocol_client::Error, again: bool) -> Value {
    json!({"event": "disconnected", "why": why.to_string(), "reconnects": again})
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}
