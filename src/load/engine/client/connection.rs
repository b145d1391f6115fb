//! The state of one connection.

use super::conversation::Session;
use super::life::Life;
use super::listener::Listener;
use super::player::Player;
use super::slots::Attempt;
use super::topic::{Broadcast, Part, Publishing};
use crate::engine::shared::Shared;
use crate::measure::handshakes::HandshakeTimes;
use crate::measure::order::OrderChecker;
use crate::measure::track::{Awaited, Stream};
use crate::plan::schedule::Mark;
use crate::plan::{Mode, Pace};
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    New,
    Connecting,
    /// Upgraded; the steps that open the conversation are not done.
    Preparing,
    Open,
    /// Its lifetime is over, and it waits for answers or for its end.
    Retiring,
    /// It is not open and will be dialled.
    Away,
    Gone,
}

/// One connection of this thread.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) number: u32,
    pub(super) state: State,
    pub(super) token: Option<Token>,
    pub(super) life: Life,
    /// The times of its handshake.
    pub(super) opening: HandshakeTimes,
    /// Number of schedule slots that have passed; open loop only.
    pub(super) due: u64,
    /// When the next message is due; open loop only.
    pub(super) mark: Mark,
    /// Since when a message has waited for room in the connection's queue.
    pub(super) held_since: Option<Nanos>,
    pub(super) flow: Flow,
    /// When the next ping in addition to the load is due.
    pub(super) ping_at: Nanos,
    /// Its row of the data.
    pub(super) row: Option<u32>,
    /// The conversation of its protocol, if it has one.
    pub(super) session: Option<Box<Session>>,
}

#[derive(Debug)]
pub(super) enum Flow {
    Echo(Awaited),
    Broadcast(Box<Broadcast>),
    Attempt(Attempt),
    Push(Listener),
    Replay(Box<Player>),
}

impl Connection {
    pub(super) fn new(shared: &Shared, number: u32) -> Connection {
        let load = &shared.load;
        let flow = match load.mode {
            Mode::Echo | Mode::Ping => {
                Flow::Echo(Awaited::new(load.pace.depth().unwrap_or(load.burst) as usize))
            }
            Mode::Connect => Flow::Attempt(Attempt::default()),
            Mode::Replay => Flow::Replay(Box::default()),
            Mode::Push => Flow::Push(Listener::default()),
            Mode::Storm if !load.has_topics() => Flow::Push(Listener::default()),
            Mode::Broadcast | Mode::Storm => {
                let topic = load.topic(number);
                let part = match () {
                    () if number < load.publishers => Part::Publishes(Publishing::default()),
                    () if load.is_stalled(number) => Part::Slow { on_at: 0 },
                    () => Part::Subscribes,
                };
                Flow::Broadcast(Box::new(Broadcast {
                    topic,
                    audience: 0,
                    streams: vec![Stream::default(); load.publishers_of(topic) as usize],
                    order: OrderChecker::default(),
                    part,
                    replaced: Vec::new(),
                }))
            }
        };
        Connection {
            number,
            state: State::New,
            token: None,
            life: Life::default(),
            opening: HandshakeTimes::default(),
            due: 0,
            mark: Mark::default(),
            held_since: None,
            flow,
            ping_at: Nanos::MAX,
            row: None,
            session: shared.protocol.as_ref().map(|protocol| Box::new(Session::new(protocol))),
        }
    }

    /// Whether it is a deliberately slow reader.
    pub(super) fn stalls(&self) -> bool {
        matches!(&self.flow, Flow::Broadcast(broadcast) if matches!(broadcast.part, Part::Slow { .. }))
    }

    /// The sequence of the message that may be sent now, if any.
    #[inline]
    pub(super) fn may_send(&self, pace: &Pace) -> Option<u64> {
        let (next, in_flight, full) = match &self.flow {
            Flow::Echo(awaited) => (awaited.next(), awaited.in_flight(), awaited.is_full()),
            Flow::Broadcast(broadcast) => {
                let Part::Publishes(publishing) = &broadcast.part else { return None };
                (publishing.next, publishing.in_flight(), false)
            }
            Flow::Attempt(_) | Flow::Push(_) | Flow::Replay(_) => return None,
        };
        if self.session.as_ref().is_some_and(|session| session.pauses()) {
            return None;
        }
        let may = match pace {
            Pace::Depth(depth) => in_flight < u64::from(*depth),
            Pace::Rate(_) | Pace::Stages(_) => next < self.due,
        };
        (may && !full).then_some(next)
    }
}
