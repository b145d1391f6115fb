//! Frames that are not messages: notices, presence events and heartbeats.

use super::world::{CODEC, PLAIN, RESUMING, WITH_EVENTS, World};
use crate::{Compression, Deltas, Encoding, Format, SlowConsumerPolicy, TopicSettings};
use echoring_proto::limits::Nanos;

#[test]
fn notices_go_to_formats_with_events_and_are_not_counted() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    world.subscribe(1, WITH_EVENTS);
    world.subscribe(2, PLAIN);
    world.publish(b"a", 1);
    world.append_notice(b"!");
    world.publish(b"b", 2);
    assert_eq!((world.got(1), world.got(2)), (&b"a!b"[..], &b"ab"[..]));
    assert_eq!((world.topics.deliveries().offered, world.topics.deliveries().sent), (4, 4));
}

#[test]
fn a_resuming_subscriber_gets_presence_events_and_no_other_notices() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    world.subscribe(1, RESUMING);
    let deaf = Encoding::Resuming { codec: CODEC, presence: false, deltas: Deltas::Off, filtered: false };
    world.subscribe(2, Format { dialect: deaf, compression: Compression::Off });
    world.append_notice(b"!");
    world.append_presence(b"!");
    world.deliver(1);
    assert_eq!((world.text_of(1), world.text_of(2)), ("!".to_owned(), String::new()));
    let mut silent = Vec::new();
    world.topics.silent(Nanos::MAX / 2, &mut silent, &mut world.peers.pool);
    assert!(silent.is_empty(), "nobody waits for a heartbeat");
}

#[test]
fn a_subscriber_that_missed_presence_events_is_told_that_its_list_is_stale() {
    for slow in [SlowConsumerPolicy::DropOldest, SlowConsumerPolicy::Conflate] {
        let mut world = World::slow(slow);
        let member = world.subscribe(1, WITH_EVENTS);
        world.peers.stuck.push(1);
        world.append_presence(b"(joined)");
        world.deliver(1);
        for at in 2..40 {
            world.publish_keyed("k", &[b'x'; 50], at);
        }
        world.peers.stuck.clear();
        world.catch_up(member, 40);
        let told = world.text_of(1);
        assert!(told.starts_with("<t:stale>"), "{slow:?}: {told}");
        assert!(!told.contains("(joined)"), "{slow:?}: {told}");
        // Who keeps up misses nothing.
        let world = &mut World::slow(slow);
        world.subscribe(1, WITH_EVENTS);
        world.append_presence(b"(joined)");
        world.deliver(1);
        for at in 2..40 {
            world.publish_keyed("k", &[b'x'; 50], at);
        }
        assert!(world.text_of(1).starts_with("(joined)x") && !world.text_of(1).contains("stale"), "{slow:?}");
    }
}

#[test]
fn silence_is_noticed_once_per_interval() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    let mut silent = Vec::new();
    let heartbeat = TopicSettings::default().heartbeat;
    world.topics.silent(2 * heartbeat, &mut silent, &mut world.peers.pool);
    assert!(silent.is_empty(), "nobody is there");
    world.subscribe(1, WITH_EVENTS);
    world.publish(b"a", 2 * heartbeat);
    world.topics.silent(3 * heartbeat - 1, &mut silent, &mut world.peers.pool);
    assert!(silent.is_empty());
    world.topics.silent(3 * heartbeat, &mut silent, &mut world.peers.pool);
    world.topics.silent(3 * heartbeat, &mut silent, &mut world.peers.pool);
    assert_eq!(silent, [world.id]);
}
