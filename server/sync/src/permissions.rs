//! Read permissions as deployed upstream (protocol sheet §14): what a client's own AST may see.
//!
//! Only ASTs that clients send are subject to them; queries that the API server defines are its own
//! business. Without deployed permissions, and for tables without a rule, a query finds nothing.

use std::collections::BTreeMap;

use zql_spec::ast::{Ast, Condition};
use zql_spec::json::Json;

/// Rules for reading, by server-side table name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Permissions {
    select: BTreeMap<String, Vec<Condition>>,
}

impl Permissions {
    /// Reads the document in `<app>.permissions`.
    pub(crate) fn parse(text: &str) -> Result<Permissions, String> {
        let fault = |what: &str| format!("Could not parse upstream permissions: {what}");
        let json = Json::parse(text).map_err(|error| fault(&error.to_string()))?;
        let mut select = BTreeMap::new();
        for (table, rules) in json.get("tables").and_then(Json::as_object).unwrap_or_default() {
            let Some(rules) = rules.get("row").and_then(|row| row.get("select")).and_then(Json::as_array) else {
                continue;
            };
            let mut conditions = Vec::new();
            for rule in rules {
                match rule.as_array() {
                    Some([action, condition]) if action.as_str() == Some("allow") => {
                        conditions.push(Condition::parse_strict(condition).map_err(|error| fault(&error.to_string()))?);
                    }
                    _ => return Err(fault("a rule is not [\"allow\", condition]")),
                }
            }
            select.insert(table.to_string(), conditions);
        }
        Ok(Permissions { select })
    }

    /// Narrows a query, at every level, to what may be read.
    pub(crate) fn apply(&self, ast: &mut Ast) {
        for related in &mut ast.related {
            self.apply(&mut related.subquery);
        }
        if let Some(condition) = &mut ast.r#where {
            self.apply_condition(condition);
        }
        let rules = self.select.get(&*ast.table).cloned().unwrap_or_default();
        let allowed = Condition::Or(rules);
        ast.r#where = Some(match ast.r#where.take() {
            Some(condition) => Condition::And(vec![condition, allowed]),
            None => allowed,
        });
    }

    fn apply_condition(&self, condition: &mut Condition) {
        match condition {
            Condition::And(conditions) | Condition::Or(conditions) => {
                conditions.iter_mut().for_each(|condition| self.apply_condition(condition));
            }
            Condition::Exists { related, .. } => self.apply(&mut related.subquery),
            Condition::Simple { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use zql_spec::ast::{Ast, Condition};
    use zql_spec::json::Json;

    use super::Permissions;

    fn applied(permissions: &str) -> Ast {
        let json = r#"{"table":"a","related":[{"correlation":{"parentField":["x"],"childField":["y"]},"subquery":{"table":"b","alias":"r"}}]}"#;
        let mut ast = Ast::parse_strict(&Json::parse(json).expect("JSON")).expect("an AST");
        Permissions::parse(permissions).expect("permissions").apply(&mut ast);
        ast
    }

    #[test]
    fn tables_without_rules_show_nothing() {
        for text in ["{}", r#"{"tables":{}}"#, r#"{"tables":{"a":{"row":{"select":[]}}}}"#] {
            let ast = applied(text);
            assert_eq!(ast.r#where, Some(Condition::Or(vec![])));
            assert_eq!(ast.related[0].subquery.r#where, Some(Condition::Or(vec![])));
        }
    }

    #[test]
    fn rules_narrow_every_level() {
        let rule =
            r#"{"type":"simple","left":{"type":"column","name":"x"},"op":"=","right":{"type":"literal","value":1}}"#;
        let ast = applied(&format!(r#"{{"tables":{{"b":{{"row":{{"select":[["allow",{rule}]]}}}}}}}}"#));
        assert_eq!(ast.r#where, Some(Condition::Or(vec![])));
        assert!(matches!(&ast.related[0].subquery.r#where, Some(Condition::Or(rules)) if rules.len() == 1));
    }

    #[test]
    fn refuses() {
        for text in ["nope", r#"{"tables":{"a":{"row":{"select":[["deny",{}]]}}}}"#] {
            assert!(Permissions::parse(text).expect_err(text).starts_with("Could not parse upstream permissions: "));
        }
    }
}
