//! Formats of one topic: each message is encoded once for each of them, and a format lives as long as it has subscribers.

use super::world::{LARGE, PLAIN, SMALL, World};
use crate::SubscriberId;
use crate::limits::REMEMBERED_AGE;

#[test]
fn a_message_is_encoded_once_for_each_format_and_each_subscriber_gets_its_own() {
    let mut world = World::new();
    let formats = [PLAIN, SMALL, LARGE, SMALL, PLAIN, LARGE];
    let members: Vec<SubscriberId> =
        (1..).zip(formats).map(|(key, format)| world.subscribe(key, format)).collect();
    assert_eq!(world.publish(b"-a", 1), [PLAIN, SMALL, LARGE]);
    // Of the small window, its own publisher does not hear it.
    assert_eq!(world.append(4, Some(members[3]), b"-b"), [PLAIN, SMALL, LARGE]);
    world.deliver(2);
    world.publish(b"-c", 3);
    for (key, format) in (1..).zip(formats) {
        let expected: &[u8] = match format.compression.bits() {
            _ if key == 4 => b"\x09a\x09c",
            None => b"-a-b-c",
            Some(9) => b"\x09a\x09b\x09c",
            Some(_) => b"\x0fa\x0fb\x0fc",
        };
        assert_eq!(world.got(key), expected, "{format:?}");
    }
}

#[test]
fn a_format_lives_from_its_first_subscriber_to_its_last() {
    let mut world = World::new();
    let plain = world.subscribe(1, PLAIN);
    assert_eq!(world.publish(b"-a", 1), [PLAIN]);
    let plain_bytes = world.peers.pool.used_bytes();
    let (two, three) = (world.subscribe(2, LARGE), world.subscribe(3, LARGE));
    assert_eq!(world.publish(b"-b", 2), [PLAIN, LARGE]);
    assert!(world.peers.pool.used_bytes() > plain_bytes);
    world.unsubscribe(two);
    assert_eq!(world.publish(b"-c", 3), [PLAIN, LARGE]);
    world.unsubscribe(three);
    assert_eq!(world.peers.pool.used_bytes(), plain_bytes, "the log went with its last reader");
    assert_eq!(world.publish(b"-d", 4), [PLAIN]);
    world.subscribe(4, LARGE);
    world.unsubscribe(plain);
    assert_eq!(world.publish(b"-e", 5), [LARGE]);
    assert_eq!([1, 2, 3, 4].map(|key| world.got(key)), [&b"-a-b-c-d"[..], b"\x0fb", b"\x0fb\x0fc", b"\x0fe"]);
    assert!(!world.topics.is_deserted(world.id));
    world.topics.remove(world.id, 0, &mut world.peers.pool);
    world.topics.expire(REMEMBERED_AGE, &mut world.peers.pool);
    assert_eq!((world.topics.subscriptions(), world.peers.pool.used_bytes()), (0, 0));
}
