//! Follows changes of the rate while the load runs.

use super::Client;
use super::connection::Flow;
use crate::engine::rate_changes::{NOTICE, RateChange};
use echoring_proto::limits::Nanos;

impl Client {
    /// Looks for a change of the rate, and follows it. The first thread decides for all when one begins.
    #[inline]
    pub(super) fn follow_rate(&mut self, now: Nanos) {
        if self.pacer.schedule.is_none() {
            return;
        }
        // Where several generators share a run, they are told.
        if self.thread == 0 && self.shared.coordination.is_none() {
            self.decide_change(now);
        }
        if let Some(changes) = self.shared.rate_changes.since(self.pacer.changes) {
            changes.into_iter().for_each(|change| self.change_rate(change));
        }
    }

    fn decide_change(&mut self, now: Nanos) {
        let load = &self.shared.load;
        let Some(wanted) = self.shared.rate_control.rate().filter(|_| load.pace.rate().is_some()) else {
            return;
        };
        if wanted == self.pacer.rate {
            return;
        }
        self.pacer.rate = wanted;
        // A ramp goes up to its end first.
        let ramp_ends = self.pacer.begun_at + load.ramp.as_nanos() as Nanos;
        let at = (now + NOTICE).max(ramp_ends);
        self.shared.rate_changes.add(RateChange { at, rate: wanted });
    }

    #[cold]
    fn change_rate(&mut self, RateChange { at, rate }: RateChange) {
        let Client { pacer, connections, .. } = self;
        pacer.changes += 1;
        let Some(schedule) = pacer.schedule.as_ref().map(|schedule| schedule.changed(at, rate)) else {
            return;
        };
        for &position in &pacer.senders {
            let connection = &mut connections[position];
            let next = match &connection.flow {
                Flow::Echo(awaited) => awaited.next(),
                Flow::Broadcast(broadcast) => broadcast.published_messages(),
                Flow::Attempt(_) | Flow::Push(_) | Flow::Replay(_) => continue,
            };
            connection.mark = schedule.moved(connection.number, next, connection.mark);
        }
        if let Some(cursor) = &mut pacer.cursor {
            cursor.follow(schedule.clone());
        }
        pacer.schedule = Some(schedule);
    }
}
