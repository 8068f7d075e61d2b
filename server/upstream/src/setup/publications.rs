//! The publications a shard replicates: those configured, or all tables of schema `public`; and always
//! the one of the shard's own tables.

use tokio_postgres::Client;
use tracing::info;

use crate::error::{Error, describe};
use crate::names::{Names, ident};

/// Creates what is missing and returns all names, sorted.
///
/// # Errors
/// [`Error::Config`] when a configured publication is missing, does not publish all operations, or the
/// default one cannot be created.
pub(crate) async fn ensure(client: &Client, names: &Names, requested: &[String]) -> Result<Vec<String>, Error> {
    let metadata = names.metadata_publication();
    let mut all = vec![metadata.clone()];
    if requested.is_empty() {
        let default = names.default_publication();
        if !exists(client, &default).await? {
            create_default(client, &default).await?;
        }
        all.push(default);
    } else {
        check_requested(client, requested).await?;
        all.extend(requested.iter().cloned());
    }
    if !exists(client, &metadata).await? {
        let statement = format!(
            "CREATE PUBLICATION {} FOR TABLE {}.\"permissions\", TABLE {}.\"clients\", TABLE {}.\"mutations\"",
            ident(&metadata),
            ident(&names.app),
            ident(&names.shard),
            ident(&names.shard)
        );
        client.batch_execute(&statement).await.map_err(Error::postgres("create the shard's publication"))?;
    }
    all.sort();
    all.dedup();
    Ok(all)
}

/// Which of these publications exist.
pub(crate) async fn existing(client: &Client, names: &[String]) -> Result<Vec<String>, Error> {
    let rows = client
        .query("SELECT pubname::text FROM pg_catalog.pg_publication WHERE pubname = ANY ($1) ORDER BY 1", &[&names])
        .await
        .map_err(Error::postgres("read the publications"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn exists(client: &Client, name: &str) -> Result<bool, Error> {
    Ok(!existing(client, &[name.to_owned()]).await?.is_empty())
}

async fn create_default(client: &Client, name: &str) -> Result<(), Error> {
    info!(publication = name, "publishing all tables of schema public");
    let statement = format!(
        "CREATE PUBLICATION {} FOR TABLES IN SCHEMA public WITH (publish_via_partition_root = true)",
        ident(name)
    );
    client.batch_execute(&statement).await.map_err(|error| {
        if error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) {
            return Error::Config(format!(
                "cannot publish all tables of schema public: {}. Create a publication of your tables as their owner \
                 and name it in ZERO_APP_PUBLICATIONS",
                describe(&error)
            ));
        }
        Error::Postgres { context: "create the default publication".to_owned(), source: error }
    })
}

async fn check_requested(client: &Client, requested: &[String]) -> Result<(), Error> {
    let rows = client
        .query(
            "SELECT pubname::text, pubinsert AND pubupdate AND pubdelete AND pubtruncate
               FROM pg_catalog.pg_publication WHERE pubname = ANY ($1) ORDER BY 1",
            &[&requested],
        )
        .await
        .map_err(Error::postgres("read the publications of ZERO_APP_PUBLICATIONS"))?;
    let found: Vec<(String, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    if requested.iter().any(|name| !found.iter().any(|(existing, _)| existing == name)) {
        let found: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        return Err(Error::Config(format!(
            "Unknown or invalid publications. Specified: [{}]. Found: [{}] (ZERO_APP_PUBLICATIONS)",
            requested.join(","),
            found.join(",")
        )));
    }
    match found.iter().find(|(_, complete)| !complete) {
        Some((name, _)) => {
            Err(Error::Config(format!("PUBLICATION {name} must publish insert, update, delete, and truncate")))
        }
        None => Ok(()),
    }
}
