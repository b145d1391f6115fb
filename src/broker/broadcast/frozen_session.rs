//! The state of a connection that moves, as bytes. Times are what is left of them: the other process has another clock.
//!
//! Bytes that are not well formed are refused. The first byte is the version of the format.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _};
use echoring_auth::limits::SUBJECT_BYTES_MAX;
use echoring_auth::{Forwarded, Info};
use echoring_proto::limits::Nanos;
use echoring_topics::limits::INTEGER_END;
use echoring_topics::{ClientId, Position, TagFilter, is_topic_name};
use echoring_wire::centrifuge::Encoding;

use super::centrifuge_session::{FrozenPings, PingTimes, Pings};
use super::filters::Filters;
use super::mail_codec::{Wire, structures};
use super::request_history::RequestHistory;
use super::session::{AllowedBy, Granted};
use crate::limits::FROZEN_SUBSCRIPTIONS_MAX;

const VERSION: u8 = 4;

/// A connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FrozenPeer {
    Subscriber(FrozenSubscriber),
    Session(Box<FrozenSession>),
    /// The connection of a handler, whose own state is elsewhere.
    Handler {
        is_paused: bool,
        /// Its subscriptions, once it has had one.
        session: Option<Box<FrozenSession>>,
    },
}

/// A raw subscriber.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrozenSubscriber {
    pub(super) topic: Box<str>,
    /// The position that its client has reached.
    pub(super) position: Position,
    pub(super) echo_own: bool,
    pub(super) may_publish: bool,
}

/// A session, an event stream, or the subscriptions of a handler's connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrozenSession {
    pub(super) client: ClientId,
    /// Whether its id was given by the process that has frozen it. The numbers of processes repeat after some takeovers.
    pub(super) is_client_own: bool,
    pub(super) subject: Box<str>,
    pub(super) requests: RequestHistory,
    pub(super) protocol: FrozenProtocol,
    pub(super) subscriptions: Vec<FrozenSubscription>,
}

/// How a session speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FrozenProtocol {
    V1,
    EventStream,
    Handler,
    Centrifuge {
        encoding: Encoding,
        pings: FrozenPings,
        /// Header fields of its handshake, for the application.
        forwarded: Option<Forwarded>,
        /// Data of the application about the client, for others to see.
        info: Info,
        filters: Filters,
    },
}

/// A live subscription of a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrozenSubscription {
    pub(super) topic: Box<str>,
    /// The position that its client has reached.
    pub(super) position: Position,
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

impl FrozenPeer {
    /// Appends the connection.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        match self {
            FrozenPeer::Subscriber(subscriber) => {
                out.put_u8(0);
                subscriber.put(out);
            }
            FrozenPeer::Session(session) => {
                out.put_u8(1);
                session.put(out);
            }
            FrozenPeer::Handler { is_paused, session } => {
                out.put_u8(2);
                is_paused.put(out);
                session.put(out);
            }
        }
    }

    /// Takes a connection from the front; `None` if it is not well formed.
    pub(super) fn take(from: &mut &[u8]) -> Option<FrozenPeer> {
        if u8::take(from)? != VERSION {
            return None;
        }
        match u8::take(from)? {
            0 => FrozenSubscriber::take(from).filter(FrozenSubscriber::is_valid).map(FrozenPeer::Subscriber),
            1 => {
                let session: Box<FrozenSession> = Wire::take(from)?;
                (!session.is_of_handler()).then_some(FrozenPeer::Session(session))
            }
            2 => {
                let is_paused = bool::take(from)?;
                let session: Option<Box<FrozenSession>> = Wire::take(from)?;
                let is_its = session.as_deref().is_none_or(FrozenSession::is_of_handler);
                is_its.then_some(FrozenPeer::Handler { is_paused, session })
            }
            _ => None,
        }
    }
}

/// Reads the state of a connection, if it is one, and sees that it is read again as it is written. For fuzzing.
///
/// # Panics
/// If it is not.
#[doc(hidden)]
pub fn check_frozen_peer(mut bytes: &[u8]) -> bool {
    let Some(peer) = FrozenPeer::take(&mut bytes) else { return false };
    let mut written = Vec::new();
    peer.put(&mut written);
    assert_eq!(FrozenPeer::take(&mut &written[..]), Some(peer));
    true
}

impl FrozenSubscriber {
    fn is_valid(&self) -> bool {
        is_topic_name(&self.topic) && self.position.offset < INTEGER_END
    }
}

impl FrozenSession {
    fn is_valid(&self) -> bool {
        let FrozenSession { client, subject, protocol, subscriptions, .. } = self;
        let is_valid =
            |own: &FrozenSubscription| is_topic_name(&own.topic) && own.position.offset < INTEGER_END;
        let names: BTreeSet<&str> = subscriptions.iter().map(|own| &*own.topic).collect();
        client.number != 0
            && subject.len() <= SUBJECT_BYTES_MAX
            && (*protocol != FrozenProtocol::EventStream || subscriptions.len() == 1)
            && names.len() == subscriptions.len()
            && subscriptions.iter().all(is_valid)
    }

    fn is_of_handler(&self) -> bool {
        self.protocol == FrozenProtocol::Handler
    }
}

/// A session that is not valid is refused.
impl Wire for Box<FrozenSession> {
    fn put(&self, out: &mut Vec<u8>) {
        FrozenSession::put(self, out);
    }

    fn take(from: &mut &[u8]) -> Option<Box<FrozenSession>> {
        FrozenSession::take(from).filter(FrozenSession::is_valid).map(Box::new)
    }
}

structures! {
    FrozenSubscriber { topic, position, echo_own, may_publish }
    FrozenSession { client, is_client_own, subject, requests, protocol, subscriptions }
    FrozenSubscription {
        topic, position, granted, must_recover, deltas, skips_own, allowed_by, expires_in, is_counted, presence_since,
        info
    }
    Granted { members, presence, history }
    RequestHistory { latest, errors, late, late_row }
}

/// The text, behind its length.
impl Wire for Box<str> {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u16_le(self.len() as u16);
        out.put_slice(self.as_bytes());
    }

    fn take(from: &mut &[u8]) -> Option<Box<str>> {
        let bytes = usize::from(u16::take(from)?);
        std::str::from_utf8(from.split_off(..bytes)?).ok().map(Box::from)
    }
}

impl Wire for Vec<FrozenSubscription> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        self.iter().for_each(|subscription| subscription.put(out));
    }

    fn take(from: &mut &[u8]) -> Option<Vec<FrozenSubscription>> {
        let count = u32::take(from)? as usize;
        // Nothing is reserved for a number that may be wrong.
        let mut subscriptions = Vec::new();
        if count > FROZEN_SUBSCRIPTIONS_MAX || count > from.remaining() {
            return None;
        }
        for _ in 0..count {
            subscriptions.push(FrozenSubscription::take(from)?);
        }
        Some(subscriptions)
    }
}

impl FrozenProtocol {
    /// Bytes of the forwarded fields, of the data about the client and of its filters, which are charged to the memory budget.
    pub(super) fn charged_bytes(&self) -> usize {
        match self {
            FrozenProtocol::Centrifuge { forwarded, info, filters, .. } => {
                let forwarded_bytes = forwarded.as_ref().map_or(0, Forwarded::held_bytes);
                forwarded_bytes + info.text().len() + filters.charged_bytes()
            }
            _ => 0,
        }
    }
}

impl Wire for FrozenProtocol {
    fn put(&self, out: &mut Vec<u8>) {
        match *self {
            FrozenProtocol::V1 => out.put_u8(0),
            FrozenProtocol::EventStream => out.put_u8(1),
            FrozenProtocol::Handler => out.put_u8(4),
            FrozenProtocol::Centrifuge { encoding, pings, ref forwarded, ref info, ref filters } => {
                let number = if encoding.is_binary() { 3 } else { 2 };
                out.put_u8(if filters.is_empty() { number } else { number | HAS_FILTERS });
                pings.put(out);
                forwarded.put(out);
                info.put(out);
                if !filters.is_empty() {
                    filters.put(out);
                }
            }
        }
    }

    fn take(from: &mut &[u8]) -> Option<FrozenProtocol> {
        let number = u8::take(from)?;
        let encoding = match number & !HAS_FILTERS {
            0 | 1 | 4 if number & HAS_FILTERS != 0 => return None,
            0 => return Some(FrozenProtocol::V1),
            1 => return Some(FrozenProtocol::EventStream),
            2 => Encoding::Json,
            3 => Encoding::Protobuf,
            4 => return Some(FrozenProtocol::Handler),
            _ => return None,
        };
        let (pings, forwarded, info) = (Wire::take(from)?, Wire::take(from)?, Wire::take(from)?);
        let filters = if number & HAS_FILTERS == 0 { Filters::default() } else { Wire::take(from)? };
        Some(FrozenProtocol::Centrifuge { encoding, pings, forwarded, info, filters })
    }
}

/// Set in the number of a protocol that has filters of subscriptions.
const HAS_FILTERS: u8 = 1 << 3;

/// One at least.
impl Wire for Filters {
    fn put(&self, out: &mut Vec<u8>) {
        (self.iter().len() as u16).put(out);
        for (name, filter) in self.iter() {
            Box::<str>::from(name).put(out);
            (filter.as_bytes().len() as u16).put(out);
            out.put_slice(filter.as_bytes());
        }
    }

    fn take(from: &mut &[u8]) -> Option<Filters> {
        let count = u16::take(from)?;
        let mut filters = Vec::new();
        for _ in 0..count {
            let name = Box::<str>::take(from)?;
            let bytes = usize::from(u16::take(from)?);
            filters.push((name, Arc::new(TagFilter::read(from.split_off(..bytes)?)?)));
        }
        (count > 0).then(|| Filters::of(filters))
    }
}

impl Wire for FrozenPings {
    fn put(&self, out: &mut Vec<u8>) {
        let FrozenPings { state, due_in, times: PingTimes { interval, timeout } } = *self;
        out.put_u8(PINGS.iter().position(|known| *known == state).unwrap_or_default() as u8);
        due_in.put(out);
        interval.put(out);
        timeout.put(out);
    }

    fn take(from: &mut &[u8]) -> Option<FrozenPings> {
        let state = *PINGS.get(usize::from(u8::take(from)?))?;
        let (due_in, interval, timeout) = (Wire::take(from)?, Wire::take(from)?, Wire::take(from)?);
        Some(FrozenPings { state, due_in, times: PingTimes { interval, timeout } })
    }
}

impl Wire for Forwarded {
    fn put(&self, out: &mut Vec<u8>) {
        self.freeze(out);
    }

    fn take(from: &mut &[u8]) -> Option<Forwarded> {
        Forwarded::thaw(from)
    }
}

impl Wire for Info {
    fn put(&self, out: &mut Vec<u8>) {
        Box::<str>::from(self.text()).put(out);
    }

    fn take(from: &mut &[u8]) -> Option<Info> {
        Info::of_text(&Box::<str>::take(from)?)
    }
}

/// The states of pings by number; their order is part of the format.
const PINGS: [Pings; 3] = [Pings::Idle, Pings::AwaitingPong, Pings::Answered];

/// Why clients have subscriptions, by number; their order is part of the format.
const ALLOWED_BY: [AllowedBy; 7] = [
    AllowedBy::Permission,
    AllowedBy::Hook,
    AllowedBy::Token,
    AllowedBy::Credentials,
    AllowedBy::ConnectHook,
    AllowedBy::Operator,
    AllowedBy::Handler,
];

impl Wire for AllowedBy {
    fn put(&self, out: &mut Vec<u8>) {
        let number = ALLOWED_BY.iter().position(|known| known == self);
        out.put_u8(number.unwrap_or(ALLOWED_BY.len()) as u8);
    }

    fn take(from: &mut &[u8]) -> Option<AllowedBy> {
        ALLOWED_BY.get(usize::from(u8::take(from)?)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_topics::{FilterBuilder, FilterTest};
    use proptest::prelude::*;

    fn position() -> impl Strategy<Value = Position> {
        (any::<u64>(), 0..INTEGER_END).prop_map(|(epoch, offset)| Position { epoch, offset })
    }

    fn subscription() -> impl Strategy<Value = FrozenSubscription> {
        let flags = prop::array::uniform7(any::<bool>());
        let numbers = any::<[Option<u64>; 2]>();
        let parts = ("[a-zü]{1,20}", position(), flags, 0..ALLOWED_BY.len(), numbers);
        parts.prop_map(|(topic, position, flags, allowed_by, [expires_in, presence_since])| {
            let [members, presence, history, must_recover, deltas, skips_own, is_counted] = flags;
            FrozenSubscription {
                topic: topic.into(),
                position,
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

    fn protocol() -> impl Strategy<Value = FrozenProtocol> {
        let filters = prop::collection::vec("[a-z]{1,9}", 0..3);
        let centrifuge = (any::<bool>(), 0..PINGS.len(), any::<Option<u64>>(), any::<(u64, u64)>(), filters);
        let centrifuge = centrifuge.prop_map(|(is_binary, state, due_in, (interval, timeout), filters)| {
            let filter = |key: String| {
                let mut builder = FilterBuilder::default();
                builder.test(FilterTest::Equals, &key, ["value"].into_iter());
                (key.into(), Arc::new(builder.finish().expect("valid")))
            };
            let times = PingTimes { interval, timeout };
            FrozenProtocol::Centrifuge {
                encoding: if is_binary { Encoding::Protobuf } else { Encoding::Json },
                pings: FrozenPings { state: PINGS[state], due_in, times },
                forwarded: None,
                info: Info::of_text(if is_binary { "=/w==" } else { "" }).expect("valid"),
                filters: Filters::of(filters.into_iter().map(filter).collect()),
            }
        });
        prop_oneof![
            Just(FrozenProtocol::V1),
            Just(FrozenProtocol::EventStream),
            Just(FrozenProtocol::Handler),
            centrifuge
        ]
    }

    /// A session, or with the protocol of handlers the connection of one.
    fn session() -> impl Strategy<Value = FrozenPeer> {
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
            subscriptions.sort_unstable_by(|one, other| one.topic.cmp(&other.topic));
            subscriptions.dedup_by(|one, other| one.topic == other.topic);
            let is_stream = protocol == FrozenProtocol::EventStream;
            let protocol = if is_stream && subscriptions.len() != 1 { FrozenProtocol::V1 } else { protocol };
            let session = Box::new(FrozenSession {
                client: ClientId::from_bits(client | 1),
                is_client_own: late % 2 == 0,
                subject: subject.into(),
                requests: RequestHistory { latest, errors, late, late_row },
                protocol,
                subscriptions,
            });
            match session.protocol {
                FrozenProtocol::Handler => {
                    FrozenPeer::Handler { is_paused: errors % 2 == 0, session: Some(session) }
                }
                _ => FrozenPeer::Session(session),
            }
        })
    }

    fn subscriber() -> impl Strategy<Value = FrozenPeer> {
        let parts = ("[a-zü]{1,20}", position(), any::<bool>(), any::<bool>());
        parts.prop_map(|(topic, position, echo_own, may_publish)| {
            FrozenPeer::Subscriber(FrozenSubscriber { topic: topic.into(), position, echo_own, may_publish })
        })
    }

    fn handler() -> impl Strategy<Value = FrozenPeer> {
        any::<bool>().prop_map(|is_paused| FrozenPeer::Handler { is_paused, session: None })
    }

    fn bytes_of(peer: &FrozenPeer) -> Vec<u8> {
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
            prop_assert_eq!(FrozenPeer::take(&mut from), Some(peer));
            prop_assert_eq!(from, &rest[..]);
            for end in 0..bytes.len() {
                prop_assert_eq!(FrozenPeer::take(&mut &bytes[..end]), None);
            }
            // Anything may come of it but a panic.
            let mut bytes = bytes;
            let at = wrong.0.index(bytes.len());
            bytes[at] = wrong.1;
            let _ = FrozenPeer::take(&mut &bytes[..]);
        }

        #[test]
        fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&[VERSION][..], &bytes].concat();
            let _ = FrozenPeer::take(&mut &bytes[..]);
        }
    }

    #[test]
    fn what_no_connection_has_is_refused() {
        let position = Position { epoch: 1, offset: 1 };
        let subscriber = |topic: &str, position| {
            let frozen =
                FrozenSubscriber { topic: topic.into(), position, echo_own: true, may_publish: true };
            FrozenPeer::take(&mut &bytes_of(&FrozenPeer::Subscriber(frozen))[..]).is_some()
        };
        assert!(subscriber("t", position));
        assert!(!subscriber("", position) && !subscriber("a\nb", position));
        assert!(!subscriber("t", Position { offset: INTEGER_END, ..position }));
        let session = |client, topics: &[&str], protocol| {
            let subscription = |topic: &&str| FrozenSubscription {
                topic: (*topic).into(),
                position,
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
            let frozen = |protocol: &FrozenProtocol| FrozenSession {
                client: ClientId::local(client),
                is_client_own: true,
                subject: "".into(),
                requests: RequestHistory::default(),
                protocol: protocol.clone(),
                subscriptions: topics.iter().map(subscription).collect(),
            };
            let peers = [
                FrozenPeer::Session(Box::new(frozen(&protocol))),
                FrozenPeer::Handler { is_paused: false, session: Some(Box::new(frozen(&protocol))) },
            ];
            peers.map(|peer| FrozenPeer::take(&mut &bytes_of(&peer)[..]).is_some())
        };
        let (is_session, is_handler, is_none) = ([true, false], [false, true], [false, false]);
        assert_eq!(session(1, &["a", "b"], FrozenProtocol::V1), is_session);
        assert_eq!(session(1, &["a", "b"], FrozenProtocol::Handler), is_handler);
        assert_eq!(session(0, &["a"], FrozenProtocol::V1), is_none, "no client has that id");
        let twice = session(1, &["a", "a"], FrozenProtocol::V1);
        assert_eq!(twice, is_none, "a session has one subscription to a topic");
        assert_eq!(session(1, &["a"], FrozenProtocol::EventStream), is_session);
        assert_eq!(session(1, &[], FrozenProtocol::EventStream), is_none, "it has ended");
    }
}
