//! The bytes of a connection on its way, up to its state machine, which follows, and its session of TLS, if it has one.

use std::net::SocketAddr;

use crate::shard::connection_log::PlainNote;
use crate::shard::times::Ages;
use crate::shard::tls::PlainSession;
use echoring_proto::limits::{DEFERRED_BYTES_MAX, Nanos};
use echoring_proto::plain::at_most;
use echoring_proto::{Plain as _, plain};

/// Maximum bytes of an application's state.
const STATE_BYTES_MAX: usize = 16 << 20;

plain! {
    /// A connection without its socket and its state machine.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(super) struct PlainConnection<'a> {
        /// Since when it is not read, by the clock of the host.
        pub(super) since: Nanos,
        pub(super) has_fallen_behind: bool,
        /// The address of its client, where it is known.
        pub(super) client: Option<SocketAddr>,
        /// Its ages, if its life is limited.
        pub(super) ages: Option<Ages>,
        /// The name of the route whose times it has, if that sets any.
        pub(super) route: &'a str where at_most(usize::from(u16::MAX)),
        /// Its entries of the log.
        pub(super) note: Option<PlainNote<'a>>,
        /// Received bytes that its state machine has not seen.
        pub(super) input: &'a [u8] where at_most(DEFERRED_BYTES_MAX),
        /// The application's state.
        pub(super) state: &'a [u8] where at_most(STATE_BYTES_MAX),
    }
}

/// Reads the beginning of a record, or a session, if it is one, and sees that it is read again as it is written. For fuzzing.
///
/// # Panics
/// If it is not.
#[doc(hidden)]
pub fn check_plain_connection(mut bytes: &[u8]) -> bool {
    if let Some(session) = PlainSession::decode(bytes) {
        assert_eq!(PlainSession::decode(&session.encode()), Some(session));
        return true;
    }
    let Some(record) = PlainConnection::take(&mut bytes) else { return false };
    let mut written = Vec::new();
    record.put(&mut written);
    assert_eq!(PlainConnection::take(&mut &written[..]), Some(record));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Traffic;

    #[test]
    fn a_record_is_read_as_it_was_written_and_no_part_of_one_is() {
        let note = PlainNote {
            address: Some("[2001:db8::1]:9".parse().expect("an address")),
            path: Some("/echo".into()),
            age: Some(7),
            status: Some(101),
            traffic: Some(Traffic { messages_in: 1, messages_out: 2, bytes_in: 3, bytes_out: 4 }),
        };
        let whole = PlainConnection {
            since: 5,
            has_fallen_behind: true,
            client: Some("127.0.0.1:80".parse().expect("an address")),
            ages: Some(Ages { began: 9, message: 8 }),
            route: "/echo",
            note: Some(note),
            input: b"input",
            state: b"state",
        };
        let bare = PlainConnection {
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
            record.put(&mut bytes);
            bytes.extend_from_slice(b"rest");
            let mut from = &bytes[..];
            assert_eq!(PlainConnection::take(&mut from), Some(record));
            assert_eq!(from, b"rest");
            for end in 0..bytes.len() - 4 {
                assert_eq!(PlainConnection::take(&mut &bytes[..end]), None, "{end}");
            }
        }
    }
}
