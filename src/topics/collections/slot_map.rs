//! A table whose indices are reused with new generations, so that an old key matches nothing.

/// Values by index and generation.
#[derive(Debug)]
pub(crate) struct SlotMap<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    /// Generation: counts the reuses of the index.
    generation: u32,
    value: Option<T>,
}

impl<T> Default for SlotMap<T> {
    fn default() -> SlotMap<T> {
        SlotMap { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> SlotMap<T> {
    /// Number of slots, used and free: every index is below this.
    pub(crate) fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Adds a value. Returns its index and generation.
    pub(crate) fn insert(&mut self, value: T) -> (u32, u32) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            self.len() - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        (index, slot.generation)
    }

    /// Removes a value; its generation ends.
    pub(crate) fn remove(&mut self, (index, generation): (u32, u32)) -> Option<T> {
        let slot = self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    /// The value of this index and generation.
    #[inline]
    pub(crate) fn get(&self, (index, generation): (u32, u32)) -> Option<&T> {
        let slot = self.slots.get(index as usize)?;
        slot.value.as_ref().filter(|_| slot.generation == generation)
    }

    /// The same, mutable.
    #[inline]
    pub(crate) fn get_mut(&mut self, (index, generation): (u32, u32)) -> Option<&mut T> {
        let slot = self.slots.get_mut(index as usize)?;
        slot.value.as_mut().filter(|_| slot.generation == generation)
    }

    /// The value at an index, whatever its generation, with that generation.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> Option<(u32, &T)> {
        let slot = self.slots.get(index as usize)?;
        Some((slot.generation, slot.value.as_ref()?))
    }

    /// The same, mutable.
    #[inline]
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<(u32, &mut T)> {
        let slot = self.slots.get_mut(index as usize)?;
        Some((slot.generation, slot.value.as_mut()?))
    }

    /// All values by index.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// All values with index and generation.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = ((u32, u32), &mut T)> {
        let values = (0..).zip(&mut self.slots);
        values.filter_map(|(index, slot)| Some(((index, slot.generation), slot.value.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_position_has_another_generation() {
        let mut map = SlotMap::default();
        let first = map.insert("first");
        assert_eq!(map.remove(first), Some("first"));
        let second = map.insert("second");
        assert_eq!((second.0, map.get(first), map.get(second)), (first.0, None, Some(&"second")));
        assert_eq!((map.remove(first), map.len()), (None, 1));
    }
}
