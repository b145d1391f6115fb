//! Failed attempts to use the admin address: counted, logged with the address, and answered late.
//!
//! The delay grows with each attempt of an address. The log gets one line per address and interval. The table is
//! bounded; nothing here waits.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::Refused;
use crate::http::Reply;
use crate::http::socket::AdminPeer;
use crate::limits::{
    ADMIN_ATTEMPTS_FORGOTTEN, ADMIN_ATTEMPTS_LOG_INTERVAL, ADMIN_DELAY_MAX, ADMIN_DELAY_MIN,
    ADMIN_OFFENDERS_MAX,
};
use echoring_proto::AddressKey;

/// Why a request has no access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAccess {
    /// No token, or a wrong one.
    Unauthorized,
    /// Its token, or its user, lacks this permission.
    Forbidden,
}

/// The part of `/stats` about requests without access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct AttemptFigures {
    pub(crate) unauthorized: u64,
    pub(crate) forbidden: u64,
}

/// Who attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Offender {
    Address(AddressKey),
    User(Option<u32>),
}

impl From<AdminPeer> for Offender {
    fn from(peer: AdminPeer) -> Offender {
        match peer {
            AdminPeer::Unix(user) => Offender::User(user),
            AdminPeer::Tcp(address) => Offender::Address(AddressKey::of(address.ip())),
        }
    }
}

impl fmt::Display for Offender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Offender::Address(key) => key.fmt(f),
            Offender::User(Some(user)) => write!(f, "user {user}"),
            Offender::User(None) => f.write_str("unknown user"),
        }
    }
}

/// The attempts of one address.
#[derive(Clone, Copy, Debug)]
struct Attempts {
    /// Since it was forgotten, for the delay.
    failures: u32,
    /// Not in the log yet.
    unlogged: u64,
    last: Instant,
    logged: Instant,
}

/// A line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LogLine {
    offender: Offender,
    attempts: u64,
}

impl LogLine {
    fn write(self) {
        let LogLine { offender, attempts } = self;
        tracing::warn!(peer = %offender, attempts, "admin requests without access were refused");
    }
}

/// All addresses that failed lately.
#[derive(Debug, Default)]
pub(crate) struct FailedAttempts {
    table: RefCell<BTreeMap<Offender, Attempts>>,
    swept: Cell<Option<Instant>>,
    figures: Cell<AttemptFigures>,
}

impl FailedAttempts {
    pub(crate) fn figures(&self) -> AttemptFigures {
        self.figures.get()
    }

    /// The answer to a request without access. That to an attempt is held back.
    pub(crate) fn refuse(&self, peer: AdminPeer, refused: Refused) -> Reply {
        let Refused { reply, attempt } = refused;
        let delay = attempt.map(|why| self.note(peer, why, Instant::now()));
        Reply { delay: delay.unwrap_or_default(), ..reply }
    }

    /// Counts and logs an attempt. Returns the delay of the answer.
    fn note(&self, peer: AdminPeer, why: NoAccess, now: Instant) -> Duration {
        let mut figures = self.figures.get();
        match why {
            NoAccess::Unauthorized => figures.unauthorized += 1,
            NoAccess::Forbidden => figures.forbidden += 1,
        }
        self.figures.set(figures);
        let (delay, lines) = self.add(peer.into(), now);
        lines.into_iter().for_each(LogLine::write);
        delay
    }

    fn add(&self, offender: Offender, now: Instant) -> (Duration, Vec<LogLine>) {
        let mut table = self.table.borrow_mut();
        let mut lines = Vec::new();
        if self.swept.get().is_none_or(|swept| now.duration_since(swept) >= ADMIN_ATTEMPTS_LOG_INTERVAL) {
            self.swept.set(Some(now));
            sweep(&mut table, now, &mut lines);
        }
        if table.len() >= ADMIN_OFFENDERS_MAX && !table.contains_key(&offender) {
            forget_oldest(&mut table, &mut lines);
        }
        let fresh = Attempts { failures: 0, unlogged: 0, last: now, logged: now };
        let is_first = !table.contains_key(&offender);
        let attempts = table.entry(offender).or_insert(fresh);
        attempts.failures = attempts.failures.saturating_add(1);
        attempts.unlogged += 1;
        attempts.last = now;
        if is_first || now.duration_since(attempts.logged) >= ADMIN_ATTEMPTS_LOG_INTERVAL {
            attempts.log(offender, now, &mut lines);
        }
        (delay(attempts.failures), lines)
    }
}

impl Attempts {
    fn log(&mut self, offender: Offender, now: Instant, lines: &mut Vec<LogLine>) {
        if self.unlogged > 0 {
            lines.push(LogLine { offender, attempts: std::mem::take(&mut self.unlogged) });
            self.logged = now;
        }
    }
}

/// The delay doubles with each attempt.
fn delay(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    ADMIN_DELAY_MIN.saturating_mul(factor).min(ADMIN_DELAY_MAX)
}

/// Logs the attempts of an ended interval, and forgets addresses that have stopped.
fn sweep(table: &mut BTreeMap<Offender, Attempts>, now: Instant, lines: &mut Vec<LogLine>) {
    table.retain(|offender, attempts| {
        if now.duration_since(attempts.logged) >= ADMIN_ATTEMPTS_LOG_INTERVAL {
            attempts.log(*offender, now, lines);
        }
        now.duration_since(attempts.last) < ADMIN_ATTEMPTS_FORGOTTEN
    });
}

fn forget_oldest(table: &mut BTreeMap<Offender, Attempts>, lines: &mut Vec<LogLine>) {
    let oldest = table.iter().min_by_key(|(_, attempts)| attempts.last).map(|(offender, _)| *offender);
    if let Some(offender) = oldest
        && let Some(mut attempts) = table.remove(&offender)
    {
        attempts.log(offender, attempts.last, lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Offender {
        AdminPeer::Tcp(address.parse().expect("an address")).into()
    }

    #[test]
    fn each_attempt_is_answered_later_up_to_a_bound() {
        let (attempts, now) = (FailedAttempts::default(), Instant::now());
        let delays: Vec<Duration> = (0..40).map(|_| attempts.add(peer("192.0.2.1:1"), now).0).collect();
        assert_eq!(
            (delays[0], delays[1], delays[2]),
            (ADMIN_DELAY_MIN, 2 * ADMIN_DELAY_MIN, 4 * ADMIN_DELAY_MIN)
        );
        assert_eq!(delays[39], ADMIN_DELAY_MAX);
        assert_eq!(attempts.add(peer("192.0.2.2:1"), now).0, ADMIN_DELAY_MIN, "another address");
        let later = now + ADMIN_ATTEMPTS_FORGOTTEN;
        assert_eq!(attempts.add(peer("192.0.2.1:1"), later).0, ADMIN_DELAY_MIN, "forgotten");
    }

    #[test]
    fn the_log_has_a_line_per_address_and_interval_that_counts_all() {
        let (attempts, now) = (FailedAttempts::default(), Instant::now());
        let lines = |offender, at| {
            attempts.add(offender, at).1.into_iter().map(|line| line.attempts).collect::<Vec<_>>()
        };
        let offender = peer("[2001:db8::1]:1");
        assert_eq!(lines(offender, now), [1]);
        for _ in 0..1_000 {
            assert!(lines(peer("[2001:db8::2]:9"), now).is_empty(), "the same network");
        }
        assert_eq!(lines(peer("192.0.2.1:1"), now), [1]);
        let next = now + ADMIN_ATTEMPTS_LOG_INTERVAL;
        assert_eq!(lines(peer("192.0.2.1:1"), next), [1_000, 1], "what was left, and the new one");
        assert_eq!(offender.to_string(), "2001:db8::/64");
    }

    #[test]
    fn the_table_is_bounded_and_what_it_forgets_is_logged() {
        let (attempts, now) = (FailedAttempts::default(), Instant::now());
        let offender = |number: usize| Offender::User(Some(number as u32));
        attempts.add(offender(0), now);
        attempts.add(offender(0), now);
        for number in 1..ADMIN_OFFENDERS_MAX {
            attempts.add(offender(number), now + Duration::from_secs(1));
        }
        let (_, lines) = attempts.add(offender(ADMIN_OFFENDERS_MAX), now + Duration::from_secs(1));
        assert_eq!(attempts.table.borrow().len(), ADMIN_OFFENDERS_MAX);
        assert!(lines.contains(&LogLine { offender: offender(0), attempts: 1 }), "{lines:?}");
    }
}
