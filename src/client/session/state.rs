//! The current state of a client, for programs that show it or wait for it.

use std::fmt;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::ClientError;
use echoring_async::reconnect;

/// The program's callback.
pub(crate) type Hook = Box<dyn FnMut(&State) + Send>;

/// The state of a client.
///
/// ```
/// use echoring::client::{Client, State};
///
/// async fn show(client: &Client) {
///     let mut states = client.watch();
///     while states.changed().await.is_ok() {
///         match &*states.borrow_and_update() {
///             State::Failed(error) => eprintln!("{error}"),
///             // Such as "connecting, attempt 2", or "attempt 3 follows in 0.8 s".
///             state => println!("{state}"),
///         }
///     }
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum State {
    /// An attempt is in progress: a token is fetched, a connection opened, or a session begun.
    Connecting {
        /// The number of the attempt, from 1, again after a stable connection.
        attempt: u32,
    },
    /// The session is open.
    Open,
    /// The next attempt begins at `until`.
    Waiting {
        /// When the attempt begins.
        until: Instant,
        /// The number of that attempt.
        attempt: u32,
    },
    /// The program has closed the client, or dropped it.
    Closed,
    /// There is no connection and no further attempt.
    Failed(ClientError),
}

impl State {
    /// Whether the client has ended.
    pub fn is_final(&self) -> bool {
        matches!(self, State::Closed | State::Failed(_))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Connecting { attempt } => reconnect::State::Connecting { attempt: *attempt }.fmt(f),
            State::Open => reconnect::State::Open.fmt(f),
            State::Waiting { until, attempt } => {
                reconnect::State::Waiting { until: *until, attempt: *attempt }.fmt(f)
            }
            State::Closed => f.write_str("closed"),
            State::Failed(error) => error.fmt(f),
        }
    }
}

/// Tells the program each state.
pub(crate) struct States {
    sender: watch::Sender<State>,
    hook: Option<Hook>,
}

impl States {
    pub(crate) fn new(hook: Option<Hook>) -> States {
        States { sender: watch::Sender::new(State::Connecting { attempt: 1 }), hook }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.sender.subscribe()
    }

    pub(crate) fn set(&mut self, state: State) {
        // First, so that whoever waits for the state finds that the program was told.
        if let Some(hook) = &mut self.hook {
            hook(&state);
        }
        self.sender.send_replace(state);
    }

    /// Passes on the state of the connection. The session's state is the task's to set.
    pub(crate) fn follow(&mut self, connection: &reconnect::State) {
        match *connection {
            reconnect::State::Connecting { attempt } => self.set(State::Connecting { attempt }),
            reconnect::State::Waiting { until, attempt } => self.set(State::Waiting { until, attempt }),
            _ => {}
        }
    }
}

/// The task was dropped with its runtime, or has panicked.
impl Drop for States {
    fn drop(&mut self) {
        self.sender.send_if_modified(|state| {
            let ends = !state.is_final();
            if ends {
                *state = State::Closed;
            }
            ends
        });
    }
}
