//! The bytes of a connection on its way, up to its state machine, which follows.

use std::net::SocketAddr;

use bytes::{Buf as _, BufMut as _};

use crate::shard::connection_log::MovedNote;
use crate::shard::core::arrivals::{address_from, octets};
use crate::shard::times::Ages;
use crate::stats::Traffic;
use echoring_proto::limits::{DEFERRED_BYTES_MAX, Nanos};

/// The version of the format. Records of another one are refused.
const VERSION: u8 = 2;
/// Maximum bytes of an application's state.
const STATE_BYTES_MAX: usize = 16 << 20;

/// A connection without its socket and its state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MovedRecord<'a> {
    /// Since when it is not read, by the clock of the host.
    pub(super) since: Nanos,
    pub(super) has_fallen_behind: bool,
    /// The address of its client, where it is known.
    pub(super) client: Option<SocketAddr>,
    /// Its ages, if its life is limited.
    pub(super) ages: Option<Ages>,
    /// The name of the route whose times it has, if that sets any.
    pub(super) route: &'a str,
    /// Its entries of the log.
    pub(super) note: Option<MovedNote<'a>>,
    /// Received bytes that its state machine has not seen.
    pub(super) input: &'a [u8],
    /// The application's state.
    pub(super) state: &'a [u8],
}

impl<'a> MovedRecord<'a> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let MovedRecord { since, has_fallen_behind, client, ages, route, note, input, state } = self;
        out.put_u8(VERSION);
        out.put_u64_le(*since);
        out.put_u8(u8::from(*has_fallen_behind));
        write_address(out, *client);
        out.put_u8(u8::from(ages.is_some()));
        if let Some(Ages { began, message }) = ages {
            out.put_u64_le(*began);
            out.put_u64_le(*message);
        }
        write_bytes(out, route.as_bytes());
        out.put_u8(u8::from(note.is_some()));
        if let Some(note) = note {
            write_note(out, note);
        }
        write_bytes(out, input);
        write_bytes(out, state);
    }

    /// The record that `from` begins with, which is left with the bytes behind it.
    pub(super) fn read(from: &mut &'a [u8]) -> Option<MovedRecord<'a>> {
        if from.try_get_u8().ok()? != VERSION {
            return None;
        }
        let since = from.try_get_u64_le().ok()?;
        let has_fallen_behind = read_flag(from)?;
        let client = read_address(from)?;
        let ages = if read_flag(from)? { Some(read_ages(from)?) } else { None };
        let route = std::str::from_utf8(read_bytes(from, usize::from(u16::MAX))?).ok()?;
        let note = if read_flag(from)? { Some(read_note(from)?) } else { None };
        let input = read_bytes(from, DEFERRED_BYTES_MAX)?;
        let state = read_bytes(from, STATE_BYTES_MAX)?;
        Some(MovedRecord { since, has_fallen_behind, client, ages, route, note, input, state })
    }
}

/// Reads a record, if it is one, and sees that it is read again as it is written. For fuzzing.
///
/// # Panics
/// If it is not.
#[doc(hidden)]
pub fn check_moved_record(mut bytes: &[u8]) -> bool {
    let Some(record) = MovedRecord::read(&mut bytes) else { return false };
    let mut written = Vec::new();
    record.write(&mut written);
    assert_eq!(MovedRecord::read(&mut &written[..]), Some(record));
    true
}

fn write_note(out: &mut Vec<u8>, note: &MovedNote<'_>) {
    let MovedNote { address, path, age, status, traffic } = note;
    write_address(out, *address);
    write_bytes(out, path.as_deref().unwrap_or_default().as_bytes());
    out.put_u8(u8::from(age.is_some()));
    out.put_u64_le(age.unwrap_or_default());
    out.put_u16_le(status.unwrap_or_default());
    out.put_u8(u8::from(traffic.is_some()));
    let Traffic { messages_in, messages_out, bytes_in, bytes_out } = traffic.unwrap_or_default();
    [messages_in, messages_out, bytes_in, bytes_out].into_iter().for_each(|figure| out.put_u64_le(figure));
}

fn read_note<'a>(from: &mut &'a [u8]) -> Option<MovedNote<'a>> {
    let address = read_address(from)?;
    let path = std::str::from_utf8(read_bytes(from, usize::from(u16::MAX))?).ok()?;
    let (has_age, age) = (read_flag(from)?, from.try_get_u64_le().ok()?);
    let status = from.try_get_u16_le().ok()?;
    let has_traffic = read_flag(from)?;
    let mut figure = || from.try_get_u64_le().ok();
    let traffic = Traffic {
        messages_in: figure()?,
        messages_out: figure()?,
        bytes_in: figure()?,
        bytes_out: figure()?,
    };
    Some(MovedNote {
        address,
        path: (!path.is_empty()).then(|| path.into()),
        age: has_age.then_some(age),
        status: (status != 0).then_some(status),
        traffic: has_traffic.then_some(traffic),
    })
}

fn read_ages(from: &mut &[u8]) -> Option<Ages> {
    Some(Ages { began: from.try_get_u64_le().ok()?, message: from.try_get_u64_le().ok()? })
}

/// 0 stands for no address.
fn write_address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    out.put_u8(u8::from(address.is_some()));
    if let Some(address) = address {
        out.put_slice(&octets(address));
        out.put_u16_le(address.port());
    }
}

fn read_address(from: &mut &[u8]) -> Option<Option<SocketAddr>> {
    if !read_flag(from)? {
        return Some(None);
    }
    let (octets, rest) = from.split_first_chunk::<16>()?;
    *from = rest;
    Some(Some(address_from(*octets, from.try_get_u16_le().ok()?)))
}

fn read_flag(from: &mut &[u8]) -> Option<bool> {
    match from.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn read_bytes<'a>(from: &mut &'a [u8], bytes_max: usize) -> Option<&'a [u8]> {
    let length = from.try_get_u32_le().ok()? as usize;
    if length > bytes_max { None } else { from.split_off(..length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_no_part_of_one_is() {
        let note = MovedNote {
            address: Some("[2001:db8::1]:9".parse().expect("an address")),
            path: Some("/echo".into()),
            age: Some(7),
            status: Some(101),
            traffic: Some(Traffic { messages_in: 1, messages_out: 2, bytes_in: 3, bytes_out: 4 }),
        };
        let whole = MovedRecord {
            since: 5,
            has_fallen_behind: true,
            client: Some("127.0.0.1:80".parse().expect("an address")),
            ages: Some(Ages { began: 9, message: 8 }),
            route: "/echo",
            note: Some(note),
            input: b"input",
            state: b"state",
        };
        let bare = MovedRecord {
            has_fallen_behind: false,
            client: None,
            ages: None,
            route: "",
            note: None,
            input: b"",
            state: b"",
            ..whole.clone()
        };
        for record in [whole, bare] {
            let mut bytes = Vec::new();
            record.write(&mut bytes);
            bytes.extend_from_slice(b"rest");
            let mut from = &bytes[..];
            assert_eq!(MovedRecord::read(&mut from), Some(record));
            assert_eq!(from, b"rest");
            for end in 0..bytes.len() - 4 {
                assert_eq!(MovedRecord::read(&mut &bytes[..end]), None, "{end}");
            }
            bytes[0] += 1;
            assert_eq!(MovedRecord::read(&mut &bytes[..]), None, "another version");
        }
    }
}
