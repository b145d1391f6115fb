//! Member lists on the owner shard.

use super::world::owned_topics;
use crate::{ClientId, Creator, Members, OwnedTopics, SlowConsumerPolicy, members};

#[test]
fn members_are_listed_page_by_page() {
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::DropOldest);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    for client in [5, 3, 9, 7, 1] {
        owned.presence(id, ClientId::local(client), Some(if client == 3 { "alice" } else { "" }));
    }
    let left = owned.presence(id, ClientId::local(7), None).map(|(count, subject, _)| (count, subject));
    assert_eq!(left, Some((4, "".into())));
    let told = |owned: &mut OwnedTopics, after: Option<u64>, most| {
        let mut page = Vec::new();
        let after = after.map(ClientId::local);
        let Members { count, next, .. } = owned.members(id, after, most, 1_000, &mut page).unwrap();
        let clients = members(&page).map(|(client, _)| client.number);
        (clients.collect::<Vec<_>>(), count, next.map(|next| next.number))
    };
    assert_eq!(told(&mut owned, None, 3), (vec![1, 3, 5], 4, Some(5)));
    assert_eq!(told(&mut owned, Some(5), 3), (vec![9], 4, None));
    assert_eq!(told(&mut owned, None, 4), (vec![1, 3, 5, 9], 4, None));
    assert_eq!(told(&mut owned, None, 0), (vec![], 4, None));
    assert_eq!(told(&mut owned, Some(9), 3), (vec![], 4, None));
    // 18 bytes each, and the subject.
    for (bytes_max, expected, next) in
        [(0, &[(1, "")][..], Some(1)), (40, &[(1, "")], Some(1)), (41, &[(1, ""), (3, "alice")], Some(3))]
    {
        let mut page = Vec::new();
        let told = owned.members(id, None, 9, bytes_max, &mut page).unwrap();
        let clients: Vec<_> = members(&page).map(|(client, subject)| (client.number, subject)).collect();
        assert_eq!((clients, told.next), (expected.to_vec(), next.map(ClientId::local)), "{bytes_max}");
    }
    let left = owned.presence(id, ClientId::local(3), None).map(|(count, subject, _)| (count, subject));
    assert_eq!(left, Some((3, "alice".into())));
}

#[test]
fn a_list_of_all_nodes_is_charged_as_long_as_its_topic_lives_and_survives_a_new_epoch() {
    let (mut owned, mut pool) = owned_topics(SlowConsumerPolicy::DropOldest);
    let id = owned.find_or_create("t", Creator::NOBODY, 0, &mut pool).unwrap();
    let before = pool.used_bytes();
    let client = |node| ClientId { node, number: 1 };
    for node in [7, 5] {
        let charged = owned.charge_member(id, client(node), Some("alice"), 3, &mut pool);
        assert_eq!(charged, Ok(true));
        owned.presence(id, client(node), Some("alice"));
        assert_eq!(owned.charge_member(id, client(node), Some("alice"), 9, &mut pool), Ok(false));
    }
    assert_eq!(owned.charge_member(id, client(9), None, 9, &mut pool), Ok(false));
    assert!(pool.used_bytes() > before);
    owned.restart("t", None, 0, &mut pool).unwrap();
    // One is counted elsewhere and not listed here.
    let told = owned.members(id, None, 9, 1_000, &mut Vec::new());
    assert_eq!(told, Some(Members { count: 3, next: None, unlisted: 1 }));
    assert_eq!(owned.charge_member(id, client(7), None, 2, &mut pool), Ok(true));
    owned.presence(id, client(7), None);
    let told = owned.members(id, None, 9, 1_000, &mut Vec::new());
    assert_eq!(told, Some(Members { count: 2, next: None, unlisted: 1 }));
    owned.remove("t", 0, &mut pool);
    assert_eq!(pool.used_bytes(), before);
}
