//! A dialer that dials again.
//!
//! Never: remembering what was said on a connection that broke. What a server has to be told anew is the program's
//! to know; [`Event::Connected`] is the moment for it.

#![forbid(unsafe_code)]

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::handshake::random;
use super::{ClientStream, Conn, DialError, Dialer, Error, Message};
use crate::limits::{RECONNECT_DELAY, RECONNECT_DELAY_MAX, RECONNECT_SETTLED};
use crate::protocol::Url;

/// An attempt under way.
type Attempt = Pin<Box<dyn Future<Output = Result<Conn<ClientStream>, DialError>> + Send>>;

/// Keeps one connection to a server open, dialling again whenever it ends.
///
/// The first attempt is made at once. Before each further one it waits for a random time up to a bound that doubles
/// with every failure ("full jitter"), so that the clients of a server that comes back do not all come at once. A
/// connection that lived for 30 seconds starts the counting anew.
///
/// Reading is cancel-safe: an attempt, or a wait before one, that a dropped future leaves behind goes on with the next
/// call, so that a branch of `select!` may read. By default the first failure that trying again will not mend is the
/// last: see [`retry_if`](Reconnecting::retry_if). What is tried again is logged, by `tracing`, as well as
/// [told](Reconnecting::on_event).
///
/// ```no_run
/// use std::time::Duration;
///
/// use echoring::aio::{Dialer, reconnect::Event};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), echoring::aio::DialError> {
/// let mut feed = Dialer::new()
///     .reconnecting("wss://feed.example/")
///     .max_delay(Duration::from_secs(10))
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
pub struct Reconnecting {
    dialer: Dialer,
    url: String,
    backoff: Backoff,
    settled_after: Duration,
    attempts_max: Option<u32>,
    hook: Box<dyn FnMut(Event<'_>) + Send>,
    retry: Box<dyn FnMut(&DialError) -> bool + Send>,
    /// Attempts since the last connection that settled.
    attempts: u32,
    opened_at: Option<Instant>,
    /// The wait before the next attempt: kept, so that a program that gives up waiting and comes back does not hurry it.
    wait: Option<Wait>,
    /// The attempt that is being made: kept for the same reason, and so that it comes to an end.
    attempt: Option<Attempt>,
    conn: Option<Conn<ClientStream>>,
}

/// A wait before an attempt.
#[derive(Clone, Copy, Debug)]
struct Wait {
    until: Instant,
    /// It has been told.
    told: bool,
}

/// What happens to a connection that is kept open.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// It is dialled. `attempt` counts from 1, anew after a connection that settled.
    Dialling {
        /// Which attempt this is.
        attempt: u32,
    },
    /// It is open.
    Connected,
    /// The attempt failed.
    Failed(&'a DialError),
    /// The next attempt comes after `delay`. Told once for each wait.
    Waiting {
        /// How long.
        delay: Duration,
        /// Which attempt that will be.
        attempt: u32,
    },
    /// It ended, cleanly or not, while it was read from or written to.
    Lost(&'a Error),
}

impl Dialer {
    /// A connection to `url` that is opened anew whenever it ends.
    pub fn reconnecting(&self, url: impl Into<String>) -> Reconnecting {
        Reconnecting {
            dialer: self.clone(),
            url: url.into(),
            backoff: Backoff {
                initial: Duration::from_nanos(RECONNECT_DELAY),
                max: Duration::from_nanos(RECONNECT_DELAY_MAX),
                jitter: true,
            },
            settled_after: Duration::from_nanos(RECONNECT_SETTLED),
            attempts_max: None,
            hook: Box::new(|_| {}),
            retry: Box::new(DialError::is_temporary),
            attempts: 0,
            opened_at: None,
            wait: None,
            attempt: None,
            conn: None,
        }
    }
}

impl Reconnecting {
    /// The longest wait before the second attempt, half a second by default.
    #[must_use]
    pub fn initial_delay(mut self, delay: Duration) -> Reconnecting {
        self.backoff.initial = delay;
        self
    }

    /// The longest wait before any attempt, 30 seconds by default.
    #[must_use]
    pub fn max_delay(mut self, delay: Duration) -> Reconnecting {
        self.backoff.max = delay;
        self
    }

    /// Whether waits are random up to their bound, as by default, or as long as it.
    #[must_use]
    pub fn jitter(mut self, jitter: bool) -> Reconnecting {
        self.backoff.jitter = jitter;
        self
    }

    /// How many attempts in a row to make, those counted whose connections did not settle: when this one or a later
    /// one fails it was the last. `None`, the default, for no end.
    #[must_use]
    pub fn max_attempts(mut self, attempts: impl Into<Option<u32>>) -> Reconnecting {
        self.attempts_max = attempts.into();
        self
    }

    /// How long a connection must have lived for its end to count as the first failure, 30 seconds by default.
    #[must_use]
    pub fn settled_after(mut self, age: Duration) -> Reconnecting {
        self.settled_after = age;
        self
    }

    /// Is told what happens.
    #[must_use]
    pub fn on_event(mut self, hook: impl FnMut(Event<'_>) + Send + 'static) -> Reconnecting {
        self.hook = Box::new(hook);
        self
    }

    /// Which failures are worth another attempt; by default those that
    /// [are temporary](DialError::is_temporary), which a certificate that is not believed and any answer but 101 are not.
    /// A program that comes back to a server behind a load balancer may want its 503 tried again:
    ///
    /// ```
    /// # use echoring::aio::{DialError, Dialer};
    /// let feed = Dialer::new().reconnecting("wss://feed.example/").retry_if(|error: &DialError| {
    ///     error.is_temporary() || error.response().is_some_and(|response| response.status().is_server_error())
    /// });
    /// ```
    #[must_use]
    pub fn retry_if(mut self, retry: impl FnMut(&DialError) -> bool + Send + 'static) -> Reconnecting {
        self.retry = Box::new(retry);
        self
    }

    /// The connection that is open now, if [`read`](Reconnecting::read) or [`write`](Reconnecting::write) opened one.
    pub fn current(&mut self) -> Option<&mut Conn<ClientStream>> {
        self.conn.as_mut()
    }

    /// The next connection, for programs that use it themselves: call this again when it has ended. One that is
    /// [`current`](Reconnecting::current) is given away.
    ///
    /// Cancel-safe: when the future is dropped, the attempt under way, or what is left of the wait before it, goes on
    /// with the next call. Its deadlines run on meanwhile.
    ///
    /// # Errors
    /// The last failure, when no further attempt is made. Calling again begins anew.
    pub async fn next(&mut self) -> Result<Conn<ClientStream>, DialError> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        self.count_the_last_connection();
        loop {
            if self.attempt.is_none() {
                self.wait().await;
            }
            let attempt = self.attempt.get_or_insert_with(|| {
                self.attempts += 1;
                (self.hook)(Event::Dialling { attempt: self.attempts });
                let (dialer, url) = (self.dialer.clone(), self.url.clone());
                Box::pin(async move { dialer.dial(&url).await })
            });
            let dialled = attempt.as_mut().await;
            // Nothing is awaited from here on: what the attempt came to is not lost.
            self.attempt = None;
            let error = match dialled {
                Ok(conn) => {
                    if self.attempts > 1 {
                        tracing::info!(server = %self.server(), attempt = self.attempts, "connected again");
                    }
                    self.opened_at = Some(Instant::now());
                    (self.hook)(Event::Connected);
                    return Ok(conn);
                }
                Err(error) => error,
            };
            (self.hook)(Event::Failed(&error));
            let spent = self.attempts_max.is_some_and(|most| self.attempts >= most);
            if spent || !(self.retry)(&error) {
                self.begin_anew();
                return Err(error);
            }
            let delay = self.plan(random());
            tracing::warn!(
                server = %self.server(), %error, attempt = self.attempts, retry_in_ms = delay.as_millis() as u64,
                "cannot connect; trying again"
            );
        }
    }

    /// The next message, of this connection or of the next. Messages that the server sent while there was none are
    /// lost to this client; see [`Event`].
    ///
    /// Cancel-safe, also in a `select!` that is lost again and again: neither a message nor an attempt to connect is lost
    /// with the future.
    ///
    /// # Errors
    /// As [`next`](Reconnecting::next).
    pub async fn read(&mut self) -> Result<Message, DialError> {
        loop {
            let conn = self.connected().await?;
            match conn.read().await {
                Ok(message) => return Ok(message),
                Err(error) => self.lose(&error),
            }
        }
    }

    /// Writes a message, on this connection or on the next.
    ///
    /// One whose connection breaks while it is written is written again on the next, so that the server may see it
    /// twice; one that was written when its connection broke may never have arrived. Where either matters, messages
    /// need numbers and answers. When the future is dropped, the attempt to connect goes on with the next call; the message
    /// is either queued on the connection, whole, or was not taken.
    ///
    /// # Errors
    /// As [`next`](Reconnecting::next).
    pub async fn write(&mut self, message: impl Into<Message>) -> Result<(), DialError> {
        let message = message.into();
        loop {
            let conn = self.connected().await?;
            match conn.write(message.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => self.lose(&error),
            }
        }
    }

    async fn connected(&mut self) -> Result<&mut Conn<ClientStream>, DialError> {
        let conn = self.next().await?;
        Ok(self.conn.insert(conn))
    }

    fn lose(&mut self, error: &Error) {
        self.conn = None;
        tracing::warn!(server = %self.server(), %error, "the connection ended; connecting again");
        (self.hook)(Event::Lost(error));
    }

    /// Host and port, for the log: what else a URL has may be a secret.
    fn server(&self) -> String {
        Url::parse(&self.url).map_or_else(|_| String::new(), |url| url.authority())
    }

    fn count_the_last_connection(&mut self) {
        let Some(opened_at) = self.opened_at.take() else { return };
        if opened_at.elapsed() >= self.settled_after {
            self.begin_anew();
        } else {
            self.plan(random());
        }
    }

    /// As if nothing had been tried yet.
    fn begin_anew(&mut self) {
        (self.attempts, self.wait) = (0, None);
    }

    /// Sets when the attempt after those made may be made, and returns how long that is from now.
    fn plan(&mut self, random: u64) -> Duration {
        let delay = self.backoff.delay(self.attempts, random);
        self.wait = Some(Wait { until: Instant::now() + delay, told: false });
        delay
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

impl fmt::Debug for Reconnecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnecting")
            .field("dialer", &self.dialer)
            .field("attempts", &self.attempts)
            .field("connected", &self.conn.is_some())
            .finish_non_exhaustive()
    }
}

/// How long to wait, given how often it went wrong.
#[derive(Clone, Copy, Debug)]
struct Backoff {
    initial: Duration,
    max: Duration,
    jitter: bool,
}

impl Backoff {
    /// Before the attempt behind `attempts` of them. All 64 bits of `random` count.
    fn delay(&self, attempts: u32, random: u64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let bound = self.initial.saturating_mul(1 << doublings).min(self.max);
        if !self.jitter {
            return bound;
        }
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        // The upper half of the product: from 0 to the bound, evenly.
        Duration::from_nanos(((u128::from(nanos) * u128::from(random)) >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound_and_are_spread_below_it() {
        let backoff =
            Backoff { initial: Duration::from_millis(500), max: Duration::from_secs(5), jitter: false };
        let bounds = [500, 500, 1000, 2000, 4000, 5000, 5000];
        for (attempts, bound) in bounds.into_iter().enumerate() {
            let bound = Duration::from_millis(bound);
            let attempts = attempts as u32;
            assert_eq!(backoff.delay(attempts, u64::MAX / 3), bound);
            let jittered = Backoff { jitter: true, ..backoff };
            assert_eq!(jittered.delay(attempts, 0), Duration::ZERO);
            assert_eq!(jittered.delay(attempts, 1 << 63), bound / 2);
            let most = jittered.delay(attempts, u64::MAX);
            assert!(most < bound && bound - most < Duration::from_micros(1), "{most:?}");
        }
        assert_eq!(backoff.delay(u32::MAX, 1), Duration::from_secs(5));
        let never = Backoff { initial: Duration::MAX, max: Duration::MAX, jitter: true };
        assert!(never.delay(9, u64::MAX) > Duration::from_secs(3600));
    }
}
