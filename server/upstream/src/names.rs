//! Names of everything a shard owns upstream, and SQL quoting.
//!
//! The names are those of zero-cache, so that either program finds what the other made.

use crate::error::Error;

/// Longest identifier Postgres keeps (`NAMEDATALEN` − 1).
const IDENTIFIER_LENGTH_MAX: usize = 63;

/// The names of one shard of one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The app's schema: permissions live here.
    pub app: String,
    /// The shard's number.
    pub shard_num: u32,
    /// The shard's schema: `{app}_{n}`.
    pub shard: String,
}

impl Names {
    /// Checks the app id and derives the names.
    ///
    /// # Errors
    /// [`Error::Config`] for an app id with other characters than lower-case letters, digits and `_`.
    pub fn new(app: &str, shard_num: u32) -> Result<Names, Error> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if app.is_empty() || !app.chars().all(legal) {
            return Err(Error::Config(
                "The App ID may only consist of lower-case letters, numbers, and the underscore character (ZERO_APP_ID)"
                    .to_owned(),
            ));
        }
        Ok(Names { app: app.to_owned(), shard_num, shard: format!("{app}_{shard_num}") })
    }

    /// The publication of all tables of schema `public`, made when none is configured.
    pub fn default_publication(&self) -> String {
        format!("_{}_public_{}", self.app, self.shard_num)
    }

    /// The publication of the shard's own tables.
    pub fn metadata_publication(&self) -> String {
        format!("_{}_metadata_{}", self.app, self.shard_num)
    }

    /// What the app's own publications start with.
    pub fn internal_publication_prefix(&self) -> String {
        format!("_{}_", self.app)
    }

    /// The prefix of the logical messages that announce schema changes.
    pub fn ddl_message_prefix(&self) -> String {
        format!("{}/{}/ddl", self.app, self.shard_num)
    }

    /// The `LIKE` pattern of the shard's slots.
    pub fn slot_pattern(&self) -> String {
        format!("{}\\_%", self.shard.replace('_', "\\_"))
    }

    /// The first slot name of the shard that is not taken.
    pub fn free_slot(&self, taken: &[String]) -> String {
        (0..)
            .map(|index| format!("{}_{}", self.shard, slot_suffix(index)))
            .find(|name| !taken.contains(name))
            .unwrap_or_default()
    }
}

/// The suffix of the n-th slot: a … z, aa, ab … (bijective base 26).
fn slot_suffix(index: u32) -> String {
    let mut rest = index + 1;
    let mut suffix = Vec::new();
    while rest > 0 {
        rest -= 1;
        suffix.push(char::from(b'a' + (rest % 26) as u8));
        rest /= 26;
    }
    suffix.iter().rev().collect()
}

/// Checks the names of configured publications.
///
/// # Errors
/// [`Error::Config`] naming the publication and the rule.
pub fn check_publications(publications: &[String]) -> Result<(), Error> {
    for name in publications {
        let mut chars = name.chars();
        let starts = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !starts || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') || name.len() > IDENTIFIER_LENGTH_MAX {
            return Err(Error::Config(format!(
                "Invalid publication \"{name}\" in ZERO_APP_PUBLICATIONS: a name has letters, digits and underscores \
                 only, does not start with a digit, and is at most {IDENTIFIER_LENGTH_MAX} characters long"
            )));
        }
        if name.starts_with('_') {
            return Err(Error::Config(format!(
                "Publication names starting with \"_\" are reserved for internal use (ZERO_APP_PUBLICATIONS: \"{name}\")"
            )));
        }
    }
    Ok(())
}

/// An SQL identifier in quotes.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An SQL string literal. Backslashes are ordinary characters (`standard_conforming_strings`).
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// An SQL array of strings.
pub fn text_array(texts: &[String]) -> String {
    let items: Vec<String> = texts.iter().map(|text| literal(text)).collect();
    format!("ARRAY[{}]::text[]", items.join(","))
}

/// The name of an upstream table or index in the replica: the schema `public` is left out.
pub fn lite_name(schema: &str, name: &str) -> String {
    if schema == "public" { name.to_owned() } else { format!("{schema}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_named_in_bijective_base_26() {
        for (index, suffix) in
            [(0, "a"), (25, "z"), (26, "aa"), (27, "ab"), (51, "az"), (52, "ba"), (701, "zz"), (702, "aaa")]
        {
            assert_eq!(slot_suffix(index), suffix);
        }
        let names = Names::new("zero", 0).unwrap();
        assert_eq!(names.free_slot(&["zero_0_a".to_owned(), "zero_0_c".to_owned()]), "zero_0_b");
        assert_eq!(names.slot_pattern(), "zero\\_0\\_%");
    }

    #[test]
    fn names_are_checked() {
        assert!(Names::new("Zero", 0).is_err());
        assert!(Names::new("", 0).is_err());
        assert!(Names::new("a_1", 0).is_ok());
        for (name, legal) in
            [("zero_data", true), ("Data", true), ("_x", false), ("1x", false), ("a-b", false), ("", false)]
        {
            assert_eq!(check_publications(&[name.to_owned()]).is_ok(), legal, "{name}");
        }
        assert!(check_publications(&["x".repeat(64)]).is_err());
    }
}
