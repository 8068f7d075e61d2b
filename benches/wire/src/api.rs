//! The API server of the benchmarks: a named query's only argument is its AST, which it gives back; a mutation renames an
//! issue, in one transaction with its number, as the protocol wants it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use warp::Filter;
use warp::http::StatusCode;

/// Sessions with the database that are free.
#[derive(Debug, Clone)]
struct Sessions {
    database: Arc<str>,
    free: Arc<Mutex<Vec<Client>>>,
}

/// Serves on an ephemeral port of 127.0.0.1 until the process ends; returns the URL without a path.
pub(crate) async fn start(database: &str) -> Result<String> {
    let query = warp::path("query").and(warp::post()).and(warp::body::json());
    let query = query.map(|request: Value| warp::reply::json(&query_api::respond(&request, &query_api::argument)));
    let sessions = Sessions { database: database.into(), free: Arc::default() };
    let mutate = warp::path("mutate")
        .and(warp::post())
        .and(warp::query::<BTreeMap<String, String>>())
        .and(warp::body::json())
        .then(move |parameters: BTreeMap<String, String>, request: Value| {
            let sessions = sessions.clone();
            async move {
                let (status, answer) = match mutate(&sessions, &parameters, &request).await {
                    Ok(answer) => (StatusCode::OK, answer),
                    Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, json!(format!("{error:#}"))),
                };
                warp::reply::with_status(warp::reply::json(&answer), status)
            }
        });
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?;
    tokio::spawn(warp::serve(query.or(mutate)).incoming(listener).run());
    Ok(format!("http://{address}"))
}

async fn mutate(sessions: &Sessions, parameters: &BTreeMap<String, String>, request: &Value) -> Result<Value> {
    let schema = parameters.get("schema").context("no schema in the URL")?;
    if !schema.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        bail!("{schema} is no schema of an app");
    }
    let free = sessions.free.lock().pop();
    let mut session = match free {
        Some(session) => session,
        None => {
            let (session, driver) = tokio_postgres::connect(&sessions.database, NoTls).await?;
            tokio::spawn(driver);
            session
        }
    };
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a text is missing");
    let group = text(&request["clientGroupID"])?;
    let mut results = Vec::new();
    for mutation in request["mutations"].as_array().into_iter().flatten() {
        let id = json!({ "id": mutation["id"], "clientID": mutation["clientID"] });
        results.push(json!({ "id": id, "result": {} }));
        // Results of mutations that failed would be cleaned up; none does.
        if mutation["name"] != "issue.rename" {
            continue;
        }
        let args = &mutation["args"][0];
        let (client, issue, title) = (text(&mutation["clientID"])?, text(&args["id"])?, text(&args["title"])?);
        let transaction = session.transaction().await?;
        let next = format!(
            r#"INSERT INTO {schema}.clients AS c ("clientGroupID", "clientID", "lastMutationID") VALUES ($1, $2, 1)
               ON CONFLICT ("clientGroupID", "clientID") DO UPDATE SET "lastMutationID" = c."lastMutationID" + 1
               RETURNING "lastMutationID""#
        );
        let expected: i64 = transaction.query_one(&next, &[&group, &client]).await?.get(0);
        if mutation["id"].as_i64() != Some(expected) {
            bail!("mutation {} where {expected} is next", mutation["id"]);
        }
        transaction.execute("UPDATE issue SET title = $1 WHERE id = $2", &[&title, &issue]).await?;
        transaction.commit().await?;
    }
    sessions.free.lock().push(session);
    Ok(json!({ "kind": "MutateResponse", "mutations": results }))
}
