//! A client that reconnects.
//!
//! Never: resending messages of a failed connection. The callback of [`Reconnecting::on_open`] restores the
//! program's state at the server.

#![forbid(unsafe_code)]

mod backoff;
mod failure;
mod settings;
mod state;
#[cfg(test)]
mod tests;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::future::Future;
use std::hash::BuildHasher as _;
use std::pin::Pin;
use std::time::Duration;

use serde_core::Serialize;
use serde_core::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{ClientStream, Conn, Dialer, Error, Message, PreparedMessage, Transport};
use crate::limits::{NEVER, ON_OPEN_TIMEOUT, RECONNECT_DELAY, RECONNECT_DELAY_MAX, RECONNECT_SETTLED};
use backoff::Backoff;
use echoring_proto::Url;

pub use failure::{BoxError, Failure, GaveUp, Reason, ReconnectError};
pub use state::{Event, State};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Connect<S> = Box<dyn FnMut() -> BoxFuture<Result<Conn<S>, BoxError>> + Send>;
type OnOpen<S> = Box<dyn FnMut(Conn<S>) -> BoxFuture<Result<Conn<S>, BoxError>> + Send>;

/// Keeps one connection to a server open: it reconnects whenever the connection ends.
///
/// The first attempt is made at once. Before each further attempt it waits for a random time below a bound that doubles
/// with every failure ("full jitter"), so that the clients of a restarted server do not reconnect at the same time. Only a
/// connection that lived for [ten seconds](Reconnecting::settled_after) was stable, and resets delays and bounds. One that
/// ended sooner counts as a failure, whatever came over it: a server that accepts and closes at once is asked ever more
/// rarely. Nothing is spawned: it reconnects, and notices that a connection ended, while it is read or written.
///
/// All calls are cancel-safe: if a future is dropped, the pending attempt, callback or delay continues with the next
/// call, and no message is lost. So they can be branches of `select!`.
///
/// It gives up at the first [permanent failure](Failure::is_temporary), and at the bounds that the program sets:
/// [`max_attempts`](Reconnecting::max_attempts) and [`give_up_after`](Reconnecting::give_up_after). Then every call
/// returns that failure. Retries are logged through `tracing`, passed to the
/// [event hook](Reconnecting::on_event), and visible in the [`state`](Reconnecting::state).
///
/// | failure | |
/// |---|---|
/// | no address, no connection, no answer in time, a lost connection | retried |
/// | a response with 429, or 5xx except 501 and 505 | retried, after its `Retry-After` |
/// | any other response but 101, such as 401, 403 and 404 | permanent |
/// | an invalid URL or request, a certificate that is not trusted | permanent |
/// | a close with 1002, 1003, 1007 to 1010, or 4000 to 4999 except 4008 to 4010 | permanent |
/// | any other close | retried |
///
/// ```no_run
/// use std::time::Duration;
///
/// use echoring::Dialer;
/// use echoring::reconnect::{Event, ReconnectError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), ReconnectError> {
/// let mut feed = Dialer::new()
///     .reconnecting("wss://feed.example/")
///     .max_delay(Duration::from_secs(10))
///     .give_up_after(Duration::from_secs(600))
///     .on_open(|mut conn| async move {
///         conn.write("subscribe prices").await?;
///         Ok(conn)
///     })
///     .on_event(|event| match event {
///         Event::Lost(error) => eprintln!("lost: {error}"),
///         Event::Waiting { delay, .. } => eprintln!("again in {delay:?}"),
///         _ => {}
///     });
/// loop {
///     let message = feed.read().await?;
///     println!("{message:?}");
/// }
/// # }
/// ```
#[must_use]
pub struct Reconnecting<S = ClientStream> {
    connect: Connect<S>,
    on_open: Option<OnOpen<S>>,
    /// Host and port, for the log: other parts of the URL may be secrets.
    server: String,
    backoff: Backoff,
    settled_after: Duration,
    attempts_max: Option<u32>,
    give_up_after: Option<Duration>,
    hook: Box<dyn FnMut(Event<'_>) + Send>,
    retry: Box<dyn FnMut(&Failure) -> bool + Send>,
    /// Attempts since the last stable connection.
    attempts: u32,
    /// Since when there is no connection, if one was asked for.
    since: Option<Instant>,
    /// The time without a connection before that, since the last stable one.
    outage: Duration,
    opened_at: Option<Instant>,
    /// The delay before the next attempt: kept, so that cancelled and repeated calls do not shorten it.
    wait: Option<Wait>,
    /// The pending attempt: kept for the same reason, and so that it completes.
    attempt: Option<Attempt<S>>,
    conn: Option<Conn<S>>,
    /// Why the last connection ended, if that is known.
    lost: Option<Failure>,
    state: watch::Sender<State>,
}

/// A pending attempt.
enum Attempt<S> {
    Dialling(BoxFuture<Result<Conn<S>, BoxError>>),
    /// The callback of `on_open` has the connection.
    Opening(BoxFuture<Result<Conn<S>, BoxError>>, Instant),
}

/// A delay before an attempt.
#[derive(Clone, Copy, Debug)]
struct Wait {
    until: Instant,
    /// The hook was called for it.
    told: bool,
}

impl Dialer {
    /// A client that keeps a connection to `url` open.
    pub fn reconnecting(&self, url: impl Into<String>) -> Reconnecting {
        let (dialer, url) = (self.clone(), url.into());
        let server = Url::parse(&url).map_or_else(|_| String::new(), |url| url.authority());
        Reconnecting::new(server, move || {
            let (dialer, url) = (dialer.clone(), url.clone());
            async move { dialer.dial(&url).await }
        })
    }
}

impl<S: Transport> Reconnecting<S> {
    /// A client that opens its connections with `connect`, which is called for each attempt: over any stream (see
    /// [`Dialer::dial_over`]), or with a URL or a token that is fetched anew. Its [`DialError`](crate::DialError) is a
    /// [`Failure::Dial`], and any other error a [`Failure::Connect`], which is retried. `server` names the server in the log.
    ///
    /// ```
    /// use echoring::reconnect::BoxError;
    /// use echoring::{Dialer, Reconnecting};
    ///
    /// async fn fetch_token() -> Result<String, std::io::Error> {
    ///     // Asks the program's back end.
    ///     Ok("eyJhbGciOi".to_owned())
    /// }
    ///
    /// let feed = Reconnecting::new("feed.example", || async {
    ///     let bearer = format!("Bearer {}", fetch_token().await?);
    ///     let dialer = Dialer::new().header("Authorization", bearer);
    ///     Ok::<_, BoxError>(dialer.dial("wss://feed.example/").await?)
    /// });
    /// # drop(feed);
    /// ```
    ///
    /// ```
    /// use echoring::{DialError, Dialer, Reconnecting};
    /// use tokio::net::UnixStream;
    ///
    /// let feed = Reconnecting::new("feed.sock", || async {
    ///     let stream = UnixStream::connect("/run/feed.sock").await.map_err(DialError::Connect)?;
    ///     Dialer::new().dial_over("ws://localhost/", stream).await
    /// });
    /// # drop(feed);
    /// ```
    pub fn new<F, E>(
        server: impl Into<String>,
        mut connect: impl FnMut() -> F + Send + 'static,
    ) -> Reconnecting<S>
    where
        F: Future<Output = Result<Conn<S>, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Reconnecting {
            connect: Box::new(move || {
                let connecting = connect();
                Box::pin(async move { connecting.await.map_err(Into::into) })
            }),
            on_open: None,
            server: server.into(),
            backoff: Backoff {
                initial: Duration::from_nanos(RECONNECT_DELAY),
                max: Duration::from_nanos(RECONNECT_DELAY_MAX),
                jitter: true,
            },
            settled_after: Duration::from_nanos(RECONNECT_SETTLED),
            attempts_max: None,
            give_up_after: None,
            hook: Box::new(|_| {}),
            retry: Box::new(Failure::is_temporary),
            attempts: 0,
            since: None,
            outage: Duration::ZERO,
            opened_at: None,
            wait: None,
            attempt: None,
            conn: None,
            lost: None,
            state: watch::Sender::new(State::Idle),
        }
    }
}

/// The state.
impl<S> Reconnecting<S> {
    /// The state now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The state, for other tasks: to show it, or to wait for a change.
    ///
    /// ```no_run
    /// # async fn show() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut feed = echoring::Dialer::new().reconnecting("wss://feed.example/");
    /// let mut states = feed.watch();
    /// tokio::spawn(async move {
    ///     while states.changed().await.is_ok() {
    ///         println!("{:?}", *states.borrow_and_update());
    ///     }
    /// });
    /// feed.read().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The open connection, if [`read`](Reconnecting::read) or [`write`](Reconnecting::write) opened one.
    pub fn current(&mut self) -> Option<&mut Conn<S>> {
        self.conn.as_mut()
    }

    /// Begins again after it has given up, with the first attempt. Otherwise, skips the delay before the next attempt,
    /// for example because the network is back.
    pub fn restart(&mut self) {
        if self.gave_up().is_some() {
            self.state.send_replace(State::Idle);
            self.reset();
        }
        (self.wait, self.lost) = (None, None);
    }

    fn gave_up(&self) -> Option<GaveUp> {
        match &*self.state.borrow() {
            State::Failed(gave_up) => Some(gave_up.clone()),
            _ => None,
        }
    }

    /// Resets the attempt counter.
    fn reset(&mut self) {
        (self.attempts, self.since, self.outage, self.wait) = (0, None, Duration::ZERO, None);
    }
}

impl<S: Transport> Reconnecting<S> {
    /// The next connection, for programs that use it themselves: call this again when it has ended, after
    /// [`ended`](Reconnecting::ended). The [`current`](Reconnecting::current) connection is given away.
    ///
    /// Cancel-safe: if the future is dropped, the pending attempt or the rest of the delay continues with the next
    /// call. Deadlines continue to run.
    ///
    /// # Errors
    /// If there is no further attempt.
    pub async fn next(&mut self) -> Result<Conn<S>, GaveUp> {
        match self.conn.take() {
            Some(conn) => Ok(conn),
            None => self.open().await,
        }
    }

    /// Says why a connection that [`next`](Reconnecting::next) gave away has ended, so that a permanent failure is the
    /// last one.
    pub fn ended(&mut self, error: Error) {
        tracing::warn!(server = %self.server, %error, "the connection ended; reconnecting");
        (self.hook)(Event::Lost(&error));
        self.lost = Some(Failure::Lost(error));
    }

    /// Reads the next message, from this connection or the next. Messages that the server sent in between are lost to
    /// this client, unless the callback of [`on_open`](Reconnecting::on_open) asks for them.
    ///
    /// Cancel-safe, also as a repeatedly cancelled branch of `select!`: neither a message nor an attempt is lost.
    ///
    /// # Errors
    /// [`ReconnectError::GaveUp`], if there is no further attempt; [`ReconnectError::Conn`] at the connection's read
    /// deadline.
    pub async fn read(&mut self) -> Result<Message, ReconnectError> {
        loop {
            match self.connected().await?.read().await {
                Ok(message) => return Ok(message),
                Err(error) => self.handle(error)?,
            }
        }
    }

    /// Reads the next message, text or binary, as JSON. Cancel-safe.
    ///
    /// # Errors
    /// [`ReconnectError::Conn`] if the message is not a `T`; the next message can still be read. Otherwise as
    /// [`read`](Reconnecting::read).
    pub async fn read_json<T: DeserializeOwned>(&mut self) -> Result<T, ReconnectError> {
        let message = self.read().await?;
        serde_json::from_slice(message.as_bytes()).map_err(|error| ReconnectError::Conn(error.into()))
    }

    /// Sends a message, on this connection or the next.
    ///
    /// If the connection fails during the write, the message is sent again on the next one, so the server may receive
    /// it twice. A message that was sent shortly before the connection failed may never have arrived. If either
    /// matters, number the messages and acknowledge them. If the future is dropped, the attempt continues with the next
    /// call; the message is either queued whole or was not accepted.
    ///
    /// # Errors
    /// [`ReconnectError::GaveUp`], if there is no further attempt; [`ReconnectError::Conn`] if the message exceeds 2
    /// GiB, or at the connection's write deadline.
    pub async fn write(&mut self, message: impl Into<Message>) -> Result<(), ReconnectError> {
        let message = message.into();
        loop {
            match self.connected().await?.write(message.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => self.handle(error)?,
            }
        }
    }

    /// Sends `value` as JSON in a text message.
    ///
    /// # Errors
    /// [`ReconnectError::Conn`] if it cannot be serialised; otherwise as [`write`](Reconnecting::write).
    pub async fn write_json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ReconnectError> {
        let json = serde_json::to_string(value).map_err(|error| ReconnectError::Conn(error.into()))?;
        self.write(json).await
    }

    /// Sends a message that was encoded for many connections.
    ///
    /// # Errors
    /// As [`write`](Reconnecting::write).
    pub async fn write_prepared(&mut self, message: &PreparedMessage) -> Result<(), ReconnectError> {
        loop {
            match self.connected().await?.write_prepared(message).await {
                Ok(()) => return Ok(()),
                Err(error) => self.handle(error)?,
            }
        }
    }

    async fn connected(&mut self) -> Result<&mut Conn<S>, ReconnectError> {
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.open().await?,
        };
        Ok(self.conn.insert(conn))
    }

    /// Notes the end of the connection, or returns an error that did not end it.
    fn handle(&mut self, error: Error) -> Result<(), ReconnectError> {
        match error {
            Error::ReadTimeout
            | Error::WriteTimeout
            | Error::TooLong
            | Error::ControlTooLong
            | Error::CompressionLevel(_)
            | Error::Json(_)
            | Error::NotText => Err(ReconnectError::Conn(error)),
            error => {
                self.conn = None;
                self.ended(error);
                Ok(())
            }
        }
    }

    /// Opens a connection. State that a dropped future would lose is kept in `self`.
    async fn open(&mut self) -> Result<Conn<S>, GaveUp> {
        if let Some(gave_up) = self.gave_up() {
            return Err(gave_up);
        }
        self.count_the_last_connection();
        self.since.get_or_insert_with(Instant::now);
        if let Some(failure) = self.lost.take() {
            self.decide_retry(failure)?;
        }
        loop {
            if self.attempt.is_none() {
                self.wait().await;
                self.begin_attempt();
            }
            let attempted = self.finish_attempt().await;
            // Nothing is awaited from here on, so the attempt's result cannot be lost.
            self.attempt = None;
            match attempted {
                Ok(conn) => {
                    if self.attempts > 1 {
                        tracing::info!(server = %self.server, attempt = self.attempts, "connected again");
                    }
                    self.opened_at = Some(Instant::now());
                    self.outage += self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
                    self.state.send_replace(State::Open);
                    (self.hook)(Event::Connected);
                    return Ok(conn);
                }
                Err(failure) => {
                    (self.hook)(Event::Failed(&failure));
                    self.schedule_attempt(failure.retry_after());
                    self.decide_retry(failure)?;
                }
            }
        }
    }

    fn begin_attempt(&mut self) {
        self.attempts += 1;
        self.state.send_replace(State::Connecting { attempt: self.attempts });
        (self.hook)(Event::Dialling { attempt: self.attempts });
        self.attempt = Some(Attempt::Dialling((self.connect)()));
    }

    /// Awaits the pending attempt, up to the time limit.
    async fn finish_attempt(&mut self) -> Result<Conn<S>, Failure> {
        let limit = self.limit();
        match limit {
            Some(at) => timeout_at(at, self.poll_attempt()).await.unwrap_or(Err(Failure::Timeout)),
            None => self.poll_attempt().await,
        }
    }

    async fn poll_attempt(&mut self) -> Result<Conn<S>, Failure> {
        loop {
            match &mut self.attempt {
                Some(Attempt::Dialling(dialling)) => {
                    let conn = dialling.as_mut().await.map_err(Failure::of_connect)?;
                    let Some(on_open) = &mut self.on_open else { return Ok(conn) };
                    let until = after(Duration::from_nanos(ON_OPEN_TIMEOUT));
                    self.attempt = Some(Attempt::Opening(on_open(conn), until));
                }
                Some(Attempt::Opening(opening, until)) => {
                    return match timeout_at(*until, opening.as_mut()).await {
                        Ok(opened) => opened.map_err(Failure::OnOpen),
                        Err(_) => Err(Failure::Timeout),
                    };
                }
                None => self.begin_attempt(),
            }
        }
    }

    /// Gives up if `failure` is permanent, or a bound is reached.
    fn decide_retry(&mut self, failure: Failure) -> Result<(), GaveUp> {
        let next_at = self.wait.map(|wait| wait.until);
        let reason = if !(self.retry)(&failure) {
            Reason::Permanent
        } else if self.attempts_max.is_some_and(|most| self.attempts >= most) {
            Reason::Attempts
        } else if self.limit().is_some_and(|limit| next_at.unwrap_or_else(Instant::now) >= limit) {
            Reason::Time
        } else {
            self.tell_retry(&failure);
            return Ok(());
        };
        let gave_up = GaveUp::new(failure, reason, self.attempts);
        self.wait = None;
        self.state.send_replace(State::Failed(gave_up.clone()));
        Err(gave_up)
    }

    /// Logs the next attempt, unless it follows at once.
    fn tell_retry(&mut self, failure: &Failure) {
        let Some(Wait { until, .. }) = self.wait else { return };
        self.state.send_replace(State::Waiting { until, attempt: self.attempts + 1 });
        if matches!(failure, Failure::Lost(_)) {
            return;
        }
        let delay = until.saturating_duration_since(Instant::now());
        tracing::warn!(
            server = %self.server, error = %failure, attempt = self.attempts,
            retry_in_ms = delay.as_millis() as u64, "cannot connect; retrying"
        );
    }

    /// The time at which the client gives up.
    fn limit(&self) -> Option<Instant> {
        let (since, limit) = self.since.zip(self.give_up_after)?;
        since.checked_add(limit.saturating_sub(self.outage))
    }

    fn count_the_last_connection(&mut self) {
        let Some(opened_at) = self.opened_at.take() else { return };
        if opened_at.elapsed() >= self.settled_after {
            self.reset();
        }
        // After a stable connection too: the server's other clients have lost theirs at the same time.
        let retry_after = self.lost.as_ref().map_or(Duration::ZERO, Failure::retry_after);
        self.schedule_attempt(retry_after);
    }

    /// Sets the delay before the next attempt: what the server asked for, and a random one, because it asked the others
    /// for the same.
    fn schedule_attempt(&mut self, retry_after: Duration) {
        // A hash with a key from the system's random source.
        let random = RandomState::new().hash_one(0_u64);
        let delay = self.backoff.delay(self.attempts, random);
        self.wait = Some(Wait { until: after(delay.saturating_add(retry_after)), told: false });
    }

    async fn wait(&mut self) {
        let Some(wait) = &mut self.wait else { return };
        let delay = wait.until.saturating_duration_since(Instant::now());
        if !delay.is_zero() {
            if !wait.told {
                wait.told = true;
                (self.hook)(Event::Waiting { delay, attempt: self.attempts + 1 });
            }
            sleep_until(wait.until).await;
        }
        self.wait = None;
    }
}

/// The time after `delay`, or one that never comes.
fn after(delay: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(delay).unwrap_or(now + Duration::from_nanos(NEVER))
}

impl<S> fmt::Debug for Reconnecting<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnecting")
            .field("server", &self.server)
            .field("state", &*self.state.borrow())
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}
