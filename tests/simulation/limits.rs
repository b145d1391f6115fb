//! Limits on clients that a reload changes while clients arrive, send, wait and leave: no address has more connections than
//! it may, nothing of a paused connection is lost, and nobody is remembered as present who has left.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;

use echoring_proto::connection::ConnectionConfig;
use echoring_proto::limits::{MEMORY_BUDGET_DEFAULT, Nanos, SECOND};
use echoring_runtime::admission::{
    AddressLimits, Admission, BanPolicy, PeerLimits, Rate, TrafficLimits, TrustedProxies,
};
use echoring_runtime::driver::sim::{Heard, Random};
use echoring_runtime::limits::TRIM_INTERVAL;
use echoring_server::Service;

use super::client::{self, Item, Leave};
use super::for_each_seed;
use super::service::service;
use super::world::{Memory, World, config};

/// Time in which everything happens that is to happen: the slowest rate for all that a client sends.
const PATIENCE: Nanos = 2_000 * SECOND;

/// A client behind the proxy that all connections come from.
struct Guest {
    /// Its place among the clients of the world.
    at: usize,
    address: Ipv4Addr,
    messages: usize,
    has_left: bool,
}

struct House {
    world: Rc<World<Service>>,
    admission: Arc<Admission>,
    random: Random,
    limits: PeerLimits,
    guests: Vec<Guest>,
    addresses: usize,
    /// Limits on addresses are always there. Who comes while there are none does not count among the connections of its
    /// address.
    counts_all: bool,
    /// An address may have been banned.
    bans: bool,
}

impl House {
    fn new(seed: u64) -> House {
        let mut random = Random::new(seed);
        let connection = ConnectionConfig { close_timeout: 5 * SECOND, ..config() };
        let memory = Memory { budget_bytes: MEMORY_BUDGET_DEFAULT, refused: [0, 5, 50][random.below(3)] };
        let (max_message, queue_bytes) = (connection.max_message, connection.queue_bytes);
        let shards = random.between(1, 3);
        let world = World::with_memory(seed, shards, connection, 4 << 20, false, memory, move |_| {
            service(max_message, queue_bytes)
        });
        let (addresses, counts_all) = (random.between(1, 4), random.chance(700));
        let mut house = House {
            world,
            admission: Arc::default(),
            random,
            limits: PeerLimits::default(),
            guests: Vec::new(),
            addresses,
            counts_all,
            bans: false,
        };
        house.limits = house.draw();
        house.world.limit(&house.admission, &house.limits);
        house
    }

    /// Limits for the next phase.
    fn draw(&mut self) -> PeerLimits {
        let random = &mut self.random;
        let rate = |random: &mut Random, low, high| Rate::per_second(random.between(low, high) as u64);
        let mut addresses = AddressLimits::NONE;
        if self.counts_all {
            addresses.handshake_rate = Rate::per_second(1 << 30);
        }
        let mut traffic = TrafficLimits::default();
        if random.chance(700) {
            addresses.max_connections_per_address = Some(random.between(1, 4) as u32);
        }
        if random.chance(200) {
            addresses.handshake_rate_per_address = rate(random, 1, 8);
        }
        if random.chance(100) {
            addresses.handshake_rate = rate(random, 1, 8);
        }
        if random.chance(200) {
            let [window, time] = [(); 2].map(|()| random.between(1, 20) as Nanos * SECOND);
            addresses.bans = Some(BanPolicy { after: random.between(1, 4) as u32, window, time });
        }
        if random.chance(600) {
            traffic.message_rate = rate(random, 1, 50);
        }
        if random.chance(300) {
            traffic.byte_rate = rate(random, 1_000, 50_000);
        }
        let blocks = vec!["10.0.0.0/8".parse().expect("a block")];
        let proxies = TrustedProxies { blocks, unix: false, proxy_protocol: true };
        PeerLimits { addresses, traffic, proxies, ..PeerLimits::default() }
    }

    /// Has all shards take over other limits, while whatever is under way goes on.
    fn reload(&mut self) {
        self.limits = self.draw();
        self.world.reconfigure(&self.limits);
    }

    /// Runs everything until `done`.
    fn settle(&self, what: &str, done: impl Fn(&House) -> bool) {
        let until = self.world.network.now() + PATIENCE;
        while !done(self) {
            assert!(self.world.network.now() < until, "{what}: never");
            self.world.pass(SECOND);
        }
    }

    fn arrive(&mut self) {
        for _ in 0..self.random.between(1, 8) {
            let address = Ipv4Addr::new(192, 0, 2, 1 + self.random.below(self.addresses) as u8);
            let at = self.world.add("/echo");
            self.world.clients.borrow_mut()[at].lead_with(&header(&mut self.random, address));
            self.guests.push(Guest { at, address, messages: 0, has_left: false });
        }
    }

    fn send(&mut self) {
        let mut clients = self.world.clients.borrow_mut();
        for guest in &mut self.guests {
            let client = &mut clients[guest.at];
            if guest.has_left || !client.decoder.opened || self.random.chance(300) {
                continue;
            }
            let mut script = Vec::new();
            for _ in 0..self.random.between(1, 20) {
                let bytes = self.random.below(1_500);
                client::frame(&mut self.random, true, 2, &vec![guest.at as u8; bytes], &mut script);
                guest.messages += 1;
            }
            client.script.extend(script);
        }
    }

    /// Some leave, perhaps while they are paused, and in any way.
    fn leave(&mut self, per_mille: u32) {
        let mut clients = self.world.clients.borrow_mut();
        for guest in &mut self.guests {
            let client = &mut clients[guest.at];
            if guest.has_left || !client.decoder.opened || !self.random.chance(per_mille) {
                continue;
            }
            guest.has_left = true;
            match self.random.below(3) {
                0 => {
                    self.world.network.client_reset(client.id);
                    client.end = Some(Heard::Reset);
                }
                1 => client.leave = Leave::Fin,
                _ => {
                    let mut script = Vec::new();
                    client::frame(&mut self.random, true, 8, &1000_u16.to_be_bytes(), &mut script);
                    client.script.extend(script);
                    client.leave = Leave::Close(1000);
                }
            }
        }
    }

    /// Guests whose connection was opened, and has not ended.
    fn present(&self) -> impl Iterator<Item = &Guest> {
        let clients = self.world.clients.borrow();
        let is_present = move |guest: &&Guest| {
            clients[guest.at].decoder.opened && clients[guest.at].end.is_none() && !guest.has_left
        };
        self.guests.iter().filter(is_present)
    }

    fn connections(&self) -> BTreeMap<Ipv4Addr, usize> {
        let mut connections = BTreeMap::new();
        self.present().for_each(|guest| *connections.entry(guest.address).or_default() += 1);
        connections
    }

    /// Waits until those that have left are gone, and those that are there have got every answer.
    fn settle_all(&self) {
        self.settle("who leaves is gone, and who stays has every answer", |house| {
            let clients = house.world.clients.borrow();
            let answered = |guest: &Guest| clients[guest.at].heard.len() == guest.messages;
            house.present().all(answered) && house.world.connections() == house.present().count()
        });
        let clients = self.world.clients.borrow();
        for guest in self.present() {
            let own = |item: &Item| matches!(item, Item::Message(_, bytes) if bytes.iter().all(|byte| *byte == guest.at as u8));
            assert!(clients[guest.at].heard.iter().all(own), "each gets its own messages");
        }
    }

    /// Connections that an address may have.
    fn most(&self, limits: &PeerLimits) -> usize {
        let most = limits.addresses.max_connections_per_address.filter(|_| self.counts_all);
        most.map_or(usize::MAX, |most| most as usize)
    }

    /// Clients arrive, perhaps while the limits change.
    fn phase(&mut self) {
        self.settle_all();
        let before = self.connections();
        let first = self.guests.len();
        let old = self.limits.clone();
        let started = self.world.network.now();
        self.bans |= self.limits.addresses.bans.is_some();
        self.arrive();
        let reloads = self.random.chance(300);
        if reloads {
            self.world.pass(self.random.below(3_000_000) as Nanos);
            self.reload();
            self.bans |= self.limits.addresses.bans.is_some();
        }
        self.settle("everyone is let in or sent away", |house| {
            let clients = house.world.clients.borrow();
            house.guests[first..].iter().all(|guest| {
                let client = &clients[guest.at];
                client.decoder.opened || client.end.is_some()
            })
        });
        let seconds = (self.world.network.now() - started).div_ceil(SECOND) as usize;
        let limit = self.most(&old).max(self.most(&self.limits));
        let clients = self.world.clients.borrow();
        let mut in_all = 0;
        for (address, now) in self.connections() {
            let before = before.get(&address).copied().unwrap_or_default();
            let newcomers = self.guests[first..].iter().filter(|guest| guest.address == address);
            let newcomers = newcomers.count();
            assert!(now <= limit.max(before), "{now} of {address}, where {limit} are allowed");
            let AddressLimits { handshake_rate_per_address: by_address, handshake_rate, .. } =
                self.limits.addresses;
            let is_plain = by_address.is_none() && handshake_rate.is_none_or(|rate| rate.get() > 8);
            if !reloads && is_plain && !self.bans && self.counts_all {
                let expected = newcomers.min(limit.saturating_sub(before));
                assert_eq!(now - before, expected, "{address} has as many as it may");
            }
            if !reloads && let Some(rate) = by_address {
                assert!(now - before <= rate.get() as usize * (seconds + 1), "{address} at {rate:?}");
            }
            in_all += now - before;
        }
        if !reloads && let Some(rate) = self.limits.addresses.handshake_rate {
            assert!(in_all <= rate.get() as usize * (seconds + 1), "{in_all} at {rate:?}");
        }
        for guest in &self.guests[first..] {
            let client = &clients[guest.at];
            let is_told = client.decoder.opened || matches!(client.decoder.refused, Some(429 | 503));
            assert!(is_told || self.bans, "only a banned address is told nothing");
        }
    }
}

/// A header of the PROXY protocol.
fn header(random: &mut Random, client: Ipv4Addr) -> Vec<u8> {
    match random.below(3) {
        0 => format!("PROXY TCP4 {client} 10.0.0.1 40000 9001\r\n").into_bytes(),
        1 => format!("PROXY TCP6 {} ::1 40000 9001\r\n", client.to_ipv6_mapped()).into_bytes(),
        _ => {
            let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
            header.extend(client.octets());
            header.extend([10, 0, 0, 1, 0x9c, 0x40, 0x23, 0x29]);
            header
        }
    }
}

fn visits(seed: u64) {
    let mut house = House::new(seed);
    house.world.pass(3 * TRIM_INTERVAL);
    let idle_bytes = house.world.charged_bytes();
    for _ in 0..house.random.between(2, 6) {
        house.phase();
        house.send();
        house.world.pass(house.random.below(3) as Nanos * SECOND);
        if house.random.chance(500) {
            house.reload();
        }
        house.leave(300);
    }
    house.settle_all();
    house.leave(1_000);
    house.settle_all();
    let report = house.admission.report(usize::MAX, house.world.network.now());
    assert_eq!(report.connected, 0, "{report:?}");
    assert_eq!(house.world.ended_by("out-of-memory"), 0);
    house.world.pass(4 * TRIM_INTERVAL);
    assert_eq!(house.world.charged_bytes(), idle_bytes);
    // Each address may have what it is allowed, as if nobody had been there.
    let limits = PeerLimits {
        addresses: AddressLimits { max_connections_per_address: Some(2), ..AddressLimits::NONE },
        proxies: house.limits.proxies.clone(),
        ..PeerLimits::default()
    };
    house.world.reconfigure(&limits);
    house.limits = limits;
    house.world.pass(30 * SECOND);
    (house.bans, house.counts_all) = (false, true);
    house.phase();
    house.world.drain();
}

#[test]
fn limits_hold_and_are_forgotten_whoever_comes_and_goes_while_they_change() {
    for_each_seed("limits_hold_and_are_forgotten_whoever_comes_and_goes_while_they_change", visits);
}
