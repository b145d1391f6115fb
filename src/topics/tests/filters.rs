//! Subscribers with filters: each gets what it wants, and whatever it is not sent is counted.

use std::sync::Arc;

use super::world::{PLAIN, RESUMING, World, settings};
use crate::{
    Encoding, FilterBuilder, FilterTest, Format, SlowConsumerPolicy, SubscriberId, TagFilter, Tags,
    TopicSettings,
};
use echoring_proto::buffer::{Budget, Pool};
use echoring_proto::random::SplitMix64;

fn format() -> Format {
    let Encoding::Resuming { codec, presence, deltas, .. } = RESUMING.dialect else { unreachable!() };
    Format { dialect: Encoding::Resuming { codec, presence, deltas, filtered: true }, ..RESUMING }
}

/// Wants messages of these kinds.
fn wanting(kinds: &[&str]) -> Arc<TagFilter> {
    let mut builder = FilterBuilder::default();
    builder.test(FilterTest::OneOf, "kind", kinds.iter().copied());
    Arc::new(builder.finish().expect("valid"))
}

impl World {
    fn subscribe_filtered(&mut self, key: u32, kinds: &[&str]) -> SubscriberId {
        // Subscribers of other tests do not get their own messages; these have none.
        let member = self.topics.subscribe(self.id, key, format(), 0).expect("the topic is there");
        self.topics.set_filter(member, wanting(kinds));
        member
    }

    fn append_of(&mut self, kind: &str, frame: &str) {
        self.tags =
            Tags::encode(Some(("kind", kind)).filter(|_| !kind.is_empty()).into_iter()).expect("short");
        self.append(99, None, frame.as_bytes());
    }
}

#[test]
fn each_subscriber_gets_the_messages_that_it_wants_and_all_events() {
    let mut world = World::slow(SlowConsumerPolicy::DropOldest);
    let one = world.subscribe_filtered(1, &["a"]);
    world.subscribe_filtered(2, &["b", ""]);
    world.subscribe(3, PLAIN);
    world.subscribe(4, RESUMING);
    for (kind, frame) in [("a", "1"), ("b", "2"), ("b", "3"), ("", "4"), ("a", "5"), ("c", "6")] {
        world.append_of(kind, frame);
    }
    world.append_presence(b"!");
    world.deliver(1);
    let texts = [1, 2, 3, 4].map(|key| world.text_of(key));
    assert_eq!(texts, ["15!", "234!", "123456", "123456!"]);
    assert_eq!(world.topics.reached(one), Some((6, true)), "nothing of what it does not want is due");
    let deliveries = world.topics.deliveries();
    assert_eq!((deliveries.offered, deliveries.sent, deliveries.filtered), (24, 17, 7));
}

#[test]
fn a_laggard_gets_what_it_wants_and_is_removed_when_it_falls_off_the_log() {
    let mut world = World::new();
    let member = world.subscribe_filtered(1, &["a"]);
    world.peers.stuck.push(1);
    for (kind, frame) in [("a", "1"), ("b", "2"), ("a", "3")] {
        world.append_of(kind, frame);
        world.deliver(1);
    }
    assert_eq!(world.text_of(1), "");
    world.peers.stuck.clear();
    world.catch_up(member, 1);
    assert_eq!((world.text_of(1), world.topics.reached(member)), ("13".to_owned(), Some((3, true))));
    world.peers.stuck.push(1);
    for _ in 0..20 {
        world.append_of("b", "0123456789");
        world.deliver(2);
    }
    // Although nothing is due to it, it was not asked whether it reads.
    assert_eq!(world.peers.fell, [1]);
}

#[test]
fn whatever_happens_each_subscriber_gets_what_it_wants_in_order() {
    for seed in 0..300 {
        let mut random = SplitMix64::new(seed);
        let mut below = |bound: u64| random.next_u64() % bound;
        let lag_bytes = 10_000;
        let mut world = World::with(
            Pool::standalone(),
            TopicSettings { lag_bytes, ..settings(SlowConsumerPolicy::Disconnect) },
        );
        let wanted = [&["a"][..], &["b", "c"], &["a", "c", ""], &["nothing"]];
        let members: Vec<_> = (0..4).map(|key| world.subscribe_filtered(key, wanted[key as usize])).collect();
        let mut expected = [const { String::new() }; 4];
        for at in 1..60 {
            for _ in 0..below(3) {
                let (kind, frame) = (
                    ["a", "b", "c", ""][below(4) as usize],
                    format!("<{at}{}>", "x".repeat(below(5) as usize)),
                );
                world.append_of(kind, &frame);
                let takers = (0..4).filter(|key| wanted[*key].contains(&kind));
                takers.for_each(|key| expected[key].push_str(&frame));
            }
            if below(10) == 0 {
                world.append_presence(b"!");
                expected.iter_mut().for_each(|text| text.push('!'));
            }
            let key = below(4) as u32;
            match below(4) {
                0 => drop(world.peers.short.insert(key, below(8) as usize)),
                1 => world.peers.stuck.push(key),
                2 => world.peers.stuck.clear(),
                _ => world.finish(key, members[key as usize], at),
            }
            world.deliver(at);
        }
        world.peers.stuck.clear();
        world.peers.short.clear();
        for (key, member) in (0..).zip(&members) {
            world.finish(key, *member, 60);
            world.catch_up(*member, 60);
            assert_eq!(world.text_of(key), expected[key as usize], "seed {seed}, subscriber {key}");
        }
        members.into_iter().for_each(|member| world.unsubscribe(member));
        world.check();
        assert_eq!(world.peers.pool.used_bytes(), 0, "seed {seed}");
    }
}

#[test]
fn tags_are_charged_and_given_back_with_their_messages() {
    let mut world = World::with(Pool::new(Budget::new(1 << 16)), settings(SlowConsumerPolicy::Disconnect));
    let member = world.subscribe_filtered(1, &["a"]);
    world.peers.stuck.push(1);
    let long = "k".repeat(1_000);
    for _ in 0..200 {
        world.append_of(&long, "x");
    }
    world.deliver(1);
    assert!(world.peers.fell == [1] || world.topics.reached(member).is_some_and(|(offset, _)| offset == 0));
    let deliveries = world.topics.deliveries();
    assert!(deliveries.add_up() && deliveries.dropped_memory > 0, "{deliveries:?}");
    world.unsubscribe(member);
    assert_eq!(world.topics.subscriptions(), 0);
}
