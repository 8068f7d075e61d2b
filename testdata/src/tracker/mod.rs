//! The generated issue tracker in Postgres: the data of the demo, of the tests with real clients and of the wire
//! benchmarks. The SQL is in `tracker.sql`.

use anyhow::Result;

pub mod queries;

use crate::postgres::Postgres;

/// The publishable schema and rows, as a script for `psql` that wants its sizes as variables.
const SCRIPT: &str = include_str!("../../tracker.sql");

/// How many rows of each kind to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Users (`u0` …), who create, are assigned and comment; at least 1.
    pub users: u32,
    /// Issues (`i0` …); at least 1.
    pub issues: u32,
    /// Comments (`c0` …), spread over the issues at random.
    pub comments: u32,
    /// Labels (`l0` …); at least 2. `l0` is named `rare` and is on every hundredth issue.
    pub labels: u32,
    /// Random pairs of issue and label, before duplicates are removed.
    pub junctions: u32,
}

impl Sizes {
    /// For tests with real clients: small enough to be loaded in a blink, large enough that limits cut.
    pub const SMALL: Sizes = Sizes { users: 10, issues: 200, comments: 600, labels: 8, junctions: 400 };
    /// The demo's.
    pub const DEMO: Sizes = Sizes { users: 1_000, issues: 20_000, comments: 60_000, labels: 40, junctions: 40_000 };
    /// The wire benchmark's.
    pub const BENCH: Sizes =
        Sizes { users: 1_000, issues: 100_000, comments: 200_000, labels: 100, junctions: 200_000 };

    /// The script that makes the tables and fills them, complete with its variables.
    pub fn script(&self) -> String {
        let Sizes { users, issues, comments, labels, junctions } = self;
        format!(
            "\\set users {users}\n\\set issues {issues}\n\\set comments {comments}\n\\set labels {labels}\n\
             \\set junctions {junctions}\n{SCRIPT}"
        )
    }

    /// Makes the tables in an empty database and fills them.
    ///
    /// # Errors
    /// When Postgres refuses, for instance because the tables exist.
    pub fn load(&self, postgres: &Postgres, url: &str) -> Result<()> {
        postgres.psql(url, &self.script()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres;

    #[test]
    fn rows_follow_from_the_sizes() {
        let postgres = postgres::shared();
        let counts = "SELECT (SELECT count(*) FROM issue), (SELECT count(*) FROM comment), \
                      (SELECT count(*) FROM issue_label WHERE label_id = 'l0'), \
                      (SELECT md5(string_agg(i::text, '' ORDER BY id)) FROM issue i)";
        let seen = [(); 2].map(|()| {
            let url = postgres.database().unwrap();
            Sizes::SMALL.load(postgres, &url).unwrap();
            postgres.psql(&url, counts).unwrap()
        });
        assert!(seen[0].starts_with("200|600|2|"), "{}", seen[0]);
        assert_eq!(seen[0], seen[1]);
    }
}
