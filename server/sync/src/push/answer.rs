//! What clients are told of a request's outcome (protocol sheet §12.2).
//!
//! Success is silence: the effects of mutations, their numbers and the errors of mutators arrive by replication. A
//! failure goes to the clients whose mutations it concerns, whoever pushed them. Answers of API servers of older
//! releases are understood. Nothing here knows connections.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use zql_spec::protocol::error::{ErrorBody, ErrorOrigin, ErrorReason, MutationId};

use crate::api::CallError;

/// What is told, and to which clients.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) clients: Vec<String>,
    pub(super) error: ErrorBody,
    /// Whether each of them is told of its own mutations alone.
    apart: bool,
}

impl Verdict {
    /// What one of the clients is told.
    pub(super) fn told_to(&self, client: &str) -> ErrorBody {
        let mut error = self.error.clone();
        if self.apart {
            error.mutation_ids.iter_mut().for_each(|ids| ids.retain(|id| id.client_id == client));
        }
        error
    }
}

/// What follows from an outcome.
#[derive(Debug)]
pub(super) struct Judgement {
    /// Whether the API server answered as it does to a user that it knows.
    pub(super) validated: bool,
    /// What is to be told; nothing when all is well.
    pub(super) verdicts: Vec<Verdict>,
}

impl Judgement {
    fn failed(error: ErrorBody) -> Judgement {
        Judgement { validated: false, verdicts: vec![to_all(error)] }
    }
}

/// Judges the outcome of a request.
pub(super) fn judge(outcome: Result<String, CallError>, ids: &[MutationId], user: Option<&str>) -> Judgement {
    let failed =
        |error: CallError| error.into_body(|reason, message| ErrorBody::push_failed(reason, message, ids.to_vec()));
    let answer = match outcome {
        Ok(text) => parse(&text, ids).map_err(|detail| failed(CallError::parse(&detail))),
        Err(error) => Err(failed(error)),
    };
    match answer {
        Ok(Answer::Done { user_id, .. }) if user_id.as_ref().is_some_and(|seen| seen.as_deref() != user) => {
            Judgement::failed(failed(CallError {
                reason: ErrorReason::Http,
                message: "Connection userID does not match validated server userID.".to_owned(),
                status: Some(401),
                preview: None,
            }))
        }
        Ok(Answer::Done { out_of_order, .. }) => Judgement { validated: true, verdicts: out_of_order },
        Ok(Answer::Failed(verdict)) => Judgement { validated: false, verdicts: vec![*verdict] },
        Err(error) => Judgement::failed(error),
    }
}

enum Answer {
    Done {
        /// The user that the API server sees, if it says so; the inner `None` is nobody.
        user_id: Option<Option<String>>,
        out_of_order: Vec<Verdict>,
    },
    Failed(Box<Verdict>),
}

/// An answer in any of its shapes; which one it is, `kind` and `error` tell.
#[derive(Deserialize)]
struct Shape<'a> {
    #[serde(default, borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    error: Option<Cow<'a, str>>,
    #[serde(default, rename = "userID", deserialize_with = "present")]
    user_id: Option<Option<String>>,
    #[serde(default)]
    mutations: Option<Vec<Done>>,
    #[serde(default, rename = "mutationIDs")]
    mutation_ids: Option<Vec<MutationId>>,
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    details: Option<Box<RawValue>>,
}

/// One mutation's result.
#[derive(Deserialize)]
struct Done {
    id: MutationId,
    result: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    details: Option<Box<RawValue>>,
}

fn parse(text: &str, ids: &[MutationId]) -> Result<Answer, String> {
    let shape: Shape<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match (shape.kind.as_deref(), shape.error.as_deref()) {
        (Some("PushFailed"), _) => {
            let error: ErrorBody = serde_json::from_str(text).map_err(|error| error.to_string())?;
            error.check()?;
            Ok(Answer::Failed(Box::new(to_all(error))))
        }
        (Some("MutateResponse"), _) | (None, None) => {
            let mutations = shape.mutations.ok_or("missing field `mutations`")?;
            Ok(Answer::Done { user_id: shape.user_id, out_of_order: out_of_order(mutations, ids) })
        }
        (Some(kind), _) => Err(format!("unexpected kind {kind:?}")),
        (None, Some(error)) => {
            let error = legacy_error(error, &shape, ids)?;
            Ok(Answer::Failed(Box::new(Verdict { apart: true, ..to_all(error) })))
        }
    }
}

/// The clients with a mutation out of order, each with all its mutations of the request.
fn out_of_order(results: Vec<Done>, ids: &[MutationId]) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = Vec::new();
    for Done { id, result } in results {
        let told = verdicts.iter().any(|verdict| verdict.clients.contains(&id.client_id));
        if result.error.as_deref() == Some("oooMutation") && !told {
            let own = ids.iter().filter(|pushed| pushed.client_id == id.client_id).cloned().collect();
            let mut error = ErrorBody::push_failed(ErrorReason::OooMutation, "mutation was out of order", own);
            error.origin = Some(ErrorOrigin::Server);
            error.details = result.details;
            verdicts.push(Verdict { clients: vec![id.client_id], error, apart: false });
        }
    }
    verdicts
}

/// The failures that API servers of older releases report.
fn legacy_error(error: &str, shape: &Shape<'_>, ids: &[MutationId]) -> Result<ErrorBody, String> {
    let ids = shape.mutation_ids.clone().unwrap_or_else(|| ids.to_vec());
    let details = || {
        let details = shape.details.as_ref().map(|details| details.get());
        details.map(|json| serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned()))
    };
    let of_server = |reason, message: String| {
        let mut error = ErrorBody::push_failed(reason, message, ids.clone());
        error.origin = Some(ErrorOrigin::Server);
        error
    };
    Ok(match error {
        "unsupportedPushVersion" => {
            of_server(ErrorReason::UnsupportedPushVersion, "Unsupported push version".to_owned())
        }
        "unsupportedSchemaVersion" => of_server(ErrorReason::Internal, "Unsupported schema version".to_owned()),
        "zeroPusher" => of_server(ErrorReason::Internal, details().unwrap_or_default()),
        "http" => {
            let status = shape.status.ok_or("missing field `status`")?;
            let message = format!("Fetch from API server returned non-OK status {status}");
            let mut error = ErrorBody::push_failed(ErrorReason::Http, message, ids);
            error.status = Some(status);
            error.body_preview = details();
            error
        }
        other => return Err(format!("unexpected error {other:?}")),
    })
}

/// Tells the clients whose mutations an error names.
fn to_all(error: ErrorBody) -> Verdict {
    let mut clients: Vec<String> =
        error.mutation_ids.iter().flatten().map(|mutation| mutation.client_id.clone()).collect();
    clients.sort_unstable();
    clients.dedup();
    Verdict { clients, error, apart: false }
}

/// A member that is there, be it null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use zql_spec::protocol::error::{ErrorReason, MutationId};

    use super::judge;
    use crate::api::CallError;

    fn pushed() -> Vec<MutationId> {
        [(1, "c"), (2, "c"), (7, "d")].map(|(id, client)| MutationId { id, client_id: client.to_owned() }).to_vec()
    }

    /// What is told, as `client: error` lines; those that are told the same share one.
    fn told(outcome: Result<String, CallError>) -> Vec<String> {
        let mut told: Vec<(Vec<String>, Value)> = Vec::new();
        for verdict in judge(outcome, &pushed(), Some("u")).verdicts {
            for client in &verdict.clients {
                // By way of a value: members in one order.
                let error = serde_json::to_value(verdict.told_to(client)).expect("JSON");
                match told.last_mut().filter(|(_, before)| *before == error) {
                    Some((clients, _)) => clients.push(client.clone()),
                    None => told.push((vec![client.clone()], error)),
                }
            }
        }
        told.into_iter().map(|(clients, error)| format!("{}: {error}", clients.join(" "))).collect()
    }

    const ALL: &str = r#""mutationIDs":[{"clientID":"c","id":1},{"clientID":"c","id":2},{"clientID":"d","id":7}]"#;

    #[test]
    fn success_is_silence() {
        for answer in [
            r#"{"kind":"MutateResponse","mutations":[]}"#,
            r#"{"kind":"MutateResponse","userID":"u","mutations":[{"id":{"id":1,"clientID":"c"},"result":{}}]}"#,
            r#"{"mutations":[{"id":{"id":1,"clientID":"c"},"result":{"error":"app","message":"m","details":[1]}}]}"#,
            r#"{"mutations":[{"id":{"id":1,"clientID":"c"},"result":{"error":"alreadyProcessed","details":"d"}}]}"#,
            r#"{"kind":"PushFailed","origin":"server","reason":"internal","message":"m","mutationIDs":[]}"#,
        ] {
            assert_eq!(told(Ok(answer.to_owned())), [""; 0], "{answer}");
        }
    }

    #[test]
    fn answers_that_fail_are_told() {
        // Older servers' failures are told to each client of its own mutations.
        let each = |reason: &str, message: &str| {
            [("c", r#"{"clientID":"c","id":1},{"clientID":"c","id":2}"#), ("d", r#"{"clientID":"d","id":7}"#)]
                .map(|(client, ids)| {
                    format!(
                        r#"{client}: {{"kind":"PushFailed","message":"{message}","mutationIDs":[{ids}],"origin":"server","reason":"{reason}"}}"#
                    )
                })
                .to_vec()
        };
        for (answer, expected) in [
            (
                r#"{"mutations":[{"id":{"id":2,"clientID":"c"},"result":{"error":"oooMutation","details":"d"}}]}"#,
                vec![r#"c: {"details":"d","kind":"PushFailed","message":"mutation was out of order","mutationIDs":[{"clientID":"c","id":1},{"clientID":"c","id":2}],"origin":"server","reason":"oooMutation"}"#.to_owned()],
            ),
            (
                r#"{"kind":"PushFailed","origin":"server","reason":"database","message":"m","details":{"z":1},"mutationIDs":[{"id":7,"clientID":"d"}]}"#,
                vec![r#"d: {"details":{"z":1},"kind":"PushFailed","message":"m","mutationIDs":[{"clientID":"d","id":7}],"origin":"server","reason":"database"}"#.to_owned()],
            ),
            (
                r#"{"error":"http","status":403,"details":"no","mutationIDs":[{"id":7,"clientID":"d"}]}"#,
                vec![r#"d: {"bodyPreview":"no","kind":"PushFailed","message":"Fetch from API server returned non-OK status 403","mutationIDs":[{"clientID":"d","id":7}],"origin":"zeroCache","reason":"http","status":403}"#.to_owned()],
            ),
            (
                r#"{"error":"unsupportedPushVersion"}"#,
                each("unsupportedPushVersion", "Unsupported push version"),
            ),
            (
                r#"{"error":"unsupportedSchemaVersion"}"#,
                each("internal", "Unsupported schema version"),
            ),
            (r#"{"error":"zeroPusher","details":"dd"}"#, each("internal", "dd")),
            (
                r#"{"kind":"MutateResponse","userID":"v","mutations":[]}"#,
                vec![format!(
                    r#"c d: {{"kind":"PushFailed","message":"Connection userID does not match validated server userID.",{ALL},"origin":"zeroCache","reason":"http","status":401}}"#
                )],
            ),
            (
                r#"{"kind":"MutateResponse","userID":null,"mutations":[]}"#,
                vec![format!(
                    r#"c d: {{"kind":"PushFailed","message":"Connection userID does not match validated server userID.",{ALL},"origin":"zeroCache","reason":"http","status":401}}"#
                )],
            ),
        ] {
            assert_eq!(told(Ok(answer.to_owned())), expected, "{answer}");
        }
    }

    #[test]
    fn nonsense_and_failed_calls_are_told_to_all() {
        for answer in [
            "",
            "no",
            "{}",
            "[]",
            r#"{"kind":"x"}"#,
            r#"{"error":"x"}"#,
            r#"{"error":"http"}"#,
            r#"{"kind":"PushFailed","message":"m"}"#,
            r#"{"kind":"PushFailed","message":"m","origin":"server","reason":"internal"}"#,
            r#"{"kind":"PushFailed","message":"m","origin":"zeroCache","reason":"http","mutationIDs":[]}"#,
            r#"{"kind":"PushFailed","message":"m","origin":"zeroCache","reason":"database","mutationIDs":[]}"#,
            r#"{"kind":"PushFailed","message":"m","origin":"server","reason":"timeout","mutationIDs":[]}"#,
            r#"{"kind":"PushFailed","message":"m","origin":"client","reason":"internal","mutationIDs":[]}"#,
            r#"{"mutations":[{"id":1,"result":{}}]}"#,
        ] {
            let told = told(Ok(answer.to_owned()));
            assert_eq!(told.len(), 1, "{answer}");
            let prefix = r#"c d: {"kind":"PushFailed","message":"Failed to parse response from API server: "#;
            assert!(told[0].starts_with(prefix) && told[0].contains(r#""reason":"parse""#), "{answer}: {told:?}");
        }
        let error = CallError {
            reason: ErrorReason::Http,
            message: "m".to_owned(),
            status: Some(500),
            preview: Some("p".to_owned()),
        };
        assert_eq!(
            told(Err(error)),
            [format!(
                r#"c d: {{"bodyPreview":"p","kind":"PushFailed","message":"m",{ALL},"origin":"zeroCache","reason":"http","status":500}}"#
            )]
        );
    }
}
