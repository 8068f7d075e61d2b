//! The normal form of a query, from which its hash is taken.
//!
//! It works on JSON, because the key order of conditions is kept and takes part in the hash. It is bug-compatible
//! with the reference on purpose, since ids of queries must match those that clients compute: empty `or` and
//! `and` both vanish, only one extra level is merged, and the comparator answers "less" both ways between an
//! EXISTS and a nested and/or, so that the outcome depends on the sort algorithm of the JavaScript engine,
//! which is therefore imitated. The normal form is for hashing only; queries run as they were sent.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use crate::json::{Json, write_number};

/// The normal form of an AST. JSON that is no AST comes back as it is, where it is none.
pub fn normal_form(ast: &Json) -> Json {
    const KEYS: [&str; 8] = ["schema", "table", "alias", "where", "related", "start", "limit", "orderBy"];
    if ast.as_object().is_none() {
        return ast.clone();
    }
    let mut entries = Vec::with_capacity(KEYS.len());
    for key in KEYS {
        let Some(value) = ast.get(key) else { continue };
        let value = match key {
            "where" => match flatten(value) {
                Some(condition) => sorted(&condition),
                None => continue,
            },
            "related" => related(value),
            _ => value.clone(),
        };
        entries.push((Arc::from(key), value));
    }
    Json::Object(entries)
}

fn related(list: &Json) -> Json {
    let Some(list) = list.as_array() else { return list.clone() };
    let mut list: Vec<Json> = list
        .iter()
        .map(|entry| {
            let part = |key: &'static str| {
                let value = entry.get(key)?;
                Some((key, if key == "subquery" { normal_form(value) } else { value.clone() }))
            };
            Json::object(["correlation", "hidden", "subquery", "system"].into_iter().filter_map(part))
        })
        .collect();
    list.sort_by(|a, b| alias(a).as_bytes().cmp(alias(b).as_bytes()));
    Json::Array(list)
}

/// The name of a correlated subquery.
fn alias(subquery: &Json) -> &str {
    subquery.get("subquery").and_then(|ast| ast.get("alias")).and_then(Json::as_str).unwrap_or_default()
}

fn tag(condition: &Json) -> &str {
    condition.get("type").and_then(Json::as_str).unwrap_or_default()
}

fn conditions(condition: &Json) -> &[Json] {
    condition.get("conditions").and_then(Json::as_array).unwrap_or_default()
}

fn junction(tag: &str, conditions: Vec<Json>) -> Json {
    Json::object([("type", Json::string(tag)), ("conditions", Json::Array(conditions))])
}

/// Merges and/or nodes of equal type, one extra level a call, and drops empty ones.
fn flatten(condition: &Json) -> Option<Json> {
    let tag = tag(condition);
    if tag != "and" && tag != "or" {
        return Some(condition.clone());
    }
    let mut flat = Vec::new();
    for child in conditions(condition) {
        if self::tag(child) == tag {
            flat.extend(conditions(child).iter().filter_map(flatten));
        } else {
            flat.extend(flatten(child));
        }
    }
    if flat.len() > 1 { Some(junction(tag, flat)) } else { flat.pop() }
}

/// Sorts the children of every and/or node, innermost first, and normalises the subqueries of EXISTS.
fn sorted(condition: &Json) -> Json {
    match tag(condition) {
        tag @ ("and" | "or") => {
            let mut children: Vec<Json> = conditions(condition).iter().map(sorted).collect();
            javascript_sort(&mut children, compare);
            junction(tag, children)
        }
        "correlatedSubquery" => replaced(condition, "related", |wrapper| replaced(wrapper, "subquery", normal_form)),
        _ => condition.clone(),
    }
}

/// The object with one value replaced, all keys in place.
fn replaced(object: &Json, key: &str, change: impl Fn(&Json) -> Json) -> Json {
    let Some(entries) = object.as_object() else { return object.clone() };
    let entry = |(other, value): &(Arc<str>, Json)| {
        (Arc::clone(other), if &**other == key { change(value) } else { value.clone() })
    };
    Json::Object(entries.iter().map(entry).collect())
}

/// The reference's comparator; not an order, see the module's documentation.
fn compare(a: &Json, b: &Json) -> Ordering {
    match (tag(a), tag(b)) {
        ("simple", "simple") => compare_positions(a.get("left"), b.get("left"))
            .then_with(|| text(a, "op").as_bytes().cmp(text(b, "op").as_bytes()))
            .then_with(|| compare_positions(a.get("right"), b.get("right"))),
        ("simple", _) => Ordering::Less,
        (_, "simple") => Ordering::Greater,
        ("correlatedSubquery", "correlatedSubquery") => {
            let flag = |condition: &Json, key: &str| condition.get(key).and_then(Json::as_bool);
            let name = |condition: &Json| condition.get("related").map(alias).unwrap_or_default().to_owned();
            name(a)
                .as_bytes()
                .cmp(name(b).as_bytes())
                .then_with(|| text(a, "op").as_bytes().cmp(text(b, "op").as_bytes()))
                .then_with(|| flag(a, "flip").cmp(&flag(b, "flip")))
                .then_with(|| flag(a, "scalar").cmp(&flag(b, "scalar")))
        }
        ("correlatedSubquery", _) | (_, "correlatedSubquery") => Ordering::Less,
        (a_tag, b_tag) => a_tag.cmp(b_tag).then_with(|| {
            let (a, b) = (conditions(a), conditions(b));
            let pairs = a.iter().zip(b).map(|(a, b)| compare(a, b));
            pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
        }),
    }
}

fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json.get(key).and_then(Json::as_str).unwrap_or_default()
}

fn compare_positions(a: Option<&Json>, b: Option<&Json>) -> Ordering {
    let (Some(a), Some(b)) = (a, b) else { return Ordering::Equal };
    tag(a).cmp(tag(b)).then_with(|| match tag(a) {
        "column" => text(a, "name").as_bytes().cmp(text(b, "name").as_bytes()),
        "literal" => match (a.get("value"), b.get("value")) {
            (Some(a), Some(b)) => javascript_text(a).as_bytes().cmp(javascript_text(b).as_bytes()),
            _ => Ordering::Equal,
        },
        _ => Ordering::Equal,
    })
}

/// What JavaScript's `String(value)` gives for a literal.
fn javascript_text(value: &Json) -> Cow<'_, str> {
    match value {
        Json::String(text) => Cow::Borrowed(text),
        Json::Number(number) if number.is_infinite() => {
            Cow::Borrowed(if *number > 0.0 { "Infinity" } else { "-Infinity" })
        }
        Json::Number(number) => {
            let mut text = String::new();
            write_number(*number, &mut text);
            Cow::Owned(text)
        }
        Json::Array(elements) => Cow::Owned(elements.iter().map(javascript_text).collect::<Vec<_>>().join(",")),
        Json::Object(_) => Cow::Borrowed("[object Object]"),
        Json::Null => Cow::Borrowed("null"),
        Json::Bool(bool) => Cow::Borrowed(if *bool { "true" } else { "false" }),
    }
}

/// `Array.prototype.sort` of V8 for short arrays: an initial run, then binary insertion. For comparators
/// that are orders the outcome is that of any stable sort, so longer arrays use it too; there it costs
/// quadratic moves, which the size of a message bounds.
fn javascript_sort<T>(items: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    if items.len() < 2 {
        return;
    }
    let descending = compare(&items[1], &items[0]) == Ordering::Less;
    let mut run = 2;
    while run < items.len() && (compare(&items[run], &items[run - 1]) == Ordering::Less) == descending {
        run += 1;
    }
    if descending {
        items[..run].reverse();
    }
    for next in run..items.len() {
        let (mut low, mut high) = (0, next);
        while low < high {
            let middle = (low + high) / 2;
            if compare(&items[next], &items[middle]) == Ordering::Less {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        items[low..=next].rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &str) {
        assert_eq!(normal_form(&Json::parse(input).unwrap()).to_string(), expected);
    }

    #[test]
    fn keys_are_ordered_and_empty_junctions_vanish() {
        check(
            r#"{"orderBy":[["id","asc"]],"limit":10,"table":"issue"}"#,
            r#"{"table":"issue","limit":10,"orderBy":[["id","asc"]]}"#,
        );
        check(r#"{"table":"t","where":{"type":"or","conditions":[]}}"#, r#"{"table":"t"}"#);
        check(
            r#"{"table":"t","where":{"type":"and","conditions":[{"type":"or","conditions":[{"type":"and","conditions":[]}]}]}}"#,
            r#"{"table":"t"}"#,
        );
        check(r#"{"related":[],"orderBy":[],"table":"t"}"#, r#"{"table":"t","related":[],"orderBy":[]}"#);
    }

    #[test]
    fn only_one_extra_level_is_merged() {
        let simple = |name: &str| {
            format!(
                r#"{{"type":"simple","left":{{"type":"column","name":"{name}"}},"right":{{"type":"literal","value":1}},"op":"="}}"#
            )
        };
        let and = |children: &[String]| format!(r#"{{"type":"and","conditions":[{}]}}"#, children.join(","));
        let (a, b, c) = (simple("a"), simple("b"), simple("c"));
        // The third level is spliced into the first; a fourth would stay a node of its own.
        let input = and(&[c.clone(), and(&[and(&[b.clone(), a.clone()])])]);
        let expected = and(&[c, and(&[a, b])]);
        check(&format!(r#"{{"table":"t","where":{input}}}"#), &format!(r#"{{"table":"t","where":{expected}}}"#));
    }

    #[test]
    fn exists_beside_junctions_follow_the_sort_of_v8() {
        let exists = r#"{"type":"correlatedSubquery","related":{"system":"client","correlation":{"parentField":["id"],"childField":["x"]},"subquery":{"table":"c","alias":"a"}},"op":"EXISTS"}"#;
        let simple = |n: u8| {
            format!(
                r#"{{"type":"simple","left":{{"type":"column","name":"a"}},"right":{{"type":"literal","value":{n}}},"op":"="}}"#
            )
        };
        let or = format!(r#"{{"type":"or","conditions":[{},{}]}}"#, simple(1), simple(2));
        let and = |a: &str, b: &str| format!(r#"{{"table":"t","where":{{"type":"and","conditions":[{a},{b}]}}}}"#);
        check(&and(exists, &or), &and(&or, exists));
        check(&and(&or, exists), &and(exists, &or));
    }
}
