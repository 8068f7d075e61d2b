//! Pieces of queries over the issue tracker, as JSON with the server's names: what the client library's query builder makes.

use serde_json::{Value, json};

/// A comparison of a column with a value.
pub fn compare(column: &str, op: &str, value: Value) -> Value {
    json!({
        "type": "simple",
        "left": {"type": "column", "name": column},
        "op": op,
        "right": {"type": "literal", "value": value},
    })
}

/// An EXISTS.
pub fn exists(alias: &str, parent: &str, child: &str, table: &str, condition: Value) -> Value {
    json!({
        "type": "correlatedSubquery",
        "op": "EXISTS",
        "related": {
            "correlation": {"parentField": [parent], "childField": [child]},
            "subquery": {"table": table, "alias": format!("zsubq_{alias}"), "where": condition},
            "system": "client",
        },
    })
}

/// Rows that belong to a row.
pub fn related(alias: &str, parent: &str, child: &str, table: &str) -> Value {
    json!({
        "correlation": {"parentField": [parent], "childField": [child]},
        "subquery": {"table": table, "alias": alias, "orderBy": [["id", "asc"]]},
        "system": "client",
    })
}

/// The row that a row belongs to.
pub fn one(alias: &str, parent: &str, table: &str) -> Value {
    let mut one = related(alias, parent, "id", table);
    one["subquery"]["limit"] = json!(1);
    one
}

/// Who made an issue or a comment.
pub fn creator() -> Value {
    one("creator", "creator_id", "user")
}

/// Labels over the junction, as the query builder writes a relationship of two hops.
pub fn labels() -> Value {
    let mut junction = related("labels", "id", "issue_id", "issue_label");
    junction["hidden"] = json!(true);
    junction["subquery"]["orderBy"] = json!([["issue_id", "asc"], ["label_id", "asc"]]);
    junction["subquery"]["related"] = json!([related("labels", "label_id", "id", "label")]);
    junction
}

/// The first comments of an issue, newest first.
pub fn comments(limit: u32) -> Value {
    let mut comments = related("comments", "id", "issue_id", "comment");
    comments["subquery"]["orderBy"] = json!([["created", "desc"], ["id", "asc"]]);
    comments["subquery"]["limit"] = json!(limit);
    comments
}

/// That an issue has a label of which a condition holds, over a junction of this name.
pub fn labelled(label: Value, junction: &str) -> Value {
    exists("labels", "id", "issue_id", junction, exists("zhidden_labels", "label_id", "id", "label", label))
}
