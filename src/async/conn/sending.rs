//! Encodes messages and writes them to the transport.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite as _;
use tokio::time::Instant;

use super::core::{Core, Transport, stream_of};
use super::error::{End, Error};
use super::heartbeat::HeartbeatTimer;
use super::message::Message;
use super::outgoing::Outgoing;
use crate::limits::SEND_SHARED_BYTES_MIN;
use echoring_proto::buffer::Buffer;
use echoring_proto::connection::{Cause, MessageKind};
use echoring_proto::frame::Header;
use echoring_proto::limits::{CONTROL_PAYLOAD_BYTES_MAX, MESSAGE_BYTES_MAX};
use echoring_proto::{Opcode, Role};

/// The state of outgoing messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    /// Between two messages.
    Between,
    /// Inside a fragmented message.
    Fragments,
    /// Inside a fragmented message whose writer was dropped.
    Abandoned,
}

impl<S: Transport> Core<S> {
    /// Writes queued frames to the transport. Ready once all were accepted, or writing has failed.
    #[inline]
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let flushed = self.poll_flush_queue(cx);
        match flushed {
            Poll::Ready(()) => self.blocked_since = None,
            Poll::Pending => self.note_blocked(),
        }
        flushed
    }

    /// The transport has stopped accepting.
    #[cold]
    fn note_blocked(&mut self) {
        if self.write_timeout.is_some() && self.blocked_since.is_none() {
            self.update_clock();
            self.blocked_since = Some(self.now);
        }
    }

    /// When the connection ends unless the transport has accepted a frame by then.
    pub(super) fn write_ends_at(&self) -> Option<Instant> {
        self.blocked_since?.checked_add(self.write_timeout?)
    }

    /// The transport has accepted no frame for as long as it may. The peer's incomplete frame cannot be continued.
    #[cold]
    pub(super) fn end_blocked(&mut self) {
        self.connection.abort(Cause::SendTimeout);
        self.write_end = Some(End::SendTimeout);
        self.unflushed = false;
        self.end_with(End::SendTimeout);
    }

    fn poll_flush_queue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.write_end.is_some() {
            self.drop_queue();
            return Poll::Ready(());
        }
        loop {
            if self.sending.is_none() {
                if self.connection.is_flushed() {
                    break;
                }
                let Some(buffer) = self.connection.pop() else { break };
                let written = Pin::new(stream_of(&mut self.stream)).poll_write(cx, buffer.as_slice());
                if matches!(written, Poll::Ready(Ok(taken)) if taken == buffer.len()) {
                    self.unflushed = true;
                    self.sent(buffer);
                    continue;
                }
                self.sending = Some(Outgoing::buffer(buffer));
                ready!(self.poll_written(written));
            } else {
                let written = self.poll_write_rest(cx);
                ready!(self.poll_written(written));
            }
            if self.write_end.is_some() {
                return Poll::Ready(());
            }
        }
        if self.unflushed {
            if let Err(error) = ready!(Pin::new(stream_of(&mut self.stream)).poll_flush(cx)) {
                self.writing_failed(&error);
                return Poll::Ready(());
            }
            self.unflushed = false;
        }
        Poll::Ready(())
    }

    /// Writes the rest of a send that the transport has not accepted, which has more than one piece or was begun.
    fn poll_write_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(outgoing) = &self.sending else { return Poll::Ready(Ok(0)) };
        let stream = Pin::new(stream_of(&mut self.stream));
        match outgoing.single() {
            Some(bytes) => stream.poll_write(cx, bytes),
            None => stream.poll_write_vectored(cx, &outgoing.pieces()),
        }
    }

    /// Handles the result of a write of `sending`.
    fn poll_written(&mut self, written: Poll<io::Result<usize>>) -> Poll<()> {
        let Some(outgoing) = &mut self.sending else { return Poll::Ready(()) };
        match written {
            Poll::Ready(Ok(0)) => self.writing_failed(&io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(taken)) => {
                self.unflushed = true;
                outgoing.skip(taken);
                if outgoing.len() == 0 {
                    let buffer = self.sending.take().and_then(Outgoing::into_buffer);
                    self.connection.unblocked(self.now_ns);
                    match buffer {
                        Some(buffer) => self.sent(buffer),
                        None => (self.changed, self.blocked_since) = (true, None),
                    }
                }
            }
            Poll::Ready(Err(error)) => self.writing_failed(&error),
            Poll::Pending => {
                self.connection.blocked(outgoing.len() as u32);
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// The transport has accepted a whole buffer.
    #[inline]
    fn sent(&mut self, buffer: Buffer) {
        // A task may wait for room.
        self.changed = true;
        self.blocked_since = None;
        self.buffer_slot.open(&self.config).pool.put(buffer);
    }

    /// Nothing more can be written. Messages that the peer sent before can still be read.
    #[cold]
    fn writing_failed(&mut self, error: &io::Error) {
        self.write_end = Some(End::io(error));
        self.changed = true;
        self.unflushed = false;
        self.drop_queue();
    }

    /// Drops the queued frames.
    pub(super) fn drop_queue(&mut self) {
        let outgoing = self.sending.take();
        if outgoing.is_none() && self.connection.is_flushed() {
            return;
        }
        let mut dropped = outgoing.as_ref().map_or(0, Outgoing::len);
        let sending = outgoing.and_then(Outgoing::into_buffer);
        self.with(|connection, env, _| {
            connection.unblocked(env.now);
            sending.into_iter().for_each(|buffer| env.pool.put(buffer));
            while let Some(buffer) = connection.pop() {
                dropped += buffer.len();
                env.pool.put(buffer);
            }
        });
        self.dropped_bytes += dropped as u64;
    }

    /// Bytes that were queued and that the transport has not accepted, dropped ones included.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        let of_connection =
            u64::from(self.connection.queued_bytes()) + u64::from(self.connection.displaced_bytes());
        of_connection + self.dropped_bytes
    }

    /// Whether another message can be queued, and no more than `bytes_max` wait.
    #[inline]
    pub(super) fn has_room(&self, bytes_max: u32) -> bool {
        self.writing == Writing::Between && self.is_writable() && self.connection.queued_bytes() <= bytes_max
    }

    /// Waits until the queue has room for another message.
    pub(super) fn poll_room(&mut self, bytes_max: u32, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            if let Some(error) = self.write_error() {
                return Poll::Ready(Err(error));
            }
            if self.writing == Writing::Abandoned {
                return Poll::Ready(Err(Error::Unfinished));
            }
            if self.connection.queued_bytes() <= bytes_max {
                return Poll::Ready(Ok(()));
            }
            // The transport may have accepted enough of the queue to make the room.
            if self.poll_flush(cx).is_pending() && self.connection.queued_bytes() > bytes_max {
                ready!(self.poll_write_deadline(cx))?;
            }
        }
    }

    /// Waits until all queued frames were accepted.
    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            if let Some(end) = &self.end {
                return Poll::Ready(Err(end.error()));
            }
            if self.poll_flush(cx).is_ready() {
                break;
            }
            ready!(self.poll_write_deadline(cx))?;
        }
        let offended =
            matches!(self.connection.closed().map(|closed| &closed.cause), Some(Cause::ProtocolError(_)));
        if self.write_end.is_some() || self.overtaken || offended {
            return Poll::Ready(Err(self.write_error().unwrap_or(Error::Closing)));
        }
        self.release_buffers();
        Poll::Ready(Ok(()))
    }

    /// Called when the transport stops accepting. Ready with the error at the deadline, or without an error if the
    /// deadline has moved or the connection has ended.
    fn poll_write_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let ends_at = self.write_ends_at();
        let Some(at) = self.write_deadline.into_iter().chain(ends_at).min() else { return Poll::Pending };
        self.update_clock();
        if at > self.now {
            ready!(self.write_timer.poll(at, cx));
            self.update_clock();
        }
        if ends_at.is_some_and(|at| at <= self.now) {
            self.end_blocked();
            return Poll::Ready(Ok(()));
        }
        let is_late = self.write_deadline.is_some_and(|at| at <= self.now);
        Poll::Ready(if is_late { Err(Error::WriteTimeout) } else { Ok(()) })
    }

    /// Queues a complete message.
    #[inline]
    pub(super) fn queue(&mut self, kind: MessageKind, payload: &[u8]) -> Result<(), Error> {
        if payload.len() as u64 > MESSAGE_BYTES_MAX {
            return Err(Error::TooLong);
        }
        self.may_queue()?;
        self.queue_whole(kind, payload)
    }

    /// Queues a complete message that may begin.
    #[inline]
    fn queue_whole(&mut self, kind: MessageKind, payload: &[u8]) -> Result<(), Error> {
        let compresses = self.compresses;
        let queued = self.with(|connection, env, _| match compresses {
            true => connection.send(kind, payload, env),
            false => connection.send_plain(kind, payload, env),
        });
        self.trace.sent(payload.len(), true);
        self.queued(queued.is_ok())
    }

    /// Queues a complete message. A long one is sent from where it lies, if nothing else waits to be sent but one buffer.
    #[inline]
    pub(super) fn queue_message(&mut self, message: Message) -> Result<(), Error> {
        match message.len() < SEND_SHARED_BYTES_MIN {
            true => self.queue(message.kind(), message.as_bytes()),
            false => self.queue_long(message),
        }
    }

    /// The same where the message [may begin](Core::has_room).
    #[inline]
    pub(super) fn queue_fed(&mut self, message: Message) -> Result<(), Error> {
        match message.len() < SEND_SHARED_BYTES_MIN {
            true => self.queue_whole(message.kind(), message.as_bytes()),
            false => self.queue_long(message),
        }
    }

    #[inline(never)]
    fn queue_long(&mut self, message: Message) -> Result<(), Error> {
        let bytes = message.len();
        let lies = self.role == Role::Server
            && bytes as u64 <= MESSAGE_BYTES_MAX
            && self.sending.is_none()
            && stream_of(&mut self.stream).is_write_vectored()
            && (!self.compresses || self.connection.agreement().is_none());
        if !lies {
            return self.queue(message.kind(), message.as_bytes());
        }
        self.may_queue()?;
        let before = self.connection.pop();
        if !self.connection.is_flushed() {
            if let Some(before) = before {
                self.connection.push_front(before);
            }
            return self.queue(message.kind(), message.as_bytes());
        }
        let header = Header::new(message.kind().opcode(), true, None, bytes);
        let outgoing = Outgoing::frame(before, &header, message.into_bytes());
        self.connection.blocked(outgoing.len() as u32);
        self.sending = Some(outgoing);
        self.trace.sent(bytes, true);
        Ok(())
    }

    /// Whether a message may begin.
    #[inline]
    pub(super) fn may_queue(&mut self) -> Result<(), Error> {
        match self.write_error() {
            Some(error) => Err(error),
            None if self.writing != Writing::Between => Err(Error::Unfinished),
            None => Ok(()),
        }
    }

    /// Queues a fragment of a message.
    pub(super) fn queue_fragment(
        &mut self,
        kind: MessageKind,
        first: bool,
        last: bool,
        payload: &[u8],
    ) -> Result<(), Error> {
        if let Some(error) = self.write_error() {
            return Err(error);
        }
        let queued =
            self.with(|connection, env, _| connection.send_fragment(kind, first, last, payload, env));
        self.writing = if last { Writing::Between } else { Writing::Fragments };
        self.trace.sent(payload.len(), last);
        self.queued(queued.is_ok())
    }

    /// Queues a ping or a pong, ahead of data.
    pub(super) fn queue_control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Error> {
        if payload.len() > CONTROL_PAYLOAD_BYTES_MAX {
            return Err(Error::ControlTooLong);
        }
        if let Some(error) = self.write_error() {
            return Err(error);
        }
        self.update_clock();
        let queued = self.with(|connection, env, _| match opcode {
            Opcode::Ping => connection.ping(payload, env),
            _ => connection.pong(payload, env),
        });
        self.queued(queued.is_ok())
    }

    /// Sends the heartbeat that is due, and waits for the next one.
    pub(super) fn poll_heartbeat(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.update_clock();
        if self.queue_heartbeat() {
            return Poll::Ready(());
        }
        let Some(at) = self.heartbeat_timer.as_ref().map(HeartbeatTimer::next_heartbeat) else {
            return Poll::Pending;
        };
        self.write_timer.poll(at, cx)
    }

    /// Sets the compression level from the next message on.
    pub(super) fn set_compression_level(&mut self, level: u8) {
        self.with(|connection, env, _| connection.set_compression_level(level, env.codecs));
        if let Some(compression) = &mut self.config.compression {
            compression.level = level;
        }
    }

    #[inline]
    pub(super) fn queued(&mut self, queued: bool) -> Result<(), Error> {
        if queued { Ok(()) } else { Err(self.out_of_memory()) }
    }

    #[cold]
    fn out_of_memory(&mut self) -> Error {
        self.connection.abort(Cause::OutOfMemory);
        self.changed = true;
        Error::OutOfMemory
    }
}
