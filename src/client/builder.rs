//! Settings of a client, and its beginning.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use crate::limits::{COMMANDS_MAX, MESSAGE_BYTES_MAX_DEFAULT, PING_INTERVAL, QUEUE_EVENTS_DEFAULT};
use crate::session::state::{Hook, States};
use crate::session::{Offer, ServerSide, Session, Token};
use crate::task::Task;
use crate::task::attempt::{Attempt, retries};
use crate::token::Credentials;
use crate::{Client, Protocol, State, Subscription, TokenSource};
use echoring_async::{Dialer, Heartbeat, Reconnecting};
use echoring_proto::Url;

/// Settings of a client.
#[must_use = "a client begins with `connect`"]
pub struct Builder {
    protocol: Protocol,
    url: String,
    dialer: Dialer,
    token: Option<String>,
    token_source: Option<TokenSource>,
    reconnect: Box<dyn FnOnce(Reconnecting) -> Reconnecting + Send>,
    on_state: Option<Hook>,
    server_subscription: Option<Offer>,
}

impl Builder {
    pub(crate) fn new(protocol: Protocol, url: String) -> Builder {
        let dialer =
            Dialer::new().max_message(MESSAGE_BYTES_MAX_DEFAULT).heartbeat(Heartbeat::every(PING_INTERVAL));
        Builder {
            protocol,
            url,
            dialer,
            token: None,
            token_source: None,
            reconnect: Box::new(|how| how),
            on_state: None,
            server_subscription: None,
        }
    }

    /// Changes how connections are opened: header fields, roots of trust, a proxy. The callback gets a dialer that sends a
    /// WebSocket ping every 25 seconds, and accepts messages of up to 4 MiB. The subprotocol is the client's.
    ///
    /// ```
    /// use echoring::client::Client;
    /// use echoring::tls::Trust;
    ///
    /// let roots = Trust::CaFile("/etc/live/roots.pem".into());
    /// let builder = Client::v1("wss://live.example/broadcast").dialer(|dialer| dialer.tls(roots));
    /// # drop(builder);
    /// ```
    pub fn dialer(self, how: impl FnOnce(Dialer) -> Dialer) -> Builder {
        Builder { dialer: how(self.dialer), ..self }
    }

    /// The token that the client presents when it connects: as `Authorization: Bearer` in `echoring.v1.json`, in the first
    /// command of Centrifuge's protocol. See also [`authenticate`](Client::authenticate).
    pub fn token(self, token: impl Into<String>) -> Builder {
        Builder { token: Some(token.into()), ..self }
    }

    /// Fetches the tokens that the client presents when it connects, and while it is connected, in any protocol: the first
    /// one, unless there is [`token`](Builder::token), and a fresh one when the server says that the old one expires, or has
    /// ended the session or refused an attempt because it has. [`TokenSource::single_use`] fetches one for each attempt.
    ///
    /// A source that fails is asked again: by the next attempt, so that the bounds of [`reconnect`](Builder::reconnect) hold,
    /// or before the session expires. [`Unauthorized`](crate::Unauthorized) is final, and so is a fresh token that the server
    /// refuses.
    ///
    /// ```
    /// use echoring::client::{Client, TokenSource};
    ///
    /// async fn fetch() -> Result<String, std::io::Error> {
    ///     // Asks the program's back end.
    ///     Ok("eyJhbGciOi".to_owned())
    /// }
    ///
    /// let builder = Client::v1("wss://live.example/broadcast").token_source(TokenSource::new(fetch));
    /// # drop(builder);
    /// ```
    pub fn token_source(self, source: TokenSource) -> Builder {
        Builder { token_source: Some(source), ..self }
    }

    /// Changes how the client reconnects: delays, bounds, hooks and which failures are permanent. The callback of `on_open`
    /// may not read or write. By default the client tries for ever, unless a failure is
    /// [permanent](echoring_async::reconnect::Failure::is_temporary); Centrifuge's protocol says which of its close codes
    /// are, and a session whose token has expired returns if there is a [token source](Builder::token_source).
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use echoring::client::Client;
    ///
    /// let builder = Client::v1("wss://live.example/broadcast")
    ///     .reconnect(|how| how.max_delay(Duration::from_secs(5)).give_up_after(Duration::from_secs(600)));
    /// # drop(builder);
    /// ```
    pub fn reconnect(self, how: impl FnOnce(Reconnecting) -> Reconnecting + Send + 'static) -> Builder {
        Builder { reconnect: Box::new(how), ..self }
    }

    /// Calls `hook` with each state, in the task of the client, which it may not block. See also [`Client::watch`].
    ///
    /// ```
    /// use echoring::client::Client;
    ///
    /// let builder = Client::v1("wss://live.example/broadcast").on_state(|state| eprintln!("{state}"));
    /// # drop(builder);
    /// ```
    pub fn on_state(self, hook: impl FnMut(&State) + Send + 'static) -> Builder {
        Builder { on_state: Some(Box::new(hook)), ..self }
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
    /// use echoring::client::{Client, Event};
    ///
    /// let builder = Client::centrifuge("wss://live.example/connection/websocket")
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
    ///     });
    /// # drop(builder);
    /// ```
    pub fn on_server_subscription(self, offer: impl FnMut(Subscription) + Send + 'static) -> Builder {
        Builder { server_subscription: Some(Box::new(offer)), ..self }
    }

    /// The client. It begins to connect, in a task of its own on the runtime of the caller, and does not wait for it: its
    /// [`state`](Client::state) shows how far it is. The task ends with [`Client::close`], when all clients and subscriptions
    /// are dropped, or when there is no connection and no further attempt.
    ///
    /// # Panics
    /// Outside of a runtime of tokio.
    #[must_use = "the client ends when its last handle is dropped"]
    pub fn connect(self) -> Client {
        let Builder { protocol, url, dialer, token, token_source, reconnect, on_state, server_subscription } =
            self;
        // A token that has ended is the same at the next attempt. What else the handshake has is decided anew.
        let may_renew = token_source.is_some() || token.is_none();
        let credentials = Credentials::new(token, token_source);
        // Other parts of the URL may be secrets.
        let server = Url::parse(&url).map_or_else(|_| String::new(), |url| url.authority());
        let attempt = Attempt::new(protocol, url, dialer, credentials.clone());
        let reconnecting = Reconnecting::new(server, move || attempt.clone().run())
            .retry_if(move |failure| retries(protocol, may_renew, failure));
        let (handle, commands) = mpsc::channel(COMMANDS_MAX);
        let (states, wake) = (States::new(on_state), Arc::new(Notify::new()));
        let client = Client { commands: handle, wake: Arc::clone(&wake), states: states.watch() };
        let server_side = server_subscription.map(|offer| ServerSide {
            offer,
            commands: client.commands.downgrade(),
            wake: Arc::clone(&wake),
            queue_events: QUEUE_EVENTS_DEFAULT,
        });
        let session = Session::new(protocol, Token::new(credentials), server_side);
        let task = Task {
            protocol,
            reconnecting: reconnect(reconnecting),
            session,
            commands,
            wake,
            states,
            fetches: Default::default(),
        };
        tokio::spawn(task.run());
        client
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token and the URL's query may be secrets.
        f.debug_struct("Builder").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}
