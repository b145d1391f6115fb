//! The check against known orders: without faults it finds nothing, it finds each swap, and losses and damaged messages
//! do not count as swaps.

use proptest::prelude::*;

use super::*;
use crate::measure::times::Times;
use crate::measure::track::{Stream, StreamArrival};
use crate::plan::workload::tests::workload;
use crate::plan::{Mode, Workload};

const PUBLISHERS: u32 = 3;
const CASES: u32 = 400;

/// A message, identified by publisher and sequence.
type Name = (u32, u64);

/// What arrives at one subscriber.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Coming {
    Message(Name),
    /// Damaged, instead of this message.
    Damaged(Name),
}

struct Subscriber {
    coming: Vec<Coming>,
    at: usize,
    streams: [Stream; PUBLISHERS as usize],
    walk: OrderChecker,
}

impl Subscriber {
    fn new(coming: Vec<Coming>) -> Subscriber {
        Subscriber { coming, at: 0, streams: Default::default(), walk: OrderChecker::default() }
    }

    /// Receives the next message; false if there is none. Adds to `late` how many its streams report as reordered.
    fn step(&mut self, fan_out: &FanOutTracker, findings: &mut OrderFindings, late: &mut u64) -> bool {
        let Some(&coming) = self.coming.get(self.at) else { return false };
        self.at += 1;
        match coming {
            Coming::Damaged((publisher, _)) => {
                let stream = &mut self.streams[publisher as usize];
                stream.arrived(stream.expected(), Times::default);
                self.walk.unidentified();
            }
            Coming::Message((publisher, sequence)) => {
                let stream = &mut self.streams[publisher as usize];
                let due = stream.expected();
                match stream.arrived(sequence, Times::default) {
                    StreamArrival::InOrder => {
                        self.walk.arrived(fan_out, (publisher, sequence), (stream, due), findings)
                    }
                    StreamArrival::Late => *late += 1,
                    StreamArrival::Recovered | StreamArrival::Again => {}
                }
            }
        }
        true
    }
}

/// Messages of all publishers in the order that `turns` picks.
fn order(turns: &[u32]) -> Vec<Coming> {
    let mut next = [0; PUBLISHERS as usize];
    let mut named = |&publisher: &u32| {
        let sequence = next[publisher as usize];
        next[publisher as usize] += 1;
        Coming::Message((publisher, sequence))
    };
    turns.iter().map(&mut named).collect()
}

/// Lets the subscribers receive in the order of `pace`, and the rest of each one at once at the end. Returns the
/// reorderings found among publishers, and within each.
fn receive(orders: Vec<Vec<Coming>>, published: &[Coming], pace: &[usize]) -> (u64, u64) {
    let load = Workload { publishers: PUBLISHERS, topics: 1, ..workload(Mode::Broadcast) };
    let fan_out = FanOutTracker::new(&load, 1);
    let mut findings = [OrderFindings::default(), OrderFindings::default()];
    let mut subscribers: Vec<Subscriber> = orders.into_iter().map(Subscriber::new).collect();
    let count = subscribers.len();
    let mut late = 0;
    for &next in pace {
        subscribers[next % count].step(&fan_out, &mut findings[next % count % 2], &mut late);
    }
    for (number, subscriber) in subscribers.iter_mut().enumerate() {
        while subscriber.step(&fan_out, &mut findings[number % 2], &mut late) {}
        for publisher in 0..PUBLISHERS {
            let sent = published.iter().filter(|c| matches!(c, Coming::Message(name) if name.0 == publisher));
            let expected = subscriber.streams[publisher as usize].expected();
            if expected < sent.count() as u64 {
                findings[number % 2].missed_the_last(0, &subscriber.streams[publisher as usize]);
            }
        }
    }
    let mut sum = OrderFindings::default();
    findings.iter().for_each(|findings| sum.merge(findings));
    (sum.reordered(), late)
}

fn turns() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..PUBLISHERS, 8..150)
}

fn pace() -> impl Strategy<Value = Vec<usize>> {
    // A subscriber gets several messages in a row, as in a tick.
    prop::collection::vec((0_usize..8, 1_usize..20), 0..60).prop_map(|runs| {
        runs.into_iter().flat_map(|(next, times)| std::iter::repeat_n(next, times)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) })]

    #[test]
    fn one_common_order_has_no_findings(turns in turns(), pace in pace(), count in 1_usize..8) {
        let published = order(&turns);
        prop_assert_eq!(receive(vec![published.clone(); count], &published, &pace), (0, 0));
    }

    #[test]
    fn losses_and_damaged_messages_are_not_swaps(
        turns in turns(),
        pace in pace(),
        struck in prop::collection::vec(any::<bool>(), 1..8),
        faults in prop::collection::vec((0_usize..150, any::<bool>()), 1..12),
    ) {
        // Some subscribers get all messages, the others miss the same ones.
        let published = order(&turns);
        let mut damaged = published.clone();
        for (at, lost) in faults {
            let at = at % damaged.len().max(1);
            match damaged.get(at) {
                Some(_) if lost => drop(damaged.remove(at)),
                Some(&Coming::Message(name)) => damaged[at] = Coming::Damaged(name),
                _ => {}
            }
        }
        let orders = struck.iter().map(|&struck| if struck { damaged.clone() } else { published.clone() });
        let (found, _) = receive(orders.collect(), &published, &pace);
        prop_assert_eq!(found, 0);
    }

    #[test]
    fn a_swap_at_one_of_two_subscribers_is_found_once(turns in turns(), pace in pace(), at in 0_usize..150, who in 0_usize..2) {
        let published = order(&turns);
        let at = at % (published.len() - 1);
        let mut orders = vec![published.clone(); 2];
        orders[who].swap(at, at + 1);
        let (found, late) = receive(orders, &published, &pace);
        prop_assert_eq!(found + late, 1);
    }

    #[test]
    fn a_swap_is_found_at_one_or_at_all_others(turns in turns(), pace in pace(), at in 0_usize..150, count in 3_usize..8) {
        let published = order(&turns);
        let at = at % (published.len() - 1);
        let mut orders = vec![published.clone(); count];
        orders[0].swap(at, at + 1);
        let (found, late) = receive(orders, &published, &pace);
        prop_assert!(found + late == 1 || found == count as u64 - 1, "{} {}", found, late);
    }

    #[test]
    fn two_different_orders_are_always_detected(
        turns in turns(),
        other in prop::collection::vec(any::<u32>(), 150),
        pace in pace(),
    ) {
        // The same messages, each publisher's in order, interleaved differently.
        let published = order(&turns);
        let mut keyed: Vec<(u32, u32)> = other.iter().copied().zip(turns.iter().copied()).collect();
        keyed.sort_unstable();
        let another = order(&keyed.into_iter().map(|(_, publisher)| publisher).collect::<Vec<_>>());
        let differs = another != published;
        let (found, late) = receive(vec![published.clone(), another], &published, &pace);
        prop_assert_eq!((found > 0, late), (differs, 0));
    }
}

#[test]
fn a_swap_far_from_a_loss_is_found() {
    let published = order(&[0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
    for who_loses in [0, 1] {
        for who_swaps in [0, 1] {
            let mut orders = vec![published.clone(); 2];
            orders[who_swaps].swap(12, 13);
            orders[who_loses].remove(1);
            for pace in [vec![], vec![1; 20]] {
                let found = receive(orders.clone(), &published, &pace);
                assert_eq!(found, (1, 0), "{who_loses} loses, {who_swaps} swaps, {pace:?}");
            }
        }
    }
}

#[test]
fn inversions_beyond_the_storage_limit_are_still_counted() {
    let mut findings = OrderFindings::default();
    for place in 0..INVERSIONS_MAX as u64 + 10 {
        findings.record_inversion(0, place);
    }
    findings.doubt(0, 4, 6);
    findings.doubt(1, 0, u64::MAX);
    assert_eq!(findings.reordered(), INVERSIONS_MAX as u64 + 8, "two are explained");
    for place in (0..2 * DOUBTFUL_RANGES_MAX as u64).map(|step| 100 * step) {
        findings.doubt(0, place, place + 1);
    }
    assert!(findings.reordered() < INVERSIONS_MAX as u64, "the last ranges were merged");
    assert_eq!(findings.doubtful[&0].len(), DOUBTFUL_RANGES_MAX);
}
