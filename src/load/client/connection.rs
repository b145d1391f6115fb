//! What the generator keeps of one connection.

use super::broadcast::Publishing;
use crate::driver::Token;
use crate::limits::Nanos;
use crate::load::plan::{Mode, Pace};
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
    /// Slots of the schedule that have passed; open loop only.
    pub(super) due: u64,
    /// Since when a message waits for room in the connection's queue.
    pub(super) held_since: Option<Nanos>,
    pub(super) flow: Flow,
}

#[derive(Debug)]
pub(super) enum Flow {
    Echo(Awaited),
    Broadcast(Box<Broadcast>),
}

/// A connection to a topic. Publishers receive too: what the topic's other publishers send.
#[derive(Debug)]
pub(super) struct Broadcast {
    pub(super) topic: u32,
    /// Subscribers of the topic when the load began.
    pub(super) audience: u32,
    /// By position among the topic's publishers.
    pub(super) streams: Vec<Stream>,
    pub(super) publishes: Option<Publishing>,
}

impl Connection {
    pub(super) fn new(shared: &Shared, number: u32) -> Connection {
        let load = &shared.load;
        let flow = match load.mode {
            Mode::Echo => Flow::Echo(Awaited::new(match load.pace {
                Pace::Depth(depth) => depth as usize,
                Pace::Rate(_) => 1,
            })),
            Mode::Broadcast => {
                let topic = load.topic(number);
                Flow::Broadcast(Box::new(Broadcast {
                    topic,
                    audience: 0,
                    streams: vec![Stream::default(); load.publishers_of(topic) as usize],
                    publishes: (number < load.publishers).then(Publishing::default),
                }))
            }
        };
        Connection { number, state: State::New, token: None, due: 0, held_since: None, flow }
    }

    /// The sequence of the message that may be sent now, if any.
    #[inline]
    pub(super) fn may_send(&self, pace: Pace) -> Option<u64> {
        let (next, in_flight, full) = match &self.flow {
            Flow::Echo(awaited) => (awaited.next(), awaited.in_flight(), awaited.is_full()),
            Flow::Broadcast(broadcast) => {
                let publishing = broadcast.publishes.as_ref()?;
                (publishing.next, publishing.in_flight(), false)
            }
        };
        let may = match pace {
            Pace::Depth(depth) => in_flight < u64::from(depth),
            Pace::Rate(_) => next < self.due,
        };
        (may && !full).then_some(next)
    }
}
