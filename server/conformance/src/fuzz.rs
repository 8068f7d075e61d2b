//! Random queries and transactions over the data sets, on every backend against the naive evaluator.
//!
//! A round has a number, from which all that it does follows: its data set, its query, its transactions. Backends run
//! rounds beside each other, each as many as it can in the time. A backend whose clients hold rows is judged by those
//! rows, since a client cannot tell by itself what a NOT EXISTS is true for; the others by their answer. What fails is
//! shrunk and printed as a case.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::ProgressBar;
use testdata::world::{self, QueryGenerator, Rng, definition, shrink, transaction};
use zql_spec::conformance::{
    Backend, BackendError, DataSet, Naive, Outcome, Query, Reply, check_held, check_rows, print_operation,
};
use zql_spec::format::Format;
use zql_spec::naive::{Database, Evaluation, Transaction};

use crate::lanes::{CaseResult, Subject};
use crate::suite::Suite;

/// Transactions of a round.
const TRANSACTIONS: usize = 4;

/// How long a failure is shrunk at most.
const SHRINKING: Duration = Duration::from_secs(60);

/// What a round does.
struct Round {
    data: Arc<DataSet>,
    query: Query,
    transactions: Vec<Transaction>,
}

impl Round {
    fn new(suite: &Suite, number: u64) -> Round {
        let mut rng = Rng::new(number);
        let data = Arc::clone(rng.pick(&suite.data));
        let definition = definition(&data);
        let mut generator = QueryGenerator::new(definition, &data.database, rng.fork());
        let ast = loop {
            let ast = generator.query();
            if Evaluation::new(&data.database, &ast).is_ok() {
                break ast;
            }
        };
        let mut state = data.database.clone();
        let transactions = (0..TRANSACTIONS).map(|_| {
            let transaction = transaction(definition, &state, &mut rng);
            state.apply(&transaction);
            transaction
        });
        let transactions = transactions.collect();
        Round { data, query: Query::new(ast, Format::default()), transactions }
    }

    /// Runs it on a backend.
    fn run(&self, backend: &mut dyn Backend) -> Result<Outcome, BackendError> {
        let outcome = self.steps(backend);
        let ended = backend.end();
        let outcome = outcome?;
        ended.map(|()| outcome)
    }

    fn steps(&self, backend: &mut dyn Backend) -> Result<Outcome, BackendError> {
        let mut naive = Naive::default();
        let mut database = self.data.database.clone();
        let expected = naive.begin(&self.data, &self.query)?;
        let found = backend.begin(&self.data, &self.query)?;
        if let Some(outcome) = self.judge("at first", &expected, found, &database, backend) {
            return Ok(outcome);
        }
        for (number, transaction) in self.transactions.iter().enumerate() {
            database.apply(transaction);
            let expected = naive.step(transaction, &database)?;
            let found = backend.step(transaction, &database)?;
            let when = format!("after transaction {}", number + 1);
            if let Some(outcome) = self.judge(&when, &expected, found, &database, backend) {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Passed)
    }

    /// How the round ends here, if it does.
    fn judge(
        &self,
        when: &str,
        expected: &Reply,
        found: Reply,
        database: &Database,
        backend: &dyn Backend,
    ) -> Option<Outcome> {
        let tree = match found {
            Reply::Answer(tree) => tree,
            Reply::Skipped(why) => return Some(Outcome::Skipped(why)),
            Reply::Refused(text) => return Some(Outcome::Failed(format!("{when}: refused with {text:?}"))),
        };
        let checked = match (backend.held(), expected) {
            (Some(held), _) => check_held(&self.query, database, &held),
            (None, Reply::Answer(expected)) if tree.lines() != expected.lines() => Err(format!(
                "rows:\n    {}\n  instead of:\n    {}",
                tree.lines().join("\n    "),
                expected.lines().join("\n    ")
            )),
            (None, _) => check_rows(&tree, database),
        };
        checked.err().map(|what| Outcome::Failed(format!("{when}: {what}")))
    }

    /// The round as a case.
    fn print(&self, number: u64) -> String {
        let mut out = format!("data {}\n\ncase seed {number}\n  {}\n", self.data.name, self.query.ast.to_json());
        for transaction in &self.transactions {
            out.push_str("transaction\n");
            for operation in transaction {
                let _ = writeln!(out, "  {}", print_operation(operation, &self.data));
            }
        }
        out
    }

    /// A smaller round that fails too.
    fn shrunk(self, backend: &mut dyn Backend) -> Round {
        let until = Instant::now() + SHRINKING;
        let case = world::Case {
            data: definition(&self.data),
            database: self.data.database.clone(),
            ast: self.query.ast.clone(),
            transactions: self.transactions.clone(),
        };
        let round = |case: &world::Case| Round {
            data: Arc::clone(&self.data),
            query: Query::new(case.ast.clone(), Format::default()),
            transactions: case.transactions.clone(),
        };
        let small = shrink(case, &mut |case| {
            // The rows before any transaction are the data set's.
            case.database.tables == self.data.database.tables
                && Instant::now() < until
                && Evaluation::new(&case.database, &case.ast).is_ok()
                && matches!(round(case).run(backend), Ok(Outcome::Failed(_)))
        });
        round(&small)
    }
}

/// Runs rounds on all subjects for a time. The first failure of a subject ends its rounds.
///
/// # Errors
/// When a backend cannot be made.
pub(crate) fn fuzz(
    suite: &Suite,
    subjects: &[Subject<'_>],
    seed: u64,
    time: Duration,
    progress: &ProgressBar,
) -> Result<Vec<CaseResult>> {
    let until = Instant::now() + time;
    progress.set_length(time.as_secs());
    let results = Mutex::new(Vec::new());
    let work = |subject: &Subject<'_>| -> Result<()> {
        let ran = rounds(suite, &|lane| subject.backend(lane, 0), seed, &mut |_| {
            progress.set_position(time.as_secs().saturating_sub((until - Instant::now()).as_secs()));
            Instant::now() < until
        })?;
        results.lock().unwrap_or_else(PoisonError::into_inner).extend(ran);
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = subjects.iter().map(|subject| scope.spawn(|| work(subject))).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a backend panicked; its message is above")))
        })
    })?;
    Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Runs rounds on one backend from a seed on, as long as `go_on` says of how many there were, or until one fails. That one
/// is shrunk on a backend of its own.
fn rounds(
    suite: &Suite,
    backend: &dyn Fn(&str) -> Result<Box<dyn Backend>>,
    seed: u64,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<CaseResult>> {
    let mut asked = backend("fuzz")?;
    let mut results = Vec::new();
    let mut number = seed;
    while go_on(results.len()) {
        let begun = Instant::now();
        let round = Round::new(suite, number);
        let mut outcome = round.run(asked.as_mut()).unwrap_or_else(|error| Outcome::Failed(error.to_string()));
        let failed = matches!(outcome, Outcome::Failed(_));
        if let Outcome::Failed(what) = outcome {
            let mut backend = backend("shrink")?;
            let small = round.shrunk(backend.as_mut());
            let what = match small.run(backend.as_mut()) {
                Ok(Outcome::Failed(what)) => what,
                _ => format!("only in company: {what}"),
            };
            outcome = Outcome::Failed(format!("{what}\n\n{}", small.print(number)));
        }
        results.push(CaseResult {
            backend: asked.name().to_owned(),
            file: "fuzz".to_owned(),
            case: format!("--seed {number}"),
            line: 0,
            outcome,
            seconds: begun.elapsed().as_secs_f64(),
        });
        if failed {
            break;
        }
        number = number.wrapping_add(1);
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use zql_spec::conformance::{CaseFile, complete, run};
    use zql_spec::naive::Operation;

    use super::*;

    /// An evaluator that loses the first row of every answer once something was inserted.
    #[derive(Default)]
    struct Forgetful {
        naive: Naive,
        inserted: bool,
    }

    impl Forgetful {
        fn forget(&self, reply: Reply) -> Reply {
            match reply {
                Reply::Answer(mut tree) if self.inserted && !tree.rows.is_empty() => {
                    tree.rows.remove(0);
                    Reply::Answer(tree)
                }
                reply => reply,
            }
        }
    }

    impl Backend for Forgetful {
        fn name(&self) -> &str {
            "forgetful"
        }

        fn begin(&mut self, data: &Arc<DataSet>, query: &Query) -> Result<Reply, BackendError> {
            self.inserted = false;
            self.naive.begin(data, query)
        }

        fn step(&mut self, transaction: &[Operation], after: &Database) -> Result<Reply, BackendError> {
            self.inserted |= transaction.iter().any(|operation| matches!(operation, Operation::Insert { .. }));
            let reply = self.naive.step(transaction, after)?;
            Ok(self.forget(reply))
        }

        fn end(&mut self) -> Result<(), BackendError> {
            self.naive.end()
        }
    }

    #[test]
    fn what_fails_is_shrunk_and_printed_as_a_case() {
        let suite = Suite::built_in().unwrap();
        let results = rounds(&suite, &|_| Ok(Box::<Forgetful>::default()), 1, &mut |rounds| rounds < 100).unwrap();
        let (last, before) = results.split_last().unwrap();
        assert!(before.iter().all(|result| result.outcome == Outcome::Passed));
        let Outcome::Failed(what) = &last.outcome else { panic!("no round failed") };
        let (what, case) = what.split_once("\n\n").unwrap();
        assert!(what.starts_with("after transaction 1: rows:\n"), "{what}");
        // One insert is left of the transactions (beside the delete without which it cannot be), and of the query what it
        // cannot do without.
        let mut file = CaseFile::parse(case).unwrap();
        let data = Arc::clone(suite.data(&file.data).unwrap());
        let case = &mut file.cases[0];
        assert_eq!(format!("--{}", case.name), last.case);
        let operations: Vec<&String> = case.steps.iter().flat_map(|step| &step.operations).collect();
        let kinds: Vec<&str> = operations.iter().filter_map(|operation| operation.split(' ').next()).collect();
        assert!(matches!(kinds[..], ["insert"] | ["delete", "insert"]), "{operations:?}");
        assert!(!case.query.contains("where") && !case.query.contains("related"), "{}", case.query);
        // Filled in, it tells the wrong backend from a right one.
        complete(case, &data).unwrap();
        assert_eq!(run(case, &data, &mut Naive::default()), Ok(Outcome::Passed));
        assert!(matches!(run(case, &data, &mut Forgetful::default()), Ok(Outcome::Failed(_))));
    }
}
