//! `zql watch`: a terminal client of any Zero server.
//!
//! Follows one query and shows its rows as they change, with what each poke was and how long it took, or prints a line of
//! JSON per event for scripts. It comes back with its cookie after a lost connection, as a browser does.

mod events;
mod follow;
mod screen;
mod view;

use anyhow::{Context, Result, bail};
use clap::Args;
use protocol_client::{Hello, Identity};
use zql_spec::ast::Ast;
use zql_spec::json::Json;
use zql_spec::protocol::upstream::DesiredOp;

pub use follow::{End, Options, follow};

/// Follow a query of any Zero server in the terminal.
#[derive(Debug, Args)]
pub struct Watch {
    /// The server: http://host:port, https://host, or with one path segment.
    url: String,
    /// The query: an AST as JSON, or text such as "issue.where('open', true).orderBy('modified', 'desc').limit(10)",
    /// both with the server's names. A server only answers these when its permissions allow it.
    #[arg(required_unless_present = "name", conflicts_with = "name")]
    query: Option<String>,
    /// A named query of the application, instead of a query.
    #[arg(long)]
    name: Option<String>,
    /// The named query's arguments, a JSON array.
    #[arg(long, default_value = "[]", requires = "name")]
    args: String,
    /// The client schema as JSON or @FILE: tables with columns and primary keys. Without it, keys are guessed.
    #[arg(long, default_value = r#"{"tables":{}}"#)]
    schema: String,
    /// Join this client group instead of a new one.
    #[arg(long)]
    client_group: Option<String>,
    /// Be this client instead of a new one.
    #[arg(long)]
    client: Option<String>,
    /// The user to connect as.
    #[arg(long)]
    user: Option<String>,
    /// The user's token.
    #[arg(long)]
    auth: Option<String>,
    /// Where the server shall ask for named queries, if it allows that.
    #[arg(long)]
    query_url: Option<String>,
    /// Print a line of JSON for every event.
    #[arg(long)]
    json: bool,
    /// End as soon as the query is complete.
    #[arg(long)]
    once: bool,
}

impl Watch {
    /// Runs until the user ends it, the query is complete (`--once`) or the server refuses for good.
    ///
    /// # Errors
    /// When the arguments make no query or the server refuses.
    pub async fn run(self) -> Result<()> {
        let schema = match self.schema.strip_prefix('@') {
            Some(file) => std::fs::read_to_string(file).with_context(|| format!("read the schema {file}"))?,
            None => self.schema.clone(),
        };
        serde_json::from_str::<serde_json::Value>(&schema).context("the schema is not JSON")?;
        let (query, ast) = self.query()?;
        let mut identity = Identity::fresh(&self.url);
        identity.client_group_id = self.client_group.unwrap_or(identity.client_group_id);
        identity.client_id = self.client.unwrap_or(identity.client_id);
        identity.user_id = self.user;
        identity.auth = self.auth;
        let options = Options {
            identity,
            query,
            ast,
            schema,
            query_url: self.query_url,
            json: self.json,
            end: if self.once { End::Complete } else { End::Never },
            heading: Vec::new(),
        };
        tokio::select! {
            result = follow(options) => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    }

    fn query(&self) -> Result<(DesiredOp, Option<Ast>)> {
        if let Some(name) = &self.name {
            let args = Json::parse(&self.args).context("the arguments are not JSON")?;
            if args.as_array().is_none() {
                bail!("the arguments are not a JSON array: {}", self.args);
            }
            return Ok((Hello::named(name, &self.args), None));
        }
        let text = self.query.as_deref().unwrap_or_default();
        let ast = if text.trim_start().starts_with('{') {
            Ast::parse_lenient(&Json::parse(text).context("the query is not JSON")?)?
        } else {
            zql_spec::query_text::parse(text).context("the query cannot be read")?.ast
        };
        let mut json = String::new();
        ast.to_json().write(&mut json);
        Ok((Hello::ast(&json), Some(ast)))
    }
}
