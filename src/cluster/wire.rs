//! Reads and writes the messages between nodes. Numbers are little-endian. Bytes come from other nodes of the cluster,
//! which may be of another version: malformed bytes yield `None`.

use echoring_topics::{ClientId, Position};

use crate::view::NodeId;

/// Appends a list's entry: its length, then its bytes.
pub fn append_entry(bytes: &mut Vec<u8>, entry: &[u8]) {
    (entry.len() as u32).put(bytes);
    bytes.extend_from_slice(entry);
}

/// The entries of a list. Ends at the first that is not whole.
pub fn entries(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || Wire::take(&mut bytes))
}

/// A part of a message.
pub(crate) trait Wire<'a>: Sized {
    fn put(&self, bytes: &mut Vec<u8>);
    fn take(bytes: &mut &'a [u8]) -> Option<Self>;
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl Wire<'_> for $number {
            fn put(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }

            fn take(bytes: &mut &[u8]) -> Option<$number> {
                bytes.split_off(..size_of::<$number>())?.try_into().ok().map(<$number>::from_le_bytes)
            }
        })*
    };
}

numbers!(u8 u32 u64);

impl Wire<'_> for bool {
    fn put(&self, bytes: &mut Vec<u8>) {
        u8::from(*self).put(bytes);
    }

    fn take(bytes: &mut &[u8]) -> Option<bool> {
        u8::take(bytes).map(|byte| byte != 0)
    }
}

impl<'a> Wire<'a> for &'a [u8] {
    fn put(&self, bytes: &mut Vec<u8>) {
        append_entry(bytes, self);
    }

    fn take(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let length = u32::take(bytes)? as usize;
        bytes.split_off(..length)
    }
}

/// A name, which has at most 255 bytes.
impl<'a> Wire<'a> for &'a str {
    fn put(&self, bytes: &mut Vec<u8>) {
        debug_assert!(self.len() <= 255, "names have at most 255 bytes");
        (self.len() as u8).put(bytes);
        bytes.extend_from_slice(self.as_bytes());
    }

    fn take(bytes: &mut &'a [u8]) -> Option<&'a str> {
        let length = usize::from(u8::take(bytes)?);
        std::str::from_utf8(bytes.split_off(..length)?).ok()
    }
}

impl Wire<'_> for Position {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.epoch.put(bytes);
        self.offset.put(bytes);
    }

    fn take(bytes: &mut &[u8]) -> Option<Position> {
        Some(Position { epoch: u64::take(bytes)?, offset: u64::take(bytes)? })
    }
}

impl Wire<'_> for NodeId {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.0.put(bytes);
    }

    fn take(bytes: &mut &[u8]) -> Option<NodeId> {
        u64::take(bytes).map(NodeId)
    }
}

impl Wire<'_> for ClientId {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_bytes());
    }

    fn take(bytes: &mut &[u8]) -> Option<ClientId> {
        bytes.split_off(..size_of::<ClientId>())?.try_into().ok().map(ClientId::from_bytes)
    }
}

/// The default, which no node, client or position has, stands for what is absent.
impl<'a, T: Wire<'a> + Copy + Default + PartialEq> Wire<'a> for Option<T> {
    fn put(&self, bytes: &mut Vec<u8>) {
        self.unwrap_or_default().put(bytes);
    }

    fn take(bytes: &mut &'a [u8]) -> Option<Option<T>> {
        T::take(bytes).map(|value| Some(value).filter(|value| *value != T::default()))
    }
}
