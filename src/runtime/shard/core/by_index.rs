//! Values of connections, by the index of their token.
//!
//! They are in blocks: a table of very many grows without a copy, and a block whose values are all unused takes nothing.

const BLOCK: usize = 64;

#[derive(Debug)]
pub(super) struct ByIndex<T>(Vec<Option<Box<[T; BLOCK]>>>);

impl<T> Default for ByIndex<T> {
    fn default() -> ByIndex<T> {
        ByIndex(Vec::new())
    }
}

impl<T: Copy + Default> ByIndex<T> {
    /// The value of a connection that has one.
    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        let (block, at) = place(index);
        self.0.get(block)?.as_ref().map(|values| &values[at])
    }

    /// As [`get`](ByIndex::get).
    #[inline]
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (block, at) = place(index);
        self.0.get_mut(block)?.as_mut().map(|values| &mut values[at])
    }

    /// The value of a connection; the default if it has none yet.
    #[inline]
    pub(super) fn get_or_default(&mut self, index: u32) -> &mut T {
        let (block, at) = place(index);
        if block >= self.0.len() {
            self.0.resize_with(block + 1, || None);
        }
        &mut self.0[block].get_or_insert_with(|| Box::new([T::default(); BLOCK]))[at]
    }

    /// Frees the `turn`th block, counted around, if all of its values are unused: they become the default.
    pub(super) fn sweep(&mut self, turn: usize, is_unused: impl Fn(&T) -> bool) {
        let blocks = self.0.len().max(1);
        if let Some(block) = self.0.get_mut(turn % blocks)
            && block.as_ref().is_some_and(|values| values.iter().all(is_unused))
        {
            *block = None;
        }
    }

    /// Number of values that take memory.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.iter().flatten().count() * BLOCK
    }
}

fn place(index: u32) -> (usize, usize) {
    (index as usize / BLOCK, index as usize % BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_until_all_of_their_block_are_unused() {
        let mut table = ByIndex::<u32>::default();
        assert_eq!(table.get(1_000), None);
        table.sweep(7, |_| true);
        for index in [0, 63, 64, 1_000] {
            *table.get_or_default(index) = index + 1;
        }
        assert_eq!((table.get(63), table.len()), (Some(&64), 3 * BLOCK));
        for turn in 0..100 {
            table.sweep(turn, |value| *value < 65);
        }
        // The second block has a value that is used, and the third one too.
        assert_eq!((table.get(63), table.len()), (None, 2 * BLOCK));
        assert_eq!(*table.get_or_default(63), 0);
        assert_eq!((table.get(64), table.get(1_000)), (Some(&65), Some(&1_001)));
    }
}
