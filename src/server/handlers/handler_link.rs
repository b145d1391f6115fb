//! The targets of a [`Remote`](crate::Remote): the connection of a handler, and the topics of its shard.

use echoring_proto::CloseCode;
use echoring_proto::buffer::Pool;
use echoring_proto::connection::MessageKind;
use echoring_proto::limits::Nanos;

use crate::handlers::remote::Link;
use echoring_broker::broadcast::Broadcast;
use echoring_broker::gate::Gate;
use echoring_broker::peer::ConnectionContext;
use echoring_broker::publications::PublishError;
use echoring_broker::subscription::{SubscribeError, SubscribeOptions, TopicMessage};

/// The parts of a shard's service that handlers use.
pub(crate) struct HandlerServices<'a> {
    pub(crate) broadcast: &'a mut Broadcast,
    pub(crate) gate: &'a mut Gate,
}

/// One connection and the services, for the length of a call.
pub(crate) struct HandlerLink<'a, 'c, 's> {
    pub(crate) link: &'a mut ConnectionContext<'c>,
    pub(crate) services: &'a mut HandlerServices<'s>,
}

impl Link for HandlerLink<'_, '_, '_> {
    fn now(&self) -> Nanos {
        self.link.now()
    }

    fn shard(&self) -> usize {
        self.link.mailboxes.shard()
    }

    fn is_open(&self) -> bool {
        self.link.is_open()
    }

    fn is_writable(&self) -> bool {
        self.link.is_writable()
    }

    fn queued_bytes(&self) -> u32 {
        self.link.queued_bytes()
    }

    fn queue_bytes(&self) -> u32 {
        self.link.queue_bytes()
    }

    fn pool(&mut self) -> &mut Pool {
        self.link.pool()
    }

    // Nothing comes between the fragments of a message that is echoed (RFC 6455, 5.4).

    fn send(&mut self, kind: MessageKind, payload: &[u8]) -> bool {
        !self.link.sends_fragments() && self.link.send(kind, payload)
    }

    fn send_fragment(&mut self, kind: MessageKind, first: bool, last: bool, payload: &[u8]) -> bool {
        !self.link.sends_fragments() && self.link.send_fragment(kind, first, last, payload)
    }

    fn ping(&mut self, payload: &[u8]) -> bool {
        self.link.ping(payload)
    }

    fn close(&mut self, code: CloseCode, reason: &str) {
        self.link.close(code, reason);
    }

    fn close_at_once(&mut self, code: CloseCode, reason: &str) -> u32 {
        self.link.close_at_once(code, reason)
    }

    fn hang_up(&mut self) {
        self.link.hang_up();
    }

    fn set_backpressured(&mut self, backpressured: bool) {
        self.services.broadcast.set_handler_paused(self.link, backpressured);
    }

    fn subscribe(&mut self, topic: &str, options: SubscribeOptions) -> Result<(), SubscribeError> {
        let HandlerServices { broadcast, gate } = &mut *self.services;
        broadcast.subscribe_for_handler(self.link, gate, topic, options)
    }

    fn unsubscribe(&mut self, topic: &str) -> bool {
        self.services.broadcast.unsubscribe_for_handler(self.link, topic)
    }

    fn publish(
        &mut self,
        topic: &str,
        message: &TopicMessage<'_>,
        id: Option<u64>,
    ) -> Result<(), PublishError> {
        let HandlerServices { broadcast, gate } = &mut *self.services;
        broadcast.publish_for_handler(self.link, gate, topic, message, id)
    }
    fn check_on_close(
        &mut self,
        topic: &str,
        message: &TopicMessage<'_>,
        is_new: bool,
    ) -> Result<(), PublishError> {
        let HandlerServices { broadcast, gate } = &mut *self.services;
        broadcast.check_on_close(self.link, gate, topic, message, is_new)
    }
}
