//! The nodes that own topics, as one node sees them, and which of them owns a topic.

use std::fmt;
use std::sync::Arc;

use echoring_proto::random::mix;

/// Shows whether two nodes have the same key, but not which one: half of the bits of a hash do not reveal it.
pub(crate) fn fingerprint(key: u64) -> u64 {
    const SALT: u64 = 0x6669_6e67_6572;
    mix(mix(key) ^ SALT) >> 32
}

/// One run of a node. A node that is restarted has another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

echoring_proto::plain!(for NodeId(number));

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A set of nodes that own topics. Nodes with the same set place every topic on the same node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    owners: Arc<[NodeId]>,
    id: u64,
    key: u64,
}

impl View {
    /// The view of these nodes. `key` is that of the cluster: without it, clients could choose names that all have one owner.
    pub fn new(owners: impl IntoIterator<Item = NodeId>, key: u64) -> View {
        let mut owners: Vec<NodeId> = owners.into_iter().collect();
        owners.sort_unstable();
        owners.dedup();
        let id = owners.iter().fold(mix(key), |id, node| mix(id ^ node.0));
        View { owners: owners.into(), id, key }
    }

    /// Identifies the set.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The nodes, in ascending order.
    pub fn owners(&self) -> &[NodeId] {
        &self.owners
    }

    /// The node that owns the topic `name`; `None` if no node owns topics. By rendezvous hashing: a node that joins takes a part
    /// of each other's topics, and a node that leaves gives its own to all others.
    pub fn owner(&self, name: &str) -> Option<NodeId> {
        let topic = self.hash(name);
        self.owners.iter().copied().max_by_key(|node| (mix(topic ^ mix(node.0)), *node))
    }

    /// A keyed hash that is the same in every build, as nodes of different versions must agree on it.
    fn hash(&self, name: &str) -> u64 {
        name.as_bytes().chunks(8).fold(mix(self.key ^ name.len() as u64), |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(hash ^ u64::from_le_bytes(word))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u64) -> Vec<NodeId> {
        (1..=count).map(|number| NodeId(mix(number))).collect()
    }

    #[test]
    fn the_order_in_which_nodes_are_named_does_not_matter() {
        let mut reversed = nodes(9);
        reversed.reverse();
        let (a, b) = (View::new(nodes(9), 7), View::new(reversed, 7));
        assert_eq!(a, b);
        assert_ne!(a.id(), View::new(nodes(8), 7).id());
        assert_eq!(View::new([], 7).owner("topic"), None);
    }

    #[test]
    fn a_node_that_joins_takes_its_share_and_moves_nothing_else() {
        let (before, after) = (View::new(nodes(4), 1), View::new(nodes(5), 1));
        let joined = nodes(5)[4];
        let moved = (0..10_000)
            .map(|number| format!("topic.{number}"))
            .filter(|name| before.owner(name) != after.owner(name))
            .inspect(|name| assert_eq!(after.owner(name), Some(joined), "{name}"))
            .count();
        assert!((1_700..2_300).contains(&moved), "{moved} of 10,000 topics moved to a fifth node");
    }

    #[test]
    fn topics_are_spread_evenly() {
        let view = View::new(nodes(8), 3);
        let mut counts = std::collections::BTreeMap::<_, u32>::new();
        for number in 0..16_000 {
            *counts.entry(view.owner(&format!("t{number}"))).or_default() += 1;
        }
        assert!(
            counts.len() == 8 && counts.values().all(|count| (1_700..2_300).contains(count)),
            "{counts:?}"
        );
    }
}
