//! An application's API server for named queries, as the demo, the conformance suite, benchmarks and tests need one (protocol
//! sheet §11.4).
//!
//! It says what names and arguments mean and nothing of users, so that clients are who they claim to be. It must not know
//! what a query is: an AST is JSON here. A call costs its JSON.

use std::net::SocketAddr;

use serde_json::{Value, json};
use warp::Filter;

/// Serves at this address until the runtime ends; gives the URL. `answer` gives the AST of a name and its arguments, or what is
/// wrong with them.
///
/// # Errors
/// When the address is taken.
pub async fn serve(
    address: SocketAddr,
    answer: impl Fn(&str, &Value) -> Result<Value, String> + Clone + Send + Sync + 'static,
) -> std::io::Result<String> {
    let route = warp::post().and(warp::body::json());
    let route = route.map(move |request: Value| warp::reply::json(&respond(&request, &answer)));
    let listener = tokio::net::TcpListener::bind(address).await?;
    let url = format!("http://{}/query", listener.local_addr()?);
    tokio::spawn(warp::serve(route).incoming(listener).run());
    Ok(url)
}

/// What is answered to a request, for servers that answer others as well.
pub fn respond(request: &Value, answer: &impl Fn(&str, &Value) -> Result<Value, String>) -> Value {
    let queries = request[1].as_array().into_iter().flatten();
    let queries: Vec<Value> = queries.map(|query| result(query, answer)).collect();
    json!({ "kind": "QueryResponse", "queries": queries })
}

fn result(query: &Value, answer: &impl Fn(&str, &Value) -> Result<Value, String>) -> Value {
    let name = query["name"].as_str().unwrap_or_default();
    match answer(name, &query["args"]) {
        Ok(ast) => json!({ "id": query["id"], "name": name, "ast": ast }),
        Err(message) => json!({ "error": "app", "id": query["id"], "name": name, "message": message }),
    }
}

/// The queries of suites and benchmarks: whatever the name, the only argument is the AST.
pub fn argument(_: &str, args: &Value) -> Result<Value, String> {
    Ok(args[0].clone())
}
