//! Which queries are counted here as a zero-cache counts them: see [`cvr::record::ROW_SET_SIGNATURE`].
//!
//! Here a row counts once for each node of the query that holds it, there as often as it occurs in the answer's tree. Must
//! not know records. Linear in the size of the query.

use cvr::record::Counts;
use engine::query::{Query, Role};

/// How a query's rows are counted.
pub(super) fn counts(query: &Query) -> Counts {
    let once = query.nodes.iter().filter(|node| node.synced).all(|node| {
        let Some(edge) = &node.edge else { return true };
        // A row whose parents are found by a key has one parent.
        let keys = &query.nodes[edge.parent].table.unique_keys;
        node.role == Role::Related
            && keys.iter().any(|key| key.iter().all(|column| edge.parent_columns.contains(column)))
    });
    if once { Counts::Alike } else { Counts::Own }
}

#[cfg(test)]
mod tests {
    use cvr::record::internal_queries;
    use zql_spec::ast::Ast;
    use zql_spec::json::Json;
    use zql_spec::schema::{Column, Schema, Table, ValueType};

    use super::{Counts, Query, counts};

    fn table(name: &str, columns: &[&str], unique_keys: &[&[usize]]) -> Table {
        let column = |name: &&str| Column { name: (*name).into(), value_type: ValueType::String, nullable: false };
        Table {
            name: name.into(),
            columns: columns.iter().map(column).collect(),
            primary_key: unique_keys[0].to_vec(),
            unique_keys: unique_keys.iter().map(|key| key.to_vec()).collect(),
        }
    }

    fn of(schema: &Schema, ast: &str) -> Counts {
        let ast = Ast::parse_lenient(&Json::parse(ast).expect("JSON")).expect("an AST");
        counts(&Query::resolve(&ast, schema).expect("a query"))
    }

    fn related(parent: &str, child: &str, subquery: &str) -> String {
        format!(
            r#"[{{"correlation":{{"parentField":[{parent}],"childField":[{child}]}},"system":"client","subquery":{subquery}}}]"#
        )
    }

    #[test]
    fn where_each_row_occurs_once() {
        let tables = [
            table("issue", &["id", "number", "creator"], &[&[0], &[1]]),
            table("comment", &["id", "issue", "author"], &[&[0]]),
            table("junction", &["issue", "label"], &[&[0, 1]]),
            table("user", &["id", "name"], &[&[0]]),
            table("zero_0.clients", &["clientGroupID", "clientID", "lastMutationID"], &[&[0, 1]]),
            table("zero_0.mutations", &["clientGroupID", "clientID", "mutationID"], &[&[0, 1, 2]]),
        ];
        let tables = tables.into_iter().map(|table| (table.name.clone(), table.into())).collect();
        let schema = Schema { tables };
        let comments = |more: &str| format!(r#"{{"table":"comment","alias":"c"{more}}}"#);
        let users = r#"{"table":"user","alias":"u"}"#;
        let issue = |related: String| format!(r#"{{"table":"issue","related":{related}}}"#);
        let exists = |system: &str| {
            format!(
                r#"{{"table":"issue","where":{{"type":"correlatedSubquery","op":"EXISTS","related":{{"system":"{system}",
                    "correlation":{{"parentField":["id"],"childField":["issue"]}},"subquery":{}}}}}}}"#,
                comments("")
            )
        };
        let author = related(r#""author""#, r#""id""#, users);
        for (ast, expected) in [
            (r#"{"table":"issue","limit":3}"#.to_owned(), Counts::Alike),
            // One parent for each row: by the primary key, by another key, by more than a key.
            (issue(related(r#""id""#, r#""issue""#, &comments(r#","limit":2"#))), Counts::Alike),
            (issue(related(r#""number""#, r#""issue""#, &comments(""))), Counts::Alike),
            (issue(related(r#""creator","id""#, r#""author","issue""#, &comments(""))), Counts::Alike),
            // Many: the creator of many issues, the issue of one side of a junction, the author two levels down.
            (issue(related(r#""creator""#, r#""id""#, users)), Counts::Own),
            (format!(r#"{{"table":"junction","related":{}}}"#, related(r#""label""#, r#""id""#, users)), Counts::Own),
            (issue(related(r#""id""#, r#""issue""#, &comments(&format!(r#","related":{author}"#)))), Counts::Own),
            // An EXISTS syncs rows, unless it is a permission's.
            (exists("client"), Counts::Own),
            (exists("permissions"), Counts::Alike),
        ] {
            assert_eq!(of(&schema, &ast), expected, "{ast}");
        }
        for (name, body) in internal_queries("zero_0", "g") {
            let cvr::record::Body::Internal(ast) = body else { panic!("{name}") };
            assert_eq!(of(&schema, &ast), Counts::Alike, "{name}");
        }
    }
}
