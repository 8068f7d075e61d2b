//! What the server must be able to do before anything is created on it.

use tokio_postgres::Client;

use crate::error::Error;

/// Oldest supported server: publications with column lists and row filters.
const SERVER_VERSION_MIN: i32 = 150_000;

/// What the checks found out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    /// `server_version_num`.
    pub(crate) version: i32,
}

/// Checks version and WAL level.
///
/// # Errors
/// [`Error::Config`] in zero-cache's words.
pub(crate) async fn check_server(client: &Client) -> Result<Server, Error> {
    let row = client
        .query_one(
            "SELECT current_setting('wal_level'), current_setting('server_version_num')::int4, \
             current_setting('server_version')",
            &[],
        )
        .await
        .map_err(Error::postgres("read the upstream server's configuration"))?;
    let (wal_level, version, version_text): (String, i32, String) = (row.get(0), row.get(1), row.get(2));
    if wal_level != "logical" {
        return Err(Error::Config(format!(
            "Postgres must be configured with \"wal_level = logical\" (currently: \"{wal_level}\")"
        )));
    }
    if version < SERVER_VERSION_MIN {
        return Err(Error::Config(format!("Must be running Postgres 15 or higher (currently: \"{version_text}\")")));
    }
    Ok(Server { version })
}
