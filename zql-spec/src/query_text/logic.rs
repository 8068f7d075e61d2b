//! How the library combines conditions: constants drop out or decide, levels of one kind become one.

use crate::ast::Condition;

fn is_true(condition: &Condition) -> bool {
    matches!(condition, Condition::And(conditions) if conditions.is_empty())
}

fn is_false(condition: &Condition) -> bool {
    matches!(condition, Condition::Or(conditions) if conditions.is_empty())
}

/// `and(…)` of the library: what is always true drops out, what is always false wins.
pub(super) fn and(mut conditions: Vec<Condition>) -> Condition {
    conditions.retain(|condition| !is_true(condition));
    match conditions.len() {
        1 => conditions.remove(0),
        _ if conditions.iter().any(is_false) => Condition::Or(Vec::new()),
        _ => Condition::And(conditions),
    }
}

/// `or(…)` of the library.
pub(super) fn or(mut conditions: Vec<Condition>) -> Condition {
    conditions.retain(|condition| !is_false(condition));
    match conditions.len() {
        1 => conditions.remove(0),
        _ if conditions.iter().any(is_true) => Condition::And(Vec::new()),
        _ => Condition::Or(conditions),
    }
}

/// `not(…)` of the library: comparisons and EXISTS are turned round, de Morgan for the rest.
pub(super) fn not(condition: Condition) -> Condition {
    match condition {
        Condition::And(conditions) => Condition::Or(conditions.into_iter().map(not).collect()),
        Condition::Or(conditions) => Condition::And(conditions.into_iter().map(not).collect()),
        Condition::Simple { op, left, right } => Condition::Simple { op: op.negated(), left, right },
        Condition::Exists { related, negated, flip, scalar } => {
            Condition::Exists { related, negated: !negated, flip, scalar }
        }
    }
}

/// What `.where` does to the whole filter: levels of one kind become one, constants decide.
pub(super) fn simplify(condition: Condition) -> Condition {
    let (is_and, mut conditions) = match condition {
        Condition::And(conditions) => (true, conditions),
        Condition::Or(conditions) => (false, conditions),
        leaf => return leaf,
    };
    if conditions.len() == 1 {
        return simplify(conditions.remove(0));
    }
    let mut flat = Vec::new();
    for child in conditions.into_iter().map(simplify) {
        match child {
            Condition::And(grandchildren) if is_and => flat.extend(grandchildren),
            Condition::Or(grandchildren) if !is_and => flat.extend(grandchildren),
            child => flat.push(child),
        }
    }
    match is_and {
        true if flat.iter().any(is_false) => Condition::Or(Vec::new()),
        false if flat.iter().any(is_true) => Condition::And(Vec::new()),
        true => Condition::And(flat),
        false => Condition::Or(flat),
    }
}
