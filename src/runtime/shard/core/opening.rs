//! Opens connections: requests and their responses, and connections that the shard dials.

use std::io;
use std::net::SocketAddr;

use super::Core;
use crate::admission::Limit;
use crate::driver::Token;
use crate::shard::answer::StreamHead;
use crate::shard::connection_log::Refused;
use crate::shard::kinds::Kinds;
use crate::shard::route::Route;
use crate::shard::times::Ages;
use crate::shard::tls::Layer;
use crate::shard::tunnel::ProxyTunnel;
use crate::stats::{Account, Counters};
use crate::traces;
use echoring_proto::connection::{Cause, Connection, OutOfMemory, Reply};
use echoring_proto::deflate;
use echoring_proto::handshake::{Refusal, Upgrade};

impl<K: Kinds> Core<K> {
    /// The connection is this peer from now on.
    pub(in crate::shard) fn set_peer(&mut self, token: Token, peer: K::Peer) {
        if let Some(slot) = self.slots.get_mut(token) {
            let class = K::class(&peer);
            traces::classified(token, class);
            slot.account = self.counters.traffic.classify(slot.account, class);
            slot.peer = Some(peer);
        }
    }

    /// Decides whether and how the connection is compressed, so that the application can ask.
    pub(in crate::shard) fn agree(&mut self, token: Token, upgrade: &Upgrade<'_>) {
        let Some(preferences) = self.env.codecs.preferences() else { return };
        let Some(agreement) = deflate::agree(upgrade.extensions(), preferences) else { return };
        if let Some(slot) = self.slots.get_mut(token)
            && slot.connection.agree(agreement, &mut self.env.lend()).is_err()
        {
            slot.connection.abort(Cause::OutOfMemory);
        }
    }

    pub(in crate::shard) fn accept(
        &mut self,
        token: Token,
        key: Option<[u8; 24]>,
        subprotocol: Option<&str>,
        fields: &[(String, String)],
        whole: bool,
    ) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        if slot.connection.is_closing() {
            return;
        }
        match slot.connection.accept(key, subprotocol, fields, whole, &mut self.env.lend()) {
            Ok(()) => self.note_opened(token, 101),
            Err(OutOfMemory) => slot.connection.abort(Cause::OutOfMemory),
        }
    }

    /// Answers a request with the head of a stream.
    pub(in crate::shard) fn begin_event_stream(&mut self, token: Token, head: &StreamHead) {
        let Some(slot) = self.slots.get_mut(token).filter(|slot| !slot.connection.is_closing()) else {
            return;
        };
        let StreamHead { format, headers, body_bytes } = head;
        match slot.connection.begin_event_stream(*format, headers, *body_bytes, &mut self.env.lend()) {
            Ok(()) => self.note_opened(token, 200),
            Err(OutOfMemory) => slot.connection.abort(Cause::OutOfMemory),
        }
        self.touch(token);
    }

    /// Counts and logs a connection that has become a WebSocket or an event stream.
    fn note_opened(&mut self, token: Token, status: u16) {
        self.counters.opened += 1;
        self.note_answer(token, status);
        self.log.opened(token);
        self.limit_life(token, Ages::default());
    }

    /// Counts, logs and traces a response that ends the request.
    fn note_response(&mut self, token: Token, status: u16) {
        let Counters { answers, refusals, .. } = &mut self.counters;
        *(if status < 400 { answers } else { refusals }).entry(status).or_default() += 1;
        self.note_answer(token, status);
    }

    fn note_answer(&mut self, token: Token, status: u16) {
        self.log.answered(token, status);
        traces::answered(token, status);
    }

    pub(in crate::shard) fn refuse(&mut self, token: Token, refusal: &Refusal) {
        self.log_refusal(token, Refused::unread(refusal));
        self.refuse_quietly(token, refusal);
    }

    /// Logs a refusal with the peer's address.
    pub(in crate::shard) fn log_refusal(&mut self, token: Token, refused: Refused) {
        if self.log.wants_address(token, self.env.now) {
            self.driver.find_address(token);
        }
        self.log.refused(token, refused);
    }

    /// Counts and logs a refusal by the connection itself.
    pub(in crate::shard) fn note_refusal(&mut self, token: Token, refusal: &Refusal) {
        self.note_response(token, refusal.status);
        self.log_refusal(token, Refused::unread(refusal));
        self.note_head_excess(token, refusal);
    }

    /// A request head was refused without being read.
    pub(in crate::shard) fn note_head_excess(&mut self, token: Token, refusal: &Refusal) {
        if refusal.status == Refusal::HEAD_TOO_BIG.status {
            self.note_excess(token, Limit::HeaderSize, false);
        }
    }

    pub(in crate::shard) fn refuse_quietly(&mut self, token: Token, refusal: &Refusal) {
        self.note_response(token, refusal.status);
        if let Some(slot) = self.slots.get_mut(token) {
            slot.connection.refuse(refusal, &mut self.env.lend());
        }
        self.touch(token);
    }

    pub(in crate::shard) fn respond(&mut self, token: Token, reply: &Reply<'_>) {
        self.note_response(token, reply.status);
        if let Some(slot) = self.slots.get_mut(token) {
            slot.connection.respond(reply, &mut self.env.lend());
        }
        self.touch(token);
    }

    pub(in crate::shard) fn connect(
        &mut self,
        route: &Route,
        source: Option<SocketAddr>,
        whole: bool,
        peer: K::Peer,
    ) -> io::Result<Token> {
        if !self.lease.take(1) {
            return Err(io::Error::other("the node has the maximum number of connections"));
        }
        let token = self.driver.connect(&route.address, source).inspect_err(|_| self.lease.give(1))?;
        self.counters.dialled += 1;
        let Ok(connection) = Connection::client(&mut self.env.lend(), whole) else {
            self.lease.give(1);
            self.driver.abort(token);
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        let slot = self.slots.insert(token, connection, Some(peer));
        (slot.leased, slot.account) = (true, Account::of_class(0));
        self.env.pool.budget().add_holder();
        match (&route.tunnel, &route.security) {
            (Some(tunnel), security) => {
                let tunnel = ProxyTunnel::new(tunnel.clone(), security.clone());
                self.sessions.insert(token.index, Layer::Tunnel(tunnel));
            }
            (None, Some(security)) => self.secure_dialled(token, security.clone()),
            (None, None) => {}
        }
        // The handshake timeout begins now, not once the transport is connected.
        self.arm(token);
        Ok(token)
    }
}
