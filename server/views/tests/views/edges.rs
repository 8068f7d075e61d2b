//! What happens when hydrations fail, panic or come late, when tables are rewritten and schemas change,
//! and when nobody listens any more.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use engine::hydration::HydrateError;
use engine::query::{Filter, Query};
use engine::replica::{ColumnSpec, IndexSpec, Origin, Replica, SqliteValue, TableSpec, Writer};
use parking_lot::{Condvar, Mutex};
use views::{Event, HydrateFailure, Options, Views};
use zql_spec::ast::{Ast, Condition, Direction, Literal, SimpleOperator, ValuePosition};
use zql_spec::value::Value;

use super::group::Group;
use super::hydrator::Nested;

struct Fixture {
    _folder: tempfile::TempDir,
    replica: Arc<Replica>,
    writer: Writer,
    views: Views,
    gate: Arc<Gate>,
    step: usize,
}

/// Holds hydrations of some kinds up, and counts all.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    hydrations: AtomicUsize,
}

impl Gate {
    fn set(&self, closed: bool) {
        *self.closed.lock() = closed;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut closed = self.closed.lock();
        while *closed {
            self.opened.wait(&mut closed);
        }
    }
}

/// `kind = n`; the number tells the hydrator what to do.
fn query(replica: &Replica, kind: f64) -> Arc<Query> {
    let ast = Ast {
        table: Arc::from("item"),
        r#where: Some(Condition::Simple {
            op: SimpleOperator::Eq,
            left: ValuePosition::Column(Arc::from("kind")),
            right: ValuePosition::Literal(Literal::Value(Value::Number(kind))),
        }),
        ..Ast::default()
    };
    Arc::new(Query::resolve(&ast, &replica.schema()).unwrap())
}

/// Hydrates and advances.
const PLAIN: f64 = 1.0;
/// The hydration panics.
const PANICS: f64 = 2.0;
/// The hydration is refused.
const REFUSED: f64 = 3.0;
/// The hydration waits at the gate after it has read.
const LATE: f64 = 4.0;

fn kind_of(query: &Query) -> f64 {
    match &query.root().filter {
        Filter::Compare(comparison) => match comparison.literal {
            Literal::Value(Value::Number(kind)) => kind,
            _ => 0.0,
        },
        _ => 0.0,
    }
}

impl Fixture {
    fn new(linger: Duration) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let origin = Origin { replica_version: "00".to_owned(), publications: Vec::new(), context: "{}".to_owned() };
        let mut load = Replica::create(&folder.path().join("replica.db"), &origin).unwrap();
        let column = ColumnSpec::from_declared;
        load.create_table(&TableSpec {
            name: "item".to_owned(),
            columns: vec![column("id", "int4|NOT_NULL"), column("kind", "int4"), column("text", "text")],
            ..TableSpec::default()
        })
        .unwrap();
        load.create_index(&IndexSpec {
            name: "item_id".to_owned(),
            table: "item".to_owned(),
            unique: true,
            columns: vec![("id".to_owned(), Direction::Asc)],
        })
        .unwrap();
        let replica = load.finish().unwrap();
        let gate = Arc::new(Gate::default());
        let held = Arc::clone(&gate);
        let around = move |query: &Query, after: bool| {
            if !after {
                held.hydrations.fetch_add(1, Ordering::SeqCst);
            }
            match kind_of(query) {
                PANICS => panic!("as asked"),
                REFUSED => return Err(HydrateError::Query("no such thing".to_owned())),
                LATE if after => held.pass(),
                _ => {}
            }
            Ok(())
        };
        let options = Options { hydration_threads: NonZeroUsize::new(2).unwrap(), linger, late_rows: 1_000 };
        let views = Views::start(Arc::clone(&replica), Arc::new(Nested { around }), options).unwrap();
        let writer = replica.writer().unwrap();
        Fixture { _folder: folder, replica, writer, views, gate, step: 0 }
    }

    /// Upserts an item and tells the views.
    fn write(&mut self, id: i64, kind: f64, text: &str) {
        self.commit(|tx| {
            let relation = tx.relation("item", &["id", "kind", "text"], &["id"]).unwrap();
            let row = [SqliteValue::Integer(id), SqliteValue::Integer(kind as i64), SqliteValue::Text(text.to_owned())];
            tx.insert(&relation, &row).unwrap();
        });
    }

    fn commit(&mut self, write: impl FnOnce(&mut engine::replica::Tx<'_>)) {
        self.step += 1;
        let mut tx = self.writer.begin(&format!("1{:05}", self.step)).unwrap();
        write(&mut tx);
        let commit = tx.commit().unwrap();
        self.views.committed(Arc::new(commit)).unwrap();
    }

    fn hydrations(&self) -> usize {
        self.gate.hydrations.load(Ordering::SeqCst)
    }
}

fn texts(group: &Group, name: &str) -> BTreeSet<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.to_string(),
        value => panic!("{value:?}"),
    };
    group.answers[name].values().map(|(_, row)| text(&row.values[2])).collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn block_on(run: impl AsyncFnOnce()) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run());
}

#[test]
fn a_failing_query_fails_alone() {
    block_on(async || {
        let mut fixture = Fixture::new(Duration::ZERO);
        let mut group = Group::new(&fixture.views);
        for (name, kind) in [("panics", PANICS), ("refused", REFUSED), ("plain", PLAIN)] {
            group.subscribe(name, &query(&fixture.replica, kind));
        }
        group.settle().await;
        assert!(matches!(&group.failures["panics"], HydrateFailure::Internal(text) if text.contains("as asked")));
        assert!(matches!(&group.failures["refused"], HydrateFailure::Query(text) if &**text == "no such thing"));
        fixture.write(1, PLAIN, "a");
        assert!(matches!(group.next().await, Event::Advanced { .. }));
        assert_eq!(texts(&group, "plain"), set(&["a"]));
    });
}

#[test]
fn a_late_hydration_is_brought_up_to_date() {
    block_on(async || {
        let mut fixture = Fixture::new(Duration::ZERO);
        fixture.write(1, LATE, "a");
        fixture.write(2, LATE, "b");
        fixture.gate.set(true);
        let mut group = Group::new(&fixture.views);
        group.subscribe("late", &query(&fixture.replica, LATE));
        while fixture.hydrations() == 0 {
            std::thread::yield_now();
        }
        // The hydration does not stand in front of other queries.
        let mut other = Group::new(&fixture.views);
        other.subscribe("plain", &query(&fixture.replica, PLAIN));
        other.settle().await;
        fixture.write(3, LATE, "c");
        fixture.write(1, LATE, "a2");
        fixture.write(2, PLAIN, "moved");
        while texts(&other, "plain") != set(&["moved"]) {
            other.next().await;
        }
        assert!(group.mailbox.try_recv().is_none());
        fixture.gate.set(false);
        group.settle().await;
        assert_eq!(texts(&group, "late"), set(&["a2", "c"]));
        assert_eq!(&*group.version, "100005");
    });
}

#[test]
fn equal_queries_share_a_graph_that_lingers() {
    block_on(async || {
        let mut fixture = Fixture::new(Duration::from_secs(3600));
        let (mut first, mut second) = (Group::new(&fixture.views), Group::new(&fixture.views));
        first.subscribe("q", &query(&fixture.replica, PLAIN));
        first.settle().await;
        fixture.write(1, PLAIN, "a");
        second.subscribe("r", &query(&fixture.replica, PLAIN));
        second.settle().await;
        assert_eq!(texts(&second, "r"), set(&["a"]), "a late subscriber gets the rows as they are now");
        first.next().await;
        fixture.write(2, PLAIN, "b");
        for (group, name) in [(&mut first, "q"), (&mut second, "r")] {
            group.next().await;
            assert_eq!(texts(group, name), set(&["a", "b"]));
        }
        drop((first, second));
        fixture.write(3, PLAIN, "c");
        let mut third = Group::new(&fixture.views);
        third.subscribe("q", &query(&fixture.replica, PLAIN));
        third.settle().await;
        assert_eq!(texts(&third, "q"), set(&["a", "b", "c"]));
        assert_eq!(fixture.hydrations(), 1);
        assert_eq!(fixture.views.metrics().graphs, 1);
    });
}

#[test]
fn a_mailbox_that_is_not_read_holds_the_sum() {
    block_on(async || {
        let mut fixture = Fixture::new(Duration::ZERO);
        let mut group = Group::new(&fixture.views);
        group.subscribe("q", &query(&fixture.replica, PLAIN));
        group.settle().await;
        for step in 0..50 {
            fixture.write(step % 5, PLAIN, &step.to_string());
        }
        // Another group's answer marks the end.
        let mut end = Group::new(&fixture.views);
        end.subscribe("end", &query(&fixture.replica, 9.0));
        end.settle().await;
        group.next().await;
        assert!(group.mailbox.try_recv().is_none(), "fifty commits are one event");
        assert_eq!(texts(&group, "q"), set(&["45", "46", "47", "48", "49"]));
    });
}

#[test]
fn rewritten_tables_are_hydrated_again() {
    block_on(async || {
        let mut fixture = Fixture::new(Duration::ZERO);
        fixture.write(1, PLAIN, "a");
        fixture.write(2, PLAIN, "b");
        let mut group = Group::new(&fixture.views);
        group.subscribe("q", &query(&fixture.replica, PLAIN));
        group.subscribe("none", &query(&fixture.replica, 9.0));
        group.settle().await;
        fixture.commit(|tx| {
            tx.truncate("item").unwrap();
            let relation = tx.relation("item", &["id", "kind", "text"], &["id"]).unwrap();
            for (id, text) in [(2, "b"), (3, "c")] {
                let row = [SqliteValue::Integer(id), SqliteValue::Integer(1), SqliteValue::Text(text.to_owned())];
                tx.insert(&relation, &row).unwrap();
            }
        });
        let event = group.next().await;
        let Event::Advanced { deltas, .. } = event else { panic!("{event:?}") };
        assert_eq!(deltas.len(), 1, "only what changed is told");
        assert_eq!(texts(&group, "q"), set(&["b", "c"]));
        fixture.write(4, PLAIN, "d");
        group.next().await;
        assert_eq!(texts(&group, "q"), set(&["b", "c", "d"]));
    });
}

#[test]
fn a_value_that_clients_cannot_have_fails_the_queries_that_read_it() {
    block_on(async || {
        let mut fixture = Fixture::new(Duration::ZERO);
        let mut group = Group::new(&fixture.views);
        group.subscribe("q", &query(&fixture.replica, PLAIN));
        group.subscribe("other", &query(&fixture.replica, 9.0));
        group.settle().await;
        fixture.write(1 << 54, PLAIN, "too large");
        group.next().await;
        assert!(matches!(&group.failures["q"], HydrateFailure::Query(text) if text.contains("item.id")));
        fixture.write(1, 9.0, "a");
        while texts(&group, "other") != set(&["a"]) {
            group.next().await;
        }
    });
}

#[test]
fn a_schema_change_ends_all_subscriptions() {
    block_on(async || {
        let mut fixture = Fixture::new(Duration::ZERO);
        let mut group = Group::new(&fixture.views);
        group.subscribe("q", &query(&fixture.replica, PLAIN));
        group.settle().await;
        fixture.commit(|tx| tx.add_column("item", &ColumnSpec::from_declared("more", "text")).unwrap());
        let event = group.next().await;
        let Event::SchemaChanged { schema, .. } = event else { panic!("{event:?}") };
        assert!(schema.table("item").unwrap().column_index("more").is_some());
        group.subscribe("q", &query(&fixture.replica, PLAIN));
        group.settle().await;
        fixture.write(1, PLAIN, "a");
        group.next().await;
        assert_eq!(texts(&group, "q"), set(&["a"]));
    });
}
