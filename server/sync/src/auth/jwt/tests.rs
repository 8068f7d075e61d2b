//! Tokens and keys of every kind.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tokio::time::Instant;
use warp::Filter;

use super::Verifier;
use crate::auth::jwk::Key;
use crate::config::KeySource;

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A token by a secret, signed as its header says.
pub(crate) fn signed(secret: &str, header: &str, claims: &str) -> String {
    let algorithm = if header.contains("HS512") { Algorithm::HS512 } else { Algorithm::HS256 };
    sign(&EncodingKey::from_secret(secret.as_bytes()), algorithm, header, claims)
}

fn sign(key: &EncodingKey, algorithm: Algorithm, header: &str, claims: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = jsonwebtoken::crypto::sign(text.as_bytes(), key, algorithm).expect("a signature");
    format!("{text}.{signature}")
}

/// The key pairs of `tests/keys`: the `kid`, the private key, and what it signs with.
fn pairs() -> [(&'static str, EncodingKey, &'static [Algorithm]); 3] {
    use Algorithm::{ES256, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let rsa = EncodingKey::from_rsa_der(include_bytes!("../../../tests/keys/rsa.der"));
    let ec = EncodingKey::from_ec_der(include_bytes!("../../../tests/keys/ec.der"));
    let ed = EncodingKey::from_ed_der(include_bytes!("../../../tests/keys/ed.der"));
    [("rsa", rsa, &[RS256, RS384, RS512, PS256, PS384, PS512]), ("ec", ec, &[ES256]), ("ed", ed, &[EdDSA])]
}

const SET: &str = include_str!("../../../tests/keys/public.json");

/// A public key of the set, with other members besides.
fn public(kid: &str, extra: Value) -> Value {
    let set: Value = serde_json::from_str(SET).expect("JSON");
    let mut key = set["keys"].as_array().expect("keys").iter().find(|key| key["kid"] == kid).expect(kid).clone();
    key.as_object_mut().expect("a key").extend(extra.as_object().expect("members").clone());
    key
}

fn by_key(key: &Value) -> KeySource {
    KeySource::Jwk(Box::new(Key::from_json(key).expect("a key")))
}

/// A token of a key pair; its header has the algorithm, and the `kid` if there is one.
fn token(key: &EncodingKey, algorithm: Algorithm, kid: Option<&str>, claims: &str) -> String {
    let mut header = json!({ "alg": format!("{algorithm:?}") });
    if let Some(kid) = kid {
        header["kid"] = kid.into();
    }
    sign(key, algorithm, &header.to_string(), claims)
}

async fn verified(verifier: &Verifier, token: &str) -> String {
    match verifier.verify(token, "u").await {
        Ok(claims) => claims.to_string(),
        Err(fault) => fault.to_string(),
    }
}

async fn judged(source: &KeySource, token: &str) -> String {
    verified(&Verifier::new(source, None, None), token).await
}

const CLAIMS: &str = r#"{"sub":"u"}"#;

/// A set of keys behind a URL, which can be changed and counts who asks.
struct KeyServer {
    url: String,
    answer: Mutex<(u16, String)>,
    calls: AtomicUsize,
}

impl KeyServer {
    async fn start(status: u16, body: &str) -> Arc<KeyServer> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
        let answer = Mutex::new((status, body.to_owned()));
        let server = Arc::new(KeyServer { url, answer, calls: AtomicUsize::new(0) });
        let served = Arc::clone(&server);
        let route = warp::path("keys").map(move || {
            served.calls.fetch_add(1, Ordering::Relaxed);
            let (status, body) = served.answer.lock().expect("not poisoned").clone();
            warp::reply::with_status(body, warp::http::StatusCode::from_u16(status).expect("a status"))
        });
        tokio::spawn(warp::serve(route).incoming(listener).run());
        server
    }

    fn verifier(&self) -> Verifier {
        Verifier::new(&KeySource::JwksUrl(self.url.clone()), None, None)
    }
}

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

/// Every algorithm by its key, alone and in a set: what is good, what is altered, what is out of date, and what the key
/// did not sign.
#[tokio::test]
async fn tokens_by_key() {
    let keys = KeyServer::start(200, SET).await;
    let set = keys.verifier();
    let past = format!(r#"{{"sub":"u","exp":{}}}"#, now() - 1);
    let altered = |token: &str| {
        let parts: Vec<&str> = token.split('.').collect();
        format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(r#"{"sub":"u","admin":true}"#), parts[2])
    };
    for (kid, key, algorithms) in pairs() {
        let alone = Verifier::new(&by_key(&public(kid, json!({}))), None, None);
        for &algorithm in algorithms {
            let name = format!("{algorithm:?}");
            let good = token(&key, algorithm, Some(kid), CLAIMS);
            let nameless = token(&key, algorithm, None, CLAIMS);
            let stranger = token(&key, algorithm, Some("other"), CLAIMS);
            let late = token(&key, algorithm, Some(kid), &past);
            const EXPIRED: &str = "JWTExpired: \"exp\" claim timestamp check failed";
            const UNSIGNED: &str = "JWSSignatureVerificationFailed: signature verification failed";
            const UNKNOWN: &str = "JWKSNoMatchingKey: no applicable key found in the JSON Web Key Set";
            for (verifier, token, expected) in [
                (&alone, &good, CLAIMS),
                (&alone, &nameless, CLAIMS),
                // Where there is one key, nobody asks for its name.
                (&alone, &stranger, CLAIMS),
                (&alone, &late, EXPIRED),
                (&alone, &altered(&good), UNSIGNED),
                (&set, &good, CLAIMS),
                (&set, &nameless, CLAIMS),
                (&set, &stranger, UNKNOWN),
                (&set, &late, EXPIRED),
                (&set, &altered(&good), UNSIGNED),
            ] {
                assert_eq!(verified(verifier, token).await, expected, "{name} {token}");
            }
            let restricted = |extra: Value| by_key(&public(kid, extra));
            let only = |expected: &str| format!("TypeError: Invalid key for this operation, {expected}");
            for (key, expected) in [
                (json!({ "alg": name, "use": "sig", "key_ops": ["verify"] }), CLAIMS.to_owned()),
                (json!({ "alg": "RSA-OAEP" }), only(&format!("when present its alg must be {name}"))),
                (json!({ "use": "enc" }), only("its use and key_ops must include verify")),
                (json!({ "key_ops": ["sign"] }), only("its use and key_ops must include verify")),
            ] {
                assert_eq!(judged(&restricted(key.clone()), &good).await, expected, "{name} {key}");
            }
            // The other kinds of keys, and the public key taken for a secret.
            for (other, ..) in pairs().iter().filter(|(other, ..)| *other != kid) {
                let expected = format!("TypeError: The key is not one for the {name} algorithm");
                assert_eq!(judged(&by_key(&public(other, json!({}))), &good).await, expected);
            }
            let forged = signed(&public(kid, json!({})).to_string(), r#"{"alg":"HS256"}"#, CLAIMS);
            assert_eq!(verified(&alone, &forged).await, "TypeError: The key is not one for the HS256 algorithm");
        }
    }
    assert_eq!(keys.calls.load(Ordering::Relaxed), 1, "one set for all");
}

#[tokio::test]
async fn sets_behind_a_url() {
    let [_, _, (_, key, _)] = pairs();
    let good = token(&key, Algorithm::EdDSA, None, CLAIMS);
    let named = token(&key, Algorithm::EdDSA, Some("b"), CLAIMS);
    let two = json!({ "keys": [public("ed", json!({ "kid": "a" })), { "kty": "unknown" }, public("ed", json!({ "kid": "b" }))] });
    let one = json!({ "keys": [public("ed", json!({}))] });
    let (two, one) = (two.to_string(), one.to_string());
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
        let keys = KeyServer::start(status, body).await;
        let verifier = keys.verifier();
        for _ in 0..2 {
            assert_eq!(verified(&verifier, token).await, expected);
        }
        let calls = keys.calls.load(Ordering::Relaxed);
        assert!(calls <= 1, "{calls} calls for one set");
    }
    let nobody = judged(&KeySource::JwksUrl("http://127.0.0.1:1/keys".to_owned()), &good).await;
    assert!(nobody.starts_with("Error: "), "{nobody}");
}

/// Keys are replaced: one that is not known makes the set be fetched again, but not at everybody's wish.
#[tokio::test]
async fn keys_are_replaced() {
    let [_, _, (_, key, _)] = pairs();
    let set = |kid: &str| json!({ "keys": [public("ed", json!({ "kid": kid }))] }).to_string();
    let [old, new] = ["old", "new"].map(|kid| token(&key, Algorithm::EdDSA, Some(kid), CLAIMS));
    let keys = KeyServer::start(200, &set("old")).await;
    let verifier = keys.verifier();
    assert_eq!(verified(&verifier, &old).await, CLAIMS);
    *keys.answer.lock().expect("not poisoned") = (200, set("new"));
    let unknown = "JWKSNoMatchingKey: no applicable key found in the JSON Web Key Set";
    assert_eq!(verified(&verifier, &new).await, unknown);
    assert_eq!(keys.calls.load(Ordering::Relaxed), 1);
    let start = Instant::now();
    let at =
        async |seconds, token: &str| match verifier.verify_at(token, "u", start + Duration::from_secs(seconds)).await {
            Ok(claims) => claims.to_string(),
            Err(fault) => fault.to_string(),
        };
    assert_eq!(at(31, &new).await, CLAIMS);
    assert_eq!(at(31, &old).await, unknown);
    assert_eq!(keys.calls.load(Ordering::Relaxed), 2);
    // After a while the set is fetched again though nothing is missing; a failure is not remembered for long.
    *keys.answer.lock().expect("not poisoned") = (500, String::new());
    assert_eq!(at(630, &new).await, CLAIMS);
    assert_eq!(at(632, &new).await, "JOSEError: Expected 200 OK from the JSON Web Key Set HTTP response");
    *keys.answer.lock().expect("not poisoned") = (200, set("new"));
    assert_eq!(at(634, &new).await, CLAIMS);
    assert_eq!(keys.calls.load(Ordering::Relaxed), 4);
}
