//! Newcomers to topics: they are let in however much is published to others.

use std::rc::Rc;

use echoring::buffer::{Budget, Lease};
use echoring::driver::sim::Random;
use echoring::hub::{Rules, Settings};
use echoring::protocol::handshake::OriginPolicy;
use echoring::server::{BroadcastSettings, Service};

use super::for_each_seed;
use super::sessions::{Session, notices, text};
use super::world::{World, config};

const MESSAGE_BYTES_MAX: u64 = 8 * 1024;
const LAG_BYTES: usize = 256 * 1024;

/// Shards whose mailboxes hold two of the longest messages.
fn world(seed: u64, shards: usize, rules: Rules) -> Rc<World<Service>> {
    let config = echoring::connection::Config { message_bytes_max: MESSAGE_BYTES_MAX, ..config() };
    let mailbox_bytes = 2 * (MESSAGE_BYTES_MAX as usize + 1024);
    let topics = Budget::new(1_000);
    World::new(seed, shards, config, mailbox_bytes, false, move |shard| {
        let settings = BroadcastSettings {
            rules: rules.clone(),
            topics: Lease::new(topics.clone(), 1),
            subscriptions_max: 100,
            message_bytes_max: MESSAGE_BYTES_MAX,
            seed: shard as u64,
        };
        Service::new(OriginPolicy::SameHost, MESSAGE_BYTES_MAX, LAG_BYTES as u32).with_broadcast(settings)
    })
}

/// Full mailboxes hold newcomers up no more than publishers: nobody is told that the node is busy.
fn firehose(seed: u64) {
    let mut random = Random::new(seed);
    let world = world(seed, random.between(2, 3), Rules::new(Vec::new(), Settings::default()));
    let mut publishers: Vec<Session> = (0..random.between(1, 4)).map(|_| Session::open(&world)).collect();
    world.run(|clients| clients.iter().all(|client| client.decoder.opened));
    for _ in 0..random.between(20, 60) {
        for publisher in &mut publishers {
            publisher.publish(&world, &mut random, "firehose", "", 6_000);
        }
    }
    let newcomers = random.between(4, 20);
    let raws: Vec<usize> =
        (0..newcomers).map(|newcomer| world.add(&format!("/broadcast/raw{newcomer}"))).collect();
    let mut sessions: Vec<Session> = (0..random.between(1, 3)).map(|_| Session::open(&world)).collect();
    for newcomer in 0..newcomers {
        let session = random.below(sessions.len());
        sessions[session].subscribe(&world, &mut random, &format!("session{newcomer}"), None);
    }
    for client in world.clients.borrow_mut().iter_mut() {
        client.hurry();
    }
    world.run_until_quiet();
    let clients = world.clients.borrow();
    for raw in raws {
        assert!(clients[raw].decoder.opened, "a raw subscriber is let in");
    }
    let answers = sessions.iter().flat_map(|session| notices(&clients[session.client]).0);
    let kinds: Vec<String> = answers.map(|answer| text(&answer, "type").to_owned()).collect();
    assert_eq!(kinds, vec!["subscribed"; newcomers], "every subscription is let in");
    let published: usize = publishers.iter().map(|publisher| publisher.published.len()).sum();
    drop(clients);
    assert_eq!(world.known().publications.accepted, published as u64);
    world.drain();
}

#[test]
fn a_firehose_on_one_topic_refuses_no_subscriber_of_others() {
    for_each_seed("a_firehose_on_one_topic_refuses_no_subscriber_of_others", firehose);
}
