//! The committed cases: they are readable, what they expect is what the naive evaluator answers, and the list of what
//! they cover is current. `zql conformance --cases zql-spec/cases --rewrite` brings both up to date.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zql_spec::conformance::{CaseFile, DataSet, Defects, Matrix, PG_TYPES, complete};
use zql_spec::json::Json;

/// The suite is worth its name from here on.
const LEAST_CASES: usize = 600;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

fn texts(folder: &Path, extension: &str) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(folder).expect("the folder of cases").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    let text = |path: PathBuf| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        (name, std::fs::read_to_string(&path).expect("a text"))
    };
    paths.into_iter().map(text).collect()
}

#[test]
fn expectations_and_coverage_are_current() {
    let data: Vec<Arc<DataSet>> = texts(&folder().join("data"), "json")
        .into_iter()
        .map(|(name, text)| Arc::new(DataSet::parse(&name, &text).expect("a data set")))
        .collect();
    let mut matrix = Matrix::default();
    for (name, text) in texts(&folder(), "case") {
        let mut file = CaseFile::parse(&text).unwrap_or_else(|error| panic!("{name}.case: {error}"));
        let data = data.iter().find(|data| *data.name == *file.data).expect("a data set of the folder");
        for case in &mut file.cases {
            complete(case, data).unwrap_or_else(|what| panic!("{name}.case, line {}: {what}", case.line));
        }
        let printed = file.print();
        let differs = printed.lines().zip(text.lines()).position(|(new, old)| new != old);
        assert!(printed == text, "{name}.case is not current at line {}", differs.map_or(0, |at| at + 1));
        matrix.add(&name, &file, data).expect("cases that can be counted");
    }
    assert!(matrix.len() >= LEAST_CASES, "{} cases", matrix.len());
    assert_eq!(matrix.gaps(), Vec::<String>::new());
    let listed = std::fs::read_to_string(folder().join("MATRIX.md")).expect("MATRIX.md");
    assert!(listed == matrix.print(), "MATRIX.md is not current");
}

#[test]
fn cases_name_defects_that_are_listed_and_no_others_are() {
    let list = std::fs::read_to_string(folder().join("defects.txt")).expect("the list of defects");
    let list = Defects::parse(&list).expect("a list of defects");
    let files: Vec<(String, CaseFile)> = texts(&folder(), "case")
        .into_iter()
        .map(|(name, text)| (name, CaseFile::parse(&text).expect("a file of cases")))
        .collect();
    assert_eq!(list.check(files.iter().map(|(name, file)| (name.as_str(), file))), Ok(()));
}

#[test]
fn the_json_schema_lists_the_types_that_data_sets_may_have() {
    let text = std::fs::read_to_string(folder().join("data.schema.json")).expect("the JSON schema");
    let schema = Json::parse(&text).expect("JSON");
    let alternatives = schema.get("$defs").and_then(|defs| defs.get("pg")?.get("anyOf")?.as_array()).expect("types");
    let listed = alternatives[0].get("enum").and_then(Json::as_array).expect("names");
    let listed: Vec<&str> = listed.iter().filter_map(Json::as_str).collect();
    let known: Vec<&str> = PG_TYPES.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    assert_eq!(listed, known);
}
