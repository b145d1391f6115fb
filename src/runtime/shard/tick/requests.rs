//! Passes requests to the application, and carries out its answers.

use super::Shard;
use crate::driver::Token;
use crate::shard::answer::Answer;
use crate::shard::application::{Application, PeerOf};
use crate::shard::connection_log::Refused;
use crate::shard::context::Context;
use crate::traces;
use echoring_proto::buffer::Buffer;
use echoring_proto::handshake::{self, Refusal, Request};

impl<A: Application> Shard<A> {
    pub(super) fn request(&mut self, token: Token, head: Buffer) {
        let max_header = self.core.env.config.max_header;
        let answered = handshake::with_request_up_to(head.as_slice(), max_header, |request, _| {
            self.core.log.requested(token, request);
            traces::requested(token, request, self.core.env.now);
            if self.is_refused_now(token, request) {
                return;
            }
            let upgrade = match request.upgrade() {
                Ok(upgrade) => upgrade,
                Err(refusal) => return self.refuse_because(token, &refusal, request),
            };
            if let Some(upgrade) = &upgrade {
                self.core.agree(token, upgrade);
            }
            let answer = self.application.request(
                &mut Context { core: &mut self.core },
                token,
                request,
                upgrade.as_ref(),
            );
            let key = upgrade.map(|upgrade| upgrade.key);
            self.carry_out(token, request, key, answer);
        });
        self.core.env.pool.put(head);
        match answered {
            Ok(Some(())) => {}
            Ok(None) => self.core.refuse(token, &Refusal::MALFORMED),
            Err(refusal) => {
                self.core.refuse(token, &refusal);
                self.core.note_head_excess(token, &refusal);
            }
        }
        self.core.touch(token);
    }

    /// Carries out the application's answer to a request. `key` is that of a WebSocket upgrade.
    fn carry_out(
        &mut self,
        token: Token,
        request: &Request<'_>,
        key: Option<[u8; 24]>,
        answer: Answer<PeerOf<A>>,
    ) {
        match (answer, key) {
            (Answer::Upgrade { peer, subprotocol, whole }, Some(key)) => {
                self.core.set_peer(token, peer);
                self.core.accept(token, Some(key), subprotocol, &[], whole);
                self.application.opened(&mut Context { core: &mut self.core }, token, None);
            }
            (Answer::UpgradeWith { peer, extras, whole }, Some(key)) => {
                self.core.set_peer(token, peer);
                extras.route.iter().for_each(|route| self.core.set_route(token, route));
                self.core.accept(token, Some(key), extras.subprotocol.as_deref(), &extras.fields, whole);
                self.application.opened(&mut Context { core: &mut self.core }, token, None);
            }
            (Answer::EventStream { peer, head }, _) => {
                self.core.set_peer(token, peer);
                self.core.begin_event_stream(token, &head);
                self.application.opened(&mut Context { core: &mut self.core }, token, None);
            }
            (Answer::Later { peer }, key) => {
                self.core.set_peer(token, peer);
                if let Some(slot) = self.core.slots.get_mut(token) {
                    slot.connection.decide_later(key);
                }
            }
            (Answer::Respond(reply), _) => self.core.respond(token, &reply),
            (Answer::RespondWith(reply), _) => self.core.respond(token, &reply.as_reply()),
            (Answer::Refuse(refusal), _) => self.refuse_because(token, &refusal, request),
            (Answer::Upgrade { .. } | Answer::UpgradeWith { .. }, None) => {
                self.refuse_because(token, &Refusal::WEBSOCKET_ONLY, request);
            }
        }
    }

    /// Refuses a connection whose request has arrived, if necessary. Returns whether it was refused.
    #[inline]
    fn is_refused_now(&mut self, token: Token, request: &Request<'_>) -> bool {
        let waits = self.core.may_refuse_requests();
        let identified = self.core.identify(token, request);
        (waits || identified.is_some()) && self.refuse_now(token, request, identified)
    }

    #[cold]
    fn refuse_now(&mut self, token: Token, request: &Request<'_>, identified: Option<Refusal>) -> bool {
        let Some(refused) = self.core.take_refusal(token, identified) else { return false };
        if self.application.is_liveness_check(request) {
            return false;
        }
        if refused.is_logged {
            self.refuse_read(token, &refused.refusal, request);
        } else {
            self.refuse_because(token, &refused.refusal, request);
        }
        true
    }

    fn refuse_because(&mut self, token: Token, refusal: &Refusal, request: &Request<'_>) {
        self.core.log_refusal(token, Refused::read(refusal, request));
        self.refuse_read(token, refusal, request);
    }

    /// Refuses a request that was read, without a record in the log.
    fn refuse_read(&mut self, token: Token, refusal: &Refusal, request: &Request<'_>) {
        match self.application.refused(refusal, request) {
            Some(reply) => self.core.respond(token, &reply.as_reply()),
            None => self.core.refuse_quietly(token, refusal),
        }
    }
}
