//! Makes a failing case small: parts are taken away as long as the failure stays.

use zql_spec::ast::{Ast, Condition};
use zql_spec::naive::{Database, Operation, Transaction};

use super::case::Case;

/// How many smaller cases are tried. Each costs a replica and a few evaluations, tens of milliseconds.
const TRIES: usize = 1_500;

/// The smallest case found for which `fails` still holds.
pub fn shrink(case: Case, fails: &mut dyn FnMut(&Case) -> bool) -> Case {
    let mut shrinker = Shrinker { best: case, fails, tries: TRIES };
    while shrinker.round() {}
    shrinker.best
}

struct Shrinker<'f> {
    best: Case,
    fails: &'f mut dyn FnMut(&Case) -> bool,
    tries: usize,
}

impl Shrinker<'_> {
    /// Whether anything became smaller.
    fn round(&mut self) -> bool {
        let mut progress = self.lists(
            |case| case.transactions.len(),
            |case, from, to| {
                case.transactions.drain(from..to);
            },
        );
        for at in 0..self.best.transactions.len() {
            progress |= self.lists(
                |case| case.transactions.get(at).map_or(0, Vec::len),
                |case, from, to| {
                    if let Some(transaction) = case.transactions.get_mut(at) {
                        transaction.drain(from..to);
                    }
                },
            );
        }
        progress |= self.query();
        let tables: Vec<_> = self.best.database.tables.keys().cloned().collect();
        for table in tables {
            progress |= self.lists(
                |case| case.database.tables.get(&table).map_or(0, |rows| rows.len()),
                |case, from, to| {
                    if let Some(rows) = case.database.tables.get_mut(&table) {
                        let keys: Vec<_> = rows.keys().skip(from).take(to - from).cloned().collect();
                        for key in keys {
                            rows.remove(&key);
                        }
                    }
                },
            );
        }
        progress && self.tries > 0
    }

    fn attempt(&mut self, mut smaller: Case) -> bool {
        if self.tries == 0 {
            return false;
        }
        self.tries -= 1;
        repair(&mut smaller);
        let failed = (self.fails)(&smaller);
        if failed {
            self.best = smaller;
        }
        failed
    }

    /// Takes ever shorter runs of elements out of a list.
    fn lists(&mut self, len: impl Fn(&Case) -> usize, remove: impl Fn(&mut Case, usize, usize)) -> bool {
        let mut progress = false;
        let mut size = len(&self.best);
        while size > 0 {
            let mut end = len(&self.best);
            while end > 0 {
                let from = end.saturating_sub(size);
                let mut smaller = self.best.clone();
                remove(&mut smaller, from, end);
                progress |= self.attempt(smaller);
                end = from;
            }
            size /= 2;
        }
        progress
    }

    fn query(&mut self) -> bool {
        let mut progress = false;
        'again: loop {
            for ast in smaller_queries(&self.best.ast) {
                let smaller = Case { ast, ..self.best.clone() };
                if self.attempt(smaller) {
                    progress = true;
                    continue 'again;
                }
            }
            return progress;
        }
    }
}

/// Drops operations that make no sense any more because what they refer to is gone.
fn repair(case: &mut Case) {
    let mut database = case.database.clone();
    for transaction in &mut case.transactions {
        let kept: Transaction = std::mem::take(transaction)
            .into_iter()
            .filter(|operation| {
                let possible = possible(case.data, &database, operation);
                if possible {
                    database.apply(std::slice::from_ref(operation));
                }
                possible
            })
            .collect();
        *transaction = kept;
    }
}

fn possible(data: &super::DataSet, database: &Database, operation: &Operation) -> bool {
    let there = |table: &str, key| database.tables.get(table).is_some_and(|rows| rows.contains_key(key));
    let unique = |table: &str, row: &[zql_spec::value::Value], except: Option<&Vec<_>>| {
        let keys = data.table(table).keys();
        database.tables.get(table).is_none_or(|rows| {
            rows.iter().filter(|(key, _)| Some(*key) != except).all(|(_, other)| {
                !keys.iter().any(|key| key.iter().all(|&column| !row[column].is_null() && row[column] == other[column]))
            })
        })
    };
    match operation {
        Operation::Insert { table, row } => unique(table, row, None),
        Operation::Update { table, key, row } => there(table, key) && unique(table, row, Some(key)),
        Operation::Delete { table, key } => there(table, key),
        Operation::Truncate { .. } => true,
    }
}

/// Queries with one thing less.
fn smaller_queries(ast: &Ast) -> Vec<Ast> {
    let mut smaller = Vec::new();
    let mut with = |change: &dyn Fn(&mut Ast)| {
        let mut copy = ast.clone();
        change(&mut copy);
        if copy != *ast {
            smaller.push(copy);
        }
    };
    with(&|ast| ast.r#where = None);
    with(&|ast| ast.start = None);
    with(&|ast| ast.limit = None);
    with(&|ast| ast.order_by.clear());
    for at in 0..ast.order_by.len() {
        with(&|ast| {
            ast.order_by.remove(at);
        });
    }
    for at in 0..ast.related.len() {
        with(&|ast| {
            ast.related.remove(at);
        });
    }
    if let Some(condition) = &ast.r#where {
        for condition in smaller_conditions(condition) {
            with(&|ast| ast.r#where = Some(condition.clone()));
        }
    }
    for (at, related) in ast.related.iter().enumerate() {
        for subquery in smaller_queries(&related.subquery) {
            with(&|ast| *ast.related[at].subquery = subquery.clone());
        }
        with(&|ast| {
            ast.related[at].hidden = false;
            ast.related[at].system = Default::default();
        });
    }
    smaller
}

fn smaller_conditions(condition: &Condition) -> Vec<Condition> {
    let mut smaller = Vec::new();
    match condition {
        Condition::And(conditions) | Condition::Or(conditions) => {
            let rebuilt = |conditions| match condition {
                Condition::And(_) => Condition::And(conditions),
                _ => Condition::Or(conditions),
            };
            smaller.extend(conditions.iter().cloned());
            for at in 0..conditions.len() {
                let mut fewer = conditions.clone();
                fewer.remove(at);
                smaller.push(rebuilt(fewer));
            }
            for (at, child) in conditions.iter().enumerate() {
                for child in smaller_conditions(child) {
                    let mut changed = conditions.clone();
                    changed[at] = child;
                    smaller.push(rebuilt(changed));
                }
            }
        }
        Condition::Exists { related, negated, flip, scalar } => {
            if flip.is_some() || scalar.is_some() {
                let related = related.clone();
                smaller.push(Condition::Exists { related, negated: *negated, flip: None, scalar: None });
            }
            for subquery in smaller_queries(&related.subquery) {
                let mut related = related.clone();
                *related.subquery = subquery;
                smaller.push(Condition::Exists { related, negated: *negated, flip: *flip, scalar: *scalar });
            }
        }
        Condition::Simple { .. } => {}
    }
    smaller
}

#[cfg(test)]
mod tests {
    use super::super::{ISSUES, QueryGenerator, Rng, fill, transaction};
    use super::*;

    #[test]
    fn a_failure_shrinks_to_its_cause() {
        // The "failure": a comment is deleted while a query reads comments.
        fn fails(case: &Case) -> bool {
            let deletes = case
                .transactions
                .iter()
                .flatten()
                .any(|operation| matches!(operation, Operation::Delete { table, .. } if &**table == "comment"));
            deletes && case.ast.to_json().to_string().contains("\"comment\"")
        }
        let mut shrunk = 0;
        for seed in 0..40 {
            let mut rng = Rng::new(seed);
            let database = fill(&ISSUES, &mut rng);
            let ast = QueryGenerator::new(&ISSUES, &database, rng.fork()).query();
            let mut state = database.clone();
            let mut transactions = Vec::new();
            for _ in 0..20 {
                let transaction = transaction(&ISSUES, &state, &mut rng);
                state.apply(&transaction);
                transactions.push(transaction);
            }
            let case = Case { data: &ISSUES, database, ast, transactions };
            if !fails(&case) {
                continue;
            }
            let small = shrink(case, &mut fails);
            assert!(fails(&small));
            assert!(small.transactions.len() <= 2 && small.transactions.iter().map(Vec::len).sum::<usize>() <= 2);
            assert!(small.ast.r#where.is_none() || small.ast.related.is_empty());
            shrunk += 1;
        }
        assert!(shrunk > 3, "the seeds make such cases");
    }
}
