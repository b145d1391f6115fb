//! Messages and bytes by class of connection, and by single connection on request.

use std::ops::{AddAssign, Sub};

use echoring_proto::Merge;
use serde::{Serialize, Serializer};

/// Number of classes that an application may distinguish.
pub const TRAFFIC_CLASSES: usize = 6;

/// The class of connections that have no request yet, and of plain HTTP requests.
pub const HANDSHAKE_CLASS: u8 = TRAFFIC_CLASSES as u8 - 1;

/// Messages and bytes in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Messages read to their last byte.
    pub messages_in: u64,
    /// Messages queued or sent, the copies of a broadcast counted each.
    pub messages_out: u64,
    /// Bytes received from sockets.
    pub bytes_in: u64,
    /// Bytes handed to the kernel or to its queue.
    pub bytes_out: u64,
}

echoring_proto::plain!(for Traffic { messages_in, messages_out, bytes_in, bytes_out });

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.messages_in += other.messages_in;
        self.messages_out = self.messages_out.wrapping_add(other.messages_out);
        self.bytes_in += other.bytes_in;
        self.bytes_out = self.bytes_out.wrapping_add(other.bytes_out);
    }
}

impl Sub for Traffic {
    type Output = Traffic;

    fn sub(self, other: Traffic) -> Traffic {
        Traffic {
            messages_in: self.messages_in - other.messages_in,
            // Negative where a partial send takes back what was counted for another class.
            messages_out: self.messages_out.wrapping_sub(other.messages_out),
            bytes_in: self.bytes_in - other.bytes_in,
            bytes_out: self.bytes_out.wrapping_sub(other.bytes_out),
        }
    }
}

/// Where a connection's traffic is counted: with all others of its class, or by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account(u32);

impl Account {
    /// Before the request is answered.
    pub const HANDSHAKE: Account = Account(HANDSHAKE_CLASS as u32);

    /// The account of all connections of a class without their own.
    pub fn of_class(class: u8) -> Account {
        debug_assert!(usize::from(class) < TRAFFIC_CLASSES);
        Account(u32::from(class.min(HANDSHAKE_CLASS)))
    }

    #[inline]
    fn index(self) -> usize {
        self.0 as usize
    }

    /// The class, of an account that a class has.
    pub(crate) fn class(self) -> u8 {
        u8::try_from(self.0).unwrap_or(HANDSHAKE_CLASS).min(HANDSHAKE_CLASS)
    }

    /// Whether only one connection uses it.
    pub fn is_own(self) -> bool {
        self.index() >= TRAFFIC_CLASSES
    }
}

/// The accounts of a shard. An account per class, and any number of accounts of single connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    accounts: Vec<Traffic>,
    /// For each account of a single connection.
    own: Vec<Own>,
    free: Vec<Account>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Own {
    class: u8,
    /// The part of the traffic that has been added to classes.
    settled: Traffic,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger { accounts: vec![Traffic::default(); TRAFFIC_CLASSES], own: Vec::new(), free: Vec::new() }
    }
}

impl Ledger {
    /// The traffic of an account, to be added to.
    #[doc(hidden)]
    #[inline]
    pub fn at(&mut self, account: Account) -> &mut Traffic {
        &mut self.accounts[account.index()]
    }

    /// Opens an account for a single connection.
    #[doc(hidden)]
    pub fn open(&mut self, class: u8) -> Account {
        let own = Own { class, settled: Traffic::default() };
        if let Some(account) = self.free.pop() {
            self.accounts[account.index()] = Traffic::default();
            self.own[account.index() - TRAFFIC_CLASSES] = own;
            return account;
        }
        // A shard has fewer connections than that.
        let account = Account(self.accounts.len() as u32);
        self.accounts.push(Traffic::default());
        self.own.push(own);
        account
    }

    /// Opens an account for a single connection whose traffic so far was counted elsewhere.
    #[doc(hidden)]
    pub fn reopen(&mut self, class: u8, traffic: Traffic) -> Account {
        let account = self.open(class);
        *self.at(account) = traffic;
        self.own[account.index() - TRAFFIC_CLASSES].settled = traffic;
        account
    }

    /// The account of a connection whose class is now known. Earlier counts stay where they are.
    #[doc(hidden)]
    pub fn classify(&mut self, account: Account, class: u8) -> Account {
        if !account.is_own() {
            return Account::of_class(class);
        }
        self.settle(account);
        self.own[account.index() - TRAFFIC_CLASSES].class = class;
        account
    }

    /// Closes the account of a single connection, and returns all its traffic. `None` for the account of a class.
    #[doc(hidden)]
    pub fn close(&mut self, account: Account) -> Option<Traffic> {
        if !account.is_own() {
            return None;
        }
        self.settle(account);
        let traffic = std::mem::take(self.at(account));
        self.own[account.index() - TRAFFIC_CLASSES].settled = Traffic::default();
        self.free.push(account);
        Some(traffic)
    }

    /// The traffic of a single connection so far. `None` for the account of a class.
    #[doc(hidden)]
    pub fn own(&self, account: Account) -> Option<Traffic> {
        account.is_own().then(|| self.accounts[account.index()])
    }

    /// Adds an own account's new traffic to its class.
    fn settle(&mut self, account: Account) {
        let traffic = self.accounts[account.index()];
        let own = &mut self.own[account.index() - TRAFFIC_CLASSES];
        let (class, new) = (own.class, traffic - own.settled);
        own.settled = traffic;
        self.accounts[usize::from(class)] += new;
    }

    /// The traffic of a class.
    #[doc(hidden)]
    pub fn of(&self, class: u8) -> Traffic {
        let mut sum = self.accounts[usize::from(class)];
        let accounts = self.accounts[TRAFFIC_CLASSES..].iter().zip(&self.own);
        accounts
            .filter(|(_, own)| own.class == class)
            .for_each(|(traffic, own)| sum += *traffic - own.settled);
        sum
    }

    /// All traffic.
    pub fn total(&self) -> Traffic {
        let mut sum = Traffic::default();
        (0..TRAFFIC_CLASSES as u8).for_each(|class| sum += self.of(class));
        sum
    }

    /// The same with the classes only.
    #[doc(hidden)]
    pub fn summed(&self) -> Ledger {
        let accounts = (0..TRAFFIC_CLASSES as u8).map(|class| self.of(class)).collect();
        Ledger { accounts, own: Vec::new(), free: Vec::new() }
    }
}

impl Merge for Ledger {
    fn merge(&mut self, other: &Ledger) {
        (0..TRAFFIC_CLASSES as u8).for_each(|class| *self.at(Account::of_class(class)) += other.of(class));
    }
}

/// The traffic of all classes.
impl Serialize for Ledger {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.total().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(bytes_in: u64) -> Traffic {
        Traffic { bytes_in, ..Traffic::default() }
    }

    #[test]
    fn the_traffic_of_a_single_connection_counts_in_its_classes() {
        let mut ledger = Ledger::default();
        let account = ledger.open(HANDSHAKE_CLASS);
        ledger.at(account).bytes_in += 10;
        let account = ledger.classify(account, 1);
        ledger.at(account).bytes_in += 5;
        ledger.at(Account::of_class(1)).bytes_in += 100;
        assert_eq!((ledger.of(HANDSHAKE_CLASS), ledger.of(1)), (received(10), received(105)));
        assert_eq!(ledger.own(account), Some(received(15)));
        assert_eq!(ledger.close(account), Some(received(15)));
        assert_eq!((ledger.of(HANDSHAKE_CLASS), ledger.of(1)), (received(10), received(105)));
        assert_eq!(ledger.total(), received(115));
        assert_eq!(ledger.summed().total(), received(115));
    }

    #[test]
    fn a_closed_account_is_used_again_and_starts_empty() {
        let mut ledger = Ledger::default();
        let first = ledger.open(0);
        ledger.at(first).bytes_in += 7;
        ledger.close(first);
        let second = ledger.open(1);
        assert_eq!((second, ledger.own(second)), (first, Some(Traffic::default())));
        assert_eq!((ledger.of(0), ledger.of(1)), (received(7), received(0)));
    }

    #[test]
    fn bytes_that_are_taken_back_after_a_change_of_class_do_not_overflow() {
        let mut ledger = Ledger::default();
        let account = ledger.open(0);
        ledger.at(account).bytes_out += 10;
        ledger.classify(account, 1);
        ledger.at(account).bytes_out -= 4;
        ledger.at(Account::of_class(1)).bytes_out += 100;
        assert_eq!(ledger.total().bytes_out, 106);
    }
}
