//! A client that reconnects.
//!
//! Never: resending what was sent on a failed connection. The program restores its state at the server when it gets
//! [`Event::Connected`].

#![forbid(unsafe_code)]

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::handshake::random;
use super::{ClientStream, Conn, DialError, Dialer, Error, Message};
use crate::limits::{RECONNECT_DELAY, RECONNECT_DELAY_MAX, RECONNECT_SETTLED};
use echoring_proto::Url;

/// A pending attempt.
type Attempt = Pin<Box<dyn Future<Output = Result<Conn<ClientStream>, DialError>> + Send>>;

/// Keeps one connection to a server open: it reconnects whenever the connection ends.
///
/// The first attempt is made at once. Before each further attempt it waits for a random time below a bound that doubles
/// with every failure ("full jitter"), so that the clients of a restarted server do not reconnect at the same time. A
/// connection that lived for 30 seconds resets the attempt counter.
///
/// Reading is cancel-safe: if a future is dropped, the pending attempt or delay continues with the next call. So it can
/// be a branch of `select!`. By default it gives up at the first permanent failure: see
/// [`retry_if`](Reconnecting::retry_if). Retries are logged through `tracing`, and passed to the [event
/// hook](Reconnecting::on_event).
///
/// ```no_run
/// use std::time::Duration;
///
/// use echoring::{Dialer, reconnect::Event};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), echoring::DialError> {
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
    /// Attempts since the last stable connection.
    attempts: u32,
    opened_at: Option<Instant>,
    /// The delay before the next attempt: kept, so that cancelled and repeated calls do not shorten it.
    wait: Option<Wait>,
    /// The pending attempt: kept for the same reason, and so that it completes.
    attempt: Option<Attempt>,
    conn: Option<Conn<ClientStream>>,
}

/// A delay before an attempt.
#[derive(Clone, Copy, Debug)]
struct Wait {
    until: Instant,
    /// The hook was called for it.
    told: bool,
}

/// An event of a reconnecting client.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// An attempt begins. `attempt` counts from 1, again after a stable connection.
    Dialling {
        /// The number of the attempt.
        attempt: u32,
    },
    /// The connection is open.
    Connected,
    /// The attempt failed.
    Failed(&'a DialError),
    /// The next attempt follows after `delay`. Sent once for each delay.
    Waiting {
        /// The delay.
        delay: Duration,
        /// The number of that attempt.
        attempt: u32,
    },
    /// The connection ended, cleanly or not, during a read or write.
    Lost(&'a Error),
}

impl Dialer {
    /// A client that keeps a connection to `url` open.
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
    /// Maximum delay before the second attempt, half a second by default.
    #[must_use]
    pub fn initial_delay(mut self, delay: Duration) -> Reconnecting {
        self.backoff.initial = delay;
        self
    }

    /// Maximum delay before any attempt, 30 seconds by default.
    #[must_use]
    pub fn max_delay(mut self, delay: Duration) -> Reconnecting {
        self.backoff.max = delay;
        self
    }

    /// Whether delays are random below their bound (the default) or equal to it.
    #[must_use]
    pub fn jitter(mut self, jitter: bool) -> Reconnecting {
        self.backoff.jitter = jitter;
        self
    }

    /// Maximum number of attempts in a row, including those whose connection was not stable; the client then returns
    /// the last failure. `None`, the default, for no maximum.
    #[must_use]
    pub fn max_attempts(mut self, attempts: impl Into<Option<u32>>) -> Reconnecting {
        self.attempts_max = attempts.into();
        self
    }

    /// Age of a connection after which its end resets the attempt counter, 30 seconds by default.
    #[must_use]
    pub fn settled_after(mut self, age: Duration) -> Reconnecting {
        self.settled_after = age;
        self
    }

    /// Calls `hook` for each event.
    #[must_use]
    pub fn on_event(mut self, hook: impl FnMut(Event<'_>) + Send + 'static) -> Reconnecting {
        self.hook = Box::new(hook);
        self
    }

    /// Which failures are retried; by default those that [are temporary](DialError::is_temporary), so not an untrusted
    /// certificate or a response other than 101. A client of a server behind a load balancer may want to retry a 503:
    ///
    /// ```
    /// # use echoring::{DialError, Dialer};
    /// let feed = Dialer::new().reconnecting("wss://feed.example/").retry_if(|error: &DialError| {
    ///     error.is_temporary() || error.response().is_some_and(|response| response.status().is_server_error())
    /// });
    /// ```
    #[must_use]
    pub fn retry_if(mut self, retry: impl FnMut(&DialError) -> bool + Send + 'static) -> Reconnecting {
        self.retry = Box::new(retry);
        self
    }

    /// The open connection, if [`read`](Reconnecting::read) or [`write`](Reconnecting::write) opened one.
    pub fn current(&mut self) -> Option<&mut Conn<ClientStream>> {
        self.conn.as_mut()
    }

    /// The next connection, for programs that use it themselves: call this again when it has ended. The
    /// [`current`](Reconnecting::current) connection is given away.
    ///
    /// Cancel-safe: if the future is dropped, the pending attempt or the rest of the delay continues with the next
    /// call. Deadlines continue to run.
    ///
    /// # Errors
    /// The last failure, if there is no further attempt. The next call starts again.
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
            // Nothing is awaited from here on, so the attempt's result cannot be lost.
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
                self.reset();
                return Err(error);
            }
            let delay = self.schedule_attempt(random());
            tracing::warn!(
                server = %self.server(), %error, attempt = self.attempts, retry_in_ms = delay.as_millis() as u64,
                "cannot connect; retrying"
            );
        }
    }

    /// Reads the next message, from this connection or the next. Messages that the server sent in between are lost to
    /// this client; see [`Event`].
    ///
    /// Cancel-safe, also as a repeatedly cancelled branch of `select!`: neither a message nor an attempt is lost.
    ///
    /// # Errors
    /// As [`next`](Reconnecting::next).
    pub async fn read(&mut self) -> Result<Message, DialError> {
        loop {
            let conn = self.connected().await?;
            match conn.read().await {
                Ok(message) => return Ok(message),
                Err(error) => self.handle_end(&error),
            }
        }
    }

    /// Sends a message, on this connection or the next.
    ///
    /// If the connection fails during the write, the message is sent again on the next one, so the server may receive
    /// it twice. A message that was sent shortly before the connection failed may never have arrived. If either
    /// matters, number the messages and acknowledge them. If the future is dropped, the attempt continues with the next
    /// call; the message is either queued whole or was not accepted.
    ///
    /// # Errors
    /// As [`next`](Reconnecting::next).
    pub async fn write(&mut self, message: impl Into<Message>) -> Result<(), DialError> {
        let message = message.into();
        loop {
            let conn = self.connected().await?;
            match conn.write(message.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => self.handle_end(&error),
            }
        }
    }

    async fn connected(&mut self) -> Result<&mut Conn<ClientStream>, DialError> {
        let conn = self.next().await?;
        Ok(self.conn.insert(conn))
    }

    fn handle_end(&mut self, error: &Error) {
        self.conn = None;
        tracing::warn!(server = %self.server(), %error, "the connection ended; reconnecting");
        (self.hook)(Event::Lost(error));
    }

    /// Host and port, for the log: other parts of the URL may be secrets.
    fn server(&self) -> String {
        Url::parse(&self.url).map_or_else(|_| String::new(), |url| url.authority())
    }

    fn count_the_last_connection(&mut self) {
        let Some(opened_at) = self.opened_at.take() else { return };
        if opened_at.elapsed() >= self.settled_after {
            self.reset();
        } else {
            self.schedule_attempt(random());
        }
    }

    /// Resets the attempt counter.
    fn reset(&mut self) {
        (self.attempts, self.wait) = (0, None);
    }

    /// Schedules the next attempt, and returns the delay.
    fn schedule_attempt(&mut self, random: u64) -> Duration {
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

/// The delays between attempts.
#[derive(Clone, Copy, Debug)]
struct Backoff {
    initial: Duration,
    max: Duration,
    jitter: bool,
}

impl Backoff {
    /// The delay after `attempts` attempts. All 64 bits of `random` are used.
    fn delay(&self, attempts: u32, random: u64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let bound = self.initial.saturating_mul(1 << doublings).min(self.max);
        if !self.jitter {
            return bound;
        }
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        // The upper half of the product: uniform from 0 to the bound.
        Duration::from_nanos(((u128::from(nanos) * u128::from(random)) >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_their_bound_and_are_random_below_it() {
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
