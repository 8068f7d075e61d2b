//! Keys that verify tokens: one JSON web key, or the right one of a set.

use std::str::FromStr;

use jsonwebtoken::jwk::{Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::claims::Fault;

/// What a token says of the key that signed it.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) algorithm: String,
    pub(crate) key_id: Option<String>,
}

/// A public key, or a shared secret.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    decoding: DecodingKey,
    algorithm: Option<String>,
    key_id: Option<String>,
    may_verify: bool,
}

impl Key {
    /// A shared secret: its bytes as they are.
    pub(crate) fn secret(secret: &str) -> Key {
        let decoding = DecodingKey::from_secret(secret.as_bytes());
        Key { decoding, algorithm: None, key_id: None, may_verify: true }
    }

    /// A JSON web key.
    pub(crate) fn from_json(json: &Value) -> Result<Key, String> {
        let jwk: Jwk = serde_json::from_value(json.clone()).map_err(|error| error.to_string())?;
        let common = &jwk.common;
        let for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
        let operations = common.key_operations.as_ref();
        Ok(Key {
            decoding: DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?,
            algorithm: json.get("alg").and_then(Value::as_str).map(str::to_owned),
            key_id: common.key_id.clone(),
            may_verify: for_signatures && operations.is_none_or(|all| all.contains(&KeyOperations::Verify)),
        })
    }

    /// The keys of a set that are of a kind that is understood.
    pub(crate) fn set(json: &Value) -> Option<Vec<Key>> {
        let keys = json.get("keys")?.as_array()?;
        Some(keys.iter().filter_map(|key| Key::from_json(key).ok()).collect())
    }

    /// Whether the key may have signed such a token.
    fn fits(&self, wanted: &Wanted, algorithm: Algorithm) -> bool {
        self.decoding.family().algorithms().contains(&algorithm)
            && self.may_verify
            && self.algorithm.as_ref().is_none_or(|own| *own == wanted.algorithm)
            && wanted.key_id.as_ref().is_none_or(|id| self.key_id.as_ref() == Some(id))
    }

    /// Checks a signature by this key and no other.
    pub(crate) fn verify(&self, wanted: &Wanted, signed: &str, signature: &str) -> Result<(), Fault> {
        let fault = |message: String| Err(Fault::new("TypeError", message));
        let algorithm = algorithm(wanted)?;
        if !self.decoding.family().algorithms().contains(&algorithm) {
            return fault(format!("The key is not one for the {} algorithm", wanted.algorithm));
        }
        if !self.may_verify {
            return fault("Invalid key for this operation, its use and key_ops must include verify".to_owned());
        }
        if self.algorithm.as_ref().is_some_and(|own| *own != wanted.algorithm) {
            let algorithm = &wanted.algorithm;
            return fault(format!("Invalid key for this operation, when present its alg must be {algorithm}"));
        }
        match jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &self.decoding, algorithm) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Fault::new("JWSSignatureVerificationFailed", "signature verification failed")),
        }
    }
}

fn algorithm(wanted: &Wanted) -> Result<Algorithm, Fault> {
    Algorithm::from_str(&wanted.algorithm)
        .map_err(|_| Fault::new("JOSENotSupported", format!("Unsupported \"alg\" value {}", wanted.algorithm)))
}

/// The key of a set that signed such a token; none if no key fits.
pub(crate) fn select<'a>(keys: &'a [Key], wanted: &Wanted) -> Result<Option<&'a Key>, Fault> {
    let algorithm = algorithm(wanted)?;
    // A secret in a public set would be everybody's.
    if jsonwebtoken::AlgorithmFamily::Hmac.algorithms().contains(&algorithm) {
        return Err(Fault::new("JOSENotSupported", "Unsupported \"alg\" value for a JSON Web Key Set"));
    }
    let mut fitting = keys.iter().filter(|key| key.fits(wanted, algorithm));
    match (fitting.next(), fitting.next()) {
        (Some(_), Some(_)) => {
            let message = "multiple matching keys found in the JSON Web Key Set";
            Err(Fault::new("JWKSMultipleMatchingKeys", message))
        }
        (key, _) => Ok(key),
    }
}
