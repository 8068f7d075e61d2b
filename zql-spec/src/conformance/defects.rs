//! The list of the reference's defects that cases may name (`zql-spec/cases/defects.txt`).
//!
//! A label that is not listed excuses nothing, and one that no case names is none any more: both are errors, so that the
//! list says what the suite passes over, and why.

use std::collections::BTreeMap;

use super::CaseError;
use super::file::CaseFile;

/// The defects by label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defects {
    /// What the reference does wrong, by label.
    by_label: BTreeMap<String, String>,
}

/// What a label in a case ends in if the case runs into the defect only sometimes.
const SOMETIMES: char = '?';

impl Defects {
    /// Reads a list.
    ///
    /// # Errors
    /// With the line that is out of place.
    pub fn parse(text: &str) -> Result<Defects, CaseError> {
        let mut by_label = BTreeMap::<String, String>::new();
        let mut last = None;
        for (at, line) in text.lines().enumerate() {
            let wrong = |what: &str| CaseError::new(at + 1, what);
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            if let Some(sentence) = line.strip_prefix("  ") {
                let what = last.as_ref().and_then(|label| by_label.get_mut(label));
                let what = what.ok_or_else(|| wrong("expected `defect LABEL`"))?;
                if !what.is_empty() {
                    what.push(' ');
                }
                what.push_str(sentence.trim());
                continue;
            }
            let label = line.strip_prefix("defect ").map(str::trim).filter(|label| {
                !label.is_empty() && !label.ends_with(SOMETIMES) && !label.contains(char::is_whitespace)
            });
            let label = label.ok_or_else(|| wrong("expected `defect LABEL`"))?;
            if by_label.insert(label.to_owned(), String::new()).is_some() {
                return Err(wrong("a defect is listed once"));
            }
            last = Some(label.to_owned());
        }
        match by_label.iter().find(|(_, what)| what.is_empty()) {
            Some((label, _)) => Err(CaseError::new(0, format!("nothing says what {label} is"))),
            None => Ok(Defects { by_label }),
        }
    }

    /// Whether cases and list agree.
    ///
    /// # Errors
    /// With the labels that are not listed, and those that no case names.
    pub fn check<'f>(&self, files: impl Iterator<Item = (&'f str, &'f CaseFile)>) -> Result<(), String> {
        let (mut faults, mut named) = (Vec::new(), Vec::new());
        for (name, file) in files {
            for case in &file.cases {
                for label in case.defects.iter().map(|label| label.trim_end_matches(SOMETIMES)) {
                    if !self.by_label.contains_key(label) {
                        faults.push(format!("{name}.case, line {}: the defect {label} is not listed", case.line));
                    }
                    named.push(label);
                }
            }
        }
        let unused = self.by_label.keys().filter(|label| !named.contains(&label.as_str()));
        faults.extend(unused.map(|label| format!("no case names the defect {label}, which is listed")));
        if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
    }

    /// What a defect is.
    pub fn get(&self, label: &str) -> Option<&str> {
        self.by_label.get(label.trim_end_matches(SOMETIMES)).map(String::as_str)
    }

    /// Whether a case that names these must fail on the reference.
    pub fn always(&self, labels: &[String]) -> bool {
        !labels.is_empty() && labels.iter().all(|label| !label.ends_with(SOMETIMES) && self.get(label).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# why\n\ndefect A\n  It is wrong,\n  and not a little.\ndefect B\n  It may be.\n";

    fn file(defects: &str) -> CaseFile {
        CaseFile::parse(&format!("data d\n\ncase one\n  t\n{defects}rows\n  none\n")).unwrap()
    }

    #[test]
    fn a_list_is_read() {
        let defects = Defects::parse(LIST).unwrap();
        assert_eq!(defects.get("A").unwrap(), "It is wrong, and not a little.");
        let always =
            |labels: &[&str]| defects.always(&labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>());
        assert_eq!([always(&["A"]), always(&["B?"]), always(&["A", "B?"]), always(&[])], [true, false, false, false]);
        for wrong in [
            "defect A\n",
            "  text\n",
            "defect A often\n  x\n",
            "defect A?\n  x\n",
            "defect A\n  x\ndefect A\n  y\n",
            "A\n",
        ] {
            assert!(Defects::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cases_and_list_agree() {
        let defects = Defects::parse(LIST).unwrap();
        let check = |text: &str| defects.check([("f", &file(text))].into_iter());
        assert_eq!(check("defect A B?\n"), Ok(()));
        assert_eq!(check("defect A\n"), Err("no case names the defect B, which is listed".into()));
        assert_eq!(check("defect A B C\n"), Err("f.case, line 3: the defect C is not listed".into()));
    }
}
