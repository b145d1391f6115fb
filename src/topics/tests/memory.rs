//! The budget: what is given up first when memory runs out.

use super::world::{CODEC, PLAIN, SMALL, WITH_EVENTS, World, owned, owned_topics, settings, submitted};
use crate::limits::LOG_SEGMENT_BYTES;
use crate::{
    Compression, Content, Creator, Deltas, Encoding, Format, HistoryBounds, OwnedTopics, Publication,
    Refused, Rules, SlowConsumerPolicy, TopicSettings,
};
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::{self, Codecs};
use echoring_proto::limits::MEMORY_BUDGET_MIN;

#[test]
fn without_memory_the_longest_log_gives_way_and_then_the_message() {
    // The frame of this size needs more than a segment plain, and nearly nothing compressed.
    let large = vec![b'x'; 4 * LOG_SEGMENT_BYTES];
    let pool = Pool::new(Budget::new(3 * LOG_SEGMENT_BYTES as u64));
    let mut world = World::with(pool, settings(SlowConsumerPolicy::DropOldest));
    world.subscribe(1, PLAIN);
    let two = world.subscribe(2, WITH_EVENTS);
    world.subscribe(3, SMALL);
    world.publish(b"-a", 1);
    world.append(99, None, &large);
    world.deliver(2);
    assert_eq!(world.peers.fell, [1]);
    assert_eq!((world.got(1), world.got(3)), (&b"-a"[..], &b"\x09a\x09x"[..]));
    world.publish(b"-b", 3);
    world.catch_up(two, 4);
    assert_eq!(world.text_of(2), "-a<t:2-2 Memory>-b");
    assert_eq!(world.topics.deliveries().dropped_memory, 2);
    // Who comes now has missed nothing, and there is room.
    world.subscribe(4, PLAIN);
    world.publish(b"-c", 5);
    assert_eq!((world.got(4), world.got(3)), (&b"-c"[..], &b"\x09a\x09x\x09b\x09c"[..]));
}

#[test]
fn what_gives_way_to_others_is_lost_for_lack_of_memory_under_every_policy() {
    use SlowConsumerPolicy::{Conflate, Disconnect, DropOldest};
    // What counts as lost at once, what counts afterwards, as memory and for the policy, and what a subscriber is sent.
    for (slow, at_once, after, text) in [
        (DropOldest, 4, (4, 0), "<t:1-4 Memory>5"),
        (Disconnect, 4, (4, 1), ""),
        (Conflate, 0, (4, 0), "[k +4]5"),
    ] {
        let settings = TopicSettings { lag_bytes: 1 << 20, ..settings(slow) };
        let mut world = World::with(Pool::new(Budget::new(1 << 20)), settings);
        let one = world.subscribe(1, WITH_EVENTS);
        world.peers.stuck = vec![1];
        for at in 1..=5 {
            world.publish_keyed("k", at.to_string().as_bytes(), 1);
        }
        assert!(world.topics.shed(&mut world.peers.pool));
        world.check();
        assert_eq!(world.topics.deliveries().dropped_memory, at_once, "{slow:?}");
        world.peers.stuck.clear();
        world.catch_up(one, 2);
        world.check();
        let deliveries = world.topics.deliveries();
        let others = deliveries.dropped() - deliveries.dropped_memory;
        assert_eq!((deliveries.dropped_memory, others), after, "{slow:?}");
        assert_eq!(world.text_of(1), text, "{slow:?}");
    }
}

#[test]
fn the_history_of_others_gives_way_before_a_subscriber_misses_anything() {
    let rules = Rules::new(
        Vec::new(),
        TopicSettings {
            lag_bytes: 1 << 20,
            history: HistoryBounds { messages: 1_000, bytes: 1 << 20, age: 500 },
            ..TopicSettings::default()
        },
    );
    let pool = Pool::new(Budget::new(8 * LOG_SEGMENT_BYTES as u64));
    let mut world = World::with(pool, *rules.of(""));
    world.owned = owned(&rules);
    let id = world.owned.find_or_create("other", Creator::NOBODY, 0, &mut world.peers.pool).unwrap();
    let publication = Publication::new(Content::Binary, "", &[0; 1_000]);
    for _ in 0..100 {
        world.owned.publish(id, &publication, true, 1, &mut world.peers.pool).unwrap();
    }
    world.subscribe(1, PLAIN);
    world.peers.stuck = vec![1];
    for _ in 0..50 {
        world.publish(&[b'x'; 1_000], 1);
    }
    assert_eq!(world.topics.deliveries().queued, 50, "nothing was lost");
}

#[test]
fn contexts_and_delta_bases_give_way_first_then_histories_and_then_backlogs() {
    let rules = Rules::new(
        Vec::new(),
        TopicSettings {
            lag_bytes: 1 << 30,
            history: HistoryBounds { messages: 1_000, bytes: 1 << 20, age: 500 },
            slow: SlowConsumerPolicy::DropOldest,
            ..TopicSettings::default()
        },
    );
    for slow in [SlowConsumerPolicy::DropOldest, SlowConsumerPolicy::Disconnect] {
        let settings = TopicSettings { slow, ..*rules.of("") };
        let mut world = World::with(Pool::new(Budget::new(1 << 20)), settings);
        world.owned = owned(&rules);
        let codecs = connection::Compression::default().shared(true);
        world.codecs = Some(Codecs::new(Some(codecs), Lease::new(Budget::new(1 << 20), 1)));
        let id = world.owned.find_or_create("other", Creator::NOBODY, 0, &mut world.peers.pool).unwrap();
        let publication = Publication::new(Content::Binary, "", &[0; 1_000]);
        for _ in 0..100 {
            world.owned.publish(id, &publication, true, 1, &mut world.peers.pool).unwrap();
        }
        let shared = Format { dialect: Encoding::Raw, compression: Compression::Shared { bits: 9 } };
        (1..=4).for_each(|key| _ = world.subscribe(key, shared));
        let deltas =
            Encoding::Resuming { codec: CODEC, presence: false, deltas: Deltas::Beginning, filtered: false };
        world.subscribe(5, Format { dialect: deltas, compression: Compression::Off });
        world.subscribe(6, WITH_EVENTS);
        world.peers.stuck = vec![6];
        let mut order = Vec::new();
        for _ in 0..2_000 {
            world.publish(&[b'x'; 1_000], 1);
            let gone = [
                ("optional", world.topics.contexts() == 0),
                ("histories", world.owned.report("other", 0).unwrap().history_bytes == 0),
                ("backlogs", world.topics.deliveries().dropped_memory > 0),
            ];
            for (name, _) in gone.iter().filter(|(_, is_gone)| *is_gone) {
                if !order.contains(name) {
                    order.push(*name);
                }
            }
        }
        assert_eq!(order, ["optional", "histories", "backlogs"], "{slow:?}");
    }
}

/// Whoever publishes under ever new keys takes no more than histories may, and those make room for it.
#[test]
fn the_latest_messages_of_keys_and_idempotency_keys_are_in_the_share_of_histories() {
    let mut pool = Pool::new(Budget::new(MEMORY_BUDGET_MIN));
    let (mut owned, _) = owned_topics(SlowConsumerPolicy::Conflate);
    let histories = owned.find_or_create("history", Creator::NOBODY, 0, &mut pool).unwrap();
    let publish = |owned: &mut OwnedTopics, pool: &mut Pool, id, key: &str, idempotency_key: &str| {
        let publication = Publication::new(Content::Json, key, &[b'1'; 10_000]);
        owned.publish_once(id, &submitted(publication, idempotency_key, true), 0, pool).map(|_| ())
    };
    for round in 0..100 {
        publish(&mut owned, &mut pool, histories, "one", &format!("r{round}")).unwrap();
    }
    assert_ne!(owned.report("history", 0).unwrap().history_bytes, 0);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    let refused =
        (0..).find_map(|key| publish(&mut owned, &mut pool, id, &key.to_string(), &format!("k{key}")).err());
    assert_eq!(refused, Some(Refused::OutOfMemory));
    assert!((7 << 20..=8 << 20).contains(&pool.used_bytes()), "{}", pool.used_bytes());
    assert_eq!(owned.report("history", 0).unwrap().history_bytes, 0, "histories make room");
    // What is known already, and what others need, is not refused.
    assert!(owned.publish(id, &Publication::new(Content::Json, "0", b"2"), true, 0, &mut pool).is_ok());
    assert!(pool.charge(1 << 20) && !pool.is_short(0));
}
