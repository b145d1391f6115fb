//! Reads and writes the messages between nodes. Numbers are little-endian. Bytes come from other nodes of the cluster,
//! which may be of another version: malformed bytes yield `None`.

use bytes::{Buf as _, BufMut as _};

use echoring_topics::Position;

/// Appends a list's entry: its length, then its bytes.
pub fn append_entry(bytes: &mut Vec<u8>, entry: &[u8]) {
    bytes.put_u32_le(entry.len() as u32);
    bytes.extend_from_slice(entry);
}

/// The entries of a list. Ends at the first that is not whole.
pub fn entries(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || take_bytes(&mut bytes))
}

pub(crate) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = bytes.try_get_u32_le().ok()? as usize;
    let (entry, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(entry)
}

pub(crate) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    debug_assert!(text.len() <= 255, "names have at most 255 bytes");
    bytes.put_u8(text.len() as u8);
    bytes.extend_from_slice(text.as_bytes());
}

pub(crate) fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = bytes.try_get_u8().ok()?;
    let (text, rest) = bytes.split_at_checked(length.into())?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

pub(crate) fn put_position(bytes: &mut Vec<u8>, position: Position) {
    bytes.put_u64_le(position.epoch);
    bytes.put_u64_le(position.offset);
}

pub(crate) fn take_position(bytes: &mut &[u8]) -> Option<Position> {
    Some(Position { epoch: take_u64(bytes)?, offset: take_u64(bytes)? })
}

pub(crate) fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    bytes.try_get_u64_le().ok()
}

pub(crate) fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    bytes.try_get_u32_le().ok()
}

pub(crate) fn take_u8(bytes: &mut &[u8]) -> Option<u8> {
    bytes.try_get_u8().ok()
}
