//! The accounts of deliveries when subscribers and topics go.

use std::collections::BTreeMap;

use super::world::{LOCAL, PLAIN, WITH_EVENTS, World, json, settings};
use crate::{
    Creator, HistoryBounds, OwnedTopics, Pattern, PatternCounts, Publications, Rules, SlowConsumerPolicy,
    TopicSettings,
};
use echoring_proto::buffer::{Budget, Lease, Pool};

/// On a shard that comes and goes: what was offered there before counts as long as the topic is there.
#[test]
fn a_topics_figures_do_not_fall_when_its_last_subscriber_leaves() {
    let mut world = World::new();
    let member = world.subscribe(1, PLAIN);
    for _ in 0..3 {
        world.append(0, None, b"x");
    }
    world.deliver(0);
    world.unsubscribe(member);
    let World { topics, peers, id, .. } = &mut world;
    let before = topics.report(*id).expect("there").deliveries;
    assert_eq!(before.offered, 3);
    topics.remove(*id, 0, &mut peers.pool);
    assert_eq!(topics.left("t").expect("there were subscribers").deliveries, before);
    assert_eq!(topics.all_left().count(), 1);
    let again = topics.create("t", 1, &mut peers.pool);
    assert!(topics.left("t").is_none(), "counted once");
    assert_eq!(topics.report(again).expect("there").deliveries, before);
}

/// What a laggard had lost already is not counted anew as what its end lost.
#[test]
fn dropped_messages_keep_their_reason_when_a_laggard_leaves() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    world.peers.stuck.push(1);
    let member = world.subscribe(1, WITH_EVENTS);
    for _ in 0..40 {
        world.append(0, None, &[b'x'; 30]);
        world.deliver(0);
    }
    let before = world.topics.deliveries();
    assert!(before.dropped_oldest > 0 && before.queued > 0, "{before:?}");
    world.unsubscribe(member);
    let after = world.topics.deliveries();
    assert_eq!(after.dropped_oldest, before.dropped_oldest);
    assert_eq!(after.dropped_disconnect, before.queued);
}

#[test]
fn bytes_that_were_taken_back_count_once_they_are_sent_again() {
    let mut world = World::new();
    let member = world.subscribe(1, PLAIN);
    world.subscribe(2, PLAIN);
    world.peers.short.insert(1, 3);
    for frame in [b"aa", b"bb", b"cc"] {
        world.append(99, None, frame);
    }
    world.deliver(1);
    let bytes = |world: &World| world.pattern().delivered_bytes;
    // The frame of which a part was sent stays counted.
    assert_eq!((world.got(1), bytes(&world)), (&b"aab"[..], 4 + 6));
    world.finish(1, member, 2);
    assert_eq!((world.got(1), bytes(&world)), (&b"aabbcc"[..], 12));
}

#[test]
fn bytes_of_the_latest_messages_of_keys_count() {
    let mut world = World::slow(SlowConsumerPolicy::Conflate);
    world.peers.stuck.push(1);
    let member = world.subscribe(1, WITH_EVENTS);
    for _ in 0..40 {
        world.publish_keyed("k", &[b'x'; 30], 1);
    }
    assert_eq!(world.pattern().delivered_bytes, 0);
    world.peers.stuck.clear();
    world.catch_up(member, 2);
    assert_eq!(world.pattern().delivered_bytes, world.got(1).len() as u64);
    assert!(world.pattern().deliveries.dropped_conflated > 0);
}

#[test]
fn subscribers_are_counted_with_the_pattern_that_their_topic_has_now() {
    let mut world = World::new();
    let first = world.subscribe(1, PLAIN);
    world.subscribe(2, WITH_EVENTS);
    let settings = settings(SlowConsumerPolicy::Disconnect);
    world.topics.configure(Rules::new(vec![(Pattern::new("t*"), settings)], settings));
    let subscribers = |world: &World| {
        let mut patterns = BTreeMap::new();
        world.topics.add_patterns(&mut patterns);
        patterns.values().map(|counts| counts.subscribers).collect::<Vec<_>>()
    };
    assert_eq!(subscribers(&world), [0, 2]);
    world.unsubscribe(first);
    world.topics.configure(Rules::new(Vec::new(), settings));
    assert_eq!(subscribers(&world), [1]);
}

/// The largest history goes first, and counts with the pattern of its topic.
#[test]
fn evicted_histories_and_published_bytes_count_with_their_pattern() {
    let history = HistoryBounds { messages: 1_000, bytes: 1 << 20, ..HistoryBounds::default() };
    let settings = TopicSettings { history, ..TopicSettings::default() };
    let rules = Rules::new(vec![(Pattern::new("large.*"), settings)], settings);
    let mut owned = OwnedTopics::new(rules, Lease::new(Budget::new(2), 1), 7);
    owned.collect_changes(true);
    let mut pool = Pool::new(Budget::new(1 << 20));
    let mut subscribe =
        |name: &str| owned.subscribe(name, Creator::NOBODY, 0, LOCAL, &mut pool).expect("room for it").id;
    let (large, small) = (subscribe("large.1"), subscribe("small"));
    owned.publish(small, &json(b"1"), true, 1, &mut pool).expect("accepted");
    let payload = vec![b'1'; 60_000];
    for _ in 0..20 {
        owned.publish(large, &json(&payload), true, 1, &mut pool).expect("accepted");
    }
    let mut patterns: BTreeMap<Box<str>, PatternCounts> = BTreeMap::new();
    owned.add_patterns(&mut patterns);
    let (others, large) = (patterns["*"], patterns["large.*"]);
    assert_eq!((large.published_bytes, others.published_bytes), (20 * 60_000, 1));
    assert_eq!(large.publications, Publications { published: 20, accepted: 20, refused: 0 });
    assert!((1..20).contains(&large.histories_evicted), "{large:?}");
    assert_eq!(others.histories_evicted, 0, "there was a larger one each time");
    assert_eq!(owned.histories_evicted(), large.histories_evicted);
    let lost: Vec<_> = owned.take_changes().histories_lost.into_iter().collect();
    assert_eq!(lost, [("large.1".into(), "memory")]);
    while owned.shed(&mut pool) {}
    owned.add_patterns(&mut patterns);
    assert_eq!(patterns["*"].histories_evicted, 1);
}
