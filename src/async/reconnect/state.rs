//! What a reconnecting client does: its state, and the events between two states.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::failure::{Failure, GaveUp};
use crate::Error;

/// An event of a reconnecting client.
///
/// ```
/// use echoring::Dialer;
/// use echoring::reconnect::Event;
///
/// let feed = Dialer::new().reconnecting("wss://live.example/").on_event(|event| match event {
///     Event::Lost(error) => eprintln!("offline: {error}"),
///     // Such as "connecting, attempt 2", and "attempt 3 follows in 0.8 s".
///     event => println!("{event}"),
/// });
/// # drop(feed);
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// An attempt begins. `attempt` counts from 1, again after a stable connection.
    Dialling {
        /// The number of the attempt.
        attempt: u32,
    },
    /// The connection is open, and the callback of [`on_open`](super::Reconnecting::on_open) has succeeded.
    Connected,
    /// The attempt failed.
    Failed(&'a Failure),
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

/// The state of a reconnecting client.
///
/// ```
/// use echoring::Dialer;
/// use echoring::reconnect::State;
///
/// let feed = Dialer::new().reconnecting("wss://live.example/");
/// assert!(matches!(feed.state(), State::Idle));
/// println!("{}", feed.state()); // such as "connected", or "attempt 3 follows in 0.8 s"
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum State {
    /// Nothing was asked for yet.
    Idle,
    /// An attempt is in progress, or the callback of [`on_open`](super::Reconnecting::on_open).
    Connecting {
        /// The number of the attempt, from 1, again after a stable connection.
        attempt: u32,
    },
    /// The connection is open, as of the last read or write.
    Open,
    /// The next attempt begins at `until`, or with the next call after it.
    Waiting {
        /// When the attempt begins.
        until: Instant,
        /// The number of that attempt.
        attempt: u32,
    },
    /// There is no further attempt.
    Failed(GaveUp),
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Dialling { attempt } => write!(f, "connecting, attempt {attempt}"),
            Event::Connected => f.write_str("connected"),
            Event::Failed(failure) => write!(f, "the attempt failed: {failure}"),
            Event::Waiting { delay, attempt } => {
                write!(f, "attempt {attempt} follows in {:.1} s", delay.as_secs_f64())
            }
            Event::Lost(error) => write!(f, "the connection ended: {error}"),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Idle => f.write_str("idle"),
            State::Connecting { attempt } => write!(f, "connecting, attempt {attempt}"),
            State::Open => f.write_str("connected"),
            State::Waiting { until, attempt } => {
                let delay = until.saturating_duration_since(Instant::now());
                write!(f, "attempt {attempt} follows in {:.1} s", delay.as_secs_f64())
            }
            State::Failed(gave_up) => write!(f, "{gave_up}: {}", gave_up.failure()),
        }
    }
}
