//! Push mode: messages are counted, and timed if they have a time field.
//!
//! Never: a check of contents, because it is unknown what the server meant to send.

use std::time::Duration;

use super::clock_offset::ClockOffset;
use super::connection::Flow;
use super::{Client, Link};
use crate::measure::MessageName;
use echoring_proto::connection::{Chunk, MessageKind};
use echoring_runtime::shard::Context;

impl Client {
    /// Reads the wall clock, which may be set during a run.
    pub(super) fn read_wall_clock(&mut self, cx: &mut Context<'_, Client>) {
        if self.shared.needs_wall_clock {
            self.clock_offset = ClockOffset::at(cx.clock());
        }
    }

    /// Sends the hello message of a listener that has opened.
    pub(super) fn send_hello(&mut self, link: &mut Link<'_>) {
        if let Some(hello) = &self.shared.load.listening.hello
            && link.send(MessageKind::Text, hello.as_bytes())
        {
            self.tally.counts.sent += 1;
        }
    }

    /// A message, or a part of one, arrived at a listener.
    #[inline]
    pub(super) fn push_arrived(&mut self, link: &mut Link<'_>, position: usize, chunk: &Chunk<'_>) {
        let Flow::Push(listener) = &mut self.connections[position].flow else { return };
        listener.bytes += chunk.payload.len();
        if !chunk.last {
            return;
        }
        let bytes = std::mem::take(&mut listener.bytes);
        let time = self.shared.load.listening.time.as_ref().map(|field| field.read(chunk.payload));
        self.push_timed(link, position, bytes, time);
    }

    /// A pushed message with this number of bytes arrived. `time` is the time at which it was made, if pushes are
    /// timed; `None` within if it has none.
    pub(super) fn push_timed(
        &mut self,
        link: &mut Link<'_>,
        position: usize,
        bytes: usize,
        time: Option<Option<Duration>>,
    ) {
        let now = link.now();
        let Client { connections, tally, clock_offset, .. } = self;
        let connection = &mut connections[position];
        let Flow::Push(listener) = &mut connection.flow else {
            tally.counts.unsolicited += 1;
            return;
        };
        let before = std::mem::replace(&mut listener.heard_at, now);
        if before == 0 {
            tally.connections.handshakes.answered(&connection.opening, now);
        } else if tally.window.contains(now) {
            tally.pushes.gap.saturating_record(now - before);
        }
        let name = MessageName::of(connection.number, listener.received);
        listener.received += 1;
        let Some(time) = time else { return tally.heard_untimed(now, name, bytes) };
        match time.map(|time| clock_offset.age(now, time)) {
            Some(Some(age)) => {
                let made = now.saturating_sub(age);
                listener.is_past_end |= tally.is_past_window(made);
                tally.pushed(now, name, made, bytes);
            }
            Some(None) => {
                if tally.window.contains(now) {
                    tally.pushes.ahead += 1;
                }
                listener.is_past_end |= tally.is_past_window(now);
                tally.pushed(now, name, now, bytes);
            }
            None => {
                if tally.window.contains(now) {
                    tally.pushes.untimed += 1;
                }
                tally.heard_untimed(now, name, bytes);
            }
        }
    }
}
