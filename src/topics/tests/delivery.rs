//! How messages reach subscribers: in order, without their own, and after sends that the kernel took only in part.

use super::world::{PLAIN, WITH_EVENTS, World};
use crate::limits::LOG_SEGMENT_BYTES;
use crate::{Compression, Deliveries, Encoding, Format, SlowConsumerPolicy, SubscriberId};

#[test]
fn everyone_gets_what_was_published_after_subscribing_but_not_their_own() {
    let mut world = World::new();
    let one = world.subscribe(1, PLAIN);
    world.append(1, Some(one), b"a");
    world.subscribe(2, PLAIN);
    world.publish(b"b", 1);
    assert_eq!((world.got(1), world.got(2)), (&b"b"[..], &b"b"[..]));
    world.append(1, Some(one), b"c");
    world.deliver(2);
    assert_eq!((world.got(1), world.got(2)), (&b"b"[..], &b"bc"[..]));
    assert!(!world.topics.has_laggards());
    let Deliveries { offered, sent, .. } = world.topics.deliveries();
    assert_eq!((offered, sent), (3, 3));
}

#[test]
fn subscribers_that_keep_up_get_any_number_of_messages_in_one_tick() {
    let mut world = World::new();
    world.subscribe(1, PLAIN);
    world.subscribe(2, PLAIN);
    world.peers.stuck = vec![2];
    for _ in 0..5_000 {
        world.append(99, None, &[b'x'; 10]);
    }
    world.deliver(1);
    assert_eq!((world.got(1).len(), &world.peers.fell), (50_000, &vec![2]));
    assert!(world.peers.pool.used_bytes() < 3 * LOG_SEGMENT_BYTES as u64, "and then it is gone");
}

#[test]
fn a_subscriber_that_refuses_a_message_is_tried_once_and_gets_it_later() {
    let mut world = World::new();
    let members: Vec<SubscriberId> = (1..=3).map(|key| world.subscribe(key, PLAIN)).collect();
    world.peers.refusing = vec![1, 2];
    world.publish(b"a", 1);
    assert_eq!((world.peers.refusals, world.got(3)), (2, &b"a"[..]));
    world.peers.refusing = vec![2];
    world.publish(b"b", 2);
    assert_eq!((world.got(1), world.got(2), world.got(3)), (&b"ab"[..], &b""[..], &b"ab"[..]));
    world.peers.refusing.clear();
    world.catch_up(members[1], 3);
    assert_eq!((world.got(2), world.topics.has_laggards()), (&b"ab"[..], false));
}

#[test]
fn whole_frames_of_a_partial_send_are_taken_back() {
    for (taken, stays) in [(0, "aa"), (1, "a"), (2, "bb"), (3, "b"), (4, "cc"), (5, "c")] {
        let mut world = World::new();
        let member = world.subscribe(1, PLAIN);
        world.peers.short.insert(1, taken);
        for frame in [b"aa", b"bb", b"cc"] {
            world.append(99, None, frame);
        }
        world.deliver(1);
        assert_eq!(world.unsent(1), stays.as_bytes(), "{taken} bytes were taken");
        let Deliveries { sent, queued, .. } = world.topics.deliveries();
        let whole = taken as u64 / 2;
        assert_eq!((sent, queued), (whole, 3 - whole), "what is under way is not sent");
        world.publish(b"dd", 2);
        world.finish(1, member, 3);
        assert_eq!(world.got(1), b"aabbccdd");
        assert_eq!((world.topics.deliveries().sent, world.topics.has_laggards()), (4, false));
    }
}

/// What it lacks has left the log between the send and the report that the send was short.
#[test]
fn nothing_is_lost_silently_when_a_send_was_partial_and_the_log_has_moved_on() {
    for format in [WITH_EVENTS, Format { dialect: Encoding::RawWithGaps, compression: Compression::Off }] {
        let mut world = World::slow(SlowConsumerPolicy::DropOldest);
        let member = world.subscribe(1, format);
        world.peers.short.insert(1, 10);
        world.append(99, None, &[b'a'; 50]);
        world.topics.deliver(1, &mut world.peers);
        world.peers.stuck.push(1);
        for frame in [[b'b'; 200], [b'c'; 200]] {
            world.append(99, None, &frame);
            world.topics.deliver(2, &mut world.peers);
        }
        world.blocked(3);
        world.check();
        world.peers.stuck.clear();
        world.finish(1, member, 4);
        let got = String::from_utf8_lossy(world.got(1)).into_owned();
        let (a, c) = ("a".repeat(50), "c".repeat(200));
        assert!(got.starts_with(&a) && got.ends_with(&c) && got[50..].contains(":2-2 Slow"), "{got}");
        let Deliveries { sent, dropped_oldest, .. } = world.topics.deliveries();
        assert_eq!((sent, dropped_oldest), (2, 1));
    }
}

#[test]
fn own_messages_in_between_do_not_change_what_is_taken_back() {
    let mut world = World::new();
    let member = world.subscribe(1, PLAIN);
    world.peers.stuck = vec![1];
    for (own, frame) in [(false, b"aa"), (true, b"--"), (false, b"bb"), (true, b"--"), (false, b"cc")] {
        let (origin, own) = if own { (1, Some(member)) } else { (99, None) };
        world.append(origin, own, frame);
    }
    world.deliver(1);
    assert_eq!(world.topics.deliveries().queued, 3);
    world.peers.stuck.clear();
    // The first of three stretches is short, and the second and third are not taken while it is.
    world.peers.short.insert(1, 1);
    world.catch_up(member, 2);
    assert_eq!(world.unsent(1), b"a");
    world.finish(1, member, 3);
    assert_eq!((world.got(1), world.topics.deliveries().sent), (&b"aabbcc"[..], 3));
}

#[test]
fn a_frame_of_which_a_part_was_sent_counts_as_dropped_when_its_subscriber_leaves() {
    let mut world = World::new();
    let member = world.subscribe(1, PLAIN);
    world.peers.short.insert(1, 3);
    world.append(99, None, b"aa");
    world.append(99, None, b"bb");
    world.deliver(1);
    world.unsubscribe(member);
    let Deliveries { offered, sent, dropped_disconnect, queued, .. } = world.topics.deliveries();
    assert_eq!((offered, sent, dropped_disconnect, queued), (2, 1, 1, 0));
}

/// Its new subscription may have the place of the one before.
#[test]
fn a_subscription_takes_back_nothing_of_the_one_before_it_on_its_connection() {
    let mut world = World::new();
    let member = world.subscribe(1, WITH_EVENTS);
    world.subscribe(2, WITH_EVENTS);
    for _ in 0..3 {
        world.append(0, None, b"0123456789");
    }
    world.deliver(0);
    world.unsubscribe(member);
    let again = world.subscribe(1, WITH_EVENTS);
    assert_eq!(again, member);
    let back = world.topics.take_back(again.tag(), 1, 25, false, 0);
    assert_eq!(back, (0, 0), "that was before it");
}
