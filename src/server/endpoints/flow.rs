//! Endpoints with one-way, delayed or slow messages.

use std::collections::VecDeque;
use std::io::Write as _;

use serde::Serialize;

use super::parameters::Parameters;
use crate::handlers::failure::{Busy, Failure, Result};
use crate::handlers::handler::Handler;
use crate::handlers::message::Message;
use crate::handlers::remote::Remote;
use crate::limits::{
    DELAYED_BYTES_MAX, DELAYED_MESSAGES_MAX, ENDPOINT_MESSAGES_MAX, ENDPOINT_MS_MAX, FRAGMENTS_MAX,
    SLOW_READ_BYTES_PER_S_MAX, SLOW_READ_BYTES_PER_S_MIN, SOURCE_BYTES_MAX, SOURCE_MESSAGES_PER_TICK,
    SOURCE_RATE_MAX, SOURCE_TICK,
};
use crate::routes::request_context::Opening;
use crate::routes::response::Response;
use echoring_proto::CloseCode;
use echoring_proto::connection::{Chunk, MessageKind};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_runtime::shard::Disposition;

/// `/sink?every=`: discards messages, and reports their number as text after each `every` of them.
#[derive(Debug)]
pub(super) struct Sink {
    every: u64,
    taken: Taken,
    /// A report was refused because the queue was full.
    owes: bool,
}

#[derive(Debug, Default, Serialize)]
struct Taken {
    messages: u64,
    bytes: u64,
}

impl Sink {
    pub(super) fn of(opening: &mut Opening<'_>) -> Result<Sink, Response> {
        let parameters = Parameters::of(opening, &["every"])?;
        let every = parameters.number("every", 0, 1..=ENDPOINT_MESSAGES_MAX)?;
        Ok(Sink { every, taken: Taken::default(), owes: false })
    }
}

impl Sink {
    fn report(&mut self, remote: &mut Remote<'_>) -> Result {
        self.owes = remote.send_text(&serde_json::to_string(&self.taken)?).is_err();
        Ok(())
    }
}

impl Handler for Sink {
    fn is_streaming(&self) -> bool {
        true
    }

    fn chunk(&mut self, remote: &mut Remote<'_>, chunk: &Chunk<'_>) -> Result<Disposition> {
        self.taken.bytes += chunk.payload.len() as u64;
        self.taken.messages += u64::from(chunk.last);
        if chunk.last && self.every != 0 && self.taken.messages.is_multiple_of(self.every) {
            self.report(remote)?;
        }
        Ok(Disposition::Done)
    }

    fn writable(&mut self, remote: &mut Remote<'_>) -> Result {
        if self.owes { self.report(remote) } else { Ok(()) }
    }
}

/// `/source?rate=&bytes=&kind=&count=`: sends numbered messages at a rate. While the peer does not read, it waits and
/// then continues without skipping a number.
#[derive(Debug)]
pub(super) struct Source {
    interval: Nanos,
    /// When the next message is due.
    due: Nanos,
    /// The number of the next message.
    number: u64,
    /// Number of messages to send; 0 for no end.
    count: u64,
    kind: MessageKind,
    payload: Vec<u8>,
}

impl Source {
    pub(super) fn of(opening: &mut Opening<'_>) -> Result<Source, Response> {
        let parameters = Parameters::of(opening, &["rate", "bytes", "kind", "count"])?;
        let rate = parameters.number("rate", 10, 1..=SOURCE_RATE_MAX)?;
        let bytes = parameters.number("bytes", 16, 0..=SOURCE_BYTES_MAX)? as usize;
        let kind = parameters.kind("kind")?;
        let count = parameters.number("count", 0, 1..=ENDPOINT_MESSAGES_MAX)?;
        let payload = vec![if kind == MessageKind::Text { b'.' } else { 0 }; bytes];
        Ok(Source { interval: SECOND / rate, due: 0, number: 0, count, kind, payload })
    }

    /// Writes the number to the front of the payload: in decimal digits, or in 8 bytes, big-endian.
    fn write_number(&mut self) {
        let number = self.number;
        match self.kind {
            MessageKind::Binary => {
                let bytes = self.payload.len().min(8);
                self.payload[..bytes].copy_from_slice(&number.to_be_bytes()[8 - bytes..]);
            }
            // Digits that do not fit are left out.
            MessageKind::Text => drop(write!(&mut self.payload[..], "{number}")),
        }
    }

    fn send_due(&mut self, remote: &mut Remote<'_>) -> Result {
        let now = remote.now();
        if self.due + SECOND < now {
            // The shard stalled for this time; the missed messages are not sent in a burst.
            self.due = now;
        }
        for _ in 0..SOURCE_MESSAGES_PER_TICK {
            if self.due > now {
                break;
            }
            self.write_number();
            let message = Message { kind: self.kind, payload: &self.payload };
            if remote.send(message).is_err() {
                // `writable` continues.
                return Ok(());
            }
            self.number += 1;
            self.due += self.interval;
            if self.number == self.count {
                remote.close(CloseCode::NORMAL, "that was all");
                return Ok(());
            }
        }
        remote.wake_at(self.due.max(now + SOURCE_TICK));
        Ok(())
    }
}

impl Handler for Source {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        self.due = remote.now();
        self.send_due(remote)
    }

    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        self.send_due(remote)
    }

    fn writable(&mut self, remote: &mut Remote<'_>) -> Result {
        self.due = self.due.max(remote.now());
        self.send_due(remote)
    }
}

/// `/delay?ms=`: echoes each message after this time, in order. If too many wait, the peer is not read.
/// `/fragment?parts=`: echoes each message at once in this many frames.
#[derive(Debug)]
pub(super) struct Delay {
    delay: Nanos,
    parts: usize,
    waiting: VecDeque<Waiting>,
    /// Bytes of the waiting messages.
    bytes: usize,
    held_up: bool,
}

#[derive(Debug)]
struct Waiting {
    due: Nanos,
    kind: MessageKind,
    payload: Box<[u8]>,
}

impl Delay {
    pub(super) fn of(opening: &mut Opening<'_>) -> Result<Delay, Response> {
        let parameters = Parameters::of(opening, &["ms"])?;
        let delay = parameters.number("ms", 1_000, 0..=ENDPOINT_MS_MAX)? * MILLISECOND;
        Ok(Delay::new(delay, 1))
    }

    pub(super) fn in_parts(opening: &mut Opening<'_>) -> Result<Delay, Response> {
        let parameters = Parameters::of(opening, &["parts"])?;
        Ok(Delay::new(0, parameters.number("parts", 2, 1..=FRAGMENTS_MAX)? as usize))
    }

    fn new(delay: Nanos, parts: usize) -> Delay {
        Delay { delay, parts, waiting: VecDeque::new(), bytes: 0, held_up: false }
    }

    fn send(&self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<(), Busy> {
        if self.parts == 1 { remote.send(message) } else { remote.send_in_parts(message, self.parts) }
    }

    fn is_above(&self, share: usize) -> bool {
        self.waiting.len() > DELAYED_MESSAGES_MAX / share || self.bytes > DELAYED_BYTES_MAX / share
    }

    fn send_due(&mut self, remote: &mut Remote<'_>) -> Result {
        let now = remote.now();
        while let Some(next) = self.waiting.front() {
            if next.due > now {
                remote.wake_at(next.due);
                break;
            }
            if let Err(Busy) = self.send(remote, Message { kind: next.kind, payload: &next.payload }) {
                // `writable` continues.
                break;
            }
            if let Some(sent) = self.waiting.pop_front() {
                self.bytes -= sent.payload.len();
                remote.release(sent.payload.len() + size_of::<Waiting>());
            }
        }
        if self.held_up && !self.is_above(2) {
            self.held_up = false;
            remote.set_backpressured(false);
        }
        Ok(())
    }
}

impl Handler for Delay {
    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        if self.delay == 0 && self.waiting.is_empty() && self.send(remote, message).is_ok() {
            return Ok(Disposition::Done);
        }
        if !remote.reserve(message.len() + size_of::<Waiting>()) {
            return Err(Failure::new(CloseCode::TRY_AGAIN_LATER, "out of memory"));
        }
        let due = remote.now() + self.delay;
        if self.waiting.is_empty() && self.delay > 0 {
            remote.wake_at(due);
        }
        self.bytes += message.len();
        let payload = message.payload().into();
        self.waiting.push_back(Waiting { due, kind: message.kind(), payload });
        if !self.held_up && self.is_above(1) {
            self.held_up = true;
            remote.set_backpressured(true);
        }
        Ok(Disposition::Done)
    }

    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        self.send_due(remote)
    }

    fn writable(&mut self, remote: &mut Remote<'_>) -> Result {
        self.send_due(remote)
    }
}

/// `/slow-read?bytes_per_s=`: reads at most at this rate, and discards the messages.
#[derive(Debug)]
pub(super) struct SlowRead {
    bytes_per_s: u64,
    /// When the bytes read so far are within the rate.
    until: Nanos,
}

impl SlowRead {
    pub(super) fn of(opening: &mut Opening<'_>) -> Result<SlowRead, Response> {
        let parameters = Parameters::of(opening, &["bytes_per_s"])?;
        let bounds = SLOW_READ_BYTES_PER_S_MIN..=SLOW_READ_BYTES_PER_S_MAX;
        Ok(SlowRead { bytes_per_s: parameters.number("bytes_per_s", 1_024, bounds)?, until: 0 })
    }
}

impl Handler for SlowRead {
    fn is_streaming(&self) -> bool {
        true
    }

    fn chunk(&mut self, remote: &mut Remote<'_>, chunk: &Chunk<'_>) -> Result<Disposition> {
        let now = remote.now();
        // At most 2^31 bytes: the product stays below 2^62.
        let time = chunk.payload.len() as u64 * SECOND / self.bytes_per_s;
        self.until = self.until.max(now).saturating_add(time);
        if self.until > now + MILLISECOND {
            remote.set_backpressured(true);
            remote.wake_at(self.until);
        }
        Ok(Disposition::Done)
    }

    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.set_backpressured(false);
        Ok(())
    }
}
