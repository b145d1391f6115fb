//! Reports about addresses, for operators.

use std::cmp::Reverse;

use super::table::Table;
use echoring_proto::AddressKey;
use echoring_proto::limits::{Nanos, SECOND};

/// The addresses of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdmissionReport {
    /// Addresses in the tables.
    pub addresses: u64,
    /// Those of them with an open connection.
    pub connected: u64,
    /// Those that are banned now.
    pub banned: u64,
    /// Bans so far.
    pub bans: u64,
    /// Banned ones first, then those with the most refusals.
    pub worst: Vec<AddressReport>,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressReport {
    /// The address, or its /64.
    pub key: AddressKey,
    /// Connections now.
    pub connections: u32,
    /// Number of times that it was over a limit, as far as the table remembers.
    pub refused: u64,
    /// Seconds until its ban ends, rounded up; 0 without a ban.
    pub banned_s: u64,
}

impl AdmissionReport {
    /// Adds a table; at most `most` addresses in all are named.
    pub(super) fn add(&mut self, table: &Table, most: usize, now: Nanos) {
        for entry in table.entries() {
            let banned_s = entry.banned_until.saturating_sub(now).div_ceil(SECOND);
            self.addresses += 1;
            self.connected += u64::from(entry.open > 0);
            self.banned += u64::from(banned_s > 0);
            if entry.refused > 0 || banned_s > 0 {
                let refused = entry.refused;
                self.worst.push(AddressReport { key: entry.key, connections: entry.open, refused, banned_s });
            }
        }
        self.worst
            .sort_unstable_by_key(|report| (Reverse((report.banned_s > 0, report.refused)), report.key));
        self.worst.truncate(most);
    }
}
