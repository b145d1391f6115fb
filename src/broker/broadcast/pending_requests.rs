//! Requests to other shards that wait for room in a mailbox.

use std::collections::VecDeque;

use echoring_runtime::shard::{Lane, Mailboxes};

use super::shard_mail::ShardMail;

/// Requests in order. Callers check the bound before they add one.
#[derive(Debug, Default)]
pub(super) struct PendingRequests {
    queue: VecDeque<PendingRequest>,
    /// Shards whose mailbox is full, during one call of [`post`](PendingRequests::post).
    full: Vec<usize>,
    pub(super) route: RequestRoute,
}

/// Where requests are posted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RequestRoute {
    /// To the other shards of this process; those for this shard are taken.
    #[default]
    Lanes,
    /// Nowhere, for now.
    Held,
    /// To the shards of the successor.
    Bridge,
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

    /// Posts a request to another shard: at once unless others wait.
    pub(super) fn add(
        &mut self,
        mailboxes: &mut Mailboxes<ShardMail>,
        shard: usize,
        mail: ShardMail,
        text: &str,
    ) {
        self.queue.push_back(PendingRequest { shard, mail, text: text.into() });
        // Earlier requests are tried again at the end of the tick.
        if self.queue.len() == 1 {
            self.post(mailboxes);
        }
    }

    /// Adds a request without posting it. It may be for this shard itself.
    pub(super) fn push(&mut self, shard: usize, mail: ShardMail, text: &str) {
        self.queue.push_back(PendingRequest { shard, mail, text: text.into() });
    }

    /// Posts the requests for other shards as far as there is room. The requests to one shard stay in order; a full mailbox
    /// does not delay those to another shard.
    pub(super) fn post(&mut self, mailboxes: &mut Mailboxes<ShardMail>) {
        let PendingRequests { queue, full, route } = self;
        full.clear();
        match route {
            RequestRoute::Lanes => full.push(mailboxes.shard()),
            RequestRoute::Held => return,
            RequestRoute::Bridge => {}
        }
        queue.retain(|PendingRequest { shard, mail, text }| {
            if full.contains(shard) {
                return true;
            }
            let bytes = [text.as_bytes()];
            let posted = match route {
                RequestRoute::Bridge => mailboxes.post_far(*shard, mail.clone(), &bytes),
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
        if self.route != RequestRoute::Lanes {
            return None;
        }
        let index = self.queue.iter().position(|request| request.shard == shard)?;
        self.queue.remove(index).map(|request| (request.mail, request.text))
    }

    /// Takes all requests for this shard itself, with their texts.
    pub(super) fn take_all_for(&mut self, shard: usize) -> Vec<(ShardMail, Box<str>)> {
        let (here, others) =
            std::mem::take(&mut self.queue).into_iter().partition(|request| request.shard == shard);
        self.queue = others;
        let here: VecDeque<PendingRequest> = here;
        here.into_iter().map(|request| (request.mail, request.text)).collect()
    }

    /// No process can answer any more.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }
}
