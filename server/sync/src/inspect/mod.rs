//! The inspector: what an administrator sees of a client group in the browser (protocol sheet §19).
//!
//! A group's task answers, between two events, so that what is shown is one state. Times are the group's own: a query's
//! first answer is timed from its subscription until it arrived, an update from the change's arrival in the group until the
//! pokes are on their way, the write of the record included. It must not know sockets. Showing queries walks the rows of
//! the record once.

mod access;
pub mod analyze;
mod digest;

pub(crate) use access::Access;
pub(crate) use digest::Digest;

use std::time::Instant;

use cvr::record::{Body, Cvr};
use cvr::row::Rows;
use rustc_hash::FxHashMap;
use zql_spec::ast::Ast;
use zql_spec::json::{write_number, write_string};

/// First protocol version whose queries show one time for the first answer.
const PLAIN_HYDRATION_SINCE: f64 = 51.0;

/// Times of one query.
#[derive(Clone, Debug)]
pub(crate) struct QueryTimes {
    asked: Instant,
    /// How long the first answer took, in milliseconds.
    hydration_ms: Option<f64>,
    update: Digest,
}

/// Times of all queries of a group.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupTimes {
    hydration: Digest,
    update: Digest,
}

impl QueryTimes {
    /// Begins: the query is subscribed.
    pub(crate) fn start() -> QueryTimes {
        QueryTimes { asked: Instant::now(), hydration_ms: None, update: Digest::default() }
    }

    /// The first answer arrived.
    pub(crate) fn answered(&mut self, group: &mut GroupTimes) {
        let elapsed = milliseconds(self.asked);
        self.hydration_ms = Some(elapsed);
        group.hydration.add(elapsed);
    }

    /// A change of the answer that arrived then has reached the clients' sockets.
    pub(crate) fn updated(&mut self, arrived: Instant, group: &mut GroupTimes) {
        let elapsed = milliseconds(arrived);
        self.update.add(elapsed);
        group.update.add(elapsed);
    }

    /// The times as clients of this protocol version expect them.
    fn write(&mut self, version: f64, out: &mut String) {
        out.push('{');
        if version >= PLAIN_HYDRATION_SINCE {
            if let Some(elapsed) = self.hydration_ms {
                out.push_str(r#""query-hydration-server-ms":"#);
                write_number(elapsed, out);
                out.push(',');
            }
        } else {
            let mut one = Digest::default();
            if let Some(elapsed) = self.hydration_ms {
                one.add(elapsed);
            }
            out.push_str(r#""query-materialization-server":"#);
            one.write(out);
            out.push(',');
        }
        out.push_str(r#""query-update-server":"#);
        self.update.write(out);
        out.push('}');
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// The answer to `metrics`.
pub(crate) fn metrics(times: &mut GroupTimes) -> String {
    let mut out = String::from(r#"{"query-materialization-server":"#);
    times.hydration.write(&mut out);
    out.push_str(r#","query-update-server":"#);
    times.update.write(&mut out);
    out.push('}');
    out
}

/// What is known of a query that runs.
pub(crate) struct RunningQuery<'a> {
    /// Its AST, as it was resolved.
    pub(crate) ast: &'a Ast,
    pub(crate) times: &'a mut QueryTimes,
}

/// The answer to `queries`: every desire that has not expired, by client and query.
pub(crate) fn queries(
    cvr: &Cvr,
    rows: &Rows,
    of_client: Option<&str>,
    ttl_clock: f64,
    version: f64,
    running: &mut FxHashMap<&str, RunningQuery<'_>>,
) -> String {
    let mut counts: FxHashMap<&str, usize> = FxHashMap::default();
    for (_, record) in rows.iter() {
        for (query, _) in record.ref_counts.iter() {
            *counts.entry(query).or_default() += 1;
        }
    }
    let mut desires = Vec::new();
    for (id, query) in cvr.queries.iter() {
        for (client, desire) in &query.clients {
            let expired = desire.inactivated_at.is_some_and(|at| at + desire.ttl <= ttl_clock);
            if !expired && of_client.is_none_or(|of| *of == **client) {
                desires.push((&**client, &**id, query, desire));
            }
        }
    }
    desires.sort_by_key(|(client, id, ..)| (*client, *id));
    let mut out = String::from("[");
    for (index, (client, id, query, desire)) in desires.into_iter().enumerate() {
        out.push_str(if index > 0 { ",{" } else { "{" });
        let key = |name: &str, out: &mut String| {
            out.push_str(if name == "clientID" { "" } else { "," });
            write_string(name, out);
            out.push(':');
        };
        let text_or_null = |text: Option<&str>, out: &mut String| match text {
            Some(text) => write_string(text, out),
            None => out.push_str("null"),
        };
        let runs = running.get_mut(id);
        key("clientID", &mut out);
        write_string(client, &mut out);
        key("queryID", &mut out);
        write_string(id, &mut out);
        key("ttl", &mut out);
        write_number(desire.ttl, &mut out);
        key("inactivatedAt", &mut out);
        match desire.inactivated_at {
            Some(at) => write_number(at, &mut out),
            None => out.push_str("null"),
        }
        key("rowCount", &mut out);
        write_number(counts.get(id).copied().unwrap_or_default() as f64, &mut out);
        key("ast", &mut out);
        let (name, args) = match &query.body {
            Body::Ast(ast) | Body::Internal(ast) => {
                out.push_str(ast);
                (None, "null")
            }
            Body::Custom { name, args } => {
                match &runs {
                    Some(running) => running.ast.to_json().write(&mut out),
                    None => out.push_str("null"),
                }
                (Some(&**name), &**args)
            }
        };
        key("got", &mut out);
        out.push_str(if query.patch_version.is_some() { "true" } else { "false" });
        key("deleted", &mut out);
        out.push_str(if desire.inactivated_at.is_some() { "true" } else { "false" });
        key("name", &mut out);
        text_or_null(name, &mut out);
        key("args", &mut out);
        out.push_str(args);
        key("metrics", &mut out);
        match runs {
            Some(running) => running.times.write(version, &mut out),
            None => out.push_str("null"),
        }
        out.push('}');
    }
    out.push(']');
    out
}
