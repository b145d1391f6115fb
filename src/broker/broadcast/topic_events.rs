//! The events of topics and members for webhooks, told at the end of a tick.
//!
//! The owner shard of a topic tells them: it knows which shards subscribe, and changes the member list. A topic counts as vacated once
//! it has had no subscriber for a while, so that one who returns, or moves, is not told. In a cluster each node tells about its own
//! subscribers, and the owner node about members.

use std::collections::{BTreeMap, VecDeque};

use super::sequencer::Sequencer;
use crate::limits::{TOPIC_VACATED_DELAY, TOPICS_VACATED_MAX};
use echoring_auth::{WebhookEvent, WebhookMember, Webhooks};
use echoring_proto::limits::Nanos;
use echoring_topics::{ClientId, Profile};

/// What a shard tells webhooks about topics.
#[derive(Debug, Default)]
pub(super) struct TopicEvents {
    members: Vec<MemberChange>,
    vacated: Vacated,
}

#[derive(Debug)]
struct MemberChange {
    topic: Box<str>,
    client: ClientId,
    profile: Box<str>,
    joined: bool,
}

/// Topics without subscribers, until they are told. Each waits equally long.
#[derive(Debug, Default)]
struct Vacated {
    due: BTreeMap<Box<str>, Nanos>,
    /// Some have subscribers again.
    queue: VecDeque<(Nanos, Box<str>)>,
}

impl Vacated {
    fn push(&mut self, topic: Box<str>, due: Nanos) {
        self.due.insert(topic.clone(), due);
        self.queue.push_back((due, topic));
    }

    /// A topic has subscribers again. False if it was told that it has none, or if it never had any.
    fn remove(&mut self, topic: &str) -> bool {
        self.due.remove(topic).is_some()
    }

    /// The next topic that is due, or one too many.
    fn pop(&mut self, now: Nanos) -> Option<Box<str>> {
        while let Some((due, _)) = self.queue.front()
            && (*due <= now || self.queue.len() > TOPICS_VACATED_MAX)
            && let Some((due, topic)) = self.queue.pop_front()
        {
            if self.due.get(&topic) == Some(&due) {
                self.due.remove(&topic);
                return Some(topic);
            }
        }
        None
    }
}

impl TopicEvents {
    /// A member list has changed.
    pub(super) fn note_member(&mut self, topic: &str, client: ClientId, profile: &str, joined: bool) {
        let (topic, profile) = (topic.into(), profile.into());
        self.members.push(MemberChange { topic, client, profile, joined });
    }

    /// When they are told at the latest.
    pub(super) fn due(&self) -> Option<Nanos> {
        if !self.members.is_empty() { Some(0) } else { self.vacated.queue.front().map(|(due, _)| *due) }
    }

    /// In the place of others, whose vacated topics are not told yet.
    pub(super) fn instead_of(before: Option<Box<TopicEvents>>) -> TopicEvents {
        let vacated = before.map(|before| before.vacated).unwrap_or_default();
        TopicEvents { vacated, ..TopicEvents::default() }
    }

    /// Tells them. A topic without subscribers is told at once if `is_last`.
    pub(super) fn tell(&mut self, webhooks: &Webhooks, sequencer: &mut Sequencer, now: Nanos, is_last: bool) {
        let TopicEvents { members, vacated, .. } = self;
        let changes = sequencer.topics.take_changes();
        for (topic, is_occupied) in changes.occupied {
            match is_occupied {
                true if vacated.remove(&topic) => {}
                true => webhooks.tell(&WebhookEvent::TopicOccupied { topic: &topic }, None),
                false => vacated.push(topic, now + TOPIC_VACATED_DELAY),
            }
        }
        while let Some(topic) = vacated.pop(if is_last { Nanos::MAX } else { now }) {
            webhooks.tell(&WebhookEvent::TopicVacated { topic: &topic }, None);
        }
        for (topic, reason) in changes.histories_lost {
            webhooks.tell(&WebhookEvent::HistoryLost { topic: Some(&topic), reason }, None);
        }
        for MemberChange { topic, client, profile, joined } in members.drain(..) {
            let client = client.to_string();
            let identity = Some(Profile(&profile).subject()).filter(|subject| !subject.is_empty());
            let member = WebhookMember { topic: &topic, client: &client, identity };
            let event =
                if joined { WebhookEvent::MemberJoined(member) } else { WebhookEvent::MemberLeft(member) };
            webhooks.tell(&event, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_is_occupied_again_in_time_was_not_vacated() {
        let mut vacated = Vacated::default();
        vacated.push("a".into(), 5);
        vacated.push("b".into(), 6);
        assert!(vacated.remove("a") && !vacated.remove("a") && !vacated.remove("c"));
        vacated.push("a".into(), 7);
        assert_eq!(vacated.pop(5), None);
        assert_eq!(vacated.pop(6).as_deref(), Some("b"), "the earlier time of a does not count");
        assert_eq!((vacated.pop(6), vacated.pop(7).as_deref()), (None, Some("a")));
        assert!(vacated.due.is_empty() && vacated.queue.is_empty());
    }

    #[test]
    fn only_so_many_topics_wait() {
        let mut vacated = Vacated::default();
        for number in 0..=TOPICS_VACATED_MAX {
            vacated.push(format!("{number}").into(), 9);
        }
        assert_eq!(vacated.pop(0).as_deref(), Some("0"));
        assert_eq!(vacated.pop(0), None);
    }
}
