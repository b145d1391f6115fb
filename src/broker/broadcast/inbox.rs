//! Takes mail from other shards.

use super::Broadcast;
use super::cluster::ConnectionReader;
use super::presence::PresenceChange;
use super::publish::refused_of_closed;
use super::shard_mail::{PublishResult, Publisher, ShardMail};
use crate::peer::Context;
use echoring_runtime::driver::{Driver, Token};
use echoring_topics::{Content, OwnedTopicId, Page, Publication, Refused, Replay, TopicId};

impl Broadcast {
    /// Takes one message of the shard `from`.
    pub fn mail<D: Driver>(&mut self, cx: &mut Context<'_, D>, from: usize, mail: ShardMail, bytes: &[u8]) {
        if self.breaks_order(cx.shards(), from, &mail) {
            tracing::error!("the successor's messages are out of order; leaving it");
            return self.lose_successor(cx);
        }
        self.take(cx, from, mail, bytes);
    }

    fn take<D: Driver>(&mut self, cx: &mut Context<'_, D>, from: usize, mail: ShardMail, bytes: &[u8]) {
        match mail {
            ShardMail::Subscribe { local, creator } => {
                let Ok(name) = std::str::from_utf8(bytes) else { return };
                let answer = self.sequencer.subscribe(name, creator, from, local, cx.pool());
                let Some(answer) = answer else { return };
                self.answer(cx, from, ShardMail::Subscribed { local, answer }, &[]);
            }
            ShardMail::Subscribed { local, answer } => self.subscribed(cx, from, local, answer),
            ShardMail::Unsubscribe { owned, local } => {
                let now = cx.now();
                self.sequencer.unsubscribe(owned, from, local, now, cx.pool());
                self.answer(cx, from, ShardMail::Unsubscribed { local }, &[]);
            }
            ShardMail::Unsubscribed { local } => self.subscriptions.forget_left(local),
            ShardMail::Publish { publisher, content, name_bytes, key_bytes, idempotency_bytes } => {
                let lengths = [name_bytes, key_bytes, idempotency_bytes];
                self.publish_for_shard(cx, publisher, content, lengths, bytes);
            }
            ShardMail::PublishResult { publisher, result } => {
                self.result(cx, &publisher, result, bytes);
            }
            ShardMail::Deliver { local, publisher, offset, content, key_bytes } => {
                self.sequencer.passed.messages_in += 1;
                let Some((key, payload)) = split_text(bytes, key_bytes) else { return };
                self.deliver(cx, local, &publisher, offset, Publication { content, key, payload });
            }
            ShardMail::ReplayRequest { owned, local, token, from: replay } => {
                self.answer_replay(cx, from, owned, local, token, replay);
            }
            ShardMail::ReplayPage { local, token, from, page } => {
                let Some(mut link) = cx.link(token).filter(|link| link.is_open()) else { return };
                self.replay_page(&mut link, local, from, page, bytes);
            }
            ShardMail::MembersRequest { owned, local, query } => {
                let (members, page) = self.sequencer.members(owned, query);
                self.answer(cx, from, ShardMail::MembersPage { local, query, members }, &[&page]);
            }
            ShardMail::MembersPage { local, query, members } => {
                let Some(mut link) = cx.link(query.token).filter(|link| link.is_open()) else { return };
                self.members_page(&mut link, local, query, members, bytes);
            }
            ShardMail::Presence { owned, client, joined } => {
                let Ok(subject) = std::str::from_utf8(bytes) else { return };
                self.change_presence(&mut cx.resources(), owned, client, joined.then_some(subject));
            }
            ShardMail::PresenceChanged { local, client, joined, count } => {
                let Ok(subject) = std::str::from_utf8(bytes) else { return };
                let change = PresenceChange { client, subject, joined, count };
                self.presence_changed(&mut cx.resources(), local, &change);
            }
            ShardMail::Interrupted { local, position } => self.interrupted(cx, local, position),
            ShardMail::DrainStageOver(stage) => self.drain.count(stage),
            ShardMail::Frozen { round } => {
                self.handover.count(round);
                self.advance_freeze(cx);
            }
        }
    }

    /// Tells a publisher the result of its publication to the topic of this name.
    fn result<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        publisher: &Publisher,
        result: PublishResult,
        name: &[u8],
    ) {
        let Ok(name) = std::str::from_utf8(name) else { return };
        if let Some(mut link) = cx.link(publisher.token) {
            self.sessions.acknowledge(&mut link, name, publisher, result);
        } else if let Err(refused) = result {
            refused_of_closed(name, refused);
        }
    }

    /// Sequences a publication of another shard. `bytes` are the topic's name, the key, the idempotency key, each of its length, and the
    /// payload.
    fn publish_for_shard<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        publisher: Publisher,
        content: Content,
        [name_bytes, key_bytes, idempotency_bytes]: [u8; 3],
        bytes: &[u8],
    ) {
        let Some((name, rest)) = split_text(bytes, name_bytes) else { return };
        let Some((key, rest)) = split_text(rest, key_bytes) else { return };
        let Some((idempotency_key, payload)) = split_text(rest, idempotency_bytes) else { return };
        let publication = Publication { content, key, payload };
        self.sequencer.passed.publications_in += 1;
        if self.sequencer.stage(name, publisher, publication, idempotency_key).is_some() {
            return;
        }
        let (now, mut resources) = (cx.now(), cx.resources());
        let sequenced =
            self.sequencer.sequence(&mut resources, now, name, publisher, publication, idempotency_key);
        let result = self.append_sequenced(&mut resources, &publisher, sequenced, publication);
        if self.sequencer.wants_result(name, &publisher, sequenced) {
            let mail = ShardMail::PublishResult { publisher, result };
            self.answer(cx, usize::from(publisher.shard), mail, &[name.as_bytes()]);
        }
    }

    fn answer_replay<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        shard: usize,
        owned: OwnedTopicId,
        local: TopicId,
        token: Token,
        from: Replay,
    ) {
        let now = cx.now();
        let reader = ConnectionReader { shard, local, token };
        let read = self.sequencer.history_for(reader, owned, from, now, cx.pool());
        if let Some((page, bytes)) = read {
            self.answer_reader(cx, reader, from, page, &bytes);
        }
    }
}

impl Broadcast {
    /// Posts the page of history that begins at `from` to the shard of its reader.
    pub(super) fn answer_reader<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        reader: ConnectionReader,
        from: Replay,
        page: Result<Page, Refused>,
        bytes: &[u8],
    ) {
        let ConnectionReader { shard, local, token } = reader;
        self.answer(cx, shard, ShardMail::ReplayPage { local, token, from, page }, &[bytes]);
    }

    /// Posts the answer to a request. A request is only taken while there is room for its answer.
    pub(super) fn answer<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        to: usize,
        mail: ShardMail,
        bytes: &[&[u8]],
    ) {
        if to == cx.shard() {
            return self.mail(cx, to, mail, &bytes.concat());
        }
        self.sequencer.forwards.post(cx.resources().mailboxes, to, mail, bytes);
    }

    /// Whether the successor has ordered a message twice, or left one out. Nothing else that it sends can then be
    /// relied on.
    fn breaks_order(&self, here: usize, from: usize, mail: &ShardMail) -> bool {
        match *mail {
            ShardMail::Deliver { local, offset, .. } => from >= here && !self.is_next(local, offset),
            _ => false,
        }
    }
}

/// Splits a text of `text_bytes` from the front of `bytes`.
fn split_text(bytes: &[u8], text_bytes: u8) -> Option<(&str, &[u8])> {
    let (text, rest) = bytes.split_at_checked(usize::from(text_bytes))?;
    Some((std::str::from_utf8(text).ok()?, rest))
}
