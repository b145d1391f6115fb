//! Counts of authentication, of the whole node: handshakes are rare beside messages, so the shards share them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use echoring_auth::{Denied, KeySetState, Method};
use serde::Serialize;

use super::known_clients::Due;

/// The counters. They stay when the settings change.
#[derive(Debug, Default)]
pub struct AuthCounters {
    known: [AtomicU64; Method::ALL.len()],
    denied: [AtomicU64; Denied::ALL.len()],
    anonymous: AtomicU64,
    refreshed: AtomicU64,
    expired: AtomicU64,
    withdrawn: AtomicU64,
}

/// The values of the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuthFigures {
    /// Clients that were let in, by method.
    pub accepted: BTreeMap<&'static str, u64>,
    /// Clients that were let in without credentials.
    pub anonymous: u64,
    /// Handshakes, subscriptions and tokens that were refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Fresh tokens of sessions.
    pub refreshed: u64,
    /// Connections that were closed because their credentials expired.
    pub expired: u64,
    /// Connections that were closed because their credentials were withdrawn.
    pub withdrawn: u64,
    /// The key set, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_set: Option<KeySetFigures>,
}

/// The state of a key set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeySetFigures {
    /// When it was last read, in seconds since 1970; `None` if it never was.
    pub read_at: Option<u64>,
    /// Seconds since then.
    pub age_s: Option<u64>,
    /// Times that it could not be read.
    pub failures: u64,
}

impl KeySetFigures {
    /// The figures at the time `now`, in seconds since 1970.
    pub fn of(state: KeySetState, now: u64) -> KeySetFigures {
        let KeySetState { read_at, failures } = state;
        KeySetFigures { read_at, age_s: read_at.map(|at| now.saturating_sub(at)), failures }
    }
}

impl AuthCounters {
    pub(crate) fn note_known(&self, method: Method) {
        self.known[method as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn note_denied(&self, denied: Denied) {
        self.denied[denied as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn note_anonymous(&self) {
        self.anonymous.fetch_add(1, Relaxed);
    }

    pub(crate) fn note_refreshed(&self) {
        self.refreshed.fetch_add(1, Relaxed);
    }

    pub(crate) fn note_ended(&self, due: Due) {
        match due {
            Due::Expired => self.expired.fetch_add(1, Relaxed),
            Due::Withdrawn => self.withdrawn.fetch_add(1, Relaxed),
            Due::Notice => 0,
        };
    }

    /// The values now.
    pub fn figures(&self) -> AuthFigures {
        let read = |count: &AtomicU64| count.load(Relaxed);
        let accepted = Method::ALL.map(Method::word).into_iter().zip(self.known.iter().map(read));
        let refused = Denied::ALL.map(Denied::word).into_iter().zip(self.denied.iter().map(read));
        AuthFigures {
            accepted: accepted.collect(),
            anonymous: self.anonymous.load(Relaxed),
            refused: refused.collect(),
            refreshed: self.refreshed.load(Relaxed),
            expired: self.expired.load(Relaxed),
            withdrawn: self.withdrawn.load(Relaxed),
            key_set: None,
        }
    }
}
