//! One node tells of each node that is lost, and of its return.

use std::collections::BTreeSet;

use echoring_cluster::limits::MEMBER_TIMEOUT_DEFAULT;
use echoring_cluster::{Event, NodeId};
use echoring_proto::limits::SECOND;

use super::for_each_seed;
use super::planned::{end_those_that_left, leave_one};
use super::world::World;

/// What each node has told since the last look.
fn told(world: &mut World) -> Vec<(NodeId, Event)> {
    let nodes = world.nodes.iter_mut();
    nodes.flat_map(|(id, node)| node.told.drain(..).map(|event| (*id, event))).collect()
}

fn name_of(world: &World, id: NodeId) -> Box<str> {
    world.nodes[&id].cluster.name().into()
}

#[test]
fn one_node_tells_of_a_node_that_is_killed_and_none_of_one_that_leaves() {
    for_each_seed("one_node_tells", |seed| {
        let mut world = World::new(seed, 3 + seed % 4, 1, 0);
        world.watch(3 * SECOND);
        leave_one(&mut world);
        for _ in 0..10 {
            world.watch(SECOND / 2);
            end_those_that_left(&mut world);
        }
        assert_eq!(told(&mut world), [], "nobody is lost");
        let id = world.pick_node();
        let lost = Event::Lost(name_of(&world, id));
        world.kill(id);
        world.watch(MEMBER_TIMEOUT_DEFAULT + SECOND);
        let told = told(&mut world);
        assert!(matches!(&told[..], [(_, event)] if *event == lost), "{told:?} of {lost:?}");
    });
}

#[test]
fn each_of_several_nodes_that_are_killed_is_told_of() {
    for_each_seed("each_of_several_nodes", |seed| {
        let mut world = World::new(seed, 4 + seed % 3, 1, 0);
        world.watch(3 * SECOND);
        let (mut killed, mut events) = (BTreeSet::new(), Vec::new());
        while world.nodes.len() > 1 + seed as usize % 2 {
            let id = world.pick_node();
            killed.insert(name_of(&world, id));
            events.extend(told(&mut world));
            world.kill(id);
            // Those that would tell may be dead by then.
            let pause = world.random.below(2) * world.random.below(2 * MEMBER_TIMEOUT_DEFAULT);
            world.watch(pause);
        }
        world.watch(MEMBER_TIMEOUT_DEFAULT + SECOND);
        events.extend(told(&mut world));
        let names = events.into_iter().map(|(_, event)| match event {
            Event::Lost(name) => name,
            event => panic!("{event:?}"),
        });
        assert_eq!(names.collect::<BTreeSet<_>>(), killed);
    });
}

#[test]
fn a_node_that_was_cut_off_is_lost_and_returns() {
    for_each_seed("a_node_that_was_cut_off", |seed| {
        let mut world = World::new(seed, 3 + seed % 4, 1, 0);
        world.watch(3 * SECOND);
        let id = world.pick_node();
        let name = name_of(&world, id);
        let others: BTreeSet<Box<str>> =
            world.nodes.keys().filter(|other| **other != id).map(|other| name_of(&world, *other)).collect();
        for _ in 0..2 {
            // Without its connection it takes nobody for dead, on its own side of a backbone that is split it does.
            let is_alone = world.random.below(2) == 0;
            if is_alone {
                world.disconnect(id);
            } else {
                world.backbone.set_side(id, 1);
            }
            world.watch(MEMBER_TIMEOUT_DEFAULT + SECOND);
            let lost = told(&mut world);
            world.heal();
            world.watch(3 * SECOND);
            let returned = told(&mut world);
            let wants = |of: fn(Box<str>) -> Event| {
                let by_it = others.iter().filter(|_| !is_alone).map(|other| (true, of(other.clone())));
                by_it.chain([(false, of(name.clone()))]).collect::<Vec<_>>()
            };
            for (told, wanted) in [(lost, wants(Event::Lost)), (returned, wants(Event::Returned))] {
                let told: Vec<_> = told.into_iter().map(|(by, event)| (by == id, event)).collect();
                let is_right = told.len() == wanted.len() && wanted.iter().all(|one| told.contains(one));
                assert!(is_right, "{told:?} instead of {wanted:?}");
            }
        }
    });
}
