//! Changes of topics of which others than their subscribers are told. They are collected only if somebody wants them.

use std::collections::BTreeMap;

/// Changes of the topics of an owner shard.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TopicChanges {
    /// The topics that have subscribers now, or none any more, in order. A topic may occur several times.
    pub occupied: Vec<(Box<str>, bool)>,
    /// The topics whose kept messages are lost, and why: for lack of `memory`, because they continue in another `epoch`, or because
    /// this node has `skipped` messages of their owner.
    pub histories_lost: BTreeMap<Box<str>, &'static str>,
}

pub(super) fn note_occupied(changes: &mut Option<Box<TopicChanges>>, name: &str, is_occupied: bool) {
    if let Some(changes) = changes {
        changes.occupied.push((name.into(), is_occupied));
    }
}

pub(super) fn note_lost(changes: &mut Option<Box<TopicChanges>>, name: &str, reason: &'static str) {
    if let Some(changes) = changes {
        changes.histories_lost.insert(name.into(), reason);
    }
}
