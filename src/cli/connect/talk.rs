//! The conversation of `echoring connect`, once its connection is open: interactive at a terminal, or lines through
//! pipes.
//!
//! Everything that the server sends is data: a terminal shows its control characters instead of obeying them. Never:
//! parsing flags, or opening connections.

#![forbid(unsafe_code)]

mod command;
pub(super) mod pipe;
mod show;
pub(super) mod terminal;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use echoring_async::{Conn, Control, ControlReply, Error, Reader, Transport};
use echoring_proto::CloseCode;
pub use show::Style;
pub(crate) use show::escaped;

/// Options of a conversation.
#[derive(Clone, Debug)]
pub struct Options {
    /// Input is hexadecimal and sent as binary messages.
    pub binary: bool,
    /// How messages are shown.
    pub style: Style,
    /// When to close after the last line of a pipe.
    pub wait: Wait,
    /// The history file of the terminal; `None` for no history.
    pub history: Option<PathBuf>,
}

/// When a conversation through pipes ends after everything was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Once as many messages have arrived as were sent, or none for this long.
    Answers(Duration),
    /// Once no message has arrived for this long.
    Silence(Duration),
    /// Once this many messages have arrived, whether everything was sent or not; at the latest when none has arrived
    /// for this long after the last line.
    Count(u64, Option<Duration>),
}

/// How a conversation ended.
#[derive(Debug)]
pub enum Outcome {
    /// A closing handshake with this code and reason of the server (its answer, if we closed first).
    Closed {
        /// 1005 if the server gave none.
        code: CloseCode,
        /// Possibly empty.
        reason: String,
        /// Whether the server answered our Close frame.
        by_us: bool,
    },
    /// A connection error.
    Broken(Error),
    /// A line of input that cannot be sent: its number, and the reason.
    BadInput(u64, String),
    /// The server or a timeout ended it before the expected number of messages arrived.
    TooFew {
        /// Messages that arrived.
        received: u64,
        /// Messages that were expected.
        wanted: u64,
    },
}

impl Outcome {
    fn of(error: Error, by_us: bool) -> Outcome {
        match error {
            Error::Closed(frame) => Outcome::Closed { code: frame.code, reason: frame.reason, by_us },
            error => Outcome::Broken(error),
        }
    }

    /// Whether it ended as expected: we closed and were answered, or the server closed with 1000, 1001 or no code.
    pub fn is_clean(&self) -> bool {
        const CLEAN: [CloseCode; 3] = [CloseCode::NORMAL, CloseCode::GOING_AWAY, CloseCode::NO_STATUS];
        match self {
            Outcome::Closed { code, by_us, .. } => *by_us || CLEAN.contains(code),
            Outcome::Broken(_) | Outcome::BadInput(..) | Outcome::TooFew { .. } => false,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Closed { code, reason, by_us } => {
                f.write_str(if *by_us { "closed" } else { "closed by the server" })?;
                match *code {
                    CloseCode::NO_STATUS => f.write_str(" without a code")?,
                    code => write!(f, ": {code}")?,
                }
                if reason.is_empty() { Ok(()) } else { write!(f, " {}", show::escaped(reason)) }
            }
            Outcome::Broken(error) => write!(f, "{error}"),
            Outcome::BadInput(line, why) => write!(f, "line {line} of the input cannot be sent: {why}"),
            Outcome::TooFew { received, wanted } => {
                write!(f, "received {received} of {wanted} expected messages")
            }
        }
    }
}

/// Maximum unread pongs; further ones are not shown.
const PONGS_MAX: usize = 16;

/// The payloads of received pongs.
fn pongs<S: Transport>(conn: &mut Conn<S>) -> mpsc::Receiver<Vec<u8>> {
    let (shown, pongs) = mpsc::channel(PONGS_MAX);
    conn.set_pong_handler(move |payload| {
        let _ = shown.try_send(payload.to_vec());
        ControlReply::Default
    });
    pongs
}

/// Closes, and reads until the server has answered; messages that arrive meanwhile are passed to `show`.
async fn close<S: Transport>(
    control: &Control<S>,
    reader: &mut Reader<S>,
    code: CloseCode,
    reason: &str,
    mut show: impl FnMut(&echoring_async::Message),
) -> Outcome {
    // Fails only if the connection has ended, which reading reports better.
    let _ = control.close(code, reason).await;
    loop {
        match reader.read().await {
            Ok(message) => show(&message),
            Err(error) => return Outcome::of(error, true),
        }
    }
}

#[cfg(test)]
mod tests;
