//! The path of nearly every message of an echo server: one lookup of the connection, one of the bytes, one send. It is one loop
//! over the events of a tick, so that a driver of several kinds is chosen once and not for each message.

use super::Shard;
use crate::driver::{Event, Operations, Span, Token, Work};
use crate::shard::application::Application;
use crate::shard::core::Echoed;
use crate::shard::slots::{Path, Slots};
use crate::stats::Traffic;
use echoring_proto::connection::{SINGLE_REPLY_START, SpanCursor, echo_short, echo_single};
use echoring_proto::limits::Nanos;

impl<A: Application> Shard<A> {
    /// Answers short messages at the front of `events`. Returns how many of the events are over; the next one, if any, is left to
    /// [`handle`](Shard::handle).
    #[inline]
    pub(super) fn echo(&mut self, events: &[Event]) -> usize {
        let core = &mut self.core;
        let several = Several {
            traffic: core.counters.traffic.at(core.echo_account),
            max_message: core.env.config.max_message,
            spans: 0,
        };
        let (slots, echoed) = (&mut core.slots, &mut core.echoed);
        let (over, rest) = core.driver.run(Echoes { events, slots, echoed, several, now: core.env.now });
        if let Some(cursor) = rest
            && let Some(&Event::Received { token, span }) = events.get(over)
        {
            self.end_echo(token, span, cursor);
            return over + 1;
        }
        over
    }

    /// A span that began with short messages continues differently, or its replies were not accepted.
    #[inline(never)]
    fn end_echo(&mut self, token: Token, span: Span, cursor: SpanCursor) {
        if let Some(slot) = self.core.slots.get_mut(token) {
            slot.connection.resume_span(&cursor);
        }
        self.received_any(token, span, cursor);
    }
}

/// The events of a tick, with what answering short messages needs.
struct Echoes<'a, P> {
    events: &'a [Event],
    slots: &'a mut Slots<P>,
    echoed: &'a mut Echoed,
    several: Several<'a>,
    now: Nanos,
}

impl<P> Work for Echoes<'_, P> {
    /// Events that are over, and how far the next one was read if it was begun.
    type Outcome = (usize, Option<SpanCursor>);

    // Out of line, so that the loop has the registers to itself.
    #[inline(never)]
    fn on<D: Operations>(self, driver: &mut D) -> Self::Outcome {
        const START: u32 = SINGLE_REPLY_START as u32;
        let Echoes { events, slots, echoed, mut several, now } = self;
        let (mut left, mut bytes, mut rest) = (events.iter(), 0, None);
        while let Some(&Event::Received { token, span }) = left.as_slice().first() {
            let Some(slot) = slots.get_mut(token).filter(|slot| slot.path == Path::PlainEcho) else { break };
            debug_assert!(slot.connection.may_echo_in_place());
            slot.connection.begin_span(now);
            if echo_single(driver.received(span)) {
                let reply = Span { offset: span.offset + START, bytes: span.bytes - START };
                if !driver.send_received(token, reply) {
                    rest = Some(several.refused(span));
                    break;
                }
                bytes += u64::from(span.bytes);
            } else {
                rest = several.echo(driver, token, span);
                if rest.is_some() {
                    break;
                }
            }
            left.next();
        }
        let over = events.len() - left.len();
        echoed.messages += (over - several.spans) as u64;
        echoed.bytes += bytes;
        (over, rest)
    }
}

/// Answers the spans that do not take the shortest path: several messages, or a reply that the driver refused.
struct Several<'a> {
    /// The traffic of connections whose messages are echoed.
    traffic: &'a mut Traffic,
    max_message: u64,
    /// Spans that are over.
    spans: usize,
}

impl Several<'_> {
    /// The driver did not take the answer to a single message.
    #[cold]
    #[inline(never)]
    fn refused(&mut self, span: Span) -> SpanCursor {
        self.traffic.messages_in += 1;
        self.traffic.messages_out += 1;
        self.traffic.bytes_in += u64::from(span.bytes);
        let bytes = span.bytes as usize;
        SpanCursor::at_end(bytes, SINGLE_REPLY_START..bytes)
    }

    /// Several messages in one span. Returns how far it was read if it is not over.
    #[inline(never)]
    fn echo<D: Operations>(&mut self, driver: &mut D, token: Token, span: Span) -> Option<SpanCursor> {
        let mut cursor = SpanCursor::new();
        let echoed = echo_short(&mut cursor, driver.received(span), self.max_message);
        self.traffic.bytes_in += u64::from(span.bytes);
        self.traffic.messages_in += echoed;
        self.traffic.messages_out += echoed;
        if cursor.position() == span.bytes as usize {
            let replies = cursor.replies();
            let reply = Span { offset: span.offset + replies.start as u32, bytes: replies.len() as u32 };
            if driver.send_received(token, reply) {
                self.traffic.bytes_out += u64::from(reply.bytes);
                self.spans += 1;
                return None;
            }
        }
        Some(cursor)
    }
}
