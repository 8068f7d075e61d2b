//! The replica over real files.

mod changelog;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::Value as Lite;
use zql_spec::ast::Direction;
use zql_spec::schema::ValueType;
use zql_spec::value::Value;

use super::*;
use crate::commit::{Commit, Key, RowChange};

fn column(name: &str, declared: &str) -> ColumnSpec {
    ColumnSpec::from_declared(name, declared)
}

fn unique(table: &str, columns: &[&str]) -> IndexSpec {
    IndexSpec {
        name: format!("{table}_{}", columns.join("_")),
        table: table.to_owned(),
        unique: true,
        columns: columns.iter().map(|&column| (column.to_owned(), Direction::Asc)).collect(),
    }
}

fn issues() -> TableSpec {
    TableSpec {
        name: "issue".to_owned(),
        columns: vec![
            column("id", "int8|NOT_NULL"),
            column("slug", "text|NOT_NULL"),
            column("open", "bool"),
            column("meta", "jsonb"),
            column("blob", "bytea"),
            column("at", "timestamptz"),
            column("uid", "uuid"),
        ],
        ..TableSpec::default()
    }
}

fn row(id: i64, slug: &str) -> Vec<Lite> {
    vec![
        Lite::Integer(id),
        Lite::Text(slug.to_owned()),
        Lite::Integer(1),
        Lite::Text(format!("{{\"n\":{id}}}")),
        Lite::Blob(vec![1, 2]),
        Lite::Real(1.5),
        Lite::Null,
    ]
}

fn load(path: &Path, rows: &[Vec<Lite>]) -> Arc<Replica> {
    let origin =
        Origin { replica_version: "01".to_owned(), publications: vec!["p".to_owned()], context: "{}".to_owned() };
    let mut load = Replica::create(path, &origin).unwrap();
    let table = load.create_table(&issues()).unwrap();
    for rows in rows.chunks(100) {
        load.append(table, &mut rows.concat()).unwrap();
    }
    load.create_index(&unique("issue", &["id"])).unwrap();
    load.create_index(&unique("issue", &["slug"])).unwrap();
    assert!(Replica::open(path).unwrap().is_none(), "nothing is there before the load is finished");
    load.finish().unwrap()
}

const COLUMNS: [&str; 7] = ["id", "slug", "open", "meta", "blob", "at", "uid"];

fn relation(tx: &mut Tx<'_>) -> Relation {
    tx.relation("issue", &COLUMNS, &["id"]).unwrap()
}

fn sent(row: Vec<Lite>) -> Vec<Option<Lite>> {
    row.into_iter().map(Some).collect()
}

fn slugs(change: &RowChange) -> (Option<String>, Option<String>) {
    let slug = |image: &Option<Arc<crate::commit::StoredRow>>| {
        image.as_ref().map(|row| match &row.values[1] {
            Value::String(slug) => slug.to_string(),
            value => panic!("{value:?}"),
        })
    };
    (slug(&change.old), slug(&change.new))
}

/// The changes of issues by id as (id, old slug, new slug).
fn changes(commit: &Commit) -> Vec<(f64, Option<String>, Option<String>)> {
    let mut changes: Vec<_> = commit
        .tables
        .get("issue")
        .into_iter()
        .flat_map(|delta| &delta.rows)
        .map(|(key, change)| {
            let Value::Number(id) = key[0] else { panic!("{key:?}") };
            let (old, new) = slugs(change);
            (id, old, new)
        })
        .collect();
    changes.sort_by(|a, b| a.0.total_cmp(&b.0));
    changes
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn stored(reader: &Reader) -> Vec<(i64, String)> {
    let mut statement = reader.prepare("SELECT id, slug FROM issue ORDER BY id").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn open(folder: &tempfile::TempDir, rows: &[Vec<Lite>]) -> Arc<Replica> {
    load(&folder.path().join("replica.db"), rows)
}

#[test]
fn a_load_opens_with_its_schema() {
    let folder = tempfile::tempdir().unwrap();
    let replica = open(&folder, &(0..1000).map(|id| row(id, &format!("s{id}"))).collect::<Vec<_>>());
    let schema = replica.schema();
    let table = schema.table("issue").unwrap();
    let types: Vec<_> = table.columns.iter().map(|column| (&*column.name, column.value_type)).collect();
    assert_eq!(
        types,
        [
            ("id", ValueType::Number),
            ("slug", ValueType::String),
            ("open", ValueType::Boolean),
            ("meta", ValueType::Json),
            ("at", ValueType::Number),
            ("uid", ValueType::String)
        ],
        "bytea is not for clients"
    );
    assert_eq!(table.primary_key, [0]);
    assert_eq!(table.unique_keys, [vec![0], vec![1]]);
    assert_eq!(&*replica.state().state_version, "01");
    let reader = replica.pin().unwrap().reader().unwrap();
    assert_eq!(stored(&reader).len(), 1000);
    assert!(replica.writer().is_ok_and(|_| true));
}

#[test]
fn writes_make_commits() {
    let folder = tempfile::tempdir().unwrap();
    let replica = open(&folder, &[row(1, "a"), row(2, "b"), row(3, "c")]);
    let mut writer = replica.writer().unwrap();
    assert!(matches!(replica.writer(), Err(ReplicaError::WriterTaken)));
    let before = replica.pin().unwrap();

    let mut tx = writer.begin("02").unwrap();
    let relation = relation(&mut tx);
    tx.insert(&relation, &row(4, "d")).unwrap();
    let mut update = sent(row(1, "a2"));
    update[3] = None;
    tx.update(&relation, None, &update).unwrap();
    tx.update(&relation, Some(&[Lite::Integer(2)]), &sent(row(20, "b"))).unwrap();
    tx.delete(&relation, &[Lite::Integer(3)]).unwrap();
    tx.insert(&relation, &row(5, "gone")).unwrap();
    tx.delete(&relation, &[Lite::Integer(5)]).unwrap();
    // An update of a row that is not there inserts it.
    tx.update(&relation, None, &sent(row(6, "f"))).unwrap();
    let commit = tx.commit().unwrap();

    assert_eq!((&*commit.base, &*commit.version), ("01", "02"));
    assert_eq!(
        changes(&commit),
        [
            (1.0, text("a"), text("a2")),
            (2.0, text("b"), None),
            (3.0, text("c"), None),
            (4.0, None, text("d")),
            (6.0, None, text("f")),
            (20.0, None, text("b")),
        ]
    );
    let change = &commit.tables["issue"].rows[&Key::from_iter([Value::Number(1.0)])];
    let (old, new) = (change.old.as_ref().unwrap(), change.new.as_ref().unwrap());
    assert_eq!((&*old.version, &*new.version), ("01", "02"));
    assert_eq!(new.values[3], Value::Json(Arc::from("{\"n\":1}")), "an unchanged column keeps its value");

    let after = replica.pin().unwrap();
    assert_eq!(&*after.version, "02");
    let reader = after.reader().unwrap();
    let expected: Vec<(i64, String)> =
        [(1, "a2"), (4, "d"), (6, "f"), (20, "b")].map(|(id, slug)| (id, slug.to_owned())).into();
    assert_eq!(stored(&reader), expected);
    // The image in the commit is the image in the file.
    let table = after.schema.table("issue").unwrap();
    let image = after.codec(table);
    let read = reader
        .query_row("SELECT id, slug, open, meta, at, uid, _0_version FROM issue WHERE id = 1", [], |row| {
            Ok(image.decode(row, 0).unwrap())
        })
        .unwrap();
    assert_eq!(read, *new);

    // The older pin still reads its own version, also through connections that join later.
    let (first, second) = (before.reader().unwrap(), before.reader().unwrap());
    for reader in [&first, &second] {
        assert_eq!(stored(reader).len(), 3);
    }
}

#[test]
fn unique_values_may_move_between_rows() {
    let folder = tempfile::tempdir().unwrap();
    let replica = open(&folder, &[row(1, "a"), row(2, "b"), row(3, "c")]);
    let mut writer = replica.writer().unwrap();

    // A secondary unique value swapped.
    let mut tx = writer.begin("02").unwrap();
    let rel = relation(&mut tx);
    tx.update(&rel, None, &sent(row(1, "b"))).unwrap();
    tx.update(&rel, None, &sent(row(2, "a"))).unwrap();
    let commit = tx.commit().unwrap();
    assert_eq!(changes(&commit), [(1.0, text("a"), text("b")), (2.0, text("b"), text("a"))]);

    // Keys shifted upwards, as a deferred constraint allows.
    let mut tx = writer.begin("03").unwrap();
    for id in 1..=3 {
        let slug = ["b", "a", "c"][id as usize - 1];
        tx.update(&rel, Some(&[Lite::Integer(id)]), &sent(row(id + 1, slug))).unwrap();
    }
    let commit = tx.commit().unwrap();
    assert_eq!(
        changes(&commit),
        [(1.0, text("b"), None), (2.0, text("a"), text("b")), (3.0, text("c"), text("a")), (4.0, None, text("c"))]
    );

    // An insert of a key and another row's unique value replaces both, if they do not move away.
    let mut tx = writer.begin("04").unwrap();
    tx.insert(&rel, &row(2, "a")).unwrap();
    let commit = tx.commit().unwrap();
    assert_eq!(changes(&commit), [(2.0, text("b"), text("a")), (3.0, text("a"), None)]);

    // A row stands aside and is deleted; another takes its key.
    let mut tx = writer.begin("05").unwrap();
    tx.insert(&rel, &row(4, "d")).unwrap();
    tx.delete(&rel, &[Lite::Integer(4)]).unwrap();
    let commit = tx.commit().unwrap();
    assert_eq!(changes(&commit), [(4.0, text("c"), text("d"))]);
    let reader = replica.pin().unwrap().reader().unwrap();
    assert_eq!(stored(&reader), [(2, "a".to_owned()), (4, "d".to_owned())]);
}

#[test]
fn values_that_clients_cannot_have_do_not_stop_the_stream() {
    let folder = tempfile::tempdir().unwrap();
    let replica = open(&folder, &[row(1, "a")]);
    let mut writer = replica.writer().unwrap();
    let mut tx = writer.begin("02").unwrap();
    let rel = relation(&mut tx);
    tx.insert(&rel, &row((1 << 53) + 1, "big")).unwrap();
    let commit = tx.commit().unwrap();
    assert!(commit.rewritten.contains("issue") && commit.tables.is_empty());
    let snapshot = replica.pin().unwrap();
    let reader = snapshot.reader().unwrap();
    let codec = snapshot.codec(snapshot.schema.table("issue").unwrap());
    let error = reader
        .query_row("SELECT id, slug, open, meta, at, uid, _0_version FROM issue WHERE id > 1", [], |row| {
            let error = codec.decode(row, 0).unwrap_err().to_string();
            assert_eq!(codec.current(row, 0).each(|_, _| ()).unwrap_err().to_string(), error);
            Ok(error)
        })
        .unwrap();
    assert_eq!(error, "value 9007199254740993 (in issue.id) is outside of supported bounds");
}

#[test]
fn text_that_sqlite_stores_as_a_number_reads_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let replica = open(&folder, &[]);
    let mut writer = replica.writer().unwrap();
    let mut tx = writer.begin("02").unwrap();
    let rel = relation(&mut tx);
    let mut values = row(1, "123");
    values[3] = Lite::Text("1.50".to_owned());
    values[6] = Lite::Text("42".to_owned());
    tx.insert(&rel, &values).unwrap();
    let commit = tx.commit().unwrap();
    let change = &commit.tables["issue"].rows[&Key::from_iter([Value::Number(1.0)])];
    let new = change.new.as_ref().unwrap();
    assert_eq!(new.values[1], Value::string("123"));
    assert_eq!(new.values[3], Value::Json(Arc::from("1.5")));
    assert_eq!(new.values[5], Value::string("42"));
    drop(writer);

    // Read from the file, kept or only looked at.
    let snapshot = replica.pin().unwrap();
    let codec = snapshot.codec(snapshot.schema.table("issue").unwrap());
    let select = "SELECT id, slug, open, meta, at, uid, _0_version FROM issue";
    let reader = snapshot.reader().unwrap();
    let read = |row: &rusqlite::Row<'_>| {
        let (current, mut seen) = (codec.current(row, 0), Vec::new());
        current.each(|column, value| seen.push((column, Value::from(value)))).unwrap();
        Ok((seen, current.decode().unwrap()))
    };
    let (seen, kept) = reader.query_row(select, [], read).unwrap();
    assert_eq!(&kept, new);
    assert_eq!(seen, new.values.iter().cloned().enumerate().collect::<Vec<_>>());
}

#[test]
fn schema_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replica.db");
    let replica = load(&path, &[row(1, "a")]);
    let before = replica.pin().unwrap();
    let mut writer = replica.writer().unwrap();

    let mut tx = writer.begin("02").unwrap();
    let stale = relation(&mut tx);
    tx.insert(&stale, &row(2, "b")).unwrap();
    let mut added = column("rank", "int4");
    added.default = Some("7".to_owned());
    tx.add_column("issue", &added).unwrap();
    assert!(tx.insert(&stale, &row(3, "c")).is_err(), "names are resolved anew after a schema change");
    tx.update_column("issue", "slug", &column("name", "varchar|NOT_NULL")).unwrap();
    tx.drop_column("issue", "at").unwrap();
    tx.create_table(&TableSpec {
        name: "other.thing".to_owned(),
        columns: vec![column("k", "text|NOT_NULL")],
        ..TableSpec::default()
    })
    .unwrap();
    tx.create_index(&unique("other.thing", &["k"])).unwrap();
    let commit = tx.commit().unwrap();
    assert!(commit.schema_changed && commit.tables.is_empty());

    let after = replica.pin().unwrap();
    let issue = after.schema.table("issue").unwrap();
    let names: Vec<&str> = issue.columns.iter().map(|column| &*column.name).collect();
    assert_eq!(names, ["id", "name", "open", "meta", "uid", "rank"]);
    assert_eq!(issue.unique_keys, [vec![0], vec![1]], "indexes survive a change of type");
    assert!(after.schema.table("other.thing").is_some());
    assert!(before.schema.table("issue").unwrap().column_index("slug").is_some());
    let codec = after.codec(issue);
    let reader = after.reader().unwrap();
    let read = reader
        .query_row("SELECT id, name, open, meta, uid, rank, _0_version FROM issue WHERE id = 1", [], |row| {
            Ok(codec.decode(row, 0).unwrap())
        })
        .unwrap();
    assert_eq!((&read.values[5], &*read.version), (&Value::Number(7.0), "02"), "old rows count as written now");

    // What does not concern queries changes nothing for them.
    let mut tx = writer.begin("03").unwrap();
    let mut index = unique("issue", &["rank"]);
    index.unique = false;
    tx.create_index(&index).unwrap();
    assert!(!tx.commit().unwrap().schema_changed);
    // A rolled-back change leaves nothing.
    let mut tx = writer.begin("04").unwrap();
    tx.drop_table("issue").unwrap();
    drop(tx);
    let mut tx = writer.begin("04").unwrap();
    assert!(tx.relation("issue", &["id"], &["id"]).is_ok());
    tx.rename_table("issue", &TableSpec { name: "task".to_owned(), ..TableSpec::default() }).unwrap();
    tx.commit().unwrap();
    assert!(replica.schema().table("task").is_some() && replica.schema().table("issue").is_none());

    drop(codec);
    drop((reader, before, after, writer, replica));
    let replica = Replica::open(&path).unwrap().unwrap();
    assert!(replica.schema().table("task").is_some());
    assert_eq!(&*replica.state().state_version, "04");
}

#[test]
fn truncate_names_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let replica = open(&folder, &[row(1, "a")]);
    let mut writer = replica.writer().unwrap();
    let mut tx = writer.begin("02").unwrap();
    let rel = relation(&mut tx);
    tx.insert(&rel, &row(2, "b")).unwrap();
    tx.truncate("issue").unwrap();
    tx.insert(&rel, &row(3, "c")).unwrap();
    let commit = tx.commit().unwrap();
    assert!(commit.rewritten.contains("issue") && commit.tables.is_empty());
    let reader = replica.pin().unwrap().reader().unwrap();
    assert_eq!(stored(&reader), [(3, "c".to_owned())]);
}

#[test]
fn the_log_is_bounded_while_readers_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let replica = open(&folder, &[]);
    let mut writer = replica.writer().unwrap();
    let (soft, hard) = (64, 256);
    writer.upkeep.bounds = super::wal::LogBounds { soft, hard, grace: Duration::from_millis(50) };
    // A reader that never lets go, and one that always holds a pin but moves on.
    let stuck = replica.pin().unwrap();
    drop(stuck.reader().unwrap());
    let mut moving = replica.pin().unwrap();
    let mut longest = 0;
    for n in 0..300_i64 {
        let mut tx = writer.begin(&format!("1{n:04}")).unwrap();
        let rel = relation(&mut tx);
        for k in 0..20 {
            tx.insert(&rel, &row(n * 20 + k, &format!("{n}-{k}"))).unwrap();
        }
        tx.commit().unwrap();
        longest = longest.max(replica.metrics().wal_pages);
        moving = replica.pin().unwrap();
    }
    assert!(moving.reader().is_ok_and(|reader| stored(&reader).len() == 6000));
    assert!(longest < 2 * hard, "{longest} pages");
    assert!(matches!(stuck.reader(), Err(ReplicaError::PinExpired(_))));
}

#[test]
fn readers_see_one_version_while_the_writer_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let replica = open(&folder, &(0..50).map(|id| row(id, &format!("0-{id}"))).collect::<Vec<_>>());
    let done = std::sync::atomic::AtomicBool::new(false);
    // Every transaction gives all rows the number of its version; a reader must never see two numbers.
    let uniform = |reader: &Reader, version: &str| {
        let slugs = stored(reader);
        let number: i64 = version[1..].parse::<i64>().unwrap() - if version.len() > 2 { 0 } else { 1 };
        assert!(slugs.iter().all(|(id, slug)| *slug == format!("{number}-{id}")), "{version}: {slugs:?}");
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut read = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) || read == 0 {
                        let snapshot = replica.pin().unwrap();
                        let first = snapshot.reader().unwrap();
                        if read % 2 == 0 {
                            first.read_much();
                        }
                        uniform(&first, &snapshot.version);
                        match snapshot.reader() {
                            Ok(second) => uniform(&second, &snapshot.version),
                            // The log was reset under a version that was wholly checkpointed.
                            Err(error) => assert!(matches!(error, ReplicaError::PinExpired(_)), "{error}"),
                        }
                        read += 1;
                    }
                    read
                })
            })
            .collect();
        let mut writer = replica.writer().unwrap();
        // Short bounds, so that the log is reset and checkpointed often beside the readers.
        writer.upkeep.bounds = super::wal::LogBounds { soft: 50, hard: 5000, grace: Duration::from_secs(10) };
        for n in 1..=200 {
            let mut tx = writer.begin(&format!("1{n:04}")).unwrap();
            let rel = relation(&mut tx);
            for id in 0..50 {
                tx.update(&rel, None, &sent(row(id, &format!("{n}-{id}")))).unwrap();
            }
            assert_eq!(tx.commit().unwrap().row_count(), 50);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    assert_eq!(replica.metrics().pinned, 0);
}

#[test]
fn the_file_is_mapped_for_reads_of_much_until_the_version_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let replica = open(&folder, &[row(1, "a")]);
    let mapped = |reader: &Reader| -> i64 { reader.pragma_query_value(None, "mmap_size", |row| row.get(0)).unwrap() };
    let snapshot = replica.pin().unwrap();
    let reader = snapshot.reader().unwrap();
    assert_eq!(mapped(&reader), 0);
    reader.read_much();
    assert!(mapped(&reader) > 0);
    drop(reader);
    assert!(mapped(&snapshot.reader().unwrap()) > 0, "the next reader of the version has the mapping");
    drop(snapshot);
    // The pool has one connection, and gives it again.
    assert_eq!(mapped(&replica.pin().unwrap().reader().unwrap()), 0);
}

#[test]
fn commits_can_be_made_durable() {
    let folder = tempfile::tempdir().unwrap();
    let replica = open(&folder, &[row(1, "a")]);
    let mut writer = replica.writer().unwrap();
    let tx = writer.begin("02").unwrap();
    tx.commit().unwrap();
    assert_eq!(&*replica.make_durable().unwrap(), "02");
    assert!(writer.begin("02").is_err(), "versions only grow");
}

/// Speeds, for a look: `cargo test -p engine --release -- --nocapture speeds`.
#[test]
fn speeds() {
    let folder = tempfile::tempdir().unwrap();
    let rows = if cfg!(debug_assertions) { 2_000 } else { 100_000_i64 };
    let data: Vec<Vec<Lite>> = (0..rows).map(|id| row(id, &format!("slug-{id}"))).collect();
    let begun = std::time::Instant::now();
    let replica = open(&folder, &data);
    println!("load {rows} rows: {:?}", begun.elapsed());
    let mut writer = replica.writer().unwrap();
    let begun = std::time::Instant::now();
    let mut tx = writer.begin("02").unwrap();
    let rel = relation(&mut tx);
    for id in 0..rows {
        let mut row = row(id, &format!("slug-{id}"));
        row[5] = Lite::Real(2.5);
        tx.update(&rel, None, &sent(row)).unwrap();
    }
    println!("update {rows} rows: {:?}", begun.elapsed());
    assert_eq!(tx.commit().unwrap().row_count(), rows as usize);
    println!("and commit: {:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    let mut tx = writer.begin("03").unwrap();
    for id in rows..2 * rows {
        tx.insert(&rel, &row(id, &format!("slug-{id}"))).unwrap();
    }
    println!("insert {rows} rows: {:?}", begun.elapsed());
    tx.commit().unwrap();
    println!("and commit: {:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    for n in 0..1000 {
        let mut tx = writer.begin(&format!("04{n:04}")).unwrap();
        tx.insert(&rel, &row(3 * rows + n, &format!("slug-{n}-x"))).unwrap();
        tx.commit().unwrap();
        drop(replica.pin().unwrap().reader().unwrap());
    }
    println!("1000 transactions of one row, each pinned: {:?}", begun.elapsed());
}
