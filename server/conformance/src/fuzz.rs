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
use testdata::world::{self, QueryGenerator, Rng, shrink, transaction};
use zql_spec::conformance::{
    Backend, BackendError, DataSet, Naive, Outcome, Query, Reply, check_held, check_rows, print_operation,
};
use zql_spec::format::Format;
use zql_spec::naive::{Database, Evaluation, Transaction};

use crate::definition::definition;
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
        Round { data, query: Query { ast, format: Format::default() }, transactions }
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
            query: Query { ast: case.ast.clone(), format: Format::default() },
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
    let results = Mutex::new(Vec::new());
    let work = |subject: &Subject<'_>| -> Result<()> {
        let mut backend = subject.backend("fuzz", 0)?;
        let mut number = seed;
        while Instant::now() < until {
            let begun = Instant::now();
            let round = Round::new(suite, number);
            let mut outcome = round.run(backend.as_mut()).unwrap_or_else(|error| Outcome::Failed(error.to_string()));
            if let Outcome::Failed(what) = &outcome {
                let mut backend = subject.backend("shrink", 0)?;
                let small = round.shrunk(backend.as_mut());
                let again = small.run(backend.as_mut());
                let what = match again {
                    Ok(Outcome::Failed(what)) => what,
                    _ => format!("only in company: {what}"),
                };
                outcome = Outcome::Failed(format!("{what}\n\n{}", small.print(number)));
            }
            let failed = matches!(outcome, Outcome::Failed(_));
            results.lock().unwrap_or_else(PoisonError::into_inner).push(CaseResult {
                backend: backend.name().to_owned(),
                file: "fuzz".to_owned(),
                case: format!("--seed {number}"),
                line: 0,
                outcome,
                seconds: begun.elapsed().as_secs_f64(),
            });
            progress.set_position((time.as_secs()).saturating_sub((until - Instant::now()).as_secs()));
            if failed {
                break;
            }
            number = number.wrapping_add(1);
        }
        Ok(())
    };
    progress.set_length(time.as_secs());
    std::thread::scope(|scope| {
        let workers: Vec<_> = subjects.iter().map(|subject| scope.spawn(|| work(subject))).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a backend panicked; its message is above")))
        })
    })?;
    Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner))
}
