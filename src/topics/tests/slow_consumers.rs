//! Subscribers that lag: each policy, and the bounds in bytes and in time.

use std::fmt::Write as _;

use super::world::{LARGE, PLAIN, RESUMING, SMALL, WITH_EVENTS, World};
use crate::{Deliveries, SlowConsumerPolicy};

#[test]
fn a_laggard_catches_up_and_is_removed_when_it_falls_off_the_log() {
    let mut world = World::new();
    let member = world.subscribe(1, PLAIN);
    world.subscribe(2, PLAIN);
    world.peers.stuck = vec![1];
    (0..5).for_each(|_| drop(world.publish(&[b'x'; 10], 1)));
    assert!(world.topics.has_laggards());
    assert_eq!(world.topics.deliveries().queued, 5);
    world.peers.stuck.clear();
    world.catch_up(member, 2);
    assert_eq!(world.got(1), [b'x'; 50]);
    assert!(!world.topics.has_laggards());
    world.peers.stuck = vec![1];
    (0..20).for_each(|_| drop(world.publish(&[b'y'; 10], 3)));
    assert_eq!((&world.peers.fell, world.topics.subscriptions()), (&vec![1], 1));
    assert_eq!(world.got(2).len(), 250);
    let Deliveries { offered, sent, dropped_disconnect, .. } = world.topics.deliveries();
    assert_eq!((offered, sent, dropped_disconnect), (25 + 5 + 11, 25 + 5, 11));
}

#[test]
fn a_lag_that_lasts_too_long_ends_the_subscription_without_further_messages() {
    let mut world = World::new();
    world.subscribe(1, PLAIN);
    world.peers.stuck = vec![1];
    world.publish(b"x", 5);
    world.topics.drop_laggards(1_005, &mut world.peers);
    assert!(world.peers.fell.is_empty());
    world.topics.drop_laggards(1_006, &mut world.peers);
    assert_eq!(world.peers.fell, [1]);
    assert_eq!((world.topics.subscriptions(), world.topics.has_laggards()), (0, false));
}

#[test]
fn the_age_of_a_lag_is_that_of_the_oldest_message_that_was_not_sent() {
    let mut world = World::new();
    let member = world.subscribe(1, PLAIN);
    // It never has everything, and is never far behind.
    for now in 1..50 {
        world.peers.stuck = vec![1];
        world.publish(b"x", now * 100);
        world.topics.drop_laggards(now * 100, &mut world.peers);
        world.peers.stuck.clear();
        world.catch_up(member, now * 100 + 50);
        world.peers.stuck = vec![1];
        world.publish(b"y", now * 100 + 60);
    }
    assert!(world.peers.fell.is_empty());
}

#[test]
fn drop_oldest_skips_the_oldest_messages_and_reports_which() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    let one = world.subscribe(1, WITH_EVENTS);
    world.subscribe(2, WITH_EVENTS);
    world.subscribe(3, PLAIN);
    world.peers.stuck = vec![1, 3];
    for at in 0..20 {
        world.publish(format!("{at:010}").as_bytes(), 1);
    }
    assert_eq!(world.peers.fell, [3], "a raw route has no words for it");
    let Deliveries { queued, dropped_oldest, .. } = world.topics.deliveries();
    assert_eq!((queued, dropped_oldest), (10, 10), "known before it reads on");
    world.peers.stuck.clear();
    world.catch_up(one, 2);
    let kept: String = (10..20).fold(String::new(), |mut all, at| {
        let _ = write!(all, "{at:010}");
        all
    });
    assert_eq!(world.text_of(1), format!("<t:1-10 Slow>{kept}"));
    assert_eq!(world.got(2).len(), 200);
    assert_eq!(world.topics.deliveries().dropped_oldest, 10);
    world.publish(b"next", 3);
    assert!(world.text_of(1).ends_with("next"), "{}", world.text_of(1));
}

#[test]
fn drop_oldest_skips_messages_that_are_too_old() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    let one = world.subscribe(1, WITH_EVENTS);
    world.peers.stuck = vec![1];
    world.publish(b"old", 10);
    world.publish(b"new", 800);
    world.peers.stuck.clear();
    world.catch_up(one, 1_011);
    assert_eq!(world.text_of(1), "<t:1-1 Slow>new");
}

#[test]
fn conflate_sends_a_laggard_the_latest_message_of_each_key() {
    let mut world = World::slow(SlowConsumerPolicy::Conflate);
    let one = world.subscribe(1, WITH_EVENTS);
    world.peers.stuck = vec![1];
    for at in 0..30 {
        let key = ["a", "b", "c"][at % 3];
        world.publish_keyed(key, format!("{key}{at:09}").as_bytes(), 1);
    }
    world.peers.stuck.clear();
    world.catch_up(one, 2);
    // Two of them in the first go, and the third is in the log.
    assert_eq!(world.text_of(1), "[a +27]a000000027[b +0]b000000028c000000029");
    assert_eq!(world.topics.deliveries().dropped_conflated, 27);
    assert!(!world.topics.has_laggards());
}

#[test]
fn conflate_sends_many_keys_in_several_steps() {
    let mut world = World::slow(SlowConsumerPolicy::Conflate);
    let one = world.subscribe(1, WITH_EVENTS);
    world.peers.stuck = vec![1];
    for at in 1..=40 {
        world.publish_keyed(&format!("k{}", at % 20), &[b'.'; 10], 1);
    }
    world.peers.stuck.clear();
    for _ in 0..12 {
        world.catch_up(one, 2);
    }
    let told = world.text_of(1);
    assert!(told.starts_with("[k1 +20].........."), "{told}");
    assert_eq!(world.topics.deliveries().sent, 20);
    assert_eq!(world.topics.deliveries().dropped_conflated, 20);
    assert!(!world.topics.has_laggards());
}

#[test]
fn a_resuming_subscriber_is_removed_where_others_get_a_gap() {
    for slow in [SlowConsumerPolicy::DropOldest, SlowConsumerPolicy::Conflate] {
        let mut world = World::slow(slow);
        let member = world.subscribe(1, RESUMING);
        world.subscribe(2, RESUMING);
        world.publish_keyed("k", b"a", 1);
        world.peers.stuck = vec![1];
        (0..20).for_each(|_| world.publish_keyed("k", &[b'x'; 10], 1));
        assert_eq!((world.text_of(1), &world.peers.fell), ("a".to_owned(), &vec![1]), "{slow:?}");
        assert_eq!((world.got(2).len(), world.topics.subscriptions()), (201, 1));
        assert_eq!(world.topics.reached(member), None);
    }
}

#[test]
fn a_slow_subscriber_of_one_format_costs_those_of_others_nothing() {
    let mut world = World::new();
    world.subscribe(1, PLAIN);
    world.subscribe(2, SMALL);
    world.subscribe(3, LARGE);
    world.peers.stuck = vec![1];
    // The plain log passes its bound with the eleventh; those of two bytes a message are far from theirs.
    for sent in 1..=30_usize {
        world.publish(&[b'x'; 10], 1);
        assert_eq!((world.got(2).len(), world.got(3).len()), (2 * sent, 2 * sent));
        assert_eq!(world.peers.fell.is_empty(), sent <= 10);
    }
    assert_eq!((&world.peers.fell, world.topics.subscriptions()), (&vec![1], 2));
    assert!(!world.topics.has_laggards());
    assert_eq!(world.publish(b"-y", 2), [SMALL, LARGE], "nobody reads plain any more");
}
