//! Broadcast mode: deliberately slow subscribers, from the start of the measured time to their ends.

use super::Client;
use super::connection::{Connection, Flow, State};
use super::topic::Part;
use echoring_proto::CloseCode;
use echoring_proto::connection::Closed;
use echoring_proto::limits::Nanos;
use echoring_runtime::shard::Context;

impl Client {
    /// The measured time begins: stops the slow readers, or limits their rate.
    pub(super) fn stall(&mut self, cx: &mut Context<'_, Client>) {
        let trickles = self.shared.load.trickle.is_some();
        for (connection, position) in self.connections.iter().zip(0..) {
            if !connection.stalls() || connection.state != State::Open {
                continue;
            }
            if trickles {
                self.slow.positions.push(position);
            } else if let Some(mut link) = connection.token.and_then(|token| cx.link(token)) {
                link.set_backpressured(true);
            }
        }
    }

    /// Resumes the readers whose rate allows another read.
    pub(super) fn trickle(&mut self, cx: &mut Context<'_, Client>, now: Nanos) {
        if now >= self.slow.next {
            self.slow.next = Nanos::MAX;
            for &position in &self.slow.positions {
                let connection = &self.connections[position as usize];
                let Flow::Broadcast(broadcast) = &connection.flow else { continue };
                let Part::Slow { on_at } = broadcast.part else { continue };
                if on_at > now {
                    self.slow.next = self.slow.next.min(on_at);
                } else if let Some(mut link) = connection.token.and_then(|token| cx.link(token)) {
                    link.set_backpressured(false);
                }
            }
        }
        self.timers.wake_by(self.slow.next);
    }

    /// A slow subscriber has ended, closed by the server or by this side.
    pub(super) fn stalled_ended(&mut self, closed: &Closed) {
        // The code that the server sent, even if this side closed first and found it behind unread data.
        let code = closed.peer_close.as_ref().map_or(CloseCode::ABNORMAL, |close| close.code);
        self.tally.slow.closed(code.0, 1);
        if ![CloseCode::NORMAL, CloseCode::SLOW_CONSUMER, CloseCode::ABNORMAL].contains(&code) {
            self.connector.failed += 1;
            self.tally.connections.ended_early += 1;
        }
    }

    /// Counts the slow subscribers that the server has not closed by the end.
    pub(super) fn give_up_stalled(&mut self) {
        let open = |connection: &&Connection| connection.stalls() && connection.state == State::Open;
        let left = self.connections.iter().filter(open).count() as u64;
        if left > 0 {
            self.tally.slow.closed(CloseCode::ABNORMAL.0, left);
        }
    }
}
