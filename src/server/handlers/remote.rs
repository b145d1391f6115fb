//! [`Remote`]: a [`Handler`](crate::Handler)'s access to its own connection, and to topics.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::handlers::failure::Busy;
use crate::handlers::message::Message;
use crate::handlers::sender::{Inlet, RemoteSender, SenderQueue};
use echoring_broker::broadcast::Broadcast;
use echoring_broker::gate::Gate;
use echoring_broker::peer::ConnectionContext;
use echoring_broker::publications::PublishError;
use echoring_broker::publications::on_close::OnClose;
use echoring_broker::subscription::{SubscribeError, SubscribeOptions, TopicMessage};
use echoring_broker::timers::Timers;
use echoring_proto::CloseCode;
use echoring_proto::connection::MessageKind;
use echoring_proto::limits::{CONTROL_PAYLOAD_BYTES_MAX, Nanos};

/// The parts of a shard's service that handlers use.
pub(crate) struct HandlerServices<'a> {
    pub(crate) broadcast: &'a mut Broadcast,
    pub(crate) gate: &'a mut Gate,
}

/// One connection, for the length of a call of its [`Handler`](crate::Handler). Queued messages leave at the end of the shard's tick.
///
/// - To the peer: [`send_text`](Remote::send_text), [`send_binary`](Remote::send_binary), [`send`](Remote::send),
///   [`ping`](Remote::ping), [`close`](Remote::close). When too much is queued a send is [`Busy`], and
///   [`Handler::writable`](crate::Handler::writable) follows.
/// - To topics: [`subscribe`](Remote::subscribe), [`publish`](Remote::publish), [`publish_on_close`](Remote::publish_on_close).
/// - Later: [`wake_after`](Remote::wake_after), which calls [`Handler::timer`](crate::Handler::timer).
/// - From other threads, tasks and handlers: [`sender`](Remote::sender).
///
/// ```
/// use std::time::Duration;
///
/// use echoring::CloseCode;
/// use echoring::server::{Disposition, Handler, Message, Remote, Result};
///
/// /// Passes messages on to a topic, and closes who says nothing for a minute.
/// struct Member;
///
/// impl Handler for Member {
///     fn open(&mut self, remote: &mut Remote<'_>) -> Result {
///         remote.wake_after(Duration::from_secs(60));
///         remote.send_text("welcome")?;
///         Ok(remote.subscribe("room")?)
///     }
///
///     fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
///         remote.wake_after(Duration::from_secs(60));
///         remote.publish("room", message)?;
///         Ok(Disposition::Done)
///     }
///
///     fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
///         remote.close(CloseCode::NORMAL, "idle");
///         Ok(())
///     }
/// }
/// ```
pub struct Remote<'a> {
    pub(crate) link: ConnectionContext<'a>,
    pub(crate) services: HandlerServices<'a>,
    pub(crate) slot: u32,
    pub(crate) timers: &'a mut Timers,
    /// Set when a send is refused: the handler is then called when the connection is writable.
    pub(crate) refused: bool,
    /// Bytes that the handler has reserved.
    pub(crate) reserved_bytes: &'a mut usize,
    /// The messages of other threads that wait, once there is a sender.
    pub(crate) senders: &'a mut Option<Box<SenderQueue>>,
    /// The channel from senders to this shard.
    pub(crate) inlet: &'a Option<Arc<dyn Inlet>>,
    /// The messages that are published when the connection is closed.
    pub(crate) on_close: &'a mut OnClose,
}

impl fmt::Debug for Remote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("queued_bytes", &self.queued_bytes()).finish_non_exhaustive()
    }
}

impl Remote<'_> {
    /// The time of this tick, on the clock of [`wake_at`](Remote::wake_at).
    pub fn now(&self) -> Nanos {
        self.link.now()
    }

    /// The number of the shard, from 0.
    pub fn shard(&self) -> usize {
        self.link.mailboxes.shard()
    }

    /// Whether messages may be sent: neither side has begun to close.
    pub fn is_open(&self) -> bool {
        self.link.is_open()
    }

    /// Bytes queued to the peer, including those of a partial send.
    pub fn queued_bytes(&self) -> u32 {
        self.link.queued_bytes()
    }

    /// Whether nothing is queued and no send is partial.
    pub fn is_writable(&self) -> bool {
        self.link.is_writable()
    }

    /// Queues a text message.
    ///
    /// # Errors
    /// [`Busy`] when more than [`Builder::queue_bytes`](crate::Builder::queue_bytes) are queued, or the connection is
    /// closing; then nothing is queued. One message always fits an empty queue.
    pub fn send_text(&mut self, text: &str) -> Result<(), Busy> {
        self.send_as(MessageKind::Text, text.as_bytes())
    }

    /// Queues a binary message.
    ///
    /// # Errors
    /// As for [`send_text`](Remote::send_text).
    pub fn send_binary(&mut self, payload: &[u8]) -> Result<(), Busy> {
        self.send_as(MessageKind::Binary, payload)
    }

    /// Queues a copy of a message; [`Disposition::Echo`](crate::Disposition::Echo) needs none.
    ///
    /// # Errors
    /// As for [`send_text`](Remote::send_text).
    pub fn send(&mut self, message: Message<'_>) -> Result<(), Busy> {
        self.send_as(message.kind, message.payload)
    }

    fn send_as(&mut self, kind: MessageKind, payload: &[u8]) -> Result<(), Busy> {
        let sent = !self.link.sends_fragments() && self.link.send(kind, payload);
        self.check(sent)
    }

    /// Queues an uncompressed message in `parts` frames of about the same size (RFC 6455, 5.4). Some are empty if the message
    /// is short.
    ///
    /// # Errors
    /// As for [`send_text`](Remote::send_text).
    pub fn send_in_parts(&mut self, message: Message<'_>, parts: usize) -> Result<(), Busy> {
        let parts = parts.max(1);
        let bytes = message.payload.len();
        for part in 0..parts {
            // Messages have less than 2^32 bytes, so the products do not overflow for any sensible number of parts.
            let piece = &message.payload[bytes * part / parts..bytes * (part + 1) / parts];
            let sent = !self.link.sends_fragments()
                && self.link.send_fragment(message.kind, part == 0, part + 1 == parts, piece);
            self.check(sent)?;
        }
        Ok(())
    }

    /// Queues a ping with the first 125 bytes of `payload` (RFC 6455, 5.5.2), in front of queued messages. The server pings
    /// idle peers by itself; use this to measure round trips.
    ///
    /// # Errors
    /// As for [`send_text`](Remote::send_text).
    pub fn ping(&mut self, payload: &[u8]) -> Result<(), Busy> {
        let sent = self.link.ping(&payload[..payload.len().min(CONTROL_PAYLOAD_BYTES_MAX)]);
        self.check(sent)
    }

    /// A handle that sends to this connection from any thread, task or handler, as long as the connection is open.
    pub fn sender(&mut self) -> RemoteSender {
        let Remote { link, slot, senders, inlet, .. } = self;
        let queue = senders.get_or_insert_with(|| {
            let (bytes_max, budget) = (u64::from(link.queue_bytes()), Arc::clone(link.pool().budget()));
            Box::new(SenderQueue::new((*inlet).clone(), budget, *slot, bytes_max))
        });
        queue.sender()
    }

    /// Subscribes the connection to a topic: the messages that are published from now on go to the peer as they were published,
    /// straight from the topic's log, as on the raw route. If the topic has a snapshot for new subscribers, it comes first.
    ///
    /// [`Handler::subscription`](crate::Handler::subscription) is called when the subscription has begun, if messages
    /// are missing, and when the server ends it. It ends with the connection otherwise. While a handler echoes a
    /// message [chunk by chunk](crate::Handler::chunk), the messages of topics wait, and the subscriber counts as slow
    /// if that takes too long. Permissions of topics are for clients and do not restrict handlers; the limits on topics
    /// and subscriptions hold.
    ///
    /// # Errors
    /// Why there is no subscription. The topic's owner may refuse it later, see
    /// [`SubscriptionEvent::Refused`](crate::SubscriptionEvent::Refused).
    pub fn subscribe(&mut self, topic: &str) -> Result<(), SubscribeError> {
        self.subscribe_with(topic, SubscribeOptions::default())
    }

    /// [`subscribe`](Remote::subscribe) from a position, or without own messages.
    ///
    /// # Errors
    /// As for `subscribe`.
    pub fn subscribe_with(&mut self, topic: &str, options: SubscribeOptions) -> Result<(), SubscribeError> {
        let HandlerServices { broadcast, gate } = &mut self.services;
        broadcast.subscribe_for_handler(&mut self.link, gate, topic, options)
    }

    /// Ends the subscription to a topic. Unsent messages are dropped, and the handler is not notified. Returns
    /// false if there is no subscription.
    pub fn unsubscribe(&mut self, topic: &str) -> bool {
        self.services.broadcast.unsubscribe_for_handler(&mut self.link, topic)
    }

    /// Publishes a message to a topic, in the name of this connection. Messages of one connection to one topic keep their order.
    /// While the topic's owner has no room, the message waits and the connection is not read.
    ///
    /// Refusals by the topic's owner are passed to [`Handler::published`](crate::Handler::published), which by default
    /// closes the connection, so that none is lost silently.
    ///
    /// # Errors
    /// Nothing was published: the message or the topic's name is malformed, the connection closes, the server drains (with `?` the
    /// connection still gets what its topics have, and 1001), the client publishes too fast, or ([`PublishError::Busy`]) [`HANDLER_HELD_MAX`](echoring_broker::limits::HANDLER_HELD_MAX) messages of the connection wait.
    /// [`Handler::writable`](crate::Handler::writable) is called once none waits.
    ///
    /// ```
    /// use echoring::server::{Disposition, Handler, Message, Remote, Result};
    ///
    /// /// A member of one room.
    /// struct Member(String);
    ///
    /// impl Handler for Member {
    ///     fn open(&mut self, remote: &mut Remote<'_>) -> Result {
    ///         Ok(remote.subscribe(&self.0)?)
    ///     }
    ///
    ///     fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
    ///         remote.publish(&self.0, message)?;
    ///         Ok(Disposition::Done)
    ///     }
    /// }
    /// ```
    pub fn publish<'m>(
        &mut self,
        topic: &str,
        message: impl Into<TopicMessage<'m>>,
    ) -> Result<(), PublishError> {
        self.publish_as(topic, &message.into(), None)
    }

    /// The same with an id for [`Handler::published`](crate::Handler::published), which also receives the message's
    /// position.
    ///
    /// # Errors
    /// As for [`publish`](Remote::publish).
    pub fn publish_with_id<'m>(
        &mut self,
        id: u64,
        topic: &str,
        message: impl Into<TopicMessage<'m>>,
    ) -> Result<(), PublishError> {
        self.publish_as(topic, &message.into(), Some(id))
    }

    /// Publishes messages in this order. Returns how many were published, which is all of them unless there is an error.
    ///
    /// # Errors
    /// The number of messages before the first that was not published, and why. Those behind it were not published either.
    pub fn publish_all<'m, M: Into<TopicMessage<'m>>>(
        &mut self,
        topic: &str,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<usize, (usize, PublishError)> {
        let mut count = 0;
        for message in messages {
            self.publish(topic, message).map_err(|error| (count, error))?;
            count += 1;
        }
        Ok(count)
    }

    /// Sets a message that is published to a topic when the connection is over, for whatever reason: either side closes it, it
    /// breaks, the peer is too slow, the handler fails or panics. It is published exactly once, behind everything that the connection
    /// has published before, and after [`Handler::close`](crate::Handler::close). For a notice that a client has left,
    /// which no peer can keep from being published; a will message in MQTT.
    ///
    /// There is one for each topic: another call replaces it, and [`cancel_on_close`](Remote::cancel_on_close) takes it away. It is
    /// copied, and charged to the node's memory budget until it is published. For the rates of the client it counts now, unless it
    /// replaces another. When many connections are closed at once, a shard publishes
    /// [`ON_CLOSE_BYTES_PER_TICK`](echoring_broker::limits::ON_CLOSE_BYTES_PER_TICK) of them in a tick.
    ///
    /// A connection is over once its closing handshake is, at the latest after the server's timeout for that (RFC 6455, 7.1.1). A drain
    /// refuses the messages, as it refuses all publications; they count as refused. A paced drain, and a takeover, publish those of the
    /// connections that they close one by one. A server that is stopped without a drain publishes none. If the topic's
    /// owner refuses the message, no handler is left to notify: it counts as refused, and the log reports it.
    ///
    /// # Errors
    /// Nothing has changed: the message or the topic's name is malformed, the server drains, the client publishes too fast, the
    /// connection would publish too many on close ([`PublishError::TooManyOnClose`]), or there is no memory for the copy.
    ///
    /// ```
    /// use echoring::server::{Handler, Remote, Result};
    ///
    /// /// A member of one room, under a name.
    /// struct Member {
    ///     room: String,
    ///     name: String,
    /// }
    ///
    /// impl Handler for Member {
    ///     fn open(&mut self, remote: &mut Remote<'_>) -> Result {
    ///         remote.subscribe(&self.room)?;
    ///         remote.publish_on_close(&self.room, &format!("{} has left", self.name))?;
    ///         Ok(remote.publish(&self.room, &format!("{} is here", self.name))?)
    ///     }
    /// }
    /// ```
    pub fn publish_on_close<'m>(
        &mut self,
        topic: &str,
        message: impl Into<TopicMessage<'m>>,
    ) -> Result<(), PublishError> {
        let message = message.into();
        let HandlerServices { broadcast, gate } = &mut self.services;
        broadcast.check_on_close(&mut self.link, gate, topic, &message, !self.on_close.has(topic))?;
        self.on_close.set(self.link.pool(), topic, &message)
    }

    /// Takes the message of [`publish_on_close`](Remote::publish_on_close) for a topic away: it is not published. Returns false if
    /// there is none.
    pub fn cancel_on_close(&mut self, topic: &str) -> bool {
        self.on_close.cancel(self.link.pool(), topic)
    }

    fn publish_as(
        &mut self,
        topic: &str,
        message: &TopicMessage<'_>,
        id: Option<u64>,
    ) -> Result<(), PublishError> {
        let HandlerServices { broadcast, gate } = &mut self.services;
        let published = broadcast.publish_for_handler(&mut self.link, gate, topic, message, id);
        self.refused |= published == Err(PublishError::Busy);
        published
    }

    fn check(&mut self, sent: bool) -> Result<(), Busy> {
        if sent {
            return Ok(());
        }
        self.refused |= self.link.is_open();
        Err(Busy)
    }

    /// Starts the closing handshake (RFC 6455, 7.1.2) behind the queued messages.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.link.close(code, reason);
    }

    /// Drops the queued messages and starts the closing handshake, for a slow consumer. Returns the bytes dropped.
    pub fn close_at_once(&mut self, code: CloseCode, reason: &str) -> u32 {
        self.link.close_at_once(code, reason)
    }

    /// Ends the stream behind the queued messages, without a Close frame: the peer sees 1006. For tests.
    pub fn hang_up(&mut self) {
        self.link.hang_up();
    }

    /// Pauses or resumes reading from the peer. While paused, TCP makes the peer wait. Up to
    /// [`RECEIVE_CREDIT_BYTES`](echoring_proto::limits::RECEIVE_CREDIT_BYTES) that were received before are still delivered.
    pub fn set_backpressured(&mut self, backpressured: bool) {
        self.services.broadcast.set_handler_paused(&mut self.link, backpressured);
    }

    /// Sets the time of the next [`Handler::timer`](crate::Handler::timer) call, on the clock of [`now`](Remote::now). The call
    /// is never early, and late by one tick of the shard at most. A new time replaces the last one.
    pub fn wake_at(&mut self, at: Nanos) {
        self.timers.set(self.slot, at);
    }

    /// Sets the timer to `time` from now.
    pub fn wake_after(&mut self, time: Duration) {
        let nanos = Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX);
        self.wake_at(self.now().saturating_add(nanos));
    }

    /// Cancels the timer.
    pub fn sleep(&mut self) {
        self.timers.clear(self.slot);
    }

    /// Charges `bytes` that the handler keeps to the node's memory budget. They are released with the handler or by
    /// [`release`](Remote::release). Returns false, and charges nothing, when the budget is spent.
    #[must_use]
    pub fn reserve(&mut self, bytes: usize) -> bool {
        let reserved = self.link.pool().charge(bytes);
        *self.reserved_bytes += if reserved { bytes } else { 0 };
        reserved
    }

    /// Releases `bytes` of the charge of [`reserve`](Remote::reserve), at most all of it.
    pub fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(*self.reserved_bytes);
        *self.reserved_bytes -= bytes;
        self.link.pool().discharge(bytes);
    }
}
