//! What shards send one another, taken as it comes.

use super::mail::{Message, Publisher, Wish};
use super::{Broadcast, MAIL_OVERHEAD_BYTES, PAGE_BYTES, answer_with, append, split_text};
use crate::buffer::Pool;
use crate::driver::Driver;
use crate::hub::{HomeId, Page, Position, Publication, Replay, TopicId};
use crate::limits::Nanos;
use crate::server::service::Service;
use crate::shard::{Context, Lane};

impl Broadcast {
    /// Whether a request may be taken: it may cause one message to every other shard.
    pub(in crate::server) fn takes_requests<D: Driver>(&self, cx: &Context<'_, D, Service>) -> bool {
        cx.all_have_room(Lane::Forward, self.message_bytes_max + MAIL_OVERHEAD_BYTES)
    }

    /// What a subscriber gets first of a topic that has its home here, about as much as goes with one message to
    /// another shard. The buffer is to be put back after use.
    pub(super) fn history(
        &mut self,
        home: HomeId,
        from: Replay,
        now: Nanos,
        pool: &mut Pool,
    ) -> (Option<Page>, Vec<u8>) {
        let mut page = std::mem::take(&mut self.page);
        page.clear();
        let bytes_max = PAGE_BYTES.min(self.message_bytes_max);
        let told = self.homes.history(home, from, bytes_max, now, pool, &mut page);
        (told, page)
    }

    pub(in crate::server) fn message<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        from: usize,
        message: Message,
        bytes: &[u8],
    ) {
        match message {
            Message::Subscribe { local } => {
                let Ok(name) = std::str::from_utf8(bytes) else { return };
                let answer = self.homes.subscribe(name, from, local, cx.pool());
                answer_with(cx, from, Message::Subscribed { local, answer }, &[]);
            }
            Message::Subscribed { local, answer } => self.subscribed(cx, local, answer),
            Message::Unsubscribe { home, local } => {
                let now = cx.now();
                self.homes.unsubscribe(home, from, local, now, cx.pool());
                answer_with(cx, from, Message::Unsubscribed { local }, &[]);
            }
            Message::Unsubscribed { local } => self.left.retain(|left| left.topic != local),
            Message::Publish { publisher, content, name_bytes, key_bytes, idempotency_bytes } => {
                let Some((name, rest)) = split_text(bytes, name_bytes) else { return };
                let Some((key, rest)) = split_text(rest, key_bytes) else { return };
                let Some((idempotency_key, payload)) = split_text(rest, idempotency_bytes) else { return };
                let publication = Publication { content, key, payload };
                self.publish_for_shard(cx, name, publisher, publication, idempotency_key);
            }
            Message::Published { publisher, verdict } => {
                let Ok(name) = std::str::from_utf8(bytes) else { return };
                if let Some(mut link) = cx.link(publisher.token) {
                    self.published(&mut link, name, &publisher, verdict);
                }
            }
            Message::Deliver { local, publisher, offset, content, key_bytes } => {
                self.passed.messages_in += 1;
                let Some((key, payload)) = split_text(bytes, key_bytes) else { return };
                self.deliver(cx, local, publisher, offset, Publication { content, key, payload });
            }
            Message::Recall { home, local, token, from: replay } => {
                let now = cx.now();
                let (told, page) = self.history(home, replay, now, cx.pool());
                let answer = Message::Recalled { local, token, from: replay, page: told };
                answer_with(cx, from, answer, &[&page]);
                self.page = page;
            }
            Message::Recalled { local, token, from, page } => {
                if let Some(mut link) = cx.link(token).filter(|link| link.is_open()) {
                    self.recalled(&mut link, local, from, page, bytes);
                }
            }
            Message::Members { home, local, query } => {
                let (told, page) = self.members(home, query);
                answer_with(cx, from, Message::MembersTold { local, query, told }, &[&page]);
                self.page = page;
            }
            Message::MembersTold { local, query, told } => {
                if let Some(mut link) = cx.link(query.token).filter(|link| link.is_open()) {
                    self.members_told(&mut link, local, query, told, bytes);
                }
            }
            Message::Presence { home, client, joined } => {
                self.spread_presence(&mut cx.means(), home, client, joined);
            }
            Message::Present { local, client, joined, count } => {
                self.present(&mut cx.means(), local, client, joined, count);
            }
            Message::Over(stage) => self.drain.count(stage),
            // The room's own.
            Message::Chat(_) => {}
        }
    }

    /// A message came from another shard to its topic's home.
    pub(super) fn publish_for_shard<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) {
        self.passed.publications_in += 1;
        let now = cx.now();
        let judged = self.judge(&mut cx.means(), now, name, publisher, publication, idempotency_key);
        let verdict = judged.map(|judged| judged.position);
        let wanted = match publisher.wish {
            Wish::Nothing => false,
            Wish::Refusal => verdict.is_err(),
            // Where the message goes, it is the answer.
            Wish::Answer(_) => {
                judged.is_ok_and(|judged| judged.again)
                    || verdict.is_err()
                    || !self.homes.forwards_to(name, usize::from(publisher.shard))
            }
        };
        if wanted {
            let message = Message::Published { publisher, verdict };
            answer_with(cx, usize::from(publisher.shard), message, &[name.as_bytes()]);
        }
    }

    /// The next message of a topic that has subscribers here.
    #[inline]
    pub(super) fn deliver<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        topic: TopicId,
        publisher: Publisher,
        offset: u64,
        publication: Publication<'_>,
    ) {
        let Broadcast { homes, topics, scratch, .. } = self;
        append(topics, homes, scratch, &mut cx.means(), topic, publisher, offset, publication);
        if let Wish::Answer(_) = publisher.wish
            && usize::from(publisher.shard) == cx.shard()
        {
            let mut name = self.name_of(topic);
            let epoch = match (self.subscription(topic), self.left.iter().find(|left| left.topic == topic)) {
                (Some(subscription), _) => subscription.epoch,
                (None, Some(left)) => {
                    name.push_str(&left.name);
                    left.epoch
                }
                (None, None) => return self.name = name,
            };
            if let Some(mut link) = cx.link(publisher.token) {
                self.published(&mut link, &name, &publisher, Ok(Position { epoch, offset }));
            }
            self.name = name;
        }
    }
}
