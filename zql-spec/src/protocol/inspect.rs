//! Requests of the inspector (protocol sheet §19): what an administrator asks a server about a client group.
//!
//! Answers are assembled by the server, which knows the shapes of what it measures; here is only their envelope.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::json::write_string;

/// A request of the inspector.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "RawInspect", into = "RawInspect")]
pub struct Inspect {
    /// Repeated in the answer.
    pub id: String,
    /// What is asked.
    pub op: InspectOp,
}

/// What an inspector can ask.
#[derive(Clone, Debug)]
pub enum InspectOp {
    /// The server's version.
    Version,
    /// Times of all queries of the group together.
    Metrics,
    /// The desired queries, of one client or of all.
    Queries {
        /// The client.
        client_id: Option<String>,
    },
    /// Opens the other operations to the group.
    Authenticate {
        /// The administrator's password.
        password: String,
    },
    /// How a query would be answered.
    AnalyzeQuery(Box<AnalyzeQuery>),
}

/// A query to explain.
#[derive(Clone, Debug, Default)]
pub struct AnalyzeQuery {
    /// The query, with server names, as text.
    pub ast: Option<Box<RawValue>>,
    /// Or the name of one that the API server defines, with its arguments.
    pub named: Option<(String, Box<RawValue>)>,
    /// What is wanted besides.
    pub options: AnalyzeOptions,
}

/// What is wanted besides counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnalyzeOptions {
    /// The rows that were read.
    pub vended_rows: bool,
    /// The rows of the answer.
    pub synced_rows: bool,
    /// How the order of joins was chosen.
    pub join_plans: bool,
}

impl Default for AnalyzeOptions {
    fn default() -> Self {
        AnalyzeOptions { vended_rows: false, synced_rows: true, join_plans: false }
    }
}

/// The flat JSON form.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawInspect {
    op: String,
    id: String,
    #[serde(default, rename = "clientID", skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ast: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    args: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    options: Option<AnalyzeOptions>,
}

impl TryFrom<RawInspect> for Inspect {
    type Error = String;

    fn try_from(raw: RawInspect) -> Result<Self, String> {
        let op = match raw.op.as_str() {
            "version" => InspectOp::Version,
            "metrics" => InspectOp::Metrics,
            "queries" => InspectOp::Queries { client_id: raw.client_id },
            "authenticate" => {
                let value = raw.value.ok_or("Missing property value")?;
                let password = serde_json::from_str(value.get());
                InspectOp::Authenticate { password: password.map_err(|error| format!("{error} at 1.value"))? }
            }
            "analyze-query" => InspectOp::AnalyzeQuery(Box::new(AnalyzeQuery {
                // `value` is what older clients call it.
                ast: raw.ast.or(raw.value),
                named: raw.name.zip(raw.args),
                options: raw.options.unwrap_or_default(),
            })),
            other => return Err(format!("Invalid union value: [\"inspect\",{{\"op\":{other:?}}}]")),
        };
        Ok(Inspect { id: raw.id, op })
    }
}

impl From<Inspect> for RawInspect {
    fn from(inspect: Inspect) -> Self {
        let Inspect { id, op } = inspect;
        let of = |op: &str| RawInspect { op: op.to_owned(), id: id.clone(), ..RawInspect::default() };
        match op {
            InspectOp::Version => of("version"),
            InspectOp::Metrics => of("metrics"),
            InspectOp::Queries { client_id } => RawInspect { client_id, ..of("queries") },
            InspectOp::Authenticate { password } => {
                let value = RawValue::from_string(serde_json::Value::from(password).to_string()).ok();
                RawInspect { value, ..of("authenticate") }
            }
            InspectOp::AnalyzeQuery(analyze) => {
                let AnalyzeQuery { ast, named, options } = *analyze;
                let (name, args) = named.unzip();
                RawInspect { ast, name, args, options: Some(options), ..of("analyze-query") }
            }
        }
    }
}

/// The message that answers a request; `value` is JSON text.
pub fn answer(op: &str, id: &str, value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 64);
    out.push_str(r#"["inspect",{"op":"#);
    write_string(op, &mut out);
    out.push_str(r#","id":"#);
    write_string(id, &mut out);
    out.push_str(r#","value":"#);
    out.push_str(value);
    out.push_str("}]");
    out
}
