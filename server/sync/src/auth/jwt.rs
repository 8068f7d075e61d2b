//! Verification of JSON web tokens in their compact form.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::time::Instant;
use zql_spec::json::Json;

use super::claims::{self, Expected, Fault};
use super::jwk::{Key, Wanted};
use super::jwks::RemoteKeys;
use crate::config::KeySource;

/// Verifies tokens by a configured key.
#[derive(Debug)]
pub(super) struct Verifier {
    keys: Keys,
    issuer: Option<String>,
    audience: Option<String>,
}

#[derive(Debug)]
enum Keys {
    One(Box<Key>),
    Remote(RemoteKeys),
}

impl Verifier {
    pub(super) fn new(source: &KeySource, issuer: Option<String>, audience: Option<String>) -> Verifier {
        let keys = match source {
            KeySource::Secret(secret) => Keys::One(Box::new(Key::secret(secret))),
            KeySource::Jwk(key) => Keys::One(key.clone()),
            KeySource::JwksUrl(url) => Keys::Remote(RemoteKeys::new(url)),
        };
        Verifier { keys, issuer, audience }
    }

    /// The claims of a token that is a user's.
    pub(super) async fn verify(&self, token: &str, user: &str) -> Result<Json, Fault> {
        self.verify_at(token, user, Instant::now()).await
    }

    /// The same at another time, as far as the keys are concerned.
    async fn verify_at(&self, token: &str, user: &str, now: Instant) -> Result<Json, Fault> {
        let compact = || Fault::new("JWSInvalid", "Invalid Compact JWS");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(compact)?;
        let (header, payload) = signed.split_once('.').ok_or_else(compact)?;
        if payload.contains('.') {
            return Err(compact());
        }
        let wanted = wanted(header)?;
        match &self.keys {
            Keys::One(key) => key.verify(&wanted, signed, signature)?,
            Keys::Remote(keys) => keys.find(&wanted, now).await?.verify(&wanted, signed, signature)?,
        }
        let claims = decode(payload).and_then(|text| Json::parse(&text).ok()).unwrap_or(Json::Null);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as f64;
        let (issuer, audience) = (self.issuer.as_deref(), self.audience.as_deref());
        claims::check(&claims, Expected { subject: user, issuer, audience, now })?;
        Ok(claims)
    }
}

fn decode(part: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn wanted(header: &str) -> Result<Wanted, Fault> {
    let fault = |message: &str| Fault::new("JWSInvalid", message);
    let header: Option<Value> = decode(header).and_then(|text| serde_json::from_str(&text).ok());
    let header = header.ok_or_else(|| fault("JWS Protected Header is invalid"))?;
    if header.get("crit").is_some() {
        // No extension is understood, and one that is critical must be.
        return Err(Fault::new("JOSENotSupported", "Extension Header Parameters are not recognized"));
    }
    let text = |name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned);
    let algorithm = text("alg").ok_or_else(|| fault("JWS \"alg\" (Algorithm) Header Parameter missing or invalid"))?;
    Ok(Wanted { algorithm, key_id: text("kid") })
}

#[cfg(test)]
pub(crate) mod tests;
