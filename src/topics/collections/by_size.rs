//! Finds one of the largest memory users among many in constant time, by size class.

/// No entry.
const NONE: u32 = u32::MAX;
/// Classes: 0 for empty holders, then one for each power of two.
const CLASSES: usize = usize::BITS as usize + 1;

/// Lists of indices by the power of two of their sizes. Changing a size, and finding one of the largest class, take
/// constant time.
#[derive(Debug)]
pub(crate) struct BySize {
    heads: [u32; CLASSES],
    /// Bit set of the classes that have an entry, except for class 0.
    used: u64,
    entries: Vec<SizeEntry>,
}

#[derive(Clone, Copy, Debug)]
struct SizeEntry {
    older: u32,
    newer: u32,
    /// 0 for an entry in no list.
    class: u8,
}

const UNLISTED: SizeEntry = SizeEntry { older: NONE, newer: NONE, class: 0 };

impl Default for BySize {
    fn default() -> BySize {
        BySize { heads: [NONE; CLASSES], used: 0, entries: Vec::new() }
    }
}

/// The power of two that `bytes` has reached, counted from 1; 0 for no bytes.
fn class(bytes: usize) -> u8 {
    (usize::BITS - bytes.leading_zeros()) as u8
}

impl BySize {
    /// Sets the size of `index`.
    #[inline]
    pub(crate) fn set(&mut self, index: u32, bytes: usize) {
        let class = class(bytes);
        let known = self.entries.get(index as usize).map_or(0, |entry| entry.class);
        if known != class {
            self.relist(index, class);
        }
    }

    /// One of the largest entries, within a factor of two. `None` if all are empty.
    pub(crate) fn largest(&self) -> Option<u32> {
        let class = u64::BITS.checked_sub(self.used.leading_zeros()).filter(|class| *class > 0)?;
        Some(self.heads[class as usize])
    }

    #[inline(never)]
    fn relist(&mut self, index: u32, class: u8) {
        let at = index as usize;
        if at >= self.entries.len() {
            self.entries.resize(at + 1, UNLISTED);
        }
        let SizeEntry { older, newer, class: before } = self.entries[at];
        if before != 0 {
            match self.entries.get_mut(newer as usize) {
                Some(entry) => entry.older = older,
                None => self.heads[usize::from(before)] = older,
            }
            if let Some(entry) = self.entries.get_mut(older as usize) {
                entry.newer = newer;
            }
            if self.heads[usize::from(before)] == NONE {
                self.used &= !(1 << (before - 1));
            }
        }
        self.entries[at] = UNLISTED;
        if class != 0 {
            let older = std::mem::replace(&mut self.heads[usize::from(class)], index);
            self.entries[at] = SizeEntry { older, newer: NONE, class };
            if let Some(entry) = self.entries.get_mut(older as usize) {
                entry.newer = index;
            }
            self.used |= 1 << (class - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_found_within_a_factor_of_two_whatever_changes() {
        let (mut by_size, mut sizes, mut state) = (BySize::default(), vec![0_usize; 300], 1_u64);
        let mut next = |end: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % end
        };
        for _ in 0..20_000 {
            let (index, bits) = (next(300), next(24));
            let bytes = if next(3) == 0 { 0 } else { next(1 << bits) as usize };
            sizes[index as usize] = bytes;
            by_size.set(index as u32, bytes);
            let most = sizes.iter().copied().max().unwrap_or(0);
            match by_size.largest() {
                None => assert_eq!(most, 0),
                Some(found) => {
                    assert!(2 * sizes[found as usize] > most, "{} of {most}", sizes[found as usize])
                }
            }
        }
        (0..300).for_each(|index| by_size.set(index, 0));
        assert_eq!((by_size.largest(), by_size.used), (None, 0));
        by_size.set(7, usize::MAX);
        assert_eq!(by_size.largest(), Some(7));
    }
}
