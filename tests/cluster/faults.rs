//! Nodes are killed, cut off and restarted, and take each other's place; the backbone is cut in two.

use echoring_cluster::{NodeId, Phase};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

use super::for_each_seed;
use super::world::World;

const NODES_MAX: usize = 6;
const STEPS: u64 = 400;

/// Every node and client holds what the modules `truth`, `store` and `world` check at each step; at the end all is well again.
#[test]
fn clients_are_told_the_truth_whatever_fails() {
    for_each_seed("clients_are_told", |seed| {
        let mut world = World::new(seed, 2 + seed % 4, 1 + seed % 3, [0, 3, 50][(seed % 7 % 3) as usize]);
        // Some backbones are so slow that nodes join without having heard of each other.
        world.backbone.delay_max *= 1 + seed % 5;
        world.streams.fails = true;
        world.watch(3 * SECOND);
        let mut restarts = Vec::new();
        for _ in 0..STEPS {
            act(&mut world, &mut restarts);
            let pause = pause(&mut world);
            world.pass(pause);
        }
        world.heal();
        for (_, name) in restarts {
            world.start(&name);
        }
        for _ in 0..20 {
            world.watch(SECOND);
            finish_leaving(&mut world);
        }
        if world.nodes.is_empty() {
            world.start("last");
            world.watch(5 * SECOND);
        }
        world.settle_wandering();
        world.watch(2 * SECOND);
        world.check_converged();
    });
}

/// The owner of a durable topic asks for its stream while that is unusable, also if only other nodes publish to the topic.
#[test]
fn a_stream_that_is_back_is_used_for_publications_of_other_nodes() {
    for_each_seed("a_stream_that_is_back", |seed| {
        let mut world = World::new(seed, 2, 2, 10);
        // The owner must not publish.
        world.load_interval = 3_600 * SECOND;
        let topic = "topic.1";
        world.watch(3 * SECOND);
        let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
        for id in &ids {
            world.publish(*id, topic, 0);
        }
        world.watch(2 * SECOND);
        let is_owner = |id: &&NodeId| world.nodes[*id].table.is_owner(topic);
        let owner = *ids.iter().find(is_owner).expect("an owner");
        let other = *ids.iter().find(|id| **id != owner).expect("two nodes");
        world.streams.is_unusable = true;
        for _ in 0..4 {
            world.publish(other, topic, 0);
            world.watch(SECOND);
        }
        world.watch(4 * SECOND);
        let node = &world.nodes[&owner];
        assert!(node.table.stores_nothing(topic, node.clock.read(world.now)));
        world.streams.is_unusable = false;
        world.watch(2 * SECOND);
        let before = world.nodes[&other].published.accepted;
        world.publish(other, topic, 0);
        world.watch(2 * SECOND);
        assert_eq!(world.nodes[&other].published.accepted, before + 1, "the stream is back");
    });
}

/// Subscribers at every node are told that a stream is unusable, and so are publishers. Once it is back, they are served.
#[test]
fn an_unusable_stream_is_told_at_every_node() {
    for_each_seed("an_unusable_stream_is_told", |seed| {
        let mut world = World::new(seed, 3, 2, 10);
        world.load_interval = 3_600 * SECOND;
        let topic = "topic.1";
        world.streams.is_unusable = true;
        world.watch(3 * SECOND);
        let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
        for id in &ids {
            let subscriber = world.new_subscriber(topic);
            world.subscribe(*id, subscriber);
        }
        world.watch(3 * SECOND);
        // An answer may be on its way at this moment.
        let is_told = |world: &World, id: &NodeId| {
            let node = &world.nodes[id];
            node.table.stores_nothing(topic, node.clock.read(world.now))
        };
        let mut untold = ids.clone();
        for _ in 0..100 {
            world.watch(10 * MILLISECOND);
            untold.retain(|id| !is_told(&world, id));
        }
        assert!(untold.is_empty(), "{untold:?}");
        for id in &ids {
            world.publish(*id, topic, 0);
        }
        world.watch(SECOND);
        assert!(ids.iter().all(|id| world.nodes[id].pending() == 0), "publishers wait");
        world.streams.is_unusable = false;
        world.watch(2 * SECOND);
        assert!(ids.iter().all(|id| !is_told(&world, id) && world.nodes[id].arriving() == 0));
    });
}

/// A node no longer asks for a stream that is unusable if nobody uses the topic.
#[test]
fn a_topic_that_never_got_a_stream_and_that_nobody_uses_ends() {
    for_each_seed("a_topic_that_never_got_a_stream", |seed| {
        let mut world = World::new(seed, 1, 2, 10);
        world.load_interval = 3_600 * SECOND;
        let topic = "topic.1";
        world.streams.is_unusable = true;
        world.watch(3 * SECOND);
        let id = world.pick_node();
        world.publish(id, topic, 0);
        world.watch(4 * SECOND);
        let stores_nothing = |world: &World| {
            let node = &world.nodes[&id];
            node.table.stores_nothing(topic, node.clock.read(world.now))
        };
        assert!(stores_nothing(&world) && world.nodes[&id].pending() == 0);
        world.watch(10 * SECOND);
        assert!(!stores_nothing(&world), "the topic has not ended");
        world.streams.is_unusable = false;
        world.publish(id, topic, 0);
        world.watch(2 * SECOND);
        assert_eq!(world.nodes[&id].published.accepted, 1);
    });
}

fn pause(world: &mut World) -> Nanos {
    match world.random.below(40) {
        // Long enough for a node to be taken for dead.
        0 => {
            let time = world.random.below(6 * SECOND);
            world.watch(time);
            MILLISECOND
        }
        _ => world.random.below(40 * MILLISECOND),
    }
}

/// One random thing happens.
fn act(world: &mut World, restarts: &mut Vec<(Nanos, String)>) {
    restart_due(world, restarts);
    finish_leaving(world);
    if world.nodes.is_empty() {
        return;
    }
    let (id, topic) = (world.pick_node(), world.pick_topic());
    match world.random.below(100) {
        0..30 => drop(world.publish(id, &topic, 0)),
        30..56 => {
            world.keys += 1;
            world.publish(id, &topic, world.keys);
        }
        56..60 => world.retry(id),
        60..70 => {
            let subscriber = world.new_subscriber(&topic);
            world.subscribe(id, subscriber);
        }
        70..76 => world.settle_wandering(),
        76..80 => world.send_away(id, &topic),
        80..84 => {
            if let Some(node) = world.nodes.get_mut(&id) {
                node.forget(&topic);
            }
        }
        84..86 => kill(world, id, restarts),
        86..89 => world.disconnect(id),
        89..94 => {
            world.heal();
            world.streams.fails = world.random.below(4) > 0;
        }
        94..96 => {
            let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
            for id in ids {
                let side = world.random.below(2) as u32;
                world.backbone.set_side(id, side);
            }
        }
        96..98 => {
            let now = world.now;
            if let Some(node) = world.nodes.get_mut(&id) {
                node.leave(now);
            }
        }
        98 => world.take_over(id),
        _ if world.nodes.len() >= NODES_MAX => {}
        _ => {
            let name = format!("joined-{}", world.now);
            world.start(&name);
        }
    }
}

/// A node dies, and is started again under its name sooner or later.
fn kill(world: &mut World, id: NodeId, restarts: &mut Vec<(Nanos, String)>) {
    let name = format!("again-{}-{}", id, world.now);
    world.kill(id);
    restarts.push((world.now + world.random.below(5 * SECOND), name));
}

fn restart_due(world: &mut World, restarts: &mut Vec<(Nanos, String)>) {
    let now = world.now;
    let (due, later): (Vec<_>, Vec<_>) = std::mem::take(restarts).into_iter().partition(|(at, _)| *at <= now);
    *restarts = later;
    for (_, name) in due {
        world.start(&name);
    }
}

fn finish_leaving(world: &mut World) {
    let now = world.now;
    let mut ended = Vec::new();
    for (id, node) in &mut world.nodes {
        let is_leaving = matches!(node.cluster.phase(), Phase::Leaving | Phase::Left);
        if is_leaving && node.is_connected && node.has_left(now) {
            ended.push(*id);
        }
    }
    for id in ended {
        // The last heartbeat leaves.
        world.pass(MILLISECOND);
        world.kill(id);
    }
}
