//! Collects the changes of topics while somebody wants them.

use super::OwnedTopics;
use super::changes::{TopicChanges, note_occupied};
use crate::client::ClientId;

impl OwnedTopics {
    /// Collects changes from now on, or no longer.
    pub fn collect_changes(&mut self, is_on: bool) {
        match is_on {
            true => drop(self.changes.get_or_insert_default()),
            false => self.changes = None,
        }
    }

    /// Whether there are changes to take.
    pub fn has_changes(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| **changes != TopicChanges::default())
    }

    /// The changes since the last call.
    pub fn take_changes(&mut self) -> TopicChanges {
        self.changes.as_deref_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Notes that all topics lose their subscribers, because this node ends. Returns the members that they have.
    pub fn vacate_all(&mut self) -> Vec<(Box<str>, ClientId, Box<str>)> {
        let OwnedTopics { table, changes, .. } = self;
        let mut members = Vec::new();
        for owned in table.values().filter(|owned| !owned.shards.is_empty()) {
            note_occupied(changes, &owned.name, false);
            let of_topic = owned.members.iter();
            members.extend(of_topic.map(|(client, subject)| (owned.name.clone(), client, subject.into())));
        }
        members
    }
}
