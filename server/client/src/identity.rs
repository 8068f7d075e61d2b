//! Who a client is and what it says first.

use rand::Rng;
use rand::distr::Alphanumeric;
use serde_json::value::RawValue;
use zql_spec::protocol::RELEASE_VERSION;
use zql_spec::protocol::connect::ConnectParams;
use zql_spec::protocol::upstream::{DesiredOp, InitConnection, PutQuery};

/// What stays the same over a client's connections.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `http(s)` or `ws(s)` URL of the server, with at most one path segment.
    pub server: String,
    /// Protocol version to claim.
    pub version: u32,
    /// The client, one tab.
    pub client_id: String,
    /// Its group; clients of one group share their rows.
    pub client_group_id: String,
    /// The user; absent when logged out.
    pub user_id: Option<String>,
    /// The user's token.
    pub auth: Option<String>,
    /// Headers that a browser or a proxy adds to the upgrade request: names and values.
    pub headers: Vec<(String, String)>,
}

impl Identity {
    /// A new client in a group of its own.
    pub fn fresh(server: impl Into<String>) -> Identity {
        Identity {
            server: server.into(),
            version: RELEASE_VERSION,
            client_id: random_id(),
            client_group_id: random_id(),
            user_id: None,
            auth: None,
            headers: Vec::new(),
        }
    }

    /// Another client of the same group, as a second tab is.
    pub fn sibling(&self) -> Identity {
        Identity { client_id: random_id(), ..self.clone() }
    }

    pub(crate) fn url(&self, cookie: Option<&str>) -> String {
        let params = ConnectParams {
            version: f64::from(self.version),
            client_id: self.client_id.clone(),
            client_group_id: self.client_group_id.clone(),
            base_cookie: cookie.map(str::to_owned),
            ws_id: random_id(),
            profile_id: None,
            user_id: self.user_id.clone(),
            timestamp: 0,
            last_mutation_id: 0,
        };
        let server = self.server.trim_end_matches('/');
        // `http` begins both names, and `ws` is what a WebSocket's URL has in its place.
        let server = server.strip_prefix("http").map_or_else(|| server.to_owned(), |rest| format!("ws{rest}"));
        format!("{server}{}", params.to_path_and_query())
    }
}

/// The first message of a connection.
#[derive(Debug, Default)]
pub struct Hello {
    /// The message.
    pub init: InitConnection,
    /// Send it as a message after `connected` instead of in the header, as a client does when it is long.
    pub in_message: bool,
}

impl Hello {
    /// A new client's: its schema and the queries that it wants.
    pub fn new(schema: &str, desired: Vec<DesiredOp>) -> Hello {
        let schema = RawValue::from_string(schema.to_owned()).ok();
        Hello {
            init: InitConnection { desired_queries_patch: desired, client_schema: schema, ..InitConnection::default() },
            in_message: false,
        }
    }

    /// That of a client that comes back with its cookie and wants what it wanted before.
    pub fn again() -> Hello {
        Hello::default()
    }

    /// The patch that asks for a named query; its hash is made from name and arguments as the real client does.
    ///
    /// # Panics
    /// When `args` is not JSON.
    pub fn named(name: &str, args: &str) -> DesiredOp {
        let json = zql_spec::json::Json::parse(args).expect("arguments are JSON");
        put(zql_spec::hash::named_query_id(name, &json), None, Some((name, args)))
    }

    /// The patch that asks for a named query whose only argument is its AST, as tests and benchmarks do: their API server gives
    /// it back, whatever the name.
    ///
    /// # Panics
    /// When `ast` is not JSON.
    pub fn echoed(ast: &str) -> DesiredOp {
        Hello::named("ast", &format!("[{ast}]"))
    }

    /// The patch that asks for a query by its AST (server names); the hash is that of the text given.
    pub fn ast(ast: &str) -> DesiredOp {
        put(zql_spec::hash::base36(zql_spec::hash::h64(ast)), Some(ast), None)
    }
}

/// The hash of a put, which the server names when the query is got.
pub fn hash_of(op: &DesiredOp) -> Option<&str> {
    match op {
        DesiredOp::Put(PutQuery { hash, .. }) | DesiredOp::Del { hash } => Some(hash),
        DesiredOp::Clear => None,
    }
}

fn put(hash: String, ast: Option<&str>, named: Option<(&str, &str)>) -> DesiredOp {
    let raw = |text: &str| RawValue::from_string(text.to_owned()).ok();
    DesiredOp::Put(PutQuery {
        hash,
        ttl: None,
        ast: ast.and_then(raw),
        name: named.map(|(name, _)| name.to_owned()),
        args: named.and_then(|(_, args)| raw(args)),
    })
}

/// An identifier as long as the real client's.
fn random_id() -> String {
    const LENGTH: usize = 21;
    rand::rng().sample_iter(Alphanumeric).take(LENGTH).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::Identity;

    #[test]
    fn the_url_is_a_web_socket_one() {
        for (server, expected) in [
            ("http://localhost:4848", "ws://localhost:4848/sync/v51/connect?"),
            ("https://example.com/zero/", "wss://example.com/zero/sync/v51/connect?"),
            ("ws://localhost:1", "ws://localhost:1/sync/v51/connect?"),
        ] {
            let url = Identity::fresh(server).url(Some("00:01"));
            assert!(url.starts_with(expected), "{url}");
            assert!(url.contains("baseCookie=00%3A01"), "{url}");
        }
    }
}
