//! Opening: requests and their answers, and connections of our own.

use std::io;
use std::net::SocketAddr;

use super::Core;
use crate::buffer::Buffer;
use crate::connection::{Connection, Env, OutOfMemory, Reply};
use crate::driver::{Driver, Token};
use crate::protocol::deflate;
use crate::protocol::handshake::{self, Refusal, Upgrade};
use crate::shard::context::Context;
use crate::shard::notes::Refused;
use crate::shard::{Answer, Application};

impl<D: Driver, A: Application> Core<D, A> {
    pub(super) fn request(&mut self, application: &mut A, token: Token, head: Buffer) {
        let answered = handshake::with_request(head.as_slice(), |request, _| {
            self.notes.requested(token, request);
            if self.draining_until.is_some() {
                return self.refuse_because(application, token, &Refusal::DRAINING, request);
            }
            let upgrade = match request.upgrade() {
                Ok(upgrade) => upgrade,
                Err(refusal) => return self.refuse_because(application, token, &refusal, request),
            };
            if let Some(upgrade) = &upgrade {
                self.agree(token, upgrade);
            }
            let answer = application.request(&mut Context { core: self }, token, request, upgrade.as_ref());
            let key = upgrade.map(|upgrade| upgrade.key);
            match (answer, key) {
                (Answer::Upgrade { peer, subprotocol, whole }, Some(key)) => {
                    self.set_peer(token, peer);
                    self.accept(token, Some(key), subprotocol, &[], whole);
                    application.opened(&mut Context { core: self }, token, None);
                }
                (Answer::UpgradeWith { peer, extras, whole }, Some(key)) => {
                    self.set_peer(token, peer);
                    self.accept(token, Some(key), extras.subprotocol.as_deref(), &extras.fields, whole);
                    application.opened(&mut Context { core: self }, token, None);
                }
                (Answer::Later { peer }, Some(key)) => {
                    self.set_peer(token, peer);
                    if let Some(slot) = self.slots.get_mut(token) {
                        slot.connection.decide_later(key);
                    }
                }
                (Answer::Respond(reply), _) => self.respond(token, &reply),
                (Answer::RespondWith(reply), _) => self.respond(token, &reply.as_reply()),
                (Answer::Refuse(refusal), _) => self.refuse_because(application, token, &refusal, request),
                (Answer::Upgrade { .. } | Answer::UpgradeWith { .. } | Answer::Later { .. }, None) => {
                    self.refuse_because(application, token, &Refusal::WEBSOCKET_ONLY, request);
                }
            }
        });
        self.pool.put(head);
        match answered {
            Ok(Some(())) => {}
            Ok(None) => self.refuse(token, &Refusal::MALFORMED),
            Err(refusal) => self.refuse(token, &refusal),
        }
        self.touch(token);
    }

    fn set_peer(&mut self, token: Token, peer: A::Peer) {
        if let Some(slot) = self.slots.get_mut(token) {
            slot.peer = Some(peer);
        }
    }

    /// Settles whether and how the connection will be compressed, so that the application can ask.
    fn agree(&mut self, token: Token, upgrade: &Upgrade<'_>) {
        let Some(preferences) = self.codecs.preferences() else { return };
        let Some(agreement) = deflate::agree(upgrade.extensions(), preferences) else { return };
        if let Some(slot) = self.slots.get_mut(token)
            && slot.connection.agree(agreement, &mut env!(self)).is_err()
        {
            slot.connection.out_of_memory();
        }
    }

    fn accept(
        &mut self,
        token: Token,
        key: Option<[u8; 24]>,
        subprotocol: Option<&str>,
        fields: &[(String, String)],
        whole: bool,
    ) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        if slot.connection.is_ending() {
            return;
        }
        match slot.connection.accept(key, subprotocol, fields, whole, &mut env!(self)) {
            Ok(()) => {
                self.counters.opened += 1;
                self.notes.opened(token);
            }
            Err(OutOfMemory) => slot.connection.out_of_memory(),
        }
    }

    /// Accepts a request whose decision had to wait; what arrived meanwhile is read at the turn's end.
    pub(in crate::shard) fn accept_later(
        &mut self,
        token: Token,
        subprotocol: Option<&'static str>,
        whole: bool,
    ) {
        self.accept(token, None, subprotocol, &[], whole);
        self.touch(token);
    }

    fn refuse_because(
        &mut self,
        application: &mut A,
        token: Token,
        refusal: &Refusal,
        request: &handshake::Request<'_>,
    ) {
        self.log_refusal(token, Refused::read(refusal, request));
        match application.refused(refusal, request) {
            Some(reply) => self.respond(token, &reply.as_reply()),
            None => self.refuse_quietly(token, refusal),
        }
    }

    pub(in crate::shard) fn refuse(&mut self, token: Token, refusal: &Refusal) {
        self.log_refusal(token, Refused::unread(refusal));
        self.refuse_quietly(token, refusal);
    }

    /// Logs a refusal with the peer's address.
    fn log_refusal(&mut self, token: Token, refused: Refused) {
        if self.notes.wants_address(token, self.now) {
            self.driver.find_address(token);
        }
        self.notes.refused(token, refused);
    }

    /// Counts and logs a refusal that the connection made by itself.
    pub(super) fn note_refusal(&mut self, token: Token, refusal: &Refusal) {
        *self.counters.refusals.entry(refusal.status).or_default() += 1;
        self.log_refusal(token, Refused::unread(refusal));
    }

    fn refuse_quietly(&mut self, token: Token, refusal: &Refusal) {
        *self.counters.refusals.entry(refusal.status).or_default() += 1;
        if let Some(slot) = self.slots.get_mut(token) {
            slot.connection.refuse(refusal, &mut env!(self));
        }
        self.touch(token);
    }

    pub(in crate::shard) fn respond(&mut self, token: Token, reply: &Reply<'_>) {
        let counts =
            if reply.status < 400 { &mut self.counters.answers } else { &mut self.counters.refusals };
        *counts.entry(reply.status).or_default() += 1;
        if let Some(slot) = self.slots.get_mut(token) {
            slot.connection.respond(reply, &mut env!(self));
        }
        self.touch(token);
    }

    pub(in crate::shard) fn connect(
        &mut self,
        address: SocketAddr,
        source: Option<SocketAddr>,
        whole: bool,
        peer: A::Peer,
    ) -> io::Result<Token> {
        if !self.lease.take(1) {
            return Err(io::Error::other("the node's connections are used up"));
        }
        let token = match self.driver.connect(address, source) {
            Ok(token) => token,
            Err(error) => {
                self.lease.give(1);
                return Err(error);
            }
        };
        self.counters.dialled += 1;
        let connection = match Connection::client(&mut env!(self), whole) {
            Ok(connection) => connection,
            Err(OutOfMemory) => {
                self.lease.give(1);
                self.driver.abort(token);
                return Err(io::ErrorKind::OutOfMemory.into());
            }
        };
        self.slots.insert(token, connection, Some(peer));
        self.pool.add_holder();
        if self.config.security.client.is_some() {
            self.secure_dialled(token);
        }
        if let Some(slot) = self.slots.get_mut(token) {
            slot.leased = true;
        }
        Ok(token)
    }
}
