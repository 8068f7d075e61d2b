//! Permissions as deployed upstream (protocol sheet §14): what a client's own AST may see, and what CRUD mutations may
//! write.
//!
//! Only ASTs and mutations that clients make themselves are subject to them; queries and mutators that the API server
//! defines are its own business. Without deployed permissions, and for tables without a rule, a query finds nothing and
//! nothing may be written.

use std::collections::BTreeMap;

use crate::ast::{Ast, Condition};
use crate::json::Json;

/// What is told where permissions are applied for nobody.
pub const NO_AUTH_DATA: &str =
    "No auth data provided. Permission rules will compare to `NULL` wherever an auth data field is referenced.";

/// The rules, by server-side table name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Permissions {
    tables: BTreeMap<String, Rules>,
}

/// The rules of a table.
#[derive(Clone, Debug, Default, PartialEq)]
struct Rules {
    row: Policies,
    cells: BTreeMap<String, Policies>,
}

/// What must hold for a row, or for a cell of it. A policy that is absent allows nothing to a row, and says nothing of a
/// cell; one holds when one of its conditions does.
#[derive(Clone, Debug, Default, PartialEq)]
struct Policies {
    select: Option<Vec<Condition>>,
    insert: Option<Vec<Condition>>,
    update_before: Option<Vec<Condition>>,
    update_after: Option<Vec<Condition>>,
    delete: Option<Vec<Condition>>,
}

/// What a mutation does to a row, as permissions distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The row as it is after an insert.
    Inserted,
    /// The row as it was before an update.
    BeforeUpdate,
    /// The row as it is after an update.
    AfterUpdate,
    /// The row as it was before it was deleted.
    Deleted,
}

impl Policies {
    fn of(&self, write: Write) -> Option<&Vec<Condition>> {
        match write {
            Write::Inserted => self.insert.as_ref(),
            Write::BeforeUpdate => self.update_before.as_ref(),
            Write::AfterUpdate => self.update_after.as_ref(),
            Write::Deleted => self.delete.as_ref(),
        }
    }
}

fn fault(what: &str) -> String {
    format!("Could not parse upstream permissions: {what}")
}

fn policies(json: Option<&Json>) -> Result<Policies, String> {
    let Some(json) = json else { return Ok(Policies::default()) };
    let update = json.get("update");
    Ok(Policies {
        select: policy(json.get("select"))?,
        insert: policy(json.get("insert"))?,
        update_before: policy(update.and_then(|update| update.get("preMutation")))?,
        update_after: policy(update.and_then(|update| update.get("postMutation")))?,
        delete: policy(json.get("delete"))?,
    })
}

fn policy(json: Option<&Json>) -> Result<Option<Vec<Condition>>, String> {
    let Some(rules) = json.and_then(Json::as_array) else { return Ok(None) };
    let mut conditions = Vec::new();
    for rule in rules {
        match rule.as_array() {
            Some([action, condition]) if action.as_str() == Some("allow") => {
                conditions.push(Condition::parse_strict(condition).map_err(|error| fault(&error.to_string()))?);
            }
            _ => return Err(fault("a rule is not [\"allow\", condition]")),
        }
    }
    Ok(Some(conditions))
}

impl Permissions {
    /// Reads the document in `<app>.permissions`.
    pub fn parse(text: &str) -> Result<Permissions, String> {
        let json = Json::parse(text).map_err(|error| fault(&error.to_string()))?;
        let mut tables = BTreeMap::new();
        for (table, rules) in json.get("tables").and_then(Json::as_object).unwrap_or_default() {
            let mut cells = BTreeMap::new();
            for (column, policy) in rules.get("cell").and_then(Json::as_object).unwrap_or_default() {
                cells.insert(column.to_string(), policies(Some(policy))?);
            }
            tables.insert(table.to_string(), Rules { row: policies(rules.get("row"))?, cells });
        }
        Ok(Permissions { tables })
    }

    /// What must hold of a row for a write; `writes` says which columns are written. Of each policy one condition must
    /// hold, so an empty one stands for what is not allowed.
    pub fn of_write(&self, table: &str, write: Write, writes: impl Fn(&str) -> bool) -> Condition {
        let Some(rules) = self.tables.get(table) else { return Condition::Or(Vec::new()) };
        let row = rules.row.of(write).cloned().unwrap_or_default();
        let updates = matches!(write, Write::BeforeUpdate | Write::AfterUpdate);
        let cells = rules.cells.iter().filter(|(column, _)| !updates || writes(column));
        let cells = cells.filter_map(|(_, policies)| policies.of(write).cloned());
        Condition::And(std::iter::once(row).chain(cells).map(Condition::Or).collect())
    }

    /// Narrows a query, at every level, to what may be read.
    pub fn apply(&self, ast: &mut Ast) {
        for related in &mut ast.related {
            self.apply(&mut related.subquery);
        }
        if let Some(condition) = &mut ast.r#where {
            self.apply_condition(condition);
        }
        let rules = self.tables.get(&*ast.table).and_then(|rules| rules.row.select.clone()).unwrap_or_default();
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
    use crate::ast::{Ast, Condition, Literal, ValuePosition};
    use crate::json::Json;

    use super::{Permissions, Write};

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
    fn writes_need_a_policy_for_the_row_and_what_cells_say() {
        let rule = |value: i32| {
            format!(
                r#"["allow",{{"type":"simple","left":{{"type":"column","name":"x"}},"op":"=","right":{{"type":"literal","value":{value}}}}}]"#
            )
        };
        let policies = |n: i32| {
            let [insert, before, after, delete] = [n, n + 1, n + 2, n + 3].map(rule);
            format!(
                r#"{{"insert":[{insert}],"update":{{"preMutation":[{before}],"postMutation":[{after}]}},"delete":[{delete}]}}"#
            )
        };
        let text = format!(
            r#"{{"tables":{{"a":{{"row":{},"cell":{{"c":{},"d":{{"select":[]}}}}}},"b":{{"cell":{{"c":{}}}}}}}}}"#,
            policies(0),
            policies(10),
            policies(20)
        );
        let permissions = Permissions::parse(&text).expect("permissions");
        let asked = |table: &str, write: Write, column: &str| {
            let Condition::And(policies) = permissions.of_write(table, write, |written| written == column) else {
                return "nothing".to_owned();
            };
            let values = policies.iter().map(|policy| match policy {
                Condition::Or(rules) => rules.iter().map(value).collect::<String>() + ";",
                other => format!("{other:?}"),
            });
            values.collect()
        };
        fn value(rule: &Condition) -> String {
            let Condition::Simple { right: ValuePosition::Literal(Literal::Value(value)), .. } = rule else {
                return format!("{rule:?}");
            };
            value.to_json().to_string()
        }
        for (table, write, column, expected) in [
            ("a", Write::Inserted, "c", "0;10;"),
            ("a", Write::Inserted, "x", "0;10;"),
            ("a", Write::BeforeUpdate, "c", "1;11;"),
            ("a", Write::BeforeUpdate, "d", "1;"),
            ("a", Write::AfterUpdate, "x", "2;"),
            ("a", Write::Deleted, "x", "3;13;"),
            ("b", Write::Inserted, "x", ";20;"),
            ("z", Write::Inserted, "x", "nothing"),
        ] {
            assert_eq!(asked(table, write, column), expected, "{table} {write:?} {column}");
        }
    }

    #[test]
    fn refuses() {
        for text in ["nope", r#"{"tables":{"a":{"row":{"select":[["deny",{}]]}}}}"#] {
            assert!(Permissions::parse(text).expect_err(text).starts_with("Could not parse upstream permissions: "));
        }
    }
}
