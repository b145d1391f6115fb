//! Interactive conversations: received messages appear above the line that is being typed.
//!
//! The line editor blocks, so it has its own thread. Never: a terminal that is left in a changed mode.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, ExternalPrinter};
use tokio::sync::mpsc;

use super::command::{self, Command, HELP};
use super::show::{Style, escaped};
use super::{Options, Outcome, close, pongs};
use crate::common::locked;
use echoring_async::{Conn, Error, Message, Reader, Transport, Writer};
use echoring_proto::CloseCode;

/// Maximum lines of history.
const HISTORY_LINES_MAX: usize = 1_000;

/// Runs an interactive conversation on a terminal.
pub(crate) async fn talk<S: Transport + Send + 'static>(
    mut conn: Conn<S>,
    url: &str,
    options: &Options,
    interrupt: impl Future<Output = ()>,
) -> Outcome {
    let style = options.style;
    let greeting = greeting(url, conn.subprotocol());
    let mut pongs = pongs(&mut conn);
    let control = conn.control();
    let (mut reader, mut writer) = conn.split();
    // The editor may change the terminal's mode from here on; it is restored on the way out.
    let mode = TerminalMode { saved: tcgetattr(io::stdin()).ok(), editor: Arc::default() };
    let mut screen = Screen::default();
    screen.print(style.notice(&greeting));
    let (mut typed, printer) = match edit(options.history.as_deref(), Arc::clone(&mode.editor)) {
        Ok(edited) => edited,
        Err(error) => return Outcome::Broken(Error::Io(io::Error::other(error))),
    };
    screen.printer = Some(printer);
    let mut interrupt = pin!(interrupt);
    let mut pinged: Option<Instant> = None;
    let (code, reason) = loop {
        tokio::select! {
            message = reader.read() => match message {
                Ok(message) => screen.print(style.message(&message, SystemTime::now())),
                Err(error) => return Outcome::of(error, false),
            },
            Some(payload) = pongs.recv() => {
                screen.print(style.notice(&pong(&payload, pinged.take())));
            }
            line = typed.recv() => {
                let Some(line) = line else { break (CloseCode::NORMAL, String::new()) };
                match command::parse(&line, options.binary) {
                    Ok(Command::Nothing) => {}
                    Ok(Command::Help) => screen.print(HELP.to_owned()),
                    Ok(Command::Close(code, reason)) => break (code, reason),
                    Ok(Command::Ping(text)) => {
                        pinged = Some(Instant::now());
                        // Reading reports the end of the connection.
                        let _ = control.ping(text.as_bytes()).await;
                    }
                    Ok(Command::Send(message)) => {
                        if let Err(over) = send(&mut writer, &mut reader, message, &mut screen, style).await {
                            return over;
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

fn greeting(url: &str, subprotocol: Option<&str>) -> String {
    let subprotocol = subprotocol.map(|name| format!(", subprotocol {name}")).unwrap_or_default();
    format!("connected to {}{subprotocol}; /help lists the commands", escaped(url))
}

/// The line about a pong, with its time since the ping.
fn pong(payload: &[u8], pinged: Option<Instant>) -> String {
    let text = escaped(&String::from_utf8_lossy(payload));
    let time = pinged.map(|at| format!(" after {:.1} ms", at.elapsed().as_secs_f64() * 1e3));
    format!("pong {text:?}{}", time.unwrap_or_default())
}

/// Sends a message. Reading continues meanwhile, because the server may wait for us to read.
async fn send<S: Transport>(
    writer: &mut Writer<S>,
    reader: &mut Reader<S>,
    message: Message,
    screen: &mut Screen,
    style: Style,
) -> Result<(), Outcome> {
    let mut writing = pin!(writer.write(message));
    loop {
        tokio::select! {
            written = &mut writing => {
                // Reading reports the end of the connection.
                if let Err(error @ (Error::TooLong | Error::OutOfMemory)) = written {
                    screen.print(style.notice(&error.to_string()));
                }
                return Ok(());
            }
            message = reader.read() => match message {
                Ok(message) => screen.print(style.message(&message, SystemTime::now())),
                Err(error) => return Err(Outcome::of(error, false)),
            },
        }
    }
}

/// Prints above the line being typed while there is one, otherwise to stdout.
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

/// The typed lines until the end (Ctrl-D) or an interrupt (Ctrl-C), and the printer for lines above them.
type Editing = (mpsc::Receiver<String>, Box<dyn ExternalPrinter>);

fn edit(history: Option<&Path>, state: Arc<Mutex<EditorState>>) -> rustyline::Result<Editing> {
    let config =
        rustyline::Config::builder().max_history_size(HISTORY_LINES_MAX)?.auto_add_history(false).build();
    let mut editor = DefaultEditor::with_config(config)?;
    let printer = Box::new(editor.create_external_printer()?);
    let history = history.map(Path::to_owned);
    if let Some(file) = &history {
        if let Some(folder) = file.parent() {
            let _ = fs::create_dir_all(folder);
        }
        // There is usually none yet.
        let _ = editor.load_history(file);
    }
    let (lines, typed) = mpsc::channel(1);
    thread::spawn(move || {
        while begin_line(&state) {
            let line = editor.readline("> ");
            locked(&state).is_editing = false;
            match line {
                Ok(line) => {
                    if !line.is_empty()
                        && editor.add_history_entry(&line).unwrap_or(false)
                        && let Some(file) = &history
                    {
                        // The conversation continues without a history that cannot be saved.
                        let _ = editor.append_history(file);
                    }
                    if lines.blocking_send(line).is_err() {
                        return;
                    }
                }
                // The window was resized.
                Err(ReadlineError::Signal(_)) => {}
                Err(_) => return,
            }
        }
    });
    Ok((typed, printer))
}

/// The state of the line editor's thread.
#[derive(Debug, Default)]
struct EditorState {
    /// It edits a line, or is about to: the terminal is, or will soon be, in raw mode.
    is_editing: bool,
    /// The conversation is over, so that no further line is begun.
    is_over: bool,
}

/// Begins a line, unless the conversation is over.
fn begin_line(state: &Mutex<EditorState>) -> bool {
    let mut state = locked(state);
    state.is_editing = !state.is_over;
    state.is_editing
}

/// Maximum time from the beginning of a line to the raw mode of the terminal. A terminal that the editor does not support has
/// no raw mode.
const RAW_MODE_TIMEOUT: Duration = Duration::from_secs(1);
/// Terminals that the line editor does not support.
const UNSUPPORTED: [&str; 3] = ["dumb", "cons25", "emacs"];

/// Restores the terminal's mode on drop.
struct TerminalMode {
    saved: Option<Termios>,
    editor: Arc<Mutex<EditorState>>,
}

impl TerminalMode {
    /// Keeps the editor from changing the mode from now on. A line that it has begun may not be in raw mode yet.
    fn stop_editor(&self) {
        locked(&self.editor).is_over = true;
        let term = std::env::var("TERM").unwrap_or_default();
        let until = Instant::now() + RAW_MODE_TIMEOUT;
        while locked(&self.editor).is_editing
            && !is_raw()
            && !UNSUPPORTED.iter().any(|name| term.eq_ignore_ascii_case(name))
            && Instant::now() < until
        {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn is_raw() -> bool {
    tcgetattr(io::stdin()).is_ok_and(|mode| !mode.local_modes.contains(LocalModes::ICANON))
}

impl Drop for TerminalMode {
    fn drop(&mut self) {
        if let Some(mode) = &self.saved {
            self.stop_editor();
            // The line that was being typed stays.
            let _ = writeln!(io::stdout());
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, mode);
        }
    }
}
