//! Connections whose bytes are sealed: how their sessions begin, are fed and end.

use rustls::HandshakeKind;

use super::Core;
use crate::connection::{Connection, Env, Fate};
use crate::driver::{Driver, Source, Span, Token};
use crate::shard::context::Context;
use crate::shard::tls::{Broken, Opened, Session};
use crate::shard::{Application, refusals};
use crate::stats::Counters;

impl<D: Driver, A: Application> Core<D, A> {
    /// Gives an accepted connection a session; one that was refused is not worth a handshake.
    pub(super) fn secure_accepted(&mut self, token: Token) {
        let Some(slot) = self.slots.get_mut(token) else { return };
        if slot.connection.is_ending() {
            slot.leaving = true;
            return self.driver.close(token);
        }
        let Some(config) = &self.config.security.server else { return };
        self.pool.set_handshake(true);
        let made = Session::server(config.clone(), &mut self.pool);
        self.pool.set_handshake(false);
        self.begin(token, made);
    }

    /// Gives a connection of our own a session.
    pub(super) fn secure_dialled(&mut self, token: Token) {
        let Some((config, name)) = &self.config.security.client else { return };
        let made = Session::client(config.clone(), name.clone(), &mut self.pool);
        self.begin(token, made);
    }

    fn begin(&mut self, token: Token, made: Result<Session, Broken>) {
        match made {
            Ok(session) => self.sessions.insert(token.index, session),
            Err(broken) => self.broken(token, broken),
        }
    }

    /// A connection of our own is there: its session speaks first.
    pub(super) fn start_session(&mut self, token: Token) {
        if let Some(session) = self.sessions.get_mut(token.index)
            && let Some(broken) = session.start(&mut self.pool)
        {
            self.broken(token, broken);
        }
    }

    /// Bytes of a connection that has a session. False when they are to be read as they are: nobody will look at
    /// them, or they never were sealed.
    #[inline(never)]
    pub(super) fn received_sealed(&mut self, application: &mut A, token: Token, span: Span) -> bool {
        let Some(slot) = self.slots.get_mut(token) else { return true };
        let Some(session) = self.sessions.get_mut(token.index) else { return false };
        if !slot.connection.reads() {
            return false;
        }
        let bytes = self.driver.received(span);
        if session.is_asked_plainly(bytes) {
            self.sessions.remove(token.index, &mut self.pool);
            self.refuse(token, &refusals::SPEAKS_TLS);
            return false;
        }
        let is_dialled = session.is_client();
        let Opened { plain, shaken, ended, broken } = session.open(bytes, &mut self.pool);
        if let Some(kind) = shaken {
            self.counters.tls_handshakes += 1;
            let resumed = kind == HandshakeKind::Resumed;
            self.counters.tls_resumed += u64::from(resumed);
            if is_dialled {
                application.secured(&mut Context { core: self }, token, resumed);
            }
        }
        if let Some(mut plain) = plain {
            self.read_buffer(application, token, &mut plain);
            self.pool.put(plain);
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

    /// Seals frames that many connections get, for one of them. False when it cannot take them now.
    pub(in crate::shard) fn seal_shared(&mut self, token: Token, frames: &[u8]) -> bool {
        let Some(slot) = self.slots.get_mut(token) else { return false };
        let Some(session) = self.sessions.get_mut(token.index) else { return false };
        if !slot.connection.is_writable() || !session.is_open() || !session.is_clear() {
            return false;
        }
        if let Err(broken) = session.seal(frames, &mut self.pool) {
            self.broken(token, broken);
            return true;
        }
        if !send_sealed(session, token, &mut self.driver, &mut self.counters) {
            self.touch(token);
        }
        true
    }

    fn broken(&mut self, token: Token, broken: Broken) {
        if let Some(slot) = self.slots.get_mut(token) {
            tell_broken(&mut slot.connection, broken, &mut env!(self));
        }
        self.touch(token);
    }
}

fn tell_broken(connection: &mut Connection, broken: Broken, env: &mut Env<'_>) {
    match broken {
        Broken::Fault(fault, detail) => connection.tls_failed(fault, detail, env),
        Broken::OutOfMemory => connection.out_of_memory(),
    }
}

/// Seals what is queued and hands it to the driver. True when not all of it was taken.
pub(super) fn flush_sealed<D: Driver>(
    session: &mut Session,
    connection: &mut Connection,
    env: &mut Env<'_>,
    token: Token,
    driver: &mut D,
    counters: &mut Counters,
) -> bool {
    if connection.is_ending() && !session.is_open() {
        // There is nobody to read it: no handshake came to its end, or what it made is broken.
        connection.drop_queue(env);
    }
    if connection.is_blocked() {
        return false;
    }
    if !send_sealed(session, token, driver, counters) {
        return true;
    }
    while session.is_open()
        && let Some(buffer) = connection.pop()
    {
        let sealed = session.seal(buffer.as_slice(), env.pool);
        env.pool.put(buffer);
        if let Err(broken) = sealed {
            tell_broken(connection, broken, env);
        }
    }
    if matches!(connection.fate(), Some(Fate::Shutdown | Fate::Close))
        && let Err(broken) = session.say_goodbye(env.pool)
    {
        tell_broken(connection, broken, env);
    }
    !send_sealed(session, token, driver, counters)
}

/// Hands to the driver what is sealed. False when it did not take all of it.
fn send_sealed<D: Driver>(
    session: &mut Session,
    token: Token,
    driver: &mut D,
    counters: &mut Counters,
) -> bool {
    while let Some(buffer) = session.pop() {
        let bytes = buffer.len() as u64;
        match driver.send(token, Source::Pooled(buffer)) {
            Ok(()) => counters.bytes_out += bytes,
            Err(Source::Pooled(buffer)) => {
                session.unpop(buffer);
                return false;
            }
            Err(Source::Received(_) | Source::Shared(_)) => return false,
        }
    }
    true
}
