//! How many users there are, by the records: what operators of several servers ask one of them.
//!
//! A record counts by when it was last active, also when it was purged meanwhile. Users are told apart by their browser's
//! profile; a group of a client that names none has a profile of its own, so that older clients are counted too often.
//! It is counted when somebody asks, by one statement over the records' instances, tombstones included, whatever the size
//! of the records.

use crate::{Store, StoreError};

/// Users of the last day, week and month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActiveUsers {
    /// Client groups of the last day.
    pub groups_last_day: i64,
    /// Profiles that clients name: of one day, seven days and thirty days.
    pub profiles: [i64; 3],
    /// The same with those that are made of the name of a group.
    pub with_fallback: [i64; 3],
}

/// A profile that a client names begins with a `p`, and one that is made of a group with `cg`.
fn statement(schema: &str) -> String {
    let since = |days: u32| format!(r#""lastActive" >= now() - interval '{days} days'"#);
    let named = r#"starts_with("profileID", 'p')"#;
    let (day, week, month) = (since(1), since(7), since(30));
    format!(
        r#"SELECT count(*) FILTER (WHERE {day}),
            count(DISTINCT "profileID") FILTER (WHERE {day} AND {named}),
            count(DISTINCT "profileID") FILTER (WHERE {week} AND {named}),
            count(DISTINCT "profileID") FILTER (WHERE {named}),
            count(DISTINCT "profileID") FILTER (WHERE {day}),
            count(DISTINCT "profileID") FILTER (WHERE {week}),
            count(DISTINCT "profileID")
        FROM {schema}."instances" WHERE {month}"#
    )
}

impl Store {
    /// Counts the users of all servers that share these records.
    pub async fn active_users(&self) -> Result<ActiveUsers, StoreError> {
        let connections = &self.inner.connections;
        let client = connections.get().await?;
        let sql = statement(&connections.schema);
        let counted = connections.limited(async {
            let row = client.query_one(&sql, &[]).await?;
            let count = |column: usize| row.try_get::<_, i64>(column);
            Ok(ActiveUsers {
                groups_last_day: count(0)?,
                profiles: [count(1)?, count(2)?, count(3)?],
                with_fallback: [count(4)?, count(5)?, count(6)?],
            })
        });
        let counted = counted.await;
        connections.done(client, counted).await
    }
}
