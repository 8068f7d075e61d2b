//! Who a connection speaks for: tokens, and the rules by which one replaces another (protocol sheet §4).
//!
//! A token is either verified here, as a JSON web token, or passed on to the application's API servers unseen. Which of
//! the two is a matter of configuration. A connection is pinned to its user; tokens come and go. Nothing here knows
//! groups or sockets, and nothing is kept for a connection but its token and its claims.

use std::sync::Arc;

use zql_spec::json::Json;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};

pub(crate) mod claims;
pub(crate) mod jwk;
mod jwks;
mod jwt;

use crate::config::{AuthConfig, Config, KeySource};
use jwt::Verifier;

/// A token that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Auth {
    /// As the client sent it; what API servers get.
    pub(crate) token: Arc<str>,
    /// What a verified token says of its user; absent for tokens that are not looked into.
    pub(crate) claims: Option<Arc<Json>>,
}

/// What a token does to a connection.
#[derive(Debug)]
pub(crate) enum Change {
    /// Nothing.
    Unchanged,
    /// The connection speaks with this token from now on.
    To(Arc<Auth>),
}

/// Judges tokens.
#[derive(Debug)]
pub(crate) struct Authenticator {
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    /// JSON web tokens.
    Verify(Box<Verifier>),
    /// Tokens are the API servers' business.
    PassOn,
    /// There is nobody who could verify a token; the options for keys that are set.
    Nobody(Vec<&'static str>),
}

impl Authenticator {
    /// As configured.
    pub(crate) fn new(config: &Config) -> Authenticator {
        let AuthConfig { keys, issuer, audience, .. } = &config.auth;
        let mode = match keys.as_slice() {
            [source] => Mode::Verify(Box::new(Verifier::new(source, issuer.clone(), audience.clone()))),
            _ if !config.mutate.urls.is_empty() && !config.query.urls.is_empty() => Mode::PassOn,
            keys => Mode::Nobody(keys.iter().map(KeySource::option).collect()),
        };
        Authenticator { mode }
    }

    /// Judges a connection's token, at first and when the client has a new one. `user` is who the connection claims to
    /// speak for.
    ///
    /// # Errors
    /// What the client is told before its connection is closed.
    pub(crate) async fn resolve(
        &self,
        previous: Option<&Auth>,
        token: &str,
        user: Option<&str>,
    ) -> Result<Change, Box<ErrorBody>> {
        let unauthorized = |message: &str| Err(Box::new(ErrorBody::new(ErrorKind::Unauthorized, message)));
        let invalidated = |message: String| Box::new(ErrorBody::new(ErrorKind::AuthInvalidated, message));
        if token.is_empty() {
            return match previous {
                None => Ok(Change::Unchanged),
                Some(_) => unauthorized(
                    "No token provided. An unauthenticated client cannot connect to an authenticated client group.",
                ),
            };
        }
        let Some(user) = user else { return unauthorized("Authenticated connections require a userID.") };
        if previous.is_some_and(|previous| *previous.token == *token) {
            return Ok(Change::Unchanged);
        }
        let claims = match &self.mode {
            Mode::PassOn => None,
            Mode::Nobody(set) => {
                return Err(invalidated(format!(
                    "Exactly one of jwk, secret, or jwksUrl must be set in order to verify tokens but actually the \
                     following were set: {set:?}. You may also set both ZERO_MUTATE_URL and ZERO_QUERY_URL to enable \
                     custom mutations and queries without passing token verification options."
                )));
            }
            Mode::Verify(verifier) => {
                let verified = verifier.verify(token, user).await;
                Some(verified.map_err(|fault| invalidated(format!("Failed to decode auth token: {fault}")))?)
            }
        };
        // Two of the reference's rules cannot be broken here. That the user is the same is known: both tokens are the
        // connection's user's. And the kind of token is the configuration's, which does not change while a process runs.
        let issued = |claims: &Json| claims.get("iat").and_then(Json::as_f64);
        let before = previous.and_then(|previous| previous.claims.as_deref()).and_then(issued);
        if let (Some(claims), Some(before)) = (&claims, before) {
            match issued(claims) {
                // An answer that was overtaken.
                Some(now) if now <= before => return Ok(Change::Unchanged),
                Some(_) => {}
                None => {
                    return unauthorized(
                        "The new token does not have an issued at time but the prior token does. Tokens for a client \
                         group must either all have issued at times or all not have issued at times",
                    );
                }
            }
        }
        Ok(Change::To(Arc::new(Auth { token: token.into(), claims: claims.map(Arc::new) })))
    }
}

#[cfg(test)]
mod tests {
    use zql_spec::protocol::error::ErrorKind;

    use super::{Auth, Authenticator, Change};
    use crate::auth::jwt::tests::{now, signed};
    use crate::config::Config;
    use crate::options::Settings;

    fn authenticator(pairs: &[(&str, &str)]) -> Authenticator {
        let mut settings = Settings::from_pairs([("ZERO_UPSTREAM_DB", "postgres://localhost/app")]);
        for (name, value) in pairs {
            settings.set(name, value);
        }
        Authenticator::new(&Config::new(&settings).expect("good settings"))
    }

    const BOTH_URLS: [(&str, &str); 2] = [("ZERO_QUERY_URL", "http://a/q"), ("ZERO_MUTATE_URL", "http://a/m")];

    /// What comes of tokens that one connection of user `u` shows one after the other: the position of the last token
    /// that was accepted, or the error.
    async fn after(pairs: &[(&str, &str)], user: Option<&str>, tokens: &[String]) -> Result<Option<usize>, String> {
        let authenticator = authenticator(pairs);
        let mut current: Option<std::sync::Arc<Auth>> = None;
        let mut position = None;
        for (index, token) in tokens.iter().enumerate() {
            match authenticator.resolve(current.as_deref(), token, user).await {
                Ok(Change::Unchanged) => {}
                Ok(Change::To(auth)) => (current, position) = (Some(auth), Some(index)),
                Err(error) => {
                    let auth = matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::AuthInvalidated);
                    assert!(auth && error.is_auth());
                    return Err(format!("{:?} {}", error.kind, error.message));
                }
            }
        }
        Ok(position)
    }

    #[tokio::test]
    async fn one_token_replaces_another() {
        let jwt = [("ZERO_AUTH_SECRET", "s")];
        let token = |claims: &str| signed("s", r#"{"alg":"HS256"}"#, &claims.replace("NOW", &now().to_string()));
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let tokens = |claims: &[&str]| claims.iter().map(|claims| token(claims)).collect::<Vec<_>>();
        for (pairs, user, tokens, expected) in [
            (&BOTH_URLS[..], Some("u"), texts(&["", ""]), Ok(None)),
            (&BOTH_URLS, None, texts(&[""]), Ok(None)),
            (&BOTH_URLS, Some("u"), texts(&["a", "a"]), Ok(Some(0))),
            (&BOTH_URLS, Some("u"), texts(&["a", "b"]), Ok(Some(1))),
            (&BOTH_URLS, Some("u"), texts(&["", "a"]), Ok(Some(1))),
            (&BOTH_URLS, Some("u"), texts(&["a", ""]), Err("Unauthorized No token provided. An unauth")),
            (&BOTH_URLS, None, texts(&["a"]), Err("Unauthorized Authenticated connections require a userID.")),
            (&[], None, texts(&["a"]), Err("Unauthorized Authenticated connections require a userID.")),
            (&[], Some("u"), texts(&[""]), Ok(None)),
            (&[], Some("u"), texts(&["a"]), Err("AuthInvalidated Exactly one of jwk, secret, or jwksUrl must be set")),
            (&BOTH_URLS[..1], Some("u"), texts(&["a"]), Err("AuthInvalidated Exactly one of jwk")),
            (&jwt, Some("u"), tokens(&[r#"{"sub":"u"}"#]), Ok(Some(0))),
            (&jwt, Some("u"), tokens(&[r#"{"sub":"u","iat":5}"#, r#"{"sub":"u","iat":6}"#]), Ok(Some(1))),
            (&jwt, Some("u"), tokens(&[r#"{"sub":"u","iat":5}"#, r#"{"sub":"u","iat":5,"x":1}"#]), Ok(Some(0))),
            (&jwt, Some("u"), tokens(&[r#"{"sub":"u","iat":5}"#, r#"{"sub":"u","iat":4}"#]), Ok(Some(0))),
            (&jwt, Some("u"), tokens(&[r#"{"sub":"u"}"#, r#"{"sub":"u","iat":4}"#]), Ok(Some(1))),
            (
                &jwt,
                Some("u"),
                tokens(&[r#"{"sub":"u","iat":5}"#, r#"{"sub":"u"}"#]),
                Err("Unauthorized The new token does not have an issued at time but the prior token does."),
            ),
            (
                &jwt,
                Some("u"),
                tokens(&[r#"{"sub":"u"}"#, r#"{"sub":"v"}"#]),
                Err("AuthInvalidated Failed to decode auth token: JWTClaimValidationFailed: unexpected \"sub\""),
            ),
            (
                &jwt,
                Some("u"),
                texts(&["opaque"]),
                Err("AuthInvalidated Failed to decode auth token: JWSInvalid: Invalid Compact JWS"),
            ),
            (
                &[("ZERO_AUTH_SECRET", "s"), ("ZERO_AUTH_JWKS_URL", "http://a/k")],
                Some("u"),
                texts(&["a"]),
                Err(
                    "AuthInvalidated Exactly one of jwk, secret, or jwksUrl must be set in order to verify tokens but \
                     actually the following were set: [\"jwksUrl\", \"secret\"]",
                ),
            ),
        ] {
            let got = after(pairs, user, &tokens).await;
            match (&got, expected) {
                (Ok(position), Ok(expected)) => assert_eq!(*position, expected, "{pairs:?} {tokens:?}"),
                (Err(error), Err(expected)) => assert!(error.starts_with(expected), "{error}"),
                _ => panic!("{pairs:?} {tokens:?}: {got:?}"),
            }
        }
    }
}
