//! The demo application's API server: named queries of the issue tracker, the same names as testdata/node/model.js has, so
//! that its client can be pointed at the demo.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use warp::Filter;
use zql_spec::ast::Ast;
use zql_spec::json::Json;

/// What the demo's own client declares.
pub(super) const SCHEMA: &str = r#"{"tables":{
"issue":{"columns":{"assignee_id":{"type":"string"},"creator_id":{"type":"string"},"id":{"type":"string"},"modified":{"type":"number"},"open":{"type":"boolean"},"priority":{"type":"number"},"title":{"type":"string"}},"primaryKey":["id"]},
"issue_label":{"columns":{"issue_id":{"type":"string"},"label_id":{"type":"string"}},"primaryKey":["issue_id","label_id"]},
"label":{"columns":{"id":{"type":"string"},"name":{"type":"string"}},"primaryKey":["id"]},
"user":{"columns":{"id":{"type":"string"},"name":{"type":"string"}},"primaryKey":["id"]}}}"#;

/// Serves on an ephemeral port of 127.0.0.1 until the runtime ends; returns the URL.
pub(super) async fn start() -> Result<String> {
    let route = warp::post().and(warp::body::json()).map(|request: Value| {
        let queries: Vec<Value> = request[1].as_array().into_iter().flatten().map(answer).collect();
        warp::reply::json(&json!({"kind": "QueryResponse", "queries": queries}))
    });
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?;
    tokio::spawn(warp::serve(route).incoming(listener).run());
    Ok(format!("http://{address}/query"))
}

fn answer(query: &Value) -> Value {
    let name = query["name"].as_str().unwrap_or_default();
    match query_json(name, &query["args"]) {
        Ok(ast) => json!({"id": query["id"], "name": name, "ast": ast}),
        Err(error) => json!({"error": "app", "id": query["id"], "name": name, "message": error.to_string()}),
    }
}

/// The AST of a named query.
///
/// # Errors
/// When there is no such query.
pub(super) fn ast(name: &str, args: &Value) -> Result<Ast> {
    Ok(Ast::parse_lenient(&Json::parse(&query_json(name, args)?.to_string())?)?)
}

fn query_json(name: &str, args: &Value) -> Result<Value> {
    let text = |key: &str| args[0][key].as_str().with_context(|| format!("{name} wants the argument {key}"));
    Ok(match name {
        "issues.list" => json!({
            "table": "issue",
            "orderBy": [["modified", "desc"], ["id", "asc"]],
            "limit": args[0]["limit"].as_u64().context("issues.list wants the argument limit")?,
            "related": [one("creator", "creator_id", "user"), labels()],
        }),
        "issues.page" => {
            let mut comments = related("comments", "id", "issue_id", "comment");
            comments["subquery"]["orderBy"] = json!([["created", "desc"], ["id", "asc"]]);
            comments["subquery"]["limit"] = json!(3);
            comments["subquery"]["related"] = json!([one("creator", "creator_id", "user")]);
            json!({
                "table": "issue",
                "where": equal("id", text("id")?),
                "orderBy": [["id", "asc"]],
                "limit": 1,
                "related": [one("creator", "creator_id", "user"), one("assignee", "assignee_id", "user"), labels(), comments],
            })
        }
        "issues.labelled" => json!({
            "table": "issue",
            "where": exists("id", "issue_id", "issue_label", exists("label_id", "id", "label", equal("name", text("name")?))),
            "orderBy": [["id", "asc"]],
        }),
        "issues.mine" => {
            let user = text("userID")?;
            let news = json!({"type": "simple", "left": {"type": "column", "name": "body"}, "op": "LIKE",
                "right": {"type": "literal", "value": "Any news%"}});
            let open = json!({"type": "simple", "left": {"type": "column", "name": "open"}, "op": "=",
                "right": {"type": "literal", "value": true}});
            json!({
                "table": "issue",
                "where": {"type": "or", "conditions": [
                    equal("assignee_id", user),
                    {"type": "and", "conditions": [equal("creator_id", user), open]},
                    exists("id", "issue_id", "comment", json!({"type": "and", "conditions": [equal("creator_id", user), news]})),
                ]},
                "orderBy": [["id", "asc"]],
            })
        }
        _ => bail!("no query is named {name}"),
    })
}

fn equal(column: &str, value: &str) -> Value {
    json!({"type": "simple", "left": {"type": "column", "name": column}, "op": "=",
        "right": {"type": "literal", "value": value}})
}

fn exists(parent: &str, child: &str, table: &str, condition: Value) -> Value {
    json!({"type": "correlatedSubquery", "op": "EXISTS", "related": {
        "correlation": {"parentField": [parent], "childField": [child]},
        "subquery": {"table": table, "alias": format!("zsubq_{table}"), "where": condition},
        "system": "client",
    }})
}

fn related(alias: &str, parent: &str, child: &str, table: &str) -> Value {
    json!({
        "correlation": {"parentField": [parent], "childField": [child]},
        "subquery": {"table": table, "alias": alias, "orderBy": [["id", "asc"]]},
        "system": "client",
    })
}

fn one(alias: &str, parent: &str, table: &str) -> Value {
    let mut one = related(alias, parent, "id", table);
    one["subquery"]["limit"] = json!(1);
    one
}

/// Labels over the junction, as the query builder writes a relationship of two hops.
fn labels() -> Value {
    let mut junction = related("labels", "id", "issue_id", "issue_label");
    junction["hidden"] = json!(true);
    junction["subquery"]["orderBy"] = json!([["issue_id", "asc"], ["label_id", "asc"]]);
    junction["subquery"]["related"] = json!([related("labels", "label_id", "id", "label")]);
    junction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_parses() {
        for (name, args) in [
            ("issues.list", json!([{"limit": 5}])),
            ("issues.page", json!([{"id": "i1"}])),
            ("issues.labelled", json!([{"name": "rare"}])),
            ("issues.mine", json!([{"userID": "u1"}])),
        ] {
            assert_eq!(&*ast(name, &args).unwrap().table, "issue", "{name}");
        }
        assert!(ast("issues.list", &json!([])).is_err());
        assert!(ast("nosuch", &json!([])).is_err());
    }
}
