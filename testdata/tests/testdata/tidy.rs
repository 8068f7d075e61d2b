//! What everybody should always do, checked by a test instead of by a reviewer: the direction of
//! dependencies between crates, a `//!` header on every module, no stubs, unsafe code in one place, a place for
//! every crate in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each crate of the workspace, the workspace crates it may use, and the outside crates it must never
/// reach, directly or through others.
const ROOMS: &[(&str, &[&str], &[&str])] = &[
    ("zql-spec", &[], &["datafusion", "rusqlite", "tokio", "tokio-postgres"]),
    ("engine", &["zql-spec"], &["datafusion", "tokio", "tokio-postgres", "warp"]),
    ("planner", &["zql-spec", "engine"], &["tokio-postgres", "warp", "reqwest"]),
    ("upstream", &["zql-spec", "engine"], &["datafusion", "warp"]),
    ("views", &["zql-spec", "engine"], &["datafusion", "tokio-postgres", "warp"]),
    ("cvr", &["zql-spec"], &["datafusion", "rusqlite", "tokio", "tokio-postgres"]),
    ("cvr-store", &["zql-spec", "cvr"], &["datafusion", "rusqlite", "warp"]),
    ("protocol-client", &["zql-spec"], &["datafusion", "rusqlite", "tokio-postgres", "warp"]),
    ("sync", &["zql-spec", "engine", "views", "cvr", "cvr-store"], &["datafusion"]),
    ("query-api", &[], &["datafusion", "rusqlite", "tokio-postgres"]),
    ("testdata", &["zql-spec", "engine"], &["datafusion", "warp"]),
    (
        "server",
        &[
            "zql-spec",
            "engine",
            "planner",
            "cvr",
            "cvr-store",
            "upstream",
            "views",
            "sync",
            "protocol-client",
            "query-api",
            "terminal",
            "conformance",
            "explain",
            "testdata",
        ],
        &[],
    ),
    ("explain", &["zql-spec", "engine", "planner"], &["tokio-postgres", "warp", "reqwest"]),
    ("terminal", &["zql-spec", "protocol-client", "query-api", "testdata"], &["datafusion"]),
    ("conformance", &["zql-spec", "engine", "planner", "protocol-client", "query-api", "testdata"], &[]),
    ("bench-wire", &["zql-spec", "protocol-client", "query-api", "testdata"], &["datafusion"]),
    ("benches", &["zql-spec", "engine", "planner", "views", "upstream", "sync", "testdata"], &[]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("testdata lies in the workspace").to_owned()
}

/// Normal (not dev) dependencies by package name, for every package that the workspace resolves to.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    // Only what this machine builds: a fresh one has not downloaded what other platforms need.
    let version = Command::new(&cargo).args(["version", "--verbose"]).output().expect("cargo runs");
    let version = String::from_utf8_lossy(&version.stdout);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let name_of: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| (package["id"].as_str().expect("id"), package["name"].as_str().expect("name")))
        .collect();
    let mut graph = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().expect("nodes") {
        let uses = node["deps"].as_array().expect("deps").iter().filter(|dependency| {
            dependency["dep_kinds"].as_array().expect("kinds").iter().any(|kind| kind["kind"].is_null())
        });
        let uses = uses.map(|dependency| name_of[dependency["pkg"].as_str().expect("pkg")].to_owned()).collect();
        graph.insert(name_of[node["id"].as_str().expect("id")].to_owned(), uses);
    }
    graph
}

#[test]
fn dependencies_point_one_way() {
    let graph = dependencies();
    let rooms: BTreeMap<&str, _> = ROOMS.iter().map(|(name, uses, never)| (*name, (*uses, *never))).collect();
    let mut broken = Vec::new();
    for (name, (allowed, never)) in &rooms {
        let Some(direct) = graph.get(*name) else { continue };
        for used in direct.iter().filter(|used| rooms.contains_key(used.as_str())) {
            if !allowed.contains(&used.as_str()) {
                broken.push(format!("{name} must not use {used}"));
            }
        }
        let mut reached = BTreeSet::new();
        let mut stack = vec![(*name).to_owned()];
        while let Some(package) = stack.pop() {
            if reached.insert(package.clone()) {
                stack.extend(graph.get(&package).into_iter().flatten().cloned());
            }
        }
        for forbidden in never.iter().filter(|forbidden| reached.contains(**forbidden)) {
            broken.push(format!("{name} must not reach {forbidden}"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_crate_has_a_room_and_a_section() {
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    for manifest in manifests() {
        let text = std::fs::read_to_string(&manifest).expect("a manifest can be read");
        let Some(name) = text.lines().find_map(|line| line.strip_prefix("name = ")) else { continue };
        let name = name.trim_matches('"');
        assert!(ROOMS.iter().any(|(room, ..)| *room == name), "{name} has no entry in the allow-list of this test");
        assert!(architecture.contains(&format!("| `{name}` |")), "{name} has no row in ARCHITECTURE.md");
    }
}

#[test]
fn modules_say_what_they_are_for_and_hold_no_stubs() {
    // Put together so that this file does not find itself.
    let banned = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let mut broken = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).expect("a source can be read");
        if !text.starts_with("//!") {
            broken.push(format!("{}: no //! header", path.display()));
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if banned.iter().any(|name| code.contains(name)) || code.trim_start().starts_with(concat!("#[", "ignore")) {
                broken.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
        let before_tests = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_test = path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
        if !is_test {
            for (number, line) in before_tests.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                if code.contains(concat!(".unwrap", "()")) {
                    broken.push(format!("{}:{}: unwrap outside tests", path.display(), number + 1));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn unsafe_code_is_in_one_module() {
    let allows = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).expect("a source can be read");
        text.lines().any(|line| line.trim_start().starts_with("#") && line.contains("(unsafe_code)"))
    };
    let found: Vec<PathBuf> = sources().into_iter().filter(allows).collect();
    assert_eq!(found, [root().join("engine/src/replica/native.rs")]);
}

fn manifests() -> Vec<PathBuf> {
    files(&|path| path.file_name().is_some_and(|name| name == "Cargo.toml"))
        .into_iter()
        .filter(|path| path.parent() != Some(&root()))
        .collect()
}

fn sources() -> Vec<PathBuf> {
    files(&|path| path.extension().is_some_and(|extension| extension == "rs"))
}

fn files(wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack: Vec<PathBuf> = ["engine", "planner", "server", "zql-spec", "testdata", "benches"]
        .iter()
        .map(|room| root().join(room))
        .collect();
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name == "node_modules" || name == "target") {
                continue;
            }
            let entries = std::fs::read_dir(&path).expect("a folder can be listed");
            stack.extend(entries.map(|entry| entry.expect("an entry can be read").path()));
        } else if wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}
