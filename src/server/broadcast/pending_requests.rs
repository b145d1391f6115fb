//! Requests to other shards that wait for room in a mailbox.

use std::collections::VecDeque;

use echoring_runtime::shard::{Lane, Mailboxes};

use super::shard_mail::ShardMail;

/// Requests in the order in which they were made. Callers check the bound before they add one.
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
    /// The name of the topic to subscribe to; empty for other mail.
    name: Box<str>,
}

impl PendingRequests {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Posts a request to another shard: at once unless others wait.
    pub(super) fn add(
        &mut self,
        mailboxes: &mut Mailboxes<ShardMail>,
        shard: usize,
        mail: ShardMail,
        name: &str,
    ) {
        self.queue.push_back(PendingRequest { shard, mail, name: name.into() });
        // Earlier requests are tried again at the end of the tick.
        if self.queue.len() == 1 {
            self.post(mailboxes);
        }
    }

    /// Adds a request without posting it. It may be for this shard itself.
    pub(super) fn push(&mut self, shard: usize, mail: ShardMail) {
        self.queue.push_back(PendingRequest { shard, mail, name: Box::default() });
    }

    /// Posts the requests for other shards as far as there is room. The requests to one shard stay in order; a full mailbox
    /// does not delay those to another shard.
    pub(super) fn post(&mut self, mailboxes: &mut Mailboxes<ShardMail>) {
        let PendingRequests { queue, full } = self;
        full.clear();
        full.push(mailboxes.shard());
        queue.retain(|PendingRequest { shard, mail, name }| {
            if full.contains(shard) {
                return true;
            }
            let posted = mailboxes.post(*shard, Lane::Request, mail.clone(), &[name.as_bytes()]);
            if posted.is_err() {
                full.push(*shard);
            }
            posted.is_err()
        });
    }

    /// Takes the first request for this shard itself.
    pub(super) fn take_for(&mut self, shard: usize) -> Option<ShardMail> {
        let index = self.queue.iter().position(|request| request.shard == shard)?;
        self.queue.remove(index).map(|request| request.mail)
    }
}
