//! Every client gets back exactly the bytes that it sent, in order, whatever the network and other clients do.

use echoring_topics::HubReport;
use std::collections::VecDeque;

use echoring_proto::connection::{Chunk, Closed};
use echoring_proto::handshake::{Request, Upgrade};
use echoring_proto::limits::QUEUE_BYTES_DEFAULT;
use echoring_runtime::driver::Token;
use echoring_runtime::driver::sim::{Heard, Random};
use echoring_runtime::shard::{Answer, Application, ConnectionContext, Context, Disposition, Kinds};
use echoring_server::{Handler, Message, Migrate, Remote, Result, Route, Routes, Service, ThawContext};

use super::client::{self, Client, Item, Leave, MessageKind};
use super::for_each_seed;
use super::world::{World, config, move_some};

/// A minimal application that echoes whole messages.
#[derive(Debug)]
struct Echo;

impl Kinds for Echo {
    type Peer = ();
    type Message = ();
}

impl Application for Echo {
    type Kinds = Echo;
    type Command = ();
    type Report = HubReport;

    fn report(&self) -> HubReport {
        HubReport::default()
    }

    fn request(
        &mut self,
        _: &mut Context<'_, Echo>,
        _: Token,
        _: &Request<'_>,
        _: Option<&Upgrade<'_>>,
    ) -> Answer<()> {
        Answer::Upgrade { peer: (), subprotocol: None, whole: true }
    }

    fn chunk(&mut self, _: &mut ConnectionContext<'_, Echo>, _: Chunk<'_>) -> Disposition {
        Disposition::Echo
    }

    fn closed(&mut self, _: &mut Context<'_, Echo>, _: Token, (): (), _: &Closed) {}
}

/// What a client must receive.
#[derive(Debug, Default)]
struct Expected {
    messages: VecDeque<(MessageKind, Vec<u8>)>,
    /// Each ping, with the number of messages that had begun before it.
    pings: VecDeque<(Vec<u8>, usize)>,
}

fn write_script(client: &mut Client, random: &mut Random) -> Expected {
    let mut expected = Expected::default();
    let mut script = Vec::new();
    let mut pings = 0_u32;
    let mut ping = |random: &mut Random, out: &mut Vec<u8>, begun: usize, list: &mut VecDeque<_>| {
        pings += 1;
        let mut payload = pings.to_be_bytes().to_vec();
        payload.resize(random.between(4, 125), 0x70);
        client::frame(random, true, 9, &payload, out);
        list.push_back((payload, begun));
    };
    for _ in 0..random.between(1, 14) {
        if random.chance(200) {
            ping(random, &mut script, expected.messages.len(), &mut expected.pings);
            continue;
        }
        let kind = if random.chance(500) { MessageKind::Text } else { MessageKind::Binary };
        let payload = client::payload(random, kind, 200_000);
        let begun = expected.messages.len() + 1;
        client::message(random, kind, &payload, &mut script, |random, out| {
            if random.chance(300) {
                ping(random, out, begun, &mut expected.pings);
            }
        });
        expected.messages.push_back((kind, payload));
    }
    let leave = match random.below(10) {
        0..=5 => Leave::Close([1000, 1001, 3000, 4999][random.below(4)]),
        6 => Leave::Fin,
        7 => Leave::Reset(random.between(0, script.len() + 300)),
        _ => {
            let (code, bytes): (u16, &[u8]) = [
                (1002, &[0x81, 0x01, b'x'][..]),
                (1002, &[0x83, 0x80, 0, 0, 0, 0]),
                (1002, &[0xc1, 0x80, 0, 0, 0, 0]),
                (1002, &[0x80, 0x80, 0, 0, 0, 0]),
                (1002, &[0x09, 0x80, 0, 0, 0, 0]),
                (1007, &[0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28]),
                (1009, &[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            ][random.below(7)];
            script.extend_from_slice(bytes);
            Leave::ProtocolError(code)
        }
    };
    if let Leave::Close(code) = leave {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(&b"goodbye"[..random.below(8)]);
        client::frame(random, true, 8, &payload, &mut script);
    }
    client.leave = leave;
    client.script.extend(script);
    expected
}

/// Checks everything that a client received.
fn check(client: &Client, expected: &Expected, breaks: bool) {
    let mut messages = expected.messages.iter();
    let mut pings: Vec<_> = expected.pings.iter().collect();
    let mut echoed = 0;
    let mut last_ping = None;
    let mut code = None;
    for item in &client.heard {
        match item {
            Item::Message(kind, payload) => {
                let (sent_kind, sent) = messages.next().expect("no more echoes than messages");
                assert_eq!(kind, sent_kind);
                assert!(payload == sent, "message {echoed} of {} bytes came back changed", sent.len());
                echoed += 1;
            }
            Item::Pong(payload) => {
                // Not always in order: one that was copied behind data may be overtaken by a later one.
                let at = pings.iter().position(|(ping, _)| ping == payload);
                let ping = pings.remove(at.expect("a pong answers a ping, once"));
                assert!(echoed <= ping.1, "a pong is never later than the echo of a message begun after it");
                last_ping = last_ping.max(Some(ping));
            }
            Item::Ping(_) => panic!("pings are off"),
            Item::Close(said) => code = Some(*said),
        }
    }
    if !client.is_unbroken() {
        // It left by a reset, or the network broke it: what it heard is right as far as it goes.
        assert!(breaks || matches!(client.leave, Leave::Reset(_) | Leave::ProtocolError(_) | Leave::Fin));
        return;
    }
    match client.leave {
        Leave::Close(said) => {
            assert_eq!(echoed, expected.messages.len(), "nothing is lost before a clean close");
            assert_eq!(last_ping, expected.pings.back(), "the last ping is answered");
            assert_eq!(code, Some(said), "the close code comes back");
            assert_eq!(client.end, Some(Heard::End));
            assert!(client.decoder.is_between_items());
            assert!(client.was_parted_from(), "an end that is not said could be a forged one");
        }
        // Its Close overtakes what is queued.
        Leave::ProtocolError(expected) => assert_eq!(code, Some(expected)),
        Leave::Fin | Leave::Reset(_) | Leave::Told => {}
    }
}

fn echo<A: Application<Report = HubReport> + 'static>(
    seed: u64,
    path: &str,
    secured: bool,
    application: impl Fn(usize) -> A,
) {
    echo_in(seed, path, secured, application, |_| {});
}

fn echo_in<A: Application<Report = HubReport> + 'static>(
    seed: u64,
    path: &str,
    secured: bool,
    application: impl Fn(usize) -> A,
    prepare: impl FnOnce(&World<A>),
) {
    let mut random = Random::new(seed);
    let shards = random.between(1, 3);
    let world = World::new(seed, shards, config(), 4 << 20, secured, application);
    let breaks = random.chance(150);
    if breaks {
        world.break_connections(random.between(1, 5) as u32);
    }
    prepare(&world);
    let mut expected = Vec::new();
    for _ in 0..random.between(1, 6) {
        let client = world.add(path);
        let mut clients = world.clients.borrow_mut();
        if random.chance(150) {
            clients[client].impatient();
        }
        expected.push(write_script(&mut clients[client], &mut random));
    }
    world.run(|clients| clients.iter().all(|client| client.end.is_some()));
    for (client, expected) in world.clients.borrow().iter().zip(&expected) {
        check(client, expected, breaks);
    }
    world.drain();
}

fn service() -> Service {
    super::service::service(config().max_message, QUEUE_BYTES_DEFAULT)
}

#[test]
fn echoes_come_back_exactly() {
    for_each_seed("echoes_come_back_exactly", |seed| echo(seed, "/echo", false, |_| service()));
}

/// Whatever the moment at which a connection moves, its bytes are one stream in each direction.
#[test]
fn echoes_come_back_exactly_while_their_connections_move() {
    for_each_seed("echoes_come_back_exactly_while_their_connections_move", |seed| {
        echo_in(seed, "/echo", false, |_| service(), |world| move_some(world, seed));
    });
}

#[test]
fn echoes_of_whole_messages_come_back_exactly() {
    for_each_seed("echoes_of_whole_messages_come_back_exactly", |seed| echo(seed, "/echo", false, |_| Echo));
}

/// A minimal handler that echoes, whole messages or chunks.
struct Parrot {
    streaming: bool,
}

impl Handler for Parrot {
    fn is_streaming(&self) -> bool {
        self.streaming
    }

    fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
        assert!(!self.streaming);
        Ok(Disposition::Echo)
    }

    fn chunk(&mut self, _: &mut Remote<'_>, _: &Chunk<'_>) -> Result<Disposition> {
        assert!(self.streaming);
        Ok(Disposition::Echo)
    }
}

impl Migrate for Parrot {
    fn freeze(&self) -> Option<Vec<u8>> {
        Some(vec![u8::from(self.streaming)])
    }

    fn thaw(state: &[u8], _: &ThawContext<'_>) -> Option<Parrot> {
        Some(Parrot { streaming: state == [1] })
    }
}

fn parrots() -> Routes {
    let mut routes = Routes::default();
    routes.add(Route::new("/whole", || Parrot { streaming: false }).migrates::<Parrot>());
    routes.add(Route::new("/streamed", || Parrot { streaming: true }).migrates::<Parrot>());
    routes
}

#[test]
fn echoes_by_handlers_come_back_exactly() {
    for_each_seed("echoes_by_handlers_come_back_exactly", |seed| {
        let path = if seed % 2 == 0 { "/whole" } else { "/streamed" };
        echo(seed, path, false, |_| service().with_routes(parrots()));
    });
}

/// Chunks arrive in the middle of moves, too.
#[test]
fn echoes_by_handlers_come_back_exactly_while_their_connections_move() {
    for_each_seed("echoes_by_handlers_come_back_exactly_while_their_connections_move", |seed| {
        let path = if seed % 2 == 0 { "/whole" } else { "/streamed" };
        let service = |_| service().with_routes(parrots());
        echo_in(seed, path, false, service, |world| move_some(world, seed));
    });
}

#[test]
fn echoes_through_tls_come_back_exactly() {
    for_each_seed("echoes_through_tls_come_back_exactly", |seed| match seed % 4 {
        0 => echo(seed, "/echo", true, |_| Echo),
        1 => echo(seed, "/streamed", true, |_| service().with_routes(parrots())),
        2 => echo(seed, "/echo", true, |_| service()),
        _ => echo_in(seed, "/echo", true, |_| service(), |world| move_some(world, seed)),
    });
}
