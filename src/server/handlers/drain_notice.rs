//! The notice of a drain: [`DrainNotice`], which a handler is given, and its answer.

use std::time::Duration;

use echoring_proto::CloseCode;
use echoring_proto::limits::Nanos;
use echoring_runtime::shard::Goodbye;

/// The server is about to close the connection of a handler, see [`Handler::draining`](crate::Handler::draining).
///
/// ```
/// use echoring::server::{DrainAction, DrainNotice, Handler, Remote, Result};
///
/// struct Game;
///
/// impl Handler for Game {
///     fn draining(&mut self, remote: &mut Remote<'_>, notice: &DrainNotice) -> Result<DrainAction> {
///         remote.send_text(&format!("{}: {} s left", notice.reason(), notice.time_left().as_secs()))?;
///         Ok(DrainAction::Close)
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainNotice {
    now: Nanos,
    close_at: Nanos,
    goodbye: Goodbye,
}

impl DrainNotice {
    pub(crate) fn new(now: Nanos, close_at: Nanos, goodbye: Goodbye) -> DrainNotice {
        DrainNotice { now, close_at: close_at.max(now), goodbye }
    }

    /// When the server closes the connection of a handler that [waits](DrainAction::Wait), on the clock of
    /// [`Remote::now`](crate::Remote::now). It may come earlier if the server is given less time.
    pub fn deadline(&self) -> Nanos {
        self.close_at
    }

    /// The time until then, counted from the call.
    pub fn time_left(&self) -> Duration {
        Duration::from_nanos(self.close_at - self.now)
    }

    /// The close code that the server will use: 1001 (RFC 6455, 7.4.1), or 1012 if another server has taken over its addresses.
    pub fn code(&self) -> CloseCode {
        self.goodbye.code
    }

    pub(crate) fn goodbye(&self) -> Goodbye {
        self.goodbye
    }

    /// The reason in the server's Close frame.
    pub fn reason(&self) -> &'static str {
        self.goodbye.reason
    }
}

/// The server's action after a [`DrainNotice`].
///
/// ```
/// use echoring::server::{DrainAction, DrainNotice, Handler, Remote, Result};
///
/// struct Upload {
///     is_complete: bool,
/// }
///
/// impl Handler for Upload {
///     fn draining(&mut self, _: &mut Remote<'_>, _: &DrainNotice) -> Result<DrainAction> {
///         Ok(if self.is_complete { DrainAction::Close } else { DrainAction::Wait })
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainAction {
    /// It closes the connection, behind the queued messages and those of its subscriptions.
    #[default]
    Close,
    /// It leaves that to the handler until the deadline: the handler continues to be called, and ends with
    /// [`Remote::close`](crate::Remote::close).
    Wait,
}
