//! What the generator keeps of one connection.

use super::broadcast::Publishing;
use super::connecting::Visit;
use super::push::Listener;
use crate::driver::Token;
use crate::limits::Nanos;
use crate::load::handshakes::Opening;
use crate::load::order::Walk;
use crate::load::plan::{Mode, Pace};
use crate::load::schedule::Mark;
use crate::load::shared::Shared;
use crate::load::track::{Awaited, Stream};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    New,
    Dialling,
    Open,
    Gone,
}

/// One connection of this thread.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) number: u32,
    pub(super) state: State,
    pub(super) token: Option<Token>,
    /// When it came how far.
    pub(super) opening: Opening,
    /// Slots of the schedule that have passed; open loop only.
    pub(super) due: u64,
    /// When the next message should leave; open loop only.
    pub(super) mark: Mark,
    /// Since when a message waits for room in the connection's queue.
    pub(super) held_since: Option<Nanos>,
    pub(super) flow: Flow,
}

#[derive(Debug)]
pub(super) enum Flow {
    Echo(Awaited),
    Broadcast(Box<Broadcast>),
    Visit(Visit),
    Push(Listener),
}

/// A connection to a topic.
#[derive(Debug)]
pub(super) struct Broadcast {
    pub(super) topic: u32,
    /// Subscribers of the topic when the load began.
    pub(super) audience: u32,
    /// By position among the topic's publishers.
    pub(super) streams: Vec<Stream>,
    /// Its way through the order of all of them.
    pub(super) walk: Walk,
    pub(super) part: Part,
}

/// What a connection does in its topic. What it receives is checked in any case; it is timed, and missed when it does
/// not come, where the connection subscribes.
#[derive(Debug)]
pub(super) enum Part {
    /// It sends, and receives what the topic's other publishers send.
    Publishes(Publishing),
    /// It receives.
    Subscribes,
    /// It receives until the measured time begins, and then reads nothing, or little, until everything is over.
    Slow {
        /// When it may read on; trickling only.
        on_at: Nanos,
    },
}

impl Broadcast {
    /// A publisher's messages.
    #[inline]
    pub(super) fn publishing(&mut self) -> Option<&mut Publishing> {
        match &mut self.part {
            Part::Publishes(publishing) => Some(publishing),
            Part::Subscribes | Part::Slow { .. } => None,
        }
    }

    /// Whether it counts among those that messages have to reach.
    #[inline]
    pub(super) fn subscribes(&self) -> bool {
        matches!(self.part, Part::Subscribes)
    }
}

impl Connection {
    pub(super) fn new(shared: &Shared, number: u32) -> Connection {
        let load = &shared.load;
        let flow = match load.mode {
            Mode::Echo => Flow::Echo(Awaited::new(load.pace.depth().unwrap_or(load.burst) as usize)),
            Mode::Connect => Flow::Visit(Visit::default()),
            Mode::Push => Flow::Push(Listener::default()),
            Mode::Broadcast => {
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
                    walk: Walk::default(),
                    part,
                }))
            }
        };
        Connection {
            number,
            state: State::New,
            token: None,
            opening: Opening::default(),
            due: 0,
            mark: Mark::default(),
            held_since: None,
            flow,
        }
    }

    /// Whether it is one that is slow on purpose.
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
            Flow::Visit(_) | Flow::Push(_) => return None,
        };
        let may = match pace {
            Pace::Depth(depth) => in_flight < u64::from(*depth),
            Pace::Rate(_) | Pace::Stages(_) => next < self.due,
        };
        (may && !full).then_some(next)
    }
}
