//! Comparisons of a value with a literal.
//!
//! Types decide before SQL does: values of different types are never equal and have no order, so such comparisons become
//! constants. Literals are bound.

use sqlparser::ast::{BinaryOperator, DataType, Expr};
use zql_spec::ast::{Literal, SimpleOperator};
use zql_spec::like::ends_with_escape;
use zql_spec::schema::ValueType;
use zql_spec::value::Value;

use super::compile::{Bind, Compiler, Result, Unable};
use super::syntax;

impl Compiler<'_> {
    /// A comparison. Values of different types are never equal and have no order; the type of null is none.
    pub(super) fn compare(
        &mut self,
        left: Expr,
        left_type: Option<ValueType>,
        op: SimpleOperator,
        right: &Literal,
    ) -> Result<Expr> {
        use SimpleOperator::{Eq, Ge, Gt, ILike, In, Is, IsNot, Le, Like, Lt, Ne, NotILike, NotIn, NotLike};
        let value = match (op, right) {
            (In | NotIn, Literal::List(list)) => {
                let list: Vec<Expr> = match left_type {
                    Some(left_type) => list.iter().filter_map(|value| self.bind(value, left_type)).collect(),
                    None => Vec::new(),
                };
                return Ok(match (list.is_empty(), op) {
                    (true, In) => syntax::whatever(left, false),
                    // Null is in no list, and not outside of one either.
                    (true, _) => syntax::is_not_null(left),
                    (false, op) => syntax::in_list(left, list, op == NotIn),
                });
            }
            (In | NotIn, Literal::Value(_)) | (_, Literal::List(_)) => return Ok(syntax::whatever(left, false)),
            (_, Literal::Value(value)) => value,
        };
        if value.is_null() {
            return Ok(match op {
                Is => syntax::is_null(left),
                IsNot => syntax::is_not_null(left),
                _ => syntax::whatever(left, false),
            });
        }
        if matches!(op, Like | NotLike | ILike | NotILike) {
            return self.like(left, left_type, op, value);
        }
        let bound = left_type.and_then(|left_type| self.bind(value, left_type));
        let Some(bound) = bound else {
            return Ok(match op {
                IsNot => syntax::whatever(left, true),
                Ne => syntax::is_not_null(left),
                _ => syntax::whatever(left, false),
            });
        };
        let op = match op {
            Is => return Ok(syntax::same(left, bound, false)),
            IsNot => return Ok(syntax::same(left, bound, true)),
            Eq => BinaryOperator::Eq,
            Ne => BinaryOperator::NotEq,
            Lt => BinaryOperator::Lt,
            Gt => BinaryOperator::Gt,
            Le => BinaryOperator::LtEq,
            Ge => BinaryOperator::GtEq,
            _ => return Err(Unable::Skipped(format!("the operator {}", op.name()))),
        };
        Ok(syntax::binary(left, op, bound))
    }

    fn like(&mut self, left: Expr, left_type: Option<ValueType>, op: SimpleOperator, pattern: &Value) -> Result<Expr> {
        let pattern = match pattern {
            Value::String(pattern) => pattern.to_string(),
            other => other.to_json().to_string(),
        };
        if ends_with_escape(&pattern) {
            return Err(Unable::Refused("LIKE pattern must not end with escape character".into()));
        }
        if left_type != Some(ValueType::String) {
            return Ok(syntax::whatever(left, false));
        }
        let pattern = self.text(pattern);
        let negated = matches!(op, SimpleOperator::NotLike | SimpleOperator::NotILike);
        if matches!(op, SimpleOperator::Like | SimpleOperator::NotLike) {
            return Ok(syntax::like(left, pattern, negated));
        }
        // Lower case by Unicode's rules, then compared by bytes.
        let lower = |expr| {
            let lower = syntax::call("lower", vec![syntax::collate(expr, "und-x-icu")]);
            syntax::collate(lower, "C")
        };
        Ok(syntax::like(lower(left), lower(pattern), negated))
    }

    fn text(&mut self, text: String) -> Expr {
        self.binds.push(Bind::Text(text));
        syntax::collate(syntax::parameter(self.binds.len(), DataType::Text), "C")
    }

    /// A value as a parameter; nothing when it is not of this type.
    pub(super) fn bind(&mut self, value: &Value, value_type: ValueType) -> Option<Expr> {
        match (value, value_type) {
            (Value::String(text), ValueType::String) => Some(self.text(text.to_string())),
            (Value::Number(number), ValueType::Number) => {
                self.binds.push(Bind::Number(*number));
                Some(syntax::parameter(self.binds.len(), syntax::double()))
            }
            (Value::Bool(bool), ValueType::Boolean) => {
                self.binds.push(Bind::Bool(*bool));
                Some(syntax::parameter(self.binds.len(), DataType::Boolean))
            }
            _ => None,
        }
    }
}
