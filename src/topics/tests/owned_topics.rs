//! Topics on their owner shard: offsets, the shards that follow, and how long a topic lives.

use super::world::{LOCAL, json, owned_topics};
use crate::limits::{HISTORY_AGE_DEFAULT, KEYS_MAX, REMEMBERED_AGE};
use crate::{
    Access, ClientId, Content, Creator, OwnedTopics, Permission, Position, Publication, Refused, Replay,
    Rules, SlowConsumerPolicy, Subscribed, TopicId, TopicSettings,
};
use echoring_proto::buffer::{Budget, Lease, Pool};

#[test]
fn offsets_count_up_and_survive_a_shard_that_comes_and_goes() {
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::Disconnect);
    let Subscribed { id, position, .. } = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    assert_eq!(position.offset, 0);
    let (first, shards) = owned.publish(id, &json(b"1"), true, 0, &mut pool).unwrap();
    assert_eq!((first, shards), (Position { offset: 1, ..position }, &[(0, LOCAL)][..]));
    assert_eq!(owned.subscribe("t", Creator::NOBODY, 1, LOCAL, &mut pool).unwrap().position, first);
    owned.unsubscribe(id, 1, LOCAL, 0, &mut pool);
    assert_eq!(owned.publish(id, &json(b"2"), true, 0, &mut pool).unwrap().1, [(0, LOCAL)]);
}

#[test]
fn a_topic_is_occupied_by_its_first_shard_and_vacated_by_its_last() {
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::Disconnect);
    let told = |owned: &mut OwnedTopics| owned.take_changes().occupied;
    let first = owned.subscribe("s", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap().id;
    assert!(!owned.has_changes(), "nobody wants to know");
    owned.collect_changes(true);
    let id = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap().id;
    owned.subscribe("t", Creator::NOBODY, 1, LOCAL, &mut pool).unwrap();
    assert_eq!(told(&mut owned), [("t".into(), true)]);
    owned.unsubscribe(id, 1, LOCAL, 0, &mut pool);
    assert!(!owned.has_changes());
    owned.unsubscribe(id, 0, LOCAL, 0, &mut pool);
    owned.unsubscribe(id, 0, LOCAL, 0, &mut pool);
    assert_eq!(told(&mut owned), [("t".into(), false)], "once");
    let client = ClientId::local(9);
    owned.presence(first, client, Some("alice"));
    assert_eq!(owned.vacate_all(), [("s".into(), client, "alice".into())]);
    assert_eq!(told(&mut owned), [("s".into(), false)]);
    owned.forget_shards(0, 0);
    assert_eq!(told(&mut owned), [("s".into(), false)]);
    owned.unsubscribe(first, 0, LOCAL, 0, &mut pool);
    assert_eq!(told(&mut owned), []);
}

#[test]
fn a_late_unsubscribe_does_not_end_a_newer_subscription() {
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::Disconnect);
    let id = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap().id;
    let newer = TopicId { generation: 1, ..LOCAL };
    owned.subscribe("t", Creator::NOBODY, 0, newer, &mut pool).unwrap();
    owned.unsubscribe(id, 0, LOCAL, 0, &mut pool);
    assert_eq!(owned.publish(id, &json(b""), true, 0, &mut pool).unwrap().1, [(0, newer)]);
}

#[test]
fn a_topic_is_forgotten_with_its_history_and_keeps_its_epoch_for_a_while() {
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::Disconnect);
    let first = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    owned.publish(first.id, &json(b"1"), true, 100, &mut pool).unwrap();
    owned.unsubscribe(first.id, 0, LOCAL, 200, &mut pool);
    owned.expire(650, &mut pool);
    let back = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    assert_eq!(back.position, Position { offset: 1, ..first.position }, "somebody came back in time");
    owned.unsubscribe(back.id, 0, LOCAL, 700, &mut pool);
    owned.expire(1_200, &mut pool);
    assert!(owned.is_empty());
    assert!(owned.publish(first.id, &json(b""), true, 0, &mut pool).is_err(), "its id is stale");
    let again = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    assert_eq!(again.position, back.position, "it goes on from there");
    assert_eq!(owned.report("t", 0).unwrap().publications.accepted, 1, "and so do its figures");
    let (told, _) = owned.history(again.id, Replay::After(0), 1_000, 0, &mut pool).unwrap();
    assert_eq!((told.first, told.messages), (2, 0), "its history is lost");
    owned.unsubscribe(again.id, 0, LOCAL, 1_300, &mut pool);
    owned.expire(1_300 + REMEMBERED_AGE, &mut pool);
    assert_eq!(pool.used_bytes(), 0);
    assert!(!owned.has_idle());
    let later = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    assert_eq!(later.position.offset, 0);
    assert_ne!(later.position.epoch, first.position.epoch);
}

#[test]
fn topics_that_nobody_reads_make_room_and_others_do_not() {
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::Disconnect);
    let idle = owned.find_or_create("idle", Creator::NOBODY, 0, &mut pool).unwrap();
    owned.publish(idle, &json(b"1"), true, 0, &mut pool).unwrap();
    owned.subscribe("read", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    owned.subscribe("also", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    assert!(owned.report("idle", 0).is_none());
    assert_eq!(owned.subscribe("more", Creator::NOBODY, 0, LOCAL, &mut pool), Err(Refused::TooManyTopics));
    assert_eq!(owned.find_or_create("more", Creator::NOBODY, 0, &mut pool), Err(Refused::TooManyTopics));
}

/// The same many times over leaves one entry for each topic, and none for one that is forgotten.
#[test]
fn repeated_subscriptions_leave_nothing_behind() {
    let mut pool = Pool::standalone();
    let rules = Rules::new(Vec::new(), TopicSettings::default());
    let mut owned = OwnedTopics::new(rules, Lease::new(Budget::new(10), 1), 7);
    let local = TopicId { index: 0, generation: 0 };
    for name in ["a", "b"] {
        let id = owned.find_or_create(name, Creator::NOBODY, 0, &mut pool).unwrap();
        owned.publish(id, &json(b"kept"), true, 1, &mut pool).unwrap();
    }
    let used_bytes = pool.used_bytes();
    for tick in 1..1_000 {
        let subscribed = owned.subscribe("a", Creator::NOBODY, 0, local, &mut pool).unwrap();
        assert_eq!(owned.idle_len(), 1);
        owned.unsubscribe(subscribed.id, 0, local, tick, &mut pool);
        assert_eq!((owned.idle_len(), owned.len()), (2, 2));
    }
    assert_eq!(pool.used_bytes(), used_bytes);
    // Whoever was left last is kept longest when others need the room.
    for index in 2..11 {
        owned.find_or_create(&format!("other {index}"), Creator::NOBODY, 2_000, &mut pool).unwrap();
    }
    assert!(owned.report("a", 0).is_some() && owned.report("b", 0).is_none());
    let later = HISTORY_AGE_DEFAULT + 3_000;
    owned.expire(later, &mut pool);
    assert_eq!((owned.idle_len(), owned.len()), (0, 0));
}

#[test]
fn messages_without_a_key_or_a_permission_are_refused_and_counted() {
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::Conflate);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    let refused = owned.publish(id, &json(b"1"), true, 0, &mut pool).map(|_| ());
    assert_eq!(refused, Err(Refused::NoKey));
    fn keyed(key: &str) -> Publication<'_> {
        Publication::new(Content::Json, key, b"1")
    }
    for key in 0..KEYS_MAX {
        owned.publish(id, &keyed(&key.to_string()), true, 0, &mut pool).unwrap();
    }
    let refused = owned.publish(id, &keyed("one more"), true, 0, &mut pool).map(|_| ());
    assert_eq!(refused, Err(Refused::TooManyKeys));
    owned.publish(id, &keyed("0"), true, 0, &mut pool).unwrap();
    let publications = owned.publications();
    assert!(publications.add_up());
    assert_eq!((publications.accepted, publications.refused), (KEYS_MAX as u64 + 1, 2));

    let access = Access { publish: Permission::Operator, ..Access::default() };
    let closed = TopicSettings { access, ..TopicSettings::default() };
    let mut owned = OwnedTopics::new(Rules::new(Vec::new(), closed), Lease::new(Budget::new(2), 1), 7);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    assert_eq!(owned.publish(id, &json(b"1"), true, 0, &mut pool).map(|_| ()), Err(Refused::Forbidden));
    assert!(owned.publish(id, &json(b"1"), false, 0, &mut pool).is_ok(), "the operator may");
}
