//! Events that handlers are told about their subscriptions and publications. Handlers are called at the end of the
//! tick, because an event may occur while a handler runs.

use echoring_runtime::driver::Token;
use echoring_topics::{Gap, Position, Refused};

use super::events::{SessionEvent, SubscribedEvent};
use crate::subscription::SubscriptionEnd;

/// Events in order. Names are gathered in one buffer, so that an event costs no allocation.
#[derive(Debug, Default)]
pub struct HandlerEvents {
    entries: Vec<QueuedEvent>,
    names: String,
}

#[derive(Debug)]
struct QueuedEvent {
    token: Token,
    /// Where the topic's name is, and its length in bytes.
    name_at: usize,
    name_bytes: usize,
    event: HandlerEvent,
}

/// An event for the handler of a connection.
#[derive(Clone, Copy, Debug)]
pub enum HandlerEvent {
    /// The subscription has begun behind a position. Whether none is missing behind the one that was asked for.
    Subscribed(Position, Option<bool>),
    /// The subscription was refused after all.
    Refused(Refused),
    /// Messages are not sent.
    Gap(Gap),
    /// The server has ended the subscription, behind a position.
    Ended(Position, SubscriptionEnd),
    /// What became of a publication, with its id.
    Published(Option<u64>, Result<Position, Refused>),
}

impl HandlerEvents {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the handler of a connection has not been told everything.
    pub(super) fn are_for(&self, token: Token) -> bool {
        self.entries.iter().any(|entry| entry.token == token)
    }

    pub(super) fn push(&mut self, token: Token, topic: &str, event: HandlerEvent) {
        let (name_at, name_bytes) = (self.names.len(), topic.len());
        self.names.push_str(topic);
        self.entries.push(QueuedEvent { token, name_at, name_bytes, event });
    }

    /// The event that a session is sent in other dialects. Those that answer requests which handlers do not make are left out.
    pub(super) fn session_event(&mut self, token: Token, event: &SessionEvent<'_>) {
        match *event {
            SessionEvent::Subscribed(SubscribedEvent { topic, position, recovered, .. }) => {
                self.push(token, topic, HandlerEvent::Subscribed(position, recovered));
            }
            SessionEvent::Dropped { topic, position, .. } => {
                self.push(token, topic, HandlerEvent::Ended(position, SubscriptionEnd::SlowConsumer));
            }
            SessionEvent::Withdrawn { topic, position, .. } => {
                self.push(token, topic, HandlerEvent::Ended(position, SubscriptionEnd::Withdrawn));
            }
            SessionEvent::Interrupted { topic, position } => {
                self.push(token, topic, HandlerEvent::Ended(position, SubscriptionEnd::Interrupted));
            }
            SessionEvent::Gap { topic, from, to, reason, .. } => {
                self.push(token, topic, HandlerEvent::Gap(Gap { from, to, reason }));
            }
            SessionEvent::Unsubscribed { .. }
            | SessionEvent::Published { .. }
            | SessionEvent::Members(_)
            | SessionEvent::Authenticated { .. }
            | SessionEvent::TokenExpires(_)
            | SessionEvent::Pong { .. }
            | SessionEvent::Error(_) => {}
        }
    }

    /// All events in order, with their connections and topics.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &str, HandlerEvent)> {
        self.entries.iter().map(|entry| {
            let topic = self.names.get(entry.name_at..entry.name_at + entry.name_bytes).unwrap_or_default();
            (entry.token, topic, entry.event)
        })
    }

    /// Forgets all events, and keeps the memory up to a bound.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.entries.shrink_to(KEPT_ENTRIES_MAX);
        self.names.clear();
        self.names.shrink_to(KEPT_NAMES_BYTES_MAX);
    }
}

/// Events whose memory is kept from tick to tick.
const KEPT_ENTRIES_MAX: usize = 1_024;
/// The same for their names, in bytes.
const KEPT_NAMES_BYTES_MAX: usize = 32 * 1024;
