//! The messages that handlers leave to be published when their connection is closed.
//!
//! They were charged when they were set, so none is lost for lack of memory. A drain refuses them, as it refuses all publications,
//! because it closes their subscribers, too. The topics count these refusals.

use super::Broadcast;
use super::handover::Ordering;
use super::shard_mail::{AckMode, Publisher};
use crate::peer::Context;
use crate::publications::on_close::OnClose;
use echoring_runtime::driver::{Driver, Token};

impl Broadcast {
    /// A connection has ended, with its subscriptions: publishes its messages, behind all its earlier publications.
    /// `identity` is the number of its client.
    pub fn publish_on_close<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        token: Token,
        identity: u64,
        messages: OnClose,
    ) {
        if self.refuses_last_messages(cx) {
            for stored in messages {
                self.sequencer.topics.note_refused();
                stored.release(cx.pool());
            }
            return;
        }
        let publisher = Publisher {
            shard: cx.shard() as u16,
            number: self.number(cx.shard()),
            token,
            identity,
            member: None,
            ack_mode: AckMode::OnRefusal,
            request: 0,
            received_at: cx.now(),
        };
        let waits = !self.held.is_empty();
        messages.into_iter().for_each(|stored| self.held.add_of_closed(publisher, stored));
        if !waits {
            self.publish_held(cx);
        }
    }

    /// A drain refuses publications. The subscribers of a predecessor's messages are the clients of its successor, so
    /// it publishes until its last seconds.
    fn refuses_last_messages<D: Driver>(&self, cx: &Context<'_, D>) -> bool {
        let is_predecessor = self.sequencer.ordering == Ordering::Theirs;
        match self.drain.is_on() && is_predecessor {
            true => self.handover.is_lost || self.drain.goodbye_at <= cx.now(),
            false => self.drain.is_on(),
        }
    }
}
