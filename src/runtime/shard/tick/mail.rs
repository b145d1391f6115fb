//! Mail of other shards.

use super::Shard;
use crate::shard::application::{Application, MessageOf};
use crate::shard::context::Context;
use crate::shard::mailbox::Lane;

impl<A: Application> Shard<A> {
    pub(super) fn take_mail(&mut self, takes_requests: bool) {
        let (shard, shards) = (self.core.mailboxes.shard(), self.core.mailboxes.shards());
        for from in (0..shards).filter(|from| *from != shard) {
            while self.take_message(from, Lane::Forward) {}
        }
        // After the last mail of owner shards whose topics have moved.
        while self.take_far_message(Lane::Forward) {}
        // One request of each shard in turn, so that none is starved.
        let mut waiting = takes_requests && (shards > 1 || self.core.mailboxes.far_shards() > 0);
        while waiting {
            waiting = false;
            for from in (0..shards).filter(|from| *from != shard) {
                if !self.application.takes_requests(&Context { core: &mut self.core }) {
                    return;
                }
                waiting |= self.take_message(from, Lane::Request);
            }
            if self.application.takes_requests(&Context { core: &mut self.core }) {
                waiting |= self.take_far_message(Lane::Request);
            }
        }
    }

    fn take_message(&mut self, from: usize, lane: Lane) -> bool {
        let message = self.core.mailboxes.take(from, lane, &mut self.payload);
        let Some(message) = message else { return false };
        self.handle_message(from, message);
        true
    }

    #[cold]
    fn take_far_message(&mut self, lane: Lane) -> bool {
        let taken = self.core.mailboxes.take_far(lane, &mut self.payload);
        let Some((from, message)) = taken else { return false };
        self.handle_message(from, message);
        true
    }

    fn handle_message(&mut self, from: usize, message: MessageOf<A>) {
        self.application.message(&mut Context { core: &mut self.core }, from, message, &self.payload);
        if self.core.env.pool.is_under_pressure() {
            self.relieve();
        }
    }
}
