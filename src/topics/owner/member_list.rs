//! The member list of a topic with presence.
//!
//! In a cluster the list has the members of all nodes. Then it is charged to the memory budget, and a member for which there is
//! no room is counted but not listed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;

use super::replay::{Members, append_member, member_bytes};
use crate::client::ClientId;
use crate::limits::{MEMBER_BYTES, PRESENCE_CHANGES_AT_ONCE, PRESENCE_INTERVAL};

/// The members of a topic, with the subjects of those that are authenticated.
#[derive(Debug, Default)]
pub(crate) struct MemberList {
    listed: BTreeMap<ClientId, Box<str>>,
    /// How many there are, if that is not the number of those that are listed.
    counted: Option<u64>,
    /// When subscribers were last told of a change.
    pub(crate) told_at: Nanos,
    /// The beginning of the present interval, and the changes that were told in it.
    interval: (Nanos, u32),
    charged_bytes: usize,
    /// The members that are clients of the predecessor of this process.
    far: BTreeSet<ClientId>,
}

impl MemberList {
    /// Number of members.
    pub(crate) fn count(&self) -> u64 {
        self.counted.unwrap_or(self.listed.len() as u64)
    }

    /// The number of members has another source.
    pub(crate) fn set_count(&mut self, count: u64) {
        self.counted = Some(count);
    }

    /// From when on subscribers may be told of further changes.
    pub(crate) fn tell_at(&self, now: Nanos) -> Nanos {
        let (since, told) = self.interval;
        if told < PRESENCE_CHANGES_AT_ONCE { now } else { now.max(since + PRESENCE_INTERVAL) }
    }

    /// Subscribers are told of a change.
    pub(crate) fn note_told(&mut self, now: Nanos) {
        if now >= self.interval.0 + PRESENCE_INTERVAL {
            self.interval = (now, 0);
        }
        self.interval.1 = self.interval.1.saturating_add(1);
        self.told_at = now;
    }

    /// A member has joined, with its subject, or left. Returns the subject.
    pub(crate) fn change(&mut self, client: ClientId, joined: Option<&str>) -> Box<str> {
        match joined {
            Some(subject) => {
                self.listed.insert(client, subject.into());
                subject.into()
            }
            None => {
                self.far.remove(&client);
                self.listed.remove(&client).unwrap_or_default()
            }
        }
    }

    /// Charges or discharges a change. False if it changes nothing, or if there is no memory for it.
    pub(crate) fn charge(&mut self, client: ClientId, joined: Option<&str>, pool: &mut Pool) -> bool {
        match (self.listed.get(&client), joined) {
            (None, Some(subject)) => {
                let bytes = MEMBER_BYTES + subject.len();
                let has_room = pool.charge_retained(bytes);
                self.charged_bytes += if has_room { bytes } else { 0 };
                has_room
            }
            (Some(subject), None) => {
                let bytes = (MEMBER_BYTES + subject.len()).min(self.charged_bytes);
                self.charged_bytes -= bytes;
                pool.discharge_history(bytes);
                true
            }
            (Some(_), Some(_)) | (None, None) => false,
        }
    }

    /// The subject of a client that is listed.
    pub(crate) fn subject(&self, client: ClientId) -> Option<&str> {
        self.listed.get(&client).map(|subject| &**subject)
    }

    /// Whether a client is listed.
    pub(crate) fn lists(&self, client: ClientId) -> bool {
        self.listed.contains_key(&client)
    }

    /// Those that are listed, with their subjects.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ClientId, &str)> {
        self.listed.iter().map(|(client, subject)| (*client, &**subject))
    }

    /// See [`members`](crate::OwnedTopics::members).
    pub(crate) fn read(
        &self,
        after: Option<ClientId>,
        most: usize,
        bytes_max: usize,
        page: &mut Vec<u8>,
    ) -> Members {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.listed.range((first, Bound::Unbounded)).peekable();
        let mut last = None;
        for _ in 0..most {
            let Some((client, subject)) = rest.peek() else { break };
            if last.is_some() && page.len() + member_bytes(subject) > bytes_max {
                break;
            }
            append_member(page, **client, subject);
            last = Some(**client);
            rest.next();
        }
        let next = last.filter(|_| rest.peek().is_some());
        let (count, listed) = (self.count(), self.listed.len() as u64);
        Members { count, next, unlisted: count.saturating_sub(listed) }
    }

    /// Sets whether a member is a client of the predecessor. In a cluster it may be listed later.
    pub(crate) fn set_far(&mut self, client: ClientId, is_far: bool) {
        match is_far {
            true => self.far.insert(client),
            false => self.far.remove(&client),
        };
    }

    /// Whether a member is a client of the predecessor.
    pub(crate) fn is_far(&self, client: ClientId) -> bool {
        self.far.contains(&client)
    }

    /// The members that are clients of the predecessor.
    pub(crate) fn far(&self) -> impl Iterator<Item = ClientId> {
        self.far.iter().copied()
    }

    /// Forgets everyone, and returns the memory.
    pub(crate) fn release(&mut self, pool: &mut Pool) {
        pool.discharge_history(self.charged_bytes);
        *self = MemberList::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::buffer::Budget;

    #[test]
    fn a_list_is_charged_for_its_members_and_counts_those_for_which_there_is_no_room() {
        let budget = Budget::new(64 * 1024);
        let mut pool = Pool::new(std::sync::Arc::clone(&budget));
        let mut list = MemberList::default();
        let ids = (1..).map(|number| ClientId { node: 7, number });
        let mut joined = 0;
        for client in ids {
            joined += 1;
            if !list.charge(client, Some("alice"), &mut pool) {
                break;
            }
            list.change(client, Some("alice"));
        }
        assert!((100..1_000).contains(&joined), "{joined}");
        list.set_count(joined);
        let told = list.read(None, 10, 1_000, &mut Vec::new());
        assert_eq!((told.count, told.unlisted), (joined, 1));
        let (first, unknown) = (ClientId { node: 7, number: 1 }, ClientId { node: 8, number: 1 });
        assert!(!list.charge(first, Some("alice"), &mut pool), "it is listed");
        assert!(!list.charge(unknown, None, &mut pool), "it is not listed");
        assert!(list.lists(first) && list.charge(first, None, &mut pool));
        list.change(first, None);
        assert!(list.charge(unknown, Some("bob"), &mut pool), "there is room again");
        list.change(unknown, Some("bob"));
        list.release(&mut pool);
        assert_eq!((list.count(), list.charged_bytes), (0, 0));
    }

    #[test]
    fn some_changes_are_told_at_once_in_each_interval() {
        let mut list = MemberList::default();
        let mut now = 5 * PRESENCE_INTERVAL;
        for _ in 0..3 {
            for _ in 0..PRESENCE_CHANGES_AT_ONCE {
                assert_eq!(list.tell_at(now), now);
                list.note_told(now);
            }
            assert_eq!(list.tell_at(now + 1), now + PRESENCE_INTERVAL);
            now += PRESENCE_INTERVAL;
        }
        assert_eq!(list.tell_at(now + 7), now + 7);
    }
}
