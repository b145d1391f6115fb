//! Peers that hold memory: readers continue, and peers that do not read are closed at their deadline, or earlier when
//! the node is short of memory. Afterwards all memory is free again.

use std::rc::Rc;

use echoring_proto::connection;
use echoring_proto::limits::{MEMORY_BUDGET_MIN, SECOND, SEND_TIMEOUT};
use echoring_runtime::driver::sim::Random;
use echoring_runtime::limits::{SEND_LOOKS, TRIM_INTERVAL};
use echoring_server::Service;

use super::client::{self, Item, MessageKind};
use super::for_each_seed;
use super::service::service;
use super::world::{Memory, World, config};

const QUEUE_BYTES: u32 = 256 * 1024;

fn world(seed: u64, shards: usize, memory: Memory) -> Rc<World<Service>> {
    let config =
        connection::ConnectionConfig { queue_bytes: QUEUE_BYTES, send_timeout: SEND_TIMEOUT, ..config() };
    let max_message = config.max_message;
    World::with_memory(seed, shards, config, 1 << 21, false, memory, move |_| {
        service(max_message, QUEUE_BYTES)
    })
}

/// Clients that write and never read, each holding as much memory as it can.
fn add_deaf(world: &World<Service>, random: &mut Random, count: usize) -> Vec<usize> {
    let mut deaf = Vec::new();
    for _ in 0..count {
        let client = world.add("/echo");
        let mut script = Vec::new();
        for _ in 0..20 {
            let bytes = random.between(10_000, 60_000);
            client::frame(random, true, 2, &vec![7; bytes], &mut script);
        }
        let mut clients = world.clients.borrow_mut();
        clients[client].script.extend(script);
        clients[client].eagerness = 1_000;
        clients[client].impatient();
        clients[client].reads = false;
        deaf.push(client);
    }
    deaf
}

/// Has some clients send messages, and waits until all of those have come back.
fn echo(world: &World<Service>, random: &mut Random, readers: &[usize], messages: usize) {
    let mut awaited = Vec::new();
    for &reader in readers {
        let mut clients = world.clients.borrow_mut();
        let mut script = Vec::new();
        for _ in 0..messages {
            let bytes = random.below(20_000);
            client::frame(random, true, 2, &vec![reader as u8; bytes], &mut script);
        }
        clients[reader].script.extend(script);
        clients[reader].hurry();
        awaited.push((reader, clients[reader].heard.len() + messages));
    }
    world.run(move |clients| awaited.iter().all(|(reader, count)| clients[*reader].heard.len() >= *count));
    let clients = world.clients.borrow();
    for &reader in readers {
        assert!(clients[reader].end.is_none(), "who reads goes on");
        assert!(clients[reader].heard.iter().all(
            |item| matches!(item, Item::Message(MessageKind::Binary, bytes) if bytes.iter().all(|b| *b == reader as u8))
        ));
    }
}

fn stalled(seed: u64) {
    let mut random = Random::new(seed);
    let shards = random.between(1, 3);
    let memory =
        Memory { budget_bytes: MEMORY_BUDGET_MIN << random.below(2), refused: [0, 5, 50][random.below(3)] };
    let world = world(seed, shards, memory);
    let readers: Vec<usize> = (0..10).map(|_| world.add("/echo")).collect();
    echo(&world, &mut random, &readers, 2);
    let count = [3, 30, 70][random.below(3)];
    let deaf = add_deaf(&world, &mut random, count);
    for _ in 0..5 {
        echo(&world, &mut random, &readers, 3);
    }
    world.run_until_quiet();
    echo(&world, &mut random, &readers, 3);
    // Each of them is ended, by its deadline at the latest.
    world.pass(SEND_TIMEOUT + SEND_TIMEOUT / SEND_LOOKS + 3 * TRIM_INTERVAL + SECOND);
    echo(&world, &mut random, &readers, 3);
    assert_eq!(world.ended_by("over-share") + world.ended_by("send-timeout"), count as u64);
    for at in deaf {
        let mut clients = world.clients.borrow_mut();
        clients[at].reads = true;
        clients[at].script.clear();
        clients[at].hurry();
    }
    let some = readers.len();
    world.run(move |clients| clients[some..].iter().all(|client| client.end.is_some()));
    assert_eq!(world.ended_by("out-of-memory"), 0);
    world.drain();
}

#[test]
fn peers_that_never_read_are_ended_and_those_that_do_go_on() {
    // Each has as much to do as twenty others.
    for_each_seed("peers_that_never_read_are_ended_and_those_that_do_go_on", |seed| {
        if seed < 50 || std::env::var_os("SIMULATION_SEED").is_some() {
            stalled(seed);
        }
    });
}
