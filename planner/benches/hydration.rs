//! Times hydrations over a tracker of 100,000 issues: `cargo bench -p planner --bench hydration`.
//!
//! Each line is a query: rows of its answer, then the least and the median time of its runs. Arguments: a
//! part of the name of the queries to run, and `explain` to print their plans.
//!
//! Least times on two cores that were busy with other work (load 12), November 2026:
//!
//! | query | rows | time |
//! | --- | ---: | ---: |
//! | point | 1 | 6 µs |
//! | page of 50 | 50 | 61 µs |
//! | page of 50, two relations | 168 | 267 µs |
//! | page of 50, EXISTS that mostly holds | 149 | 186 µs |
//! | page of 50, EXISTS that rarely holds | 101 | 4.9 ms |
//! | 1,000 of 100,000 by EXISTS through a junction | 2,001 | 4.6 ms |
//! | half by EXISTS | 45,450 | 99 ms |
//! | disjunction with EXISTS over 100,000 | 2,002 | 5.3 ms |
//! | disjunction with EXISTS, one branch without index | 22,001 | 36 ms |
//! | NOT EXISTS without index | 0 | 19 ms |
//! | 20,000 issues and 30,000 comments | 50,000 | 58 ms |
//! | 100,000 issues and 150,000 comments | 250,000 | 197 ms |

use std::time::{Duration, Instant};

use engine::hydration::Hydrate;
use planner::Planner;
use zql_spec::ast::{Ast, Condition, Direction, SimpleOperator};

#[allow(dead_code, missing_docs, unreachable_pub)]
#[path = "../tests/planner/tracker.rs"]
mod tracker;

use tracker::*;

/// The server's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long a query is run again and again.
const BUDGET: Duration = Duration::from_millis(1500);

fn main() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let snapshot = tracker(&directory.path().join("replica.db"), 1_000, 100_000);
    let explain = std::env::args().any(|argument| argument == "explain");
    let only = std::env::args().nth(1).filter(|argument| argument != "explain" && !argument.starts_with("--"));
    let labelled = |name: &str| {
        exists(
            "id",
            "issue",
            from("issue_label").filter(exists("label", "id", from("label").filter(equal("name", name)))),
        )
    };
    let newest = || from("issue").order("modified", Direction::Desc);
    let comments = || from("comment").order("created", Direction::Desc);
    let cases: Vec<(&str, Ast)> = vec![
        ("point", from("issue").filter(equal("id", "i77"))),
        ("page of 50", newest().limit(50)),
        (
            "page of 50, two relations",
            newest().limit(50).related("owner", "owner", "id", from("user")).related(
                "comments",
                "id",
                "issue",
                comments().limit(10),
            ),
        ),
        ("page of 50, EXISTS that mostly holds", newest().filter(exists("id", "issue", from("comment"))).limit(50)),
        ("page of 50, EXISTS that rarely holds", newest().filter(labelled("rare")).limit(50)),
        ("1,000 of 100,000 by EXISTS through a junction", from("issue").filter(labelled("rare"))),
        (
            "half by EXISTS",
            from("issue").filter(exists(
                "owner",
                "id",
                from("user")
                    .filter(Condition::Or((0..500).map(|user| equal("name", &format!("User {user}"))).collect())),
            )),
        ),
        (
            "disjunction with EXISTS over 100,000",
            from("issue").filter(Condition::Or(vec![equal("id", "i5"), equal("owner", "u7"), labelled("rare")])),
        ),
        (
            "disjunction with EXISTS, one branch without index",
            from("issue").filter(Condition::Or(vec![number("priority", SimpleOperator::Eq, 3.0), labelled("rare")])),
        ),
        ("NOT EXISTS without index", from("user").filter(not_exists("id", "author", from("comment")))),
        ("20,000 issues and 30,000 comments", newest().limit(20_000).related("comments", "id", "issue", comments())),
        ("100,000 issues and 150,000 comments", from("issue").related("comments", "id", "issue", comments())),
    ];
    let planner = Planner::new();
    for (name, ast) in cases {
        if only.as_ref().is_some_and(|only| !name.contains(&**only)) {
            continue;
        }
        let query = resolve(&ast, &snapshot);
        if explain {
            println!("{}", planner.explain(&query, &snapshot).expect("the query runs"));
        }
        let mut times = Vec::new();
        let mut rows = 0;
        let begin = Instant::now();
        while begin.elapsed() < BUDGET || times.len() < 3 {
            let start = Instant::now();
            let hydration = planner.hydrate(&query, &snapshot).expect("the query runs");
            times.push(start.elapsed());
            rows = hydration.nodes.iter().map(Vec::len).sum();
        }
        times.sort();
        let (least, median) = (times[0], times[times.len() / 2]);
        println!("{name:50} {rows:>7} rows {least:>9.3?} {median:>9.3?}");
    }
}
