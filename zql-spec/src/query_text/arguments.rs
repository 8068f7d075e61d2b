//! The arguments of calls: values, operators, options and static parameters.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Result;
use super::build::error;
use super::syntax::{Call, Chain, Expression};
use crate::ast::{Literal, SimpleOperator, StaticAnchor, ValuePosition};
use crate::json::Json;
use crate::value::Value;

/// The functions that stand for static parameters.
pub(super) const STATIC_PARAMETERS: [(&str, StaticAnchor); 2] =
    [("authParam", StaticAnchor::AuthData), ("preMutationRowParam", StaticAnchor::PreMutationRow)];

/// An argument, and where it stands.
pub(super) type Argument = (Expression, usize);

/// A value.
pub(super) fn literal(argument: &Argument) -> Result<&Json> {
    match &argument.0 {
        Expression::Literal(json) => Ok(json),
        _ => Err(error("expected a value", argument.1)),
    }
}

pub(super) fn operator(argument: &Argument) -> Result<SimpleOperator> {
    let name = literal(argument)?.as_str().ok_or_else(|| error("the operator is a text", argument.1))?;
    SimpleOperator::from_name(name).ok_or_else(|| error(format!("there is no operator {name}"), argument.1))
}

/// Flags in an object.
pub(super) fn option(argument: &Argument, known: &[&'static str]) -> Result<BTreeMap<Arc<str>, bool>> {
    let entries = literal(argument)?.as_object();
    let entries = entries.ok_or_else(|| error(format!("expected options: {{{}: true}}", known[0]), argument.1))?;
    let mut flags = BTreeMap::new();
    for (name, value) in entries {
        match value {
            Json::Bool(value) if known.contains(&&**name) => drop(flags.insert(Arc::clone(name), *value)),
            // As if the key were not there.
            Json::Null if known.contains(&&**name) => {}
            Json::Bool(_) | Json::Null => {
                return Err(error(format!("there is no option {name}; there are {}", known.join(", ")), argument.1));
            }
            _ => return Err(error(format!("the option {name} is true or false"), argument.1)),
        }
    }
    Ok(flags)
}

/// The right side of a comparison.
pub(super) fn position(op: SimpleOperator, argument: &Argument) -> Result<ValuePosition> {
    let at = argument.1;
    let value = match &argument.0 {
        Expression::Literal(json) => json,
        Expression::Chain(chain) => return parameter(chain),
        Expression::Arrow(_) => return Err(error("expected a value", at)),
    };
    let is_list = matches!(op, SimpleOperator::In | SimpleOperator::NotIn);
    let literal = match value {
        Json::Object(_) => return Err(error("a value is a text, a number, true, false, null or a list", at)),
        Json::Array(elements) if is_list => {
            if elements.iter().any(|element| matches!(element, Json::Null | Json::Array(_) | Json::Object(_))) {
                return Err(error("a list holds texts, numbers and booleans", at));
            }
            Literal::List(elements.iter().map(Value::from_json).collect())
        }
        _ if is_list => return Err(error(format!("{} takes a list", op.name()), at)),
        Json::Array(_) => return Err(error(format!("{} takes no list", op.name()), at)),
        value => Literal::Value(Value::from_json(value)),
    };
    Ok(ValuePosition::Literal(literal))
}

/// A static parameter: `authParam('sub')` or `authParam(['a', 'b'])`.
fn parameter(chain: &Chain) -> Result<ValuePosition> {
    let Call { name, args, position } = &chain.root;
    let anchor = STATIC_PARAMETERS.iter().find(|(other, _)| *other == &**name).map(|(_, anchor)| *anchor);
    let (Some(anchor), Some([field]), []) = (anchor, args.as_deref(), chain.then.as_slice()) else {
        return Err(error("expected a value", *position));
    };
    let name = |json: &Json| match json {
        Json::String(name) => Ok(Arc::clone(name)),
        _ => Err(error("expected a name", field.1)),
    };
    let (field, path) = match literal(field)? {
        Json::Array(names) => (names.iter().map(name).collect::<Result<Vec<_>>>()?, true),
        json => (vec![name(json)?], false),
    };
    Ok(ValuePosition::Static { anchor, field, path })
}
