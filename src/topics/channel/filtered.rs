//! The filters of the subscribers of a channel, and the tags of the messages in its log.
//!
//! Subscribers with filters are in channels of their own, so that those without pay nothing for them. Their messages are encoded once, as
//! any others; a filter is evaluated when its subscriber's cursor reaches a message.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::log::Sequence;
use super::tag_filter::TagFilter;
use crate::message::Tags;
use echoring_proto::buffer::{Pool, allocated_bytes};

#[derive(Debug, Default)]
pub(super) struct Filtered {
    /// By the index of the subscriber.
    filters: BTreeMap<u32, Arc<TagFilter>>,
    /// The tags of the messages in the log, by their numbers there.
    tags: VecDeque<(Sequence, Box<[u8]>)>,
    charged_bytes: usize,
}

fn bytes_of(tags: &[u8]) -> usize {
    let entry_bytes = 2 * size_of::<(Sequence, Box<[u8]>)>();
    entry_bytes + if tags.is_empty() { 0 } else { allocated_bytes(tags.len()) }
}

impl Filtered {
    pub(super) fn set(&mut self, index: u32, filter: Arc<TagFilter>) {
        self.filters.insert(index, filter);
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.filters.remove(&index);
    }

    /// Keeps the tags of the message that becomes the frame `at` of the log, which begins at `start`. False if there is no memory for
    /// them.
    pub(super) fn note(&mut self, pool: &mut Pool, at: Sequence, tags: Tags<'_>, start: Sequence) -> bool {
        self.forget_before(start, pool);
        let bytes = bytes_of(tags.as_bytes());
        if !pool.charge(bytes) {
            return false;
        }
        self.charged_bytes += bytes;
        self.tags.push_back((at, tags.as_bytes().into()));
        true
    }

    /// The message was not appended.
    pub(super) fn forget_latest(&mut self, pool: &mut Pool) {
        if let Some((_, tags)) = self.tags.pop_back() {
            self.discharge(bytes_of(&tags), pool);
        }
    }

    fn forget_before(&mut self, start: Sequence, pool: &mut Pool) {
        while self.tags.front().is_some_and(|(at, _)| *at < start)
            && let Some((_, tags)) = self.tags.pop_front()
        {
            self.discharge(bytes_of(&tags), pool);
        }
    }

    fn discharge(&mut self, bytes: usize, pool: &mut Pool) {
        self.charged_bytes -= bytes;
        pool.discharge(bytes);
    }

    /// Whether a subscriber is sent the frame `at`. Events are sent to all.
    pub(super) fn passes(&self, index: u32, at: Sequence) -> bool {
        let found = self.tags.binary_search_by_key(&at, |(at, _)| *at);
        let tags = found.ok().and_then(|found| self.tags.get(found));
        let Some(((_, tags), filter)) = tags.zip(self.filters.get(&index)) else { return true };
        filter.matches(Tags::new(tags))
    }

    /// Returns the memory.
    pub(super) fn release(&mut self, pool: &mut Pool) {
        pool.discharge(std::mem::take(self).charged_bytes);
    }
}
