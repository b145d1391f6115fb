//! The known clients of a shard: those of connections that have just arrived, and the addresses of all others.
//!
//! Empty, and never asked, without limits on peers and trusted proxies.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::by_index::ByIndex;
use super::held::HeldInput;
use crate::admission::{Admission, Limit, LogInterval, PeerLimits};
use crate::driver::Token;
use crate::limits::LIMIT_LOG_INTERVAL;
use echoring_proto::limits::Nanos;

/// The clients of a shard.
#[derive(Debug, Default)]
pub(in crate::shard) struct Arrivals {
    pub(in crate::shard) admission: Arc<Admission>,
    pub(in crate::shard) limits: Arc<PeerLimits>,
    is_on: bool,
    /// Connections whose client is not known yet, so that nothing is read from them.
    pub(in crate::shard) arriving: BTreeMap<Token, Arrival>,
    /// Connections of trusted proxies, until their request names the client.
    pub(in crate::shard) proxied: BTreeMap<Token, Option<SocketAddr>>,
    /// Of connections whose client is known.
    clients: ByIndex<Option<Client>>,
    /// Records about unknown clients, or about no single client.
    logged: BTreeMap<Limit, LogInterval>,
    /// Records about addresses that were not found.
    unknown_logged: LogInterval,
}

/// A connection whose client is not known yet.
#[derive(Debug, Default)]
pub(in crate::shard) struct Arrival {
    pub(in crate::shard) input: HeldInput,
    /// The address of its other end, once that is known and a header must follow.
    pub(in crate::shard) proxy: Option<Option<SocketAddr>>,
}

impl Arrivals {
    /// Uses other limits from now on.
    pub(in crate::shard) fn configure(&mut self, limits: Arc<PeerLimits>) {
        self.is_on = !limits.is_none();
        self.limits = limits;
    }

    #[inline]
    pub(in crate::shard) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether the bytes of a connection wait for its client to be known.
    #[inline]
    pub(in crate::shard) fn holds(&self, token: Token) -> bool {
        !self.arriving.is_empty() && self.arriving.contains_key(&token)
    }

    /// A connection has sent FIN. True if that waits until its client is known; an incomplete header remains.
    pub(in crate::shard) fn note_ended(&mut self, token: Token) -> bool {
        if self.arriving.is_empty() {
            return false;
        }
        let arrival = self.arriving.get_mut(&token).filter(|arrival| arrival.proxy.is_none());
        arrival.map(|arrival| arrival.input.ended = true).is_some()
    }

    /// The proxy of a connection whose request has arrived.
    pub(in crate::shard) fn take_proxy(&mut self, token: Token) -> Option<Option<SocketAddr>> {
        if self.proxied.is_empty() { None } else { self.proxied.remove(&token) }
    }

    /// Keeps a client. `entered` tells that it counts among the connections of its address.
    pub(in crate::shard) fn know(&mut self, token: Token, client: SocketAddr, entered: bool) {
        *self.clients.get_or_default(token.index) = Some(Client::new(client, entered));
    }

    /// The client of a connection, if it is known.
    pub(in crate::shard) fn client(&self, token: Token) -> Option<SocketAddr> {
        self.clients.get(token.index)?.map(Client::address)
    }

    /// A connection has ended.
    pub(in crate::shard) fn forget(&mut self, token: Token, now: Nanos) -> Option<Arrival> {
        self.take_proxy(token);
        if let Some(client) = self.clients.get_mut(token.index).and_then(Option::take)
            && client.entered
        {
            self.admission.leave(client.address().ip(), now);
        }
        if self.arriving.is_empty() { None } else { self.arriving.remove(&token) }
    }

    /// Whether a record about a limit is due, for an unknown client, with the number of suppressed ones.
    pub(in crate::shard) fn log_due(&mut self, limit: Limit, now: Nanos) -> Option<u64> {
        self.logged.entry(limit).or_default().due(now, LIMIT_LOG_INTERVAL)
    }

    /// The same about an address that was not found.
    pub(in crate::shard) fn unknown_log_due(&mut self, now: Nanos) -> Option<u64> {
        self.unknown_logged.due(now, LIMIT_LOG_INTERVAL)
    }
}

/// The octets of an address, of IPv4 as mapped to IPv6.
pub(super) fn octets(address: SocketAddr) -> [u8; 16] {
    match address.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The address of a client in few bytes, because there is one for each connection.
#[derive(Clone, Copy, Debug)]
struct Client {
    octets: [u8; 16],
    port: u16,
    entered: bool,
}

impl Client {
    fn new(address: SocketAddr, entered: bool) -> Client {
        Client { octets: octets(address), port: address.port(), entered }
    }

    fn address(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(Ipv6Addr::from(self.octets)).to_canonical(), self.port)
    }
}

const _: () = assert!(size_of::<Option<Client>>() <= 20);
