//! The log of the program: records of `tracing`, written to stderr by a separate thread.
//!
//! A caller only appends to a bounded queue. A record that does not fit is dropped and counted
//! ([`LogCounters`](echoring_runtime::stats::LogCounters)); the log reports the number of dropped records once it can
//! be written again. Records of one cause are limited per second (`rate`), and fields have a maximum length (`fields`).
//!
//! Never: blocking, failing or panicking in a caller, whatever happens to stderr.

#![forbid(unsafe_code)]

mod fields;
mod queue;
mod rate;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _, Write as _};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::Registry;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::limits::LOG_FLUSH_TIMEOUT;
use fields::Fields;
use queue::Queue;
use rate::RateLimit;

/// Replaces the filter of the running log.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log on stderr, with the records that `filter` accepts; in colour only at a terminal. Panics are logged
/// from now on like other records.
///
/// # Errors
/// If the thread cannot be started, or the process has a log already.
pub fn start(filter: EnvFilter) -> io::Result<()> {
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let queue = Queue::start()?;
    let records = tracing_subscriber::fmt::layer()
        .with_writer(queue)
        .with_ansi(colours)
        .fmt_fields(Fields)
        // The default handler complains on stderr about a failed write, and panics if that fails too.
        .log_internal_errors(false);
    let (filter, handle) = reload::Layer::new(filter);
    tracing_subscriber::registry()
        .with(filter)
        .with(RateLimit)
        .with(records)
        .try_init()
        .map_err(io::Error::other)?;
    // Set once, by the start that succeeds.
    let _ = FILTER.set(handle);
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Has the running log accept other records from now on.
pub(crate) fn set_filter(filter: EnvFilter) {
    // Fails only without a log, or when a thread has panicked while it replaced the filter.
    let _ = FILTER.get().map(|handle| handle.reload(filter));
}

/// Prints a line on stderr after all records, and waits until it is written, but not for long: an unread stderr must
/// not keep a process from exiting.
pub(crate) fn print_last(line: &str) {
    let line = format!("{line}\n").into_bytes();
    if queue::append(line.clone()) {
        flush();
    } else if !queue::is_running() {
        // A closed stderr must not turn an exit code into a panic.
        let _ = io::stderr().write_all(&line);
    }
}

/// Waits until all records are written, but not for long.
pub fn flush() {
    queue::flush(Duration::from_nanos(LOG_FLUSH_TIMEOUT));
}

/// The default hook writes to stderr itself, and so may block the thread that panics.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let payload = panic.payload();
    let said = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(said), _) => said,
        (_, Some(said)) => said.as_str(),
        _ => "a payload that is not text",
    };
    match panic.location() {
        Some(place) => tracing::error!(thread, %place, said, "panicked"),
        None => tracing::error!(thread, said, "panicked"),
    }
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        queue::append(backtrace.to_string().into_bytes());
    }
}
