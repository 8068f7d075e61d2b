//! Who may use the inspector: client groups in which somebody gave the administrator's password.
//!
//! What was given is remembered for as long as the process lives, as with the reference. It grows with the groups that
//! gave the right password only, and is bounded all the same.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustc_hash::FxHashSet;

use super::analyze::{Analyzer, Explain};
use crate::config::Config;

/// Groups that are remembered. Beyond it all must give the password again: an administrator has a handful.
const MAX_GROUPS: usize = 10_000;

/// The door to the inspector.
#[derive(Debug)]
pub(crate) struct Access {
    password: Option<String>,
    development: bool,
    open: Mutex<FxHashSet<Arc<str>>>,
    /// Set once the server has a planner.
    analyzer: OnceLock<Analyzer>,
}

impl Access {
    pub(crate) fn new(config: &Config) -> Access {
        Access {
            password: config.admin_password.clone(),
            development: config.development,
            open: Mutex::default(),
            analyzer: OnceLock::new(),
        }
    }

    /// Who explains queries, from now on.
    pub(crate) fn explain_by(&self, explain: Arc<dyn Explain>) {
        // A second one changes nothing: there is one planner.
        let _ = self.analyzer.set(Analyzer::new(explain));
    }

    /// Who explains queries.
    pub(crate) fn analyzer(&self) -> Option<&Analyzer> {
        self.analyzer.get()
    }

    /// Whether a group may ask.
    pub(crate) fn allows(&self, group: &str) -> bool {
        self.development || self.open.lock().contains(group)
    }

    /// Takes a password; a wrong one closes what was open.
    pub(crate) fn authenticate(&self, group: &Arc<str>, given: &str) -> bool {
        let right = self.is_right(given);
        let mut open = self.open.lock();
        if !right {
            open.remove(group);
        } else if !open.contains(group) {
            if open.len() >= MAX_GROUPS {
                open.clear();
            }
            open.insert(Arc::clone(group));
        }
        right
    }

    /// Whether whoever gives a password may see what an administrator may.
    pub(crate) fn admits(&self, given: &str) -> bool {
        let right = self.is_right(given);
        if !right && self.password.is_some() {
            tracing::warn!("Invalid admin password");
        }
        right
    }

    /// Whether a password is the administrator's.
    fn is_right(&self, given: &str) -> bool {
        match &self.password {
            Some(password) => equal(password.as_bytes(), given.as_bytes()),
            None if self.development && given.is_empty() => {
                tracing::warn!("No admin password set; allowing access in development mode only");
                true
            }
            None => {
                tracing::warn!("No admin password set; denying access");
                false
            }
        }
    }
}

/// Compares in a time that depends on the length of what was given alone.
fn equal(own: &[u8], given: &[u8]) -> bool {
    let mut difference = own.len() ^ given.len();
    for (index, byte) in given.iter().enumerate() {
        let own = own.get(index % own.len().max(1)).copied().unwrap_or_default();
        difference |= usize::from(std::hint::black_box(own ^ byte));
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::{Access, Config, equal};
    use crate::options::Settings;

    fn access(pairs: &[(&str, &str)]) -> Access {
        let database = ("ZERO_UPSTREAM_DB", "postgres://localhost/app");
        let settings = Settings::from_pairs(pairs.iter().copied().chain([database]));
        Access::new(&Config::new(&settings).expect("good settings"))
    }

    #[test]
    fn passwords_are_compared_whole() {
        for (own, given, same) in
            [("", "", true), ("a", "", false), ("", "a", false), ("ab", "abab", false), ("ab", "ab", true)]
        {
            assert_eq!(equal(own.as_bytes(), given.as_bytes()), same, "{own} {given}");
        }
    }

    #[test]
    fn a_wrong_password_closes_what_was_open() {
        let access = access(&[("ZERO_ADMIN_PASSWORD", "p")]);
        let group = "g".into();
        for (given, open) in [("", false), ("p", true), ("p", true), ("q", false), ("p", true)] {
            assert_eq!(access.authenticate(&group, given), open, "{given}");
            assert_eq!(access.allows("g"), open, "{given}");
            assert!(!access.allows("other"));
        }
    }

    #[test]
    fn without_a_password_only_development_is_open() {
        assert!(!access(&[]).authenticate(&"g".into(), ""));
        let development = access(&[("NODE_ENV", "development")]);
        assert!(development.allows("g"));
        assert!(development.authenticate(&"g".into(), ""));
        assert!(!development.authenticate(&"g".into(), "x"));
    }
}
