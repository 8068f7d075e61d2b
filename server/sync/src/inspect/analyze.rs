//! `analyze-query`: how a query would be answered, said by the planner.
//!
//! The planner is behind [`Explain`], because this crate must not know it. An analysis runs the query, so they run one at a
//! time and beside the groups, whose clients wait for nothing.

use std::sync::Arc;

use tokio::sync::Semaphore;
use zql_spec::ast::Ast;
use zql_spec::json::Json;
use zql_spec::permissions::NO_AUTH_DATA;
use zql_spec::protocol::inspect::{AnalyzeOptions, AnalyzeQuery};
use zql_spec::static_params::StaticParams;

use crate::api::{Caller, NamedQuery, QueryResult};
use crate::hub::Services;
use crate::permissions::{Permissions, live};

/// Analyses at a time: each runs a whole query, perhaps a bad one.
const AT_ONCE: usize = 1;

/// A query to explain, as it would be run.
#[derive(Debug)]
pub struct Analysis {
    /// With server names.
    pub ast: Ast,
    /// Whether deployed permissions were added to it.
    pub permitted: bool,
    /// What is to be kept in mind already.
    pub warnings: Vec<String>,
    /// What is wanted besides counts.
    pub options: AnalyzeOptions,
}

/// Who can explain queries.
pub trait Explain: Send + Sync {
    /// Runs and explains a query; gives the JSON text of the answer's value. Blocks.
    ///
    /// # Errors
    /// For people: what is wrong with the query.
    fn explain(&self, analysis: &Analysis) -> Result<String, String>;
}

/// The explainer, and the queue before it.
pub(crate) struct Analyzer {
    pub(crate) explain: Arc<dyn Explain>,
    turn: Semaphore,
}

impl Analyzer {
    pub(crate) fn new(explain: Arc<dyn Explain>) -> Analyzer {
        Analyzer { explain, turn: Semaphore::new(AT_ONCE) }
    }
}

impl std::fmt::Debug for Analyzer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Analyzer").finish_non_exhaustive()
    }
}

/// Answers a request; the error is for people.
pub(crate) async fn analyze(
    services: &Services,
    caller: &Caller,
    claims: Option<&Json>,
    request: AnalyzeQuery,
) -> Result<String, String> {
    let AnalyzeQuery { ast, named, options } = request;
    let analysis = match (named, ast) {
        (Some((name, args)), _) => {
            let ast = transform(services, caller, &name, args.get()).await?;
            Analysis { ast, permitted: false, warnings: Vec::new(), options }
        }
        (None, Some(ast)) => permitted(services, parse(ast.get())?, claims, options).await?,
        (None, None) => {
            return Err(
                "AST is required for analyze-query operation. Either provide an AST directly or ensure custom \
                        query transformation is configured."
                    .to_owned(),
            );
        }
    };
    let Some(analyzer) = services.access.analyzer() else {
        return Err("this server has no planner to ask".to_owned());
    };
    let _turn = analyzer.turn.acquire().await.map_err(|error| error.to_string())?;
    let explain = Arc::clone(&analyzer.explain);
    let explained = tokio::task::spawn_blocking(move || explain.explain(&analysis)).await;
    explained.map_err(|error| error.to_string())?
}

fn parse(text: &str) -> Result<Ast, String> {
    let json = Json::parse(text).map_err(|error| error.to_string())?;
    Ast::parse_lenient(&json).map_err(|error| error.to_string())
}

/// What the API server makes of a named query. It is not subject to permissions.
async fn transform(services: &Services, caller: &Caller, name: &str, args: &str) -> Result<Ast, String> {
    let Some(api) = &services.api else {
        return Err("ZERO_QUERY_URL is not set: named queries cannot be analyzed".to_owned());
    };
    let query = NamedQuery { id: "analyze-query".into(), name: name.into(), args: args.into() };
    let answer = api.transform(caller, &[query]).await.map_err(|error| error.message)?;
    match answer.results.into_iter().next() {
        Some(QueryResult::Ast { ast, .. }) => parse(ast.get()),
        Some(QueryResult::Error(error)) => {
            Err(error.message.unwrap_or_else(|| format!("the API server refused the query {name}")))
        }
        None => Err(format!("the API server said nothing about the query {name}")),
    }
}

/// A client's own AST: narrowed to what may be read, if permissions are deployed.
async fn permitted(
    services: &Services,
    mut ast: Ast,
    claims: Option<&Json>,
    options: AnalyzeOptions,
) -> Result<Analysis, String> {
    let deployed = live::current(&services.permissions, &services.clock)
        .await
        .ok_or("the deployed permissions cannot be read now")?;
    let permissions = deployed.map_err(|error| error.to_string())?;
    let permitted = *permissions != Permissions::default();
    let mut warnings = Vec::new();
    if permitted {
        permissions.apply(&mut ast);
        StaticParams { auth_data: claims, pre_mutation_row: None }.bind(&mut ast);
        if claims.is_none() {
            warnings.push(NO_AUTH_DATA.to_owned());
        }
    }
    Ok(Analysis { ast, permitted, warnings, options })
}
