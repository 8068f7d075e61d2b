//! The connections of the two writers: taken from the pool once, kept with their prepared statements.

use deadpool_postgres::{ClientWrapper, Object, Pool};

use crate::StoreError;
use crate::batch::Statements;

/// A connection ready to write.
pub(crate) struct Connection {
    pub(crate) client: ClientWrapper,
    pub(crate) statements: Statements,
}

/// Where connections come from.
#[derive(Debug)]
pub(crate) struct Connections {
    pub(crate) pool: Pool,
    /// The quoted schema.
    pub(crate) schema: String,
}

impl Connections {
    /// The connection, made anew if it is missing or closed.
    pub(crate) async fn ensure<'a>(
        &self,
        connection: &'a mut Option<Connection>,
    ) -> Result<&'a Connection, StoreError> {
        if connection.as_ref().is_some_and(|connection| connection.client.is_closed()) {
            *connection = None;
        }
        let open = match connection.take() {
            Some(open) => open,
            None => {
                // Not given back: its settings are not the pool's, and it is dropped when it failed.
                let client = Object::take(self.pool.get().await?);
                // Every statement is run thousands of times with arrays, whose contents planning cannot use.
                client.batch_execute("SET plan_cache_mode = force_generic_plan").await?;
                let statements = Statements::prepare(&client, &self.schema).await?;
                Connection { client, statements }
            }
        };
        Ok(connection.insert(open))
    }
}
