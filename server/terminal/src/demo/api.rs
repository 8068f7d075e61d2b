//! The demo application's API server: named queries of the issue tracker, the same names as testdata/node/model.js has, so
//! that its client can be pointed at the demo.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use testdata::tracker::queries::{comments, compare, creator, exists, labelled, labels, one};
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
    let answer = |name: &str, args: &Value| query_json(name, args).map_err(|error| error.to_string());
    Ok(query_api::serve(SocketAddr::from(([127, 0, 0, 1], 0)), answer).await?)
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
            "related": [creator(), labels()],
        }),
        "issues.page" => {
            let mut comments = comments(3);
            comments["subquery"]["related"] = json!([creator()]);
            json!({
                "table": "issue",
                "where": equal("id", text("id")?),
                "orderBy": [["id", "asc"]],
                "limit": 1,
                "related": [creator(), one("assignee", "assignee_id", "user"), labels(), comments],
            })
        }
        "issues.labelled" => json!({
            "table": "issue",
            "where": labelled(equal("name", text("name")?), "issue_label"),
            "orderBy": [["id", "asc"]],
        }),
        "issues.mine" => {
            let user = text("userID")?;
            let news = compare("body", "LIKE", "Any news%".into());
            let open = compare("open", "=", true.into());
            json!({
                "table": "issue",
                "where": {"type": "or", "conditions": [
                    equal("assignee_id", user),
                    {"type": "and", "conditions": [equal("creator_id", user), open]},
                    exists("comments", "id", "issue_id", "comment", json!({"type": "and", "conditions": [equal("creator_id", user), news]})),
                ]},
                "orderBy": [["id", "asc"]],
            })
        }
        _ => bail!("no query is named {name}"),
    })
}

fn equal(column: &str, value: &str) -> Value {
    compare(column, "=", value.into())
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
