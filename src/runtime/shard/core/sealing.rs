//! Encrypts the output of a connection with TLS, or asks its proxy, and passes the bytes to the driver.

use crate::driver::{Driver, Source, Token};
use crate::shard::tls::{Session, SessionError};
use crate::shard::tunnel::ProxyTunnel;
use crate::stats::Traffic;
use echoring_proto::buffer::Buffer;
use echoring_proto::connection::{Cause, Connection, Env, OutOfMemory, TransportAction};

pub(super) fn tell_broken(connection: &mut Connection, broken: SessionError, env: &mut Env<'_>) {
    match broken {
        SessionError::Fault(fault, detail) => connection.tls_failed(fault, detail, env),
        SessionError::OutOfMemory => connection.abort(Cause::OutOfMemory),
    }
}

/// Passes the messages to a proxy to the driver. Queued data waits until the connection to the server is open. True if
/// not all of it was accepted.
#[cold]
pub(super) fn flush_tunnel(
    tunnel: &mut ProxyTunnel,
    connection: &mut Connection,
    env: &mut Env<'_>,
    token: Token,
    driver: &mut Driver,
) -> bool {
    if connection.is_closing() {
        // It cannot be sent: there is no connection to the server.
        connection.drop_queue(env);
        return false;
    }
    if connection.is_blocked() {
        return false;
    }
    match tunnel.flush(token, driver, env.pool) {
        Ok(accepted) => !accepted,
        Err(OutOfMemory) => {
            connection.abort(Cause::OutOfMemory);
            false
        }
    }
}

/// Encrypts queued data and passes it to the driver. True if not all of it was accepted.
pub(super) fn flush_sealed(
    session: &mut Session,
    connection: &mut Connection,
    env: &mut Env<'_>,
    token: Token,
    driver: &mut Driver,
    traffic: &mut Traffic,
) -> bool {
    if connection.is_closing() && !session.is_open() {
        // The peer cannot read it: the handshake was not completed, or the session has failed.
        connection.drop_queue(env);
    }
    if connection.is_blocked() {
        return false;
    }
    if !send_sealed(session, token, driver, traffic) {
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
    if matches!(connection.transport_action(), Some(TransportAction::Shutdown | TransportAction::Close))
        && let Err(broken) = session.say_goodbye(env.pool)
    {
        tell_broken(connection, broken, env);
    }
    !send_sealed(session, token, driver, traffic)
}

/// Passes encrypted bytes to the driver. False if it did not accept all of them.
pub(super) fn send_sealed(
    session: &mut Session,
    token: Token,
    driver: &mut Driver,
    traffic: &mut Traffic,
) -> bool {
    send_queued(driver, token, traffic, session, Session::pop, Session::unpop)
}

/// Passes the buffers of a queue to the driver. False, with the rest in the queue, if it accepts no more in this tick.
#[inline]
pub(super) fn send_queued<Q>(
    driver: &mut Driver,
    token: Token,
    traffic: &mut Traffic,
    queue: &mut Q,
    pop: impl Fn(&mut Q) -> Option<Buffer>,
    push_front: impl Fn(&mut Q, Buffer),
) -> bool {
    while let Some(buffer) = pop(queue) {
        let bytes = buffer.len() as u64;
        match driver.send(token, Source::Pooled(buffer)) {
            Ok(()) => traffic.bytes_out += bytes,
            Err(source) => {
                if let Source::Pooled(buffer) = source {
                    push_front(queue, buffer);
                }
                return false;
            }
        }
    }
    true
}
