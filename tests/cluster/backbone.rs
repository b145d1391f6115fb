//! A backbone as NATS is one: in order from one node to another, at most once unless a client writes again what it had written to a
//! connection that broke.

use std::collections::{BTreeMap, VecDeque};

use echoring_cluster::NodeId;
use echoring_proto::limits::{MILLISECOND, Nanos};
use echoring_proto::random::SplitMix64;

/// What a node is sent.
#[derive(Clone, Debug)]
pub enum Delivery {
    Heartbeat(Vec<u8>),
    Packet(Vec<u8>),
}

/// Packets on their way.
#[derive(Debug, Default)]
pub struct Backbone {
    queues: BTreeMap<(NodeId, NodeId), VecDeque<(Nanos, Delivery)>>,
    /// What nodes write again once they are connected.
    again: BTreeMap<(NodeId, NodeId), Vec<Delivery>>,
    /// How many packets from one node to another are lost next, as NATS drops those of a node that is too slow.
    losses: BTreeMap<(NodeId, NodeId), u32>,
    /// Nodes with different numbers do not reach each other.
    sides: BTreeMap<NodeId, u32>,
    pub delay_max: Nanos,
}

impl Backbone {
    pub fn set_side(&mut self, node: NodeId, side: u32) {
        self.sides.insert(node, side);
    }

    /// Loses the next packets from one node to another. Heartbeats arrive.
    pub fn lose(&mut self, from: NodeId, to: NodeId, packets: u32) {
        self.losses.insert((from, to), packets);
    }

    pub fn lose_none(&mut self) {
        self.losses.clear();
    }

    pub fn send(
        &mut self,
        from: NodeId,
        to: NodeId,
        delivery: Delivery,
        now: Nanos,
        random: &mut SplitMix64,
    ) {
        if self.sides.get(&from) != self.sides.get(&to) {
            return;
        }
        if let (Delivery::Packet(_), Some(left)) = (&delivery, self.losses.get_mut(&(from, to)))
            && *left > 0
        {
            *left -= 1;
            return;
        }
        let slow = if random.below(50) == 0 { 20 } else { 1 };
        let at = now + random.below(self.delay_max.max(MILLISECOND) * slow);
        let queue = self.queues.entry((from, to)).or_default();
        let at = queue.back().map_or(at, |(last, _)| at.max(*last));
        queue.push_back((at, delivery));
    }

    /// A connection breaks: what is on its way to the node is lost, and some of what the node has sent. The node does not know what
    /// has arrived, and may write some of it again.
    pub fn cut(&mut self, node: NodeId, random: &mut SplitMix64) {
        for ((from, to), queue) in &mut self.queues {
            if *to == node {
                queue.clear();
            } else if *from == node {
                let places = queue.len() as u64 + 1;
                let again = queue.iter().skip(random.below(places) as usize);
                self.again.insert((*from, *to), again.map(|(_, delivery)| delivery.clone()).collect());
                queue.truncate(random.below(places) as usize);
            }
        }
    }

    /// A node is connected again, and has sent nothing yet.
    pub fn reconnect(&mut self, node: NodeId, now: Nanos, random: &mut SplitMix64) {
        let (own, others) =
            std::mem::take(&mut self.again).into_iter().partition(|((from, _), _)| *from == node);
        self.again = others;
        let own: BTreeMap<_, _> = own;
        for ((from, to), deliveries) in own {
            for delivery in deliveries {
                self.send(from, to, delivery, now, random);
            }
        }
    }

    /// The next delivery that is due, if its receiver is connected.
    pub fn poll(&mut self, now: Nanos, is_connected: impl Fn(NodeId) -> bool) -> Option<(NodeId, Delivery)> {
        for ((_, to), queue) in &mut self.queues {
            if queue.front().is_some_and(|(at, _)| *at <= now) {
                let (_, delivery) = queue.pop_front()?;
                if is_connected(*to) {
                    return Some((*to, delivery));
                }
            }
        }
        None
    }

    pub fn forget(&mut self, node: NodeId) {
        self.queues.retain(|(_, to), _| *to != node);
        self.again.retain(|(from, to), _| *from != node && *to != node);
        self.losses.retain(|(from, to), _| *from != node && *to != node);
        self.sides.remove(&node);
    }
}
