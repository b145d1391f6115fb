//! Finds what a target has in common with a base: the base's blocks by their hashes, and a rolling hash over the target.

use super::Match;
use crate::limits::{DELTA_BLOCK_BYTES as BLOCK, DELTA_CANDIDATES_MAX};

/// No block.
const NONE: u32 = u32::MAX;
/// The multiplier of the rolling hash, which is a polynomial modulo 2^32.
const FACTOR: u32 = 0x0100_0193;
/// Spreads a hash over its upper bits: 2^32 divided by the golden ratio.
const SPREAD: u32 = 0x9e37_79b9;
/// Continuation bytes that may follow in a character of UTF-8.
const CONTINUATIONS_MAX: usize = 3;

/// The blocks of a base by their hashes.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// The first block of each hash value; a power of two of them.
    first: Vec<u32>,
    /// The next block with the same hash value, of each block.
    next: Vec<u32>,
    shift: u32,
}

/// The blocks of a base, and the place in the target where the search continues.
pub(super) struct Index<'a> {
    base: &'a [u8],
    target: &'a [u8],
    tables: &'a Tables,
    at: usize,
    /// The hash of the target's bytes from `at`, unless too few are left.
    hash: Option<u32>,
}

impl<'a> Index<'a> {
    /// An index of `base`, in the memory of the tables.
    pub(super) fn new(tables: &'a mut Tables, base: &'a [u8], target: &'a [u8]) -> Index<'a> {
        // Offsets have 32 bits.
        let base = if u32::try_from(base.len()).is_ok() { base } else { &[] };
        tables.fill(base);
        let mut index = Index { base, target, tables, at: 0, hash: None };
        index.go_to(0);
        index
    }

    /// The next part of the target for which a copy is shorter. It begins at `covered` or later.
    pub(super) fn next_match(&mut self, covered: usize) -> Option<Match> {
        if self.tables.next.is_empty() {
            return None;
        }
        while let Some(hash) = self.hash {
            if let Some(found) = self.longest(hash, covered) {
                self.go_to(found.end);
                return Some(found);
            }
            self.advance(hash);
        }
        None
    }

    /// The longest match of the block at `at`, if a copy is shorter.
    fn longest(&self, hash: u32, covered: usize) -> Option<Match> {
        let mut number = self.tables.first[self.tables.value(hash)];
        let mut longest: Option<Match> = None;
        for _ in 0..DELTA_CANDIDATES_MAX {
            if number == NONE {
                break;
            }
            let found = self.extend(number as usize * BLOCK, covered);
            longest = longest.into_iter().chain(found).max_by_key(Match::length);
            number = self.tables.next[number as usize];
        }
        longest.filter(Match::is_shorter)
    }

    /// The match of the target at `at` with the base at `from`, extended in both directions, but not before `covered`.
    fn extend(&self, from: usize, covered: usize) -> Option<Match> {
        let (base, target, at) = (self.base, self.target, self.at);
        let ahead = common(base[from..].iter().zip(&target[at..]));
        if ahead < BLOCK {
            return None;
        }
        let behind = common(base[..from].iter().rev().zip(target[covered..at].iter().rev()));
        let mut found = Match { start: at - behind, end: at + ahead, from: from - behind };
        self.align(&mut found);
        Some(found)
    }

    /// Leaves the characters at both ends to the literals, if they are not copied whole.
    fn align(&self, found: &mut Match) {
        let begun = self.target[found.start..].iter().take(CONTINUATIONS_MAX);
        let begun = begun.take_while(|&&byte| is_continuation(byte)).count();
        found.start += begun;
        found.from += begun;
        for _ in 0..CONTINUATIONS_MAX {
            match self.target.get(found.end) {
                Some(&byte) if is_continuation(byte) => found.end -= 1,
                _ => break,
            }
        }
    }

    fn go_to(&mut self, at: usize) {
        self.at = at;
        self.hash = self.target[at..].first_chunk().map(hash);
    }

    /// Moves on by one byte. `hash` is that of the bytes from `at`.
    fn advance(&mut self, hash: u32) {
        let [leaves, enters] = [self.at, self.at + BLOCK].map(|at| self.target.get(at));
        self.at += 1;
        self.hash = leaves.zip(enters).map(|(&leaves, &enters)| roll(hash, leaves, enters));
    }
}

impl Tables {
    fn fill(&mut self, base: &[u8]) {
        let (blocks, _) = base.as_chunks::<BLOCK>();
        let values = blocks.len().next_power_of_two().max(2);
        self.shift = u32::BITS - values.trailing_zeros();
        for (table, entries) in [(&mut self.first, values), (&mut self.next, blocks.len())] {
            table.clear();
            table.resize(entries, NONE);
        }
        // The last first, so that the earliest block is found first.
        for (number, block) in blocks.iter().enumerate().rev() {
            let value = self.value(hash(block));
            self.next[number] = std::mem::replace(&mut self.first[value], number as u32);
        }
    }

    fn value(&self, hash: u32) -> usize {
        (hash.wrapping_mul(SPREAD) >> self.shift) as usize
    }
}

/// The number of equal pairs before the first unequal one.
fn common<'a>(pairs: impl Iterator<Item = (&'a u8, &'a u8)>) -> usize {
    pairs.take_while(|(one, other)| one == other).count()
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

fn hash(block: &[u8; BLOCK]) -> u32 {
    block.iter().fold(0, |hash, &byte| add(hash, byte))
}

fn add(hash: u32, byte: u8) -> u32 {
    hash.wrapping_mul(FACTOR).wrapping_add(u32::from(byte))
}

/// The hash of a block that begins one byte later.
fn roll(hash: u32, leaves: u8, enters: u8) -> u32 {
    const WEIGHT: u32 = FACTOR.wrapping_pow(BLOCK as u32 - 1);
    add(hash.wrapping_sub(u32::from(leaves).wrapping_mul(WEIGHT)), enters)
}
