//! The log of the program: records of `tracing`, written to stderr, a file or the journal by a separate thread. The access
//! log (`access`) has another one.
//!
//! A caller only appends to a bounded queue. A record that does not fit is dropped and counted
//! ([`LogCounters`](echoring_runtime::stats::LogCounters)); the log reports the number of dropped records once it can
//! be written again. Records of one cause are limited per second (`rate`), and fields have a maximum length (`fields`).
//!
//! Never: blocking, failing or panicking in a caller, whatever happens to stderr, a disk or the journal.

#![forbid(unsafe_code)]

mod access;
mod fields;
mod format;
mod queue;
mod rate;
mod target;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::panic::PanicHookInfo;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use echoring_runtime::panics::panic_message;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::common::locked;
use crate::limits::LOG_FLUSH_TIMEOUT;
use echoring_runtime::shard::WriteAccess;
use fields::Fields;
pub(crate) use format::Form;
use format::Format;
use queue::Queue;
use rate::RateLimit;
use target::Target;

/// Where a log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The process's stderr; the journal if stderr is connected to it and the form is text.
    Stderr,
    /// The process's stdout.
    Stdout,
    /// The end of a file.
    File(PathBuf),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Stderr => f.write_str("stderr"),
            Destination::Stdout => f.write_str("stdout"),
            Destination::File(path) => path.display().fmt(f),
        }
    }
}

impl Destination {
    fn open(&self) -> io::Result<Target> {
        match self {
            Destination::Stderr => Target::stderr(),
            Destination::Stdout => Target::stdout(),
            Destination::File(path) => Target::file(path),
        }
    }
}

/// Starts the log, with the records that `filter` accepts, which was written as `word`; in colour only at a terminal. Panics are logged from now on
/// like other records.
///
/// # Errors
/// If the file cannot be opened, the thread cannot be started, or the process has a log already.
pub(crate) fn start(filter: EnvFilter, word: &str, destination: &Destination, form: Form) -> io::Result<()> {
    let journal = match (destination, form) {
        (Destination::Stderr, Form::Text) => Target::journal(),
        _ => None,
    };
    let colours = *destination == Destination::Stderr
        && io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (target, form) = match journal {
        Some(journal) => (journal, Form::Journal),
        None => (destination.open()?, form),
    };
    let queue = Queue::start(target, form)?;
    let records = tracing_subscriber::fmt::layer()
        .with_writer(queue)
        .with_ansi(colours)
        .fmt_fields(Fields)
        .event_format(Format(form))
        // The default handler complains on stderr about a failed write, and panics if that fails too.
        .log_internal_errors(false);
    let (filter, handle) = reload::Layer::new(filter);
    // A process that has a log already has a level, too.
    let _ = LEVEL.set(Level { handle, filter: Mutex::new(word.to_owned()) });
    tracing_subscriber::registry()
        .with(filter)
        .with(RateLimit)
        .with(records)
        .try_init()
        .map_err(io::Error::other)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// The filter of the log, which can be exchanged.
struct Level {
    handle: reload::Handle<EnvFilter, Registry>,
    /// As it was written.
    filter: Mutex<String>,
}

static LEVEL: OnceLock<Level> = OnceLock::new();

/// The filter of the log; empty without a log.
pub(crate) fn level() -> String {
    let filter = LEVEL.get().map(|level| &level.filter);
    filter.map(|filter| locked(filter).clone()).unwrap_or_default()
}

/// Filters records by `filter` from now on, which was written as `word`.
///
/// # Errors
/// If there is no log.
pub(crate) fn set_level(filter: EnvFilter, word: String) -> Result<(), String> {
    let Some(level) = LEVEL.get() else { return Err("there is no log".to_owned()) };
    let mut now = locked(&level.filter);
    level.handle.reload(filter).map_err(|error| error.to_string())?;
    *now = word;
    Ok(())
}

/// Prints a line on stderr after all records, and waits until it is written, but not for long: an unread stderr must
/// not keep a process from exiting.
pub(crate) fn print_last(line: &str) {
    match queue::form() {
        Some(form) => {
            if queue::append(form.line(line)) {
                flush();
            }
        }
        // A closed stderr must not turn an exit code into a panic.
        None => drop(io::stderr().write_all(&Form::Text.line(line))),
    }
}

/// Waits until all records are written, but not for long.
pub fn flush() {
    let timeout = Duration::from_nanos(LOG_FLUSH_TIMEOUT);
    queue::flush(timeout);
    let (done, is_done) = sync_channel(1);
    if access::flush(done) {
        let _ = is_done.recv_timeout(timeout);
    }
}

/// Opens the files of the logs again, after something else has renamed them.
pub(crate) fn reopen() {
    queue::reopen();
    access::reopen();
}

/// Starts the access log.
///
/// # Errors
/// If the file cannot be opened, the thread cannot be started, or the process has an access log already.
pub(crate) fn start_access_log(destination: &Destination, form: Form) -> io::Result<Arc<WriteAccess>> {
    access::start(destination.open()?, form)
}

/// The default hook writes to stderr itself, and so may block the thread that panics.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let said = panic_message(panic.payload());
    match panic.location() {
        Some(place) => tracing::error!(thread, %place, said, "panicked"),
        None => tracing::error!(thread, said, "panicked"),
    }
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        let backtrace = backtrace.to_string();
        queue::append(queue::form().unwrap_or(Form::Text).line(backtrace.trim_end()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The logged text.
    #[derive(Clone, Default)]
    struct Logged(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Logged {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            locked(&self.0).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_a_line_of_the_log() {
        let logged = Logged::default();
        let writer = logged.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(log_panic));
        let ended = tracing::subscriber::with_default(subscriber, || {
            std::panic::catch_unwind(|| panic!("on purpose"))
        });
        std::panic::set_hook(before);
        assert!(ended.is_err());
        let line = String::from_utf8(logged.0.lock().expect("whole").clone()).expect("text");
        for part in ["ERROR", "panicked", "said=\"on purpose\"", "logging.rs:", "thread="] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}
