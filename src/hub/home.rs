//! The topics that have their home on this shard: who gets what is published, and under which offset.

use std::collections::BTreeMap;

use super::topic::TopicId;

/// Names a topic on its home shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HomeId {
    /// Position in the home shard's table.
    pub index: u32,
    /// Counts the reuses of `index`.
    pub generation: u32,
}

#[derive(Debug)]
struct Home {
    name: Box<str>,
    /// Messages published so far; the next one gets the next offset.
    offset: u64,
    /// The shards with subscribers, and what they call the topic.
    shards: Vec<(usize, TopicId)>,
}

/// The directory of one home shard.
#[derive(Debug, Default)]
pub struct Homes {
    by_name: BTreeMap<Box<str>, HomeId>,
    table: Vec<(u32, Option<Home>)>,
    free: Vec<u32>,
}

impl Homes {
    /// An empty directory.
    pub fn new() -> Homes {
        Homes::default()
    }

    /// Forwards the topic `name` to `shard` from now on. Returns its id and the offset it has reached.
    pub fn subscribe(&mut self, name: &str, shard: usize, local: TopicId) -> (HomeId, u64) {
        let id = match self.by_name.get(name) {
            Some(id) => *id,
            None => self.create(name),
        };
        let offset = match self.get_mut(id) {
            Some(home) => {
                home.shards.retain(|(other, _)| *other != shard);
                home.shards.push((shard, local));
                home.offset
            }
            None => 0,
        };
        (id, offset)
    }

    /// Forwards no longer to `shard`, unless it has subscribed anew under another local id. A topic without
    /// subscribers is forgotten.
    pub fn unsubscribe(&mut self, id: HomeId, shard: usize, local: TopicId) {
        let Some(home) = self.get_mut(id) else { return };
        home.shards.retain(|entry| *entry != (shard, local));
        if home.shards.is_empty() {
            let entry = &mut self.table[id.index as usize];
            if let Some(home) = entry.1.take() {
                self.by_name.remove(&home.name);
            }
            entry.0 = entry.0.wrapping_add(1);
            self.free.push(id.index);
        }
    }

    /// Gives the next message of a topic its offset and tells which shards it goes to.
    pub fn publish(&mut self, id: HomeId) -> Option<(u64, &[(usize, TopicId)])> {
        let home = self.get_mut(id)?;
        home.offset += 1;
        Some((home.offset, &home.shards))
    }

    fn create(&mut self, name: &str) -> HomeId {
        let home = Home { name: name.into(), offset: 0, shards: Vec::new() };
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push((0, None));
            (self.table.len() - 1) as u32
        });
        let entry = &mut self.table[index as usize];
        entry.1 = Some(home);
        let id = HomeId { index, generation: entry.0 };
        self.by_name.insert(name.into(), id);
        id
    }

    fn get_mut(&mut self, id: HomeId) -> Option<&mut Home> {
        let (generation, home) = self.table.get_mut(id.index as usize)?;
        if *generation != id.generation {
            return None;
        }
        home.as_mut()
    }
}

/// The shard that gives a topic's messages their order. FNV-1a: the same on every node and in every run.
pub fn home_shard(name: &str, shards: usize) -> usize {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of FNV-1a mix well; the high half is folded in for small shard counts.
    ((hash ^ (hash >> 32)) % shards as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: TopicId = TopicId { index: 3, generation: 0 };

    #[test]
    fn offsets_count_up_and_survive_a_shard_that_comes_and_goes() {
        let mut homes = Homes::new();
        let (id, offset) = homes.subscribe("t", 0, LOCAL);
        assert_eq!(offset, 0);
        assert_eq!(homes.publish(id), Some((1, &[(0, LOCAL)][..])));
        assert_eq!(homes.subscribe("t", 1, LOCAL), (id, 1));
        homes.unsubscribe(id, 1, LOCAL);
        assert_eq!(homes.publish(id), Some((2, &[(0, LOCAL)][..])));
    }

    #[test]
    fn a_late_unsubscribe_does_not_end_a_newer_subscription() {
        let mut homes = Homes::new();
        let (id, _) = homes.subscribe("t", 0, LOCAL);
        let newer = TopicId { generation: 1, ..LOCAL };
        homes.subscribe("t", 0, newer);
        homes.unsubscribe(id, 0, LOCAL);
        assert_eq!(homes.publish(id), Some((1, &[(0, newer)][..])));
    }

    #[test]
    fn a_topic_without_subscribers_is_forgotten_and_its_id_is_stale() {
        let mut homes = Homes::new();
        let (id, _) = homes.subscribe("t", 0, LOCAL);
        homes.unsubscribe(id, 0, LOCAL);
        assert_eq!(homes.publish(id), None);
        let (again, _) = homes.subscribe("u", 0, LOCAL);
        assert_eq!(again.index, id.index);
        assert_ne!(again, id);
    }

    #[test]
    fn topics_spread_over_shards() {
        for shards in [2, 3, 8] {
            let mut counts = vec![0_usize; shards];
            (0..800).for_each(|topic| counts[home_shard(&format!("topic-{topic}"), shards)] += 1);
            assert!(counts.iter().all(|count| *count > 800 / shards / 2), "{counts:?}");
        }
    }
}
