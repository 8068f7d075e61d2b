//! Verification of JSON web tokens in their compact form.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
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
        let compact = || Fault::new("JWSInvalid", "Invalid Compact JWS");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(compact)?;
        let (header, payload) = signed.split_once('.').ok_or_else(compact)?;
        if payload.contains('.') {
            return Err(compact());
        }
        let wanted = wanted(header)?;
        match &self.keys {
            Keys::One(key) => key.verify(&wanted, signed, signature)?,
            Keys::Remote(keys) => keys.find(&wanted).await?.verify(&wanted, signed, signature)?,
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
pub(crate) mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{Algorithm, EncodingKey};
    use warp::Filter;

    use super::Verifier;
    use crate::auth::jwk::Key;
    use crate::config::KeySource;

    pub(crate) fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
    }

    /// A token, signed as its header says.
    pub(crate) fn signed(secret: &str, header: &str, claims: &str) -> String {
        let algorithm = if header.contains("HS512") { Algorithm::HS512 } else { Algorithm::HS256 };
        sign(&EncodingKey::from_secret(secret.as_bytes()), algorithm, header, claims)
    }

    fn sign(key: &EncodingKey, algorithm: Algorithm, header: &str, claims: &str) -> String {
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = jsonwebtoken::crypto::sign(text.as_bytes(), key, algorithm).expect("a signature");
        format!("{text}.{signature}")
    }

    // A key pair made for these tests.
    const PRIVATE: &str = "MC4CAQAwBQYDK2VwBCIEIH4MCRaBklNgG5aX+bqERoFVVKnF2xNpxs7fXIYJxvES";
    const PUBLIC: &str = "jtcb3ivnE79tkDenm8kYqtB0P19U9iQ_J7MUcoe6HWQ";

    fn private_key() -> EncodingKey {
        let der = base64::engine::general_purpose::STANDARD.decode(PRIVATE).expect("base64");
        EncodingKey::from_ed_der(&der)
    }

    fn public_key(extra: &str) -> String {
        format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{PUBLIC}"{extra}}}"#)
    }

    async fn judged(source: &KeySource, token: &str) -> String {
        match Verifier::new(source, None, None).verify(token, "u").await {
            Ok(claims) => claims.to_string(),
            Err(fault) => fault.to_string(),
        }
    }

    const CLAIMS: &str = r#"{"sub":"u"}"#;

    /// Where the text is one of the library that the reference uses, it was seen of it.
    #[tokio::test]
    async fn tokens_by_secret() {
        let source = KeySource::Secret("s".to_owned());
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for (token, expected) in [
            (signed("s", r#"{"alg":"HS256"}"#, CLAIMS), CLAIMS),
            (signed("s", r#"{"alg":"HS512","typ":"JWT"}"#, CLAIMS), CLAIMS),
            (
                signed("other", r#"{"alg":"HS256"}"#, CLAIMS),
                "JWSSignatureVerificationFailed: signature verification failed",
            ),
            (
                signed("s", r#"{"alg":"HS256"}"#, CLAIMS) + "A",
                "JWSSignatureVerificationFailed: signature verification failed",
            ),
            (String::new(), "JWSInvalid: Invalid Compact JWS"),
            ("a.b".to_owned(), "JWSInvalid: Invalid Compact JWS"),
            ("a.b.c.d".to_owned(), "JWSInvalid: Invalid Compact JWS"),
            ("a.b.c".to_owned(), "JWSInvalid: JWS Protected Header is invalid"),
            ("!!.xx.yy".to_owned(), "JWSInvalid: JWS Protected Header is invalid"),
            (format!("{}..", part("{}")), "JWSInvalid: JWS \"alg\" (Algorithm) Header Parameter missing or invalid"),
            (format!("{}..", part("[]")), "JWSInvalid: JWS \"alg\" (Algorithm) Header Parameter missing or invalid"),
            (
                format!("{}.{}.", part(r#"{"alg":"none"}"#), part(CLAIMS)),
                "JOSENotSupported: Unsupported \"alg\" value none",
            ),
            (
                format!("{}.{}.", part(r#"{"alg":"HS256"}"#), part(CLAIMS)),
                "JWSSignatureVerificationFailed: signature verification failed",
            ),
            (signed("s", r#"{"alg":"RS256"}"#, CLAIMS), "TypeError: The key is not one for the RS256 algorithm"),
            (
                signed("s", r#"{"alg":"HS256","crit":["x"]}"#, CLAIMS),
                "JOSENotSupported: Extension Header Parameters are not recognized",
            ),
            (signed("s", r#"{"alg":"HS256"}"#, "junk"), "JWTInvalid: JWT Claims Set must be a top-level JSON object"),
        ] {
            assert_eq!(judged(&source, &token).await, expected, "{token}");
        }
    }

    #[tokio::test]
    async fn tokens_by_key() {
        let key = |extra: &str| {
            let json = serde_json::from_str(&public_key(extra)).expect("JSON");
            KeySource::Jwk(Box::new(Key::from_json(&json).expect("a key")))
        };
        let token = |header: &str| sign(&private_key(), Algorithm::EdDSA, header, CLAIMS);
        let good = token(r#"{"alg":"EdDSA"}"#);
        assert_eq!(judged(&key(""), &good).await, CLAIMS);
        assert_eq!(judged(&key(r#","alg":"EdDSA","use":"sig","kid":"a""#), &good).await, CLAIMS);
        for (extra, token, expected) in [
            (
                r#","alg":"ES256""#,
                &good,
                "TypeError: Invalid key for this operation, when present its alg must be EdDSA",
            ),
            (
                r#","use":"enc""#,
                &good,
                "TypeError: Invalid key for this operation, its use and key_ops must include verify",
            ),
            (
                r#","key_ops":["sign"]"#,
                &good,
                "TypeError: Invalid key for this operation, its use and key_ops must include verify",
            ),
            ("", &signed("s", r#"{"alg":"HS256"}"#, CLAIMS), "TypeError: The key is not one for the HS256 algorithm"),
            (
                "",
                &signed(PUBLIC, r#"{"alg":"HS256"}"#, CLAIMS),
                "TypeError: The key is not one for the HS256 algorithm",
            ),
        ] {
            assert_eq!(judged(&key(extra), token).await, expected, "{extra}");
        }
    }

    #[tokio::test]
    async fn tokens_by_a_set_behind_a_url() {
        let good = sign(&private_key(), Algorithm::EdDSA, r#"{"alg":"EdDSA"}"#, CLAIMS);
        let named = sign(&private_key(), Algorithm::EdDSA, r#"{"alg":"EdDSA","kid":"b"}"#, CLAIMS);
        let two = format!(
            r#"{{"keys":[{},{{"kty":"unknown"}},{}]}}"#,
            public_key(r#","kid":"a""#),
            public_key(r#","kid":"b""#)
        );
        let one = format!(r#"{{"keys":[{}]}}"#, public_key(""));
        for (status, body, token, expected) in [
            (200, &*one, &good, CLAIMS),
            (200, &*two, &named, CLAIMS),
            (200, &*two, &good, "JWKSMultipleMatchingKeys: multiple matching keys found in the JSON Web Key Set"),
            (200, &*one, &named, "JWKSNoMatchingKey: no applicable key found in the JSON Web Key Set"),
            (200, r#"{"keys":[]}"#, &good, "JWKSNoMatchingKey: no applicable key found in the JSON Web Key Set"),
            (
                200,
                &*one,
                &signed("s", r#"{"alg":"HS256"}"#, CLAIMS),
                "JOSENotSupported: Unsupported \"alg\" value for a JSON Web Key Set",
            ),
            (500, "no", &good, "JOSEError: Expected 200 OK from the JSON Web Key Set HTTP response"),
            (200, "junk", &good, "JOSEError: Failed to parse the JSON Web Key Set HTTP response as JSON"),
            (200, "[]", &good, "JWKSInvalid: JSON Web Key Set malformed"),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
            let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let (body, counted) = (body.to_owned(), std::sync::Arc::clone(&calls));
            let route = warp::path("keys").map(move || {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let status = warp::http::StatusCode::from_u16(status).expect("a status");
                warp::reply::with_status(body.clone(), status)
            });
            let served = tokio::spawn(warp::serve(route).incoming(listener).run());
            let verifier = Verifier::new(&KeySource::JwksUrl(url), None, None);
            for _ in 0..2 {
                let judged = match verifier.verify(token, "u").await {
                    Ok(claims) => claims.to_string(),
                    Err(fault) => fault.to_string(),
                };
                assert_eq!(judged, expected);
            }
            let calls = calls.load(std::sync::atomic::Ordering::Relaxed);
            assert!(calls <= 1, "{calls} calls for one set");
            served.abort();
        }
        let nobody = judged(&KeySource::JwksUrl("http://127.0.0.1:1/keys".to_owned()), &good).await;
        assert!(nobody.starts_with("Error: "), "{nobody}");
    }
}
