//! A connection as bytes, which another shard or another process continues: it is *frozen*, moves with its socket, and is *thawed*.
//!
//! A connection is frozen between two received spans, when the driver holds nothing of it: its receive was cancelled, and the unsent rest
//! of its last send was [put back](Connection::put_back). The bytes contain the state of the parser and everything that is to be sent. They
//! do not contain
//!
//! - what settings or the application decide: limits, pauses of reading, its [times](Connection::set_times), and
//!   who compresses;
//! - the window of sent messages: the next message refers to none before it, as any sender may choose (RFC 7692, 7.2.1);
//! - times of a clock: the bytes have ages and remaining times instead.
//!
//! [`Connection::thaw`] trusts the bytes as little as those of a peer: it never panics, and uses no more memory than they are long. A
//! connection in its handshake, or whose transport is about to be closed, [does not move](Connection::may_move).

#![forbid(unsafe_code)]

use bytes::BufMut as _;

use super::frozen_bytes::{Freezing, ThawError, Thawing, check};
use super::{Connection, Delivery, Env, OutOfMemory, Phase};
use crate::Role;
use crate::buffer::Pool;
use crate::deflate::Agreement;
use crate::limits::Nanos;

/// The version of the format. Bytes of another one are refused.
const VERSION: u8 = 1;

impl From<OutOfMemory> for ThawError {
    fn from(_: OutOfMemory) -> ThawError {
        ThawError::OutOfMemory
    }
}

impl Connection {
    /// Whether the connection can be [frozen](Connection::freeze) as soon as no send of it is unfinished.
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
    pub fn freeze(&self, out: &mut Vec<u8>, now: Nanos) {
        debug_assert!(self.may_move() && !self.is_blocked());
        let mut to = Freezing { out, now };
        to.out.put_u8(VERSION);
        let is_client = self.role() == Role::Client;
        to.flags([is_client, self.codec.is_some(), self.is_closing(), self.sends_fragments]);
        to.out.put_u8(match self.reader.delivery() {
            Delivery::Whole => 0,
            Delivery::Frames => 1,
            Delivery::Chunks => 2,
        });
        to.out.put_u32_le(self.counted);
        if let Some(codec) = &self.codec {
            codec.freeze(&mut to);
        }
        if let Phase::Closing(closing) = &self.phase {
            closing.freeze(&mut to);
        }
        self.reader.freeze(&mut to);
        self.outbox.freeze(&mut to);
        self.liveness.freeze(&mut to);
    }

    /// The connection that `from` begins with, which is left with the bytes behind it.
    ///
    /// # Errors
    /// [`ThawError`]. Nothing is kept of the connection.
    pub fn thaw(from: &mut &[u8], env: &mut Env<'_>) -> Result<Connection, ThawError> {
        let mut from = Thawing { from, now: env.now };
        check(from.u8()? == VERSION)?;
        let [is_client, has_codec, is_closing, sends_fragments] = from.flags()?;
        let delivery = match from.u8()? {
            0 => Delivery::Whole,
            1 => Delivery::Frames,
            2 => Delivery::Chunks,
            _ => return Err(ThawError::Malformed),
        };
        let role = if is_client { Role::Client } else { Role::Server };
        let counted = from.u32(u32::MAX)?;
        let agreement = match has_codec {
            true => Some(Agreement::from_bytes(from.array()?).ok_or(ThawError::Malformed)?),
            false => None,
        };
        let mut connection = Connection::opened(role, agreement, delivery, env)?;
        (connection.counted, connection.sends_fragments) = (counted, sends_fragments);
        match connection.thaw_parts(&mut from, is_closing, env) {
            Ok(()) => Ok(connection),
            Err(error) => {
                connection.release(env.pool, env.codecs);
                Err(error)
            }
        }
    }

    fn thaw_parts(
        &mut self,
        from: &mut Thawing<'_, '_>,
        is_closing: bool,
        env: &mut Env<'_>,
    ) -> Result<(), ThawError> {
        if let Some(codec) = &mut self.codec {
            codec.thaw_window(from)?;
        }
        if is_closing {
            self.phase = Phase::Closing(super::Closing::thaw(from)?);
        }
        self.reader.thaw(from, self.codec.is_some(), env)?;
        self.outbox.thaw(from, env.pool)?;
        self.liveness.thaw(from)
    }
}
