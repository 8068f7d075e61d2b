//! The format of cases, and the runner on a backend that is right and on ones that are not.

use std::sync::Arc;

use super::*;
use crate::naive::{Database, Operation};

const DATA: &str = r#"{
    "tables": {
        "issue": {"name": "issue", "primaryKey": ["id"], "unique": [["title"]], "columns": {
            "id": {"type": "string", "pg": "text"},
            "title": {"type": "string", "pg": "text"},
            "rank": {"type": "number", "pg": "int4", "optional": true},
            "more": {"type": "json", "pg": "jsonb", "optional": true}},
            "rows": [["i1", "a", 1, {"x": [1], "y": 2}], ["i2", "b", 2, null], ["i3", "c", null, null]]},
        "comment": {"name": "comment", "primaryKey": ["issue", "n"], "columns": {
            "issue": {"type": "string", "pg": "text"}, "n": {"type": "number", "pg": "int4"}},
            "rows": [["i1", 1], ["i1", 2], ["i2", 1]]}
    },
    "relationships": {
        "issue": {"comments": [{"sourceField": ["id"], "destField": ["issue"], "destSchema": "comment", "cardinality": "many"}]},
        "comment": {"issue_": [{"sourceField": ["issue"], "destField": ["id"], "destSchema": "issue", "cardinality": "one"}]}
    }
}"#;

const FILE: &str = r#"# Two cases.
data small

# About this one.
case windows refill
  issue.orderBy('rank', 'desc')
    .related('comments', q => q.related('issue_'))
    .limit(2)
defect Z1 Z2
rows
  i2 { comments [i2/1 { issue_ i2 }] }
  i1 { comments [i1/1 { issue_ i1 }, i1/2 { issue_ i1 }] }
transaction the first row goes
  delete issue i2
change
  - i2
  + i3 { comments [] } after i1
transaction
  update issue i1 {"rank":null,"title":"x"}
  insert comment {"issue":"i3","n":-1.5}
  delete comment i1/2
change
  ~ i1 (title, rank)
  in i1.comments: - i1/2
  in i1.comments.i1/1.issue_: ~ i1 (title, rank)
  in i3.comments: + i3/-1.5 { issue_ i3 } first
transaction
  update issue i1 {"id":"i 9"}
  truncate comment
change
  - i1
  + "i 9" { comments [] } first
  in i3.comments: - i3/-1.5

case whose issue it is
  issue.where('title', authParam('sub')).whereExists('comments', q => q.where('n', 'IN', authParam(['may', 'see'])))
claims {"sub":"a","may":{"see":[2]}}
rows
  i1
transaction
  delete comment i1/2
change
  - i1

case refusals
  issue.where('title', 'LIKE', 'a\\')
refused
  LIKE pattern must not end with escape character
"#;

fn data() -> Arc<DataSet> {
    Arc::new(DataSet::parse("small", DATA).unwrap())
}

#[test]
fn files_are_written_as_they_were_read() {
    let file = CaseFile::parse(FILE).unwrap();
    assert_eq!(file.print(), FILE);
    assert_eq!(file.cases[0].defects, ["Z1", "Z2"]);
    for (text, expected) in [
        ("", "line 1: expected `data NAME`"),
        ("data x\nquery", "line 2: expected `case NAME`, not \"query\""),
        ("data x\ncase a\n", "line 2: a case has a query"),
        ("data x\ncase a\n  t\nclaims [1]", "line 4: claims are an object in JSON"),
        ("data x\ncase a\n  t\nclaims", "line 4: claims are an object in JSON"),
        ("data x\ncase a\n  t\ncase a\n  t", "line 4: a case has a name of its own"),
        ("data x\n# lost\n", "line 0: comments after the last case"),
    ] {
        assert_eq!(CaseFile::parse(text).unwrap_err().to_string(), expected, "{text:?}");
    }
}

#[test]
fn expectations_are_filled_in() {
    let mut file = CaseFile::parse(FILE).unwrap();
    for case in &mut file.cases {
        case.answer = None;
        case.steps.iter_mut().for_each(|step| step.change = None);
        complete(case, &data()).unwrap();
    }
    assert_eq!(file.print(), FILE);
}

/// The naive evaluator with a fault.
struct Faulty {
    naive: Naive,
    fault: fn(Reply) -> Reply,
}

impl Backend for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }

    fn begin(&mut self, data: &Arc<DataSet>, query: &Query) -> Result<Reply, BackendError> {
        self.naive.begin(data, query).map(self.fault)
    }

    fn step(&mut self, transaction: &[Operation], after: &Database) -> Result<Reply, BackendError> {
        self.naive.step(transaction, after).map(self.fault)
    }

    fn end(&mut self) -> Result<(), BackendError> {
        self.naive.end()
    }
}

#[test]
fn faults_are_found() {
    let file = CaseFile::parse(FILE).unwrap();
    let outcomes = |fault: fn(Reply) -> Reply| -> Vec<Outcome> {
        let mut backend = Faulty { naive: Naive::default(), fault };
        file.cases.iter().map(|case| run(case, &data(), &mut backend).unwrap()).collect()
    };
    assert_eq!(outcomes(|reply| reply), vec![Outcome::Passed; file.cases.len()]);
    assert_eq!(outcomes(|_| Reply::Skipped("no".into())), vec![Outcome::Skipped("no".into()); file.cases.len()]);
    let faults: [fn(Reply) -> Reply; 3] = [
        |reply| match reply {
            Reply::Answer(mut tree) => {
                tree.rows.reverse();
                Reply::Answer(tree)
            }
            other => other,
        },
        |reply| match reply {
            Reply::Answer(mut tree) if tree.rows.len() > 1 => {
                tree.rows[0].row = tree.rows[1].row.clone();
                Reply::Answer(tree)
            }
            other => other,
        },
        |_| Reply::Refused("so".into()),
    ];
    for fault in faults {
        assert!(matches!(outcomes(fault)[0], Outcome::Failed(_)));
    }
}

#[test]
fn operations_that_make_no_sense_are_refused() {
    for line in [
        "insert issue {\"id\":\"i1\",\"title\":\"z\"}",
        "insert issue {\"id\":\"i4\",\"title\":\"a\"}",
        "insert issue {\"id\":\"i4\"}",
        "insert issue {\"id\":\"i4\",\"title\":\"z\",\"nope\":1}",
        "insert issue {\"id\":\"i4\",\"title\":\"z\",\"rank\":\"1\"}",
        "insert nope {}",
        "update issue i4 {}",
        "update issue i1 {\"id\":\"i2\"}",
        "update issue i1 {\"title\":\"b\"}",
        "delete issue",
        "delete issue i1 i2",
        "delete comment i1",
        "delete comment i1/\"x",
        "truncate issue now",
        "grow issue",
        "",
    ] {
        let found = operations(&[line.to_owned()], &data(), &data().database);
        assert!(found.is_err(), "{line}: {found:?}");
    }
}

#[test]
fn documents_are_equal_whatever_the_order_of_their_keys() {
    let data = data();
    let Reply::Answer(mut tree) =
        Naive::default().begin(&data, &runner::parse_query("issue.where('id', 'i1')", &data).unwrap()).unwrap()
    else {
        panic!("an answer");
    };
    let mut row = tree.rows[0].row.to_vec();
    row[3] = crate::value::Value::Json("{\"y\": 2, \"x\": [1]}".into());
    tree.rows[0].row = row.into();
    assert_eq!(check_rows(&tree, &data.database), Ok(()));
}

#[test]
fn data_sets_that_make_no_sense_are_refused() {
    for (from, to, expected) in [
        (r#""pg": "jsonb""#, r#""pg": "bytea""#, "data set d: bytea cannot be a json"),
        (r#""pg": "jsonb""#, r#""pg": "text""#, "data set d: text cannot be a json"),
        (r#"["i2", "b""#, r#"["i1", "b""#, "two rows with the key"),
        (r#"["i2", "b", 2, null]"#, r#"["i2", "b"]"#, "2 cells for 4 columns"),
        (r#"["i2", "b""#, r#"["i2", null"#, "title cannot be null"),
        (r#""pg": "int4", "optional""#, r#""optional""#, "Missing property pg"),
    ] {
        assert!(DATA.contains(from));
        let error = DataSet::parse("d", &DATA.replacen(from, to, 1)).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(DataSet::parse("d", &DATA.replace(r#""pg": "jsonb""#, r#""pg": "int4[]""#)).is_ok());
}

#[test]
fn gaps_are_counted() {
    let mut matrix = Matrix::default();
    let file = CaseFile::parse(FILE).unwrap();
    matrix.add("small", &file, &data()).unwrap();
    let text = matrix.print();
    assert_eq!(matrix.len(), 3);
    for line in [
        "| string LIKE, not null | 1 | · | · | · | · | · | · | · |",
        "| parameter | 1 | · | · | · | · | · | · | · |",
        "| parameter that is a list | · | · | · | · | 1 | · | · | · |",
        "| order and limit | 1 | · | · | · | · | · | · | · |",
        "| related, one | · | 1 | · | · | – | – | – | – |",
        "| delete: goes | 1 | · | 1 | · | 1 | · | · | · |",
        "| jsonb | 4 | · | – | – | – | · |",
        "| insert: moves | – | – | – | – | – | – | – | – |",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(matrix.gaps().contains(&"Comparisons: string LIKE, not null: related".to_owned()));
}
