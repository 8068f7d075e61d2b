//! What the real client asserts of a single message besides its types (protocol sheet §6, §15): whatever it cannot read
//! parks it until the application intervenes.

use serde_json::Value;
use zql_spec::protocol::downstream::{Downstream, MutationOp, PokePart, QueryError};

/// Messages that the real client takes though no server of today sends them.
const UNUSED: [&str; 2] = ["pushResponse", "pull"];

/// Answers of the inspector.
const INSPECTOR: [&str; 6] = ["version", "authenticated", "metrics", "queries", "analyze-query", "error"];

/// Checks a message. The error is for people.
pub(crate) fn check(message: &Downstream) -> Result<(), String> {
    match message {
        Downstream::Error(body) => body.check(),
        Downstream::TransformError(errors) => errors.iter().try_for_each(query_error),
        Downstream::PokePart(part) => check_part(part),
        Downstream::Inspect(body) => {
            let answer: Value = serde_json::from_str(body.get()).map_err(|error| error.to_string())?;
            match (answer["op"].as_str(), answer["id"].as_str()) {
                (Some(op), Some(_)) => known(&INSPECTOR, op),
                _ => Err("an answer to the inspector without op or id".to_owned()),
            }
        }
        Downstream::Other { kind, .. } => known(&UNUSED, kind),
        Downstream::Connected(_)
        | Downstream::Pong
        | Downstream::PokeStart(_)
        | Downstream::PokeEnd(_)
        | Downstream::DeleteClients(_) => Ok(()),
    }
}

/// Checks a part of a poke, however it came.
pub(crate) fn check_part(part: &PokePart) -> Result<(), String> {
    part.mutations_patch.iter().flatten().try_for_each(|op| named_result(op).map(drop))
}

/// The mutation that a patch is about, by client and number, and its result unless that is gone.
pub(crate) fn named_result(op: &MutationOp) -> Result<((String, i64), Option<&Value>), String> {
    let (id, result) = match op {
        MutationOp::Put { mutation } => {
            (&mutation["id"], Some(mutation.get("result").ok_or("a mutation without a result")?))
        }
        MutationOp::Del { id } => (id, None),
    };
    let (Some(client), Some(number)) = (id["clientID"].as_str(), id["id"].as_i64()) else {
        return Err(format!("{id} names no mutation"));
    };
    if let Some(result) = result {
        let fits = result.is_object()
            && match result.get("error") {
                None => true,
                Some(error) => match error.as_str() {
                    Some("app") => result.get("message").is_none_or(Value::is_string),
                    Some("oooMutation" | "alreadyProcessed") => true,
                    _ => false,
                },
            };
        if !fits {
            return Err(format!("{result} is no result of a mutation"));
        }
    }
    Ok(((client.to_owned(), number), result))
}

fn query_error(error: &QueryError) -> Result<(), String> {
    match (&*error.error, &error.message) {
        ("app", _) | ("parse", Some(_)) => Ok(()),
        _ => Err(format!("{error:?} is no error of a query")),
    }
}

fn known(names: &[&str], name: &str) -> Result<(), String> {
    if names.contains(&name) { Ok(()) } else { Err(format!("the type {name:?} is not known")) }
}

#[cfg(test)]
mod tests {
    use zql_spec::protocol::downstream::Downstream;

    use super::check;

    #[test]
    fn what_the_real_client_reads_and_what_it_does_not() {
        let push_failed = |rest: &str| format!(r#"["error",{{"kind":"PushFailed","message":"m",{rest}}}]"#);
        let result = |result: &str| {
            format!(
                r#"["pokePart",{{"pokeID":"p","mutationsPatch":[{{"op":"put","mutation":{{"id":{{"clientID":"c","id":1}},"result":{result}}}}}]}}]"#
            )
        };
        for (text, good) in [
            (r#"["pong",{}]"#.to_owned(), true),
            (r#"["news",{}]"#.to_owned(), false),
            (r#"["pushResponse",{"mutations":[]}]"#.to_owned(), true),
            (r#"["inspect",{"op":"version","id":"i","value":"1"}]"#.to_owned(), true),
            (r#"["inspect",{"op":"secrets","id":"i","value":"1"}]"#.to_owned(), false),
            (r#"["inspect",{"op":"version","value":"1"}]"#.to_owned(), false),
            (r#"["error",{"kind":"Internal","message":"m"}]"#.to_owned(), true),
            (r#"["error",{"kind":"Internal","message":"m","origin":"client"}]"#.to_owned(), false),
            (r#"["error",{"kind":"Rehome","message":"m","origin":"server"}]"#.to_owned(), false),
            (push_failed(r#""origin":"server","reason":"oooMutation","mutationIDs":[]"#), true),
            (push_failed(r#""origin":"server","reason":"http","mutationIDs":[],"status":500"#), false),
            (push_failed(r#""origin":"zeroCache","reason":"http","mutationIDs":[],"status":500"#), true),
            (push_failed(r#""origin":"zeroCache","reason":"http","mutationIDs":[]"#), false),
            (push_failed(r#""origin":"zeroCache","reason":"internal","queryIDs":[]"#), false),
            (push_failed(r#""reason":"internal","mutationIDs":[]"#), false),
            (r#"["transformError",[{"error":"app","id":"h","name":"n"}]]"#.to_owned(), true),
            (r#"["transformError",[{"error":"parse","id":"h","name":"n"}]]"#.to_owned(), false),
            (r#"["transformError",[{"error":"http","id":"h","name":"n","message":"m"}]]"#.to_owned(), false),
            (result("{}"), true),
            (result(r#"{"data":[1]}"#), true),
            (result(r#"{"error":"app","message":"no"}"#), true),
            (result(r#"{"error":"app","message":1}"#), false),
            (result(r#"{"error":"no"}"#), false),
            (result("1"), false),
        ] {
            let message = Downstream::parse(&text).expect(&text);
            assert_eq!(check(&message).is_ok(), good, "{text}");
        }
    }
}
