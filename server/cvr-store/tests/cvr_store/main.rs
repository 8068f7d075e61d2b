//! The store against a real Postgres.

use std::sync::Arc;

use cvr::config::{ConfigUpdate, Put};
use cvr::flush::{Flush, FlushTimes};
use cvr::record::{Body, Counts, Cvr};
use cvr::row::{RowId, Rows, TableKey};
use cvr::rows_update::{Contents, Executed, QueryUpdate};
use cvr_store::{Options, Store, StoreError};
use deadpool_postgres::{Manager, Pool};
use tokio_postgres::{Client, NoTls};
use zql_spec::value::Value;
use zql_spec::version::CvrVersion;

mod active;
mod batches;
mod behind;
mod catch_up;
mod life;
mod load;
mod purge;
mod relay;
mod tables;
mod waiting;

const SCHEMA: &str = "zero_0/cvr";

/// A database of its own, and a connection to look into it.
struct Database {
    url: String,
    client: Client,
}

impl Database {
    async fn new() -> Self {
        let url = testdata::postgres::shared().database().unwrap();
        let client = connect(&url).await;
        Database { url, client }
    }

    fn pool(&self) -> Pool {
        let config: tokio_postgres::Config = self.url.parse().unwrap();
        Pool::builder(Manager::new(config, NoTls)).max_size(8).build().unwrap()
    }

    async fn store(&self, task_id: &str) -> Store {
        self.try_store(task_id).await.unwrap()
    }

    async fn try_store(&self, task_id: &str) -> Result<Store, StoreError> {
        Store::open(self.pool(), Options { schema: SCHEMA.to_owned(), task_id: task_id.to_owned() }).await
    }

    /// Runs SQL on the tables.
    async fn sql(&self, sql: &str) {
        self.client.batch_execute(&format!("SET search_path = \"{SCHEMA}\"; {sql}")).await.unwrap();
    }

    /// What one value is, as text.
    async fn value(&self, sql: &str) -> String {
        self.client.batch_execute(&format!("SET search_path = \"{SCHEMA}\"")).await.unwrap();
        let row = self.client.query_one(&format!("SELECT coalesce(({sql})::text, 'NULL')"), &[]).await.unwrap();
        row.get(0)
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A group as a server holds it.
struct Group {
    store: Store,
    cvr: Cvr,
    rows: Rows,
    connected: f64,
}

impl Group {
    async fn load(store: &Store, id: &str, connected: f64) -> Result<Self, StoreError> {
        let cvr = store.load(id, connected).await?;
        let rows = store.load_rows(&cvr).await?;
        Ok(Group { store: store.clone(), cvr, rows, connected })
    }

    fn times(&self) -> FlushTimes {
        FlushTimes { last_connect_time: self.connected, last_active: 1_700_000_000_123.0, ttl_clock: 12.5 }
    }

    fn config(&self, change: impl FnOnce(&mut ConfigUpdate)) -> Option<Arc<Flush>> {
        let mut update = ConfigUpdate::new(&self.cvr);
        change(&mut update);
        update.finish(self.times()).1
    }

    /// Executes queries and receives rows, each with a count of 1 and this version (none: it left).
    fn update(
        &mut self,
        state: &str,
        executed: &[&str],
        removed: &[&str],
        rows: &[(&str, String, Option<&str>)],
    ) -> Option<Arc<Flush>> {
        let mut update = QueryUpdate::new(&self.cvr, state.parse().unwrap(), &"01".into()).unwrap();
        // Queries of one letter are such as have rows that occur more than once.
        let counts = |id: &str| if id.len() == 1 { Counts::Own } else { Counts::Alike };
        let ran = |id: &&str| Executed { query: (*id).into(), hash: "hash".into(), counts: counts(id) };
        let executed: Vec<Executed> = executed.iter().map(ran).collect();
        let removed: Vec<_> = removed.iter().map(|id| (*id).into()).collect();
        update.track(&executed, &removed).unwrap();
        for (query, id, version) in rows {
            let contents = version.map(|version| Contents { row_version: version.into(), value: () });
            update.receive(&mut self.rows, &(*query).into(), row(id), u32::from(version.is_some()), contents);
        }
        update.drop_unreferenced(&mut self.rows);
        update.patches().unwrap();
        update.finish(self.times()).unwrap()
    }

    async fn flush(&mut self, flush: Option<Arc<Flush>>) -> Result<(), StoreError> {
        if let Some(flush) = flush {
            self.store.flush(Arc::clone(&flush)).await?;
            self.cvr = flush.cvr.clone();
            self.rows.apply(&flush);
        }
        Ok(())
    }

    /// A new group with a client `c` that desires and has got `q` with this many rows at state `01`.
    async fn with_rows(store: &Store, id: &str, rows: usize) -> Self {
        let mut group = Group::load(store, id, 1.0).await.unwrap();
        let flush = group.config(|update| {
            update.ensure_client("c", "zero_0");
            update.put_desired("c", &[put("q")]).unwrap();
        });
        group.flush(flush).await.unwrap();
        let rows: Vec<_> = (0..rows).map(|row| ("q", row.to_string(), Some("01"))).collect();
        let flush = group.update("01", &["q", "lmids", "mutationResults"], &[], &rows);
        group.flush(flush).await.unwrap();
        group
    }

    /// The record and rows in the store are those in memory.
    async fn assert_stored(&self) {
        self.store.rows_written(&self.cvr.group).await.unwrap();
        let loaded = Group::load(&self.store, &self.cvr.group, self.connected).await.unwrap();
        let mut cvr = loaded.cvr;
        // Postgres writes jsonb in its own way; what it says is tested apart.
        let queries = Arc::make_mut(&mut cvr.queries);
        for (id, query) in queries.iter_mut() {
            match (&mut query.body, &self.cvr.queries[id].body) {
                (Body::Ast(stored), Body::Ast(own)) | (Body::Internal(stored), Body::Internal(own)) => {
                    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
                    assert_eq!(parse(stored), parse(own));
                    *stored = Arc::clone(own);
                }
                _ => {}
            }
        }
        assert_eq!(cvr, self.cvr);
        assert_eq!(lines(&loaded.rows), lines(&self.rows));
    }
}

fn lines(rows: &Rows) -> Vec<String> {
    let mut lines: Vec<String> =
        rows.iter().map(|(row, record)| format!("{} {} {record:?}", row.table(), row.to_json())).collect();
    lines.sort();
    lines
}

fn row(id: &str) -> RowId {
    RowId::new(&TableKey::new("issue".into(), &["id".into()]), &[Value::string(id)])
}

fn put(query: &str) -> Put {
    Put { query: query.into(), body: Some(Body::Ast(format!(r#"{{"table":"{query}"}}"#).into())), ttl: None }
}

fn version(text: &str) -> CvrVersion {
    text.parse().unwrap()
}
