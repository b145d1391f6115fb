//! Settings of a reconnecting client.

#![forbid(unsafe_code)]

use std::future::Future;
use std::time::Duration;

use super::backoff::Backoff;
use super::{BoxError, Event, Failure, Reconnecting};
use crate::Conn;

impl<S> Reconnecting<S> {
    /// Maximum delay before the second attempt, and before the first one after a stable connection; half a second by
    /// default.
    pub fn initial_delay(self, delay: Duration) -> Reconnecting<S> {
        Reconnecting { backoff: Backoff { initial: delay, ..self.backoff }, ..self }
    }

    /// Maximum delay before any attempt, 30 seconds by default.
    pub fn max_delay(self, delay: Duration) -> Reconnecting<S> {
        Reconnecting { backoff: Backoff { max: delay, ..self.backoff }, ..self }
    }

    /// Whether delays are random below their bound (the default) or equal to it.
    pub fn jitter(self, jitter: bool) -> Reconnecting<S> {
        Reconnecting { backoff: Backoff { jitter, ..self.backoff }, ..self }
    }

    /// Maximum number of attempts in a row, including those whose connection was not stable; then the client gives up.
    /// `None`, the default, for no maximum.
    pub fn max_attempts(self, attempts: impl Into<Option<u32>>) -> Reconnecting<S> {
        Reconnecting { attempts_max: attempts.into(), ..self }
    }

    /// Maximum time without a stable connection: attempts and delays since the first attempt, or since the last
    /// [stable](Reconnecting::settled_after) connection ended. Time with a connection does not count. A pending attempt is
    /// cancelled at the limit, and a delay that would end after it does not begin: the client gives up, which may be a
    /// [`max_delay`](Reconnecting::max_delay) before the limit. `None`, the default, for no limit.
    pub fn give_up_after(self, limit: impl Into<Option<Duration>>) -> Reconnecting<S> {
        Reconnecting { give_up_after: limit.into(), ..self }
    }

    /// Age from which a connection is stable, ten seconds by default: its end resets the attempt counter, the delays and the
    /// time of [`give_up_after`](Reconnecting::give_up_after). The next attempt follows within the
    /// [`initial_delay`](Reconnecting::initial_delay).
    pub fn settled_after(self, age: Duration) -> Reconnecting<S> {
        Reconnecting { settled_after: age, ..self }
    }

    /// Calls `restore` with each connection that was opened, before anything is read from or written to it: to log in
    /// and to subscribe again, from the position that was reached. If it fails, or takes more than 45 seconds, the
    /// attempt has failed. A Close frame of the server counts as [everywhere else](Failure::is_temporary).
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    ///
    /// use echoring::Dialer;
    ///
    /// let position = Arc::new(Mutex::new(0_u64)); // set by whoever reads the messages
    /// let feed = Dialer::new().reconnecting("wss://feed.example/").on_open(move |mut conn| {
    ///     let position = *position.lock().unwrap();
    ///     async move {
    ///         conn.write(format!("subscribe prices after {position}")).await?;
    ///         match conn.read().await? {
    ///             answer if answer == "ok".into() => Ok(conn),
    ///             answer => Err(format!("not subscribed: {answer:?}").into()),
    ///         }
    ///     }
    /// });
    /// # drop(feed);
    /// ```
    pub fn on_open<F>(mut self, mut restore: impl FnMut(Conn<S>) -> F + Send + 'static) -> Reconnecting<S>
    where
        F: Future<Output = Result<Conn<S>, BoxError>> + Send + 'static,
    {
        self.on_open = Some(Box::new(move |conn| Box::pin(restore(conn))));
        self
    }

    /// Calls `hook` for each event.
    pub fn on_event(self, hook: impl FnMut(Event<'_>) + Send + 'static) -> Reconnecting<S> {
        Reconnecting { hook: Box::new(hook), ..self }
    }

    /// Which failures are retried; by default those that [are temporary](Failure::is_temporary), so neither an untrusted
    /// certificate, nor a 401, nor a close with 1008. A client of a server whose addresses come and go with its
    /// deployments may want to retry a 404:
    ///
    /// ```
    /// # use echoring::{DialError, Dialer};
    /// let feed = Dialer::new().reconnecting("wss://feed.example/").retry_if(|failure| {
    ///     let response = failure.dial().and_then(DialError::response);
    ///     failure.is_temporary() || response.is_some_and(|response| response.status() == 404)
    /// });
    /// ```
    pub fn retry_if(self, retry: impl FnMut(&Failure) -> bool + Send + 'static) -> Reconnecting<S> {
        Reconnecting { retry: Box::new(retry), ..self }
    }
}
