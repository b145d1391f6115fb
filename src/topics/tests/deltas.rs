//! Deltas: each is from the message that its subscriber was sent before.

use proptest::prelude::*;

use super::world::{CODEC, World};
use crate::{Compression, Deltas, Encoding, Format, SubscriberId};

/// Of subscribers that negotiated deltas.
const DELTAS: Format = Format {
    dialect: Encoding::Resuming { codec: CODEC, presence: true, deltas: Deltas::Beginning, filtered: false },
    compression: Compression::Off,
};

#[test]
fn deltas_are_from_the_message_that_a_subscriber_was_sent_before() {
    let mut world = World::new();
    world.publish(b"a", 1);
    world.subscribe(1, DELTAS);
    let formats = [world.publish(b"b", 2), world.publish(b"c", 3)];
    world.subscribe(2, DELTAS);
    let both = world.publish(b"d", 4);
    let alone = world.publish(b"e", 5);
    assert_eq!((world.text_of(1), world.text_of(2)), ("!b<b>c<c>d<d>e".to_owned(), "!d<d>e".to_owned()));
    let following = Format {
        dialect: Encoding::Resuming { codec: CODEC, presence: true, deltas: Deltas::On, filtered: false },
        ..DELTAS
    };
    assert_eq!(formats, [vec![DELTAS], vec![following]]);
    assert_eq!((both, alone), (vec![following, DELTAS], vec![following]), "once for each format");
    assert_eq!((world.topics.subscriptions(), world.topics.deliveries().sent), (2, 6));
    let members: Vec<SubscriberId> =
        world.topics.subscribers(world.id).iter().map(|(_, member)| *member).collect();
    assert_eq!(world.peers.moved.iter().map(|(_, _, to)| *to).collect::<Vec<_>>(), members);
    members.into_iter().for_each(|member| world.unsubscribe(member));
    assert_eq!(world.peers.pool.used_bytes(), 0, "the previous message is not kept for nobody");
}

#[test]
fn after_a_missed_message_the_next_one_is_sent_whole() {
    let mut world = World::new();
    world.subscribe(1, DELTAS);
    world.subscribe(2, DELTAS);
    // It is not sent the first message before the third one is published.
    world.peers.stuck = vec![2];
    world.publish(b"a", 1);
    world.publish(b"b", 2);
    world.peers.stuck.clear();
    world.publish(b"c", 3);
    world.publish(b"d", 4);
    assert_eq!((world.text_of(1), world.text_of(2)), ("!a<a>b<b>c<c>d".to_owned(), "!a!b!c<c>d".to_owned()));
    // Too far behind, it is removed, and begins again.
    world.peers.stuck = vec![2];
    (0..5).for_each(|_| _ = world.publish(&[b'x'; 30], 5));
    assert_eq!(world.peers.fell, [2]);
    world.peers.stuck.clear();
    world.subscribe(2, DELTAS);
    world.publish(b"y", 6);
    assert!(world.text_of(2).ends_with("<c>d!y"), "{}", world.text_of(2));
}

proptest! {
    /// Whatever is published, and whoever subscribes, cannot be sent anything, or takes only a part.
    #[test]
    fn every_delta_fits(steps in prop::collection::vec((0..8u8, 1..4u32), 1..60)) {
        let mut world = World::new();
        for (number, (step, key)) in (1..).zip(steps) {
            let member_of = |world: &World| {
                let subscribers = world.topics.subscribers(world.id);
                subscribers.iter().find(|(known, _)| *known == key).map(|(_, member)| *member)
            };
            match (step, member_of(&world)) {
                (0, None) => _ = world.subscribe(key, DELTAS),
                (1, _) => world.peers.stuck = vec![key],
                (2, _) => world.peers.stuck.clear(),
                (3, _) => _ = world.peers.short.insert(key, 2),
                (4, Some(member)) => world.finish(key, member, number),
                _ => _ = world.publish(&[b'A' + (number % 26) as u8; 20], number),
            }
        }
        for key in 1..4 {
            // What it has not got yet is the rest of a frame.
            let told = world.text_of(key);
            let (mut previous, mut rest) = (None, told.as_str());
            while rest.len() >= 42 || rest.starts_with('!') && rest.len() >= 21 {
                let message;
                if rest.starts_with('!') {
                    (message, rest) = rest[1..].split_at(20);
                } else {
                    prop_assert_eq!(Some(&rest[1..21]), previous, "{}", told);
                    (message, rest) = rest[22..].split_at(20);
                }
                previous = Some(message);
            }
        }
    }
}
