//! Topics that this node orders in epochs of its own while the backbone is away, although others own them.
//!
//! This node is alone on its side of a partition then. Once the backbone is back, the topics are handed to their owners, which begin other
//! epochs: nobody knows what the subscribers of one side have missed of the other.

use std::collections::BTreeMap;

use super::{OwnerTable, Role, Shard};

impl OwnerTable {
    /// The backbone is away, or back.
    pub fn handle_away(&mut self, shard: &mut Shard<'_>, is_away: bool) {
        self.is_away = is_away;
        if is_away {
            self.leave_owners(shard);
        } else {
            self.return_topics();
            self.hand_over(shard);
        }
    }

    /// Orders the topics of owners that cannot be reached.
    fn leave_owners(&mut self, shard: &mut Shard<'_>) {
        let OwnerTable { topics, decided, .. } = self;
        let mut left = Vec::new();
        for (name, topic) in topics.iter_mut().filter(|(name, _)| shard.store.has_local_epochs(name)) {
            match topic.role {
                Role::Idle | Role::Asked(_) | Role::Live(_) => {}
                Role::Owner(_) | Role::Loading | Role::Receiving(_) => continue,
            }
            // What is on its way may arrive, or not.
            topic.outgoing.abandon(decided);
            topic.role = Role::Idle;
            left.push(name.clone());
        }
        left.iter().for_each(|name| self.drive(shard, name));
    }

    /// Begins an epoch of this node's own.
    pub(super) fn begin_local(&mut self, shard: &mut Shard<'_>, name: &str) {
        if !shard.store.begin_local(name) {
            return self.retry(shard, name);
        }
        let Some(topic) = self.topics.get_mut(name) else { return };
        (topic.role, topic.retry_at) = (Role::Owner(BTreeMap::new()), None);
        self.hold(shard, name);
        self.own_members(shard, name);
    }

    /// Has the topics of others move to their owners.
    fn return_topics(&mut self) {
        let OwnerTable { topics, view, node, leaving, .. } = self;
        let of_others = topics
            .iter()
            .filter(|(name, topic)| matches!(topic.role, Role::Owner(_)) && view.owner(name) != Some(*node));
        leaving.extend(of_others.map(|(name, _)| name.clone()));
        self.has_remembered = true;
        self.has_reports = !self.diverged.is_empty();
    }
}
