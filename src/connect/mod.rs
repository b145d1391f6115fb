//! `echoring connect` once its connection is open: a person at a terminal, or a script at two pipes, talks to a
//! server.
//!
//! Whatever the server sends is data: on a terminal its control characters are shown and not obeyed. Never: parsing
//! flags, or opening connections.

#![forbid(unsafe_code)]

mod command;
mod pipe;
mod show;
mod terminal;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::aio::{Conn, Control, ControlReply, Error, Reader};
use crate::protocol::CloseCode;
pub use show::Style;

/// How to talk.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is typed is hexadecimal and sent as binary messages.
    pub binary: bool,
    /// How messages are shown.
    pub style: Style,
    /// When to close after the last line of a pipe.
    pub wait: Wait,
    /// Where lines typed at a terminal are kept; `None` for nowhere.
    pub history: Option<PathBuf>,
}

/// When a conversation by pipe is over once there is nothing more to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// When as many messages have come as were sent, or none for so long.
    Answers(Duration),
    /// When no message has come for so long.
    Silence(Duration),
    /// When so many messages have come, be there more to send or not; at the latest when none has come for so long
    /// after the last line.
    Count(u64, Option<Duration>),
}

/// How a conversation ended.
#[derive(Debug)]
pub enum Outcome {
    /// By a closing handshake with this code and reason of the server (its answer, where we began).
    Closed {
        /// 1005 where the server gave none.
        code: CloseCode,
        /// Perhaps empty.
        reason: String,
        /// The server answered our Close.
        by_us: bool,
    },
    /// In another way.
    Broken(Error),
    /// By a line of input that cannot be sent: its number, and why.
    BadInput(u64, String),
    /// By the server or a timeout before as many messages came as were wanted.
    TooFew {
        /// That came.
        received: u64,
        /// That were wanted.
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

    /// Whether all went as it should: we closed and were answered, or the server closed with 1000, 1001 or no code.
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
                write!(f, "{received} messages came, and {wanted} were to come")
            }
        }
    }
}

/// Talks with a person at the terminal that stdin and stdout are.
pub async fn at_terminal<S>(
    conn: Conn<S>,
    url: &str,
    options: &Options,
    interrupt: impl Future<Output = ()>,
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    terminal::talk(conn, url, options, interrupt).await
}

/// Sends the lines of stdin, and writes what comes to stdout, a line each.
pub async fn by_pipe<S>(conn: Conn<S>, options: &Options, interrupt: impl Future<Output = ()>) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    pipe::talk(conn, options, interrupt).await
}

/// Pongs that nobody has looked at yet; further ones are not shown.
const PONGS_MAX: usize = 16;

/// The payloads of the pongs that come.
fn pongs<S>(conn: &mut Conn<S>) -> mpsc::Receiver<Vec<u8>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (shown, pongs) = mpsc::channel(PONGS_MAX);
    conn.set_pong_handler(move |payload| {
        let _ = shown.try_send(payload.to_vec());
        ControlReply::Default
    });
    pongs
}

/// Closes, and reads on until the server has answered; messages that come meanwhile go to `show`.
async fn close<S>(
    control: &Control<S>,
    reader: &mut Reader<S>,
    code: CloseCode,
    reason: &str,
    mut show: impl FnMut(&crate::aio::Message),
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Fails only when the connection is over, which reading tells better.
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
