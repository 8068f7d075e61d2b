//! The permissions in force, in the order of commits.
//!
//! The group subscribes to the table in which they are deployed as it does to its clients' queries. So its mailbox tells
//! of other permissions together with the rows of the same commit, and no row is judged by permissions that were
//! replaced before it was written or with it. Queries that clients wrote themselves wait until the permissions are known.

use std::sync::Arc;

use cvr::record::Body;
use cvr::row::QueryId;
use engine::commit::StoredRow;
use engine::graph::{AnswerRow, QueryDelta};
use zql_spec::ast::Ast;
use zql_spec::hash;
use zql_spec::json::Json;
use zql_spec::static_params::StaticParams;

use super::queries::{Mode, refusal};
use super::{Fault, Group};
use crate::permissions::Permissions;
use crate::permissions::live::{self, Deployed};

/// The mailbox's name for the subscription. No query of a client can have it.
pub(super) const PERMISSIONS: &str = "permissions";

/// What the group knows of the permissions.
#[derive(Debug, Default)]
pub(super) enum InForce {
    /// No query needed them so far.
    #[default]
    Unasked,
    /// They are being read. The number is the position of the column that holds the document.
    Asked(Option<usize>),
    /// These.
    Known(Option<usize>, Deployed),
}

impl Group {
    /// The permissions in force, if they are known; otherwise they will be.
    pub(super) fn in_force(&mut self) -> Result<Option<Arc<Permissions>>, Fault> {
        if matches!(self.permissions, InForce::Unasked) {
            self.ask_permissions();
        }
        match &self.permissions {
            InForce::Known(_, Ok(permissions)) => Ok(Some(Arc::clone(permissions))),
            InForce::Known(_, Err(error)) => Err(Fault::internal(error)),
            InForce::Unasked | InForce::Asked(_) => Ok(None),
        }
    }

    /// Subscribes to the permissions anew, unless no query needed them so far.
    pub(super) fn ask_permissions_again(&mut self) {
        if !matches!(self.permissions, InForce::Unasked) {
            self.ask_permissions();
        }
    }

    fn ask_permissions(&mut self) {
        self.permissions = match live::query(&self.services.config.app_id, &self.services.replica.schema()) {
            Ok((query, column)) => {
                self.mailbox.subscribe(PERMISSIONS.into(), query);
                InForce::Asked(column)
            }
            // Without the table nothing is permitted.
            Err(_) => InForce::Known(None, Ok(Arc::default())),
        };
    }

    /// The permissions were read.
    pub(super) async fn permissions_read(&mut self, rows: &[AnswerRow]) -> Result<(), Fault> {
        self.note_permissions(rows.first().map(|row| &*row.row));
        self.permit_waiting()?;
        self.finish_batches().await
    }

    /// Subscribes the queries that waited for the permissions, if these are known.
    pub(super) fn permit_waiting(&mut self) -> Result<(), Fault> {
        if self.batches.iter().all(|batch| batch.unpermitted.is_empty()) {
            return Ok(());
        }
        let Some(permissions) = self.in_force()? else { return Ok(()) };
        for position in 0..self.batches.len() {
            // Without anybody to speak for, whoever joins next starts all queries.
            let Some(speaker) = self.speaker(self.batches[position].requester) else { continue };
            let claims = speaker.claims.clone();
            let mut batch = std::mem::take(&mut self.batches[position]);
            let mut faults = Vec::new();
            for query_id in std::mem::take(&mut batch.unpermitted) {
                let Some(text) = self.own_query(&query_id) else { continue };
                let added = permitted(&text, &permissions, claims.as_deref())
                    .and_then(|(hash, ast)| self.add(&mut batch, &query_id, hash, ast));
                faults.extend(added.err().map(|message| (query_id, message)));
            }
            let requester = batch.requester;
            self.batches[position] = batch;
            for (query_id, message) in faults {
                self.query_failed(&query_id, requester, &refusal(message))?;
            }
        }
        Ok(())
    }

    /// Other permissions are in force: what clients wrote themselves may see other rows. Tells whether there is such a
    /// query.
    pub(super) async fn permissions_changed(&mut self, delta: &QueryDelta) -> Result<bool, Fault> {
        for change in &delta.changes {
            match (&change.row, change.after) {
                (Some(row), _) => self.note_permissions(Some(row)),
                (None, 0) => self.note_permissions(None),
                (None, _) => {}
            }
        }
        let queries = self.record.iter().flat_map(|record| record.cvr.queries.values());
        let any = queries.into_iter().any(|query| matches!(query.body, Body::Ast(_)));
        if any {
            self.start_queries(None, Mode::Own).await?;
        }
        Ok(any)
    }

    fn note_permissions(&mut self, row: Option<&StoredRow>) {
        let (InForce::Asked(column) | InForce::Known(column, _)) = self.permissions else { return };
        let text = row.zip(column).and_then(|(row, column)| live::document(row, column));
        self.permissions = InForce::Known(column, self.services.documents.read(text));
    }

    /// The text of a query that clients wrote themselves.
    pub(super) fn own_query(&self, query_id: &QueryId) -> Option<Arc<str>> {
        match &self.record.as_ref()?.cvr.queries.get(query_id)?.body {
            Body::Ast(text) => Some(Arc::clone(text)),
            Body::Custom { .. } | Body::Internal(_) => None,
        }
    }
}

/// A client's own AST, narrowed to what may be read.
pub(super) fn permitted(
    text: &str,
    permissions: &Permissions,
    claims: Option<&Json>,
) -> Result<(Arc<str>, Arc<Ast>), String> {
    let json = Json::parse(text).map_err(|error| error.to_string())?;
    let mut ast = Ast::parse_lenient(&json).map_err(|error| error.to_string())?;
    permissions.apply(&mut ast);
    // Without claims a rule that needs one finds nothing.
    StaticParams { auth_data: claims, pre_mutation_row: None }.bind(&mut ast);
    Ok((hash::transformation_hash(&ast).into(), Arc::new(ast)))
}
