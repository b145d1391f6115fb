//! Who may connect, and how often: limits per address and for all clients, and bans.
//!
//! The shards of a node share one [`Admission`], because the kernel distributes the connections of an address over all of
//! them. It is asked once when a connection is accepted and told once when it ends, never for a message. Each call locks
//! one of many small tables for some tens of nanoseconds.
//!
//! Never: I/O, a clock, or memory that grows with the number of addresses that have ever connected.
#![forbid(unsafe_code)]

mod block;
mod log_interval;
mod rate;
mod report;
mod table;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::{ADMISSION_TABLES, BAN_TIME_DEFAULT, BAN_WINDOW_DEFAULT};
use echoring_proto::limits::Nanos;
use echoring_proto::{AddressKey, happenings};

pub use block::{AddressBlock, BadBlock, TrustedProxies};
pub use log_interval::LogInterval;
pub use rate::{Bucket, Rate, SharedBucket};
pub use report::{AddressReport, AdmissionReport};
use table::{AddressState, Table};

/// The limits on addresses. `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressLimits {
    /// Open connections of one address.
    pub max_connections_per_address: Option<u32>,
    /// Handshakes of one address per second.
    pub handshake_rate_per_address: Option<Rate>,
    /// Handshakes of all addresses per second.
    pub handshake_rate: Option<Rate>,
    /// Bans.
    pub bans: Option<BanPolicy>,
}

/// When an address is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanPolicy {
    /// Times that an address may be over its limits within the window; the last of them bans it.
    pub after: u32,
    /// The window, from the first of these times on.
    pub window: Nanos,
    /// Duration of the ban.
    pub time: Nanos,
}

impl BanPolicy {
    /// A ban after this many times, with the default window and duration.
    pub fn after(after: u32) -> BanPolicy {
        BanPolicy { after, window: BAN_WINDOW_DEFAULT, time: BAN_TIME_DEFAULT }
    }
}

impl AddressLimits {
    /// No limits.
    pub const NONE: AddressLimits = AddressLimits {
        max_connections_per_address: None,
        handshake_rate_per_address: None,
        handshake_rate: None,
        bans: None,
    };

    /// Whether there is no limit.
    pub fn is_none(&self) -> bool {
        *self == AddressLimits::NONE
    }
}

/// The rates that a connection may send. `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficLimits {
    /// Messages per second.
    pub message_rate: Option<Rate>,
    /// Bytes per second, as received from the socket.
    pub byte_rate: Option<Rate>,
    /// What happens to a connection that exceeds them.
    pub rate_action: RateAction,
}

/// What happens to a connection that exceeds its rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateAction {
    /// It is not read until it may send again.
    #[default]
    Pause,
    /// It is closed with 1008.
    Close,
}

/// How clients may use topics. `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicUseLimits {
    /// Publications of a connection per second.
    pub publish_rate: Option<Rate>,
    /// Publications of all connections of an identity per second.
    pub publish_rate_per_identity: Option<Rate>,
    /// New subscriptions of a connection per second.
    pub subscribe_rate: Option<Rate>,
    /// New subscriptions of all connections of an identity per second.
    pub subscribe_rate_per_identity: Option<Rate>,
    /// Subscriptions of all connections of an identity.
    pub max_subscriptions_per_identity: Option<u32>,
    /// Open connections of an identity.
    pub max_connections_per_identity: Option<u32>,
}

impl TopicUseLimits {
    /// Whether there is no limit.
    pub fn is_none(&self) -> bool {
        *self == TopicUseLimits::default()
    }
}

/// All limits on peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerLimits {
    /// By address.
    pub addresses: AddressLimits,
    /// By connection.
    pub traffic: TrafficLimits,
    /// By connection and by identity.
    pub topics: TopicUseLimits,
    /// Whose connections are those of others.
    pub proxies: TrustedProxies,
    /// The client of each connection is known in any case, because clients of one address share something else.
    pub knows_clients: bool,
}

impl TrafficLimits {
    /// Whether there is no limit.
    pub fn is_none(&self) -> bool {
        self.message_rate.is_none() && self.byte_rate.is_none()
    }
}

impl PeerLimits {
    /// Whether nothing needs the address of a client.
    pub fn is_none(&self) -> bool {
        let PeerLimits { addresses, traffic, topics, proxies, knows_clients } = self;
        addresses.is_none() && traffic.is_none() && topics.is_none() && proxies.is_none() && !knows_clients
    }
}

happenings! {
    /// A limit that a peer was over.
    pub enum Limit: name {
        /// [`AddressLimits::bans`]: the address is banned.
        Banned = "banned",
        /// [`AddressLimits::max_connections_per_address`].
        ConnectionsPerAddress = "connections_per_address",
        /// [`AddressLimits::handshake_rate_per_address`].
        HandshakesPerAddress = "handshakes_per_address",
        /// [`AddressLimits::handshake_rate`].
        Handshakes = "handshakes",
        /// Messages of a connection per second.
        Messages = "messages",
        /// Bytes of a connection per second.
        Bytes = "bytes",
        /// Publications of a connection per second.
        Publications = "publications",
        /// Publications of an identity per second.
        PublicationsPerIdentity = "publications_per_identity",
        /// New subscriptions of a connection per second.
        SubscribeRate = "subscribe_rate",
        /// New subscriptions of an identity per second.
        SubscribeRatePerIdentity = "subscribe_rate_per_identity",
        /// Subscriptions of a connection.
        Subscriptions = "subscriptions",
        /// [`TopicUseLimits::max_subscriptions_per_identity`].
        SubscriptionsPerIdentity = "subscriptions_per_identity",
        /// [`TopicUseLimits::max_connections_per_identity`].
        ConnectionsPerIdentity = "connections_per_identity",
        /// Topics that exist and that a connection created.
        TopicsPerConnection = "topics_per_connection",
        /// Topics that exist and that an identity created.
        TopicsPerIdentity = "topics_per_identity",
        /// A wrong password.
        Passwords = "passwords",
        /// A trusted proxy sent no valid header of the PROXY protocol.
        ProxyHeader = "proxy_header",
        /// Connections of the node.
        Connections = "connections",
        /// Topics of the node.
        Topics = "topics",
        /// Bytes of a message.
        MessageSize = "message_size",
        /// Bytes of a message that has begun, in a time.
        MessageProgress = "message_progress",
        /// Bytes and fields of a request head.
        HeaderSize = "header_size",
    }
}

/// The state of an address after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offence {
    /// The limit.
    pub limit: Limit,
    /// A log record is due, with the number of those that were left out since the last one.
    pub log: Option<u64>,
    /// This has banned the address.
    pub banned: bool,
}

/// A ban that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Whom it is about.
    pub address: AddressKey,
    /// When it ends.
    pub time_left: Nanos,
}

echoring_proto::plain!(for Ban { address, time_left });

/// The state of all addresses of a node.
#[derive(Debug)]
pub struct Admission {
    tables: Vec<Mutex<Table>>,
    hasher: std::hash::RandomState,
    /// Handshakes of all addresses.
    in_all: SharedBucket,
    bans: AtomicU64,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission {
            tables: (0..ADMISSION_TABLES).map(|_| Mutex::default()).collect(),
            hasher: std::hash::RandomState::new(),
            in_all: SharedBucket::default(),
            bans: AtomicU64::new(0),
        }
    }
}

impl Admission {
    /// A connection of `address` arrives. If it is admitted, it counts until [`leave`](Admission::leave).
    ///
    /// # Errors
    /// The limit that it is over. It then does not count.
    pub fn enter(&self, address: IpAddr, limits: &AddressLimits, now: Nanos) -> Result<(), Offence> {
        let mut table = self.table(AddressKey::of(address));
        let entry = table.entry(AddressKey::of(address), now);
        let over = if entry.is_banned(now) {
            Some(Limit::Banned)
        } else if limits.max_connections_per_address.is_some_and(|most| entry.open >= most) {
            Some(Limit::ConnectionsPerAddress)
        } else if !limits.handshake_rate_per_address.is_none_or(|rate| entry.handshakes.take(rate, 1, now)) {
            Some(Limit::HandshakesPerAddress)
        } else {
            None
        };
        match over {
            Some(limit) => Err(self.offence(entry, limit, limits, now)),
            None => {
                table.open(AddressKey::of(address));
                Ok(())
            }
        }
    }

    /// A connection that was admitted elsewhere goes on here.
    pub fn reenter(&self, address: IpAddr, now: Nanos) {
        let key = AddressKey::of(address);
        let mut table = self.table(key);
        table.entry(key, now);
        table.open(key);
    }

    /// A handshake of any address. False if there are too many.
    pub fn enter_any(&self, limits: &AddressLimits, now: Nanos) -> bool {
        limits.handshake_rate.is_none_or(|rate| self.in_all.take(rate, 1, now))
    }

    /// A connection that was admitted has ended.
    pub fn leave(&self, address: IpAddr, now: Nanos) {
        let key = AddressKey::of(address);
        self.table(key).close(key, now);
    }

    /// A connection of `address` was over a limit of its own.
    pub fn offend(&self, address: IpAddr, limit: Limit, limits: &AddressLimits, now: Nanos) -> Offence {
        let mut table = self.table(AddressKey::of(address));
        let entry = table.entry(AddressKey::of(address), now);
        self.offence(entry, limit, limits, now)
    }

    fn offence(&self, entry: &mut AddressState, limit: Limit, limits: &AddressLimits, now: Nanos) -> Offence {
        let banned = limit != Limit::Banned && limits.bans.is_some_and(|policy| entry.offend(policy, now));
        self.bans.fetch_add(u64::from(banned), Ordering::Relaxed);
        entry.refused += 1;
        Offence { limit, banned, log: entry.log_due(banned, now) }
    }

    /// The bans that have not ended.
    pub fn banned(&self, now: Nanos) -> Vec<Ban> {
        let mut banned = Vec::new();
        for table in &self.tables {
            let table = lock(table);
            let entries = table.entries().iter().filter(|entry| entry.is_banned(now));
            banned
                .extend(entries.map(|entry| Ban { address: entry.key, time_left: entry.banned_until - now }));
        }
        banned
    }

    /// Bans an address as another server has. It is not counted.
    pub fn ban(&self, Ban { address, time_left }: Ban, now: Nanos) {
        let mut table = self.table(address);
        let entry = table.entry(address, now);
        entry.banned_until = entry.banned_until.max(now.saturating_add(time_left));
    }

    /// Bans so far.
    pub fn bans(&self) -> u64 {
        self.bans.load(Ordering::Relaxed)
    }

    /// The addresses, at most `most` of them by name: banned ones first, then those with the most refusals.
    pub fn report(&self, most: usize, now: Nanos) -> AdmissionReport {
        let mut report = AdmissionReport::default();
        for table in &self.tables {
            report.add(&lock(table), most, now);
        }
        report.bans = self.bans();
        report
    }

    fn table(&self, key: AddressKey) -> MutexGuard<'_, Table> {
        use std::hash::BuildHasher as _;
        let index = self.hasher.hash_one(key) as usize % self.tables.len();
        lock(&self.tables[index])
    }
}

/// A table is consistent between any two of its calls, even after a panic.
fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
