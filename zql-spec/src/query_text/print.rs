//! Query → canonical text: one form for each meaning that text has.
//!
//! Relationships are named by their aliases, and both hops of a junction are written as one relationship, so no schema
//! is needed. What text cannot say is left out: correlations that the schema does not have, permissions, hops that
//! carry filters of their own, and `and()` at the top. So the text is for people, and for queries that were text.

use std::fmt::Write;

use super::arguments::STATIC_PARAMETERS;
use super::build::{EXISTS_PREFIX, HIDDEN_PREFIX};
use crate::ast::{Ast, Condition, CorrelatedSubquery, Direction, Literal, SimpleOperator, ValuePosition};
use crate::format::Format;
use crate::json::{Json, write_number};
use crate::normal_form::normal_form;
use crate::value::Value;

/// The text of a query on one line. Its shape says where `.one()` stands.
pub fn print(ast: &Ast, format: &Format) -> String {
    let mut out = ast.table.to_string();
    calls(&mut out, ast, format);
    out
}

/// The text of a query's normal form, from which its hash is taken: spellings of one hash have one text. A query with an
/// empty OR, which is true for nothing, is written as it is, because the normal form leaves that out.
pub fn canonical(ast: &Ast, format: &Format) -> String {
    let normal = Ast::parse_lenient(&normal_form(&ast.to_json())).ok().filter(|_| !says_never(ast));
    print(normal.as_ref().unwrap_or(ast), format)
}

/// Whether there is an empty OR anywhere in a query.
fn says_never(ast: &Ast) -> bool {
    fn of(condition: &Condition) -> bool {
        match condition {
            Condition::Or(conditions) if conditions.is_empty() => true,
            Condition::And(conditions) | Condition::Or(conditions) => conditions.iter().any(of),
            Condition::Exists { related, .. } => says_never(&related.subquery),
            Condition::Simple { .. } => false,
        }
    }
    ast.r#where.as_ref().is_some_and(of) || ast.related.iter().any(|related| says_never(&related.subquery))
}

fn calls(out: &mut String, ast: &Ast, format: &Format) {
    match &ast.r#where {
        Some(Condition::And(conditions)) => conditions.iter().for_each(|condition| filter(out, condition)),
        Some(condition) => filter(out, condition),
        None => {}
    }
    for related in &ast.related {
        let destination = behind_junction(related);
        let name = related.subquery.alias.as_deref().unwrap_or_default();
        out.push_str(".related(");
        text(out, name);
        callback(out, destination, format.relationship(name));
        out.push(')');
    }
    for (column, direction) in &ast.order_by {
        out.push_str(".orderBy(");
        text(out, column);
        out.push_str(match direction {
            Direction::Asc => ", 'asc')",
            Direction::Desc => ", 'desc')",
        });
    }
    match ast.limit {
        Some(1.0) if format.singular => out.push_str(".one()"),
        Some(limit) => {
            out.push_str(".limit(");
            write_number(limit, out);
            out.push(')');
        }
        None => {}
    }
    if let Some(start) = &ast.start {
        out.push_str(".start(");
        json(out, &Json::Object(start.row.iter().map(|(column, value)| (column.clone(), value.to_json())).collect()));
        out.push_str(if start.exclusive { ")" } else { ", {inclusive: true})" });
    }
}

/// The destination of a relationship: behind a hidden hop, or at once.
fn behind_junction(related: &CorrelatedSubquery) -> &Ast {
    match related.subquery.related.as_slice() {
        [behind] if related.hidden => &behind.subquery,
        _ => &related.subquery,
    }
}

/// `, q => q…`, unless nothing is called on it.
fn callback(out: &mut String, ast: &Ast, format: &Format) {
    let mut body = String::new();
    calls(&mut body, ast, format);
    if !body.is_empty() {
        out.push_str(", q => q");
        out.push_str(&body);
    }
}

/// A condition as a call on the query.
fn filter(out: &mut String, condition: &Condition) {
    match condition {
        Condition::Simple { op, left: ValuePosition::Column(column), right } => {
            out.push_str(".where(");
            comparison(out, column, *op, right);
            out.push(')');
        }
        Condition::Exists { negated: false, .. } => {
            out.push_str(".whereExists");
            exists(out, condition);
        }
        condition => {
            let mut names = Vec::new();
            let mut body = String::new();
            term(&mut body, condition, &mut names);
            names.sort_unstable();
            names.dedup();
            let _ = write!(out, ".where(({{{}}}) => {body})", names.join(", "));
        }
    }
}

/// A condition inside a callback; notes the functions it calls.
fn term(out: &mut String, condition: &Condition, names: &mut Vec<&'static str>) {
    match condition {
        Condition::Simple { op, left: ValuePosition::Column(column), right } => {
            names.push("cmp");
            out.push_str("cmp(");
            comparison(out, column, *op, right);
            out.push(')');
        }
        Condition::Simple { op, left, right } => {
            names.push("cmpLit");
            out.push_str("cmpLit(");
            position(out, left);
            let _ = write!(out, ", '{}', ", op.name());
            position(out, right);
            out.push(')');
        }
        Condition::Exists { negated, .. } => {
            names.push("exists");
            if *negated {
                names.push("not");
                out.push_str("not(");
            }
            out.push_str("exists");
            exists(out, condition);
            if *negated {
                out.push(')');
            }
        }
        Condition::And(conditions) => junction(out, "and", conditions, names),
        Condition::Or(conditions) => junction(out, "or", conditions, names),
    }
}

fn junction(out: &mut String, name: &'static str, conditions: &[Condition], names: &mut Vec<&'static str>) {
    names.push(name);
    out.push_str(name);
    out.push('(');
    for (i, condition) in conditions.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        term(out, condition, names);
    }
    out.push(')');
}

/// `('relationship', q => q…, {flip: true})`
fn exists(out: &mut String, condition: &Condition) {
    let Condition::Exists { related, flip, scalar, .. } = condition else { return };
    let alias = related.subquery.alias.as_deref().unwrap_or_default();
    let name = alias.strip_prefix(EXISTS_PREFIX).unwrap_or(alias);
    // A junction's filter is one EXISTS over the table behind it, which carries `scalar`.
    let (destination, scalar) = match &related.subquery.r#where {
        Some(Condition::Exists { related: behind, scalar, negated: false, .. })
            if behind.subquery.alias.as_deref().and_then(|alias| alias.strip_prefix(HIDDEN_PREFIX)) == Some(name) =>
        {
            (&*behind.subquery, scalar)
        }
        _ => (&*related.subquery, scalar),
    };
    out.push('(');
    text(out, name);
    // The shape of rows that nobody sees does not matter.
    callback(out, destination, &Format::default());
    let options: Vec<String> = [("flip", flip), ("scalar", scalar)]
        .into_iter()
        .filter_map(|(name, flag)| flag.map(|flag| format!("{name}: {flag}")))
        .collect();
    if !options.is_empty() {
        let _ = write!(out, ", {{{}}}", options.join(", "));
    }
    out.push(')');
}

fn comparison(out: &mut String, column: &str, op: SimpleOperator, right: &ValuePosition) {
    text(out, column);
    if op != SimpleOperator::Eq {
        let _ = write!(out, ", '{}'", op.name());
    }
    out.push_str(", ");
    position(out, right);
}

fn position(out: &mut String, position: &ValuePosition) {
    match position {
        ValuePosition::Literal(Literal::Value(value)) => json(out, &value.to_json()),
        ValuePosition::Literal(Literal::List(values)) => {
            json(out, &Json::Array(values.iter().map(Value::to_json).collect()));
        }
        ValuePosition::Column(column) => text(out, column),
        ValuePosition::Static { anchor, field, path } => {
            let name = STATIC_PARAMETERS.iter().find(|(_, other)| other == anchor).map_or("", |(name, _)| name);
            out.push_str(name);
            out.push('(');
            match field.as_slice() {
                [field] if !path => text(out, field),
                fields => json(out, &Json::Array(fields.iter().map(|field| Json::String(field.clone())).collect())),
            }
            out.push(')');
        }
    }
}

/// A value as JavaScript: single quotes, and no quotes round keys that are names.
fn json(out: &mut String, json_value: &Json) {
    match json_value {
        Json::String(value) => text(out, value),
        Json::Array(elements) => {
            out.push('[');
            for (i, element) in elements.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                json(out, element);
            }
            out.push(']');
        }
        Json::Object(entries) => {
            out.push('{');
            for (i, (key, value)) in entries.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                let name = key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '$'));
                if name && key.starts_with(|c: char| !c.is_ascii_digit()) {
                    out.push_str(key);
                } else {
                    text(out, key);
                }
                out.push_str(": ");
                json(out, value);
            }
            out.push('}');
        }
        other => other.write(out),
    }
}

/// A text in single quotes; control characters are escaped, so that it stays on one line.
fn text(out: &mut String, value: &str) {
    out.push('\'');
    for c in value.chars() {
        match c {
            '\'' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('\'');
}
