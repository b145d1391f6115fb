//! Mail in the forward lanes to other shards.

use std::collections::VecDeque;

use echoring_runtime::shard::{Lane, Mailboxes};
use echoring_topics::{Passed, TopicId};

use super::shard_mail::{OrderedMessage, ShardMail};

/// Posts mail in order. Callers check the room of the lanes before they cause mail. A message of another node may cause
/// more mail than a lane has room for: the rest waits here, and no further message is taken meanwhile.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    waiting: VecDeque<(usize, ShardMail, Vec<u8>)>,
    pub(super) passed: Passed,
}

impl Forwards {
    /// Whether no mail waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Posts mail to another shard, or to one of another process.
    #[inline]
    pub(super) fn post(
        &mut self,
        mailboxes: &mut Mailboxes<ShardMail>,
        to: usize,
        mail: ShardMail,
        bytes: &[&[u8]],
    ) {
        let has_posted =
            self.waiting.is_empty() && mailboxes.post(to, Lane::Forward, mail.clone(), bytes).is_ok();
        // A shard of another process may have ended.
        if !has_posted && to < mailboxes.shards() {
            self.waiting.push_back((to, mail, bytes.concat()));
        }
    }

    /// Posts waiting mail, as far as there is room.
    pub(super) fn post_waiting(&mut self, mailboxes: &mut Mailboxes<ShardMail>) {
        while let Some((to, mail, bytes)) = self.waiting.front()
            && mailboxes.post(*to, Lane::Forward, mail.clone(), &[bytes]).is_ok()
        {
            self.waiting.pop_front();
        }
    }

    /// Forwards a message to every other shard of `shards`. Returns the topic on this shard, if it is among them.
    #[inline]
    pub(super) fn deliver(
        &mut self,
        mailboxes: &mut Mailboxes<ShardMail>,
        shards: &[(usize, TopicId)],
        message: &OrderedMessage<'_>,
    ) -> Option<TopicId> {
        let OrderedMessage { publisher: &publisher, offset, publication } = *message;
        let (head, key, [author, tags, payload]) = (publication.head(), publication.key, publication.body());
        let (key_bytes, parts) = (key.len() as u8, [key.as_bytes(), author, tags, payload]);
        let mail = |local| ShardMail::Deliver { local, publisher, offset, head, key_bytes };
        let (local, posted) = self.forward(mailboxes, shards, mail, &parts);
        self.passed.messages_out += posted;
        local
    }

    /// Posts mail to every other shard of `shards`. Returns the topic on this shard, if it is among them, and the number of
    /// messages posted.
    #[inline]
    pub(super) fn forward(
        &mut self,
        mailboxes: &mut Mailboxes<ShardMail>,
        shards: &[(usize, TopicId)],
        mail: impl Fn(TopicId) -> ShardMail,
        bytes: &[&[u8]],
    ) -> (Option<TopicId>, u64) {
        let (mut here, mut posted) = (None, 0);
        for &(shard, local) in shards {
            if shard == mailboxes.shard() {
                here = Some(local);
                continue;
            }
            self.post(mailboxes, shard, mail(local), bytes);
            posted += 1;
        }
        (here, posted)
    }
}
