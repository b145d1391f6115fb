//! Requests to other shards that wait for room in a mailbox.

use std::collections::VecDeque;

use echoring_runtime::shard::{Lane, Mailboxes};

use super::sequencer::OrderedBy;
use super::shard_mail::ShardMail;

/// Requests in order. Callers check the bound before they add one.
#[derive(Debug, Default)]
pub(super) struct PendingRequests {
    queue: VecDeque<PendingRequest>,
    /// Shards whose mailbox is full, during one call of [`post`](PendingRequests::post).
    full: Vec<usize>,
}

#[derive(Debug)]
struct PendingRequest {
    shard: usize,
    mail: ShardMail,
    /// The name of the topic to subscribe to, or the subject that joins a topic; empty for other mail.
    text: Box<str>,
}

impl PendingRequests {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Adds a request without posting it. It may be for this shard itself.
    pub(super) fn push(&mut self, shard: usize, mail: ShardMail, text: &str) {
        self.queue.push_back(PendingRequest { shard, mail, text: text.into() });
    }

    /// Posts the requests for other shards, or for those of the successor, as far as there is room. The requests to one shard stay in
    /// order; a full mailbox does not delay those to another shard of this process. All requests to a successor stay in order.
    pub(super) fn post(&mut self, mailboxes: &mut Mailboxes<ShardMail>, ordered_by: OrderedBy) {
        let PendingRequests { queue, full } = self;
        full.clear();
        match ordered_by {
            OrderedBy::ThisProcess => full.push(mailboxes.shard()),
            OrderedBy::Nobody => return,
            OrderedBy::FarShards => {}
        }
        queue.retain(|PendingRequest { shard, mail, text }| {
            if full.contains(shard) || (ordered_by == OrderedBy::FarShards && !full.is_empty()) {
                return true;
            }
            let bytes = [text.as_bytes()];
            let posted = match ordered_by {
                OrderedBy::FarShards => mailboxes.post_far(*shard, mail.clone(), &bytes),
                _ => mailboxes.post(*shard, Lane::Request, mail.clone(), &bytes),
            };
            if posted.is_err() {
                full.push(*shard);
            }
            posted.is_err()
        });
    }

    /// Takes the first request for this shard itself, and its text.
    pub(super) fn take_for(&mut self, shard: usize) -> Option<(ShardMail, Box<str>)> {
        let index = self.queue.iter().position(|request| request.shard == shard)?;
        self.queue.remove(index).map(|request| (request.mail, request.text))
    }

    /// Takes all requests for this shard itself, with their texts.
    pub(super) fn take_all_for(&mut self, shard: usize) -> Vec<(ShardMail, Box<str>)> {
        let (here, others): (VecDeque<_>, _) =
            std::mem::take(&mut self.queue).into_iter().partition(|request| request.shard == shard);
        self.queue = others;
        here.into_iter().map(|request| (request.mail, request.text)).collect()
    }

    /// Removes the fences: another one takes their place, or their owner shards order nothing any more.
    pub(super) fn forget_fences(&mut self) {
        self.queue.retain(|request| !matches!(request.mail, ShardMail::Fence { .. }));
    }

    /// No process can answer any more.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }
}
