//! The state of one connection.

use super::conversation::Session;
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
    /// The place of its protocol among those of the run; 0 if there is none.
    pub(super) protocol: usize,
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

/// How a connection comes and goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Life {
    /// Whether the run has not to wait for it: it was open once, or failed.
    pub(super) is_settled: bool,
    /// Whether it was open once.
    pub(super) was_open: bool,
    /// Why it is away.
    pub(super) departure: Departure,
    /// Whether it was cut before; a storm counts each connection once.
    pub(super) was_cut: bool,
    /// When it ended.
    pub(super) ended_at: Nanos,
    /// When it is dialled, or closed.
    pub(super) due_at: Nanos,
    /// Until when the end of its lifetime waits for answers.
    pub(super) retire_by: Nanos,
    /// Attempts in a row that failed.
    pub(super) failures: u32,
    /// Number of random values that it has drawn.
    pub(super) drawn: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Departure {
    /// It is not away, or was never open.
    #[default]
    None,
    /// Its lifetime was over.
    Retired,
    /// It ended by itself.
    Ended,
    /// It was cut with all others.
    Cut,
}

impl Life {
    /// Whether it was open, and must reopen.
    pub(super) fn is_away(&self) -> bool {
        self.departure != Departure::None
    }

    /// Whether its user is absent, so that due messages have no sender.
    pub(super) fn has_no_user(&self) -> bool {
        !self.was_open || self.departure == Departure::Retired
    }
}

/// A listening connection of push mode.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// When its latest message arrived; 0 before the first.
    pub(super) heard_at: Nanos,
    /// Messages that arrived.
    pub(super) received: u64,
    /// Payload bytes of an incomplete message.
    pub(super) bytes: usize,
    /// A message that was created after the measured time has arrived, so no earlier one is in flight.
    pub(super) is_past_end: bool,
}

impl Connection {
    pub(super) fn new(shared: &Shared, number: u32) -> Connection {
        let load = &shared.load;
        let protocol = shared.protocol_for(number.into());
        let flow = match load.mode {
            Mode::Echo | Mode::Ping => {
                Flow::Echo(Awaited::new(load.pace.depth().unwrap_or(load.burst) as usize))
            }
            Mode::Connect | Mode::Session => Flow::Attempt(Attempt::default()),
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
            protocol,
            session: shared.protocols.get(protocol).map(|protocol| Box::new(Session::new(protocol))),
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
