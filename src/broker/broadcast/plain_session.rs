//! The state of a connection that moves, as bytes. Times are what is left of them: the other process has another clock.
//!
//! Bytes that are not well formed are refused.

use std::collections::BTreeSet;

use echoring_auth::limits::SUBJECT_BYTES_MAX;
use echoring_auth::{Forwarded, Info};
use echoring_proto::limits::Nanos;
use echoring_proto::{Plain, plain};
use echoring_topics::limits::INTEGER_END;
use echoring_topics::{ClientId, Position, is_topic_name};
use echoring_wire::centrifuge::Encoding;

use super::centrifuge_session::PlainPings;
use super::filters::Filters;
use super::request_history::RequestHistory;
use super::session::{AllowedBy, Granted};
use crate::limits::PLAIN_SUBSCRIPTIONS_MAX;

plain! {
    /// A connection.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) enum PlainPeer {
        Subscriber(PlainSubscriber),
        Session(Box<PlainSession>),
        /// The connection of a handler, whose own state is elsewhere.
        Handler {
            is_paused: bool,
            /// Its subscriptions, once it has had one.
            session: Option<Box<PlainSession>>,
        },
    } where PlainPeer::is_valid
}

plain! {
    /// How far a client has got in a topic.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(super) struct Reached {
        pub(super) topic: Box<str> where |topic| is_topic_name(topic),
        pub(super) position: Position where |position| position.offset < INTEGER_END,
    }
}

plain! {
    /// A raw subscriber.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct PlainSubscriber {
        pub(super) reached: Reached,
        pub(super) echo_own: bool,
        pub(super) may_publish: bool,
    }
}

plain! {
    /// A session, an event stream, or the subscriptions of a handler's connection.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct PlainSession {
        pub(super) client: ClientId,
        pub(super) subject: Box<str>,
        pub(super) requests: RequestHistory,
        pub(super) protocol: PlainProtocol,
        pub(super) subscriptions: Vec<PlainSubscription>,
    } where PlainSession::is_valid
}

plain! {
    /// How a session speaks.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(super) enum PlainProtocol {
        V1,
        EventStream,
        Handler,
        Centrifuge {
            encoding: Encoding,
            pings: PlainPings,
            /// Header fields of its handshake, for the application.
            forwarded: Option<Forwarded>,
            /// Data of the application about the client, for others to see.
            info: Info,
            filters: Filters,
        },
    } where PlainProtocol::is_valid
}

plain! {
    /// A live subscription of a session.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct PlainSubscription {
        pub(super) reached: Reached,
        pub(super) granted: Granted,
        pub(super) must_recover: bool,
        pub(super) deltas: bool,
        pub(super) skips_own: bool,
        pub(super) allowed_by: AllowedBy,
        /// The time until it expires.
        pub(super) expires_in: Option<Nanos>,
        /// Whether it counts for its identity.
        pub(super) is_counted: bool,
        /// The time from which its client may have missed events of presence; `None` if it is not told of them.
        pub(super) presence_since: Option<Nanos>,
        /// Data of the application about the client, for others to see.
        pub(super) info: Info,
    }
}

/// Reads the state of a connection, if it is one, and sees that it is read again as it is written. For fuzzing.
///
/// # Panics
/// If it is not.
#[doc(hidden)]
pub fn check_plain_peer(mut bytes: &[u8]) -> bool {
    let Some(peer) = PlainPeer::take(&mut bytes) else { return false };
    let mut written = Vec::new();
    peer.put(&mut written);
    assert_eq!(PlainPeer::take(&mut &written[..]), Some(peer));
    true
}

impl PlainPeer {
    fn is_valid(&self) -> bool {
        match self {
            PlainPeer::Subscriber(_) => true,
            PlainPeer::Session(session) => !session.is_of_handler(),
            PlainPeer::Handler { session, .. } => session.as_deref().is_none_or(PlainSession::is_of_handler),
        }
    }
}

impl PlainSession {
    fn is_valid(&self) -> bool {
        let PlainSession { client, subject, protocol, subscriptions, .. } = self;
        let names: BTreeSet<&str> = subscriptions.iter().map(|own| &*own.reached.topic).collect();
        client.node != 0
            && subject.len() <= SUBJECT_BYTES_MAX
            && (*protocol != PlainProtocol::EventStream || subscriptions.len() == 1)
            && subscriptions.len() <= PLAIN_SUBSCRIPTIONS_MAX
            && names.len() == subscriptions.len()
    }

    fn is_of_handler(&self) -> bool {
        self.protocol == PlainProtocol::Handler
    }
}

impl PlainProtocol {
    /// Bytes of the forwarded fields, of the data about the client and of its filters, which are charged to the memory budget.
    pub(super) fn charged_bytes(&self) -> usize {
        match self {
            PlainProtocol::Centrifuge { forwarded, info, filters, .. } => {
                let forwarded_bytes = forwarded.as_ref().map_or(0, Forwarded::held_bytes);
                forwarded_bytes + info.text().len() + filters.charged_bytes()
            }
            _ => 0,
        }
    }

    fn is_valid(&self) -> bool {
        let PlainProtocol::Centrifuge { encoding, .. } = self else { return true };
        matches!(encoding, Encoding::Json | Encoding::Protobuf)
    }
}

plain! {
    for Granted { members, presence, history }
    for RequestHistory { latest, errors, late, late_row }
    for enum AllowedBy { Permission, Hook, Token, Credentials, ConnectHook, Operator, Handler }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broadcast::centrifuge_session::{PingTimes, Pings};
    use echoring_topics::{FilterBuilder, FilterTest};
    use proptest::prelude::*;
    use std::sync::Arc;

    const PINGS: [Pings; 3] = [Pings::Idle, Pings::AwaitingPong, Pings::Answered];

    const ALLOWED_BY: [AllowedBy; 7] = [
        AllowedBy::Permission,
        AllowedBy::Hook,
        AllowedBy::Token,
        AllowedBy::Credentials,
        AllowedBy::ConnectHook,
        AllowedBy::Operator,
        AllowedBy::Handler,
    ];

    fn position() -> impl Strategy<Value = Position> {
        (any::<u64>(), 0..INTEGER_END).prop_map(|(epoch, offset)| Position { epoch, offset })
    }

    fn subscription() -> impl Strategy<Value = PlainSubscription> {
        let flags = prop::array::uniform7(any::<bool>());
        let numbers = any::<[Option<u64>; 2]>();
        let parts = ("[a-zü]{1,20}", position(), flags, 0..ALLOWED_BY.len(), numbers);
        parts.prop_map(|(topic, position, flags, allowed_by, [expires_in, presence_since])| {
            let [members, presence, history, must_recover, deltas, skips_own, is_counted] = flags;
            PlainSubscription {
                reached: Reached { topic: topic.into(), position },
                granted: Granted { members, presence, history },
                must_recover,
                deltas,
                skips_own,
                allowed_by: ALLOWED_BY[allowed_by],
                expires_in,
                is_counted,
                presence_since,
                info: Info::of_text(if must_recover { "[1]" } else { "" }).expect("valid"),
            }
        })
    }

    fn protocol() -> impl Strategy<Value = PlainProtocol> {
        let filters = prop::collection::vec("[a-z]{1,9}", 0..3);
        let centrifuge = (any::<bool>(), 0..PINGS.len(), any::<Option<u64>>(), any::<(u64, u64)>(), filters);
        let centrifuge = centrifuge.prop_map(|(is_binary, state, due_in, (interval, timeout), filters)| {
            let filter = |key: String| {
                let mut builder = FilterBuilder::default();
                builder.test(FilterTest::Equals, &key, ["value"].into_iter());
                (key.into(), Arc::new(builder.finish().expect("valid")))
            };
            let times = PingTimes { interval, timeout };
            PlainProtocol::Centrifuge {
                encoding: if is_binary { Encoding::Protobuf } else { Encoding::Json },
                pings: PlainPings { state: PINGS[state], due_in, times },
                forwarded: None,
                info: Info::of_text(if is_binary { "=/w==" } else { "" }).expect("valid"),
                filters: Filters::of(filters.into_iter().map(filter).collect()),
            }
        });
        prop_oneof![
            Just(PlainProtocol::V1),
            Just(PlainProtocol::EventStream),
            Just(PlainProtocol::Handler),
            centrifuge
        ]
    }

    /// A session, or with the protocol of handlers the connection of one.
    fn session() -> impl Strategy<Value = PlainPeer> {
        let requests = (any::<u32>(), any::<u64>(), any::<u32>(), any::<u8>());
        let parts = (
            any::<u128>(),
            "[a-zü]{0,20}",
            requests,
            protocol(),
            prop::collection::vec(subscription(), 0..5),
        );
        parts.prop_map(|(client, subject, requests, protocol, mut subscriptions)| {
            let (latest, errors, late, late_row) = requests;
            subscriptions.sort_unstable_by(|one, other| one.reached.topic.cmp(&other.reached.topic));
            subscriptions.dedup_by(|one, other| one.reached.topic == other.reached.topic);
            let is_stream = protocol == PlainProtocol::EventStream;
            let protocol = if is_stream && subscriptions.len() != 1 { PlainProtocol::V1 } else { protocol };
            let session = Box::new(PlainSession {
                client: ClientId::from_bits(client | 1 << 64),
                subject: subject.into(),
                requests: RequestHistory { latest, errors, late, late_row },
                protocol,
                subscriptions,
            });
            match session.protocol {
                PlainProtocol::Handler => {
                    PlainPeer::Handler { is_paused: errors % 2 == 0, session: Some(session) }
                }
                _ => PlainPeer::Session(session),
            }
        })
    }

    fn subscriber() -> impl Strategy<Value = PlainPeer> {
        let parts = ("[a-zü]{1,20}", position(), any::<bool>(), any::<bool>());
        parts.prop_map(|(topic, position, echo_own, may_publish)| {
            PlainPeer::Subscriber(PlainSubscriber {
                reached: Reached { topic: topic.into(), position },
                echo_own,
                may_publish,
            })
        })
    }

    fn handler() -> impl Strategy<Value = PlainPeer> {
        any::<bool>().prop_map(|is_paused| PlainPeer::Handler { is_paused, session: None })
    }

    fn bytes_of(peer: &PlainPeer) -> Vec<u8> {
        let mut bytes = Vec::new();
        peer.put(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn a_connection_is_read_as_it_was_written_and_not_from_a_part(
            peer in prop_oneof![session(), subscriber(), handler()],
            rest in prop::collection::vec(any::<u8>(), 0..4),
            wrong in any::<(prop::sample::Index, u8)>(),
        ) {
            let bytes = bytes_of(&peer);
            let all = [&bytes[..], &rest].concat();
            let mut from = &all[..];
            prop_assert_eq!(PlainPeer::take(&mut from), Some(peer));
            prop_assert_eq!(from, &rest[..]);
            for end in 0..bytes.len() {
                prop_assert_eq!(PlainPeer::take(&mut &bytes[..end]), None);
            }
            // Anything may come of it but a panic.
            let mut bytes = bytes;
            let at = wrong.0.index(bytes.len());
            bytes[at] = wrong.1;
            let _ = PlainPeer::take(&mut &bytes[..]);
        }

        #[test]
        fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PlainPeer::take(&mut &bytes[..]);
        }
    }

    #[test]
    fn what_no_connection_has_is_refused() {
        let position = Position { epoch: 1, offset: 1 };
        let subscriber = |topic: &str, position| {
            let plain = PlainSubscriber {
                reached: Reached { topic: topic.into(), position },
                echo_own: true,
                may_publish: true,
            };
            PlainPeer::take(&mut &bytes_of(&PlainPeer::Subscriber(plain))[..]).is_some()
        };
        assert!(subscriber("t", position));
        assert!(!subscriber("", position) && !subscriber("a\nb", position));
        assert!(!subscriber("t", Position { offset: INTEGER_END, ..position }));
        let session = |client, topics: &[&str], protocol| {
            let subscription = |topic: &&str| PlainSubscription {
                reached: Reached { topic: (*topic).into(), position },
                granted: Granted { members: true, presence: true, history: true },
                must_recover: false,
                deltas: false,
                skips_own: false,
                allowed_by: AllowedBy::Permission,
                expires_in: None,
                is_counted: false,
                presence_since: None,
                info: Info::default(),
            };
            let plain = |protocol: &PlainProtocol| PlainSession {
                client: ClientId { node: client, number: 7 },
                subject: "".into(),
                requests: RequestHistory::default(),
                protocol: protocol.clone(),
                subscriptions: topics.iter().map(subscription).collect(),
            };
            let peers = [
                PlainPeer::Session(Box::new(plain(&protocol))),
                PlainPeer::Handler { is_paused: false, session: Some(Box::new(plain(&protocol))) },
            ];
            peers.map(|peer| PlainPeer::take(&mut &bytes_of(&peer)[..]).is_some())
        };
        let (is_session, is_handler, is_none) = ([true, false], [false, true], [false, false]);
        assert_eq!(session(1, &["a", "b"], PlainProtocol::V1), is_session);
        assert_eq!(session(1, &["a", "b"], PlainProtocol::Handler), is_handler);
        assert_eq!(session(0, &["a"], PlainProtocol::V1), is_none, "no client has that id");
        let twice = session(1, &["a", "a"], PlainProtocol::V1);
        assert_eq!(twice, is_none, "a session has one subscription to a topic");
        assert_eq!(session(1, &["a"], PlainProtocol::EventStream), is_session);
        assert_eq!(session(1, &[], PlainProtocol::EventStream), is_none, "it has ended");
    }
}
