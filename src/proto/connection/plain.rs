//! A connection as bytes, which another shard or another process continues: it is put into bytes, moves with its socket, and is taken from them.
//!
//! A connection is put into bytes between two received spans, when the driver holds nothing of it: its receive was cancelled, and the unsent rest
//! of its last send was [put back](Connection::put_back). The bytes contain the state of the parser and everything that is to be sent. They
//! do not contain
//!
//! - what settings or the application decide: limits, pauses of reading, its [times](Connection::set_times), and
//!   who compresses;
//! - the window of sent messages: the next message refers to none before it, as any sender may choose (RFC 7692, 7.2.1);
//! - times of a clock: the bytes have ages and remaining times instead.
//!
//! [`Connection::take`] trusts the bytes as little as those of a peer: it never panics, and uses no more memory than they are long. A
//! connection in its handshake, or whose transport is about to be closed, [does not move](Connection::may_move).

#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::closing::{Closing, PlainClosing};
use super::liveness::{Liveness, PlainLiveness};
use super::outbox::PlainOutbox;
use super::reader::PlainReader;
use super::restoring::{RestoreError, check};
use super::{Connection, Delivery, Env, OutOfMemory, Phase, SpanCursor};
use crate::buffer::Pool;
use crate::deflate::Agreement;
use crate::limits::Nanos;
use crate::{Plain as _, ProtocolError, Role};

impl From<OutOfMemory> for RestoreError {
    fn from(_: OutOfMemory) -> RestoreError {
        RestoreError::OutOfMemory
    }
}

crate::plain! {
    /// What moves.
    struct PlainConnection<'a> {
        role: Role,
        delivery: Delivery,
        sends_fragments: bool,
        counted: u32,
        agreement: Option<Agreement>,
        /// The window of received messages.
        window: Option<Cow<'a, [u8]>>,
        closing: Option<PlainClosing<'a>>,
        reader: PlainReader<'a>,
        outbox: PlainOutbox<'a>,
        liveness: PlainLiveness,
    }
}

impl Connection {
    /// Whether the connection can be [put into bytes](Connection::put) as soon as no send of it is unfinished.
    pub fn may_move(&self) -> bool {
        match &self.phase {
            Phase::Head { .. } | Phase::Deciding { .. } => false,
            // The body of a request comes before the stream.
            Phase::Open => !(self.is_event_stream() && self.reader.is_in_message()),
            Phase::Closing(closing) => closing.may_move(),
        }
    }

    /// The driver has given up the last send, which was short: `rest` is what the kernel has not taken of it. It is sent before
    /// everything else.
    ///
    /// # Errors
    /// When the node's memory is spent: the bytes are lost, and the connection must be aborted.
    pub fn put_back(&mut self, rest: &[u8], pool: &mut Pool) -> Result<(), OutOfMemory> {
        self.outbox.unblock();
        if rest.is_empty() { Ok(()) } else { self.outbox.insert_frame_rest(pool, rest) }
    }

    /// Appends the connection to `out`. It [may move](Connection::may_move), and no send of it is unfinished. It is not used again,
    /// except to [release](Connection::release) it, or to go on with it if it did not move after all.
    pub fn put(&self, out: &mut Vec<u8>, now: Nanos) {
        debug_assert!(self.may_move() && !self.is_blocked());
        let plain = PlainConnection {
            role: self.role(),
            delivery: self.reader.delivery(),
            sends_fragments: self.sends_fragments,
            counted: self.counted,
            agreement: self.codec.as_ref().map(|codec| *codec.agreement()),
            window: self.codec.as_ref().and_then(|codec| codec.window()),
            closing: match &self.phase {
                Phase::Closing(closing) => Some(closing.plain(now)),
                _ => None,
            },
            reader: self.reader.plain(now),
            outbox: self.outbox.plain(),
            liveness: self.liveness.plain(now),
        };
        plain.put(out);
    }

    /// The connection that `from` begins with, which is left with the bytes behind it. It is closing if its unfinished message is above
    /// the limit here.
    ///
    /// # Errors
    /// [`RestoreError`]. Nothing is kept of the connection.
    pub fn take(from: &mut &[u8], env: &mut Env<'_>) -> Result<Connection, RestoreError> {
        let plain = PlainConnection::take(from).ok_or(RestoreError::Malformed)?;
        let mut connection = Connection::opened(plain.role, plain.agreement, plain.delivery, env)?;
        match connection.restore(plain, env) {
            Ok(()) => {
                if connection.is_open() && connection.reader.exceeds(env.config) {
                    connection.fail_protocol(&mut SpanCursor::new(), ProtocolError::MessageTooBig, env);
                }
                Ok(connection)
            }
            Err(error) => {
                connection.release(env.pool, env.codecs);
                Err(error)
            }
        }
    }

    fn restore(&mut self, plain: PlainConnection<'_>, env: &mut Env<'_>) -> Result<(), RestoreError> {
        (self.counted, self.sends_fragments) = (plain.counted, plain.sends_fragments);
        check(match &mut self.codec {
            Some(codec) => codec.set_window(plain.window.as_deref()),
            None => plain.window.is_none(),
        })?;
        if let Some(closing) = plain.closing {
            self.phase = Phase::Closing(Closing::restored(closing, env.now).ok_or(RestoreError::Malformed)?);
        }
        self.reader.restore(plain.reader, self.codec.is_some(), env)?;
        self.outbox.restore(&plain.outbox, env.pool)?;
        self.liveness = Liveness::restored(plain.liveness, env.now);
        Ok(())
    }
}
