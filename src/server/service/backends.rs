//! Connections of back ends over HTTP on one shard: their requests wait for the back end, and answers reach their handlers.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use echoring_auth::{
    Backend, BackendAnswer, BackendConnection, BackendDelivery, BackendEvent, BackendOutcome, ConnectFacts,
    Identity, OnFailure, OwnedHead, Source,
};
use echoring_broker::peer::{Context, Peer};
use echoring_proto::handshake::{Refusal, Request, Upgrade};
use echoring_runtime::driver::Token;
use echoring_runtime::shard::Answer;

use super::Service;
use crate::auth::{PendingConnect, refusal};
use crate::handlers::backend::{Accepted, BackendHandler, deliver_to};
use crate::routes::route::Route;

echoring_proto::refusals! {
    BUSY = 503, "too many events wait for the back end", "Retry-After: 2\r\n",
        "try again; the metrics echoring_backend_… show the back end";
    FAILED = 503, "the back end does not answer", "Retry-After: 2\r\n",
        "try again; the server's log has the reason";
    REFUSED = 403, "refused by the back end", "", "the application behind this path refuses the connection";
}

impl Service {
    /// The route of the program for an upgrade, those of back ends first.
    pub(super) fn find_route(&self, path: &str, upgrade: &Upgrade<'_>) -> Option<Arc<Route>> {
        let of_backend = self.backends.find(path, upgrade, self.preference);
        of_backend.or_else(|| self.routes.find(path, upgrade, self.preference))
    }

    /// Opens a connection of a back end, or begins to ask it about one.
    pub(super) fn open_backend(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
        upgrade: &Upgrade<'_>,
        (route, backend): (&Arc<Route>, &Arc<Backend>),
    ) -> Answer<Peer> {
        let Some(answers) = self.gate.answers.clone() else { return Answer::Refuse(FAILED) };
        let id = self.broadcast.connection_id(cx.shard(), token).to_string();
        let client = self.gate.client(token);
        let facts = (id, client.map(Identity::subject), request.path);
        let source = Source::from(cx.client_address(token));
        let connection = BackendConnection::new(backend, source.clone(), facts, deliver_to(token, answers));
        if !backend.has(BackendEvent::Connect) {
            let accepted = Accepted(Cell::new(Some((connection, BackendAnswer::default()))));
            return self.open(token, route, request, upgrade, Some(accepted));
        }
        let client = Some(client.cloned().map(Arc::new));
        if !self.connects.add(token, source, OwnedHead::of(request), PendingConnect { connection, client }) {
            return Answer::Refuse(BUSY);
        }
        cx.find_address(token);
        Answer::Later { peer: Peer::Echo }
    }

    /// The address of a peer was found: asks the back end about its request, if that waits.
    pub(super) fn ask_backend(&mut self, cx: &mut Context<'_>, token: Token, address: Option<SocketAddr>) {
        let Some((head, pending)) = self.connects.get_mut(token) else { return };
        let Some(client) = pending.client.take() else { return };
        if pending.connection.connect(ConnectFacts { head: head.clone(), address, client }).is_err() {
            self.refuse_connect(cx, token, &BUSY);
        }
    }

    fn refuse_connect(&mut self, cx: &mut Context<'_>, token: Token, refusal: &Refusal) {
        self.forget_client(token, cx.pool());
        if cx.is_deciding(token) {
            cx.refuse(token, refusal);
        }
    }

    /// A back end has answered: about a new connection, or about messages of an open one.
    pub(super) fn backend_delivered(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        delivery: BackendDelivery,
    ) {
        if let Some(waiting) = self.connects.take(token) {
            return self.decide_connect(cx, token, waiting, delivery.outcome);
        }
        if let Some(mut link) = cx.link(token).filter(|link| link.is_open())
            && let Some(slot) = link.peer.handler_slot()
        {
            self.handlers()
                .call(&mut link, slot, |handler, remote| BackendHandler::answered(handler, remote, delivery));
        }
    }

    /// Opens or refuses a connection whose request has waited for its back end.
    pub(super) fn decide_connect(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        (head, PendingConnect { connection, .. }): (OwnedHead, PendingConnect),
        outcome: BackendOutcome,
    ) {
        match self.accepted(cx, token, &connection, outcome) {
            // A head that was parsed once is parsed again.
            Ok(answer) => {
                let _ = head.with(|request| self.connect(cx, token, request, (connection, answer)));
            }
            Err(refusal) => self.refuse_connect(cx, token, &refusal),
        }
    }

    /// The answer of the back end about a new connection.
    ///
    /// # Errors
    /// If the connection is refused.
    fn accepted(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        connection: &BackendConnection,
        outcome: BackendOutcome,
    ) -> Result<BackendAnswer, Refusal> {
        let passes = connection.backend().settings().on_failure == OnFailure::Pass;
        let answer = match outcome {
            BackendOutcome::Answered(answer) => answer,
            BackendOutcome::Refused(401) => {
                let headers = "WWW-Authenticate: Bearer realm=\"echoring\"\r\n";
                return Err(Refusal { status: 401, headers, ..REFUSED });
            }
            BackendOutcome::Refused(status) => return Err(Refusal { status, ..REFUSED }),
            BackendOutcome::Failed if passes => BackendAnswer::default(),
            BackendOutcome::Failed => return Err(FAILED),
        };
        match (&answer.identity, self.gate.client(token)) {
            (Some(named), None) => {
                let (now, pool) = (cx.now(), cx.pool());
                self.gate.let_in(token, named, pool, now).map_err(|denied| refusal(denied, None))?;
            }
            // A client that has presented credentials keeps their name.
            (Some(named), Some(client)) if client.subject() != named.subject() => {
                let backend = &*connection.backend().settings().path;
                tracing::warn!(backend, "a back end names another client");
                return Err(FAILED);
            }
            _ => {}
        }
        Ok(answer)
    }

    fn connect(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
        accepted: (BackendConnection, BackendAnswer),
    ) {
        if !cx.is_deciding(token) {
            return;
        }
        let upgrade = request.upgrade().ok().flatten();
        let opened = upgrade.and_then(|upgrade| {
            // A reload may have removed the route meanwhile.
            let route = self.find_route(request.path, &upgrade).filter(|route| route.backend().is_some())?;
            let accepted = Accepted(Cell::new(Some(accepted)));
            Some(self.open(token, &route, request, &upgrade, Some(accepted)))
        });
        let answer = opened.unwrap_or(Answer::Refuse(Refusal::NOT_FOUND));
        if !matches!(answer, Answer::UpgradeWith { .. }) {
            self.forget_client(token, cx.pool());
        }
        self.answer_later(cx, token, answer);
    }
}
