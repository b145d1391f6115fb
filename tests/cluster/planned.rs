//! Nodes join, leave, and move to other processes under load, and nothing breaks.

use echoring_cluster::{NodeId, Phase};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

use super::for_each_seed;
use super::node::{Node, Published};
use super::truth::Entry;
use super::world::World;

/// Time after which a publication has surely been decided.
const AGREED_AFTER: Nanos = 5 * SECOND;

/// Nobody misses a message, nobody is told of another epoch, and no publication is refused or uncertain.
#[test]
fn planned_changes_lose_nothing_and_keep_every_epoch() {
    for_each_seed("planned_changes", |seed| {
        let mut world = World::new(seed, 2 + seed % 3, 1 + seed % 5, 10_000);
        world.watch(3 * SECOND);
        subscribe_everywhere(&mut world);
        let mut earlier = Vec::new();
        for round in 0..6 {
            match world.random.below(3) {
                0 if world.nodes.len() > 1 => leave_one(&mut world),
                1 => {
                    let id = world.pick_node();
                    world.take_over(id);
                }
                _ if world.nodes.len() < 6 => drop(world.start(&format!("round-{round}"))),
                _ => {}
            }
            for _ in 0..60 {
                publish_somewhere(&mut world, &mut earlier);
                let pause = world.random.below(60 * MILLISECOND);
                world.pass(pause);
                end_those_that_left(&mut world);
            }
        }
        for _ in 0..10 {
            world.watch(SECOND);
            end_those_that_left(&mut world);
        }
        world.watch(2 * SECOND);
        world.check_converged();
        let (told, published) = (world.told(), world.published());
        assert_eq!((told.missed, told.resets), (0, 0), "{told:?}");
        assert_eq!(world.false_leaves(), 0);
        assert_eq!(published, Published { accepted: published.accepted, ..Published::default() });
        assert!(told.messages > 0 && published.accepted > 300, "{told:?}, {published:?}");
    });
}

pub fn subscribe_everywhere(world: &mut World) {
    let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
    for topic in world.topics.clone() {
        for id in &ids {
            let subscriber = world.new_subscriber(&topic);
            world.subscribe(*id, subscriber);
        }
    }
}

/// A node begins to leave. Its clients find others at once, from their positions.
pub fn leave_one(world: &mut World) {
    let active = active(world);
    if active.len() < 2 {
        return;
    }
    let id = *world.random.pick(&active);
    leave(world, id);
    send_everyone_away(world, id);
}

fn leave(world: &mut World, id: NodeId) {
    let now = world.now;
    world.nodes.get_mut(&id).expect("a node").leave(now);
}

/// The clients of a node find others at once.
fn send_everyone_away(world: &mut World, id: NodeId) {
    for topic in world.topics.clone() {
        world.send_away(id, &topic);
    }
    let others: Vec<NodeId> = active(world).into_iter().filter(|other| *other != id).collect();
    for subscriber in std::mem::take(&mut world.wandering) {
        let to = *world.random.pick(&others);
        world.subscribe(to, subscriber);
    }
}

fn active(world: &World) -> Vec<NodeId> {
    let nodes = world.nodes.values().filter(|node| node.cluster.phase() == Phase::Active);
    nodes.map(Node::id).collect()
}

/// Publishes a message with an idempotency key, and now and then an earlier one again, which is published already.
fn publish_somewhere(world: &mut World, earlier: &mut Vec<(Nanos, String, Entry)>) {
    let active = active(world);
    if active.is_empty() {
        return;
    }
    let (id, topic) = (*world.random.pick(&active), world.pick_topic());
    let key = earlier.len() as u32 + 1;
    let entry = world.publish(id, &topic, key);
    earlier.push((world.now, topic, entry));
    if world.random.below(4) == 0
        && let (at, topic, entry) = world.random.pick(earlier).clone()
        && at + AGREED_AFTER < world.now
    {
        world.publish_again(id, &topic, entry);
    }
}

pub fn end_those_that_left(world: &mut World) {
    let now = world.now;
    let left: Vec<NodeId> = world
        .nodes
        .values_mut()
        .filter_map(|node| (node.cluster.phase() == Phase::Leaving && node.has_left(now)).then(|| node.id()))
        .collect();
    for id in left {
        world.pass(MILLISECOND);
        assert!(world.nodes[&id].cluster.phase() == Phase::Left);
        world.kill(id);
    }
}
