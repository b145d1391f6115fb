//! History on the owner shard: its bounds, and what newcomers get of it.

use super::world::{json, owned_topics, settings};
use crate::{
    Content, Creator, Keeping, OwnedTopics, Page, Publication, Replay, Rules, SlowConsumerPolicy,
    TopicSettings, entries,
};
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::limits::Nanos;

fn history_after(
    owned: &mut OwnedTopics,
    pool: &mut Pool,
    after: u64,
    bytes_max: usize,
    now: Nanos,
) -> (Page, String) {
    let id = owned.find_or_create("t", Creator::NOBODY, 0, pool).unwrap();
    let (told, page) = owned.history(id, Replay::After(after), bytes_max, now, pool).unwrap();
    let all: Vec<u8> = entries(&page).flat_map(|(_, publication)| publication.payload.to_vec()).collect();
    assert_eq!(entries(&page).count(), told.messages as usize);
    (told, String::from_utf8(all).unwrap())
}

#[test]
fn history_is_bounded_by_count_bytes_and_age_and_says_where_it_begins() {
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::Disconnect);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    for (at, payload) in (1..).zip([b"a", b"b", b"c", b"d", b"e", b"f"]) {
        owned.publish(id, &json(payload), true, at * 10, &mut pool).unwrap();
    }
    let mut history = |after, bytes_max, now| {
        let (page, all) = history_after(&mut owned, &mut pool, after, bytes_max, now);
        (page.first, page.messages, page.complete, all)
    };
    assert_eq!(history(4, 1_000, 60), (5, 2, true, "ef".to_owned()));
    assert_eq!(history(0, 1_000, 60), (3, 4, true, "cdef".to_owned()), "four are kept");
    assert_eq!(history(6, 1_000, 60), (7, 0, true, String::new()));
    assert_eq!(history(2, 1, 60), (3, 1, false, "c".to_owned()), "at least one goes with each page");
    assert_eq!(history(3, 1, 60), (4, 1, false, "d".to_owned()));
    assert_eq!(history(2, 1_000, 551), (6, 1, true, "f".to_owned()), "the others are too old");
    assert_eq!(history(2, 1_000, 561), (7, 0, true, String::new()));
}

#[test]
fn newcomers_get_the_latest_of_each_key_or_the_last_messages() {
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::Conflate);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    for (at, key) in (1..).zip(["a", "b", "a", "c", "b", "b", "d", "a", "a"]) {
        let payload = at.to_string();
        let publication = Publication::new(Content::Json, key, payload.as_bytes());
        owned.publish(id, &publication, true, at, &mut pool).unwrap();
    }
    let mut replay = |from, bytes_max| {
        let (told, page) = owned.history(id, from, bytes_max, 9, &mut pool).unwrap();
        let all: Vec<(u64, String)> = entries(&page).map(|(at, message)| (at, message.key.into())).collect();
        assert_eq!((told.head.offset, all.len()), (9, told.messages as usize));
        (told.after, told.conflated, told.complete, all)
    };
    let latest = [(4, "c"), (6, "b"), (7, "d"), (9, "a")].map(|(at, key)| (at, key.to_owned()));
    assert_eq!(replay(Replay::Newcomer, 1_000), (0, true, true, latest.to_vec()));
    assert_eq!(replay(Replay::Newcomer, 1), (0, true, false, latest[..1].to_vec()));
    assert_eq!(replay(Replay::After(4), 1), (4, true, false, latest[1..2].to_vec()));
    assert_eq!(replay(Replay::Latest(5), 1_000), (5, true, true, latest[1..].to_vec()));
    let (after, conflated, complete, all) = replay(Replay::After(5), 1_000);
    assert_eq!((after, conflated, complete, all.len()), (5, false, true, 4), "those are kept one by one");
    assert_eq!(replay(Replay::After(9), 1_000), (9, false, true, Vec::new()));

    let settings = TopicSettings { snapshot: 2, ..settings(SlowConsumerPolicy::Disconnect) };
    let mut owned = OwnedTopics::new(Rules::new(Vec::new(), settings), Lease::new(Budget::new(2), 1), 7);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    let newcomer = |owned: &mut OwnedTopics, pool: &mut Pool| {
        let (told, _) = owned.history(id, Replay::Newcomer, 1_000, 9, pool).unwrap();
        (told.after, told.first, told.messages)
    };
    assert_eq!(newcomer(&mut owned, &mut pool), (0, 1, 0));
    for offset in 1..=5_u64 {
        owned.publish(id, &json(b"x"), true, 9, &mut pool).unwrap();
        let last = offset.min(2);
        assert_eq!(newcomer(&mut owned, &mut pool), (offset - last, offset - last + 1, last as u32));
    }
}

#[test]
fn a_message_that_history_skips_leaves_its_place_and_is_there_while_subscribers_move() {
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::Disconnect);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    let skipped = Publication { keeping: Keeping::Skipped, ..json(b"b") };
    let mut kept = |owned: &mut OwnedTopics| {
        for publication in [json(b"a"), skipped] {
            owned.publish(id, &publication, true, 1, &mut pool).unwrap();
        }
        let (_, page) = owned
            .history(id, Replay::After(owned.position("t").unwrap().offset - 2), 1_000, 1, &mut pool)
            .unwrap();
        let all = entries(&page).map(|(_, message)| (message.keeping, message.payload.len()));
        all.collect::<Vec<_>>()
    };
    assert_eq!(kept(&mut owned), [(Keeping::Kept, 1), (Keeping::Omitted, 0)]);
    owned.retain_until(100);
    assert_eq!(kept(&mut owned), [(Keeping::Kept, 1), (Keeping::Skipped, 1)]);
}

#[test]
fn removed_history_is_a_gap_for_those_who_return() {
    for (slow, key) in [(SlowConsumerPolicy::Disconnect, ""), (SlowConsumerPolicy::Conflate, "k")] {
        let (mut owned, mut pool) = owned_topics(slow);
        let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
        owned.publish(id, &Publication { key, ..json(b"a") }, true, 1, &mut pool).unwrap();
        owned.forget_messages("t", &mut pool);
        owned.forget_messages("unknown", &mut pool);
        let (told, page) = owned.history(id, Replay::After(0), 1_000, 1, &mut pool).unwrap();
        assert_eq!((told.head.offset, told.first, page.len()), (1, 2, 0), "{slow:?}");
        owned.publish(id, &Publication { key, ..json(b"b") }, true, 1, &mut pool).unwrap();
        let (told, page) = owned.history(id, Replay::After(1), 1_000, 1, &mut pool).unwrap();
        assert_eq!((told.first, entries(&page).count()), (2, 1), "{slow:?}");
    }
}
