//! Deltas in Fossil's format: how a publication follows from the previous one of its channel.
//!
//! A delta is the length of the target and a line feed, then copies from the base and literals, then the checksum of the
//! target:
//!
//! ```text
//! LENGTH "\n"   ( LENGTH "@" OFFSET ","  |  LENGTH ":" BYTES )*   CHECKSUM ";"
//! ```
//!
//! Numbers are in base 64 with the digits `0-9A-Z_a-z~`, the most significant first.
//!
//! Time and memory are linear in the lengths of base and target. If the target is UTF-8, so is the delta: no literal begins or
//! ends within a character, because JSON carries deltas in strings.

mod index;

use std::fmt;

use index::{Index, Tables};

/// The name of the format in a subscribe command.
pub const NAME: &str = "fossil";

/// The digits of numbers, in ascending order.
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// A length and its separator.
const LITERAL_HEAD_BYTES_MAX: usize = 7;

/// Creates a delta from `base` to `target`, which have less than 2^32 bytes each. It exceeds the target by at most
/// [`DELTA_OVERHEAD_BYTES_MAX`](crate::limits::DELTA_OVERHEAD_BYTES_MAX) bytes.
pub fn create(base: &[u8], target: &[u8]) -> Vec<u8> {
    let mut creator = Creator::default();
    creator.create(base, target);
    creator.delta
}

/// Creates one delta after the other in the same memory.
#[derive(Debug, Default)]
pub struct Creator {
    tables: Tables,
    delta: Vec<u8>,
}

impl Creator {
    /// Creates a delta, see [`create`]. It replaces the one before.
    pub fn create(&mut self, base: &[u8], target: &[u8]) -> &[u8] {
        let Creator { tables, delta } = self;
        delta.clear();
        put_number(delta, target.len() as u64);
        delta.push(b'\n');
        let mut index = Index::new(tables, base, target);
        // Literals and copies so far cover this part of the target.
        let mut covered = 0;
        while let Some(part) = index.next_match(covered) {
            put_literal(delta, &target[covered..part.start]);
            put_copy(delta, &part);
            covered = part.end;
        }
        put_literal(delta, &target[covered..]);
        put_number(delta, u64::from(checksum(target)));
        delta.push(b';');
        delta
    }
}

/// A part of the target that the base has too.
#[derive(Clone, Copy, Debug)]
struct Match {
    /// The first byte in the target.
    start: usize,
    /// The first byte behind it in the target.
    end: usize,
    /// The first byte in the base.
    from: usize,
}

impl Match {
    fn length(&self) -> usize {
        self.end - self.start
    }

    /// Whether a copy takes fewer bytes than a literal, although it may divide one.
    fn is_shorter(&self) -> bool {
        let cost = digits(self.length() as u64) + 1 + digits(self.from as u64) + 1;
        self.length() > cost + LITERAL_HEAD_BYTES_MAX
    }
}

fn put_copy(delta: &mut Vec<u8>, part: &Match) {
    put_number(delta, part.length() as u64);
    delta.push(b'@');
    put_number(delta, part.from as u64);
    delta.push(b',');
}

fn put_literal(delta: &mut Vec<u8>, literal: &[u8]) {
    if !literal.is_empty() {
        put_number(delta, literal.len() as u64);
        delta.push(b':');
        delta.extend_from_slice(literal);
    }
}

fn put_number(delta: &mut Vec<u8>, number: u64) {
    for place in (0..digits(number)).rev() {
        delta.push(DIGITS[(number >> (6 * place)) as usize & 63]);
    }
}

/// The number of digits.
fn digits(number: u64) -> usize {
    let bits = u64::BITS - number.leading_zeros();
    bits.div_ceil(6).max(1) as usize
}

/// The sum of the target's words in big-endian order; the last one is filled with zeros.
fn checksum(target: &[u8]) -> u32 {
    let (words, rest) = target.as_chunks::<4>();
    let sum = words.iter().fold(0u32, |sum, word| sum.wrapping_add(u32::from_be_bytes(*word)));
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum.wrapping_add(u32::from_be_bytes(last))
}

/// A delta does not fit its base, or is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the delta does not fit its base, or is damaged")
    }
}

impl std::error::Error for Corrupt {}

/// The target of a delta, as a client restores it.
///
/// # Errors
///
/// [`Corrupt`] if the delta does not lead from `base` to a target with its length and checksum, or if the target has more
/// than `bytes_max` bytes.
pub fn apply(base: &[u8], delta: &[u8], bytes_max: usize) -> Result<Vec<u8>, Corrupt> {
    let mut rest = delta;
    let length = take_number(&mut rest)?;
    take(&mut rest, b"\n")?;
    if length > bytes_max {
        return Err(Corrupt);
    }
    let mut target = Vec::with_capacity(length);
    loop {
        let number = take_number(&mut rest)?;
        let (&kind, behind) = rest.split_first().ok_or(Corrupt)?;
        rest = behind;
        let part = match kind {
            b'@' => {
                let from = take_number(&mut rest)?;
                take(&mut rest, b",")?;
                base.get(from..).and_then(|base| base.get(..number)).ok_or(Corrupt)?
            }
            b':' => {
                let (literal, behind) = rest.split_at_checked(number).ok_or(Corrupt)?;
                rest = behind;
                literal
            }
            b';' => {
                let fits = target.len() == length && checksum(&target) as usize == number && rest.is_empty();
                return if fits { Ok(target) } else { Err(Corrupt) };
            }
            _ => return Err(Corrupt),
        };
        if part.len() > length - target.len() {
            return Err(Corrupt);
        }
        target.extend_from_slice(part);
    }
}

fn take(rest: &mut &[u8], expected: &[u8]) -> Result<(), Corrupt> {
    *rest = rest.strip_prefix(expected).ok_or(Corrupt)?;
    Ok(())
}

/// A number of at least one digit that fits 32 bits.
fn take_number(rest: &mut &[u8]) -> Result<usize, Corrupt> {
    let mut number = 0u32;
    let is_digit = |byte: &u8| DIGITS.contains(byte);
    let end = rest.iter().position(|byte| !is_digit(byte)).filter(|&end| end > 0).ok_or(Corrupt)?;
    for byte in &rest[..end] {
        let digit = DIGITS.iter().position(|digit| digit == byte).ok_or(Corrupt)? as u32;
        number = number.checked_mul(64).and_then(|number| number.checked_add(digit)).ok_or(Corrupt)?;
    }
    *rest = &rest[end..];
    Ok(number as usize)
}

#[cfg(test)]
mod tests;
