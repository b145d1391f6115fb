//! A person types, and sees what comes above the line that is being typed.
//!
//! The line editor has a thread of its own, for it blocks. Never: a terminal left in another mode than it was found
//! in.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::pin::pin;
use std::thread;
use std::time::{Instant, SystemTime};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, ExternalPrinter};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::command::{self, Command, HELP};
use super::show::escaped;
use super::{Options, Outcome, close, pongs};
use crate::aio::{Conn, Error};
use crate::protocol::CloseCode;

/// Lines of history kept.
const HISTORY_LINES_MAX: usize = 1_000;

/// See [`at_terminal`](super::at_terminal).
pub(super) async fn talk<S>(
    mut conn: Conn<S>,
    url: &str,
    options: &Options,
    interrupt: impl Future<Output = ()>,
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let style = options.style;
    let subprotocol = conn.subprotocol().map(str::to_owned);
    let mut pongs = pongs(&mut conn);
    let control = conn.control();
    let (mut reader, mut writer) = conn.split();
    // From here on the editor may change the terminal's mode; on the way out it is put back.
    let _mode = Mode::keep();
    let mut screen = Screen::default();
    let mut connected = format!("connected to {}", escaped(url));
    if let Some(name) = subprotocol {
        connected += &format!(", subprotocol {name}");
    }
    screen.print(style.notice(&format!("{connected}; /help lists the commands")));
    let mut typed = match edit(options.history.as_deref()) {
        Ok((typed, printer)) => {
            screen.printer = Some(printer);
            typed
        }
        Err(error) => return Outcome::Broken(Error::Io(io::Error::other(error))),
    };
    let mut interrupt = pin!(interrupt);
    let mut pinged: Option<Instant> = None;
    let (code, reason) = loop {
        tokio::select! {
            message = reader.read() => match message {
                Ok(message) => screen.print(style.message(&message, SystemTime::now())),
                Err(error) => return Outcome::of(error, false),
            },
            Some(payload) = pongs.recv() => {
                let text = escaped(&String::from_utf8_lossy(&payload));
                let time = pinged.take().map(|at| format!(" after {:.1} ms", at.elapsed().as_secs_f64() * 1e3));
                screen.print(style.notice(&format!("pong {text:?}{}", time.unwrap_or_default())));
            }
            line = typed.recv() => {
                let Some(line) = line else { break (CloseCode::NORMAL, String::new()) };
                match command::parse(&line, options.binary) {
                    Ok(Command::Nothing) => {}
                    Ok(Command::Help) => screen.print(HELP.to_owned()),
                    Ok(Command::Close(code, reason)) => break (code, reason),
                    Ok(Command::Ping(text)) => {
                        pinged = Some(Instant::now());
                        // That the connection is over, reading tells.
                        let _ = control.ping(text.as_bytes()).await;
                    }
                    // Reading goes on while the server does not take it: it may be waiting for us to read.
                    Ok(Command::Send(message)) => {
                        let mut writing = pin!(writer.write(message));
                        loop {
                            tokio::select! {
                                written = &mut writing => {
                                    if let Err(error @ (Error::TooLong | Error::Unfinished)) = written {
                                        screen.print(style.notice(&error.to_string()));
                                    }
                                    break;
                                }
                                message = reader.read() => match message {
                                    Ok(message) => screen.print(style.message(&message, SystemTime::now())),
                                    Err(error) => return Outcome::of(error, false),
                                },
                            }
                        }
                    }
                    Err(why) => screen.print(style.notice(&why)),
                }
            }
            () = &mut interrupt => break (CloseCode::NORMAL, String::new()),
        }
    };
    close(&control, &mut reader, code, &reason, |message| {
        screen.print(style.message(message, SystemTime::now()));
    })
    .await
}

/// Where lines go: above the line being typed while there is one, else to stdout.
#[derive(Default)]
struct Screen {
    printer: Option<Box<dyn ExternalPrinter>>,
}

impl Screen {
    fn print(&mut self, mut text: String) {
        text.push('\n');
        let printed = self.printer.as_mut().is_some_and(|printer| printer.print(text.clone()).is_ok());
        if !printed {
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        }
    }
}

/// The lines typed until the end (Ctrl-D) or an interrupt (Ctrl-C), and what prints above them.
type Editing = (mpsc::Receiver<String>, Box<dyn ExternalPrinter>);

fn edit(history: Option<&Path>) -> rustyline::Result<Editing> {
    let config =
        rustyline::Config::builder().max_history_size(HISTORY_LINES_MAX)?.auto_add_history(false).build();
    let mut editor = DefaultEditor::with_config(config)?;
    let printer = Box::new(editor.create_external_printer()?);
    let history = history.map(Path::to_owned);
    if let Some(file) = &history {
        if let Some(folder) = file.parent() {
            let _ = fs::create_dir_all(folder);
        }
        // None yet is usual.
        let _ = editor.load_history(file);
    }
    let (lines, typed) = mpsc::channel(1);
    thread::spawn(move || {
        loop {
            match editor.readline("> ") {
                Ok(line) => {
                    if !line.is_empty()
                        && editor.add_history_entry(&line).unwrap_or(false)
                        && let Some(file) = &history
                    {
                        // A history that cannot be kept is no reason to stop talking.
                        let _ = editor.append_history(file);
                    }
                    if lines.blocking_send(line).is_err() {
                        return;
                    }
                }
                // A window that changed its size.
                Err(ReadlineError::Signal(_)) => {}
                Err(_) => return,
            }
        }
    });
    Ok((typed, printer))
}

/// The terminal's mode as it was found, put back when this goes out of scope.
struct Mode(Option<Termios>);

impl Mode {
    fn keep() -> Mode {
        Mode(tcgetattr(io::stdin()).ok())
    }
}

impl Drop for Mode {
    fn drop(&mut self) {
        if let Some(mode) = &self.0 {
            // The line that was being typed stays where it is.
            println!();
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, mode);
        }
    }
}
