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
    /// The query, in the server's names.
    pub(crate) ast: Ast,
    /// Its canonical text in the names that it was written with, if it was text.
    pub(crate) zql: Option<String>,
}

impl Named {
    /// What to call it in a message.
    pub(crate) fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| "the query".to_owned())
    }
}

/// The queries that the arguments name: at least one.
pub(crate) fn read_queries(arguments: &Explain) -> Result<Vec<Named>> {
    let schema = read_schema(arguments)?;
    let queries = match (&arguments.query, arguments.ast.as_ref().or(arguments.file.as_ref())) {
        (Some(text), _) => vec![from_text(text, None, schema.as_ref())?],
        (None, Some(file)) => read_file(file, schema.as_ref())?,
        (None, None) => bail!("give a query: --query ZQL, --ast FILE or --file FILE"),
    };
    if queries.is_empty() {
        bail!("there is no query in the file");
    }
    Ok(queries)
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

/// All queries of a file.
pub(crate) fn read_file(file: &Path, schema: Option<&ZeroSchema>) -> Result<Vec<Named>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let queries = if text.trim_start().starts_with(['{', '[']) { from_json(&text) } else { from_texts(&text, schema) };
    queries.with_context(|| format!("read the queries in {}", file.display()))
}

/// Texts that end in `;`. A line that begins with `//` is the name of the query that follows.
fn from_texts(text: &str, schema: Option<&ZeroSchema>) -> Result<Vec<Named>> {
    let mut queries = Vec::new();
    for (number, part) in statements(text).into_iter().enumerate() {
        let comment = part.lines().rev().find_map(|line| line.trim().strip_prefix("//"));
        let query: Vec<&str> = part.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let query = query.join("\n");
        if query.trim().is_empty() {
            continue;
        }
        let name = comment.map_or_else(|| format!("query {}", number + 1), |comment| comment.trim().to_owned());
        queries.push(from_text(&query, Some(name), schema)?);
    }
    Ok(queries)
}

/// Splits at semicolons outside of quotes.
fn statements(text: &str) -> Vec<&str> {
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
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            (None, _) => {}
        }
        before = c;
    }
    parts.push(&text[begin..]);
    parts
}

fn from_text(text: &str, name: Option<String>, schema: Option<&ZeroSchema>) -> Result<Named> {
    let what = || format!("{} cannot be read", name.as_deref().unwrap_or("the query"));
    let typed = match schema {
        Some(schema) => query_text::parse_with(text, schema).with_context(what)?,
        None => query_text::parse(text).with_context(what)?,
    };
    let zql = query_text::print(&typed.ast, &typed.format);
    let ast = match schema {
        Some(schema) => schema.to_server(&typed.ast)?,
        None => typed.ast,
    };
    Ok(Named { name, ast, zql: Some(zql) })
}

/// One AST, a list of them, an object that names them, or one a line. An entry may be `{"name": …, "ast": …}`.
fn from_json(text: &str) -> Result<Vec<Named>> {
    let json = match Json::parse(text) {
        Ok(json) => json,
        Err(error) => {
            let lines: Option<Vec<Json>> =
                text.lines().filter(|line| !line.trim().is_empty()).map(|line| Json::parse(line).ok()).collect();
            Json::Array(lines.ok_or(error)?)
        }
    };
    let numbered = |(number, json): (usize, &Json)| entry(json, format!("query {}", number + 1));
    match &json {
        Json::Array(list) if list.len() == 1 => Ok(vec![Named { name: None, ..entry(&list[0], String::new())? }]),
        Json::Array(list) => list.iter().enumerate().map(numbered).collect(),
        Json::Object(_) if json.get("table").is_some_and(|table| table.as_str().is_some()) => {
            Ok(vec![Named { name: None, ..entry(&json, "the query".to_owned())? }])
        }
        Json::Object(entries) => entries.iter().map(|(name, json)| entry(json, name.to_string())).collect(),
        _ => bail!("expected a query, a list of queries or an object of queries"),
    }
}

fn entry(json: &Json, name: String) -> Result<Named> {
    let name = json.get("name").and_then(Json::as_str).map_or(name, str::to_owned);
    let ast = json.get("ast").unwrap_or(json);
    let ast = Ast::parse_lenient(ast).with_context(|| format!("{name} is no query"))?;
    Ok(Named { name: Some(name), ast, zql: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_end_in_semicolons() {
        let text = "// first; of all\nissue.where('a', 'x;y').limit(1);\n\nuser;// empty\n;  ";
        let queries = from_texts(text, None).unwrap();
        let told: Vec<(Option<&str>, Option<&str>)> =
            queries.iter().map(|query| (query.name.as_deref(), query.zql.as_deref())).collect();
        assert_eq!(
            told,
            [(Some("first; of all"), Some("issue.where('a', 'x;y').limit(1)")), (Some("query 2"), Some("user")),]
        );
    }

    #[test]
    fn json_comes_in_many_forms() {
        let names = |text: &str| -> Vec<Option<String>> {
            from_json(text).unwrap().into_iter().map(|query| query.name).collect()
        };
        assert_eq!(names(r#"{"table":"issue"}"#), [None]);
        assert_eq!(
            names(r#"[{"table":"a"},{"name":"b","ast":{"table":"b"}}]"#),
            [Some("query 1".into()), Some("b".into())]
        );
        assert_eq!(names(r#"{"mine":{"table":"a"},"all":{"table":"b"}}"#), [Some("mine".into()), Some("all".into())]);
        assert_eq!(names("{\"table\":\"a\"}\n{\"table\":\"b\"}\n"), [Some("query 1".into()), Some("query 2".into())]);
        assert!(from_json("[1]").is_err());
    }
}
