//! A replica of an issue tracker of any size, and queries over it.

use std::path::Path;
use std::sync::Arc;

use engine::query::Query;
use engine::replica::{ColumnSpec, IndexSpec, InitialLoad, Origin, Replica, Snapshot, SqliteValue, TableSpec};
use zql_spec::ast::{
    Ast, Condition, CorrelatedSubquery, Correlation, Direction, Literal, SimpleOperator, System, ValuePosition,
};
use zql_spec::value::Value;

pub(crate) fn text(text: impl Into<String>) -> SqliteValue {
    SqliteValue::Text(text.into())
}

pub(crate) fn int(number: i64) -> SqliteValue {
    SqliteValue::Integer(number)
}

/// Begins a replica.
pub(crate) fn begin(path: &Path) -> InitialLoad {
    let origin =
        Origin { replica_version: "01".to_owned(), publications: vec!["p".to_owned()], context: "{}".to_owned() };
    Replica::create(path, &origin).unwrap()
}

/// Adds a table with rows. An index is a list of columns; a unique one begins with `!`.
pub(crate) fn table(
    load: &mut InitialLoad,
    name: &str,
    columns: &[(&str, &str)],
    indexes: &[&str],
    rows: impl IntoIterator<Item = Vec<SqliteValue>>,
) -> Vec<IndexSpec> {
    let columns = columns.iter().map(|(name, declared)| ColumnSpec::from_declared(name, declared)).collect();
    let id = load.create_table(&TableSpec { name: name.to_owned(), columns, ..TableSpec::default() }).unwrap();
    let mut values = Vec::new();
    for row in rows {
        values.extend(row);
        if values.len() > 4000 {
            load.append(id, &mut values).unwrap();
        }
    }
    load.append(id, &mut values).unwrap();
    let index = |text: &&str| {
        let columns = text.trim_start_matches('!');
        IndexSpec {
            name: format!("{name}_{}", columns.replace(',', "_")),
            table: name.to_owned(),
            unique: text.starts_with('!'),
            columns: columns.split(',').map(|column| (column.to_owned(), Direction::Asc)).collect(),
        }
    };
    indexes.iter().map(index).collect()
}

/// An issue tracker: every tenth issue has no owner; issue `i` has `i % 4` comments by users in turn and
/// labels `i % labels` and, every hundredth, `rare`. `comment.author` has no index.
pub(crate) fn tracker(path: &Path, users: i64, issues: i64) -> Arc<Snapshot> {
    let labels = 10;
    let mut load = begin(path);
    let id = |kind: &str, number: i64| text(format!("{kind}{number}"));
    let user_rows = (0..users).map(|user| vec![id("u", user), text(format!("User {user}"))]);
    let mut indexes =
        table(&mut load, "user", &[("id", "text|NOT_NULL"), ("name", "text|NOT_NULL")], &["!id"], user_rows);
    let issue_rows = (0..issues).map(|issue| {
        let owner = if issue % 10 == 9 { SqliteValue::Null } else { id("u", issue % users) };
        vec![id("i", issue), text(format!("Issue {issue}")), int(issue % 2), owner, int(issue % 5), int(issues - issue)]
    });
    let columns = [
        ("id", "text|NOT_NULL"),
        ("title", "text|NOT_NULL"),
        ("open", "bool|NOT_NULL"),
        ("owner", "text"),
        ("priority", "int4|NOT_NULL"),
        ("modified", "float8|NOT_NULL"),
    ];
    indexes.extend(table(&mut load, "issue", &columns, &["!id", "owner", "modified"], issue_rows));
    let mut next = 0;
    let comment_rows = (0..issues).flat_map(|issue| (0..issue % 4).map(move |_| issue)).map(|issue| {
        next += 1;
        vec![id("c", next), id("i", issue), id("u", next % users), text(format!("Comment {next}")), int(next)]
    });
    let columns = [
        ("id", "text|NOT_NULL"),
        ("issue", "text|NOT_NULL"),
        ("author", "text|NOT_NULL"),
        ("body", "text"),
        ("created", "float8"),
    ];
    indexes.extend(table(&mut load, "comment", &columns, &["!id", "issue"], comment_rows));
    let label_rows = (0..labels)
        .map(|label| vec![id("l", label), text(format!("label {label}"))])
        .chain([vec![text("rare"), text("rare")]]);
    indexes.extend(table(
        &mut load,
        "label",
        &[("id", "text|NOT_NULL"), ("name", "text|NOT_NULL")],
        &["!id"],
        label_rows,
    ));
    let pairs = (0..issues).flat_map(|issue| {
        let usual = Some(vec![id("i", issue), id("l", issue % labels)]);
        let rare = (issue % 100 == 7).then(|| vec![id("i", issue), text("rare")]);
        [usual, rare].into_iter().flatten()
    });
    let columns = [("issue", "text|NOT_NULL"), ("label", "text|NOT_NULL")];
    indexes.extend(table(&mut load, "issue_label", &columns, &["!issue,label", "label"], pairs));
    for index in &indexes {
        load.create_index(index).unwrap();
    }
    load.finish().unwrap().pin().unwrap()
}

/// A query over a table.
pub(crate) fn from(table: &str) -> Ast {
    Ast { table: table.into(), ..Ast::default() }
}

/// Adds to a query.
pub(crate) trait Build {
    fn filter(self, condition: Condition) -> Ast;
    fn limit(self, limit: usize) -> Ast;
    fn order(self, column: &str, direction: Direction) -> Ast;
    fn related(self, alias: &str, parent: &str, child: &str, subquery: Ast) -> Ast;
}

impl Build for Ast {
    fn filter(mut self, condition: Condition) -> Ast {
        self.r#where = Some(match self.r#where {
            Some(before) => Condition::And(vec![before, condition]),
            None => condition,
        });
        self
    }

    fn limit(mut self, limit: usize) -> Ast {
        self.limit = Some(limit as f64);
        self
    }

    fn order(mut self, column: &str, direction: Direction) -> Ast {
        self.order_by.push((column.into(), direction));
        self
    }

    fn related(mut self, alias: &str, parent: &str, child: &str, subquery: Ast) -> Ast {
        self.related.push(correlate(alias, parent, child, subquery));
        self
    }
}

fn correlate(alias: &str, parent: &str, child: &str, mut subquery: Ast) -> CorrelatedSubquery {
    subquery.alias = Some(alias.into());
    let names = |names: &str| names.split(',').map(Arc::from).collect();
    let correlation = Correlation { parent_field: names(parent), child_field: names(child) };
    CorrelatedSubquery { correlation, subquery: Box::new(subquery), hidden: false, system: System::Client }
}

/// Columns are comma-separated.
pub(crate) fn exists(parent: &str, child: &str, subquery: Ast) -> Condition {
    Condition::Exists { related: correlate("e", parent, child, subquery), negated: false, flip: None, scalar: None }
}

pub(crate) fn not_exists(parent: &str, child: &str, subquery: Ast) -> Condition {
    Condition::Exists { related: correlate("e", parent, child, subquery), negated: true, flip: None, scalar: None }
}

pub(crate) fn compare(column: &str, op: SimpleOperator, value: Value) -> Condition {
    Condition::Simple {
        op,
        left: ValuePosition::Column(column.into()),
        right: ValuePosition::Literal(Literal::Value(value)),
    }
}

pub(crate) fn equal(column: &str, value: &str) -> Condition {
    compare(column, SimpleOperator::Eq, Value::string(value))
}

pub(crate) fn number(column: &str, op: SimpleOperator, value: f64) -> Condition {
    compare(column, op, Value::Number(value))
}

/// The query against the snapshot's schema.
pub(crate) fn resolve(ast: &Ast, snapshot: &Snapshot) -> Arc<Query> {
    Arc::new(Query::resolve(ast, &snapshot.schema).unwrap())
}
