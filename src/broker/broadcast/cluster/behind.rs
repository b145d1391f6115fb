//! Clients whose position this node has not reached: they have received messages from another node that are still on their way to this
//! one. They wait for these messages, because nothing is lost. If they wait for too long, they are told to try again,
//! or another node: a lower position in the same epoch would let them receive twice what they have.
//!
//! Pages of a stream that could not be read wait here, too, until they are read again: a reported gap would be wrong.

use echoring_cluster::limits::STREAM_RETRY_DELAY;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Driver;
use echoring_topics::{OwnedTopicId, Refused, Replay};

use super::ConnectionReader;
use crate::broadcast::Broadcast;
use crate::limits::CLUSTER_BEHIND_MAX;
use crate::peer::Context;

/// A page of history that begins behind a position that this node has not reached, or whose stream could not be read.
#[derive(Clone, Copy, Debug)]
pub(in crate::broadcast) struct PageAhead {
    pub(in crate::broadcast) reader: ConnectionReader,
    pub(in crate::broadcast) owned: OwnedTopicId,
    pub(in crate::broadcast) from: Replay,
    /// When it is checked, if the position is not reached earlier.
    pub(in crate::broadcast) look_at: Nanos,
    /// When its reader has waited long enough.
    pub(in crate::broadcast) until: Nanos,
}

impl Broadcast {
    /// Answers the readers whose position this node has reached, and those that have waited long enough.
    pub(super) fn answer_reached<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        let now = self.now;
        for page in std::mem::take(&mut self.sequencer.queue.ahead) {
            let PageAhead { reader, owned, from, look_at, until } = page;
            let is_behind = self.sequencer.is_behind(owned, from);
            let waits_for_stream = look_at < until;
            if now < look_at && (is_behind || waits_for_stream) {
                self.sequencer.queue.ahead.push(page);
                continue;
            }
            let read = match is_behind {
                true => Some((Err(Refused::Behind), Vec::new())),
                // Otherwise its stream is read first.
                false => self.sequencer.read_history(reader, owned, from, until, now, cx.pool()),
            };
            if let Some((page, bytes)) = read {
                self.answer_reader(cx, reader, from, page, &bytes);
            }
        }
    }

    /// The stream that a page is in could not be read. It is read again a little later, unless its reader has waited long enough.
    pub(super) fn read_later<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        reader: ConnectionReader,
        owned: OwnedTopicId,
        from: Replay,
        until: Nanos,
    ) {
        let look_at = self.now + STREAM_RETRY_DELAY;
        if look_at >= until || self.sequencer.queue.ahead.len() >= CLUSTER_BEHIND_MAX {
            return self.answer_reader(cx, reader, from, Err(Refused::Behind), &[]);
        }
        self.sequencer.queue.ahead.push(PageAhead { reader, owned, from, look_at, until });
    }
}
