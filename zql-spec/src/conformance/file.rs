//! Files of cases; the format is described in `zql-spec/cases/README.md`.
//!
//! Reading and writing are inverse, so that filling in expectations changes nothing else in a file.

use super::CaseError;
use crate::json::Json;

/// A file of cases that share a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseFile {
    /// Comment lines above all.
    pub comments: Vec<String>,
    /// The data set's name.
    pub data: String,
    /// The cases.
    pub cases: Vec<Case>,
}

/// A query, what it gives, and what transactions change in that.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The line of its name.
    pub line: usize,
    /// Comment lines above it.
    pub comments: Vec<String>,
    /// What it shows; distinct within a file.
    pub name: String,
    /// Defects of the reference because of which it does not pass there; with a `?` behind: not always.
    pub defects: Vec<String>,
    /// The query, as fluent text or JSON; may have several lines.
    pub query: String,
    /// The claims of the user who asks, to which static parameters are bound; without them, nobody binds any.
    pub claims: Option<Json>,
    /// The first answer; none until it is filled in.
    pub answer: Option<Expected>,
    /// What happens then.
    pub steps: Vec<Step>,
}

/// What a query gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Rows, a line each.
    Rows(Vec<String>),
    /// An error with this text.
    Refused(String),
}

/// A transaction and what it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it shows; may be empty.
    pub note: String,
    /// Its operations, a line each.
    pub operations: Vec<String>,
    /// The change, a line each; none until it is filled in.
    pub change: Option<Vec<String>>,
}

/// What stands for an empty list.
const NOTHING: &str = "none";

impl CaseFile {
    /// Reads a file.
    ///
    /// # Errors
    /// With the line that is out of place.
    pub fn parse(text: &str) -> Result<CaseFile, CaseError> {
        let mut reader = Reader { lines: text.lines().enumerate().peekable() };
        let above = reader.comments();
        let (line, data) = reader.heading("data")?.ok_or_else(|| CaseError::new(1, "expected `data NAME`"))?;
        if data.is_empty() {
            return Err(CaseError::new(line, "expected the name of a data set"));
        }
        let mut cases: Vec<Case> = Vec::new();
        loop {
            let comments = reader.comments();
            let Some((line, name)) = reader.heading("case")? else {
                return match (reader.lines.next(), comments.is_empty()) {
                    (Some((at, text)), _) => Err(CaseError::new(at + 1, format!("expected `case NAME`, not {text:?}"))),
                    (None, false) => Err(CaseError::new(0, "comments after the last case")),
                    (None, true) => Ok(CaseFile { comments: above, data, cases }),
                };
            };
            if name.is_empty() || cases.iter().any(|case| case.name == name) {
                return Err(CaseError::new(line, "a case has a name of its own"));
            }
            cases.push(reader.case(line, comments, name)?);
        }
    }

    /// The text of the file.
    pub fn print(&self) -> String {
        let mut out = String::new();
        let mut line = |text: &str| {
            out.push_str(text);
            out.push('\n');
        };
        self.comments.iter().for_each(|comment| line(comment));
        line(&format!("data {}", self.data));
        for case in &self.cases {
            line("");
            case.comments.iter().for_each(|comment| line(comment));
            line(&format!("case {}", case.name));
            case.query.lines().for_each(|text| line(&format!("  {text}")));
            if let Some(claims) = &case.claims {
                line(&format!("claims {claims}"));
            }
            if !case.defects.is_empty() {
                line(&format!("defect {}", case.defects.join(" ")));
            }
            match &case.answer {
                Some(Expected::Rows(rows)) => {
                    line("rows");
                    indented(rows, &mut line);
                }
                Some(Expected::Refused(text)) => {
                    line("refused");
                    line(&format!("  {text}"));
                }
                None => {}
            }
            for step in &case.steps {
                line(format!("transaction {}", step.note).trim_end());
                indented(&step.operations, &mut line);
                if let Some(change) = &step.change {
                    line("change");
                    indented(change, &mut line);
                }
            }
        }
        out
    }
}

fn indented(lines: &[String], line: &mut impl FnMut(&str)) {
    if lines.is_empty() {
        line(&format!("  {NOTHING}"));
    }
    lines.iter().for_each(|text| line(&format!("  {text}")));
}

struct Reader<'a> {
    lines: std::iter::Peekable<std::iter::Enumerate<std::str::Lines<'a>>>,
}

impl Reader<'_> {
    /// Comment lines; blank ones are passed over.
    fn comments(&mut self) -> Vec<String> {
        let mut comments = Vec::new();
        while let Some((_, text)) = self.lines.next_if(|(_, text)| text.starts_with('#') || text.trim().is_empty()) {
            if !text.trim().is_empty() {
                comments.push(text.trim_end().to_owned());
            }
        }
        comments
    }

    /// A line that begins with a word, if it is next: its number and what follows the word.
    fn heading(&mut self, word: &str) -> Result<Option<(usize, String)>, CaseError> {
        let is = |text: &str| text.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
        let found = self.lines.next_if(|(_, text)| is(text));
        Ok(found.map(|(at, text)| (at + 1, text[word.len()..].trim().to_owned())))
    }

    /// Indented lines; `none` stands for no line.
    fn block(&mut self) -> Vec<String> {
        let mut block = Vec::new();
        while let Some((_, text)) = self.lines.next_if(|(_, text)| text.starts_with("  ")) {
            block.push(text[2..].trim_end().to_owned());
        }
        if block == [NOTHING] {
            block.clear();
        }
        block
    }

    fn case(&mut self, line: usize, comments: Vec<String>, name: String) -> Result<Case, CaseError> {
        let query = self.block().join("\n");
        if query.is_empty() {
            return Err(CaseError::new(line, "a case has a query"));
        }
        let claims = match self.heading("claims")? {
            Some((at, text)) => match Json::parse(&text) {
                Ok(claims) if claims.as_object().is_some() => Some(claims),
                _ => return Err(CaseError::new(at, "claims are an object in JSON")),
            },
            None => None,
        };
        let defects = match self.heading("defect")? {
            Some((_, defects)) => defects.split_whitespace().map(str::to_owned).collect(),
            None => Vec::new(),
        };
        let answer = if self.heading("rows")?.is_some() {
            Some(Expected::Rows(self.block()))
        } else if self.heading("refused")?.is_some() {
            Some(Expected::Refused(self.block().join("\n")))
        } else {
            None
        };
        let mut steps = Vec::new();
        while let Some((_, note)) = self.heading("transaction")? {
            let operations = self.block();
            let change = if self.heading("change")?.is_some() { Some(self.block()) } else { None };
            steps.push(Step { note, operations, change });
        }
        Ok(Case { line, comments, name, defects, query, claims, answer, steps })
    }
}
