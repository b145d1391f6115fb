//! Coalescing: when messages wait for others.

use super::world::{PLAIN, World, settings};
use crate::{SlowConsumerPolicy, TopicSettings};
use echoring_proto::buffer::Pool;

#[test]
fn messages_wait_for_others_only_while_there_are_many() {
    let coalesced = TopicSettings { coalesce: 80, ..settings(SlowConsumerPolicy::Disconnect) };
    let mut world = World::with(Pool::standalone(), coalesced);
    world.subscribe(1, PLAIN);
    world.publish(b"a", 1_000);
    assert_eq!((world.got(1), world.topics.due_at()), (&b"a"[..], None), "a quiet topic does not wait");
    world.append(99, None, b"b");
    world.append(99, None, b"c");
    world.deliver(2_000);
    assert_eq!((world.got(1), world.topics.due_at()), (&b"a"[..], Some(2_010)));
    world.append(99, None, b"d");
    world.append(99, None, b"e");
    world.deliver(2_005);
    world.deliver(2_010);
    assert_eq!((world.got(1), world.topics.due_at()), (&b"abcde"[..], None));
    for tick in 0..20 {
        world.append(99, None, b"x");
        world.append(99, None, b"y");
        world.deliver(3_000 + tick * 100);
        assert!(world.topics.due_at().is_some_and(|due| due <= 3_000 + tick * 100 + 80));
        world.deliver(3_000 + tick * 100 + 80);
    }
    // One at a time, it shrinks to nothing.
    for tick in 0..4 {
        world.publish(b"z", 9_000 + tick * 100);
        world.deliver(9_000 + tick * 100 + 80);
    }
    world.publish(b"!", 9_900);
    assert!(world.got(1).ends_with(b"!"));
}
