//! Input of connections with TLS.

use rustls::HandshakeKind;

use super::Shard;
use crate::driver::Token;
use crate::shard::application::Application;
use crate::shard::context::Context;
use crate::shard::core::ReadSource;
use crate::shard::refusals;
use crate::shard::tls::{Layer, Opened};
use crate::traces;

impl<A: Application> Shard<A> {
    /// Input of a connection with a session. False if it must be read as plaintext: no session reads it, or it was
    /// never encrypted.
    #[inline(never)]
    pub(super) fn received_sealed(&mut self, token: Token, source: &mut impl ReadSource) -> bool {
        let Some(slot) = self.core.slots.get_mut(token) else { return true };
        if !slot.connection.reads() {
            return false;
        }
        if let Some(Layer::Tunnel(_)) = self.core.sessions.layer_mut(token.index) {
            self.core.received_from_proxy(token, source);
            return true;
        }
        let Some(session) = self.core.sessions.get_mut(token.index) else { return false };
        let bytes = source.bytes(&mut self.core.driver);
        if session.is_asked_plainly(bytes) {
            self.core.sessions.remove(token.index, &mut self.core.env.pool);
            self.core.refuse(token, &refusals::SPEAKS_TLS);
            return false;
        }
        let is_dialled = session.is_client();
        let Opened { plain, shaken, ended, broken } = session.open(bytes, &mut self.core.env.pool);
        if let Some(kind) = shaken {
            self.core.counters.tls_handshakes += 1;
            let resumed = kind == HandshakeKind::Resumed;
            traces::secured(token, resumed);
            self.core.counters.tls_resumed += u64::from(resumed);
            if is_dialled {
                self.application.secured(&mut Context { core: &mut self.core }, token, resumed);
            }
        }
        if let Some(mut plain) = plain {
            self.read_buffer(token, &mut plain);
            self.core.env.pool.put(plain);
        }
        if ended {
            self.core.ended(token);
        }
        if let Some(broken) = broken {
            self.core.broken(token, broken);
        }
        self.core.touch(token);
        true
    }
}
