//! Pauses of thousands of ticks: peers that do not read, with compression, and handlers that are backpressured. Other peers
//! are served meanwhile, the cost of a peer stays bounded, and a peer that leaves frees its slot.

use std::rc::Rc;

use echoring_proto::connection::{self, Compression};
use echoring_proto::limits::{INFLATED_BYTES_PER_TICK, SECOND};
use echoring_runtime::driver::sim::{Heard, Random};
use echoring_runtime::limits::TRIM_INTERVAL;
use echoring_server::Service;

use super::client::{self, Item, Leave, MessageKind};
use super::for_each_seed;
use super::service::service;
use super::world::{World, config};

/// Bytes of a message: 64 KiB, of which DEFLATE leaves about a hundred.
const MESSAGE_BYTES: usize = 64 * 1024;
/// A message and its header lie in a buffer of the next size, which is twice as large.
const BUFFER_SHARE: usize = 2;
/// A connection is read up to three times in a tick, what arrived and what was parked, and the simulated kernel may look at
/// what is sent a tick later.
const READS_MAX: usize = 6;
/// The server's messages cannot be deflated with so small a window.
const PLAIN_ANSWERS: &str = "permessage-deflate; server_max_window_bits=8";
/// Messages of the client that is served all the time, each of which takes several ticks.
const CHATTER: usize = 1_000;

fn world(seed: u64, connection: connection::ConnectionConfig, secured: bool) -> Rc<World<Service>> {
    let shards = Random::new(seed ^ 7).between(1, 2);
    let queue_bytes = connection.queue_bytes;
    World::new(seed, shards, connection.clone(), 4 << 20, secured, move |_| {
        service(connection.max_message, queue_bytes).with_test_endpoints()
    })
}

/// Adds a client that sends `messages` messages and reads no answer.
fn add_stalled(world: &World<Service>, random: &mut Random, path: &str, messages: usize) -> usize {
    // A stream of one block that is the last: its end needs a further byte (RFC 7692, 7.2.3.4).
    let mut payload = miniz_oxide::deflate::compress_to_vec(&[b'x'; MESSAGE_BYTES], 6);
    payload.push(0);
    let mut script = Vec::new();
    for _ in 0..messages {
        client::frame(random, true, 0x42, &payload, &mut script);
    }
    let at = world.add_offering(path, PLAIN_ANSWERS);
    let client = &mut world.clients.borrow_mut()[at];
    client.script.extend(script);
    client.reads = false;
    at
}

/// Lets one client echo [`CHATTER`] messages while the others act.
fn chatter(world: &World<Service>, random: &mut Random) {
    let at = world.add("/echo");
    {
        let client = &mut world.clients.borrow_mut()[at];
        let mut script = Vec::new();
        for number in 0..CHATTER {
            client::frame(random, true, 2, &(number as u64).to_be_bytes(), &mut script);
        }
        client.script.extend(script);
        (client.eagerness, client.sip_bytes) = (1_000, 1 << 20);
    }
    world.run(move |clients| clients[at].heard.len() == CHATTER);
}

/// A peer that does not read is not read from either, and gets everything in the end.
fn stalled_readers(seed: u64) {
    let mut random = Random::new(seed);
    let connection = connection::ConnectionConfig { compression: Some(Compression::default()), ..config() };
    let queue_bytes = connection.queue_bytes as usize;
    let world = world(seed, connection, random.chance(250));
    let messages = random.between(30, 60);
    let stalled: Vec<usize> =
        (0..random.between(1, 3)).map(|_| add_stalled(&world, &mut random, "/echo", messages)).collect();
    // A slow one may still be at its handshake.
    world.run(|clients| clients.iter().all(|client| client.decoder.opened));
    chatter(&world, &mut random);
    // Buffers that nobody holds are kept for a while.
    world.pass(3 * TRIM_INTERVAL);
    let (connections, pool_bytes) = world.held();
    assert_eq!(connections, stalled.len() as u64 + 1);
    let each = BUFFER_SHARE * (READS_MAX * (INFLATED_BYTES_PER_TICK + MESSAGE_BYTES) + queue_bytes);
    assert!(pool_bytes < (each * stalled.len()) as u64, "{pool_bytes} bytes for {}", stalled.len());
    for client in world.clients.borrow_mut().iter_mut() {
        client.reads = true;
        // SlowConsumerPolicy, but not by so much that the simulation takes for ever.
        client.sip_bytes = client.sip_bytes.max(20_000);
    }
    let readers = stalled.clone();
    world.run(move |clients| readers.iter().all(|&at| clients[at].heard.len() == messages));
    for &at in &stalled {
        for item in &world.clients.borrow()[at].heard {
            let Item::Message(MessageKind::Binary, payload) = item else { panic!("{item:.60?}") };
            assert!(payload.len() == MESSAGE_BYTES && payload.iter().all(|byte| *byte == b'x'));
        }
    }
    world.drain();
}

#[test]
fn whoever_stalls_for_thousands_of_turns_has_no_further_message_inflated() {
    for_each_seed("whoever_stalls_for_thousands_of_turns_has_no_further_message_inflated", stalled_readers);
}

/// A client that resets is removed, and one that half-closes is pinged.
fn held_up_handlers(seed: u64) {
    let mut random = Random::new(seed);
    let connection = connection::ConnectionConfig { close_timeout: 5 * SECOND, ..config() };
    let world = world(seed, connection, false);
    let mut leaving = Vec::new();
    for leave in [Leave::Reset(usize::MAX), Leave::Fin, Leave::Told] {
        let at = world.add("/slow-read?bytes_per_s=64");
        let client = &mut world.clients.borrow_mut()[at];
        let mut script = Vec::new();
        for _ in 0..random.between(2, 40) {
            client::frame(&mut random, true, 2, &[7; 20_000], &mut script);
        }
        client.script.extend(script);
        // A network of few bytes may keep the last from being written, and with them the end.
        if leave == Leave::Fin {
            client.script.truncate(client.script.len().min(1_000) + 1_000);
        }
        client.leave = leave;
        leaving.push(at);
    }
    chatter(&world, &mut random);
    world.network.client_reset(world.clients.borrow()[leaving[0]].id);
    world.clients.borrow_mut()[leaving[0]].end = Some(Heard::Reset);
    world.pass(SECOND);
    let (connections, _) = world.held();
    assert!(connections <= 3, "{connections} are left when one of four is gone");
}

#[test]
fn whoever_resets_while_a_handler_is_held_up_leaves_its_place() {
    for_each_seed("whoever_resets_while_a_handler_is_held_up_leaves_its_place", held_up_handlers);
}

/// In virtual time: a ping after the silence, and the end if there is no pong. A backpressured handler reads no pong,
/// so none is awaited.
fn silent_peers(seed: u64) {
    let mut random = Random::new(seed);
    let connection = connection::ConnectionConfig {
        ping_interval: 25 * SECOND,
        pong_timeout: 10 * SECOND,
        close_timeout: 5 * SECOND,
        ..config()
    };
    let world = world(seed, connection, false);
    let silent = world.add("/echo");
    let held_up = world.add("/slow-read?bytes_per_s=64");
    {
        let client = &mut world.clients.borrow_mut()[held_up];
        let mut script = Vec::new();
        client::frame(&mut random, true, 2, &[7; 20_000], &mut script);
        client.script.extend(script);
    }
    world.run(move |clients| clients.iter().all(|client| client.decoder.opened && client.script.is_empty()));
    let pings = |at: usize| {
        world.clients.borrow()[at].heard.iter().filter(|item| matches!(item, Item::Ping(_))).count()
    };
    world.pass(30 * SECOND);
    assert_eq!((pings(silent), world.held().0), (1, 2), "pings, and who is there");
    // However the network took the ping, in one piece or two, the pong is due ten seconds behind it.
    world.pass(6 * SECOND);
    assert_eq!(world.held().0, 1, "a peer that answers no ping is there still");
    world.pass(100 * SECOND);
    assert_eq!(world.held().0, 1, "nobody is to answer who is not read");
    assert!(pings(held_up) >= 4, "{} pings", pings(held_up));
}

#[test]
fn a_silent_peer_is_pinged_and_dropped_and_one_that_is_held_up_is_only_pinged() {
    for_each_seed("a_silent_peer_is_pinged_and_dropped_and_one_that_is_held_up_is_only_pinged", silent_peers);
}
