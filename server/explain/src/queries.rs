//! Reads queries: one from the command line, or many from a file, as text or as JSON.

use std::path::Path;

use anyhow::{Context, Result, bail};
use zql_spec::ast::Ast;
use zql_spec::json::Json;
use zql_spec::query_text;
use zql_spec::zero_schema::ZeroSchema;

use crate::arguments::Explain;

/// A query with what it is called.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Its name, if there are several.
    pub(crate) name: Option<String>,
    /// Where it stands, if that is in a file: `line 3`.
    pub(crate) place: Option<String>,
    /// The query, in the server's names, as it is run.
    pub(crate) ast: Ast,
    /// As it was asked, if permissions or claims were put into it.
    pub(crate) asked: Option<Ast>,
    /// What is to be kept in mind already.
    pub(crate) warnings: Vec<String>,
    /// Its canonical text in the names that it was written with, if it was text.
    pub(crate) zql: Option<String>,
}

impl Named {
    fn of(ast: Ast) -> Named {
        Named { name: None, place: None, ast, asked: None, warnings: Vec::new(), zql: None }
    }

    /// What to call it in a message.
    pub(crate) fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| "the query".to_owned())
    }
}

/// A query that cannot be read or explained. The others of its file are explained nevertheless.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Its name, if there are several.
    pub(crate) name: Option<String>,
    /// Where it stands.
    pub(crate) place: Option<String>,
    /// What is wrong with it.
    pub(crate) error: anyhow::Error,
}

impl Fault {
    /// What is wrong with a query that could be read.
    pub(crate) fn of(query: &Named, error: anyhow::Error) -> Fault {
        Fault { name: query.name.clone(), place: query.place.clone(), error }
    }

    /// One error of all faults, for when there is nothing else to tell.
    pub(crate) fn all(faults: Vec<Fault>) -> anyhow::Error {
        let single = faults.len() == 1;
        let mut faults = faults.into_iter();
        match faults.next() {
            Some(fault) if single && fault.place.is_none() => fault.error,
            first => {
                let lines: Vec<String> = first.into_iter().chain(faults).map(|fault| fault.to_string()).collect();
                anyhow::Error::msg(lines.join("\n"))
            }
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Some(place) => write!(formatter, "{place}: {:#}", self.error),
            None => write!(formatter, "{:#}", self.error),
        }
    }
}

/// Queries, and what is none.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    pub(crate) good: Vec<Named>,
    pub(crate) bad: Vec<Fault>,
}

impl Queries {
    fn add(&mut self, name: Option<String>, place: Option<String>, read: Result<Named>) {
        match read {
            Ok(query) => self.good.push(Named { name, place, ..query }),
            Err(error) => self.bad.push(Fault { name, place, error }),
        }
    }

    fn len(&self) -> usize {
        self.good.len() + self.bad.len()
    }
}

/// The queries that the arguments name: at least one.
pub(crate) fn read_queries(arguments: &Explain) -> Result<Queries> {
    let schema = read_schema(arguments)?;
    if let Some(text) = &arguments.query {
        let mut queries = Queries::default();
        queries.add(None, None, from_text(text, "the query", schema.as_ref()));
        return Ok(queries);
    }
    if let Some(json) = arguments.ast.as_ref().and_then(|ast| ast.to_str()).filter(|ast| is_json(ast)) {
        return from_json(json).context("read the query after --ast");
    }
    match arguments.ast.as_ref().or(arguments.file.as_ref()) {
        Some(file) => read_file(file, schema.as_ref()),
        None => bail!("give a query: --query ZQL, --ast FILE or --file FILE"),
    }
}

/// The schema that texts are written against.
pub(crate) fn read_schema(arguments: &Explain) -> Result<Option<ZeroSchema>> {
    let Some(file) = &arguments.schema else { return Ok(None) };
    let read = || {
        let json = Json::parse(&std::fs::read_to_string(file)?)?;
        // What `export const schema` of a module prints as.
        Ok::<_, anyhow::Error>(ZeroSchema::parse(json.get("schema").unwrap_or(&json))?)
    };
    read().with_context(|| format!("read the schema {}", file.display())).map(Some)
}

/// All queries of a file: at least one.
pub(crate) fn read_file(file: &Path, schema: Option<&ZeroSchema>) -> Result<Queries> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let queries = if is_json(&text) { from_json(&text) } else { Ok(from_texts(&text, schema)) };
    let mut queries = queries.with_context(|| format!("read the queries in {}", file.display()))?;
    let places = queries.good.iter_mut().map(|query| &mut query.place);
    for place in places.chain(queries.bad.iter_mut().map(|fault| &mut fault.place)) {
        let within = place.as_ref().map_or_else(String::new, |place| format!(", {place}"));
        *place = Some(format!("{}{within}", file.display()));
    }
    if queries.len() == 0 {
        bail!("there is no query in {}", file.display());
    }
    Ok(queries)
}

/// Whether a text is meant as JSON rather than as ZQL.
fn is_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '['])
}

/// Texts that end in `;`. A line that begins with `//` is the name of the query that follows.
fn from_texts(text: &str, schema: Option<&ZeroSchema>) -> Queries {
    let is_comment = |line: &str| line.trim_start().starts_with("//");
    let mut queries = Queries::default();
    for (number, (begin, part)) in statements(text).into_iter().enumerate() {
        let comment = part.lines().rev().find_map(|line| line.trim().strip_prefix("//"));
        let query: Vec<&str> = part.lines().filter(|line| !is_comment(line)).collect();
        let query = query.join("\n");
        if query.trim().is_empty() {
            continue;
        }
        let before = part.lines().take_while(|line| is_comment(line) || line.trim().is_empty()).count();
        let line = text[..begin].matches('\n').count() + before + 1;
        let name = comment.map_or_else(|| format!("query {}", number + 1), |comment| comment.trim().to_owned());
        let read = from_text(&query, &name, schema);
        queries.add(Some(name), Some(format!("line {line}")), read);
    }
    queries
}

/// Splits at semicolons outside of quotes; gives where each part begins.
fn statements(text: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut begin, mut quote, mut escaped, mut comment) = (Vec::new(), 0, None, false, false);
    let mut before = '\n';
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if comment => comment = c != '\n',
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"' | '`') => quote = Some(c),
            (None, '/') if before == '/' => comment = true,
            (None, ';') => {
                parts.push((begin, &text[begin..at]));
                begin = at + 1;
            }
            (None, _) => {}
        }
        before = c;
    }
    parts.push((begin, &text[begin..]));
    parts
}

fn from_text(text: &str, name: &str, schema: Option<&ZeroSchema>) -> Result<Named> {
    let what = || format!("{name} cannot be read");
    let typed = match schema {
        Some(schema) => query_text::parse_with(text, schema).with_context(what)?,
        None => query_text::parse(text).with_context(what)?,
    };
    let zql = query_text::canonical(&typed.ast, &typed.format);
    let ast = match schema {
        Some(schema) => schema.to_server(&typed.ast).with_context(what)?,
        None => typed.ast,
    };
    Ok(Named { zql: Some(zql), ..Named::of(ast) })
}

/// One AST, a list of them, an object that names them, or one a line. An entry may be `{"name": …, "ast": …}`.
fn from_json(text: &str) -> Result<Queries> {
    let mut queries = Queries::default();
    let json = match Json::parse(text) {
        Ok(json) => json,
        Err(error) => {
            let lines = || text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            // What begins with a whole document is a file of documents, one of which may be broken.
            if lines().count() < 2 || lines().next().is_none_or(|(_, first)| Json::parse(first).is_err()) {
                return Err(error.into());
            }
            for (number, (line, text)) in lines().enumerate() {
                let name = format!("query {}", number + 1);
                let place = Some(format!("line {}", line + 1));
                match Json::parse(text) {
                    Ok(json) => entry(&mut queries, &json, Some(name), place),
                    Err(error) => queries.add(Some(name), place, Err(error.into())),
                }
            }
            return Ok(queries);
        }
    };
    match &json {
        Json::Array(list) if list.len() == 1 => entry(&mut queries, &list[0], None, None),
        Json::Array(list) => {
            for (number, json) in list.iter().enumerate() {
                let name = format!("query {}", number + 1);
                entry(&mut queries, json, Some(name), Some(format!("entry {}", number + 1)));
            }
        }
        Json::Object(_) if json.get("table").is_some_and(|table| table.as_str().is_some()) => {
            entry(&mut queries, &json, None, None);
        }
        Json::Object(entries) => {
            entries.iter().for_each(|(name, json)| entry(&mut queries, json, Some(name.to_string()), None));
        }
        _ => bail!("expected a query, a list of queries or an object of queries"),
    }
    Ok(queries)
}

fn entry(queries: &mut Queries, json: &Json, name: Option<String>, place: Option<String>) {
    let own = json.get("name").and_then(Json::as_str).map(str::to_owned);
    // A single query needs no name of its own.
    let name = if name.is_some() { own.or(name) } else { None };
    let what = || format!("{} is no query", name.as_deref().unwrap_or("the query"));
    let read = Ast::parse_lenient(json.get("ast").unwrap_or(json)).with_context(what);
    queries.add(name, place, read.map(Named::of));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(queries: &Queries) -> Vec<(Option<&str>, Option<&str>, Option<&str>)> {
        queries.good.iter().map(|query| (query.name.as_deref(), query.place.as_deref(), query.zql.as_deref())).collect()
    }

    #[test]
    fn texts_end_in_semicolons() {
        let text = "// first; of all\nissue.where('a', 'x;y').limit(1);\n\nuser;// empty\n;  ";
        assert_eq!(
            told(&from_texts(text, None)),
            [
                (Some("first; of all"), Some("line 2"), Some("issue.where('a', 'x;y').limit(1)")),
                (Some("query 2"), Some("line 4"), Some("user")),
            ]
        );
    }

    #[test]
    fn what_is_none_does_not_hide_the_others() {
        let texts = from_texts("a;\n// broken\n\nb.where(;\nc", None);
        assert_eq!((texts.good.len(), texts.bad.len()), (2, 1));
        assert!(texts.bad[0].to_string().starts_with("line 4: broken cannot be read: "), "{}", texts.bad[0]);
        for (text, fault) in [
            (r#"[{"table":"a"},1]"#, "entry 2: query 2 is no query"),
            ("{\"table\":\"a\"}\n{\"table\":", "line 2: "),
            (r#"{"x":{"table":"a"},"y":{}}"#, "y is no query"),
        ] {
            let queries = from_json(text).unwrap();
            assert_eq!((queries.good.len(), queries.bad.len()), (1, 1), "{text}");
            assert!(queries.bad[0].to_string().starts_with(fault), "{}", queries.bad[0]);
        }
    }

    #[test]
    fn json_comes_in_many_forms() {
        let names = |text: &str| -> Vec<Option<String>> {
            from_json(text).unwrap().good.into_iter().map(|query| query.name).collect()
        };
        assert_eq!(names(r#"{"table":"issue"}"#), [None]);
        assert_eq!(
            names(r#"[{"table":"a"},{"name":"b","ast":{"table":"b"}}]"#),
            [Some("query 1".into()), Some("b".into())]
        );
        assert_eq!(names(r#"{"mine":{"table":"a"},"all":{"table":"b"}}"#), [Some("mine".into()), Some("all".into())]);
        assert_eq!(names("{\"table\":\"a\"}\n{\"table\":\"b\"}\n"), [Some("query 1".into()), Some("query 2".into())]);
        assert!(from_json("{").is_err() && from_json("[1").is_err());
    }
}
