//! Changes of the members of topics, gathered until they are told: a client that joins and leaves meanwhile costs the others nothing, and one
//! that leaves and returns is told once, with the number that its new subscription may have missed.

use std::collections::{BTreeMap, BTreeSet};

use echoring_proto::limits::Nanos;
use echoring_topics::{ClientId, OwnedTopicId, Subscribed};

/// Changes of the members of topics that are not told yet. Never more than one of a client.
#[derive(Debug, Default)]
pub(super) struct PresenceChanges {
    topics: BTreeMap<OwnedTopicId, TopicChanges>,
    /// When each topic is due.
    due: BTreeSet<(Nanos, OwnedTopicId)>,
}

/// Those of a topic, of which there are some.
#[derive(Debug, Default)]
struct TopicChanges {
    due: Nanos,
    /// In the order in which their clients have changed first.
    of: BTreeMap<u64, (ClientId, Change)>,
    numbers: BTreeMap<ClientId, u64>,
    noted: u64,
    /// By how much they change the number of members.
    net: i64,
    /// A subscriber has got a list that may show them, so each is told, even if the client is gone again.
    is_listed: bool,
}

/// What has become of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Whether it was a member, as far as others know.
    pub(super) was_member: bool,
    /// Its subject as a member, or as the member that it was last.
    pub(super) subject: Box<str>,
    /// Whether it is a member.
    pub(super) joined: bool,
}

impl Change {
    fn net(&self) -> i64 {
        i64::from(self.joined) - i64::from(self.was_member)
    }

    fn is_none(&self) -> bool {
        !self.was_member && !self.joined
    }
}

impl PresenceChanges {
    /// When the next ones are to be told.
    pub(super) fn due(&self) -> Option<Nanos> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Whether changes of a topic wait.
    pub(super) fn has(&self, topic: OwnedTopicId) -> bool {
        self.topics.contains_key(&topic)
    }

    /// By how much the changes that are left change the number of members of a topic.
    pub(super) fn net(&self, topic: OwnedTopicId) -> i64 {
        self.topics.get(&topic).map_or(0, |topic| topic.net)
    }

    /// The answer to a shard that subscribes, with the number of members that other subscribers know. The changes that are left correct it.
    pub(super) fn subscribed(&self, subscribed: Subscribed) -> Subscribed {
        let present = subscribed.present.saturating_add_signed(-self.net(subscribed.id));
        Subscribed { present, ..subscribed }
    }

    /// A subscriber gets the list of a topic's members, which shows these changes.
    pub(super) fn note_listed(&mut self, topic: OwnedTopicId) {
        if let Some(changes) = self.topics.get_mut(&topic) {
            changes.is_listed = true;
        }
    }

    /// A client with this subject joins or leaves. It is told from `due` on, or with earlier changes of the topic.
    pub(super) fn note(
        &mut self,
        (topic, client): (OwnedTopicId, ClientId),
        subject: Box<str>,
        joined: bool,
        due: Nanos,
    ) {
        let changes = self.topics.entry(topic).or_insert_with(|| {
            self.due.insert((due, topic));
            TopicChanges { due, ..TopicChanges::default() }
        });
        changes.note(client, subject, joined);
        self.drop_if_empty(topic);
    }

    /// The next client with a change, of a topic that is due.
    pub(super) fn take(&mut self, now: Nanos) -> Option<((OwnedTopicId, ClientId), Change)> {
        let topic = self.due.first().filter(|(due, _)| *due <= now)?.1;
        let changes = self.topics.get_mut(&topic)?;
        let (_, (client, change)) = changes.of.pop_first()?;
        changes.numbers.remove(&client);
        changes.net -= change.net();
        self.drop_if_empty(topic);
        Some(((topic, client), change))
    }

    fn drop_if_empty(&mut self, topic: OwnedTopicId) {
        if let Some(changes) = self.topics.get(&topic).filter(|changes| changes.of.is_empty()) {
            self.due.remove(&(changes.due, topic));
            self.topics.remove(&topic);
        }
    }
}

impl TopicChanges {
    fn note(&mut self, client: ClientId, subject: Box<str>, joined: bool) {
        let number = *self.numbers.entry(client).or_insert(self.noted);
        self.noted += 1;
        let change = match self.of.remove(&number) {
            Some((_, known)) => {
                self.net -= known.net();
                Change { subject, joined, ..known }
            }
            None => Change { was_member: !joined, subject, joined },
        };
        if self.is_listed || !change.is_none() {
            self.net += change.net();
            self.of.insert(number, (client, change));
        } else {
            self.numbers.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever clients do meanwhile, the notices turn the known list into the present one, also that of a subscriber who got it meanwhile.
        #[test]
        fn what_is_told_is_what_has_changed(
            before in prop::collection::vec(prop::option::of("[ab]"), 3),
            changes in prop::collection::vec((0_usize..3, prop::option::of("[ab]")), 0..40),
            listed_at in prop::option::of(0_usize..40),
        ) {
            let owned = OwnedTopicId { index: 1, generation: 1 };
            let member = |client: usize| (owned, ClientId::local(client as u64 + 1));
            let (mut list, mut told) = (before.clone(), PresenceChanges::default());
            let mut listed = None;
            for (step, (client, now)) in changes.into_iter().enumerate() {
                if listed_at == Some(step) {
                    told.note_listed(owned);
                    listed = Some(list.clone());
                }
                // As lists do: nothing is noted of who moves, or is not listed.
                if now.is_some() == list[client].is_some() {
                    continue;
                }
                let subject = now.clone().or_else(|| list[client].clone()).expect("before or now");
                told.note(member(client), subject.into(), now.is_some(), 0);
                list[client] = now;
            }
            let mut known = before;
            let present = |list: &[Option<String>]| list.iter().flatten().count() as i64;
            prop_assert_eq!(told.net(owned), present(&list) - present(&known));
            while let Some(((_, client), change)) = told.take(0) {
                let client = client.number as usize - 1;
                prop_assert_eq!(known[client].is_some(), change.was_member);
                prop_assert!(listed.is_some() || !change.is_none(), "no notice about a client that came and went");
                known[client] = change.joined.then(|| change.subject.into());
                if let Some(listed) = &mut listed {
                    listed[client].clone_from(&known[client]);
                }
                prop_assert_eq!(present(&list) - told.net(owned), present(&known), "the count with each notice is its own");
            }
            prop_assert_eq!(&known, &list);
            prop_assert_eq!(listed.unwrap_or(known), list);
            prop_assert!(told.topics.is_empty() && told.due.is_empty());
        }
    }

    #[test]
    fn topics_are_told_when_they_are_due_and_clients_in_the_order_of_their_changes() {
        let topic = |index| OwnedTopicId { index, generation: 1 };
        let member = |index, client| (topic(index), ClientId::local(client));
        let mut told = PresenceChanges::default();
        for (index, client, due) in [(1, 9, 20), (2, 5, 10), (1, 3, 5), (1, 7, 5)] {
            told.note(member(index, client), "".into(), true, due);
        }
        // One that has come and gone is not told, nor is its place kept.
        told.note(member(1, 3), "".into(), false, 5);
        told.note(member(3, 1), "".into(), true, 1);
        told.note(member(3, 1), "".into(), false, 1);
        let next = |told: &mut PresenceChanges, now| told.take(now).map(|(member, _)| member);
        assert_eq!((told.due(), next(&mut told, 9)), (Some(10), None));
        assert_eq!((next(&mut told, 10), next(&mut told, 10)), (Some(member(2, 5)), None));
        assert_eq!((next(&mut told, 20), next(&mut told, 20)), (Some(member(1, 9)), Some(member(1, 7))));
        assert!(told.topics.is_empty() && told.due.is_empty());
    }
}
