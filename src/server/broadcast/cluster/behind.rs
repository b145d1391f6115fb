//! Clients whose position this node has not reached: they have received messages from another node that are still on their way to this
//! one. They wait for those, because nothing is lost.

use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Driver;
use echoring_runtime::shard::Context;
use echoring_topics::{OwnedTopicId, Replay};

use super::ConnectionReader;
use crate::broadcast::Broadcast;
use crate::peer::ServerApplication;

/// A page of history that begins behind a position that this node has not reached.
#[derive(Clone, Copy, Debug)]
pub(in crate::broadcast) struct PageAhead {
    pub(in crate::broadcast) reader: ConnectionReader,
    pub(in crate::broadcast) owned: OwnedTopicId,
    pub(in crate::broadcast) from: Replay,
    /// When the position counts as one that the topic never had.
    pub(in crate::broadcast) until: Nanos,
}

impl Broadcast {
    /// Answers the readers whose position this node has reached, and those who have waited long enough.
    pub(super) fn answer_reached<D: Driver, A: ServerApplication>(&mut self, cx: &mut Context<'_, D, A>) {
        let now = self.now;
        for page in std::mem::take(&mut self.sequencer.queue.ahead) {
            let PageAhead { reader, owned, from, until } = page;
            if now < until && self.sequencer.is_behind(owned, from) {
                self.sequencer.queue.ahead.push(page);
                continue;
            }
            let read = self.sequencer.read_history(reader, owned, from, now, cx.pool());
            // Otherwise its stream is read first.
            if let Some((page, bytes)) = read {
                self.answer_reader(cx, reader, from, page, &bytes);
            }
        }
    }
}
