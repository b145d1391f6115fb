//! When handlers want to be woken: at most one time for each, the earliest first.
//!
//! Never: a clock. The time is an argument, so that a simulation can run handlers too.

use crate::limits::Nanos;

/// Not in the heap.
const NOWHERE: u32 = u32::MAX;

/// A binary heap that knows where each seat's entry is, so that changing a time costs a few moves and an alarm that is
/// set anew leaves nothing behind.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    heap: Vec<(Nanos, u32)>,
    /// By seat: the place of its entry.
    places: Vec<u32>,
}

impl Alarms {
    /// Sets the time of a seat, whatever it was.
    pub(super) fn set(&mut self, seat: u32, at: Nanos) {
        let index = seat as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, NOWHERE);
        }
        let place = self.places[index];
        if place == NOWHERE {
            self.heap.push((at, seat));
            self.rise(self.heap.len() - 1);
        } else {
            let place = place as usize;
            let before = std::mem::replace(&mut self.heap[place].0, at);
            if at < before { self.rise(place) } else { self.sink(place) }
        }
    }

    /// Takes the alarm of a seat away, if there is one.
    pub(super) fn clear(&mut self, seat: u32) {
        let Some(&place) = self.places.get(seat as usize) else { return };
        if place == NOWHERE {
            return;
        }
        self.places[seat as usize] = NOWHERE;
        let place = place as usize;
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            // What took the place may belong higher or lower.
            self.sink(place);
            self.rise(place);
        }
    }

    /// The earliest time.
    pub(super) fn next(&self) -> Option<Nanos> {
        self.heap.first().map(|&(at, _)| at)
    }

    /// Takes a seat whose time has come.
    pub(super) fn pop_due(&mut self, now: Nanos) -> Option<u32> {
        let &(at, seat) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.clear(seat);
        Some(seat)
    }

    fn rise(&mut self, mut place: usize) {
        let entry = self.heap[place];
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].0 <= entry.0 {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    fn sink(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let left = 2 * place + 1;
            let Some(&(at, _)) = self.heap.get(left) else { break };
            let right = left + 1;
            let child = if self.heap.get(right).is_some_and(|&(other, _)| other < at) { right } else { left };
            if self.heap[child].0 >= entry.0 {
                break;
            }
            self.put(place, self.heap[child]);
            place = child;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: (Nanos, u32)) {
        self.heap[place] = entry;
        self.places[entry.1 as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, Nanos),
        Clear(u32),
        Pop(Nanos),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20_u32, 0..100_u64).prop_map(|(seat, at)| Step::Set(seat, at)),
            (0..20_u32).prop_map(Step::Clear),
            (0..100_u64).prop_map(Step::Pop),
        ]
    }

    proptest! {
        #[test]
        fn it_does_what_a_sorted_map_does(steps in prop::collection::vec(step(), 0..200)) {
            let mut alarms = Alarms::default();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Set(seat, at) => {
                        alarms.set(seat, at);
                        model.insert(seat, at);
                    }
                    Step::Clear(seat) => {
                        alarms.clear(seat);
                        model.remove(&seat);
                    }
                    Step::Pop(now) => {
                        let earliest = model.values().min().copied().filter(|&at| at <= now);
                        let popped = alarms.pop_due(now);
                        prop_assert_eq!(popped.and_then(|seat| model.remove(&seat)), earliest);
                    }
                }
                prop_assert_eq!(alarms.next(), model.values().min().copied());
            }
        }
    }
}
