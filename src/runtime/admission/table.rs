//! One table of addresses: bounded, whatever addresses there are.
//!
//! An entry with an open connection is never evicted, and connections are bounded elsewhere. Of the others a table keeps
//! [`ADMISSION_ENTRIES_MAX`]; a new one then evicts one that is at rest, or else the one whose ban or bucket ends first among
//! a few that a rotating hand points at.

use std::collections::HashMap;

use super::BanPolicy;
use super::log_interval::LogInterval;
use super::rate::Bucket;
use crate::limits::{ADMISSION_ENTRIES_MAX, ADMISSION_PROBES, LIMIT_LOG_INTERVAL};
use echoring_proto::AddressKey;
use echoring_proto::limits::Nanos;

/// The state of one address.
#[derive(Debug)]
pub(super) struct AddressState {
    pub(super) key: AddressKey,
    /// Connections now.
    pub(super) open: u32,
    pub(super) handshakes: Bucket,
    /// Number of times that it was over a limit, since it is in the table.
    pub(super) refused: u64,
    offences: u32,
    offences_since: Nanos,
    pub(super) banned_until: Nanos,
    log: LogInterval,
}

impl AddressState {
    fn new(key: AddressKey) -> AddressState {
        AddressState {
            key,
            open: 0,
            handshakes: Bucket::default(),
            refused: 0,
            offences: 0,
            offences_since: 0,
            banned_until: 0,
            log: LogInterval::default(),
        }
    }

    pub(super) fn is_banned(&self, now: Nanos) -> bool {
        self.banned_until > now
    }

    /// Counts an offence. True if it bans the address.
    pub(super) fn offend(&mut self, policy: BanPolicy, now: Nanos) -> bool {
        if self.is_banned(now) {
            return false;
        }
        if self.offences == 0 || now.saturating_sub(self.offences_since) > policy.window {
            (self.offences, self.offences_since) = (0, now);
        }
        self.offences += 1;
        let is_over = self.offences >= policy.after;
        if is_over {
            self.offences = 0;
            self.banned_until = now.saturating_add(policy.time);
        }
        is_over
    }

    /// The number of records that were left out, if one is due: a ban is always reported, anything else once per
    /// interval.
    pub(super) fn log_due(&mut self, is_ban: bool, now: Nanos) -> Option<u64> {
        if is_ban { Some(self.log.begin(now)) } else { self.log.due(now, LIMIT_LOG_INTERVAL) }
    }

    /// When nothing in it is worth keeping.
    fn rest_at(&self) -> Nanos {
        let offences_end = if self.offences == 0 { 0 } else { self.offences_since };
        self.handshakes.as_nanos().max(self.banned_until).max(offences_end).max(self.log.logged_at())
    }
}

/// A table of addresses.
#[derive(Debug, Default)]
pub(super) struct Table {
    index: HashMap<AddressKey, u32>,
    entries: Vec<AddressState>,
    /// Entries with an open connection.
    open: usize,
    hand: usize,
}

impl Table {
    /// The entry of an address, a new one if need be.
    pub(super) fn entry(&mut self, key: AddressKey, now: Nanos) -> &mut AddressState {
        let at = match self.index.get(&key) {
            Some(at) => *at as usize,
            None => self.insert(key, now),
        };
        &mut self.entries[at]
    }

    fn insert(&mut self, key: AddressKey, now: Nanos) -> usize {
        if self.entries.len() - self.open >= ADMISSION_ENTRIES_MAX {
            self.evict(now);
        }
        let at = self.entries.len();
        self.entries.push(AddressState::new(key));
        self.index.insert(key, at as u32);
        at
    }

    /// Removes one entry. There is an entry without a connection.
    fn evict(&mut self, now: Nanos) {
        let mut victim: Option<usize> = None;
        let mut probes = 0;
        for _ in 0..self.entries.len() {
            let at = self.hand % self.entries.len();
            self.hand = at + 1;
            let entry = &self.entries[at];
            if entry.open > 0 {
                continue;
            }
            if victim.is_none_or(|victim| entry.rest_at() < self.entries[victim].rest_at()) {
                victim = Some(at);
            }
            probes += 1;
            if probes >= ADMISSION_PROBES || entry.rest_at() <= now {
                break;
            }
        }
        if let Some(victim) = victim {
            self.remove(victim);
        }
    }

    fn remove(&mut self, at: usize) {
        let gone = self.entries.swap_remove(at);
        self.index.remove(&gone.key);
        if let Some(swapped) = self.entries.get(at) {
            self.index.insert(swapped.key, at as u32);
        }
    }

    /// A connection of an address in the table was admitted.
    pub(super) fn open(&mut self, key: AddressKey) {
        let Some(at) = self.index.get(&key) else { return };
        let entry = &mut self.entries[*at as usize];
        self.open += usize::from(entry.open == 0);
        entry.open += 1;
    }

    /// A connection ended.
    pub(super) fn close(&mut self, key: AddressKey, now: Nanos) {
        let Some(at) = self.index.get(&key).map(|at| *at as usize) else { return };
        let entry = &mut self.entries[at];
        entry.open = entry.open.saturating_sub(1);
        if entry.open == 0 {
            self.open -= 1;
            // One that was never refused has nothing to remember once its bucket is full.
            if entry.refused == 0 && entry.rest_at() <= now {
                self.remove(at);
            }
        }
    }

    pub(super) fn entries(&self) -> &[AddressState] {
        &self.entries
    }
}
