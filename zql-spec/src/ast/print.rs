//! AST → JSON, with keys in the order in which the fluent builder and the normal form write them.
//!
//! Defaults are left out (`hidden: false`) except `system`, which the builder always writes. So printing
//! what was parsed may differ in text, and hence in hash, from the original; the meaning is the same.

use std::sync::Arc;

use crate::ast::{
    Ast, Bound, Condition, CorrelatedSubquery, Direction, Literal, SimpleOperator, StaticAnchor, System, ValuePosition,
};
use crate::json::Json;

impl Ast {
    /// The AST as JSON.
    pub fn to_json(&self) -> Json {
        let mut entries: Vec<(&str, Json)> = Vec::new();
        if let Some(schema) = &self.schema {
            entries.push(("schema", Json::String(Arc::clone(schema))));
        }
        entries.push(("table", Json::String(Arc::clone(&self.table))));
        if let Some(alias) = &self.alias {
            entries.push(("alias", Json::String(Arc::clone(alias))));
        }
        if let Some(condition) = &self.r#where {
            entries.push(("where", condition.to_json()));
        }
        if !self.related.is_empty() {
            entries.push(("related", Json::Array(self.related.iter().map(related).collect())));
        }
        if let Some(start) = &self.start {
            entries.push(("start", bound(start)));
        }
        if let Some(limit) = self.limit {
            entries.push(("limit", Json::Number(limit)));
        }
        if !self.order_by.is_empty() {
            let part = |(column, direction): &(Arc<str>, Direction)| {
                let direction = match direction {
                    Direction::Asc => "asc",
                    Direction::Desc => "desc",
                };
                Json::Array(vec![Json::String(Arc::clone(column)), Json::string(direction)])
            };
            entries.push(("orderBy", Json::Array(self.order_by.iter().map(part).collect())));
        }
        Json::object(entries)
    }
}

impl Condition {
    /// The filter as JSON.
    pub fn to_json(&self) -> Json {
        match self {
            Condition::Simple { op, left, right } => Json::object([
                ("type", Json::string("simple")),
                ("left", position(left)),
                ("right", position(right)),
                ("op", Json::string(op.name())),
            ]),
            Condition::And(conditions) => junction("and", conditions),
            Condition::Or(conditions) => junction("or", conditions),
            Condition::Exists { related, negated, flip, scalar } => {
                let mut entries = vec![
                    ("type", Json::string("correlatedSubquery")),
                    ("related", exists_related(related)),
                    ("op", Json::string(if *negated { "NOT EXISTS" } else { "EXISTS" })),
                ];
                entries.extend(flip.map(|flip| ("flip", Json::Bool(flip))));
                entries.extend(scalar.map(|scalar| ("scalar", Json::Bool(scalar))));
                Json::object(entries)
            }
        }
    }
}

fn junction(tag: &str, conditions: &[Condition]) -> Json {
    let conditions = conditions.iter().map(Condition::to_json).collect();
    Json::object([("type", Json::string(tag)), ("conditions", Json::Array(conditions))])
}

fn related(subquery: &CorrelatedSubquery) -> Json {
    let mut entries = vec![("correlation", correlation(subquery))];
    if subquery.hidden {
        entries.push(("hidden", Json::Bool(true)));
    }
    entries.push(("subquery", subquery.subquery.to_json()));
    entries.push(("system", system(subquery.system)));
    Json::object(entries)
}

fn exists_related(subquery: &CorrelatedSubquery) -> Json {
    let mut entries = vec![("system", system(subquery.system)), ("correlation", correlation(subquery))];
    if subquery.hidden {
        entries.push(("hidden", Json::Bool(true)));
    }
    entries.push(("subquery", subquery.subquery.to_json()));
    Json::object(entries)
}

fn correlation(subquery: &CorrelatedSubquery) -> Json {
    Json::object([
        ("parentField", names(&subquery.correlation.parent_field)),
        ("childField", names(&subquery.correlation.child_field)),
    ])
}

fn names(names: &[Arc<str>]) -> Json {
    Json::Array(names.iter().map(|name| Json::String(Arc::clone(name))).collect())
}

fn system(system: System) -> Json {
    Json::string(match system {
        System::Permissions => "permissions",
        System::Client => "client",
        System::Test => "test",
    })
}

fn bound(start: &Bound) -> Json {
    let row = start.row.iter().map(|(column, value)| (Arc::clone(column), value.to_json())).collect();
    Json::object([("row", Json::Object(row)), ("exclusive", Json::Bool(start.exclusive))])
}

fn position(position: &ValuePosition) -> Json {
    match position {
        ValuePosition::Literal(literal) => {
            let value = match literal {
                Literal::Value(value) => value.to_json(),
                Literal::List(values) => Json::Array(values.iter().map(|value| value.to_json()).collect()),
            };
            Json::object([("type", Json::string("literal")), ("value", value)])
        }
        ValuePosition::Column(name) => {
            Json::object([("type", Json::string("column")), ("name", Json::String(Arc::clone(name)))])
        }
        ValuePosition::Static { anchor, field, path } => {
            let anchor = match anchor {
                StaticAnchor::AuthData => "authData",
                StaticAnchor::PreMutationRow => "preMutationRow",
            };
            let field = match field.as_slice() {
                [name] if !path => Json::String(Arc::clone(name)),
                field => names(field),
            };
            Json::object([("type", Json::string("static")), ("anchor", Json::string(anchor)), ("field", field)])
        }
    }
}

/// All operators with their names.
const OPERATORS: [(SimpleOperator, &str); 14] = [
    (SimpleOperator::Eq, "="),
    (SimpleOperator::Ne, "!="),
    (SimpleOperator::Is, "IS"),
    (SimpleOperator::IsNot, "IS NOT"),
    (SimpleOperator::Lt, "<"),
    (SimpleOperator::Gt, ">"),
    (SimpleOperator::Le, "<="),
    (SimpleOperator::Ge, ">="),
    (SimpleOperator::Like, "LIKE"),
    (SimpleOperator::NotLike, "NOT LIKE"),
    (SimpleOperator::ILike, "ILIKE"),
    (SimpleOperator::NotILike, "NOT ILIKE"),
    (SimpleOperator::In, "IN"),
    (SimpleOperator::NotIn, "NOT IN"),
];

impl SimpleOperator {
    /// The operator's name in an AST.
    pub fn name(self) -> &'static str {
        OPERATORS.iter().find(|(op, _)| *op == self).map_or("", |(_, name)| name)
    }

    /// The operator that holds where this one does not, nulls aside.
    #[must_use]
    pub fn negated(self) -> SimpleOperator {
        use SimpleOperator::{Eq, Ge, Gt, ILike, In, Is, IsNot, Le, Like, Lt, Ne, NotILike, NotIn, NotLike};
        const PAIRS: [(SimpleOperator, SimpleOperator); 7] =
            [(Eq, Ne), (Lt, Ge), (Gt, Le), (In, NotIn), (Like, NotLike), (ILike, NotILike), (Is, IsNot)];
        let pair = PAIRS.iter().find(|(a, b)| *a == self || *b == self);
        pair.map_or(self, |(a, b)| if *a == self { *b } else { *a })
    }

    /// The operator of this name.
    pub fn from_name(name: &str) -> Option<SimpleOperator> {
        OPERATORS.iter().find(|(_, other)| *other == name).map(|(op, _)| *op)
    }
}
