//! Events in `echoring.v1.json`.

use super::events::{MembersEvent, PresenceChange, SessionEvent, SubscribedEvent, TopicEvent};
use crate::v1::digits;
use echoring_topics::{Gap, Position, Profile, members};
use echoring_wire::v1::{self, Event, Unsubscribed};

/// Appends an event.
pub(super) fn write(event: &SessionEvent<'_>, out: &mut Vec<u8>) {
    let event = match event {
        SessionEvent::Subscribed(event) => Event::Subscribed(subscribed(event)),
        SessionEvent::Unsubscribed { id, topic } => {
            Event::Unsubscribed(Unsubscribed { id: *id, topic: (*topic).into(), ..Unsubscribed::default() })
        }
        SessionEvent::Dropped { topic, position, reason } => ended(topic, *position, reason.word()),
        SessionEvent::Withdrawn { topic, position, .. } => ended(topic, *position, Unsubscribed::FORBIDDEN),
        SessionEvent::Interrupted { topic, position } => ended(topic, *position, Unsubscribed::INTERRUPTED),
        SessionEvent::Published { id, topic, position } => Event::Published(v1::Published {
            id: Some(*id),
            topic: (*topic).into(),
            epoch: Some(position.epoch.into()),
            offset: Some(position.offset),
        }),
        SessionEvent::Gap { topic, from, to, reason, .. } => {
            Event::Gap(gap(topic, Gap { from: *from, to: *to, reason: *reason }))
        }
        SessionEvent::Members(event) => Event::Members(members_page(event)),
        SessionEvent::Authenticated { id, subject, expires_in_s, .. } => {
            Event::Authenticated(v1::Authenticated {
                id: *id,
                subject: (*subject).into(),
                expires_in: *expires_in_s,
            })
        }
        SessionEvent::TokenExpires(seconds) => Event::TokenExpires(v1::TokenExpires { expires_in: *seconds }),
        SessionEvent::Pong { id, max_message } => {
            Event::Pong(v1::Pong { id: *id, max_message: Some(*max_message) })
        }
        SessionEvent::Error(error) => Event::Error((*error).clone()),
    };
    event.write(out);
}

/// Appends an event for all sessions of a topic.
pub(super) fn write_topic_event(event: &TopicEvent<'_>, topic: &str, out: &mut Vec<u8>) {
    let topic = topic.into();
    let event = match *event {
        TopicEvent::Presence(&PresenceChange { client, profile, joined, count }) => {
            let subject = profile.subject();
            Event::Presence(v1::Presence {
                topic,
                event: if joined { v1::PresenceChange::Join } else { v1::PresenceChange::Leave },
                client: Some(digits(client)),
                subject: (!subject.is_empty()).then(|| subject.into()),
                count: Some(count),
            })
        }
        TopicEvent::Heartbeat(offset) => Event::Heartbeat(v1::Heartbeat { topic, offset }),
    };
    event.write(out);
}

/// Appends the event that a subscriber missed presence events.
pub(super) fn write_presence_stale(topic: &str, out: &mut Vec<u8>) {
    let event = v1::PresenceChange::Stale;
    let stale = v1::Presence { topic: topic.into(), event, client: None, subject: None, count: None };
    Event::Presence(stale).write(out);
}

/// The beginning of a subscription.
pub(super) fn subscribed<'a>(event: &SubscribedEvent<'a>) -> v1::Subscribed<'a> {
    v1::Subscribed {
        id: event.id,
        topic: event.topic.into(),
        epoch: event.position.epoch.into(),
        offset: event.position.offset,
        recovered: event.recovered,
        snapshot: event.snapshot,
        count: event.presence.map(|(count, _)| count),
        client: event.presence.map(|(_, client)| digits(client)),
    }
}

/// Messages that a subscriber lost.
pub(super) fn gap(topic: &str, Gap { from, to, reason }: Gap) -> v1::Gap<'_> {
    v1::Gap { topic: topic.into(), from, to, reason: reason.word().into() }
}

/// The server has ended a subscription.
fn ended<'a>(topic: &'a str, Position { epoch, offset }: Position, reason: &'static str) -> Event<'a> {
    Event::Unsubscribed(Unsubscribed {
        id: None,
        topic: topic.into(),
        epoch: Some(epoch.into()),
        offset: Some(offset),
        reason: Some(reason.into()),
    })
}

fn members_page<'a>(event: &MembersEvent<'a>) -> v1::MembersPage<'a> {
    // The data of an application for Centrifuge's protocol are not part of this one.
    let subjects = members(event.clients).map(|(client, profile)| (client, Profile(profile).subject()));
    let known = subjects.filter(|(_, subject)| !subject.is_empty());
    v1::MembersPage {
        id: event.id,
        topic: event.topic.into(),
        after: event.after.map(digits),
        count: event.members.count,
        clients: members(event.clients).map(|(client, _)| digits(client)).collect(),
        subjects: v1::Subjects(known.map(|(client, subject)| (digits(client), subject.into())).collect()),
        next: event.members.next.map(digits),
        unlisted: event.members.unlisted,
    }
}
