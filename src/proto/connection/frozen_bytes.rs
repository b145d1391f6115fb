//! The numbers and buffers of which the bytes of a frozen connection consist.

#![forbid(unsafe_code)]

use bytes::{Buf as _, BufMut as _};

use crate::buffer::{Buffer, Pool};
use crate::limits::Nanos;

crate::error_enum! {
    /// Why a connection cannot be continued from these bytes.
    #[derive(Clone, Copy, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum ThawError {
        /// They are of another version, or no connection can be in the state that they describe.
        Malformed = "no connection of this version";
        /// The node's memory is spent.
        OutOfMemory = "the node's memory is spent";
    }
}

/// Bytes that are being written.
pub(super) struct Freezing<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) now: Nanos,
}

impl Freezing<'_> {
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.out.put_u32_le(bytes.len() as u32);
        self.out.put_slice(bytes);
    }

    /// Bytes, or that there are none.
    pub(super) fn buffer(&mut self, buffer: Option<&Buffer>) {
        self.out.put_u8(buffer.is_some().into());
        if let Some(buffer) = buffer {
            self.bytes(buffer.as_slice());
        }
    }

    pub(super) fn flags<const N: usize>(&mut self, flags: [bool; N]) {
        self.out.put_u8(flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
    }

    /// How long ago `since` was.
    pub(super) fn age(&mut self, since: Nanos) {
        self.out.put_u64_le(self.now.saturating_sub(since));
    }

    /// The time until `deadline`.
    pub(super) fn left(&mut self, deadline: Nanos) {
        self.out.put_u64_le(deadline.saturating_sub(self.now));
    }
}

/// Bytes that are being read.
pub(super) struct Thawing<'a, 'b> {
    pub(super) from: &'b mut &'a [u8],
    pub(super) now: Nanos,
}

impl<'a> Thawing<'a, '_> {
    pub(super) fn u8(&mut self) -> Result<u8, ThawError> {
        self.from.try_get_u8().map_err(|_| ThawError::Malformed)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ThawError> {
        self.from.try_get_u16_le().map_err(|_| ThawError::Malformed)
    }

    /// A number that is `max` at most.
    pub(super) fn u32(&mut self, max: u32) -> Result<u32, ThawError> {
        let number = self.from.try_get_u32_le().map_err(|_| ThawError::Malformed)?;
        check(number <= max).map(|()| number)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ThawError> {
        self.from.try_get_u64_le().map_err(|_| ThawError::Malformed)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ThawError> {
        let (array, rest) = self.from.split_first_chunk().ok_or(ThawError::Malformed)?;
        *self.from = rest;
        Ok(*array)
    }

    /// At most `max` bytes.
    pub(super) fn bytes(&mut self, max: usize) -> Result<&'a [u8], ThawError> {
        let length = self.u32(u32::try_from(max).unwrap_or(u32::MAX))? as usize;
        self.from.split_off(..length).ok_or(ThawError::Malformed)
    }

    /// Bytes in a buffer with this headroom, or that there are none.
    pub(super) fn buffer(
        &mut self,
        max: usize,
        headroom: usize,
        pool: &mut Pool,
    ) -> Result<Option<Buffer>, ThawError> {
        if !self.flags::<1>()?[0] {
            return Ok(None);
        }
        let bytes = self.bytes(max)?;
        let mut buffer = pool.get(headroom + bytes.len()).ok_or(ThawError::OutOfMemory)?;
        buffer.reserve_front(headroom);
        buffer.append(bytes);
        Ok(Some(buffer))
    }

    pub(super) fn flags<const N: usize>(&mut self) -> Result<[bool; N], ThawError> {
        let bits = self.u8()?;
        check(N == 8 || bits >> N == 0)?;
        Ok(std::array::from_fn(|bit| bits >> bit & 1 == 1))
    }

    pub(super) fn age(&mut self) -> Result<Nanos, ThawError> {
        Ok(self.now.saturating_sub(self.u64()?))
    }

    pub(super) fn left(&mut self) -> Result<Nanos, ThawError> {
        Ok(self.now.saturating_add(self.u64()?))
    }
}

/// Whether a connection can be as its bytes say.
pub(super) fn check(is_possible: bool) -> Result<(), ThawError> {
    if is_possible { Ok(()) } else { Err(ThawError::Malformed) }
}
