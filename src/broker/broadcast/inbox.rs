//! Takes mail from other shards.

use super::Broadcast;
use super::events::PresenceChange;
use super::following::stream_pages::{ConnectionReader, WantedPage};
use super::presence::MembershipChange;
use super::publish::refused_of_closed;
use super::shard_mail::{OrderedMessage, PublishResult, Publisher, ShardMail};
use crate::peer::Context;
use crate::publications::{TopicPublication, split_text};
use echoring_topics::{Page, Profile, Publication, Refused, Replay};

impl Broadcast {
    /// Takes one message of the shard `from`.
    pub fn mail(&mut self, cx: &mut Context<'_>, from: usize, mail: ShardMail, bytes: &[u8]) {
        if self.breaks_order(cx.shards(), from, &mail) {
            tracing::error!("the successor's messages are out of order; leaving it");
            return self.lose_far_shards(cx);
        }
        self.take(cx, from, mail, bytes);
    }

    fn take(&mut self, cx: &mut Context<'_>, from: usize, mail: ShardMail, bytes: &[u8]) {
        match mail {
            ShardMail::Subscribe { local, creator } => {
                let Ok(name) = std::str::from_utf8(bytes) else { return };
                let answer = self.sequencer.subscribe(name, creator, from, local, cx.pool());
                let Some(answer) = answer else { return };
                let answer = answer.map(|subscribed| self.presence_changes.subscribed(subscribed));
                self.answer(cx, from, ShardMail::Subscribed { local, answer }, &[]);
            }
            ShardMail::Subscribed { local, answer } => self.subscribed(cx, from, local, answer),
            ShardMail::Unsubscribe { owned, local } => {
                let now = cx.now();
                self.sequencer.unsubscribe(owned, from, local, now, cx.pool());
                self.answer(cx, from, ShardMail::Unsubscribed { local }, &[]);
            }
            ShardMail::Unsubscribed { local } => self.subscriptions.forget_left(local),
            ShardMail::Publish { publisher, head } => {
                let Some(message) = head.read(bytes) else { return };
                self.publish_for_shard(cx, publisher, &message);
            }
            ShardMail::PublishResult { publisher, result } => self.result(cx, &publisher, result, bytes),
            ShardMail::Deliver { local, publisher, offset, head, key_bytes } => {
                self.sequencer.forwards.passed.messages_in += 1;
                let publication =
                    split_text(bytes, key_bytes).and_then(|(key, body)| Publication::read(head, key, body));
                let Some(publication) = publication else { return };
                self.deliver(cx, local, &OrderedMessage { publisher: &publisher, offset, publication });
            }
            ShardMail::ReplayRequest { owned, local, token, from: replay } => {
                let reader = ConnectionReader { shard: from, local, token };
                self.answer_replay(cx, reader, WantedPage { owned, from: replay });
            }
            ShardMail::ReplayPage { local, token, from, page } => {
                let Some(mut link) = cx.link(token).filter(|link| link.is_open()) else { return };
                self.replay_page(&mut link, local, from, page, bytes);
            }
            ShardMail::MembersRequest { owned, local, query } => {
                let bytes_max = self.sequencer.mail_bytes_max();
                let (members, page) =
                    self.sequencer.members(owned, query, &mut self.presence_changes, bytes_max);
                self.answer(cx, from, ShardMail::MembersPage { local, query, members }, &[&page]);
            }
            ShardMail::MembersPage { local, query, members } => {
                let Some(mut link) = cx.link(query.token).filter(|link| link.is_open()) else { return };
                self.members_page(&mut link, local, query, members, bytes);
            }
            mail @ (ShardMail::Presence { .. }
            | ShardMail::PresenceChanged { .. }
            | ShardMail::PresenceSince { .. }
            | ShardMail::PresenceMissed { .. }) => self.take_presence_mail(cx, from, mail, bytes),
            ShardMail::Fence { round } => self.answer_fence(cx, from, round),
            ShardMail::Fenced { round } => self.fence.count(round),
            ShardMail::Interrupted { local, position } => self.interrupted(cx, local, position),
            ShardMail::DrainStageOver(stage) => self.drain.count(stage),
            ShardMail::Stopped { round } => self.shard_stopped(cx, round),
        }
    }

    /// Takes mail about the members of a topic.
    fn take_presence_mail(&mut self, cx: &mut Context<'_>, from: usize, mail: ShardMail, bytes: &[u8]) {
        match mail {
            ShardMail::Presence { owned, client, joined } => {
                let Ok(profile) = std::str::from_utf8(bytes) else { return };
                let (joined, is_far) = (joined.then_some(profile), from >= cx.shards());
                let change = MembershipChange { client, joined, is_far };
                self.change_presence(owned, &change);
            }
            ShardMail::PresenceChanged { local, client, joined, count } => {
                let Ok(profile) = std::str::from_utf8(bytes) else { return };
                let change = PresenceChange { client, profile: Profile(profile), joined, count };
                self.presence_changed(&mut cx.resources(), local, &change);
            }
            ShardMail::PresenceSince { owned, local, token, since }
                if self.has_told_presence_since(owned, since) =>
            {
                self.answer(cx, from, ShardMail::PresenceMissed { local, token }, &[]);
            }
            ShardMail::PresenceMissed { local, token } => {
                if let Some(mut link) = cx.link(token).filter(|link| link.is_open()) {
                    self.presence_missed(&mut link, local);
                }
            }
            _ => {}
        }
    }

    /// Tells a publisher the result of its publication to the topic of this name.
    fn result(&mut self, cx: &mut Context<'_>, publisher: &Publisher, result: PublishResult, name: &[u8]) {
        let Ok(name) = std::str::from_utf8(name) else { return };
        if let Some(mut link) = cx.link(publisher.token) {
            self.sessions.acknowledge(&mut link, name, publisher, result);
        } else if let Err(refused) = result {
            refused_of_closed(name, refused);
        }
    }

    /// Sequences a publication of another shard.
    fn publish_for_shard(
        &mut self,
        cx: &mut Context<'_>,
        publisher: Publisher,
        message: &TopicPublication<'_>,
    ) {
        let Broadcast { sequencer, fan_out, .. } = self;
        sequencer.forwards.passed.publications_in += 1;
        if sequencer.stage(publisher, message).is_some() {
            return;
        }
        let (now, mut resources) = (cx.now(), cx.resources());
        let sequenced = sequencer.sequence(&mut resources, now, publisher, message);
        let result =
            sequencer.deliver_here(fan_out, &mut resources, &publisher, sequenced, message.publication);
        if sequencer.wants_result(message.topic, &publisher, sequenced) {
            let mail = ShardMail::PublishResult { publisher, result };
            self.answer(cx, usize::from(publisher.shard), mail, &[message.topic.as_bytes()]);
        }
    }

    fn answer_replay(&mut self, cx: &mut Context<'_>, reader: ConnectionReader, wanted: WantedPage) {
        let now = cx.now();
        if let Some((page, bytes)) = self.sequencer.history_for(reader, wanted, now, cx.pool()) {
            self.answer_reader(cx, reader, wanted.from, page, &bytes);
        }
    }

    /// Posts the page of history that begins at `from` to the shard of its reader.
    pub(super) fn answer_reader(
        &mut self,
        cx: &mut Context<'_>,
        reader: ConnectionReader,
        from: Replay,
        page: Result<Page, Refused>,
        bytes: &[u8],
    ) {
        let ConnectionReader { shard, local, token } = reader;
        self.answer(cx, shard, ShardMail::ReplayPage { local, token, from, page }, &[bytes]);
    }

    /// Posts the answer to a request. A request is only taken while there is room for its answer.
    pub(super) fn answer(&mut self, cx: &mut Context<'_>, to: usize, mail: ShardMail, bytes: &[&[u8]]) {
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
