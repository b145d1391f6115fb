//! Packets are lost under load that never pauses, and what is missing arrives within a time that is known.

use std::collections::BTreeMap;

use echoring_cluster::NodeId;
use echoring_cluster::limits::RETRANSMIT_AFTER_MAX;
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_topics::Position;

use super::for_each_seed;
use super::planned::subscribe_everywhere;
use super::store::is_durable;
use super::world::World;

const ROUNDS: u32 = 6;
/// Between two messages of the whole cluster.
const INTERVALS: [Nanos; 6] = [
    5 * MILLISECOND,
    20 * MILLISECOND,
    100 * MILLISECOND,
    300 * MILLISECOND,
    500 * MILLISECOND,
    900 * MILLISECOND,
];
/// Time for the next packet of a link to show a loss, and for shards that are late to act.
const SHOWN_WITHIN: Nanos = 800 * MILLISECOND;
/// A stream of durable topics that was not reached is asked again later.
const STREAMS_TAKE: Nanos = 2 * SECOND;
/// Shorter than the silence after which a node is taken for dead, with the heartbeat before it.
const SILENCE: Nanos = 2 * SECOND;
/// A timer that has gone off often before is as quick as ever: a few round trips. One packet in fifty takes 20 times as long as others.
const TIMER_TAKES: Nanos = 600 * MILLISECOND;

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// One connection breaks, and is made again.
    Reset,
    /// All connections do, as NATS is started again.
    Restart,
    /// NATS drops packets to a node that is slow.
    Dropped,
    /// What is sent to a node is lost, and nobody is told.
    Deaf,
    /// The same in both directions.
    Silent,
}

const FAULTS: [Fault; 5] = [Fault::Reset, Fault::Restart, Fault::Dropped, Fault::Deaf, Fault::Silent];

#[test]
fn what_was_lost_arrives_soon_however_busy_the_links_are() {
    for_each_seed("what_was_lost_arrives", |seed| {
        let mut world = World::new(seed, 2 + seed % 3, 2 + seed % 4, 10_000);
        world.load_interval = INTERVALS[(seed % INTERVALS.len() as u64) as usize];
        world.watch(3 * SECOND);
        subscribe_everywhere(&mut world);
        world.watch(2 * SECOND);
        for _ in 0..ROUNDS {
            let fault = *world.random.pick(&FAULTS);
            plant(&mut world, fault);
            let within = within(&world, fault);
            let published = Published::of(&world);
            world.watch(within);
            published.check(&world, |topic| !is_durable(topic), fault);
            world.watch(STREAMS_TAKE);
            published.check(&world, |_| true, fault);
        }
        check_timer(&mut world);
        world.check_converged();
        let (told, published) = (world.told(), world.published());
        assert_eq!((told.missed, told.resets), (0, 0), "{told:?}");
        assert_eq!((published.unreachable, published.uncertain), (0, 0), "{published:?}");
    });
}

/// Time from the end of a fault until everyone has what was published before. Where nothing shows a loss, it is repaired by a timer.
fn within(world: &World, fault: Fault) -> Nanos {
    let slowest = 20 * world.backbone.delay_max;
    let is_shown = world.load_interval <= 20 * MILLISECOND && !matches!(fault, Fault::Silent | Fault::Deaf);
    SHOWN_WITHIN + 4 * slowest + if is_shown { 0 } else { RETRANSMIT_AFTER_MAX }
}

/// A fault begins and ends.
fn plant(world: &mut World, fault: Fault) {
    let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
    let id = world.pick_node();
    let others = || ids.iter().filter(|other| **other != id);
    match fault {
        Fault::Reset => reset(world, &[id]),
        Fault::Restart => reset(world, &ids),
        Fault::Dropped => {
            for other in others() {
                let packets = 1 + world.random.below(20) as u32;
                world.backbone.lose(*other, id, packets);
            }
            world.watch((world.load_interval * 20).min(SILENCE));
            world.backbone.lose_none();
        }
        Fault::Deaf => {
            others().for_each(|other| world.backbone.lose(*other, id, u32::MAX));
            stay_silent(world);
            world.backbone.lose_none();
        }
        Fault::Silent => {
            world.backbone.set_side(id, 1);
            stay_silent(world);
            world.backbone.set_side(id, 0);
        }
    }
}

/// The connections of these nodes break, and are made again one by one.
fn reset(world: &mut World, ids: &[NodeId]) {
    ids.iter().for_each(|id| world.disconnect(*id));
    for id in ids {
        let pause = world.random.below(SILENCE / ids.len() as u64);
        world.watch(pause);
        world.reconnect(*id);
    }
}

/// Links on which nothing arrives go on trying, although more is sent.
fn stay_silent(world: &mut World) {
    let links = |world: &World| -> BTreeMap<_, _> {
        let pairs = world.nodes.values().flat_map(|node| {
            let members = node.cluster.members().map(|(other, ..)| other);
            members.filter_map(|other| Some(((node.id(), other), node.link(other, world.now)?)))
        });
        pairs.collect()
    };
    let before = links(world);
    world.watch(SILENCE);
    for (pair, link) in links(world) {
        let is_old = link.unacknowledged_age > RETRANSMIT_AFTER_MAX + 200 * MILLISECOND;
        let has_tried = link.retransmissions > before[&pair].retransmissions;
        assert!(!is_old || has_tried, "{pair:?} has not sent again: {link:?}");
    }
}

/// A single packet is lost at a time. Of a few that nothing else shows to be lost, one at least is repaired soon.
fn check_timer(world: &mut World) {
    let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
    let (from, to) = (ids[0], ids[1]);
    let ages = [(); 3].map(|()| {
        world.backbone.lose(from, to, 1);
        let ages = [(); 75].map(|()| {
            world.watch(20 * MILLISECOND);
            world.nodes[&from].link(to, world.now).map_or(0, |link| link.unacknowledged_age)
        });
        ages.into_iter().max()
    });
    world.backbone.lose_none();
    assert!(ages.iter().min() <= Some(&Some(TIMER_TAKES)), "one lost packet is repaired after {ages:?} ns");
}

/// What was published until a fault ended.
struct Published {
    heads: BTreeMap<String, Position>,
    /// The latest publication at each node.
    tickets: BTreeMap<NodeId, u64>,
}

impl Published {
    fn of(world: &World) -> Published {
        let heads = world.topics.iter().filter_map(|topic| {
            let owner = world.nodes.values().find(|node| node.table.is_owner(topic))?;
            Some((topic.clone(), owner.store.topics[topic].position))
        });
        Published {
            heads: heads.collect(),
            tickets: world.nodes.iter().map(|(id, node)| (*id, node.ticket())).collect(),
        }
    }

    /// Everyone has it, and its publishers know.
    fn check(&self, world: &World, is_checked: impl Fn(&str) -> bool, fault: Fault) {
        for (id, node) in &world.nodes {
            for subscriber in node.subscribers().filter(|subscriber| is_checked(&subscriber.topic)) {
                let topic = &subscriber.topic;
                let (Some(head), Some(own)) = (self.heads.get(topic), subscriber.position) else { continue };
                assert!(
                    own.epoch == head.epoch && own.offset >= head.offset,
                    "{topic} at {id} is at {own}, and was at {head} when {fault:?} ended; a message each {} ms",
                    world.load_interval / MILLISECOND
                );
            }
            let waits = node.oldest_pending(&is_checked).filter(|ticket| *ticket <= self.tickets[id]);
            assert!(waits.is_none(), "a publication at {id} has no answer after {fault:?}");
        }
    }
}
