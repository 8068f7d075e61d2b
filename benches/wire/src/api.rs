//! The API server of the benchmarks: a named query's only argument is its AST, which it gives back.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};
use warp::Filter;

/// Serves on an ephemeral port of 127.0.0.1 until the process ends; returns the URL.
pub(crate) async fn start() -> Result<String> {
    let route = warp::post().and(warp::body::json()).map(|request: Value| {
        let queries: Vec<Value> = request[1]
            .as_array()
            .into_iter()
            .flatten()
            .map(|query| json!({"id": query["id"], "name": query["name"], "ast": query["args"][0]}))
            .collect();
        warp::reply::json(&json!({"kind": "QueryResponse", "userID": null, "queries": queries}))
    });
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?;
    tokio::spawn(warp::serve(route).incoming(listener).run());
    Ok(format!("http://{address}/query"))
}
