//! The timers of handlers: at most one per handler, ordered by time.
//!
//! The time is an argument, so that a simulation runs handlers too.

use echoring_proto::limits::Nanos;

/// Marks a slot without an entry in the heap.
const NOWHERE: u32 = u32::MAX;

/// A binary heap with the index of each slot's entry, so that a timer is moved or removed in place.
#[derive(Debug, Default)]
pub struct Timers {
    heap: Vec<(Nanos, u32)>,
    /// The index of each slot's entry.
    places: Vec<u32>,
}

impl Timers {
    /// Sets the timer of a slot.
    pub fn set(&mut self, slot: u32, at: Nanos) {
        let index = slot as usize;
        if index >= self.places.len() {
            self.places.resize(index + 1, NOWHERE);
        }
        let place = self.places[index];
        if place == NOWHERE {
            self.heap.push((at, slot));
            self.rise(self.heap.len() - 1);
        } else {
            let place = place as usize;
            let before = std::mem::replace(&mut self.heap[place].0, at);
            if at < before { self.rise(place) } else { self.sink(place) }
        }
    }

    /// Removes the timer of a slot, if it has one.
    pub fn clear(&mut self, slot: u32) {
        let Some(&place) = self.places.get(slot as usize) else { return };
        if place == NOWHERE {
            return;
        }
        self.places[slot as usize] = NOWHERE;
        let place = place as usize;
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            // The entry that took the place may belong higher or lower.
            self.sink(place);
            self.rise(place);
        }
    }

    /// The time of a slot's timer, if it has one.
    pub fn time_of(&self, slot: u32) -> Option<Nanos> {
        let place = self.places.get(slot as usize).filter(|place| **place != NOWHERE)?;
        Some(self.heap[*place as usize].0)
    }

    /// The earliest time.
    pub fn next(&self) -> Option<Nanos> {
        self.heap.first().map(|&(at, _)| at)
    }

    /// Removes a timer that is due. Returns its slot.
    pub fn pop_due(&mut self, now: Nanos) -> Option<u32> {
        let &(at, slot) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.clear(slot);
        Some(slot)
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
            (0..20_u32, 0..100_u64).prop_map(|(slot, at)| Step::Set(slot, at)),
            (0..20_u32).prop_map(Step::Clear),
            (0..100_u64).prop_map(Step::Pop),
        ]
    }

    proptest! {
        #[test]
        fn it_does_what_a_sorted_map_does(steps in prop::collection::vec(step(), 0..200)) {
            let mut timers = Timers::default();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Set(slot, at) => {
                        timers.set(slot, at);
                        model.insert(slot, at);
                    }
                    Step::Clear(slot) => {
                        timers.clear(slot);
                        model.remove(&slot);
                    }
                    Step::Pop(now) => {
                        let earliest = model.values().min().copied().filter(|&at| at <= now);
                        let popped = timers.pop_due(now);
                        prop_assert_eq!(popped.and_then(|slot| model.remove(&slot)), earliest);
                    }
                }
                prop_assert_eq!(timers.next(), model.values().min().copied());
                for slot in 0..20 {
                    prop_assert_eq!(timers.time_of(slot), model.get(&slot).copied());
                }
            }
        }
    }
}
