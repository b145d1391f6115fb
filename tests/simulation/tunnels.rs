//! Connections of a shard through proxies, when the network delivers bytes in any pieces and sends are short.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use echoring_proto::buffer::Pool;
use echoring_proto::connection::{Cause, ConnectionConfig};
use echoring_proto::handshake::{BadHandshake, Dial, with_request, write_accept};
use echoring_proto::limits::{MILLISECOND, SECOND};
use echoring_proto::tunnel::{ProxyKind, ProxyServer, SocksRefusal, Tunnel, TunnelError};
use echoring_runtime::driver::sim::{Faults, Network, Random};
use echoring_runtime::driver::{Driver, Event, Options, Source, Token};
use echoring_runtime::limits::TRIM_INTERVAL;
use echoring_runtime::shard::{Allowance, Mailboxes, Route, Shard, ShardConfig};

use super::echo_client::{EchoClient, MESSAGE};
use super::for_each_seed;
use super::world::config;

const CONNECTIONS: usize = 6;

/// The proxy's behaviour for the server with this number in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Connect,
    Refuse,
    Babble,
    End,
    Ignore,
}

impl Plan {
    const ALL: [Plan; 5] = [Plan::Connect, Plan::Refuse, Plan::Babble, Plan::End, Plan::Ignore];

    fn response(self, kind: ProxyKind) -> &'static [u8] {
        match (self, kind) {
            (Plan::Connect, ProxyKind::Http) => b"HTTP/1.1 200 OK\r\nVia: 1.1 proxy\r\n\r\n",
            (Plan::Connect, ProxyKind::Socks5) => b"\x05\x00\x00\x03\x05proxy\x00\x50",
            (Plan::Refuse, ProxyKind::Http) => b"HTTP/1.1 407 No\r\n\r\n",
            (Plan::Refuse, ProxyKind::Socks5) => b"\x05\x05\x00\x01\0\0\0\0\0\0",
            (Plan::Babble, _) => b"220 mail.example ESMTP\r\n",
            (Plan::End, ProxyKind::Http) => b"HTTP/1.1 200 OK\r\n",
            (Plan::End, ProxyKind::Socks5) => b"\x05\x00\x00\x03\x05",
            (Plan::Ignore, _) => b"",
        }
    }

    fn cause(self, kind: ProxyKind) -> Cause {
        match (self, kind) {
            (Plan::Connect, _) => Cause::Local,
            (Plan::Refuse, ProxyKind::Http) => Cause::Tunnel(TunnelError::Status(407)),
            (Plan::Refuse, ProxyKind::Socks5) => Cause::Tunnel(TunnelError::Socks(SocksRefusal::Refused(5))),
            (Plan::Babble, ProxyKind::Http) => Cause::Tunnel(TunnelError::Http(BadHandshake::Malformed)),
            (Plan::Babble, ProxyKind::Socks5) => Cause::Tunnel(TunnelError::Socks(SocksRefusal::Malformed)),
            (Plan::End, _) => Cause::Gone,
            (Plan::Ignore, _) => Cause::HandshakeTimeout,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for the greeting of SOCKS5, or for CONNECT.
    First,
    /// Waits for the request of SOCKS5.
    Socks5,
    /// Waits for the request of the upgrade.
    Upgrade,
    /// Waits for the message.
    Message,
    /// Waits for the Close frame.
    Close,
    /// Nothing more is expected.
    Over,
}

/// One client of the proxy.
#[derive(Debug)]
struct ProxyClient {
    stage: Stage,
    heard: Vec<u8>,
    /// To be sent.
    out: Vec<u8>,
    /// The connection is closed behind that.
    closes: bool,
}

impl ProxyClient {
    /// Handles what has arrived, as proxy and then as server.
    fn handle(&mut self, plans: &[Plan]) {
        match self.stage {
            Stage::First if self.heard.starts_with(b"\x05\x01\x00") => {
                assert_eq!(self.heard.len(), 3, "nothing follows before the response");
                self.respond(b"\x05\x00", Stage::Socks5);
            }
            Stage::First if self.heard.ends_with(b"\r\n\r\n") => self.connect(plans, ProxyKind::Http),
            Stage::Socks5 if self.heard.ends_with(&[0, 80]) => self.connect(plans, ProxyKind::Socks5),
            Stage::Upgrade => {
                let key = with_request(&self.heard, |request, _| {
                    request.upgrade().expect("a valid upgrade").expect("an upgrade").key
                });
                if let Some(key) = key.expect("a valid request") {
                    let mut accept = Vec::new();
                    write_accept(&mut accept, &key, None, None, []);
                    self.respond(&accept, Stage::Message);
                }
            }
            Stage::Message if self.heard.len() == 2 + 4 + MESSAGE.len() => {
                let echo = [&[0x81, MESSAGE.len() as u8], MESSAGE].concat();
                self.respond(&echo, Stage::Close);
            }
            Stage::Close if self.heard.len() == 2 + 4 + 2 => {
                self.respond(b"\x88\x02\x03\xe8", Stage::Over);
                self.closes = true;
            }
            Stage::Over => panic!("{:?} follows", self.heard),
            _ => {}
        }
    }

    fn connect(&mut self, plans: &[Plan], kind: ProxyKind) {
        let heard = self.heard.escape_ascii().to_string();
        let (_, number) = heard.split_once("server-").expect("the name of a server");
        let plan = plans[number[..1].parse::<usize>().expect("a number")];
        self.closes = plan == Plan::End;
        self.respond(plan.response(kind), if plan == Plan::Connect { Stage::Upgrade } else { Stage::Over });
    }

    fn respond(&mut self, response: &[u8], next: Stage) {
        self.heard.clear();
        self.out.extend_from_slice(response);
        self.stage = next;
    }
}

/// A driver that serves as proxies of both kinds, and as the servers behind them.
struct Proxies {
    driver: Driver,
    pool: Pool,
    clients: BTreeMap<Token, ProxyClient>,
}

impl Proxies {
    fn tick(&mut self, random: &mut Random, plans: &[Plan]) {
        let mut events = Vec::new();
        self.driver.tick(&mut self.pool, Some(0), &mut events).expect("a simulated driver works");
        for event in events {
            match event {
                Event::Accepted { token, .. } => {
                    let client = ProxyClient {
                        stage: Stage::First,
                        heard: Vec::new(),
                        out: Vec::new(),
                        closes: false,
                    };
                    self.clients.insert(token, client);
                }
                Event::Received { token, span } => {
                    let bytes = self.driver.received(span);
                    if let Some(client) = self.clients.get_mut(&token) {
                        client.heard.extend_from_slice(bytes);
                        client.handle(plans);
                    }
                }
                Event::Ended { token } => self.driver.close(token),
                Event::Failed { token, .. } => self.driver.abort(token),
                Event::Closed { token } => drop(self.clients.remove(&token)),
                _ => {}
            }
        }
        for (token, client) in &mut self.clients {
            let bytes = random.between(1, client.out.len().max(1)).min(client.out.len());
            let piece = Bytes::copy_from_slice(&client.out[..bytes]);
            if bytes > 0 && self.driver.send(*token, Source::Shared(piece.into())).is_ok() {
                client.out.drain(..bytes);
            }
            if client.closes && client.out.is_empty() {
                client.closes = false;
                self.driver.close(*token);
            }
        }
    }
}

fn tunnel(seed: u64) {
    let mut random = Random::new(seed);
    let faults = Faults { refused_piece: [0, 100, 500][random.below(3)], ..Faults::random(&mut random) };
    let network = Network::new(seed, faults);
    let options = Options { connections: 16, ..Options::default() };
    let mut driver = network.driver(&options);
    driver.listen(network.listener().expect("a descriptor"), 0).expect("a simulated driver listens");
    let mut proxies = Proxies { driver, pool: Pool::standalone(), clients: BTreeMap::new() };

    let plans: Vec<Plan> = (0..CONNECTIONS).map(|_| Plan::ALL[random.below(Plan::ALL.len())]).collect();
    let kinds: Vec<ProxyKind> =
        (0..CONNECTIONS).map(|_| [ProxyKind::Http, ProxyKind::Socks5][random.below(2)]).collect();
    let routes = kinds.iter().enumerate().map(|(number, kind)| {
        let proxy = ProxyServer::parse("proxy", *kind).expect("a proxy");
        let tunnel = Tunnel::new(&proxy, &format!("server-{number}"), 80).expect("encodable");
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1080));
        Route { tunnel: Some(Arc::new(tunnel)), ..Route::from(address) }
    });
    let client = EchoClient::new(routes.collect());
    let dial = Dial {
        host: "server".to_owned(),
        path: "/".to_owned(),
        origin: None,
        subprotocols: Vec::new(),
        headers: Vec::new(),
    };
    let connection = ConnectionConfig { dial: Some(dial), handshake_timeout: 20 * SECOND, ..config() };
    let shard_config =
        ShardConfig { connection, connections: 16, security: Default::default(), seed: seed.into() };
    let mailboxes = Mailboxes::connect(1, 0).remove(0);
    let driver = network.driver(&options);
    let mut shard = Shard::new(driver, client, shard_config, Allowance::standalone(16), mailboxes);

    let mut step = |shard: &mut Shard<EchoClient>, time| {
        network.advance(time);
        shard.tick(Some(0)).expect("a simulated driver works");
        proxies.tick(&mut random, &plans);
    };
    for steps in 0.. {
        step(&mut shard, 10 * MILLISECOND);
        if shard.application().is_over() {
            break;
        }
        assert!(steps < 10_000, "the connections do not end");
    }
    for (number, connection) in shard.application().connections.iter().enumerate() {
        let (plan, kind) = (plans[number], kinds[number]);
        let cause = connection.closed.as_ref().map(|closed| &closed.cause);
        assert_eq!(cause, Some(&plan.cause(kind)), "{plan:?} {kind:?}");
        let echo = if plan == Plan::Connect { MESSAGE } else { b"" };
        assert_eq!(connection.echo, echo, "{plan:?} {kind:?}");
    }
    for _ in 0..4 {
        step(&mut shard, TRIM_INTERVAL);
    }
    assert_eq!((shard.connections(), shard.charged_bytes()), (0, 0), "no buffer is kept or lost");
}

#[test]
fn tunnels_come_about_or_fail_whatever_the_network_does() {
    for_each_seed("tunnels_come_about_or_fail_whatever_the_network_does", tunnel);
}
