//! The members of the cluster that have other settings of topics than this node, or another key, and when an operator is told.

use std::collections::BTreeMap;

use echoring_cluster::NodeId;
use echoring_proto::limits::Nanos;

use crate::limits::CLUSTER_SETTINGS_DIFFER_MAX;

/// The members that differ.
#[derive(Debug, Default)]
pub(super) struct Disagreements(BTreeMap<NodeId, Disagreement>);

#[derive(Debug, Default)]
struct Disagreement {
    /// Since when the settings have been others, if they are.
    settings: Option<Nanos>,
    has_told_settings: bool,
    has_told_key: bool,
}

/// The log's state of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Its settings have been others for longer than they may be while a change is rolled out.
    Settings,
    /// They differed earlier, and no longer do.
    SameSettings,
    /// Its key is another.
    Key,
}

impl Disagreements {
    /// Whether a member's settings, and whether its key, are others now.
    pub(super) fn note(&mut self, node: NodeId, differs: (bool, bool), now: Nanos) -> Option<Notice> {
        let (settings, key) = differs;
        if !settings && !key {
            let was_told = self.0.remove(&node).is_some_and(|known| known.has_told_settings);
            return was_told.then_some(Notice::SameSettings);
        }
        let known = self.0.entry(node).or_default();
        known.settings = settings.then(|| known.settings.unwrap_or(now));
        if key && !std::mem::replace(&mut known.has_told_key, true) {
            return Some(Notice::Key);
        }
        let is_late = known.settings.is_some_and(|since| since + CLUSTER_SETTINGS_DIFFER_MAX <= now);
        (is_late && !std::mem::replace(&mut known.has_told_settings, true)).then_some(Notice::Settings)
    }

    /// A node is no longer a member.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.0.remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(7);
    const MAX: Nanos = CLUSTER_SETTINGS_DIFFER_MAX;

    #[test]
    fn settings_may_differ_while_a_change_is_rolled_out_and_are_told_once_after_that() {
        let mut all = Disagreements::default();
        for (now, differs, notice) in [
            (0, false, None),
            (5, true, None),
            (MAX, true, None),
            // In time.
            (MAX + 1, false, None),
            (MAX + 2, true, None),
            (2 * MAX + 1, true, None),
            (2 * MAX + 2, true, Some(Notice::Settings)),
            (5 * MAX, true, None),
            (5 * MAX + 1, false, Some(Notice::SameSettings)),
            (5 * MAX + 2, false, None),
            (5 * MAX + 3, true, None),
            (6 * MAX + 3, true, Some(Notice::Settings)),
        ] {
            assert_eq!(all.note(NODE, (differs, false), now), notice, "at {now}");
        }
        all.forget(NODE);
        assert_eq!(all.note(NODE, (true, false), 7 * MAX), None, "another run of the node");
    }

    #[test]
    fn another_key_is_told_at_once_and_hides_nothing() {
        let mut all = Disagreements::default();
        assert_eq!(all.note(NODE, (true, true), 1), Some(Notice::Key));
        assert_eq!(all.note(NODE, (true, true), 2), None);
        assert_eq!(all.note(NODE, (true, true), 1 + MAX), Some(Notice::Settings));
        assert_eq!(all.note(NODE, (true, true), 2 + MAX), None);
    }
}
