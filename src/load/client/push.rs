//! What arrives on connections that only listen: it is counted, and timed where it tells when it was made.
//!
//! Never: a judgement of what a message says. Nothing is known of what the server meant to send.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Client;
use super::connection::Flow;
use crate::connection::{Chunk, Kind};
use crate::driver::{Driver, Token};
use crate::limits::Nanos;
use crate::shard::{Context, Link};

/// A connection that listens.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// When its latest message came; 0 before the first.
    heard_at: Nanos,
    /// Payload bytes of a message that has not come whole.
    bytes: usize,
    /// A message came that was made after the measured time: nothing that was made before is under way any more.
    pub(super) is_past_end: bool,
}

/// How far the clock on the wall is ahead of the one that turns are timed by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wall {
    ahead: Duration,
}

impl Wall {
    /// Looks at both, at `now`.
    fn at(now: Nanos) -> Wall {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Wall { ahead: time.saturating_sub(Duration::from_nanos(now)) }
    }

    /// How long before `now` a time on the wall was; `None` when it is yet to come.
    fn age(self, now: Nanos, time: Duration) -> Option<Nanos> {
        let wall = self.ahead + Duration::from_nanos(now);
        wall.checked_sub(time).map(|age| age.as_nanos() as Nanos)
    }
}

impl Client {
    /// Sets the wall's clock, which may be set while a run lasts.
    pub(super) fn look_at_the_wall<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>) {
        if self.shared.load.listening.time.is_some() {
            self.wall = Wall::at(cx.clock());
        }
    }

    /// A listener is open: it says what it was told to.
    pub(super) fn greet<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, token: Token) {
        if let Some(hello) = &self.shared.load.listening.hello
            && let Some(mut link) = cx.link(token)
            && link.send(Kind::Text, hello.as_bytes())
        {
            self.tally.sent += 1;
        }
    }

    /// A message, or a piece of one, came to a listener.
    #[inline]
    pub(super) fn push_arrived(&mut self, link: &mut Link<'_, Client>, position: usize, chunk: &Chunk<'_>) {
        let now = link.now();
        let Client { shared, connections, tally, wall, .. } = self;
        let connection = &mut connections[position];
        let Flow::Push(listener) = &mut connection.flow else { return };
        listener.bytes += chunk.payload.len();
        if !chunk.last {
            return;
        }
        let bytes = std::mem::take(&mut listener.bytes);
        let before = std::mem::replace(&mut listener.heard_at, now);
        if before == 0 {
            tally.handshakes.answered(&connection.opening, now);
        } else if tally.window.contains(now) {
            tally.pushes.gap(now - before);
        }
        let Some(field) = &shared.load.listening.time else { return tally.heard(now, bytes) };
        match field.read(chunk.payload).map(|time| wall.age(now, time)) {
            Some(Some(age)) => {
                let made = now.saturating_sub(age);
                listener.is_past_end |= tally.is_past_window(made);
                tally.pushed(now, made, bytes);
            }
            Some(None) => {
                if tally.window.contains(now) {
                    tally.pushes.ahead();
                }
                listener.is_past_end |= tally.is_past_window(now);
                tally.pushed(now, now, bytes);
            }
            None => {
                if tally.window.contains(now) {
                    tally.pushes.untimed();
                }
                tally.heard(now, bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_those_of_the_wall() {
        let wall = Wall { ahead: Duration::from_secs(1_700_000_000) };
        let now = 5_000_000_000;
        assert_eq!(wall.age(now, Duration::from_secs(1_700_000_004)), Some(1_000_000_000));
        assert_eq!(wall.age(now, Duration::from_secs(1_700_000_005)), Some(0));
        assert_eq!(wall.age(now, Duration::from_secs(1_700_000_007)), None);
        assert_eq!(wall.age(now, Duration::from_secs(5)), Some(1_700_000_000_000_000_000));
    }
}
