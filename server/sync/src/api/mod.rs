//! The application's API server: the query API, which turns named queries into ASTs (protocol sheet §11.4).
//!
//! The empty request `["transform",[]]` asks only whether the caller is known. How servers are called is in
//! [`endpoint`], which mutations use as well.

use serde::Deserialize;
use serde_json::value::RawValue;
use zql_spec::protocol::downstream::QueryError;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};

mod endpoint;
mod pattern;

use crate::config::Config;
pub(crate) use endpoint::{CallError, Caller, Endpoint, causes};
pub(crate) use pattern::Pattern;

/// A named query to transform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedQuery {
    pub(crate) id: std::sync::Arc<str>,
    pub(crate) name: std::sync::Arc<str>,
    /// A JSON array.
    pub(crate) args: std::sync::Arc<str>,
}

/// The API server's answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The user that the API server sees, if it says so; the inner `None` is nobody.
    pub(crate) user_id: Option<Option<String>>,
    /// A result for each query, in any order.
    pub(crate) results: Vec<QueryResult>,
}

/// What became of one query.
#[derive(Debug)]
pub(crate) enum QueryResult {
    /// Its AST, as JSON.
    Ast {
        /// The query.
        id: String,
        /// The AST.
        ast: Box<RawValue>,
    },
    /// It was refused.
    Error(QueryError),
}

impl QueryResult {
    /// The query.
    pub(crate) fn id(&self) -> &str {
        match self {
            QueryResult::Ast { id, .. } => id,
            QueryResult::Error(error) => &error.id,
        }
    }
}

/// The query API.
#[derive(Debug)]
pub(crate) struct QueryApi {
    endpoint: Endpoint,
}

impl QueryApi {
    /// The API as configured; none if no URL is.
    pub(crate) fn new(config: &Config) -> Option<QueryApi> {
        Some(QueryApi { endpoint: Endpoint::new(config, &config.query, "ZERO_QUERY_URL")? })
    }

    /// Asks who the caller is.
    pub(crate) async fn validate(&self, caller: &Caller) -> Result<Answer, Box<ErrorBody>> {
        self.call(caller, &[], "validate queries").await
    }

    /// Transforms queries.
    pub(crate) async fn transform(&self, caller: &Caller, queries: &[NamedQuery]) -> Result<Answer, Box<ErrorBody>> {
        self.call(caller, queries, "transform queries").await
    }

    async fn call(&self, caller: &Caller, queries: &[NamedQuery], action: &str) -> Result<Answer, Box<ErrorBody>> {
        let ids = || queries.iter().map(|query| query.id.to_string()).collect::<Vec<_>>();
        let failed = |error: CallError| {
            Box::new(error.into_body(|reason, message| ErrorBody::transform_failed(reason, message, ids())))
        };
        let text = self.endpoint.post(caller, request_body(queries), action).await.map_err(failed)?;
        match parse(&text) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(mut refused)) => {
                refused.query_ids = Some(ids());
                Err(refused)
            }
            Err(detail) => Err(failed(CallError::parse(&detail))),
        }
    }

    /// Which of the headers that a client's application set are sent on.
    pub(crate) fn allowed_client_headers(
        &self,
        headers: &std::collections::BTreeMap<String, String>,
    ) -> Vec<(String, String)> {
        self.endpoint.allowed_client_headers(headers)
    }
}

fn request_body(queries: &[NamedQuery]) -> String {
    let mut body = String::from(r#"["transform",["#);
    for (index, query) in queries.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        body.push_str(r#"{"id":"#);
        zql_spec::json::write_string(&query.id, &mut body);
        body.push_str(r#","name":"#);
        zql_spec::json::write_string(&query.name, &mut body);
        body.push_str(r#","args":"#);
        body.push_str(&query.args);
        body.push('}');
    }
    body.push_str("]]");
    body
}

/// Parses an answer: results, or the API server's own refusal of the whole request.
fn parse(text: &str) -> Result<Result<Answer, Box<ErrorBody>>, String> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        kind: std::borrow::Cow<'a, str>,
    }
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(default, rename = "userID", deserialize_with = "present")]
        user_id: Option<Option<String>>,
        #[serde(borrow)]
        queries: Vec<RawResult<'a>>,
    }
    let detail = |error: serde_json::Error| error.to_string();
    let text = text.trim();
    if text.starts_with('[') {
        let (kind, body): (&str, &RawValue) = serde_json::from_str(text).map_err(detail)?;
        return match kind {
            "transformed" => {
                let results: Vec<RawResult<'_>> = serde_json::from_str(body.get()).map_err(detail)?;
                Ok(Ok(Answer { user_id: None, results: convert(results)? }))
            }
            "transformFailed" => refusal(body.get()).map(Err),
            other => Err(format!("unexpected message {other:?}")),
        };
    }
    let kind: Kind<'_> = serde_json::from_str(text).map_err(detail)?;
    match &*kind.kind {
        "QueryResponse" => {
            let response: Response<'_> = serde_json::from_str(text).map_err(detail)?;
            Ok(Ok(Answer { user_id: response.user_id, results: convert(response.queries)? }))
        }
        "TransformFailed" => refusal(text).map(Err),
        other => Err(format!("unexpected kind {other:?}")),
    }
}

fn refusal(text: &str) -> Result<Box<ErrorBody>, String> {
    let mut error: ErrorBody = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if error.kind != ErrorKind::TransformFailed {
        return Err("unexpected kind".to_owned());
    }
    // Which queries they are is known here, whatever the server says.
    error.query_ids.get_or_insert_default();
    error.check()?;
    Ok(Box::new(error))
}

/// A member that is there, be it null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct RawResult<'a> {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default, borrow)]
    ast: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    details: Option<Box<RawValue>>,
}

fn convert(results: Vec<RawResult<'_>>) -> Result<Vec<QueryResult>, String> {
    let convert = |result: RawResult<'_>| match (result.ast, result.error) {
        (_, Some(error)) if matches!(error.as_str(), "app" | "parse") => Ok(QueryResult::Error(QueryError {
            // The client's schema wants a message of this kind.
            message: if error == "parse" { Some(result.message.unwrap_or_default()) } else { result.message },
            error,
            id: result.id,
            name: result.name,
            details: result.details,
        })),
        (Some(ast), None) => Ok(QueryResult::Ast { id: result.id, ast: ast.to_owned() }),
        _ => Err(format!("query {:?} has neither an ast nor an error", result.id)),
    };
    results.into_iter().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::{NamedQuery, QueryResult, parse, request_body};

    #[test]
    fn requests() {
        assert_eq!(request_body(&[]), r#"["transform",[]]"#);
        let query = NamedQuery { id: "h".into(), name: "a\"b".into(), args: "[1]".into() };
        assert_eq!(request_body(&[query]), r#"["transform",[{"id":"h","name":"a\"b","args":[1]}]]"#);
    }

    #[test]
    fn answers() {
        for (text, user, results) in [
            (r#"{"kind":"QueryResponse","queries":[],"userID":null}"#, Some(None), 0),
            (
                r#"{"kind":"QueryResponse","userID":"u","queries":[{"id":"h","name":"n","ast":{"table":"t"}}]}"#,
                Some(Some("u")),
                1,
            ),
            (r#"{"kind":"QueryResponse","queries":[{"error":"app","id":"h","name":"n","extra":1}]}"#, None, 1),
            (r#" ["transformed",[{"id":"h","name":"n","ast":{"table":"t"}}]]"#, None, 1),
        ] {
            let answer = parse(text).expect(text).expect("no refusal");
            assert_eq!(answer.user_id, user.map(|user| user.map(str::to_owned)), "{text}");
            assert_eq!(answer.results.len(), results, "{text}");
        }
        let Ok(Ok(answer)) = parse(r#"["transformed",[{"id":"h","ast":{"z":1, "a":2}}]]"#) else { panic!("an answer") };
        assert!(matches!(&answer.results[0], QueryResult::Ast { ast, .. } if ast.get() == r#"{"z":1, "a":2}"#));
    }

    #[test]
    fn refusals_and_nonsense() {
        let refusal =
            r#"{"kind":"TransformFailed","origin":"server","reason":"internal","message":"m","queryIDs":["h"]}"#;
        let refused = parse(refusal).expect("parsed").expect_err("a refusal");
        assert_eq!(refused.message, "m");
        assert!(parse(&format!(r#"["transformFailed",{refusal}]"#)).expect("parsed").is_err());
        for text in [
            "",
            "nope",
            "{}",
            "[]",
            r#"{"kind":"x"}"#,
            r#"["transformed",[{"id":"h"}]]"#,
            r#"{"kind":"TransformFailed","message":"m"}"#,
            r#"{"kind":"TransformFailed","message":"m","origin":"server"}"#,
            r#"{"kind":"TransformFailed","message":"m","reason":"internal"}"#,
            r#"{"kind":"TransformFailed","message":"m","origin":"zeroCache","reason":"http"}"#,
            r#"{"kind":"TransformFailed","message":"m","origin":"server","reason":"oooMutation"}"#,
            r#"["transformFailed",{"kind":"PushFailed","message":"m","origin":"server","reason":"internal"}]"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
