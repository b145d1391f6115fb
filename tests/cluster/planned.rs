//! Nodes join, leave, and take each other's place under load, and nothing breaks.

use echoring_cluster::{NodeId, Phase};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

use super::for_each_seed;
use super::node::{Node, Published};
use super::truth::Entry;
use super::world::World;

/// A node that takes the place of another.
struct Takeover {
    predecessor: NodeId,
    successor: NodeId,
    /// It fails when the other has handed its topics over, and gives them back.
    fails: bool,
}

/// Time after which a publication has surely been decided.
const AGREED_AFTER: Nanos = 5 * SECOND;

/// Nobody misses a message, nobody is told of another epoch, and no publication is refused or uncertain.
#[test]
fn planned_changes_lose_nothing_and_keep_every_epoch() {
    for_each_seed("planned_changes", |seed| {
        let mut world = World::new(seed, 2 + seed % 3, 1 + seed % 5, 10_000);
        world.watch(3 * SECOND);
        subscribe_everywhere(&mut world);
        let (mut earlier, mut takeovers) = (Vec::new(), Vec::new());
        for round in 0..6 {
            match world.random.below(3) {
                0 if world.nodes.len() > 1 => leave_one(&mut world, &takeovers),
                1 => take_over_one(&mut world, &mut takeovers),
                _ if world.nodes.len() < 6 => drop(world.start(&format!("round-{round}"))),
                _ => {}
            }
            for _ in 0..60 {
                publish_somewhere(&mut world, &mut earlier);
                let pause = world.random.below(60 * MILLISECOND);
                world.pass(pause);
                advance(&mut world, &mut takeovers);
                end_those_that_left(&mut world, &takeovers);
            }
        }
        for _ in 0..10 {
            world.watch(SECOND);
            advance(&mut world, &mut takeovers);
            end_those_that_left(&mut world, &takeovers);
        }
        assert_eq!(takeovers.len(), 0);
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
fn leave_one(world: &mut World, takeovers: &[Takeover]) {
    let active = uninvolved(world, takeovers);
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

/// A node starts that is to take the place of another, which serves until then.
fn take_over_one(world: &mut World, takeovers: &mut Vec<Takeover>) {
    let candidates = uninvolved(world, takeovers);
    if candidates.is_empty() {
        return;
    }
    let predecessor = *world.random.pick(&candidates);
    let name = world.nodes[&predecessor].cluster.name().to_owned();
    let successor = world.start_after(&name, Some(predecessor));
    let fails = world.random.below(3) == 0;
    takeovers.push(Takeover { predecessor, successor, fails });
}

/// The nodes that own topics and take part in no takeover.
fn uninvolved(world: &World, takeovers: &[Takeover]) -> Vec<NodeId> {
    let takes_part = |id: &NodeId| {
        takeovers.iter().any(|takeover| [takeover.predecessor, takeover.successor].contains(id))
    };
    active(world).into_iter().filter(|id| !takes_part(id)).collect()
}

/// Goes on with the takeovers: the predecessor leaves once its successor owns topics with it, and drains once it owns none.
fn advance(world: &mut World, takeovers: &mut Vec<Takeover>) {
    let now = world.now;
    for takeover in std::mem::take(takeovers) {
        let Takeover { predecessor, successor, fails } = takeover;
        let (old, new) = (&world.nodes[&predecessor], &world.nodes[&successor]);
        let is_known = new.cluster.members().any(|(node, ..)| node == predecessor);
        if old.has_handed_over() && fails {
            world.nodes.get_mut(&predecessor).expect("a node").stay(now);
            leave(world, successor);
            send_everyone_away(world, successor);
        } else if old.has_handed_over() {
            send_everyone_away(world, predecessor);
        } else {
            if old.cluster.phase() == Phase::Active && is_known && new.is_open() {
                leave(world, predecessor);
            }
            takeovers.push(takeover);
        }
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

fn end_those_that_left(world: &mut World, takeovers: &[Takeover]) {
    let now = world.now;
    let waits = |node: &Node| takeovers.iter().any(|takeover| takeover.predecessor == node.id());
    let left: Vec<NodeId> = world
        .nodes
        .values_mut()
        .filter_map(|node| {
            (node.cluster.phase() == Phase::Leaving && !waits(node) && node.has_left(now)).then(|| node.id())
        })
        .collect();
    for id in left {
        world.pass(MILLISECOND);
        assert!(world.nodes[&id].cluster.phase() == Phase::Left);
        world.kill(id);
    }
}
