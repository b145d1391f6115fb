//! Lets clients in: the checks before a route is served, decisions that arrive later, and the end of credentials.

use std::sync::Arc;

use echoring_auth::{Authenticator, Denied, Forwarded, OwnedHead, Source, Verdict};
use echoring_proto::CloseCode;
use echoring_proto::buffer::Pool;
use echoring_proto::handshake::{Refusal, Request, Upgrade};
use echoring_runtime::admission::Limit;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::{Answer, Application as _};
use echoring_wire::centrifuge::Encoding;
use echoring_wire::v1;

use super::{BAD_TOPIC, CENTRIFUGE_PATH, NO_MEMORY, NO_ROUTE, NO_SUBPROTOCOL, Service, topic_of};
use crate::auth::{self, Admission, Decided, refusal};
use crate::routes::route::Route;
use echoring_broker::broadcast::sessions::end;
use echoring_broker::broadcast::{CentrifugeSession, TopicRequest};
use echoring_broker::gate::{AppAnswered, AuthCommand, Due};
use echoring_broker::peer::{Context, Peer};

impl Service {
    /// The reason for refusing the origin of a request, or its path, before its client is authenticated.
    pub(super) fn check_origin(&self, route: Option<&Route>, upgrade: &Upgrade<'_>) -> Option<Refusal> {
        let is_allowed = match route {
            Some(route) => route.allows(upgrade, &self.origins),
            None if !self.builtin_routes => return Some(NO_ROUTE),
            None => self.origins.allows(upgrade.host, upgrade.origin),
        };
        (!is_allowed).then_some(Refusal::ORIGIN)
    }

    /// Decides about the client of a request, or begins to. The first message of a client that `presents_later` may
    /// decide.
    pub(super) fn admit(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
        upgrade: Option<&Upgrade<'_>>,
        presents_later: bool,
    ) -> Admission {
        let judged = auth::judge(&self.gate, request, upgrade, cx.peer_certificate(token));
        if presents_later
            && matches!(judged, Some((_, Verdict::Anonymous | Verdict::Denied(Denied::Missing))))
        {
            return Admission::Open;
        }
        let Some((presented, verdict)) = judged else { return Admission::Open };
        let now = cx.now();
        match verdict {
            Verdict::Anonymous => {
                self.gate.note_anonymous();
                Admission::Open
            }
            Verdict::Known(client) => match self.gate.let_in(token, &client, cx.pool(), now) {
                Ok(()) => Admission::Open,
                Err(denied) => {
                    if let Some(limit) = auth::limit_of(denied) {
                        cx.note_excess(token, limit, false);
                    }
                    auth::refused(&self.gate, denied)
                }
            },
            Verdict::Denied(denied) => auth::refused(&self.gate, denied),
            Verdict::Ask => {
                let head = OwnedHead::of(request);
                let source = Source::from(cx.client_address(token));
                let admission = self.handshakes.begin(&self.gate, token, source, presented, head);
                if matches!(admission, Admission::Later) {
                    cx.find_address(token);
                }
                admission
            }
        }
    }

    /// A connection is gone, or was not opened.
    pub(super) fn forget_client(&mut self, token: Token, pool: &mut Pool) {
        self.gate.forget(token, pool);
        self.handshakes.forget(token);
        self.connects.forget(token);
    }

    /// Serves an upgrade of a client that was let in.
    pub(super) fn serve_known(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
        upgrade: &Upgrade<'_>,
        route: Option<Arc<Route>>,
    ) -> Answer<Peer> {
        let answer = match route {
            Some(route) => match route.backend() {
                Some(backend) => self.open_backend(cx, token, request, upgrade, (&route, backend)),
                None => self.open(token, &route, request, upgrade, None),
            },
            None => match self.refused_before(token, request) {
                Some(refused) => refused,
                None => self.serve_builtin(cx, token, request, upgrade),
            },
        };
        if matches!(answer, Answer::Respond(_) | Answer::RespondWith(_) | Answer::Refuse(_)) {
            self.forget_client(token, cx.pool());
        }
        answer
    }

    fn serve_builtin(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
        upgrade: &Upgrade<'_>,
    ) -> Answer<Peer> {
        let subprotocol = self.subprotocol(upgrade);
        match request.path {
            "/" | "/echo" => Answer::Upgrade { peer: Peer::Echo, subprotocol, whole: false },
            "/broadcast" => match upgrade.subprotocol(&[v1::SUBPROTOCOL], self.preference) {
                Some(subprotocol) => self.broadcast.open_session(subprotocol, self.gate.client(token)),
                None => Answer::Refuse(NO_SUBPROTOCOL),
            },
            CENTRIFUGE_PATH => {
                let own = upgrade.subprotocol(&Encoding::SUBPROTOCOLS, self.preference);
                let encoding = match own {
                    Some(name) => Encoding::from_subprotocol(name).unwrap_or_default(),
                    None => Encoding::from_query(request.query),
                };
                let connect_by = cx.now() + cx.handshake_timeout();
                let forwarded = auth::forwarded(&self.gate, request);
                let (subprotocol, client) = (own.or(subprotocol), self.gate.client(token));
                if !cx.pool().charge(forwarded.as_ref().map_or(0, Forwarded::held_bytes)) {
                    return Answer::Refuse(NO_MEMORY);
                }
                let session = CentrifugeSession::new(encoding, connect_by, forwarded);
                let session = session.with_address(cx.client_address(token));
                self.broadcast.open_centrifuge(token, client, subprotocol, session)
            }
            path => match path.strip_prefix("/broadcast/").map(topic_of) {
                Some(Some(topic)) => {
                    let echo_own = request.query_value("self") == Some("1");
                    let request = TopicRequest { token, topic: &topic, gate: &mut self.gate };
                    self.broadcast.subscribe_raw(cx, request, echo_own, subprotocol)
                }
                Some(None) => Answer::Refuse(BAD_TOPIC),
                None => Answer::Refuse(Refusal::NOT_FOUND),
            },
        }
    }

    /// The subprotocol of a built-in route. A browser that offers some, such as its token, requires that one is selected.
    fn subprotocol(&self, upgrade: &Upgrade<'_>) -> Option<&'static str> {
        let own = upgrade.subprotocol(&self.subprotocols, self.preference);
        let bearer = || upgrade.subprotocol(&[echoring_auth::SUBPROTOCOL], self.preference);
        own.or_else(|| if self.gate.is_on() { bearer() } else { None })
    }

    pub(super) fn auth_command(&mut self, cx: &mut Context<'_>, command: AuthCommand) {
        match command {
            AuthCommand::Decided(token, decision) => {
                let now = cx.now();
                let decided = self.handshakes.decided(&mut self.gate, token, decision, cx.pool(), now);
                let Some(decided) = decided else { return };
                let Decided { head, refusal, exceeded } = decided;
                if let Some(limit) = exceeded {
                    cx.note_excess(token, limit, limit == Limit::Passwords);
                }
                // A head that was parsed once is parsed again.
                let _ = head.with(|request| self.resume(cx, token, request, refusal));
            }
            AuthCommand::Blocked => {
                for token in self.gate.blocked() {
                    self.end_credentials(cx, token, Due::Withdrawn);
                }
            }
            AuthCommand::Refreshed { token, id, decision } => {
                if let Some(mut link) = cx.link(token).filter(|link| link.is_open()) {
                    self.broadcast.refreshed(&mut link, &mut self.gate, id, decision);
                }
            }
        }
    }

    /// The application has answered.
    pub(super) fn app_answered(&mut self, cx: &mut Context<'_>, answered: AppAnswered) {
        if let Some(mut link) = cx.link(answered.token).filter(|link| link.is_open()) {
            self.broadcast.app_answered(&mut link, &mut self.gate, answered);
        }
    }

    /// Uses other settings of authentication, after those of topics. Clients whose credentials were withdrawn are closed, and
    /// subscriptions that are no longer allowed end.
    pub(super) fn configure_auth(&mut self, cx: &mut Context<'_>, authenticator: Option<Arc<Authenticator>>) {
        let now = cx.now();
        for token in self.gate.configure(authenticator, cx.pool(), now) {
            self.end_credentials(cx, token, Due::Withdrawn);
        }
        for token in cx.tokens() {
            if matches!(cx.peer(token), Some(Peer::Subscriber(_) | Peer::Session(_)))
                && let Some(mut link) = cx.link(token)
            {
                self.broadcast.check_rights(&mut link, self.gate.client(token));
            }
        }
    }

    /// Continues with a request about which a decision was made.
    fn resume(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        request: &Request<'_>,
        refusal: Option<Refusal>,
    ) {
        if !cx.is_deciding(token) {
            return;
        }
        if let Some(refusal) = refusal {
            return cx.refuse(token, &refusal);
        }
        let answer = match request.upgrade() {
            Ok(Some(upgrade)) => {
                let route = self.find_route(request.path, &upgrade);
                self.serve_known(cx, token, request, &upgrade, route)
            }
            Ok(None) if self.is_unidirectional(request) => self.serve_unidirectional(cx, token, request),
            Ok(None) => self.serve_event_stream(cx, token, request),
            Err(refusal) => Answer::Refuse(refusal),
        };
        self.answer_later(cx, token, answer);
    }

    /// Answers a request that has waited.
    pub(super) fn answer_later(&mut self, cx: &mut Context<'_>, token: Token, answer: Answer<Peer>) {
        match answer {
            Answer::Upgrade { peer, subprotocol, whole } => {
                cx.set_peer(token, peer);
                cx.accept(token, subprotocol, whole);
                self.opened(cx, token, None);
            }
            Answer::UpgradeWith { peer, extras, whole } => {
                cx.set_peer(token, peer);
                cx.accept_with(token, &extras, whole);
                self.opened(cx, token, None);
            }
            Answer::EventStream { peer, head } => {
                cx.set_peer(token, peer);
                cx.begin_event_stream(token, &head);
                self.opened(cx, token, None);
            }
            Answer::Later { peer } => cx.set_peer(token, peer),
            Answer::Respond(reply) => cx.respond(token, &reply),
            Answer::RespondWith(reply) => cx.respond(token, &reply.as_reply()),
            Answer::Refuse(refusal) => cx.refuse(token, &refusal),
        }
    }

    /// Attends to credentials that expire.
    pub(super) fn end_expired(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        while let Some((token, due)) = self.gate.pop_due(now) {
            if due == Due::Notice {
                let seconds = self.gate.expires_in_s(token);
                if let (Some(mut link), Some(seconds)) =
                    (cx.link(token).filter(|link| link.is_open()), seconds)
                {
                    self.broadcast.notice_expiry(&mut link, seconds);
                }
            } else {
                self.end_credentials(cx, token, due);
            }
        }
    }

    /// Closes a connection whose credentials no longer hold.
    pub(super) fn end_credentials(&mut self, cx: &mut Context<'_>, token: Token, due: Due) {
        // The 101 may still wait for the topic's owner.
        if cx.is_deciding(token) {
            cx.refuse(token, &refusal(Denied::Expired, None));
        }
        let Some(mut link) = cx.link(token).filter(|link| link.is_open()) else { return };
        self.gate.note_ended(due);
        let reason =
            if due == Due::Withdrawn { "credentials were withdrawn" } else { "credentials have expired" };
        end(&mut link, CloseCode::CREDENTIALS_ENDED, reason);
    }
}
