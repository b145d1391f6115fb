//! Publications that are repeated with their idempotency key.

use super::world::{LOCAL, json, owned_topics, submitted};
use crate::limits::IDEMPOTENCY_WINDOW;
use crate::{
    Accepted, Creator, HistoryBounds, OwnedTopics, Position, Publication, Refused, Rules, SlowConsumerPolicy,
    Submission, TopicSettings, Version,
};
use echoring_proto::buffer::{Budget, Lease, Pool};

#[test]
fn a_repeated_publication_has_its_first_position_and_is_not_delivered() {
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::Disconnect);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    owned.subscribe("t", Creator::NOBODY, 0, LOCAL, &mut pool).unwrap();
    let mut once = |owned: &mut OwnedTopics, payload: &[u8], key, by_client, now| match owned.publish_once(
        id,
        &submitted(json(payload), key, by_client),
        now,
        &mut pool,
    ) {
        Ok(Accepted::New(position, shards)) => Ok((position.offset, shards.len())),
        Ok(Accepted::Again(position)) => Ok((position.offset, 0)),
        Err(refused) => Err(refused),
    };
    assert_eq!(once(&mut owned, b"a", "1", true, 0), Ok((1, 1)));
    assert_eq!(once(&mut owned, b"b", "2", true, 0), Ok((2, 1)));
    assert_eq!(once(&mut owned, b"a", "1", true, 1), Ok((1, 0)));
    assert_eq!(once(&mut owned, b"x", "1", true, 1), Err(Refused::KeyReused));
    assert_eq!(once(&mut owned, b"x", "1", false, 1), Ok((3, 1)), "a client does not speak for the operator");
    let window = IDEMPOTENCY_WINDOW;
    assert_eq!(once(&mut owned, b"a", "1", true, window - 1), Ok((1, 0)));
    assert_eq!(once(&mut owned, b"a", "1", true, window), Ok((4, 1)), "it is another one then");
    let publications = owned.publications();
    assert!(publications.add_up());
    assert_eq!((publications.accepted, publications.refused), (4, 1));
}

#[test]
fn a_topic_lives_as_long_as_its_publications_may_be_repeated() {
    let settings = TopicSettings {
        history: HistoryBounds { messages: 0, ..HistoryBounds::default() },
        ..TopicSettings::default()
    };
    let mut owned = OwnedTopics::new(Rules::new(Vec::new(), settings), Lease::new(Budget::new(2), 1), 7);
    let mut pool = Pool::standalone();
    let once = |owned: &mut OwnedTopics, pool: &mut Pool, now| {
        let id = owned.find_or_create("t", Creator::NOBODY, now, pool).unwrap();
        match owned.publish_once(id, &submitted(json(b"a"), "k", true), now, pool) {
            Ok(Accepted::New(position, _)) => (position, true),
            Ok(Accepted::Again(position)) => (position, false),
            Err(refused) => panic!("{refused:?}"),
        }
    };
    let (first, true) = once(&mut owned, &mut pool, 1) else { panic!("new") };
    let window = IDEMPOTENCY_WINDOW;
    owned.expire(window, &mut pool);
    assert_eq!(once(&mut owned, &mut pool, window), (first, false));
    assert!(owned.has_idle());
    owned.expire(window + 1, &mut pool);
    assert!(owned.is_empty());
    let (second, true) = once(&mut owned, &mut pool, window + 2) else { panic!("new") };
    assert_eq!(second, Position { offset: 2, ..first }, "where the topic had come to is remembered longer");
    // Refused, it is not remembered.
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::Conflate);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    let refused = owned.publish_once(id, &submitted(json(b"a"), "k", true), 0, &mut pool).map(|_| ());
    assert_eq!(refused, Err(Refused::NoKey));
    let keyed = Publication { key: "key", ..json(b"a") };
    let accepted = owned.publish_once(id, &submitted(keyed, "k", true), 0, &mut pool);
    assert!(matches!(accepted, Ok(Accepted::New(Position { offset: 1, .. }, _))), "{accepted:?}");
}

#[test]
fn old_versions_are_skipped_where_there_is_history() {
    for messages in [4, 0] {
        let history = HistoryBounds { messages, ..HistoryBounds::default() };
        let settings = TopicSettings { history, ..TopicSettings::default() };
        let mut owned = OwnedTopics::new(Rules::new(Vec::new(), settings), Lease::new(Budget::new(2), 1), 7);
        let mut pool = Pool::standalone();
        let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
        let mut is_new = |number, epoch, key| {
            let version = Version::encode(number, epoch).unwrap();
            let submission =
                Submission { version: Version::new(&version), ..submitted(json(b"a"), key, false) };
            match owned.publish_once(id, &submission, 1, &mut pool).unwrap() {
                Accepted::New(..) => true,
                Accepted::Again(position) => {
                    assert_eq!(position.offset, owned.position("t").unwrap().offset);
                    false
                }
            }
        };
        let expected = messages == 0;
        assert!(is_new(3, "", ""));
        assert_eq!([is_new(3, "", ""), is_new(2, "", "key")], [expected; 2]);
        assert!(is_new(4, "", "key 2") && is_new(2, "other", ""));
        assert_eq!(is_new(1, "other", ""), expected);
        assert!(is_new(0, "", ""), "without a version");
    }
}
