//! Random events of all kinds: sums hold after each, and no loss is silent.

use proptest::prelude::*;

use super::world::{PLAIN, WITH_EVENTS, World, settings};
use crate::{SlowConsumerPolicy, SubscriberId};
use echoring_proto::buffer::{Budget, Pool};
use echoring_proto::limits::Nanos;

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    Publish { own: Option<usize>, bytes: usize },
    Deliver,
    Stick(usize),
    Loosen(usize),
    Short(usize, usize),
    Finish(usize),
    Wait(Nanos),
    Starve(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..6_usize;
    let step = prop_oneof![
        8 => (prop::option::weighted(0.3, who.clone()), 1..40_usize)
            .prop_map(|(own, bytes)| Step::Publish { own, bytes }),
        5 => Just(Step::Deliver),
        2 => who.clone().prop_map(Step::Stick),
        2 => who.clone().prop_map(Step::Loosen),
        2 => (who.clone(), 0..60_usize).prop_map(|(who, taken)| Step::Short(who, taken)),
        3 => who.prop_map(Step::Finish),
        1 => (1..700_u64).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Starve),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens, sums hold after every step, and who can be told gets each message or is told of it, in order.
    #[test]
    fn nothing_is_lost_silently(steps in steps(), slow in 0..2_u8) {
        let slow = if slow == 0 { SlowConsumerPolicy::Disconnect } else { SlowConsumerPolicy::DropOldest };
        let mut world = World::with(Pool::new(Budget::new(40_000)), settings(slow));
        let members: Vec<SubscriberId> = (0..6)
            .map(|key| world.subscribe(key, if key < 3 { WITH_EVENTS } else { PLAIN }))
            .collect();
        let (mut now, mut hoard, mut said) = (1, 0, Vec::new());
        for step in steps {
            match step {
                Step::Publish { own, bytes } => {
                    // Who fell behind is closed, and those who can be told hear themselves.
                    let own = own.filter(|own| *own >= 3 && !world.peers.fell.contains(&(*own as u32)));
                    let frame = format!("({}{})", world.offset + 1, ".".repeat(bytes));
                    let origin = own.map_or(99, |own| own as u64);
                    world.append(origin, own.map(|own| members[own]), frame.as_bytes());
                    said.push((own, frame));
                }
                Step::Deliver => world.deliver(now),
                Step::Stick(who) => world.peers.stuck.push(who as u32),
                Step::Loosen(who) => {
                    world.peers.stuck.retain(|stuck| *stuck != who as u32);
                    if !world.peers.fell.contains(&(who as u32)) {
                        world.catch_up(members[who], now);
                    }
                }
                Step::Short(who, taken) => drop(world.peers.short.insert(who as u32, taken)),
                Step::Finish(who) => {
                    if !world.peers.fell.contains(&(who as u32)) {
                        world.finish(who as u32, members[who], now);
                    }
                }
                Step::Wait(time) => {
                    now += time;
                    world.topics.drop_laggards(now, &mut world.peers);
                    world.blocked(now);
                }
                Step::Starve(true) => while world.peers.pool.charge(1_000) { hoard += 1_000 },
                Step::Starve(false) => world.peers.pool.discharge(std::mem::take(&mut hoard)),
            }
            world.check();
        }
        world.peers.pool.discharge(hoard);
        world.peers.stuck.clear();
        world.peers.short.clear();
        world.deliver(now);
        for (who, member) in (0..).zip(&members) {
            if !world.peers.fell.contains(&who) {
                for _ in 0..3 {
                    world.finish(who, *member, now);
                }
            }
        }
        for who in 0..6_u32 {
            let got = world.text_of(who);
            let fell = world.peers.fell.contains(&who);
            let mut rest = got.as_str();
            for (offset, (own, frame)) in (1..).zip(&said) {
                if *own == Some(who as usize) {
                    continue;
                }
                if let Some(after) = rest.strip_prefix(frame.as_str()) {
                    rest = after;
                } else if let Some((from, to)) = gap(rest) {
                    prop_assert!((from..=to).contains(&offset), "{who} at {offset}: {rest}");
                    if offset == to {
                        rest = &rest[rest.find('>').map_or(0, |end| end + 1)..];
                    }
                } else {
                    // Part of a frame may have come before it was closed.
                    prop_assert!(fell && frame.starts_with(rest), "{who} lacks {offset}: {rest}");
                    rest = "";
                    break;
                }
            }
            prop_assert_eq!(rest, "", "{} got more than was said", who);
        }
        let deliveries = world.topics.deliveries();
        prop_assert_eq!(deliveries.queued, 0);
    }
}

/// The gap that `told` begins with.
fn gap(told: &str) -> Option<(u64, u64)> {
    let (from, rest) = told.strip_prefix("<t:")?.split_once('-')?;
    let (to, _) = rest.split_once(' ')?;
    Some((from.parse().ok()?, to.parse().ok()?))
}
