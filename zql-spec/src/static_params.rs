//! Binding of static parameters: places in a query that stand for a claim of the user's token or a
//! field of the row before a mutation.
//!
//! Every parameter becomes a literal, null where there is nothing to bind, so that a query which needs a
//! claim finds nothing (but under `IS`) for users without it.

use std::sync::Arc;

use crate::ast::{Ast, Condition, Literal, StaticAnchor, ValuePosition};
use crate::json::Json;
use crate::value::Value;

/// What parameters are bound to.
#[derive(Clone, Copy, Debug, Default)]
pub struct StaticParams<'a> {
    /// The decoded claims of the user's token; absent for anonymous users.
    pub auth_data: Option<&'a Json>,
    /// The row before a mutation.
    pub pre_mutation_row: Option<&'a Json>,
}

impl StaticParams<'_> {
    /// Binds every parameter of a query and its subqueries.
    pub fn bind(&self, ast: &mut Ast) {
        if let Some(condition) = &mut ast.r#where {
            self.bind_condition(condition);
        }
        for related in &mut ast.related {
            self.bind(&mut related.subquery);
        }
    }

    /// Binds every parameter of a filter.
    pub fn bind_condition(&self, condition: &mut Condition) {
        match condition {
            Condition::Simple { left, right, .. } => {
                self.bind_position(left);
                self.bind_position(right);
            }
            Condition::And(conditions) | Condition::Or(conditions) => {
                for condition in conditions {
                    self.bind_condition(condition);
                }
            }
            Condition::Exists { related, .. } => self.bind(&mut related.subquery),
        }
    }

    fn bind_position(&self, position: &mut ValuePosition) {
        if let Some(literal) = self.bound(position) {
            *position = ValuePosition::Literal(literal);
        }
    }

    /// What a parameter is bound to; nothing for what is no parameter.
    pub(crate) fn bound(&self, position: &ValuePosition) -> Option<Literal> {
        match position {
            ValuePosition::Static { anchor, field, .. } => Some(self.literal(*anchor, field)),
            ValuePosition::Column(_) | ValuePosition::Literal(_) => None,
        }
    }

    fn literal(&self, anchor: StaticAnchor, field: &[Arc<str>]) -> Literal {
        let root = match anchor {
            StaticAnchor::AuthData => self.auth_data,
            StaticAnchor::PreMutationRow => self.pre_mutation_row,
        };
        let found = root.and_then(|root| field.iter().try_fold(root, |json, name| json.get(name)));
        match found {
            // A claim that is a list (roles, say) serves IN; nulls in it match nothing.
            Some(Json::Array(elements)) => {
                Literal::List(elements.iter().map(Value::from_json).filter(|value| !value.is_null()).collect())
            }
            Some(json) => Literal::Value(Value::from_json(json)),
            None => Literal::Value(Value::Null),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_literals() {
        let cases = [
            (r#""sub""#, r#""u1""#),
            (r#"["sub"]"#, r#""u1""#),
            (r#"["a","b"]"#, "7"),
            (r#"["a","x","y"]"#, "null"),
            (r#""roles""#, r#"["r1","r2"]"#),
            (r#""none""#, "null"),
        ];
        let claims = Json::parse(r#"{"sub":"u1","a":{"b":7},"roles":["r1","r2"]}"#).unwrap();
        let condition = |right: &str| {
            format!(
                r#"{{"table":"t","where":{{"type":"or","conditions":[{{"type":"correlatedSubquery","related":{{"system":"client","correlation":{{"parentField":["a"],"childField":["b"]}},"subquery":{{"table":"c","where":{{"type":"simple","left":{{"type":"column","name":"n"}},"right":{right},"op":"="}}}}}},"op":"EXISTS"}}]}}}}"#
            )
        };
        for (field, bound) in cases {
            let text = condition(&format!(r#"{{"type":"static","anchor":"authData","field":{field}}}"#));
            let mut ast = Ast::parse_strict(&Json::parse(&text).unwrap()).unwrap();
            let mut anonymous = ast.clone();
            StaticParams { auth_data: Some(&claims), pre_mutation_row: None }.bind(&mut ast);
            assert_eq!(ast.to_json().to_string(), condition(&format!(r#"{{"type":"literal","value":{bound}}}"#)));
            StaticParams::default().bind(&mut anonymous);
            assert_eq!(anonymous.to_json().to_string(), condition(r#"{"type":"literal","value":null}"#));
        }
    }
}
