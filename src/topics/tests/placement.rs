//! Which shard owns a topic.

use crate::Placement;

#[test]
fn a_name_has_one_owner_shard_and_owner_shards_are_spread() {
    let mut counts = [0_u32; 4];
    for index in 0..1_000 {
        counts[Placement::new(7).owner(&format!("topic-{index}"), 4)] += 1;
    }
    assert!(counts.iter().all(|count| (150..350).contains(count)), "{counts:?}");
    assert_eq!(Placement::new(7).owner("a", 1), 0);
}

#[test]
fn names_that_share_an_owner_shard_in_one_process_do_not_in_another() {
    let aimed: Vec<String> = (0..10_000)
        .map(|index| format!("topic-{index}"))
        .filter(|name| Placement::new(1).owner(name, 4) == 0)
        .collect();
    for seed in 2..20 {
        let mut counts = [0_usize; 4];
        aimed.iter().for_each(|name| counts[Placement::new(seed).owner(name, 4)] += 1);
        assert!(counts.iter().all(|count| (aimed.len() / 6..aimed.len() / 3).contains(count)), "{counts:?}");
    }
}
