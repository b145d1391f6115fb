//! Events in `echoring.v1.json`.

use super::events::{MembersEvent, SessionEvent, SubscribedEvent, TopicEvent};
use super::presence::PresenceChange;
use crate::v1::server_event;
use echoring_topics::members;

/// Appends an event.
pub(super) fn write(event: &SessionEvent<'_>, out: &mut Vec<u8>) {
    match *event {
        SessionEvent::Subscribed(SubscribedEvent {
            id,
            topic,
            position,
            recovered,
            snapshot,
            presence,
            ..
        }) => {
            server_event::subscribed(out, id, topic, position, recovered, snapshot, presence);
        }
        SessionEvent::Unsubscribed { id, topic } => server_event::unsubscribed(out, id, topic),
        SessionEvent::Dropped { topic, position, reason } => {
            server_event::dropped(out, topic, position, reason);
        }
        SessionEvent::Withdrawn { topic, position, .. } => server_event::withdrawn(out, topic, position),
        SessionEvent::Moved { topic, position } => server_event::moved(out, topic, position),
        SessionEvent::Published { id, topic, position } => {
            server_event::published(out, Some(id), topic, position);
        }
        SessionEvent::Gap { topic, from, to, reason, .. } => server_event::gap(out, topic, from, to, reason),
        SessionEvent::Members(MembersEvent { id, topic, after, members: page, clients, .. }) => {
            server_event::members(out, id, topic, after, page, members(clients));
        }
        SessionEvent::Authenticated { id, subject, expires_in_s, .. } => {
            server_event::authenticated(out, id, subject, expires_in_s);
        }
        SessionEvent::TokenExpires(seconds) => server_event::token_expires(out, seconds),
        SessionEvent::Error(error) => server_event::error(out, error),
    }
}

/// Appends an event for all sessions of a topic.
pub(super) fn write_topic_event(event: &TopicEvent<'_>, topic: &str, out: &mut Vec<u8>) {
    match *event {
        TopicEvent::Presence(&PresenceChange { client, subject, joined, count }) => {
            server_event::presence(out, topic, joined, client, subject, count);
        }
        TopicEvent::Heartbeat(offset) => server_event::heartbeat(out, topic, offset),
    }
}
