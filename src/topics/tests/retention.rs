//! Retention: while connections move, topics keep messages that their settings do not ask for.

use super::world::{LOCAL, json, settings};
use crate::limits::RETAINED_BYTES_MAX;
use crate::{
    ClientId, Creator, Durable, HistoryBounds, OwnedTopicId, OwnedTopics, Replay, Rules, SlowConsumerPolicy,
    TopicSettings, entries,
};
use echoring_proto::buffer::{Budget, Lease, Pool};

fn owned(messages: u32) -> (OwnedTopics, Pool) {
    owned_with(messages, Durable::default())
}

fn owned_with(messages: u32, durable: Durable) -> (OwnedTopics, Pool) {
    let history = HistoryBounds { messages, bytes: 1_000, age: 5 };
    let settings = TopicSettings { history, durable, ..settings(SlowConsumerPolicy::Disconnect) };
    let rules = Rules::new(Vec::new(), settings);
    (OwnedTopics::new(rules, Lease::new(Budget::new(2), 1), 7), Pool::standalone())
}

/// The first offset that the replay of a moved subscriber may have, and the payloads.
fn replay(
    owned: &mut OwnedTopics,
    id: OwnedTopicId,
    after: u64,
    now: u64,
    pool: &mut Pool,
) -> (u64, Vec<String>) {
    page(owned, id, Replay::Continued(after), now, pool)
}

fn page(
    owned: &mut OwnedTopics,
    id: OwnedTopicId,
    from: Replay,
    now: u64,
    pool: &mut Pool,
) -> (u64, Vec<String>) {
    let (page, bytes) = owned.history(id, from, 1 << 20, now, pool).unwrap();
    let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
    (page.first, entries(&bytes).map(|(_, message)| text(message.payload)).collect())
}

#[test]
fn a_durable_topic_keeps_what_its_settings_say() {
    let (mut owned, mut pool) = owned_with(2, Durable { is_on: true, ..Durable::default() });
    let id = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap().id;
    owned.retain_until(1_000);
    for payload in ["1", "2", "3"] {
        owned.publish(id, &json(payload.as_bytes()), true, 10, &mut pool).unwrap();
    }
    assert_eq!(replay(&mut owned, id, 0, 11, &mut pool), (2, vec!["2".to_owned(), "3".to_owned()]));
}

#[test]
fn messages_from_now_on_are_kept_until_the_time_is_over() {
    for messages in [0, 2] {
        let (mut owned, mut pool) = owned(messages);
        let id = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap().id;
        let publish = |owned: &mut OwnedTopics, pool: &mut Pool, payload: &str, now| {
            owned.publish(id, &json(payload.as_bytes()), true, now, pool).unwrap();
        };
        for payload in ["1", "2", "3"] {
            publish(&mut owned, &mut pool, payload, 10);
        }
        owned.retain_until(1_000);
        for payload in ["4", "5", "6", "7"] {
            publish(&mut owned, &mut pool, payload, 20);
        }
        owned.unsubscribe(id, 0, LOCAL, 30, &mut pool);
        owned.expire(900, &mut pool);
        let all = ["4", "5", "6", "7"].map(str::to_owned).to_vec();
        assert_eq!(replay(&mut owned, id, 3, 900, &mut pool), (4, all), "neither their number nor their age");
        assert_eq!(replay(&mut owned, id, 5, 900, &mut pool).1.len(), 2);
        assert!(owned.has_idle(), "there is an end to wait for");
        owned.retain_until(500);
        owned.expire(999, &mut pool);
        assert_eq!(replay(&mut owned, id, 3, 999, &mut pool).1.len(), 4, "no request makes it shorter");
        owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
        publish(&mut owned, &mut pool, "8", 999);
        owned.expire(1_000, &mut pool);
        let kept = messages.min(1);
        let expected = (9 - u64::from(kept), kept as usize);
        let (first, rest) = replay(&mut owned, id, 3, 1_001, &mut pool);
        assert_eq!((first, rest.len()), expected);
        owned.unsubscribe(id, 0, LOCAL, 1_010, &mut pool);
        owned.expire(2_000, &mut pool);
        assert!(owned.is_empty());
    }
}

#[test]
fn only_subscribers_that_have_moved_are_sent_what_is_kept_for_them() {
    // By the number, the bytes and the age of the messages that the settings keep.
    for (messages, bytes, age, shown) in
        [(0, 1_000, 1_000, 0), (2, 1_000, 1_000, 2), (9, 250, 1_000, 2), (9, 1_000, 25, 2)]
    {
        let history = HistoryBounds { messages, bytes, age };
        let settings =
            TopicSettings { history, snapshot: messages, ..settings(SlowConsumerPolicy::Disconnect) };
        let rules = Rules::new(Vec::new(), settings);
        let (mut owned, mut pool) =
            (OwnedTopics::new(rules, Lease::new(Budget::new(2), 1), 7), Pool::standalone());
        let id = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap().id;
        owned.retain_until(1_000);
        let texts: Vec<String> = (1..=5).map(|number| number.to_string().repeat(100)).collect();
        for (text, at) in texts.iter().zip([10, 20, 30, 40, 50]) {
            owned.publish(id, &json(text.as_bytes()), true, at, &mut pool).unwrap();
        }
        let expected = (6 - shown as u64, texts[5 - shown..].to_vec());
        for from in [Replay::After(0), Replay::Newcomer] {
            assert_eq!(page(&mut owned, id, from, 60, &mut pool), expected, "{from:?}");
        }
        // One that asks for less than that.
        assert_eq!(page(&mut owned, id, Replay::After(4), 60, &mut pool).1.len(), shown.min(1));
        assert_eq!(replay(&mut owned, id, 0, 60, &mut pool), (1, texts.clone()), "they are there");
        assert_eq!(replay(&mut owned, id, 3, 60, &mut pool), (4, texts[3..].to_vec()));
    }
}

#[test]
fn a_topic_without_subscribers_is_not_forgotten_meanwhile() {
    let (mut owned, mut pool) = owned(0);
    let first = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    owned.retain_until(1_000);
    owned.unsubscribe(first.id, 0, LOCAL, 10, &mut pool);
    owned.expire(100, &mut pool);
    owned.publish(first.id, &json(b"1"), true, 200, &mut pool).unwrap();
    let again = owned.subscribe("t", Creator::NOBODY, 1, LOCAL, &mut pool).unwrap();
    assert_eq!((again.id, again.position.epoch), (first.id, first.position.epoch));
    assert_eq!(replay(&mut owned, first.id, 0, 300, &mut pool), (1, vec!["1".to_owned()]));
    owned.unsubscribe(first.id, 1, LOCAL, 400, &mut pool);
    owned.expire(1_000, &mut pool);
    assert!(owned.is_empty());
}

#[test]
fn retained_messages_are_bounded_in_bytes_and_make_room() {
    let (mut owned, mut pool) = owned(0);
    let id = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap().id;
    owned.retain_until(1_000);
    let payload = vec![b'1'; 100_000];
    let sent = 3 * RETAINED_BYTES_MAX / payload.len();
    for _ in 0..sent {
        owned.publish(id, &json(&payload), true, 10, &mut pool).unwrap();
    }
    let kept = owned.report("t", 10).unwrap();
    assert!(kept.history_bytes as usize <= RETAINED_BYTES_MAX && kept.history_messages > 20);
    assert!(replay(&mut owned, id, 0, 10, &mut pool).0 > 1, "the oldest are gone, and that is told");
    assert!(owned.shed(&mut pool));
    assert_eq!(owned.report("t", 10).unwrap().history_messages, 0);
    owned.publish(id, &json(b"1"), true, 10, &mut pool).unwrap();
    assert_eq!(replay(&mut owned, id, sent as u64, 10, &mut pool), (sent as u64 + 1, vec!["1".to_owned()]));
}

#[test]
fn members_of_a_predecessor_are_known_until_this_process_has_them() {
    let (mut owned, mut pool) = owned(0);
    let id = owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap().id;
    let clients = [1, 2, 3].map(ClientId::local);
    for client in clients {
        owned.presence(id, client, Some("somebody"));
        owned.set_member_far(id, client, true);
    }
    // In a cluster, the list follows.
    let unlisted = ClientId::local(4);
    owned.set_member_far(id, unlisted, true);
    owned.set_member_far(id, clients[0], false);
    owned.presence(id, clients[1], None);
    assert_eq!(owned.far_members(), [(id, clients[2]), (id, unlisted)]);
    owned.presence(id, unlisted, None);
    assert_eq!(owned.far_members(), [(id, clients[2])]);
    assert!(owned.is_far_member(id, clients[2]) && !owned.is_far_member(id, clients[0]));
    owned.presence(id, clients[2], None);
    assert!(owned.far_members().is_empty());
}
