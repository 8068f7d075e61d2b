//! What a client makes of the rows that it holds: it runs the query over them itself.
//!
//! A client does not know of permissions: conditions that a server adds for them are true where the rows are, and their
//! rows are not sent.

use std::sync::Arc;

use zql_spec::ast::{Ast, Condition, System};
use zql_spec::conformance::{BackendError, DataSet, Held, Query, Tree};
use zql_spec::naive::{Database, Evaluation, Operation};

/// The answer over the rows held, by table.
pub(crate) fn answer(data: &DataSet, query: &Query, rows: &Held) -> Result<Tree, BackendError> {
    let mut database = Database::new(Arc::clone(&data.schema));
    for (table, rows) in rows {
        for row in rows {
            database.apply(&[Operation::Insert { table: Arc::clone(table), row: Arc::clone(row) }]);
        }
    }
    let ast = without_permissions(&query.ast);
    let evaluation = Evaluation::new(&database, &ast).map_err(|invalid| BackendError(invalid.0))?;
    Ok(Tree::of(&evaluation, &query.format))
}

fn without_permissions(ast: &Ast) -> Ast {
    let mut ast = ast.clone();
    ast.r#where = ast.r#where.as_ref().map(plain);
    ast.related.retain(|related| related.system != System::Permissions);
    for related in &mut ast.related {
        *related.subquery = without_permissions(&related.subquery);
    }
    ast
}

fn plain(condition: &Condition) -> Condition {
    match condition {
        Condition::And(conditions) => Condition::And(conditions.iter().map(plain).collect()),
        Condition::Or(conditions) => Condition::Or(conditions.iter().map(plain).collect()),
        Condition::Exists { related, .. } if related.system == System::Permissions => Condition::And(Vec::new()),
        Condition::Exists { related, negated, flip, scalar } => {
            let mut related = related.clone();
            *related.subquery = without_permissions(&related.subquery);
            Condition::Exists { related, negated: *negated, flip: *flip, scalar: *scalar }
        }
        simple => simple.clone(),
    }
}
