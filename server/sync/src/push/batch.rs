//! Which waiting pushes go to the API server in one request (protocol sheet §12.1).
//!
//! Pushes of one connection with one token are put together, in the order in which they came; requests go out in the
//! order of their first push. So mutations of a client stay in order, and a client that pushes while the API server is
//! busy costs one request and not one a push. Texts are spliced: what a client wrote is never written anew.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use zql_spec::protocol::error::MutationId;

use super::Origin;

/// Size up to which pushes are put together, in bytes: API servers refuse requests of some megabytes. A single push is
/// sent whatever its size.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// A push that waits.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) origin: Arc<Origin>,
    pub(super) body: Body,
    pub(super) ids: Vec<MutationId>,
}

/// A push as it came, as JSON text.
#[derive(Debug)]
pub(super) struct Body {
    text: String,
    /// Where the mutations are in it, without the brackets.
    mutations: Range<usize>,
}

/// What is sent in one request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) origin: Arc<Origin>,
    pub(super) body: Body,
    pub(super) ids: Vec<MutationId>,
}

impl Body {
    /// The body of a message `["push", body]`; nothing if it is no such message.
    pub(super) fn of_message(message: &str) -> Option<Body> {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow)]
            mutations: &'a RawValue,
        }
        let (_, body): (&str, &RawValue) = serde_json::from_str(message).ok()?;
        let text = body.get();
        let list = serde_json::from_str::<Envelope<'_>>(text).ok()?.mutations.get();
        let inner = list.strip_prefix('[')?.strip_suffix(']')?;
        // The list is a part of the text, borrowed from it.
        let start = inner.as_ptr().addr() - text.as_ptr().addr();
        Some(Body { text: text.to_owned(), mutations: start..start + inner.len() })
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// Adds the mutations of a later push.
    fn append(&mut self, later: &Body) {
        let mutations = &later.text[later.mutations.clone()];
        self.text.insert(self.mutations.end, ',');
        self.text.insert_str(self.mutations.end + 1, mutations);
        self.mutations.end += 1 + mutations.len();
    }
}

/// Puts together what goes together. No entry is without mutations.
pub(super) fn requests(entries: Vec<Entry>) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    for Entry { origin, body, ids } in entries {
        // The last one of this origin: what did not fit an earlier one must not be overtaken.
        match requests.iter_mut().rev().find(|request| Arc::ptr_eq(&request.origin, &origin)) {
            Some(request) if request.body.len() + body.len() <= MAX_REQUEST_BYTES => {
                request.body.append(&body);
                request.ids.extend(ids);
            }
            _ => requests.push(Request { origin, body, ids }),
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use zql_spec::protocol::error::MutationId;

    use super::{Body, Entry, MAX_REQUEST_BYTES, Origin, requests};

    fn entry(origin: &Arc<Origin>, text: &str, id: i64) -> Entry {
        let body = Body::of_message(&format!(r#"["push",{text}]"#)).expect(text);
        Entry { origin: Arc::clone(origin), body, ids: vec![MutationId { id, client_id: "c".to_owned() }] }
    }

    #[test]
    fn texts_stay_as_they_came() {
        for text in [
            r#"{"clientGroupID":"g","mutations":[{"id":1, "args":[1.0,"]"]}],"x":{"mutations":[9]},"pushVersion":1}"#,
            "{ \"requestID\" : \"r\", \"mutations\" : [ 1 , 2 ] }",
            r#"{"mutations":[]}"#,
        ] {
            assert_eq!(Body::of_message(&format!(r#" [ "push" , {text} ]"#)).expect(text).into_text(), text);
        }
        for message in ["", r#"["push"]"#, r#"["push",{}]"#, r#"["push",{"mutations":{}}]"#] {
            assert!(Body::of_message(message).is_none(), "{message}");
        }
    }

    #[test]
    fn what_waits_is_sent_by_origin_in_order() {
        let (a, b, a_with_a_new_token) = (Arc::default(), Arc::default(), Arc::default());
        let waiting = vec![
            entry(&a, r#"{"requestID":"1","mutations":[{"id":1}],"pushVersion":1}"#, 1),
            entry(&b, r#"{"requestID":"2","mutations":[{"id":7}]}"#, 7),
            entry(&a, r#"{"requestID":"3","mutations":[{"id":2}, {"id":3}],"pushVersion":1}"#, 2),
            entry(&a_with_a_new_token, r#"{"mutations":[{"id":4}]}"#, 4),
            entry(&b, r#"{"requestID":"4","mutations":[{"id":8}]}"#, 8),
        ];
        let sent: Vec<(Vec<i64>, String)> = requests(waiting)
            .into_iter()
            .map(|request| (request.ids.iter().map(|id| id.id).collect(), request.body.into_text()))
            .collect();
        assert_eq!(
            sent,
            [
                (
                    vec![1, 2],
                    r#"{"requestID":"1","mutations":[{"id":1},{"id":2}, {"id":3}],"pushVersion":1}"#.to_owned()
                ),
                (vec![7, 8], r#"{"requestID":"2","mutations":[{"id":7},{"id":8}]}"#.to_owned()),
                (vec![4], r#"{"mutations":[{"id":4}]}"#.to_owned()),
            ]
        );
    }

    #[test]
    fn requests_do_not_grow_without_end() {
        let a = Arc::default();
        let long = format!(r#"{{"mutations":["{}"]}}"#, "x".repeat(MAX_REQUEST_BYTES / 2));
        let huge = format!(r#"{{"mutations":["{}"]}}"#, "x".repeat(MAX_REQUEST_BYTES * 2));
        let waiting = [&*long, r#"{"mutations":[1]}"#, &*long, &*huge, r#"{"mutations":[1]}"#, &*long];
        let waiting = waiting.iter().zip(1..).map(|(text, id)| entry(&a, text, id)).collect();
        let ids: Vec<Vec<i64>> =
            requests(waiting).iter().map(|request| request.ids.iter().map(|id| id.id).collect()).collect();
        assert_eq!(ids, [vec![1, 2], vec![3], vec![4], vec![5, 6]]);
    }
}
