//! The handle of one subscription.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::command::Command;
use crate::session::queue::Queue;
use crate::{Event, FromPayload, Message, Payload, Position};

/// A subscription of one topic, created by [`Client::subscribe`](crate::Client::subscribe), or by the server: see
/// [`Builder::on_server_subscription`](crate::Builder::on_server_subscription).
///
/// It outlives connections: the client subscribes again from its position. A subscription that is not read fast enough is
/// paused at the server when its queue is full, and resumes from there when half of the queue is read; what the server
/// does not keep so long is a [`Gap`](Event::Gap). The others are not affected.
///
/// Dropping it unsubscribes.
///
/// ```
/// use echoring::client::{Client, SubscribeError};
///
/// async fn first(client: &Client) -> Result<Option<String>, SubscribeError> {
///     let mut news = client.subscribe::<String>("news").await?;
///     let message = news.next_message().await;
///     println!("to be resumed from {:?}", news.position());
///     Ok(message.map(|message| message.data))
/// }
/// ```
pub struct Subscription<T = Payload> {
    topic: String,
    queue: ReadQueue,
    position: Option<Position>,
    ended: bool,
    /// Keeps the task of the client alive.
    _commands: mpsc::Sender<Command>,
    content: PhantomData<fn() -> T>,
}

impl<T: FromPayload> Subscription<T> {
    pub(crate) fn new(
        topic: String,
        queue: Arc<Queue>,
        position: Option<Position>,
        commands: mpsc::Sender<Command>,
    ) -> Subscription<T> {
        let queue = ReadQueue(queue);
        Subscription { topic, queue, position, ended: false, _commands: commands, content: PhantomData }
    }

    /// The same subscription, whose messages are `U`s from now on.
    ///
    /// ```
    /// use echoring::client::Subscription;
    ///
    /// async fn latest(subscription: Subscription) -> Option<f64> {
    ///     let mut prices = subscription.typed::<f64>();
    ///     prices.next_message().await.map(|price| price.data)
    /// }
    /// ```
    pub fn typed<U: FromPayload>(self) -> Subscription<U> {
        let Subscription { topic, queue, position, ended, _commands, .. } = self;
        Subscription { topic, queue, position, ended, _commands, content: PhantomData }
    }

    /// The next event; `None` behind [`Event::Ended`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event<T>> {
        if self.ended {
            return None;
        }
        let (event, position) = self.queue.0.next().await;
        if position.is_some() {
            self.position = position;
        }
        self.ended = matches!(event, Event::Ended(_));
        Some(parse(event))
    }

    /// The next message, without the other events. `None` when the subscription has ended. Cancel-safe.
    ///
    /// Only for programs that need not know what they missed.
    pub async fn next_message(&mut self) -> Option<Message<T>> {
        loop {
            if let Event::Message(message) = self.next().await? {
                return Some(message);
            }
        }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The position that was reached with the last event that [`next`](Subscription::next) returned, to
    /// [resume](crate::SubscribeOptions::position) from in another run of the program. `None` before the first
    /// [`Event::Subscribed`].
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }
}

#[cfg(test)]
impl<T> Subscription<T> {
    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue.0
    }
}

fn parse<T: FromPayload>(event: Event<Payload>) -> Event<T> {
    match event {
        Event::Message(message) => match T::from_payload(&message.data) {
            Ok(data) => {
                let Message { offset, key, skipped, snapshot, .. } = message;
                Event::Message(Message { offset, key, skipped, snapshot, data })
            }
            Err(error) => Event::Malformed(message, error),
        },
        Event::Malformed(message, error) => Event::Malformed(message, error),
        Event::Subscribed(subscribed) => Event::Subscribed(subscribed),
        Event::Gap(gap) => Event::Gap(gap),
        Event::Join(member) => Event::Join(member),
        Event::Leave(member) => Event::Leave(member),
        Event::PresenceStale => Event::PresenceStale,
        Event::Ended(ended) => Event::Ended(ended),
    }
}

/// The reader's end of a queue.
struct ReadQueue(Arc<Queue>);

impl Drop for ReadQueue {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
