//! What a comparison means.
//!
//! Every predicate is two-valued. A null operand makes it false, except under IS and IS NOT. Operands of
//! different types are never equal and never ordered; a pattern matches only strings. The reference
//! leaves mixed types unspecified (its two evaluators differ); this is the total reading of its stricter one.

use std::cmp::Ordering;

use crate::ast::{Literal, SimpleOperator};
use crate::like;
use crate::value::Value;

/// Whether `left op right` holds.
pub fn compare(left: &Value, op: SimpleOperator, right: &Literal) -> bool {
    match (op, right) {
        (SimpleOperator::In, Literal::List(list)) => !left.is_null() && list.contains(left),
        (SimpleOperator::NotIn, Literal::List(list)) => !left.is_null() && !list.contains(left),
        // A list is no value: IN takes nothing else, and nothing else takes a list.
        (SimpleOperator::In | SimpleOperator::NotIn, Literal::Value(_)) | (_, Literal::List(_)) => false,
        (SimpleOperator::Is, Literal::Value(right)) => left == right,
        (SimpleOperator::IsNot, Literal::Value(right)) => left != right,
        (_, Literal::Value(right)) if left.is_null() || right.is_null() => false,
        (op, Literal::Value(right)) => compare_values(left, op, right),
    }
}

/// Comparison of two non-null values.
fn compare_values(left: &Value, op: SimpleOperator, right: &Value) -> bool {
    let order = || same_type(left, right).then(|| left.cmp(right));
    match op {
        SimpleOperator::Eq => left == right,
        SimpleOperator::Ne => left != right,
        SimpleOperator::Lt => order() == Some(Ordering::Less),
        SimpleOperator::Gt => order() == Some(Ordering::Greater),
        SimpleOperator::Le => matches!(order(), Some(Ordering::Less | Ordering::Equal)),
        SimpleOperator::Ge => matches!(order(), Some(Ordering::Greater | Ordering::Equal)),
        SimpleOperator::Like => pattern(left, right).is_some_and(|(text, pattern)| like::like(text, &pattern)),
        SimpleOperator::NotLike => pattern(left, right).is_some_and(|(text, pattern)| !like::like(text, &pattern)),
        SimpleOperator::ILike => pattern(left, right).is_some_and(|(text, pattern)| like::ilike(text, &pattern)),
        SimpleOperator::NotILike => pattern(left, right).is_some_and(|(text, pattern)| !like::ilike(text, &pattern)),
        SimpleOperator::Is | SimpleOperator::IsNot | SimpleOperator::In | SimpleOperator::NotIn => {
            unreachable!("handled before the operands are known to be values")
        }
    }
}

fn same_type(left: &Value, right: &Value) -> bool {
    std::mem::discriminant(left) == std::mem::discriminant(right)
}

/// The text and pattern of a LIKE; a pattern that is no string is used by its text.
fn pattern<'a>(left: &'a Value, right: &Value) -> Option<(&'a str, String)> {
    let Value::String(text) = left else { return None };
    let pattern = match right {
        Value::String(pattern) => pattern.to_string(),
        Value::Number(number) => ryu_js::Buffer::new().format(*number).to_owned(),
        Value::Bool(bool) => bool.to_string(),
        Value::Json(json) => json.to_string(),
        Value::Null => return None,
    };
    Some((text, pattern))
}
