//! The handle of a client, and how one is made.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Serialize;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::command::{Answer, Command, Pending};
use crate::limits::{COMMANDS_MAX, MESSAGE_BYTES_MAX_DEFAULT, PING_INTERVAL, QUEUE_EVENTS_DEFAULT};
use crate::queue::Queue;
use crate::session::{Offer, ServerSide, Session, Token};
use crate::{
    ClientError, FromPayload, History, HistoryQuery, Members, Payload, Position, Protocol, Publication,
    Published, RequestError, SubscribeError, Subscription, TokenSource, task,
};
use echoring_async::{Dialer, Heartbeat, Reconnecting};

/// Settings of a client.
pub struct Builder {
    protocol: Protocol,
    url: String,
    dialer: Dialer,
    token: Option<String>,
    token_source: Option<TokenSource>,
    reconnect: Box<dyn FnOnce(Reconnecting) -> Reconnecting + Send>,
    server_subscription: Option<Offer>,
}

impl Builder {
    /// Opens connections with this dialer, for example with a header field that has a token, or with other roots of
    /// trust. The subprotocol is the client's. The default dialer sends a WebSocket ping every 25 seconds, and accepts
    /// messages of up to 4 MiB.
    #[must_use]
    pub fn dialer(mut self, dialer: Dialer) -> Builder {
        self.dialer = dialer;
        self
    }

    /// The token that Centrifuge's protocol presents when it connects; see also
    /// [`authenticate`](Client::authenticate).
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Builder {
        self.token = Some(token.into());
        self
    }

    /// Fetches the session's tokens: the first one, unless there is [`token`](Builder::token), and a fresh one when the server
    /// asks for it, or has ended the session because the old one expired.
    ///
    /// An error of the callback ends the client with [`ClientError::Token`], and a token that the server refuses with
    /// [`ClientError::Refused`]. With `echoring.v1.json`, sessions begin with what the [`dialer`](Builder::dialer) presents, and only
    /// fresh tokens come from here: when the server says that the credentials expire.
    ///
    /// ```
    /// use echoring::client::{Client, Protocol, TokenSource};
    ///
    /// async fn fetch() -> Result<String, std::io::Error> {
    ///     // Asks the program's back end.
    ///     Ok("eyJhbGciOi".to_owned())
    /// }
    ///
    /// let (client, task) = Client::builder(Protocol::Centrifuge, "wss://live.example/connection/websocket")
    ///     .token_source(TokenSource::new(fetch))
    ///     .build();
    /// # drop((client, task));
    /// ```
    #[must_use]
    pub fn token_source(mut self, source: TokenSource) -> Builder {
        self.token_source = Some(source);
        self
    }

    /// Changes how the client reconnects: delays, bounds, hooks and which failures are permanent. The callback of
    /// `on_open` may not read or write.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use echoring::client::{Client, Protocol};
    ///
    /// let (client, task) = Client::builder(Protocol::Echoring, "wss://live.example/broadcast")
    ///     .reconnect(|how| how.max_delay(Duration::from_secs(5)).give_up_after(Duration::from_secs(600)))
    ///     .build();
    /// # drop((client, task));
    /// ```
    #[must_use]
    pub fn reconnect(mut self, how: impl FnOnce(Reconnecting) -> Reconnecting + Send + 'static) -> Builder {
        self.reconnect = Box::new(how);
        self
    }

    /// Calls `offer` with each server-side subscription: the server makes it when the client connects, for example because of
    /// its token, or later. Without this, they are ignored. Centrifuge's protocol only; at most
    /// [`SERVER_SUBSCRIPTIONS_MAX`](crate::limits::SERVER_SUBSCRIPTIONS_MAX).
    ///
    /// The handle outlives connections, as one of the client's own does: the server recovers its messages from its
    /// position. It ends when the server ends the subscription, or does not make it on a new connection. A client cannot
    /// pause it: while its queue of 1,024 events is full, its messages are dropped, and reported as a
    /// [`Gap`](crate::Event::Gap) with [`GapReason::Slow`](crate::GapReason::Slow) as soon as there is room. Dropping the
    /// handle unsubscribes, until the server makes the subscription again.
    ///
    /// The callback is run by the task of the client, and may not block it. A handle keeps the client alive.
    ///
    /// ```
    /// use echoring::client::{Client, Event, Protocol};
    ///
    /// let (client, task) = Client::builder(Protocol::Centrifuge, "wss://live.example/connection/websocket")
    ///     .token("eyJhbGciOi")
    ///     .on_server_subscription(|subscription| {
    ///         let mut notices = subscription.typed::<String>();
    ///         tokio::spawn(async move {
    ///             while let Some(event) = notices.next().await {
    ///                 if let Event::Message(message) = event {
    ///                     println!("{}: {}", notices.topic(), message.data);
    ///                 }
    ///             }
    ///         });
    ///     })
    ///     .build();
    /// # drop((client, task));
    /// ```
    #[must_use]
    pub fn on_server_subscription(mut self, offer: impl FnMut(Subscription) + Send + 'static) -> Builder {
        self.server_subscription = Some(Box::new(offer));
        self
    }

    /// The client, and the task that does its work: spawn it.
    pub fn build(self) -> (Client, ClientTask) {
        let Builder { protocol, url, dialer, token, token_source, reconnect, server_subscription } = self;
        let reconnecting = dialer.subprotocols([protocol.subprotocol()]).reconnecting(url);
        let reconnecting = reconnect(match protocol.connects() {
            false => reconnecting,
            true => reconnecting.retry_if(move |failure| {
                let reconnects = failure.close_code().and_then(|code| protocol.reconnects_after(code.0));
                reconnects.unwrap_or_else(|| failure.is_temporary())
            }),
        });
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let wake = Arc::new(Notify::new());
        let server_side = server_subscription.map(|offer| {
            ServerSide::new(offer, commands.downgrade(), Arc::clone(&wake), QUEUE_EVENTS_DEFAULT)
        });
        let session = Session::new(protocol, Token::new(token, token_source), server_side);
        let running = task::run(protocol, reconnecting, session, orders, Arc::clone(&wake));
        (Client { commands, wake }, ClientTask(Box::pin(running)))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token and the URL's query may be secrets.
        f.debug_struct("Builder").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

/// A client of topics. Clones share the connection.
///
/// ```no_run
/// use echoring::client::{Client, Event, Protocol};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Serialize, Deserialize)]
/// struct Price {
///     bid: f64,
/// }
///
/// # async fn follow() -> Result<(), Box<dyn std::error::Error>> {
/// let (client, task) = Client::new(Protocol::Echoring, "wss://live.example/broadcast");
/// tokio::spawn(task);
/// let mut prices = client.subscribe::<Price>("prices.EUR").await?;
/// client.publish("prices.EUR", &Price { bid: 1.0842 }).await?;
/// while let Some(event) = prices.next().await {
///     match event {
///         Event::Message(message) => println!("{:?}, for {} more", message.data, message.skipped),
///         Event::Gap(gap) => println!("missed {:?} messages: fetch the state anew", gap.count()),
///         Event::Ended(why) => println!("no longer subscribed: {why:?}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    wake: Arc<Notify>,
}

/// The task of a client: a future to be spawned. It connects, reconnects and carries messages. It resolves after
/// [`Client::close`], when all clients and subscriptions are dropped, or with the reason why there is no connection and
/// no further attempt.
///
/// ```
/// use echoring::client::{Client, Protocol};
///
/// async fn run() {
///     let (client, task) = Client::new(Protocol::Echoring, "wss://live.example/broadcast");
///     let running = tokio::spawn(task);
///     client.close().await;
///     // An error says why there was no connection any more.
///     let _ = running.await;
/// }
/// ```
#[must_use = "a client does nothing unless its task is polled"]
pub struct ClientTask(Pin<Box<dyn Future<Output = Result<(), ClientError>> + Send>>);

impl Future for ClientTask {
    type Output = Result<(), ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ClientTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTask").finish_non_exhaustive()
    }
}

/// Settings of a subscription.
///
/// ```
/// use echoring::client::{Position, SubscribeOptions};
///
/// let stored = Position { epoch: "1f3a5c".to_owned(), offset: 42 };
/// let options = SubscribeOptions::from_position(stored).presence(true).queue_events(64);
/// assert!(options.presence);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// The position to resume from, such as one that an earlier run of the program has stored.
    pub position: Option<Position>,
    /// Asks for [`Event::Join`](crate::Event::Join) and [`Event::Leave`](crate::Event::Leave), where the protocol needs
    /// that: `echoring.v1.json` sends them wherever the topic has presence.
    pub presence: bool,
    /// Asks for delta compression: the server sends what has changed since the message before. It has an effect in Centrifuge's
    /// protocol, on topics that allow it. Messages have at most
    /// [`DELTA_MESSAGE_BYTES_MAX`](crate::limits::DELTA_MESSAGE_BYTES_MAX) bytes then. The client keeps the latest message of the
    /// subscription. If a delta does not fit, the client subscribes again from its position; after three of them, without deltas.
    pub deltas: bool,
    /// Where the tokens of the subscription come from, if it needs one: the first one, and fresh ones before or after they
    /// expire. An error ends the subscription with [`Ended::Token`](crate::Ended::Token), a token that the server refuses with
    /// [`Ended::Refused`](crate::Ended::Refused). Centrifuge's protocol only.
    pub token_source: Option<TokenSource>,
    /// Maximum number of events that wait to be read, 1,024 by default or with 0, and at least 4.
    pub queue_events: usize,
}

impl SubscribeOptions {
    /// Resumes from `position`.
    pub fn from_position(position: Position) -> SubscribeOptions {
        SubscribeOptions { position: Some(position), ..SubscribeOptions::default() }
    }

    /// Asks for joins and leaves.
    #[must_use]
    pub fn presence(mut self, wanted: bool) -> SubscribeOptions {
        self.presence = wanted;
        self
    }

    /// Asks for delta compression.
    ///
    /// ```
    /// use echoring::client::{Client, SubscribeError, SubscribeOptions, Subscription};
    ///
    /// async fn tables(client: &Client) -> Result<Subscription<Vec<String>>, SubscribeError> {
    ///     client.subscribe_with("tables.7", SubscribeOptions::default().deltas(true)).await
    /// }
    /// ```
    #[must_use]
    pub fn deltas(mut self, wanted: bool) -> SubscribeOptions {
        self.deltas = wanted;
        self
    }

    /// Fetches the tokens of the subscription.
    #[must_use]
    pub fn token_source(mut self, source: TokenSource) -> SubscribeOptions {
        self.token_source = Some(source);
        self
    }

    /// Maximum number of events that wait to be read.
    #[must_use]
    pub fn queue_events(mut self, events: usize) -> SubscribeOptions {
        self.queue_events = events;
        self
    }
}

impl Client {
    /// A client with the default settings. Spawn its task.
    pub fn new(protocol: Protocol, url: impl Into<String>) -> (Client, ClientTask) {
        Client::builder(protocol, url).build()
    }

    /// A client with settings of its own.
    pub fn builder(protocol: Protocol, url: impl Into<String>) -> Builder {
        let dialer = Dialer::new()
            .message_bytes_max(MESSAGE_BYTES_MAX_DEFAULT)
            .heartbeat(Heartbeat::every(PING_INTERVAL));
        let reconnect: Box<dyn FnOnce(Reconnecting) -> Reconnecting + Send> = Box::new(|how| how);
        let url = url.into();
        Builder {
            protocol,
            url,
            dialer,
            token: None,
            token_source: None,
            reconnect,
            server_subscription: None,
        }
    }

    /// Subscribes to a topic, from now on. Does not wait for the server: [`Event::Subscribed`](crate::Event::Subscribed)
    /// is the first event, or [`Event::Ended`](crate::Event::Ended) if the server refuses.
    ///
    /// # Errors
    /// If the client has a subscription of the topic, or its task has ended; in `subscribe_with` also if the protocol has no tokens of subscriptions.
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
        self.commands.send(command).await.map_err(|_| SubscribeError::Closed)?;
        answered.await.map_err(|_| SubscribeError::Closed)??;
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
    /// [`RequestError::Unsupported`] for what the protocol cannot express: bytes in JSON; with Centrifuge's also keys.
    pub async fn publish_with(
        &self,
        topic: impl Into<String>,
        publication: Publication,
    ) -> Result<Published, RequestError> {
        let topic = topic.into();
        self.request(|answer| Pending::Publish { topic, publication, answer }).await
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
        let (topic, after) = (topic.into(), after.map(str::to_owned));
        self.request(|answer| Pending::Presence { topic, after, answer }).await
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
        let topic = topic.into();
        self.request(|answer| Pending::History { topic, query, answer }).await
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
        let method = method.into();
        self.request(|answer| Pending::Rpc { method, data, answer }).await
    }

    /// Sends a message to the server's application, which does not answer. Returns once the message is in the queue of the
    /// connection, in its order with publications and calls; it is lost if the connection is lost then. Centrifuge's
    /// protocol only.
    ///
    /// # Errors
    /// [`RequestError::Unsupported`] with `echoring.v1.json`; [`RequestError::Closed`].
    pub async fn send(&self, data: Payload) -> Result<(), RequestError> {
        self.request(|answer| Pending::Send { data, answer }).await
    }

    /// Presents a fresh token for this session, before the old one expires. With Centrifuge's protocol, later
    /// connections present it too.
    ///
    /// # Errors
    /// As any request.
    pub async fn authenticate(&self, token: impl Into<String>) -> Result<(), RequestError> {
        let token = token.into();
        self.request(|answer| Pending::Authenticate { token, answer }).await
    }

    /// Closes the connection, and ends the task. Subscriptions end, and open requests fail.
    pub async fn close(&self) {
        // The task may have ended.
        let _ = self.commands.send(Command::Close).await;
        self.commands.closed().await;
    }

    async fn request<R>(&self, request: impl FnOnce(Answer<R>) -> Pending) -> Result<R, RequestError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Request(request(answer));
        self.commands.send(command).await.map_err(|_| RequestError::Closed)?;
        answered.await.map_err(|_| RequestError::Closed)?
    }
}
