//! An application's API server. Mutations are carried out in the test's database as the protocol wants it: one transaction
//! a mutation, numbered. A named query is what the test says that it is, else its first argument, else it is refused.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_postgres::Client;
use warp::Filter;
use warp::http::{HeaderMap, StatusCode};

use crate::harness::patiently;

/// Requests that may pass when nobody holds them up.
const OPEN: usize = 1 << 20;

pub(crate) struct MutateApi {
    /// Without path and query.
    pub(crate) url: String,
    database: OnceLock<String>,
    calls: Mutex<Vec<Call>>,
    /// ASTs of queries by their names.
    named: Mutex<BTreeMap<String, Value>>,
    /// Answers to give instead of doing something.
    script: Mutex<VecDeque<(u16, String)>>,
    /// A permit for each request that arrived and nobody waited for yet.
    arrived: Semaphore,
    /// A permit for each request that may go on.
    gate: Semaphore,
}

#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Call {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// Clients and numbers of the mutations.
    pub(crate) fn mutations(&self) -> Vec<(String, i64)> {
        let id = |mutation: &Value| {
            let client = mutation["clientID"].as_str().expect("a client").to_owned();
            (client, mutation["id"].as_i64().expect("a number"))
        };
        self.json()["mutations"].as_array().expect("mutations").iter().map(id).collect()
    }
}

impl MutateApi {
    pub(crate) async fn start() -> Arc<MutateApi> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let api = Arc::new(MutateApi {
            url: format!("http://{}", listener.local_addr().expect("an address")),
            database: OnceLock::new(),
            calls: Mutex::default(),
            named: Mutex::default(),
            script: Mutex::default(),
            arrived: Semaphore::new(0),
            gate: Semaphore::new(OPEN),
        });
        let served = Arc::clone(&api);
        let query = warp::query::raw().or(warp::any().map(String::new)).unify();
        let route = warp::path::full().and(query).and(warp::header::headers_cloned()).and(warp::body::bytes()).then(
            move |path: warp::path::FullPath, query: String, headers: HeaderMap, body: warp::hyper::body::Bytes| {
                let body = String::from_utf8(body.to_vec()).expect("text");
                let call = Call { path: path.as_str().to_owned(), query, headers, body };
                let api = Arc::clone(&served);
                async move {
                    let (status, text) = api.answer(call).await;
                    let location = if (300..400).contains(&status) { text.clone() } else { String::new() };
                    let reply = warp::reply::with_header(text, "location", location);
                    warp::reply::with_status(reply, StatusCode::from_u16(status).expect("a status"))
                }
            },
        );
        tokio::spawn(warp::serve(route).incoming(listener).run());
        api
    }

    pub(crate) fn use_database(&self, url: &str) {
        self.database.set(url.to_owned()).expect("set once");
    }

    /// Says what a named query is from now on.
    pub(crate) fn name(&self, name: &str, ast: Value) {
        self.named.lock().expect("not poisoned").insert(name.to_owned(), ast);
    }

    /// Answers the next requests so, without doing anything. The text of a redirection is where to.
    pub(crate) fn answer_with(&self, answers: &[(u16, &str)]) {
        self.script
            .lock()
            .expect("not poisoned")
            .extend(answers.iter().map(|(status, text)| (*status, (*text).into())));
    }

    /// Waits until all of these answers were given.
    pub(crate) async fn all_given(&self) {
        patiently(async {
            while !self.script.lock().expect("not poisoned").is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Holds requests up until [`MutateApi::release`].
    pub(crate) fn hold(&self) {
        self.gate.forget_permits(OPEN);
    }

    pub(crate) fn release(&self) {
        self.gate.add_permits(OPEN);
    }

    /// Waits until another request arrived.
    pub(crate) async fn arrival(&self) {
        patiently(self.arrived.acquire()).await.expect("open").forget();
    }

    /// Takes note of a request that arrived, if nobody waited for it yet.
    pub(crate) fn arrived_by_now(&self) -> bool {
        self.arrived.try_acquire().map(tokio::sync::SemaphorePermit::forget).is_ok()
    }

    /// All requests so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("not poisoned").clone()
    }

    async fn answer(&self, call: Call) -> (u16, String) {
        let body = call.json();
        self.calls.lock().expect("not poisoned").push(call);
        self.arrived.add_permits(1);
        self.gate.acquire().await.expect("open").forget();
        let scripted = self.script.lock().expect("not poisoned").pop_front();
        if let Some(answer) = scripted {
            return answer;
        }
        if let Some(queries) = body[1].as_array() {
            let queries: Vec<Value> = queries.iter().map(|query| self.transform(query)).collect();
            return (200, json!({ "kind": "QueryResponse", "queries": queries }).to_string());
        }
        let url = self.database.get().expect("a database");
        let (parameters, _) = upstream::pool_parts(url, "ZERO_UPSTREAM_DB", "test").expect("a URL");
        let (mut client, connection) = parameters.connect(tokio_postgres::NoTls).await.expect("a connection");
        tokio::spawn(connection);
        let group = body["clientGroupID"].as_str().expect("a group");
        let mutations = body["mutations"].as_array().expect("mutations");
        let mut results = Vec::new();
        for (index, mutation) in mutations.iter().enumerate() {
            match apply(&mut client, group, mutation).await {
                Ok(result) => results.push(json!({ "id": id_of(mutation), "result": result })),
                Err(message) => {
                    let left: Vec<Value> = mutations[index..].iter().map(id_of).collect();
                    let failed = json!({
                        "kind": "PushFailed", "origin": "server", "reason": "oooMutation",
                        "message": message, "mutationIDs": left,
                    });
                    return (200, failed.to_string());
                }
            }
        }
        (200, json!({ "kind": "MutateResponse", "mutations": results }).to_string())
    }

    fn transform(&self, query: &Value) -> Value {
        let named = self.named.lock().expect("not poisoned");
        let known = query["name"].as_str().and_then(|name| named.get(name)).or_else(|| query["args"].get(0));
        match known {
            Some(ast) => json!({ "id": query["id"], "name": query["name"], "ast": ast }),
            None => json!({ "error": "app", "id": query["id"], "name": query["name"], "message": "nope" }),
        }
    }
}

fn id_of(mutation: &Value) -> Value {
    json!({ "id": mutation["id"], "clientID": mutation["clientID"] })
}

const NEXT: &str = r#"INSERT INTO zero_0.clients AS c ("clientGroupID", "clientID", "lastMutationID") VALUES ($1, $2, 1)
    ON CONFLICT ("clientGroupID", "clientID") DO UPDATE SET "lastMutationID" = c."lastMutationID" + 1
    RETURNING "lastMutationID""#;

/// An issue of which only what matters is given.
const CREATE: &str = r#"INSERT INTO issue SELECT made.* FROM
    jsonb_populate_record(NULL::issue, '{"title":"made","open":true}'::jsonb || $1::text::jsonb) AS made"#;

/// Applies a mutation: `create` makes an issue, `fail` fails. The error is for a mutation that comes too early.
async fn apply(client: &mut Client, group: &str, mutation: &Value) -> Result<Value, String> {
    let client_id = mutation["clientID"].as_str().expect("a client");
    let args = &mutation["args"][0];
    let name = mutation["name"].as_str().expect("a name");
    if name == "_zero_cleanupResults" {
        let up_to = args["upToMutationID"].as_i64().unwrap_or(i64::MAX);
        let delete =
            r#"DELETE FROM zero_0.mutations WHERE "clientGroupID" = $1 AND "clientID" = $2 AND "mutationID" <= $3"#;
        client.execute(delete, &[&group, &client_id, &up_to]).await.expect("deleted");
        return Ok(json!({}));
    }
    let id = mutation["id"].as_i64().expect("a number");
    for failed in [false, true] {
        let transaction = client.transaction().await.expect("a transaction");
        let expected: i64 = transaction.query_one(NEXT, &[&group, &client_id]).await.expect("a number").get(0);
        if id < expected {
            return Ok(json!({ "error": "alreadyProcessed", "details": "" }));
        }
        if id > expected {
            return Err(format!("Client {client_id} sent mutation ID {id} but expected {expected}"));
        }
        if name.ends_with("fail") && !failed {
            continue;
        }
        if failed {
            let insert = r#"INSERT INTO zero_0.mutations ("clientGroupID", "clientID", "mutationID", "result")
                VALUES ($1, $2, $3, '{"error":"app","message":"server says no"}')"#;
            transaction.execute(insert, &[&group, &client_id, &id]).await.expect("inserted");
            transaction.commit().await.expect("committed");
            return Ok(json!({ "error": "app", "message": "server says no" }));
        }
        transaction.execute(CREATE, &[&args.to_string()]).await.expect("inserted");
        transaction.commit().await.expect("committed");
        return Ok(json!({}));
    }
    unreachable!("the second attempt always returns")
}
