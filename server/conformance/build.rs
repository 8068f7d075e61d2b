//! Builds the cases of `zql-spec/cases` into the program, so that the suite runs without a checkout.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let folder = Path::new(&manifest).join("../../zql-spec/cases");
    let mut out = String::new();
    for (name, folder, extension) in [("DATA", folder.join("data"), "json"), ("CASES", folder.clone(), "case")] {
        println!("cargo::rerun-if-changed={}", folder.display());
        let _ = writeln!(out, "const {name}: &[(&str, &str)] = &[");
        for path in files(&folder, extension) {
            let path = std::fs::canonicalize(path).expect("a file that was listed");
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let _ = writeln!(out, "    ({stem:?}, include_str!({path:?})),");
        }
        out.push_str("];\n");
    }
    let defects = std::fs::canonicalize(folder.join("defects.txt")).expect("the list of defects");
    let _ = writeln!(out, "const DEFECTS: &str = include_str!({defects:?});");
    let target = std::env::var("OUT_DIR").expect("cargo sets it");
    std::fs::write(Path::new(&target).join("cases.rs"), out).expect("the target folder can be written");
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}
