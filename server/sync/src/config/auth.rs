//! How tokens are judged.

use std::time::Duration;

use zql_spec::protocol::connect::number;

use super::ConfigError;
use super::values::error;
use crate::auth::jwk::Key;
use crate::options::Settings;

/// How tokens are judged.
#[derive(Clone, Debug)]
pub(crate) struct AuthConfig {
    /// The keys that are configured: more than one is a mistake that is told to those who show a token.
    pub(crate) keys: Vec<KeySource>,
    /// `ZERO_AUTH_ISSUER`
    pub(crate) issuer: Option<String>,
    /// `ZERO_AUTH_AUDIENCE`
    pub(crate) audience: Option<String>,
    /// `ZERO_AUTH_REVALIDATE_INTERVAL_SECONDS`; absent for never.
    pub(crate) revalidate: Option<Duration>,
    /// `ZERO_AUTH_RETRANSFORM_INTERVAL_SECONDS`; absent for never.
    pub(crate) retransform: Option<Duration>,
}

/// Where the keys of JSON web tokens come from.
#[derive(Clone, Debug)]
pub(crate) enum KeySource {
    /// `ZERO_AUTH_JWK`
    Jwk(Box<Key>),
    /// `ZERO_AUTH_SECRET`
    Secret(String),
    /// `ZERO_AUTH_JWKS_URL`
    JwksUrl(String),
}

impl KeySource {
    /// Its name in the reference's messages.
    pub(crate) fn option(&self) -> &'static str {
        match self {
            KeySource::Jwk(_) => "jwk",
            KeySource::Secret(_) => "secret",
            KeySource::JwksUrl(_) => "jwksUrl",
        }
    }
}

pub(super) fn auth(settings: &Settings) -> Result<AuthConfig, ConfigError> {
    let text = |env: &str| settings.text(env).map(str::to_owned);
    let jwk = text("ZERO_AUTH_JWK").map(|text| {
        let json = serde_json::from_str(&text).map_err(|error| error.to_string());
        json.and_then(|json| Key::from_json(&json)).map(|key| KeySource::Jwk(Box::new(key))).map_err(|problem| {
            error(format!("TypeError: Invalid input for ZERO_AUTH_JWK: not a usable key: {problem}"))
        })
    });
    let jwks_url = text("ZERO_AUTH_JWKS_URL").map(|text| match url::Url::parse(&text) {
        Ok(_) => Ok(KeySource::JwksUrl(text)),
        Err(problem) => Err(error(format!("TypeError: Invalid input for ZERO_AUTH_JWKS_URL: {text:?}: {problem}"))),
    });
    let secret = text("ZERO_AUTH_SECRET").map(|secret| Ok(KeySource::Secret(secret)));
    let interval = |name: &str| {
        let seconds = settings.text(&format!("ZERO_AUTH_{name}_INTERVAL_SECONDS")).and_then(number);
        // Longer than a century is never.
        let seconds = Some(seconds.unwrap_or(300.0)).filter(|seconds| *seconds > 0.0 && *seconds < 4e9);
        seconds.map(Duration::from_secs_f64)
    };
    Ok(AuthConfig {
        keys: [jwk, jwks_url, secret].into_iter().flatten().collect::<Result<_, _>>()?,
        issuer: text("ZERO_AUTH_ISSUER"),
        audience: text("ZERO_AUTH_AUDIENCE"),
        revalidate: interval("REVALIDATE"),
        retransform: interval("RETRANSFORM"),
    })
}
