//! The accounts of deliveries when subscribers and topics go.

use super::world::{PLAIN, WITH_EVENTS, World};
use crate::SlowConsumerPolicy;

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
