//! The application's API server of the chaos run: named queries, and custom mutations that are written as the protocol
//! wants them, one numbered transaction each (protocol sheet §12.3).
//!
//! While Postgres is away it answers 503, as an application would. Nothing here knows the sync server.

use std::convert::Infallible;

use deadpool_postgres::{Client, Manager, Pool};
use serde_json::{Value, json};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use warp::Filter;
use warp::http::StatusCode;

/// Sessions with Postgres at the same time.
const SESSIONS: usize = 16;

/// Serves it on a port of its own and gives the URLs of queries and mutations.
pub(super) fn serve(database: &str) -> (String, String) {
    let (parameters, _) = upstream::pool_parts(database, "ZERO_UPSTREAM_DB", "test").expect("a URL");
    let manager = Manager::new(parameters, tokio_postgres::NoTls);
    let pool = Pool::builder(manager).max_size(SESSIONS).build().expect("a pool");
    let queries = warp::path("query")
        .and(warp::body::json())
        .map(|request: Value| query_api::respond(&request, &query_api::argument))
        .map(|answer: Value| warp::reply::with_status(warp::reply::json(&answer), StatusCode::OK));
    let mutations = warp::path("mutate").and(warp::body::json()).and_then(move |push: Value| {
        let pool = pool.clone();
        async move {
            let (status, answer) = match mutate(&pool, &push).await {
                Ok(answer) => (StatusCode::OK, answer),
                Err(Away(message)) => (StatusCode::SERVICE_UNAVAILABLE, json!(message)),
            };
            Ok::<_, Infallible>(warp::reply::with_status(warp::reply::json(&answer), status))
        }
    });
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket for tokio");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket for tokio");
    tokio::spawn(warp::serve(queries.or(mutations)).incoming(listener).run());
    (format!("{url}/query"), format!("{url}/mutate"))
}

/// The database cannot do it now.
struct Away(String);

impl From<tokio_postgres::Error> for Away {
    fn from(error: tokio_postgres::Error) -> Self {
        let ours = [SqlState::SYNTAX_ERROR, SqlState::UNDEFINED_COLUMN, SqlState::UNDEFINED_TABLE];
        let defect = error.code().is_some_and(|code| ours.contains(code));
        assert!(!defect, "the statements of this API server are wrong: {error:?}");
        Away(error.to_string())
    }
}

async fn mutate(pool: &Pool, push: &Value) -> Result<Value, Away> {
    let mut client = pool.get().await.map_err(|error| Away(error.to_string()))?;
    let group = push["clientGroupID"].as_str().expect("a group");
    let mutations = push["mutations"].as_array().expect("mutations");
    let id = |mutation: &Value| json!({ "id": mutation["id"], "clientID": mutation["clientID"] });
    let mut results = Vec::new();
    for (index, mutation) in mutations.iter().enumerate() {
        match apply(&mut client, group, mutation).await? {
            Ok(result) => results.push(json!({ "id": id(mutation), "result": result })),
            Err(message) => {
                let left: Vec<Value> = mutations[index..].iter().map(id).collect();
                return Ok(json!({
                    "kind": "PushFailed", "origin": "server", "reason": "oooMutation",
                    "message": message, "mutationIDs": left,
                }));
            }
        }
    }
    Ok(json!({ "kind": "MutateResponse", "mutations": results }))
}

const NEXT: &str = r#"INSERT INTO zql_0.clients AS c ("clientGroupID", "clientID", "lastMutationID") VALUES ($1, $2, 1)
    ON CONFLICT ("clientGroupID", "clientID") DO UPDATE SET "lastMutationID" = c."lastMutationID" + 1
    RETURNING "lastMutationID""#;

/// Applies a mutation: `write` does its operations, `refuse` fails. The inner error is for one that comes too early.
async fn apply(client: &mut Client, group: &str, mutation: &Value) -> Result<Result<Value, String>, Away> {
    let client_id = mutation["clientID"].as_str().expect("a client");
    let args = &mutation["args"][0];
    let transaction = client.transaction().await?;
    match mutation["name"].as_str() {
        Some("_zero_cleanupResults") => {
            let up_to = args["upToMutationID"].as_i64().expect("a number");
            let delete =
                r#"DELETE FROM zql_0.mutations WHERE "clientGroupID" = $1 AND "clientID" = $2 AND "mutationID" <= $3"#;
            transaction.execute(delete, &[&group, &client_id, &up_to]).await?;
        }
        name => {
            let id = mutation["id"].as_i64().expect("a number");
            let expected: i64 = transaction.query_one(NEXT, &[&group, &client_id]).await?.get(0);
            if id < expected {
                return Ok(Ok(json!({ "error": "alreadyProcessed", "details": "" })));
            }
            if id > expected {
                return Ok(Err(format!("Client {client_id} sent mutation ID {id} but expected {expected}")));
            }
            if name == Some("refuse") {
                let result = json!({ "error": "app", "message": "no" });
                let insert = r#"INSERT INTO zql_0.mutations VALUES ($1, $2, $3, $4::text::json)"#;
                transaction.execute(insert, &[&group, &client_id, &id, &result.to_string()]).await?;
                let log = "INSERT INTO done (client, mid, refused) VALUES ($1, $2, true)";
                transaction.execute(log, &[&client_id, &(id as i32)]).await?;
                transaction.commit().await?;
                return Ok(Ok(result));
            }
            for operation in args["ops"].as_array().expect("operations") {
                let record = operation["value"].to_string();
                let parameter: &(dyn ToSql + Sync) = &record;
                transaction.execute(&statement(operation), &[parameter]).await?;
            }
        }
    }
    transaction.commit().await?;
    Ok(Ok(json!({})))
}

/// An operation as SQL whose parameter is the record.
fn statement(operation: &Value) -> String {
    let table = operation["tableName"].as_str().expect("a table");
    let names = |columns: &mut dyn Iterator<Item = &str>, prefix: &str| {
        columns.map(|name| format!("{prefix}\"{name}\"")).collect::<Vec<_>>().join(", ")
    };
    let record = operation["value"].as_object().expect("a record");
    let columns = names(&mut record.keys().map(String::as_str), "");
    let keys = || operation["primaryKey"].as_array().expect("a key").iter().filter_map(Value::as_str);
    let given = format!("SELECT {columns} FROM json_populate_record(NULL::\"{table}\", $1::text::json)");
    let own = names(&mut keys(), "t.");
    let theirs = names(&mut keys(), "r.");
    match operation["op"].as_str() {
        Some("insert") => format!("INSERT INTO \"{table}\" ({columns}) {given} ON CONFLICT DO NOTHING"),
        Some("update") => {
            let values = names(&mut record.keys().map(String::as_str), "r.");
            format!("UPDATE \"{table}\" t SET ({columns}) = ROW({values}) FROM ({given}) r WHERE ({own}) = ({theirs})")
        }
        _ => format!("DELETE FROM \"{table}\" t USING ({given}) r WHERE ({own}) = ({theirs})"),
    }
}
