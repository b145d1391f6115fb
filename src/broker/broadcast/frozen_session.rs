//! The state of a connection that moves, as bytes. Times are what is left of them: the other process has another clock.
//!
//! Whatever is not well formed is refused. The first byte is the version of the format.

use std::collections::BTreeSet;

use bytes::{Buf as _, BufMut as _};
use echoring_auth::limits::SUBJECT_BYTES_MAX;
use echoring_proto::limits::Nanos;
use echoring_topics::limits::INTEGER_END;
use echoring_topics::{ClientId, Position, is_topic_name};
use echoring_wire::centrifuge::Encoding;

use super::centrifuge_session::Pings;
use super::mail_codec::{Wire, structures};
use super::request_history::RequestHistory;
use super::session::{AllowedBy, Granted};
use crate::limits::FROZEN_SUBSCRIPTIONS_MAX;

const VERSION: u8 = 1;

/// A connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FrozenPeer {
    Subscriber(FrozenSubscriber),
    Session(Box<FrozenSession>),
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

/// A session, or an event stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrozenSession {
    pub(super) client: ClientId,
    pub(super) subject: Box<str>,
    pub(super) requests: RequestHistory,
    pub(super) protocol: FrozenProtocol,
    pub(super) subscriptions: Vec<FrozenSubscription>,
}

/// How a session speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrozenProtocol {
    V1,
    EventStream,
    Centrifuge {
        encoding: Encoding,
        pings: Pings,
        /// The time until something is due for them.
        due_in: Option<Nanos>,
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
                let session = FrozenSession::take(from).filter(FrozenSession::is_valid)?;
                Some(FrozenPeer::Session(Box::new(session)))
            }
            _ => None,
        }
    }
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
}

structures! {
    FrozenSubscriber { topic, position, echo_own, may_publish }
    FrozenSession { client, subject, requests, protocol, subscriptions }
    FrozenSubscription {
        topic, position, granted, must_recover, deltas, skips_own, allowed_by, expires_in, is_counted
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

impl Wire for FrozenProtocol {
    fn put(&self, out: &mut Vec<u8>) {
        match *self {
            FrozenProtocol::V1 => out.put_u8(0),
            FrozenProtocol::EventStream => out.put_u8(1),
            FrozenProtocol::Centrifuge { encoding, pings, due_in } => {
                out.put_u8(if encoding.is_binary() { 3 } else { 2 });
                out.put_u8(PINGS.iter().position(|known| *known == pings).unwrap_or_default() as u8);
                due_in.put(out);
            }
        }
    }

    fn take(from: &mut &[u8]) -> Option<FrozenProtocol> {
        let encoding = match u8::take(from)? {
            0 => return Some(FrozenProtocol::V1),
            1 => return Some(FrozenProtocol::EventStream),
            2 => Encoding::Json,
            3 => Encoding::Protobuf,
            _ => return None,
        };
        let pings = *PINGS.get(usize::from(u8::take(from)?))?;
        Some(FrozenProtocol::Centrifuge { encoding, pings, due_in: Wire::take(from)? })
    }
}

/// The states of pings by number; their order is part of the format.
const PINGS: [Pings; 3] = [Pings::Idle, Pings::AwaitingPong, Pings::Answered];

/// Why clients have subscriptions, by number; their order is part of the format. The connections of handlers do not move.
const ALLOWED_BY: [AllowedBy; 6] = [
    AllowedBy::Permission,
    AllowedBy::Hook,
    AllowedBy::Token,
    AllowedBy::Credentials,
    AllowedBy::ConnectHook,
    AllowedBy::Operator,
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
