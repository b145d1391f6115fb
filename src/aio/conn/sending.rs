//! From messages to the transport.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::core::{Core, Transport};
use super::error::{End, Error};
use super::heartbeat::Pulse;
use crate::connection::{Cause, Kind};
use crate::limits::{CONTROL_PAYLOAD_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::protocol::Opcode;

/// Where the messages to the peer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    /// A message may begin.
    Between,
    /// Fragments of a message have been queued.
    Fragments,
    /// A message was begun that nobody will finish.
    Torn,
}

impl<S: Transport> Core<S> {
    /// Hands what is queued to the transport. Ready when all of it was taken, or cannot be any more.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.write_end.is_some() {
            self.drop_queue();
            return Poll::Ready(());
        }
        while let Some(buffer) = self.sending.take().or_else(|| self.connection.pop()) {
            let buffer = self.sending.insert(buffer);
            match Pin::new(&mut self.stream).poll_write(cx, buffer.as_slice()) {
                Poll::Ready(Ok(0)) => return self.writing_failed(&std::io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(taken)) => {
                    self.unflushed = true;
                    self.changed = true;
                    buffer.skip(taken);
                    if buffer.is_empty() {
                        self.sent();
                    }
                }
                Poll::Ready(Err(error)) => return self.writing_failed(&error),
                Poll::Pending => {
                    self.connection.blocked(buffer.len() as u32);
                    return Poll::Pending;
                }
            }
        }
        if self.unflushed {
            if let Err(error) = ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
                return self.writing_failed(&error);
            }
            self.unflushed = false;
        }
        Poll::Ready(())
    }

    /// The transport has taken a whole buffer.
    fn sent(&mut self) {
        let buffer = self.sending.take();
        self.with(|connection, env, _, _| {
            if let Some(buffer) = buffer {
                env.pool.put(buffer);
            }
            if connection.is_blocked() {
                connection.unblocked(env.now);
            }
        });
    }

    /// Nothing more can be written. What the peer sent before that can still be read.
    fn writing_failed(&mut self, error: &std::io::Error) -> Poll<()> {
        self.write_end = Some(End::io(error));
        self.changed = true;
        self.unflushed = false;
        self.drop_queue();
        Poll::Ready(())
    }

    /// Gives up what is queued.
    pub(super) fn drop_queue(&mut self) {
        let sending = self.sending.take();
        if sending.is_none() && self.connection.has_clear_way() {
            return;
        }
        self.with(|connection, env, _, _| {
            connection.unblocked(env.now);
            for buffer in sending.into_iter().chain(std::iter::from_fn(|| connection.pop())) {
                env.pool.put(buffer);
            }
        });
    }

    /// Waits until there is room for another message.
    pub(super) fn poll_room(&mut self, bytes_max: u32, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.look_at_clock();
        loop {
            if let Some(error) = self.write_error() {
                return Poll::Ready(Err(error));
            }
            if self.writing == Writing::Torn {
                return Poll::Ready(Err(Error::Unfinished));
            }
            if self.connection.queued_bytes() <= bytes_max {
                return Poll::Ready(Ok(()));
            }
            if self.poll_flush(cx).is_pending() {
                ready!(self.poll_write_deadline(cx))?;
            }
        }
    }

    /// Waits until all that is queued was taken.
    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.look_at_clock();
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
            matches!(self.connection.closed().map(|closed| &closed.cause), Some(Cause::Offence(_)));
        if self.write_end.is_some() || self.overtaken || offended {
            return Poll::Ready(Err(self.write_error().unwrap_or(Error::Closing)));
        }
        self.put_tools_away();
        Poll::Ready(Ok(()))
    }

    /// Ready with the error at the deadline, or without when it has moved.
    fn poll_write_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Some(at) = self.write_deadline else { return Poll::Pending };
        if at > self.now {
            ready!(self.write_timer.poll(at, cx));
            self.look_at_clock();
        }
        Poll::Ready(if at <= self.now { Err(Error::WriteTimeout) } else { Ok(()) })
    }

    /// Queues a whole message.
    pub(super) fn queue(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Error> {
        if payload.len() as u64 > MESSAGE_BYTES_MAX {
            return Err(Error::TooLong);
        }
        self.may_queue()?;
        let compresses = self.compresses;
        let queued = self.with(|connection, env, _, _| match compresses {
            true => connection.send(kind, payload, env),
            false => connection.send_plain(kind, payload, env),
        });
        self.queued(queued.is_ok())
    }

    /// Whether a message may begin.
    pub(super) fn may_queue(&mut self) -> Result<(), Error> {
        self.look_at_clock();
        match self.write_error() {
            Some(error) => Err(error),
            None if self.writing != Writing::Between => Err(Error::Unfinished),
            None => Ok(()),
        }
    }

    /// Queues a part of a message.
    pub(super) fn queue_fragment(
        &mut self,
        kind: Kind,
        first: bool,
        last: bool,
        payload: &[u8],
    ) -> Result<(), Error> {
        if let Some(error) = self.write_error() {
            return Err(error);
        }
        let queued =
            self.with(|connection, env, _, _| connection.send_fragment(kind, first, last, payload, env));
        self.writing = if last { Writing::Between } else { Writing::Fragments };
        self.queued(queued.is_ok())
    }

    /// Queues a ping or a pong, in front of data.
    pub(super) fn queue_control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Error> {
        if payload.len() > CONTROL_PAYLOAD_BYTES_MAX {
            return Err(Error::TooLong);
        }
        if let Some(error) = self.write_error() {
            return Err(error);
        }
        self.look_at_clock();
        let queued = self.with(|connection, env, _, _| match opcode {
            Opcode::Ping => connection.ping(payload, env),
            _ => connection.pong(payload, env),
        });
        self.queued(queued.is_ok())
    }

    /// Sends the beat that is due, and waits for the next one.
    pub(super) fn poll_beat(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.look_at_clock();
        if self.beat() {
            return Poll::Ready(());
        }
        let Some(at) = self.pulse.as_ref().map(Pulse::next_beat) else { return Poll::Pending };
        self.write_timer.poll(at, cx)
    }

    /// The effort of compression from the next message on.
    pub(super) fn set_compression_level(&mut self, level: u8) {
        self.with(|connection, env, _, _| connection.set_compression_level(level, env.codecs));
        if let Some(compression) = &mut self.config.compression {
            compression.level = level;
        }
    }

    pub(super) fn queued(&mut self, queued: bool) -> Result<(), Error> {
        if queued {
            return Ok(());
        }
        self.connection.out_of_memory();
        self.changed = true;
        Err(Error::OutOfMemory)
    }
}
