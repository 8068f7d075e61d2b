//! A set of keys behind a URL, fetched when it is needed and kept for a while.
//!
//! One fetch serves all who wait for it. Keys that are not known make the set be fetched again, but not more often than
//! every [`COOL_DOWN`]: whoever sends tokens with invented key ids must not make this server a source of requests.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::claims::Fault;
use super::jwk::{self, Key, Wanted};

/// How long a set is used before it is fetched again.
const KEEP: Duration = Duration::from_secs(600);

/// Least time between fetches for the sake of a key that is not known.
const COOL_DOWN: Duration = Duration::from_secs(30);

/// How long a fetch may take.
const WAIT: Duration = Duration::from_secs(5);

/// How long a failed fetch is the answer for everybody: those who waited for it do not wait again one after the other.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// Longest set that is read.
const MAX_BYTES: usize = 1 << 20;

/// The set.
#[derive(Debug)]
pub(super) struct RemoteKeys {
    client: reqwest::Client,
    url: String,
    last: Mutex<Option<Fetched>>,
}

#[derive(Debug)]
struct Fetched {
    at: Instant,
    keys: Result<Vec<Key>, Fault>,
}

impl RemoteKeys {
    pub(super) fn new(url: &str) -> RemoteKeys {
        let client = reqwest::Client::builder().timeout(WAIT).build().unwrap_or_default();
        RemoteKeys { client, url: url.to_owned(), last: Mutex::default() }
    }

    /// The key that signed such a token, which is judged at this time.
    pub(super) async fn find(&self, wanted: &Wanted, now: Instant) -> Result<Key, Fault> {
        let mut last = self.last.lock().await;
        // Who waited for the fetch of another is older than it.
        let age = |fetched: &Fetched| now.saturating_duration_since(fetched.at);
        let usable = |fetched: &Fetched| age(fetched) < if fetched.keys.is_ok() { KEEP } else { FAILED_FOR };
        if !last.as_ref().is_some_and(usable) {
            *last = None;
        }
        loop {
            let fetched = match &mut *last {
                Some(fetched) => fetched,
                None => last.insert(Fetched { keys: self.fetch().await, at: now }),
            };
            let keys = fetched.keys.as_ref().map_err(Clone::clone)?;
            match jwk::select(keys, wanted)? {
                Some(key) => return Ok(key.clone()),
                None if age(fetched) >= COOL_DOWN => *last = None,
                None => {
                    let message = "no applicable key found in the JSON Web Key Set";
                    return Err(Fault::new("JWKSNoMatchingKey", message));
                }
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, Fault> {
        let failed = |error: reqwest::Error| match error.is_timeout() {
            true => Fault::new("JWKSTimeout", "request timed out"),
            false => Fault::new("Error", crate::api::causes(&error)),
        };
        let fault = |message: &str| Err(Fault::new("JOSEError", message));
        let mut response = self.client.get(&self.url).send().await.map_err(failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return fault("Expected 200 OK from the JSON Web Key Set HTTP response");
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if bytes.len() + chunk.len() > MAX_BYTES {
                return fault("The JSON Web Key Set HTTP response is too long");
            }
            bytes.extend_from_slice(&chunk);
        }
        let Ok(json) = serde_json::from_slice::<Value>(&bytes) else {
            return fault("Failed to parse the JSON Web Key Set HTTP response as JSON");
        };
        Key::set(&json).ok_or_else(|| Fault::new("JWKSInvalid", "JSON Web Key Set malformed"))
    }
}
