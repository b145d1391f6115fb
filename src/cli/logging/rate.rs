//! The rate limit on records of one cause: the first of each second are written, the others are counted and reported in
//! one line.
//!
//! A cause is a call site with the fields that name a reason (a status, a reason, a close code). It is counted in a
//! fixed table of atomics: callers need no lock, and no allocation except for the first record of a cause.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash as _, Hasher};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::fields::Cut;
use super::queue;
use crate::limits::{LOG_CAUSES_MAX, LOG_RECORDS_PER_SECOND, LOG_RECORDS_PER_SECOND_DEBUG};
use echoring_runtime::limits::LOG_FIELD_BYTES_MAX;
use echoring_runtime::stats::LOG;

/// Fields that distinguish causes. Their values come from this program's tables, never from a peer, so there are few.
const CAUSE_FIELDS: [&str; 6] = ["status", "reason", "code", "cause", "offence", "fault"];

/// Passes records, or counts them.
#[derive(Debug)]
pub(super) struct RateLimit;

impl<S: Subscriber> Layer<S> for RateLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        // The log's own records come at most once per second.
        queue::is_writer() || TABLE.admit(event, second())
    }
}

/// Seconds since the first record.
fn second() -> u32 {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    STARTED.get_or_init(Instant::now).elapsed().as_secs() as u32
}

/// Reports how many records were suppressed since the last call.
pub(super) fn tell_suppressed() {
    for cause in &TABLE.0 {
        let suppressed = cause.suppressed.swap(0, Relaxed);
        let Some(said) = cause.said.get().filter(|_| suppressed > 0) else { continue };
        if said.is_error {
            tracing::error!(left_out = suppressed, "suppressed further records like this one: {}", said.text);
        } else {
            tracing::warn!(left_out = suppressed, "suppressed further records like this one: {}", said.text);
        }
    }
}

static TABLE: Table = Table([const { Cause::none() }; LOG_CAUSES_MAX]);

struct Table([Cause; LOG_CAUSES_MAX]);

struct Cause {
    /// Hash of the cause; 0 for a free entry.
    key: AtomicU64,
    /// The second of the latest record in the upper half, and the number of its records in the lower.
    window: AtomicU64,
    suppressed: AtomicU64,
    said: OnceLock<Said>,
}

struct Said {
    text: Box<str>,
    is_error: bool,
}

impl Cause {
    /// A free entry.
    const fn none() -> Cause {
        Cause {
            key: AtomicU64::new(0),
            window: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
            said: OnceLock::new(),
        }
    }

    /// Counts a record of this second, and returns whether it is among the first.
    fn admit(&self, second: u32, per_second: u32) -> bool {
        let count = |window: u64| {
            let same = (window >> 32) as u32 == second;
            if same { (window as u32).saturating_add(1) } else { 1 }
        };
        let counted = |window| Some(u64::from(second) << 32 | u64::from(count(window)));
        match self.window.fetch_update(Relaxed, Relaxed, counted) {
            Ok(before) | Err(before) => count(before) <= per_second,
        }
    }
}

impl Table {
    fn admit(&self, event: &Event<'_>, second: u32) -> bool {
        let level = *event.metadata().level();
        let per_second =
            if level > Level::INFO { LOG_RECORDS_PER_SECOND_DEBUG } else { LOG_RECORDS_PER_SECOND };
        let cause = self.cause(event);
        if cause.admit(second, per_second) {
            return true;
        }
        LOG.rate_limited.fetch_add(1, Relaxed);
        if cause.suppressed.fetch_add(1, Relaxed) == 0 {
            cause.said.get_or_init(|| say(event));
            queue::tell_soon();
        }
        false
    }

    /// The entry of an event's cause. If all entries are in use, causes share one.
    fn cause(&self, event: &Event<'_>) -> &Cause {
        let mut hash = Hash(DefaultHasher::new());
        event.metadata().callsite().hash(&mut hash.0);
        event.record(&mut hash);
        let key = hash.0.finish().max(1);
        let first = key as usize % LOG_CAUSES_MAX;
        (0..LOG_CAUSES_MAX)
            .map(|step| &self.0[(first + step) % LOG_CAUSES_MAX])
            .find(|cause| {
                let taken = cause.key.compare_exchange(0, key, Relaxed, Relaxed).unwrap_or_else(|key| key);
                taken == 0 || taken == key
            })
            .unwrap_or(&self.0[first])
    }
}

/// Hashes the fields that make up the cause.
struct Hash(DefaultHasher);

impl Visit for Hash {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if CAUSE_FIELDS.contains(&field.name()) {
            // Writing to a hasher does not fail.
            let _ = write!(self, "{value:?}");
            self.0.write_u8(0);
        }
    }
}

impl fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// The text of the line about suppressed records.
fn say(event: &Event<'_>) -> Said {
    let mut words = Words(String::new());
    event.record(&mut words);
    let is_error = *event.metadata().level() == Level::ERROR;
    Said { text: words.0.into(), is_error }
}

struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        let is_message = name == "message";
        if !is_message && !CAUSE_FIELDS.contains(&name) {
            return;
        }
        let mut said = String::new();
        // Writing to a string does not fail.
        let _ = write!(Cut::new(&mut said, LOG_FIELD_BYTES_MAX), "{value:?}");
        let space = if self.0.is_empty() { "" } else { " " };
        let _ =
            if is_message { write!(self.0, "{space}{said}") } else { write!(self.0, "{space}{name}={said}") };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_records_of_each_second_pass() {
        let cause = Cause::none();
        let passed = |second| (0..100).filter(|_| cause.admit(second, 7)).count();
        assert_eq!(passed(0), 7);
        assert_eq!(passed(1), 7);
        assert_eq!(passed(1), 0);
        assert_eq!(passed(9), 7);
    }
}
