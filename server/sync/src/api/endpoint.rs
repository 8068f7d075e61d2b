//! One API server of the application: which URLs may be called, with which headers, and how often it is tried
//! (protocol sheet §11.1 to §11.3).
//!
//! A call is retried when the server does not answer or fails (5xx); everything else is the caller's to judge. It must
//! not know what is asked: bodies are texts. One HTTP client serves all groups and keeps connections open.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use zql_spec::protocol::error::{ErrorBody, ErrorReason};

use super::pattern::Pattern;
use crate::config::{ApiConfig, Config};

/// Attempts of one call. With the delays below, an API server that restarts within a second is not noticed.
const ATTEMPTS: u32 = 4;

/// Longest delay between attempts, in milliseconds.
const MAX_DELAY_MS: u64 = 1000;

/// How long one attempt may take. The reference waits for ever; a client gives up long before this.
const ATTEMPT_WAIT: Duration = Duration::from_secs(60);

/// Connections to an API server that are kept for the next calls. A thousand groups that come at once open as many; each
/// that is kept costs 30 kB, and more than these are not in use at once later on.
const IDLE_CONNECTIONS: usize = 32;

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

impl Caller {
    /// The caller that an upgrade request shows, as far as this API server may know.
    pub(crate) fn from_request(headers: &HeaderMap, config: &ApiConfig, auth: Option<String>) -> Self {
        let text = |name: &str| {
            let values: Vec<String> = headers
                .get_all(name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            (!values.is_empty()).then(|| values.join(", "))
        };
        let names = config.allowed_request_headers.iter();
        Caller {
            url: None,
            client_headers: Vec::new(),
            request_headers: names.filter_map(|name| Some((name.clone(), text(name)?))).collect(),
            auth,
            cookie: text("cookie").filter(|_| config.forward_cookies),
            origin: text("origin"),
        }
    }
}

/// Why a call has no answer that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallError {
    pub(crate) reason: ErrorReason,
    pub(crate) message: String,
    /// The HTTP status, if the server answered.
    pub(crate) status: Option<u16>,
    /// The beginning of what it answered.
    pub(crate) preview: Option<String>,
}

impl CallError {
    fn internal(message: String) -> Self {
        CallError { reason: ErrorReason::Internal, message, status: None, preview: None }
    }

    /// An answer that is not what the protocol says.
    pub(crate) fn parse(detail: &str) -> Self {
        let message = format!("Failed to parse response from API server: {detail}");
        CallError { reason: ErrorReason::Parse, message, status: None, preview: None }
    }

    /// The same as a message for clients, which `body` makes of reason and text.
    pub(crate) fn into_body(self, body: impl FnOnce(ErrorReason, String) -> ErrorBody) -> ErrorBody {
        let mut error = body(self.reason, self.message);
        error.status = self.status;
        error.body_preview = self.preview;
        error
    }
}

/// An API server.
#[derive(Debug)]
pub(crate) struct Endpoint {
    client: reqwest::Client,
    config: ApiConfig,
    /// The option that allows URLs, for messages.
    option: &'static str,
    patterns: Vec<Pattern>,
    schema: String,
    app_id: String,
}

impl Endpoint {
    /// The server that an option names; none if it names none.
    pub(crate) fn new(config: &Config, api: &ApiConfig, option: &'static str) -> Option<Endpoint> {
        if api.urls.is_empty() {
            return None;
        }
        Some(Endpoint {
            client: reqwest::Client::builder()
                .timeout(ATTEMPT_WAIT)
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .build()
                .unwrap_or_default(),
            // The configuration has only those that compile.
            patterns: api.urls.iter().filter_map(|url| Pattern::new(url).ok()).collect(),
            config: api.clone(),
            option,
            schema: config.shard(),
            app_id: config.app_id.clone(),
        })
    }

    /// Posts a JSON text and gives the text of the answer. The action is for messages: "Failed to <action>".
    pub(crate) async fn post(&self, caller: &Caller, body: String, action: &str) -> Result<String, CallError> {
        let threw = |error: String| CallError::internal(format!("Fetch from API server threw error: {error}"));
        let url = self.url(caller, action).map_err(CallError::internal)?;
        let headers = self.headers(caller);
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
        let response = response.map_err(|error| threw(causes(&error)))?;
        let status = response.status();
        let text = read(response).await.map_err(threw)?;
        if status.is_success() {
            return Ok(text);
        }
        Err(CallError {
            reason: ErrorReason::Http,
            message: format!("Fetch from API server returned non-OK status {}", status.as_u16()),
            status: Some(status.as_u16()),
            preview: Some(preview(&text)),
        })
    }

    fn url(&self, caller: &Caller, action: &str) -> Result<reqwest::Url, String> {
        let chosen = caller.url.as_deref().filter(|url| !url.is_empty());
        let text = chosen.or(self.config.urls.first().map(String::as_str)).unwrap_or_default();
        let not_allowed = || format!("URL \"{text}\" is not allowed by the {} configuration", self.option);
        let mut url = reqwest::Url::parse(text).map_err(|_| not_allowed())?;
        if !self.patterns.iter().any(|pattern| pattern.matches(&url)) {
            return Err(not_allowed());
        }
        for reserved in ["schema", "appID"] {
            if url.query_pairs().any(|(name, _)| name == reserved) {
                return Err(format!(
                    "Failed to {action}: The push URL cannot contain the reserved query param \"{reserved}\""
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
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::preview;

    #[test]
    fn previews_are_short() {
        assert_eq!(preview(&"é".repeat(600)).chars().count(), 515);
        assert_eq!(preview("short"), "short");
    }
}
