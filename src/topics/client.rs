//! The ids of clients, as subscribers see them.

use std::fmt;

use crate::message::hexadecimal;

/// A client of a topic with presence. Its text is hexadecimal, and opaque to everybody.
///
/// The order is by node, so that the clients of one node are a range of a member list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId {
    /// The number of the node, which no other has; never 0.
    pub node: u64,
    /// The number of the connection on its node.
    pub number: u64,
}

echoring_proto::plain!(for ClientId { node, number });

impl ClientId {
    /// A client of no node, for tests.
    #[doc(hidden)]
    pub const fn local(number: u64) -> ClientId {
        ClientId { node: 0, number }
    }

    /// Reads an id: 1 to 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<ClientId> {
        hexadecimal(text, 32).map(ClientId::from_bits)
    }

    /// The id as a number: the digits of its text.
    pub fn bits(self) -> u128 {
        u128::from(self.node) << 64 | u128::from(self.number)
    }

    /// The id whose [`bits`](ClientId::bits) these are.
    pub fn from_bits(bits: u128) -> ClientId {
        ClientId { node: (bits >> 64) as u64, number: bits as u64 }
    }

    /// The id as bytes.
    pub fn to_bytes(self) -> [u8; 2 * size_of::<u64>()] {
        (u128::from(self.node) | u128::from(self.number) << 64).to_le_bytes()
    }

    /// Reads the bytes of an id.
    pub fn from_bytes(bytes: [u8; 2 * size_of::<u64>()]) -> ClientId {
        let bits = u128::from_le_bytes(bytes);
        ClientId { node: bits as u64, number: (bits >> 64) as u64 }
    }
}

/// What subscribers are told of a member, or of the author of a message, as one text: the subject of its credentials, which has no
/// control characters, and data of the application about its connection and about its subscription, on lines of their own if there
/// are any. Topics pass it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Profile<'a>(pub &'a str);

impl<'a> Profile<'a> {
    /// Joins the parts. Data have no line feeds.
    pub fn join(subject: &str, connection: &str, channel: &str) -> Box<str> {
        match (connection, channel) {
            ("", "") => subject.into(),
            _ => format!("{subject}\n{connection}\n{channel}").into(),
        }
    }

    /// The subject; empty for none.
    pub fn subject(self) -> &'a str {
        self.line(0)
    }

    /// Data about the connection; empty for none.
    pub fn connection(self) -> &'a str {
        self.line(1)
    }

    /// Data about the subscription; empty for none.
    pub fn channel(self) -> &'a str {
        self.line(2)
    }

    fn line(self, number: usize) -> &'a str {
        self.0.split('\n').nth(number).unwrap_or_default()
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written() {
        let cases = [
            (ClientId::local(0x9c), "9c"),
            (ClientId { node: 1, number: 0x9c }, "1000000000000009c"),
            (ClientId { node: 1, number: u64::MAX }, "1ffffffffffffffff"),
            (ClientId { node: u64::MAX, number: 1 }, "ffffffffffffffff0000000000000001"),
        ];
        for (id, text) in cases {
            assert_eq!(id.to_string(), text);
            assert_eq!(ClientId::parse(text), Some(id));
            assert_eq!(ClientId::from_bytes(id.to_bytes()), id);
        }
        for text in ["", "+9", "-9", " 9", "9g", "100000000000000000000000000000000"] {
            assert_eq!(ClientId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_profile_has_the_parts_of_which_it_was_joined() {
        for parts in [["", "", ""], ["a", "", ""], ["a", "1", ""], ["", "", "2"], ["ü", "{\"a\":1}", "\"x\""]]
        {
            let text = Profile::join(parts[0], parts[1], parts[2]);
            let profile = Profile(&text);
            assert_eq!([profile.subject(), profile.connection(), profile.channel()], parts);
        }
        assert_eq!(&*Profile::join("alice", "", ""), "alice");
    }

    #[test]
    fn clients_of_one_node_are_a_range() {
        let id = |node, number| ClientId { node, number };
        assert!(id(1, u64::MAX) < id(2, 0) && id(2, 0) < id(2, 1));
    }
}
