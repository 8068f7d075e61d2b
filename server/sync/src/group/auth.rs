//! For whom the clients of a group speak, while they are connected: new tokens, and the timers that ask the query API
//! again whether it still knows a user and still answers queries the same way (protocol sheet §4.4, §4.5).
//!
//! A timer's call costs a connection or a group one request an interval. That the API server is away then is nobody's
//! fault: only a clear refusal of a user has consequences, for that user's connection.

use std::sync::Arc;

use cvr::record::Body;
use tokio::time::Instant;
use zql_spec::protocol::error::{ErrorBody, ErrorKind};

use super::queries::Mode;
use super::{Called, Fault, Group};
use crate::api::{Answer, Caller};
use crate::auth::Auth;
use crate::hub::pinned_user_error;

/// The answer to a question about a connected client's user.
#[derive(Debug)]
pub(super) struct Revalidated {
    id: u64,
    /// With which credentials was asked.
    caller: Caller,
    /// Whether the client waits for it: then every failure is told.
    asked: bool,
    answer: Result<Answer, Box<ErrorBody>>,
}

impl Group {
    /// A client has a new token, which was accepted.
    pub(super) async fn update_auth(&mut self, id: u64, auth: &Auth) -> Result<(), Fault> {
        let Some(client) = self.client(id) else { return Ok(()) };
        client.caller.auth = Some(auth.token.to_string());
        client.claims = auth.claims.clone();
        if !self.has_named_queries() {
            self.revalidate(id, true);
        }
        // Transforming the queries validates the user as well.
        self.sync_queries(Some(id), Mode::Fresh).await
    }

    /// Checks the user that the API server sees against the one that the connection claims, and the group's.
    pub(super) fn check_user(&mut self, id: u64, answer: &Answer) -> Result<(), Fault> {
        let Some(client) = self.client(id) else { return Ok(()) };
        let claimed = client.connection.user_id.clone();
        if answer.user_id.as_ref().is_some_and(|validated| *validated != claimed) {
            let message = "Connection userID does not match validated server userID.";
            return Err(Fault::client(id, ErrorBody::new(ErrorKind::Unauthorized, message)));
        }
        if *self.shared.pinned_user.get_or_init(|| claimed.clone()) != claimed {
            return Err(Fault::client(id, pinned_user_error()));
        }
        Ok(())
    }

    /// The API server answered on behalf of a client: its user is known, unless it is another one.
    pub(super) fn recognize(&mut self, id: u64, answer: &Answer) -> Result<(), Fault> {
        self.check_user(id, answer)?;
        self.validated(id);
        Ok(())
    }

    /// A client's user is known: from now on the timers run for it. Whatever showed it spares the next question.
    pub(super) fn validated(&mut self, id: u64) {
        if self.services.api.is_none() || self.client(id).is_none_or(|client| client.is_joining()) {
            return;
        }
        let auth = &self.services.config.auth;
        let (revalidate, retransform) = (auth.revalidate, auth.retransform);
        let now = self.services.clock.now();
        if let Some(client) = self.client(id) {
            client.revalidate_at = revalidate.map(|interval| now + interval);
        }
        if self.retransform_at.is_none() {
            self.retransform_at = retransform.map(|interval| now + interval);
        }
    }

    /// When the timers want to be looked at.
    pub(super) fn maintenance_at(&self) -> Option<Instant> {
        let clients = self.clients.iter().filter_map(|client| client.revalidate_at);
        clients.chain(self.retransform_at).min()
    }

    /// Does what the timers want done by now.
    pub(super) async fn maintain(&mut self, now: Instant) -> Result<(), Fault> {
        let interval = self.services.config.auth.revalidate;
        let mut due = Vec::new();
        for client in self.clients.iter_mut().filter(|client| client.revalidate_at.is_some_and(|at| at <= now)) {
            client.revalidate_at = interval.map(|interval| now + interval);
            due.push(client.connection.id);
        }
        for id in due {
            self.revalidate(id, false);
        }
        if self.retransform_at.is_some_and(|at| at <= now) {
            self.retransform_at = None;
            if self.has_speaker() {
                self.retransform_at = self.services.config.auth.retransform.map(|interval| now + interval);
                self.retransform().await?;
            }
        }
        Ok(())
    }

    /// Transforms all named queries anew, on behalf of the connection that did it last or else of the newest one.
    pub(super) async fn retransform(&mut self) -> Result<(), Fault> {
        if !self.has_speaker() || !self.has_named_queries() {
            return Ok(());
        }
        self.sync_queries(None, Mode::Fresh).await
    }

    /// Asks whose a connection's credentials are.
    fn revalidate(&mut self, id: u64, asked: bool) {
        let Some(caller) = self.client(id).map(|client| client.caller.clone()) else { return };
        let services = Arc::clone(&self.services);
        if services.api.is_none() {
            return;
        }
        self.calls.spawn(async move {
            let answer = match &services.api {
                Some(api) => api.validate(&caller).await,
                None => Ok(Answer::default()),
            };
            Called::Revalidated(Revalidated { id, caller, asked, answer })
        });
    }

    /// The API server told whose a connection's credentials are.
    pub(super) fn on_revalidated(&mut self, revalidated: Revalidated) -> Result<(), Fault> {
        let Revalidated { id, caller, asked, answer } = revalidated;
        // A token that was replaced meanwhile is nobody's concern.
        if self.client(id).is_none_or(|client| client.caller != caller) {
            return Ok(());
        }
        match answer {
            Ok(answer) => self.recognize(id, &answer),
            Err(error) if asked || error.is_auth() => Err(Fault::client(id, error)),
            Err(error) => {
                tracing::warn!(group = &*self.id, message = error.message, "a user could not be validated again");
                Ok(())
            }
        }
    }

    /// Whether anybody is validated, for whom the group's work could be done.
    fn has_speaker(&self) -> bool {
        self.clients.iter().any(|client| !client.is_joining())
    }

    fn has_named_queries(&self) -> bool {
        let queries = self.record.iter().flat_map(|record| record.cvr.queries.values());
        self.services.api.is_some() && queries.into_iter().any(|query| matches!(query.body, Body::Custom { .. }))
    }
}
