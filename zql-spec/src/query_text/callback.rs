//! The function of a filter: `({and, cmp}) => and(cmp(…), …)`.

use super::Result;
use super::arguments::{Argument, operator, position};
use super::build::{Level, error};
use super::logic::{and, not, or};
use super::syntax::{Arrow, Call, Chain, Expression, Parameter};
use crate::ast::{Condition, Literal, SimpleOperator, ValuePosition};
use crate::json::Json;

/// What it may call.
const CONDITIONS: [&str; 7] = ["and", "cmp", "cmpLit", "eb", "exists", "not", "or"];

/// A filter's function: what its body may call, and over which table.
pub(super) struct Callback<'l, 's, 'a> {
    level: &'l Level<'s>,
    arrow: &'a Arrow,
}

impl<'l, 's, 'a> Callback<'l, 's, 'a> {
    pub(super) fn new(level: &'l Level<'s>, arrow: &'a Arrow) -> Self {
        Callback { level, arrow }
    }

    /// The condition that a body is.
    pub(super) fn condition(&self, chain: &Chain) -> Result<Condition> {
        let call = self.function(chain)?;
        let args = call.args.as_deref().ok_or_else(|| error("expected '('", call.position + call.name.len()))?;
        Ok(match (&*call.name, args) {
            ("cmp", [column, rest @ ..]) if !rest.is_empty() => self.level.comparison(column, rest)?,
            ("cmpLit", [left, op, right]) => {
                let op = operator(op)?;
                let left = match position(SimpleOperator::Is, left)? {
                    ValuePosition::Literal(Literal::List(_)) => return Err(error("the left side is no list", left.1)),
                    left => left,
                };
                Condition::Simple { op, left, right: position(op, right)? }
            }
            ("exists", [name, rest @ ..]) => self.level.exists(name, rest)?,
            ("not", [(Expression::Chain(inner), _)]) => not(self.condition(inner)?),
            ("and", args) => and(self.conditions(args)?),
            ("or", args) => or(self.conditions(args)?),
            (name, args) if CONDITIONS.contains(&name) => {
                return Err(error(
                    format!("{name} does not take such arguments ({} of them)", args.len()),
                    call.position,
                ));
            }
            (name, _) => {
                let known = "and, cmp, cmpLit, exists, not or or";
                return Err(error(format!("there is no {name}: expected {known}"), call.position));
            }
        })
    }

    /// The one function that a chain calls: `cmp(…)`, `eb.cmp(…)` or `eb.eb.cmp(…)`, as the parameter allows.
    fn function<'c>(&self, chain: &'c Chain) -> Result<&'c Call> {
        let root = &chain.root;
        let is_builder = match &self.arrow.parameter {
            Parameter::Name(name) => {
                if root.name != *name {
                    return Err(error(format!("expected a condition of {name}: {name}.cmp(…)"), root.position));
                }
                true
            }
            Parameter::Members(names) => {
                if let Some(unknown) = names.iter().find(|name| !CONDITIONS.contains(&&***name)) {
                    let known = CONDITIONS.join(", ");
                    return Err(error(format!("there is no {unknown} in a filter: it has {known}"), root.position));
                }
                if !names.contains(&root.name) {
                    return Err(error(format!("{} is not among the function's parameters", root.name), root.position));
                }
                &*root.name == "eb"
            }
        };
        match chain.then.iter().as_slice() {
            [] if !is_builder => Ok(root),
            [builders @ .., call]
                if is_builder
                    && root.args.is_none()
                    && builders.iter().all(|call| &*call.name == "eb" && call.args.is_none()) =>
            {
                Ok(call)
            }
            [] => Err(error("expected a condition such as cmp(…)", root.position)),
            [call, ..] => Err(error("nothing can be called on a condition", call.position)),
        }
    }

    fn conditions(&self, args: &[Argument]) -> Result<Vec<Condition>> {
        let mut conditions = Vec::new();
        for (argument, at) in args {
            match argument {
                Expression::Chain(chain) => conditions.push(self.condition(chain)?),
                // The library lets conditions be undefined.
                Expression::Literal(Json::Null) => {}
                _ => return Err(error("expected a condition", *at)),
            }
        }
        Ok(conditions)
    }
}
