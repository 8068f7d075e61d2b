//! Whose queries are explained: deployed permissions and the claims of a user, put into queries as the server does it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use zql_spec::json::Json;
use zql_spec::permissions::{NO_AUTH_DATA, Permissions};
use zql_spec::static_params::StaticParams;

use crate::arguments::Explain;
use crate::queries::{Fault, Named, Queries};
use crate::sources::Source;

/// What is put into queries.
#[derive(Debug, Default)]
pub(crate) struct Access {
    permissions: Option<Permissions>,
    claims: Option<Json>,
}

impl Access {
    /// What the arguments say; permissions that are in no file come from the source.
    pub(crate) fn read(arguments: &Explain, source: Option<&Source>) -> Result<Access> {
        let claims = arguments.auth_data.as_deref().map(Json::parse).transpose().context("read --auth-data")?;
        let permissions = match (&arguments.apply_permissions, source) {
            (None, _) => None,
            (Some(Some(file)), _) => Some(from_file(file)?),
            (Some(None), Some(source)) => Some(from_replica(source, &arguments.app_id)?),
            (Some(None), None) => {
                bail!("two replicas may have two sets of permissions: --apply-permissions=FILE names one")
            }
        };
        Ok(Access { permissions, claims })
    }

    /// Puts it into all queries; those that lack something are none.
    pub(crate) fn apply(&self, queries: Queries) -> Queries {
        let Queries { good, mut bad } = queries;
        let mut applied = Vec::with_capacity(good.len());
        for query in good {
            match self.of(&query) {
                Ok(query) => applied.push(query),
                Err(error) => bad.push(Fault::of(&query, error)),
            }
        }
        Queries { good: applied, bad }
    }

    fn of(&self, query: &Named) -> Result<Named> {
        let mut ast = query.ast.clone();
        let mut warnings = Vec::new();
        if let Some(permissions) = &self.permissions {
            if *permissions == Permissions::default() {
                warnings.push("no permissions are deployed: the query is not narrowed".to_owned());
            } else {
                permissions.apply(&mut ast);
                if self.claims.is_none() {
                    warnings.push(NO_AUTH_DATA.to_owned());
                }
            }
        }
        let narrowed = ast.clone();
        StaticParams { auth_data: self.claims.as_ref(), pre_mutation_row: None }.bind(&mut ast);
        if self.claims.is_none() && self.permissions.is_none() && ast != narrowed {
            bail!("{} has parameters for claims of a user: --auth-data gives them", query.label());
        }
        let asked = (ast != query.ast).then(|| query.ast.clone());
        Ok(Named { ast, asked, warnings, ..query.clone() })
    }
}

fn from_file(file: &Path) -> Result<Permissions> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    Permissions::parse(&text).map_err(anyhow::Error::msg).with_context(|| format!("read {}", file.display()))
}

/// The document that is deployed, as it was replicated.
fn from_replica(source: &Source, app_id: &str) -> Result<Permissions> {
    let Some(replica) = source.replica() else {
        bail!("statistics have no permissions: --apply-permissions=FILE names a document");
    };
    let table = format!("{app_id}.permissions");
    if !replica.tables().iter().any(|spec| spec.name == table) {
        bail!("the replica has no table {table}: --app-id names another app, --apply-permissions=FILE a document");
    }
    let connection = rusqlite::Connection::open_with_flags(source.path(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sql = format!("SELECT permissions FROM \"{}\"", table.replace('"', "\"\""));
    let mut statement = connection.prepare(&sql)?;
    let document = statement.query([])?.next()?.map(|row| row.get::<_, Option<String>>(0)).transpose()?.flatten();
    document.map_or_else(|| Ok(Permissions::default()), |text| Permissions::parse(&text).map_err(anyhow::Error::msg))
}
