//! Handlers with timers, in virtual time: the endpoints for test harnesses, with clients that read at any speed.

use std::rc::Rc;

use echoring_proto::limits::{MILLISECOND, Nanos, QUEUE_BYTES_DEFAULT, SECOND};
use echoring_runtime::driver::sim::Random;
use echoring_server::Service;

use super::client::{self, Item, MessageKind};
use super::for_each_seed;
use super::service::service;
use super::world::{World, config};

fn world(seed: u64, shards: usize) -> Rc<World<Service>> {
    World::new(seed, shards, config(), 4 << 20, false, |_| {
        service(config().max_message, QUEUE_BYTES_DEFAULT).with_test_endpoints()
    })
}

/// Sources send every number, not before it is due, however slowly clients read.
fn sources(seed: u64) {
    let mut random = Random::new(seed);
    let world = world(seed, random.between(1, 2));
    let count = random.between(1, 40);
    let rate = [100, 1_000, 100_000][random.below(3)];
    let kind = ["text", "binary"][random.below(2)];
    // Many of the longest are more than a connection's queue.
    let bytes = [8, 500, 20_000][random.below(3)];
    let path = format!("/source?rate={rate}&bytes={bytes}&kind={kind}&count={count}");
    let started = world.network.now();
    for _ in 0..random.between(1, 4) {
        let client = world.add(&path);
        // SlowConsumerPolicy, but not by so much that the simulation takes for ever.
        let sip_bytes_min = bytes * count / 2_000;
        let client = &mut world.clients.borrow_mut()[client];
        client.sip_bytes = client.sip_bytes.max(sip_bytes_min);
    }
    world.run(|clients| clients.iter().all(|client| client.end.is_some()));
    let least = (count as Nanos - 1) * (SECOND / rate);
    assert!(world.network.now() - started >= least, "no number comes before its time");
    for client in world.clients.borrow().iter() {
        let (last, numbers) = client.heard.split_last().expect("something was heard");
        assert_eq!(last, &Item::Close(1000));
        assert_eq!(numbers.len(), count);
        for (number, item) in numbers.iter().enumerate() {
            let Item::Message(heard, payload) = item else { panic!("{item:?}") };
            assert_eq!(
                (*heard, payload.len()),
                (if kind == "text" { MessageKind::Text } else { MessageKind::Binary }, bytes)
            );
            match heard {
                MessageKind::Text => assert!(payload.starts_with(format!("{number}.").as_bytes())),
                MessageKind::Binary => assert_eq!(payload[..8], (number as u64).to_be_bytes()),
            }
        }
    }
    world.drain();
}

#[test]
fn sources_leave_out_no_number() {
    for_each_seed("sources_leave_out_no_number", sources);
}

/// Delayed or fragmented messages come back complete, in order, and not too early.
fn delays(seed: u64) {
    let mut random = Random::new(seed);
    let world = world(seed, random.between(1, 2));
    let delay_ms = random.between(0, 90);
    let started = world.network.now();
    let mut sent = Vec::new();
    for _ in 0..random.between(1, 3) {
        let delayed = random.chance(600);
        let path = if delayed {
            format!("/delay?ms={delay_ms}")
        } else {
            format!("/fragment?parts={}", random.between(1, 20))
        };
        let client = world.add(&path);
        let mut clients = world.clients.borrow_mut();
        let mut script = Vec::new();
        let mut messages = Vec::new();
        for _ in 0..random.between(1, 15) {
            let kind = if random.chance(500) { MessageKind::Text } else { MessageKind::Binary };
            let payload = client::payload(&mut random, kind, 50_000);
            client::message(&mut random, kind, &payload, &mut script, |_, _| {});
            messages.push(Item::Message(kind, payload));
        }
        clients[client].script.extend(script);
        sent.push((delayed, messages));
    }
    let counts: Vec<usize> = sent.iter().map(|(_, messages)| messages.len()).collect();
    world.run(move |clients| clients.iter().zip(&counts).all(|(client, count)| client.heard.len() == *count));
    if sent.iter().any(|(delayed, _)| *delayed) {
        assert!(world.network.now() - started >= delay_ms as Nanos * MILLISECOND);
    }
    for (client, (_, messages)) in world.clients.borrow().iter().zip(&sent) {
        assert!(client.heard == *messages, "everything comes back as it was");
    }
    world.drain();
}

#[test]
fn delayed_and_fragmented_echoes_come_back_exactly() {
    for_each_seed("delayed_and_fragmented_echoes_come_back_exactly", delays);
}
