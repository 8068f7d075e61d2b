//! `/statz`: what an operator can ask of a running server, behind the administrator's password.
//!
//! What there is to tell is behind [`Stats`], because this crate must not know it; here are the door, the groups that were
//! asked for, and the two forms of an answer. It counts whole tables of records, so one request is served at a time.

use std::fmt::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use warp::http::{HeaderMap, StatusCode, header};
use warp::reply::{Reply, Response};

use crate::inspect::Access;

/// What this crate knows itself: what client groups hold.
const SYNC: &str = "sync";

/// What can be asked for, in the order of an answer. The last two are this server's, of the numbers that the reference
/// reports by OpenTelemetry.
pub const GROUPS: [&str; 8] = ["upstream", "cvr", "changeLog", "replica", "replication", "os", "activeUsers", SYNC];

/// How long a group may take: whoever asks is about to give up as well.
const GROUP_LIMIT: Duration = Duration::from_secs(60);

/// What is known of one group: names and values, in the order in which they are told.
pub type Group = Vec<(String, Value)>;

/// Who knows what a server is made of.
pub trait Stats: Send + Sync {
    /// One of [`GROUPS`], but for what client groups hold. The error is for people.
    fn group<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Group, String>>;
}

/// The page.
#[derive(Default)]
pub(crate) struct Statz {
    stats: OnceLock<Arc<dyn Stats>>,
    turn: Mutex<()>,
}

impl Statz {
    /// Who answers, from now on.
    pub(crate) fn answer_by(&self, stats: Arc<dyn Stats>) {
        // A second one changes nothing: there is one server.
        let _ = self.stats.set(stats);
    }

    /// Answers a request with this query string. `held` is what client groups hold.
    pub(crate) async fn serve(
        &self,
        access: &Access,
        query: &str,
        headers: &HeaderMap,
        held: &(dyn Fn() -> Group + Sync),
    ) -> Response {
        if !access.admits(&password(headers).unwrap_or_default()) {
            let realm = r#"Basic realm="Statz Protected Area""#;
            let refusal = warp::reply::with_status("Unauthorized", StatusCode::UNAUTHORIZED);
            return warp::reply::with_header(refusal, header::WWW_AUTHENTICATE, realm).into_response();
        }
        let asked = Asked::new(query);
        let _turn = self.turn.lock().await;
        let mut groups = Vec::new();
        for name in asked.groups {
            groups.push((name, if name == SYNC { held() } else { self.group(name).await }));
        }
        let (body, kind) = match asked.json {
            true => (json(groups, asked.pretty), "application/json"),
            false => (text(&groups), "text/plain; charset=utf-8"),
        };
        warp::reply::with_header(body, header::CONTENT_TYPE, kind).into_response()
    }

    async fn group(&self, name: &str) -> Group {
        let told = match self.stats.get() {
            Some(stats) => tokio::time::timeout(GROUP_LIMIT, stats.group(name))
                .await
                .unwrap_or_else(|_| Err(format!("it took longer than {GROUP_LIMIT:?}"))),
            None => Err("nothing is known yet".to_owned()),
        };
        told.unwrap_or_else(|error| {
            tracing::error!(error, "error computing {name} stats");
            vec![("error".to_owned(), json!(error))]
        })
    }
}

/// The password of HTTP's basic authentication; the name of the user is of no account.
fn password(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.trim().split_once(' ')?;
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(credentials.trim()).ok())??;
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(password.to_owned())
}

/// What a query string asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    groups: Vec<&'static str>,
    json: bool,
    pretty: bool,
}

impl Asked {
    fn new(query: &str) -> Asked {
        let mut named: Option<Vec<&'static str>> = None;
        let (mut json, mut pretty) = (false, false);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "group" => {
                    let known = value.split(',').filter_map(|name| GROUPS.into_iter().find(|group| *group == name));
                    named.get_or_insert_default().extend(known);
                }
                "format" => json = value == "json",
                "pretty" => pretty = true,
                _ => {}
            }
        }
        Asked { groups: named.unwrap_or_else(|| GROUPS.to_vec()), json, pretty }
    }
}

fn json(groups: Vec<(&str, Group)>, pretty: bool) -> String {
    let groups = groups.into_iter().map(|(name, group)| (name.to_owned(), Value::Object(group.into_iter().collect())));
    let value = Value::Object(groups.collect::<Map<_, _>>());
    if pretty { format!("{value:#}") } else { value.to_string() }
}

fn text(groups: &[(&str, Group)]) -> String {
    let mut text = String::new();
    for (name, group) in groups {
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n=== {name} ===");
        for (name, value) in group {
            let _ = write!(text, "\n{name}: {value:#}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Asked, GROUPS, HeaderMap, header, json, password, text};

    #[test]
    fn what_is_asked_for() {
        let asked = |groups: &[&'static str], json, pretty| Asked { groups: groups.to_vec(), json, pretty };
        for (query, expected) in [
            ("", asked(&GROUPS, false, false)),
            ("format=json&pretty", asked(&GROUPS, true, true)),
            ("group=os,cvr,none", asked(&["os", "cvr"], false, false)),
            ("group=os&group=replica&format=text", asked(&["os", "replica"], false, false)),
            ("group=none", asked(&[], false, false)),
        ] {
            assert_eq!(Asked::new(query), expected, "{query}");
        }
    }

    #[test]
    fn passwords() {
        for (value, expected) in [
            ("Basic YTpi", Some("b")),
            ("basic OmI6Yw==", Some("b:c")),
            ("Basic YQ==", None),
            ("Basic !", None),
            ("Bearer YTpi", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            assert_eq!(password(&headers).as_deref(), expected, "{value}");
        }
        assert_eq!(password(&HeaderMap::new()), None);
    }

    #[test]
    fn forms() {
        let groups = || vec![("os", vec![("cpus".to_owned(), serde_json::json!([{ "c": 1 }]))])];
        assert_eq!(text(&groups()), "\n=== os ===\n\ncpus: [\n  {\n    \"c\": 1\n  }\n]\n");
        assert_eq!(json(groups(), false), r#"{"os":{"cpus":[{"c":1}]}}"#);
        assert!(json(groups(), true).contains("\n  \"os\": {"));
    }
}
