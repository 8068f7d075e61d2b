//! Calls of the application's API server that turn named queries into ASTs (protocol sheet §11).
//!
//! The empty request `["transform",[]]` asks only whether the caller is known. A call is retried when the
//! server does not answer or fails (5xx); everything else is told to the client. One HTTP client serves
//! all groups and keeps connections open.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use zql_spec::protocol::downstream::QueryError;
use zql_spec::protocol::error::{ErrorBody, ErrorKind, ErrorReason};

mod pattern;

use crate::config::{ApiConfig, Config};

/// Attempts of one call. With the delays below, an API server that restarts within a second is not noticed.
const ATTEMPTS: u32 = 4;

/// Longest delay between attempts, in milliseconds.
const MAX_DELAY_MS: u64 = 1000;

/// How long one attempt may take. The reference waits for ever; a client gives up long before this.
const ATTEMPT_WAIT: Duration = Duration::from_secs(60);

/// Characters of a refused answer that are shown to the client.
const PREVIEW_CHARS: usize = 512;

/// Longest answer that is read: transformed queries are a few kilobytes each.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// On whose behalf a call is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The URL that the client chose.
    pub(crate) url: Option<String>,
    /// Headers that the client's application set, already filtered.
    pub(crate) client_headers: Vec<(String, String)>,
    /// Headers of the upgrade request, already filtered.
    pub(crate) request_headers: Vec<(String, String)>,
    /// The user's token.
    pub(crate) auth: Option<String>,
    /// The upgrade request's cookies, if they are to be sent on.
    pub(crate) cookie: Option<String>,
    /// The upgrade request's origin.
    pub(crate) origin: Option<String>,
}

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

/// The query API.
#[derive(Debug)]
pub(crate) struct QueryApi {
    client: reqwest::Client,
    config: ApiConfig,
    patterns: Vec<pattern::Pattern>,
    schema: String,
    app_id: String,
}

impl QueryApi {
    /// The API as configured; none if no URL is.
    pub(crate) fn new(config: &Config) -> Option<QueryApi> {
        if config.query.urls.is_empty() {
            return None;
        }
        Some(QueryApi {
            client: reqwest::Client::builder().timeout(ATTEMPT_WAIT).build().unwrap_or_default(),
            patterns: config.query.urls.iter().map(|url| pattern::Pattern::new(url)).collect(),
            config: config.query.clone(),
            schema: config.shard(),
            app_id: config.app_id.clone(),
        })
    }

    /// Asks who the caller is.
    pub(crate) async fn validate(&self, caller: &Caller) -> Result<Answer, ErrorBody> {
        self.call(caller, &[], "validate").await
    }

    /// Transforms queries.
    pub(crate) async fn transform(&self, caller: &Caller, queries: &[NamedQuery]) -> Result<Answer, ErrorBody> {
        self.call(caller, queries, "transform").await
    }

    async fn call(&self, caller: &Caller, queries: &[NamedQuery], verb: &str) -> Result<Answer, ErrorBody> {
        let ids = || queries.iter().map(|query| query.id.to_string()).collect::<Vec<_>>();
        let internal = |message: String| ErrorBody::transform_failed(ErrorReason::Internal, message, ids());
        let url = self.url(caller, verb).map_err(internal)?;
        let headers = self.headers(caller);
        let body = request_body(queries);
        let mut attempt = 0;
        let response = loop {
            attempt += 1;
            let sent = self.client.post(url.clone()).headers(headers.clone()).body(body.clone()).send().await;
            let again = match &sent {
                Ok(response) => response.status().is_server_error(),
                Err(_) => true,
            };
            if !again || attempt == ATTEMPTS {
                break sent;
            }
            let delay = (100 << (attempt - 1)) + rand::rng().random_range(0..100);
            tokio::time::sleep(Duration::from_millis(delay.min(MAX_DELAY_MS))).await;
        };
        let response =
            response.map_err(|error| internal(format!("Fetch from API server threw error: {}", causes(&error))))?;
        let status = response.status();
        let text =
            read(response).await.map_err(|error| internal(format!("Fetch from API server threw error: {error}")))?;
        if !status.is_success() {
            let mut error = ErrorBody::transform_failed(
                ErrorReason::Http,
                format!("Fetch from API server returned non-OK status {}", status.as_u16()),
                ids(),
            );
            error.status = Some(status.as_u16());
            error.body_preview = Some(preview(&text));
            return Err(error);
        }
        match parse(&text) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(mut refused)) => {
                refused.query_ids = Some(ids());
                Err(*refused)
            }
            Err(detail) => Err(ErrorBody::transform_failed(
                ErrorReason::Parse,
                format!("Failed to parse response from API server: {detail}"),
                ids(),
            )),
        }
    }

    fn url(&self, caller: &Caller, verb: &str) -> Result<reqwest::Url, String> {
        let chosen = caller.url.as_deref().filter(|url| !url.is_empty());
        let text = chosen.or(self.config.urls.first().map(String::as_str)).unwrap_or_default();
        let not_allowed = || format!("URL \"{text}\" is not allowed by the ZERO_QUERY_URL configuration");
        let mut url = reqwest::Url::parse(text).map_err(|_| not_allowed())?;
        if !self.patterns.iter().any(|pattern| pattern.matches(&url)) {
            return Err(not_allowed());
        }
        for reserved in ["schema", "appID"] {
            if url.query_pairs().any(|(name, _)| name == reserved) {
                return Err(format!(
                    "Failed to {verb} queries: The push URL cannot contain the reserved query param \"{reserved}\""
                ));
            }
        }
        url.query_pairs_mut().append_pair("schema", &self.schema).append_pair("appID", &self.app_id);
        Ok(url)
    }

    /// Headers in the reference's order: later ones win.
    fn headers(&self, caller: &Caller) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut set = |name: &str, value: &str| {
            // What cannot be a header is not sent, as a browser would not have sent it either.
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes())) {
                headers.insert(name, value);
            }
        };
        set("content-type", "application/json");
        if let Some(key) = &self.config.api_key {
            set("x-api-key", key);
        }
        for (name, value) in caller.client_headers.iter().chain(&caller.request_headers) {
            set(name, value);
        }
        if let Some(token) = &caller.auth {
            set("authorization", &format!("Bearer {token}"));
        }
        if let Some(cookie) = &caller.cookie {
            set("cookie", cookie);
        }
        if let Some(origin) = &caller.origin {
            set("origin", origin);
        }
        headers
    }

    /// Which of the headers that a client's application set are sent on.
    pub(crate) fn allowed_client_headers(&self, headers: &BTreeMap<String, String>) -> Vec<(String, String)> {
        let allowed = |name: &str| self.config.allowed_client_headers.contains(&name.to_lowercase());
        headers.iter().filter(|(name, _)| allowed(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
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

async fn read(mut response: reqwest::Response) -> Result<String, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| causes(&error))? {
        if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(format!("the answer is longer than {MAX_ANSWER_BYTES} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// An error and its causes in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn preview(text: &str) -> String {
    match text.char_indices().nth(PREVIEW_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
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
    let error: ErrorBody = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if error.kind == ErrorKind::TransformFailed { Ok(Box::new(error)) } else { Err("unexpected kind".to_owned()) }
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
    use super::{NamedQuery, QueryResult, parse, preview, request_body};

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
        for text in ["", "nope", "{}", "[]", r#"{"kind":"x"}"#, r#"["transformed",[{"id":"h"}]]"#] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(preview(&"é".repeat(600)).chars().count(), 515);
    }
}
