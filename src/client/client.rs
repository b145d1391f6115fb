//! The handle of a client.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::codec::{Answer, Request};
use crate::command::{Command, Pending};
use crate::limits::QUEUE_EVENTS_DEFAULT;
use crate::session::queue::Queue;
use crate::{
    Builder, ClientError, Ended, FromPayload, History, HistoryQuery, Members, Payload, Protocol, Publication,
    Published, RequestError, State, SubscribeError, SubscribeOptions, Subscription,
};

/// A client of topics: it connects, reconnects, and subscribes again from its positions. Clones share the connection.
///
/// ```no_run
/// use echoring::client::{Client, Event};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Serialize, Deserialize)]
/// struct Price {
///     bid: f64,
/// }
///
/// # async fn follow() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::v1("wss://live.example/broadcast").connect();
/// let mut prices = client.subscribe::<Price>("prices.EUR").await?;
/// client.publish("prices.EUR", &Price { bid: 1.0842 }).await?;
/// while let Some(event) = prices.next().await {
///     match event {
///         Event::Message(message) => println!("{:?}, for {} more", message.data, message.skipped),
///         Event::Gap(gap) => println!("{gap}: fetch the state anew"),
///         Event::Ended(why) => return Err(why.into()),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) states: watch::Receiver<State>,
}

impl Client {
    /// A client of `echoring.v1.json`, at the path `/broadcast` of echoring.
    pub fn v1(url: impl Into<String>) -> Builder {
        Client::builder(Protocol::Echoring, url)
    }

    /// A client of Centrifuge's protocol in JSON, at the path `/connection/websocket` of echoring and Centrifugo.
    pub fn centrifuge(url: impl Into<String>) -> Builder {
        Client::builder(Protocol::Centrifuge, url)
    }

    /// A client of any of the protocols.
    pub fn builder(protocol: Protocol, url: impl Into<String>) -> Builder {
        Builder::new(protocol, url.into())
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.states.borrow().clone()
    }

    /// The state, for other tasks: to show it, or to wait for a change. A receiver that is slow sees the latest state. It does
    /// not keep the client alive.
    ///
    /// ```
    /// use echoring::client::{Client, State};
    ///
    /// // Waits for the first session, or for the end of the client.
    /// async fn connected(client: &Client) -> bool {
    ///     let begun = |state: &State| matches!(state, State::Open) || state.is_final();
    ///     client.watch().wait_for(begun).await.is_ok_and(|state| matches!(*state, State::Open))
    /// }
    /// ```
    pub fn watch(&self) -> watch::Receiver<State> {
        let mut states = self.states.clone();
        states.mark_unchanged();
        states
    }

    /// Waits until the client has ended. Does not end it.
    ///
    /// # Errors
    /// Why there is no connection and no further attempt.
    pub async fn closed(&self) -> Result<(), ClientError> {
        let mut states = self.states.clone();
        let ended = states.wait_for(State::is_final).await;
        match ended.as_deref() {
            Ok(State::Failed(error)) => Err(error.clone()),
            // Its task was dropped with its runtime.
            _ => Ok(()),
        }
    }

    /// Subscribes to a topic, from now on. Does not wait for the server: [`Event::Subscribed`](crate::Event::Subscribed)
    /// is the first event, or [`Event::Ended`](crate::Event::Ended) if the server refuses. The type of the messages is one that
    /// serde reads, or [`Payload`](crate::Payload): name it as in `subscribe::<String>("news")`, unless it is known from the
    /// result.
    ///
    /// # Errors
    /// If the client has a subscription of the topic, or has ended; in `subscribe_with` also if the protocol has no
    /// subscription tokens.
    pub async fn subscribe<T: FromPayload>(
        &self,
        topic: impl Into<String>,
    ) -> Result<Subscription<T>, SubscribeError> {
        self.subscribe_with(topic, SubscribeOptions::default()).await
    }

    /// Subscribes to a topic with settings of its own.
    ///
    /// # Errors
    /// As [`subscribe`](Client::subscribe).
    pub async fn subscribe_with<T: FromPayload>(
        &self,
        topic: impl Into<String>,
        options: SubscribeOptions,
    ) -> Result<Subscription<T>, SubscribeError> {
        let topic = topic.into();
        let SubscribeOptions { position, presence, deltas, token_source: token, queue_events } = options;
        let capacity = if queue_events == 0 { QUEUE_EVENTS_DEFAULT } else { queue_events };
        let queue = Queue::new(capacity, Arc::clone(&self.wake));
        // Before the first await, so that a dropped future abandons the queue.
        let subscription =
            Subscription::new(topic.clone(), Arc::clone(&queue), position.clone(), self.commands.clone());
        let (answer, answered) = oneshot::channel();
        let command = Command::Subscribe { topic, position, presence, deltas, token, queue, answer };
        self.commands.send(command).await.map_err(|_| self.ended().subscribe_error())?;
        answered.await.map_err(|_| self.ended().subscribe_error())??;
        Ok(subscription)
    }

    /// Publishes `value` as JSON, and waits for the server's acknowledgement. Needs no subscription.
    ///
    /// While there is no connection, it waits for one. If its future is dropped, the message may be published.
    ///
    /// # Errors
    /// See [`publish_with`](Client::publish_with). [`RequestError::Unsupported`] if the value cannot be JSON.
    pub async fn publish<T: Serialize + ?Sized>(
        &self,
        topic: impl Into<String>,
        value: &T,
    ) -> Result<Published, RequestError> {
        let payload = Payload::json(value).map_err(|_| RequestError::Unsupported)?;
        self.publish_with(topic, Publication::new(payload)).await
    }

    /// Publishes a message with settings of its own, and waits for the server's acknowledgement.
    ///
    /// # Errors
    /// [`RequestError::Refused`] if the server did not accept it. [`RequestError::Uncertain`] if the connection was lost
    /// before the answer and the message has no [`idempotency_key`](Publication::idempotency_key).
    /// [`RequestError::Unsupported`] for data that the protocol cannot express: bytes in JSON; with Centrifuge's also
    /// keys.
    pub async fn publish_with(
        &self,
        topic: impl Into<String>,
        publication: Publication,
    ) -> Result<Published, RequestError> {
        let request = Request::Publish { topic: topic.into(), publication };
        let Answer::Published(position) = self.request(request).await? else { return mixed_up() };
        Ok(Published { position })
    }

    /// Returns the members of a topic that has presence. Needs a subscription. `echoring.v1.json` returns 256 at a time:
    /// `after` is the [`next`](Members::next) of the page before. Centrifuge's protocol returns all.
    ///
    /// # Errors
    /// As any request.
    pub async fn presence(
        &self,
        topic: impl Into<String>,
        after: Option<&str>,
    ) -> Result<Members, RequestError> {
        let request = Request::Presence { topic: topic.into(), after: after.map(str::to_owned) };
        let Answer::Members(members) = self.request(request).await? else { return mixed_up() };
        Ok(members)
    }

    /// Reads messages that a topic keeps. Needs a subscription. Centrifuge's protocol only.
    ///
    /// # Errors
    /// As any request; [`RequestError::Unsupported`] with `echoring.v1.json`, which has recovery from a position instead.
    pub async fn history(
        &self,
        topic: impl Into<String>,
        query: HistoryQuery,
    ) -> Result<History, RequestError> {
        let request = Request::History { topic: topic.into(), query };
        let Answer::History(history) = self.request(request).await? else { return mixed_up() };
        Ok(history)
    }

    /// Calls the server's application with `argument` as JSON, and waits for the result. Centrifuge's protocol only.
    ///
    /// ```no_run
    /// # async fn ask(client: echoring::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let rate: f64 = client.rpc("rate", &("EUR", "USD")).await?.parse()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As any request. [`RequestError::Uncertain`] if the connection was lost before the answer: a call is not repeated.
    /// [`RequestError::Unsupported`] with `echoring.v1.json`, or if the argument cannot be JSON.
    pub async fn rpc<T: Serialize + ?Sized>(
        &self,
        method: impl Into<String>,
        argument: &T,
    ) -> Result<Payload, RequestError> {
        let data = Payload::json(argument).map_err(|_| RequestError::Unsupported)?;
        self.rpc_with(method, data).await
    }

    /// Calls the server's application with an argument of any kind: bytes with Centrifuge's protocol in protobuf.
    ///
    /// # Errors
    /// As [`rpc`](Client::rpc).
    pub async fn rpc_with(&self, method: impl Into<String>, data: Payload) -> Result<Payload, RequestError> {
        let request = Request::Rpc { method: method.into(), data };
        let Answer::Called(result) = self.request(request).await? else { return mixed_up() };
        Ok(result)
    }

    /// Sends a message to the server's application, which does not answer. Returns once the message is in the queue of the
    /// connection, in its order with publications and calls; it is lost if the connection is lost then. Centrifuge's
    /// protocol only.
    ///
    /// # Errors
    /// [`RequestError::Unsupported`] with `echoring.v1.json`; [`RequestError::Closed`] and [`RequestError::Failed`].
    pub async fn send(&self, data: Payload) -> Result<(), RequestError> {
        let Answer::Sent = self.request(Request::Send { data }).await? else { return mixed_up() };
        Ok(())
    }

    /// Presents a fresh token for this session, before the old one expires. With Centrifuge's protocol, later
    /// connections present it too.
    ///
    /// # Errors
    /// As any request.
    pub async fn authenticate(&self, token: impl Into<String>) -> Result<(), RequestError> {
        let request = Request::Authenticate { token: token.into() };
        let Answer::Authenticated(_) = self.request(request).await? else { return mixed_up() };
        Ok(())
    }

    /// Closes the connection, and ends the client. Subscriptions end, and open requests fail.
    pub async fn close(&self) {
        // The task may have ended.
        let _ = self.commands.send(Command::Close).await;
        self.commands.closed().await;
    }

    /// The answer to a request, if the server did not refuse it.
    async fn request(&self, request: Request) -> Result<Answer, RequestError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Request(Pending { request, answer, sent: false });
        self.commands.send(command).await.map_err(|_| self.ended().request_error())?;
        match answered.await.map_err(|_| self.ended().request_error())?? {
            Answer::Refused(refusal) => Err(RequestError::Refused(refusal)),
            answer => Ok(answer),
        }
    }

    /// Why the client has ended.
    fn ended(&self) -> Ended {
        match &*self.states.borrow() {
            State::Failed(error) => Ended::Failed(error.clone()),
            _ => Ended::Closed,
        }
    }
}

/// The answer is to another kind of request: the server mixes up its numbers.
fn mixed_up<T>() -> Result<T, RequestError> {
    Err(RequestError::Uncertain)
}
