//! Conversations through pipes: lines of stdin are sent as messages, received messages are written to stdout as lines.
//!
//! Never: more than a few lines in memory, or a message that is dropped because the reader of stdout is slow.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io::{self, BufRead as _, Write as _};
use std::pin::pin;
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Options, Outcome, Wait, close, command};
use echoring_async::{Conn, Message, Transport, Writer};
use echoring_proto::CloseCode;

/// Maximum lines that are read ahead of the server.
const LINES_AHEAD: usize = 16;

/// Sends the lines of stdin, and writes received messages to stdout, one line each.
pub(crate) async fn talk<S: Transport + Send + 'static>(
    conn: Conn<S>,
    options: &Options,
    interrupt: impl Future<Output = ()>,
) -> Outcome {
    let control = conn.control();
    let (mut reader, writer) = conn.split();
    let lines = read_lines();
    let sent = Cell::new(0_u64);
    let mut received = 0_u64;
    let mut writing = pin!(send_lines(writer, lines, options.binary, &sent));
    let mut interrupt = pin!(interrupt);
    // After everything was sent: since when no message has arrived.
    let mut quiet_since: Option<Instant> = None;
    let show = |message: &Message| print_line(&options.style.message(message, SystemTime::now()));
    let mut bad_input = None;
    loop {
        if is_enough(options.wait, quiet_since.is_some(), sent.get(), received) {
            break;
        }
        tokio::select! {
            result = &mut writing, if quiet_since.is_none() => {
                bad_input = result.err();
                if bad_input.is_some() {
                    break;
                }
                quiet_since = Some(Instant::now());
            }
            message = reader.read() => match message {
                Ok(message) => {
                    received += 1;
                    quiet_since = quiet_since.map(|_| Instant::now());
                    if show(&message).is_err() {
                        // The reader of stdout has ended, as with `head`: that is the script's choice.
                        break;
                    }
                }
                Err(error) => return ended(Outcome::of(error, false), options.wait, received),
            },
            () = silence(quiet_since, options.wait) => break,
            () = &mut interrupt => break,
        }
    }
    let outcome = close(&control, &mut reader, CloseCode::NORMAL, "", |message| {
        // Messages after the expected number are not shown.
        if !matches!(options.wait, Wait::Count(..)) {
            let _ = show(message);
        }
    })
    .await;
    match bad_input {
        Some((line, why)) => Outcome::BadInput(line, why),
        None => ended(outcome, options.wait, received),
    }
}

/// Too few messages are a failure, unless there is a worse one.
fn ended(outcome: Outcome, wait: Wait, received: u64) -> Outcome {
    match wait {
        Wait::Count(wanted, _) if received < wanted && outcome.is_clean() => {
            Outcome::TooFew { received, wanted }
        }
        _ => outcome,
    }
}

fn is_enough(wait: Wait, all_sent: bool, sent: u64, received: u64) -> bool {
    match wait {
        Wait::Answers(_) => all_sent && received >= sent,
        Wait::Silence(_) => false,
        Wait::Count(count, _) => received >= count,
    }
}

/// Resolves once nothing has arrived for the waiting time.
async fn silence(since: Option<Instant>, wait: Wait) {
    let patience: Option<Duration> = match wait {
        Wait::Answers(patience) | Wait::Silence(patience) => Some(patience),
        Wait::Count(_, patience) => patience,
    };
    match since.zip(patience) {
        Some((since, patience)) => sleep_until(since + patience).await,
        None => std::future::pending().await,
    }
}

/// Sends line by line. The error is a line that cannot be sent; reading reports the end of the connection.
async fn send_lines<S: Transport>(
    mut writer: Writer<S>,
    mut lines: mpsc::Receiver<io::Result<Vec<u8>>>,
    binary: bool,
    sent: &Cell<u64>,
) -> Result<(), (u64, String)> {
    let mut number = 0;
    while let Some(line) = lines.recv().await {
        number += 1;
        let line = line.map_err(|error| (number, error.to_string()))?;
        let message = message_of(line, binary).map_err(|why| (number, why))?;
        sent.set(sent.get() + 1);
        if writer.write(message).await.is_err() {
            // Nothing more can be sent; the server's remaining messages are read elsewhere.
            return std::future::pending().await;
        }
    }
    Ok(())
}

fn message_of(line: Vec<u8>, binary: bool) -> Result<Message, String> {
    let text = String::from_utf8(line)
        .map_err(|_| "it is not UTF-8; --binary takes hexadecimal digits".to_owned())?;
    if binary { command::bytes(&text).map(Message::from) } else { Ok(Message::from(text)) }
}

/// Reads the lines of stdin, without line ends, on a separate thread: that is the only way to wait for both stdin,
/// which may be a file, and a connection.
fn read_lines() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (lines, receiver) = mpsc::channel(LINES_AHEAD);
    thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            match stdin.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => {
                    if line.ends_with(b"\n") {
                        line.pop();
                    }
                    if line.ends_with(b"\r") {
                        line.pop();
                    }
                    if lines.blocking_send(Ok(line)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let _ = lines.blocking_send(Err(error));
                    return;
                }
            }
        }
    });
    receiver
}

/// Writes and flushes a line, because a script may wait for it.
fn print_line(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}
