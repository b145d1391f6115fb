//! Connections with TLS: starts, feeds and ends their sessions.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};

use super::Core;
use super::reading::ReadSource;
use super::sealing::{send_sealed, tell_broken};
use crate::driver::{Driver, Token};
use crate::shard::application::Application;
use crate::shard::context::Context;
use crate::shard::kinds::Kinds;
use crate::shard::refusals;
use crate::shard::tls::{Layer, Opened, Session, SessionError};
use crate::traces;

impl<D: Driver, K: Kinds> Core<D, K> {
    /// Starts the session of an accepted connection; a refused one is not worth a handshake.
    pub(super) fn secure_accepted(&mut self, token: Token) {
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
    fn received_from_proxy(&mut self, token: Token, source: &mut impl ReadSource<D>) {
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

    /// Input of a connection with a session. False if it must be read as plaintext: nobody reads it, or it was never
    /// encrypted.
    #[inline(never)]
    pub(super) fn received_sealed<A: Application<Kinds = K>>(
        &mut self,
        application: &mut A,
        token: Token,
        source: &mut impl ReadSource<D>,
    ) -> bool {
        let Some(slot) = self.slots.get_mut(token) else { return true };
        if !slot.connection.reads() {
            return false;
        }
        if let Some(Layer::Tunnel(_)) = self.sessions.layer_mut(token.index) {
            self.received_from_proxy(token, source);
            return true;
        }
        let Some(session) = self.sessions.get_mut(token.index) else { return false };
        let bytes = source.bytes(&mut self.driver);
        if session.is_asked_plainly(bytes) {
            self.sessions.remove(token.index, &mut self.env.pool);
            self.refuse(token, &refusals::SPEAKS_TLS);
            return false;
        }
        let is_dialled = session.is_client();
        let Opened { plain, shaken, ended, broken } = session.open(bytes, &mut self.env.pool);
        if let Some(kind) = shaken {
            self.counters.tls_handshakes += 1;
            let resumed = kind == HandshakeKind::Resumed;
            traces::secured(token, resumed);
            self.counters.tls_resumed += u64::from(resumed);
            if is_dialled {
                application.secured(&mut Context { core: self }, token, resumed);
            }
        }
        if let Some(mut plain) = plain {
            self.read_buffer(application, token, &mut plain);
            self.env.pool.put(plain);
        }
        if ended {
            self.ended(token);
        }
        if let Some(broken) = broken {
            self.broken(token, broken);
        }
        self.touch(token);
        true
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

    fn broken(&mut self, token: Token, broken: SessionError) {
        if let Some(slot) = self.slots.get_mut(token) {
            tell_broken(&mut slot.connection, broken, &mut self.env.lend());
        }
        self.touch(token);
    }
}
