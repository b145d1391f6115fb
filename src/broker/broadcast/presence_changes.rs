//! Changes of the members of topics, gathered until the end of a tick: a client that leaves and returns costs the others nothing.

use std::collections::BTreeMap;

use echoring_topics::{ClientId, OwnedTopicId};

/// Changes of the members of the topics that this shard owns, to be reported.
#[derive(Debug, Default)]
pub(super) struct PresenceChanges(BTreeMap<(OwnedTopicId, ClientId), Membership>);

/// The subject of a client that was or is a member; `None` while it is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) before: Option<Box<str>>,
    pub(super) now: Option<Box<str>>,
}

impl PresenceChanges {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A client joins or leaves. `before` counts for its first change.
    pub(super) fn note(
        &mut self,
        member: (OwnedTopicId, ClientId),
        before: Option<Box<str>>,
        now: Option<Box<str>>,
    ) {
        self.0.entry(member).or_insert(Membership { before, now: None }).now = now;
    }

    /// The next client whose membership has changed.
    pub(super) fn take(&mut self) -> Option<((OwnedTopicId, ClientId), Membership)> {
        loop {
            let (member, change) = self.0.pop_first()?;
            if change.before != change.now {
                return Some((member, change));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever clients do in a tick, the notices turn the known list into the present one.
        #[test]
        fn what_is_told_of_a_tick_is_what_has_changed(
            before in prop::collection::vec(prop::option::of("[ab]"), 3),
            changes in prop::collection::vec((0_usize..3, prop::option::of("[ab]")), 0..40),
        ) {
            let owned = OwnedTopicId { index: 1, generation: 1 };
            let member = |client: usize| (owned, ClientId::local(client as u64 + 1));
            let (mut list, mut told) = (before.clone(), PresenceChanges::default());
            for (client, now) in changes {
                // As a list answers: that of who joins does not say who was there.
                let known = if now.is_none() { list[client].clone() } else { None };
                if now.is_some() && list[client].is_some() {
                    continue;
                }
                told.note(member(client), known.map(Into::into), now.clone().map(Into::into));
                list[client] = now;
            }
            let mut known = before;
            while let Some(((_, client), Membership { before, now })) = told.take() {
                let client = client.number as usize - 1;
                prop_assert_eq!(known[client].as_deref(), before.as_deref());
                prop_assert_ne!(&before, &now, "no notice about a client that has not changed");
                known[client] = now.map(Into::into);
            }
            prop_assert_eq!(known, list);
        }
    }
}
