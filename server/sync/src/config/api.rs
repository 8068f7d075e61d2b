//! How the application's API servers are called.

use super::ConfigError;
use super::values::{boolean, error};
use crate::api::Pattern;
use crate::options::Settings;

/// How an API server is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiConfig {
    /// Patterns of allowed URLs; the first is the default. Empty: there is no API server.
    pub urls: Vec<String>,
    /// Sent as `X-Api-Key`.
    pub api_key: Option<String>,
    /// Whether the client's cookies are sent on.
    pub forward_cookies: bool,
    /// Names, in lower case, of headers that a client may have sent.
    pub allowed_client_headers: Vec<String>,
    /// Names, in lower case, of headers of the upgrade request that are sent on.
    pub allowed_request_headers: Vec<String>,
}

impl ApiConfig {
    /// The same, if all its URLs are patterns.
    fn checked(self, name: &str) -> Result<ApiConfig, ConfigError> {
        for url in &self.urls {
            if let Err(problem) = Pattern::new(url) {
                return Err(error(format!(
                    "TypeError: Invalid input for {name}: {url:?} is no URL pattern: {problem}"
                )));
            }
        }
        Ok(self)
    }
}

fn api(settings: &Settings, prefix: &str) -> ApiConfig {
    let list = |name: &str| settings.list(&format!("{prefix}_{name}")).unwrap_or_default();
    let lower = |names: Vec<String>| names.iter().map(|name| name.to_lowercase()).collect();
    ApiConfig {
        urls: list("URL"),
        api_key: settings.text(&format!("{prefix}_API_KEY")).map(str::to_owned),
        forward_cookies: boolean(settings, &format!("{prefix}_FORWARD_COOKIES")).unwrap_or(false),
        allowed_client_headers: lower(list("ALLOWED_CLIENT_HEADERS")),
        allowed_request_headers: lower(list("ALLOWED_REQUEST_HEADERS")),
    }
}

/// The query API: the newer names, or the older ones if the newer say nothing of a URL.
pub(super) fn query_api(settings: &Settings) -> Result<ApiConfig, ConfigError> {
    let query = match settings.list("ZERO_QUERY_URL") {
        Some(_) => api(settings, "ZERO_QUERY"),
        None => api(settings, "ZERO_GET_QUERIES"),
    };
    query.checked("ZERO_QUERY_URL")
}

/// The mutate API. The older names count where the newer ones say nothing, but an older URL goes before a newer one, as
/// the reference has it.
pub(super) fn mutate_api(settings: &Settings) -> Result<ApiConfig, ConfigError> {
    let (newer, older) = (api(settings, "ZERO_MUTATE"), api(settings, "ZERO_PUSH"));
    let list = |newer: Vec<String>, older: Vec<String>| if newer.is_empty() { older } else { newer };
    let mutate = ApiConfig {
        urls: list(older.urls, newer.urls),
        api_key: newer.api_key.or(older.api_key),
        forward_cookies: boolean(settings, "ZERO_MUTATE_FORWARD_COOKIES").unwrap_or(older.forward_cookies),
        allowed_client_headers: list(newer.allowed_client_headers, older.allowed_client_headers),
        allowed_request_headers: list(newer.allowed_request_headers, older.allowed_request_headers),
    };
    mutate.checked("ZERO_MUTATE_URL")
}
