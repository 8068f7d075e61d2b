//! What a verified token must say: for whom it is, by whom, and since and until when.
//!
//! The texts are those that users of the reference see (the library `jose`); the order of the checks decides which of
//! several faults is named.

use zql_spec::json::Json;

/// Why a token is refused: the name of the fault and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {message}")]
pub(crate) struct Fault {
    name: &'static str,
    message: String,
}

impl Fault {
    pub(crate) fn new(name: &'static str, message: impl Into<String>) -> Fault {
        Fault { name, message: message.into() }
    }

    fn claim(message: String) -> Fault {
        Fault::new("JWTClaimValidationFailed", message)
    }
}

/// What is expected of the claims.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) subject: &'a str,
    pub(crate) issuer: Option<&'a str>,
    pub(crate) audience: Option<&'a str>,
    /// Seconds since the epoch.
    pub(crate) now: f64,
}

/// Checks claims.
pub(crate) fn check(claims: &Json, expected: Expected<'_>) -> Result<(), Fault> {
    let Expected { subject, issuer, audience, now } = expected;
    if claims.as_object().is_none() {
        return Err(Fault::new("JWTInvalid", "JWT Claims Set must be a top-level JSON object"));
    }
    let missing = |name: &str| Err(Fault::claim(format!("missing required \"{name}\" claim")));
    for (name, required) in [("iss", issuer.is_some()), ("sub", true), ("aud", audience.is_some())] {
        if required && claims.get(name).is_none() {
            return missing(name);
        }
    }
    let unexpected = |name: &str| Err(Fault::claim(format!("unexpected \"{name}\" claim value")));
    let is = |claim: &Json, value: &str| claim.as_str() == Some(value);
    for (name, value) in [("iss", issuer), ("sub", Some(subject))] {
        if value.is_some_and(|value| !claims.get(name).is_some_and(|claim| is(claim, value))) {
            return unexpected(name);
        }
    }
    if let (Some(audience), Some(claim)) = (audience, claims.get("aud")) {
        let listed = || claim.as_array().is_some_and(|list| list.iter().any(|entry| is(entry, audience)));
        if !is(claim, audience) && !listed() {
            return unexpected("aud");
        }
    }
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(Json::Number(seconds)) => Ok(Some(*seconds)),
        Some(_) => Err(Fault::claim(format!("\"{name}\" claim must be a number"))),
    };
    time("iat")?;
    if time("nbf")?.is_some_and(|from| from > now) {
        return Err(Fault::claim("\"nbf\" claim timestamp check failed".to_owned()));
    }
    if time("exp")?.is_some_and(|until| until <= now) {
        return Err(Fault::new("JWTExpired", "\"exp\" claim timestamp check failed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use zql_spec::json::Json;

    use super::{Expected, check};

    /// Seen of jose 5.10 for the same claims.
    #[test]
    fn claims_are_judged_as_users_of_the_reference_know_it() {
        const ALL: (Option<&str>, Option<&str>) = (Some("i"), Some("a"));
        const NONE: (Option<&str>, Option<&str>) = (None, None);
        for (claims, (issuer, audience), expected) in [
            (r#"{"sub":"u"}"#, NONE, ""),
            (r#"{"sub":"v"}"#, NONE, r#"JWTClaimValidationFailed: unexpected "sub" claim value"#),
            ("{}", NONE, r#"JWTClaimValidationFailed: missing required "sub" claim"#),
            (r#"{"sub":5}"#, NONE, r#"JWTClaimValidationFailed: unexpected "sub" claim value"#),
            (r#"{"sub":"u"}"#, ALL, r#"JWTClaimValidationFailed: missing required "iss" claim"#),
            (r#"{"sub":"u","iss":"i"}"#, ALL, r#"JWTClaimValidationFailed: missing required "aud" claim"#),
            (r#"{"sub":"v","iss":"x","aud":"b"}"#, ALL, r#"JWTClaimValidationFailed: unexpected "iss" claim value"#),
            (r#"{"sub":"u","iss":"i","aud":["b"]}"#, ALL, r#"JWTClaimValidationFailed: unexpected "aud" claim value"#),
            (r#"{"sub":"u","iss":"i","aud":5}"#, ALL, r#"JWTClaimValidationFailed: unexpected "aud" claim value"#),
            (r#"{"sub":"u","iss":"i","aud":["b","a"]}"#, ALL, ""),
            (r#"{"sub":"u","iss":"i","aud":"a"}"#, ALL, ""),
            (r#"{"sub":"u","exp":99}"#, NONE, r#"JWTExpired: "exp" claim timestamp check failed"#),
            (r#"{"sub":"u","exp":100}"#, NONE, r#"JWTExpired: "exp" claim timestamp check failed"#),
            (r#"{"sub":"u","exp":100.5}"#, NONE, ""),
            (r#"{"sub":"u","exp":"x"}"#, NONE, r#"JWTClaimValidationFailed: "exp" claim must be a number"#),
            (r#"{"sub":"u","exp":null}"#, NONE, r#"JWTClaimValidationFailed: "exp" claim must be a number"#),
            (r#"{"sub":"u","nbf":101}"#, NONE, r#"JWTClaimValidationFailed: "nbf" claim timestamp check failed"#),
            (r#"{"sub":"u","nbf":100}"#, NONE, ""),
            (r#"{"sub":"u","nbf":"x"}"#, NONE, r#"JWTClaimValidationFailed: "nbf" claim must be a number"#),
            (r#"{"sub":"u","iat":"x"}"#, NONE, r#"JWTClaimValidationFailed: "iat" claim must be a number"#),
            (r#"{"sub":"u","iat":1000}"#, NONE, ""),
            ("[]", NONE, "JWTInvalid: JWT Claims Set must be a top-level JSON object"),
            ("5", NONE, "JWTInvalid: JWT Claims Set must be a top-level JSON object"),
        ] {
            let expectations = Expected { subject: "u", issuer, audience, now: 100.0 };
            let judged = check(&Json::parse(claims).expect("JSON"), expectations);
            assert_eq!(judged.err().map(|fault| fault.to_string()).unwrap_or_default(), expected, "{claims}");
        }
    }
}
