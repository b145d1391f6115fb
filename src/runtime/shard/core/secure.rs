//! Connections with TLS: starts, feeds and ends their sessions.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::Core;
use super::held::HeldInput;
use super::reading::ReadSource;
use super::sealing::{send_sealed, tell_broken};
use crate::driver::{Span, Token};
use crate::shard::kinds::Kinds;
use crate::shard::tls::{Layer, Session, SessionError};

impl<K: Kinds> Core<K> {
    /// Starts the session of an accepted connection; a refused one is not worth a handshake.
    pub(in crate::shard) fn secure_accepted(&mut self, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        if slot.connection.is_closing() {
            slot.connection.drop_answer(&mut self.env.pool);
            return self.touch(token);
        }
        let Some(config) = &self.security.server else { return };
        self.env.pool.set_handshake(true);
        let made = Session::server(config.clone(), &mut self.env.pool);
        self.env.pool.set_handshake(false);
        self.begin(token, made);
    }

    /// Starts the session of an outgoing connection.
    pub(super) fn secure_dialled(
        &mut self,
        token: Token,
        (config, name): (Arc<ClientConfig>, ServerName<'static>),
    ) {
        let made = Session::client(config, name, &mut self.env.pool);
        self.begin(token, made);
    }

    fn begin(&mut self, token: Token, made: Result<Session, SessionError>) {
        match made {
            Ok(session) => self.sessions.insert(token.index, Layer::Tls(session)),
            Err(broken) => self.broken(token, broken),
        }
    }

    /// An outgoing connection is connected: its session sends the first record, or the proxy is asked.
    pub(super) fn start_layer(&mut self, token: Token) {
        match self.sessions.layer_mut(token.index) {
            Some(Layer::Tunnel(tunnel)) => tunnel.start(),
            Some(Layer::Tls(session)) => {
                if let Some(broken) = session.start(&mut self.env.pool) {
                    self.broken(token, broken);
                }
            }
            None => {}
        }
    }

    /// Input of a connection whose proxy has not opened the connection to the server yet.
    pub(in crate::shard) fn received_from_proxy(&mut self, token: Token, source: &mut impl ReadSource) {
        let Some(Layer::Tunnel(tunnel)) = self.sessions.layer_mut(token.index) else { return };
        match tunnel.handle_bytes(source.bytes(&mut self.driver)) {
            Ok(false) => {}
            Ok(true) => {
                let security = tunnel.security.take();
                self.sessions.remove(token.index, &mut self.env.pool);
                if let Some(security) = security {
                    self.secure_dialled(token, security);
                    self.start_layer(token);
                }
            }
            Err(error) => {
                if let Some(slot) = self.slots.get_mut(token) {
                    slot.connection.tunnel_failed(error, &mut self.env.lend());
                }
            }
        }
        self.touch(token);
    }

    /// Encrypts shared frames for one connection. False if it cannot accept them now.
    pub(in crate::shard) fn seal_shared(&mut self, token: Token, frames: &[u8]) -> bool {
        let Some(slot) = self.slots.get_mut(token) else { return false };
        let Some(session) = self.sessions.get_mut(token.index) else { return false };
        let connection = &slot.connection;
        let takes = connection.is_writable() && !connection.sends_fragments();
        if !takes || !session.is_open() || !session.is_clear() {
            return false;
        }
        if let Err(broken) = session.seal(frames, &mut self.env.pool) {
            self.broken(token, broken);
            return true;
        }
        let traffic = self.counters.traffic.at(slot.account);
        if !send_sealed(session, token, &mut self.driver, traffic) {
            self.touch(token);
        }
        true
    }

    pub(in crate::shard) fn broken(&mut self, token: Token, broken: SessionError) {
        if let Some(slot) = self.slots.get_mut(token) {
            tell_broken(&mut slot.connection, broken, &mut self.env.lend());
        }
        self.touch(token);
    }

    /// Whether the input of a connection must wait for the turn of its TLS handshake.
    pub(in crate::shard) fn handshake_must_wait(&mut self, token: Token) -> bool {
        let is_open = self.sessions.get(token.index).is_none_or(|session| session.is_open());
        !is_open && self.handshakes.must_wait(token)
    }

    /// Keeps the input of a connection for its turn.
    #[cold]
    pub(in crate::shard) fn queue_handshake(&mut self, token: Token, span: Span) {
        let held = self.handshakes.waiting.get_mut(&token).and_then(|input| input.bytes.take());
        if let Some(kept) = self.keep(token, held, span, self.arrival_bytes_max()) {
            match self.handshakes.waiting.get_mut(&token) {
                Some(input) => input.bytes = Some(kept),
                None => self.handshakes.wait(token, HeldInput { bytes: Some(kept), ended: false }),
            }
        }
    }
}
