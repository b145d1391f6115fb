//! What happens in each turn: deliveries, and what waits for room, for time, or for a peer that takes bytes again.

use super::encode::Told;
use super::mail::Message;
use super::sockets::{Fallen, Sockets};
use super::{Broadcast, CHECK, Chore, Held, RETRY, Subscriber, held_of};
use crate::buffer::Pool;
use crate::driver::{Driver, Token};
use crate::hub::{Position, Publication};
use crate::limits::Nanos;
use crate::protocol::CloseCode;
use crate::server::service::{Peer, Service};
use crate::server::v1::notice;
use crate::shard::{Context, Lane, Mailboxes, Means};

impl Broadcast {
    /// A connection's send was short: the whole frames at its end are taken back.
    pub(in crate::server) fn blocked<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, token: Token) {
        if self.drain.is_on() && !cx.is_open(token) {
            // It was told that it gets all of this, and will be offered nothing again.
            return;
        }
        let now = cx.now();
        while let Some((tag, unsent)) = cx.unsent_shared(token) {
            let all = cx.unsent_bytes(token) as usize == unsent;
            let (bytes, messages) = self.topics.take_back(tag, token, unsent, all, now);
            if bytes > 0 {
                let taken = cx.take_back(token, bytes, u64::from(messages));
                debug_assert!(taken, "one frame stays");
            }
            if bytes < unsent {
                break;
            }
        }
    }

    /// A subscriber takes bytes again.
    pub(in crate::server) fn writable<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>, token: Token) {
        let now = cx.now();
        match cx.peer(token) {
            Some(&mut Peer::Subscriber(Subscriber { member: Some(member), .. })) => {
                self.topics.catch_up(
                    member,
                    now,
                    &mut Sockets { cx, fallen: &mut self.fallen, stale: &mut self.stale },
                );
            }
            Some(Peer::Session(session)) => {
                let mut members = std::mem::take(&mut self.members);
                members.extend(session.members());
                if session.wants_roster() {
                    self.rostering.push(token);
                }
                for member in members.drain(..) {
                    self.topics.catch_up(
                        member,
                        now,
                        &mut Sockets { cx, fallen: &mut self.fallen, stale: &mut self.stale },
                    );
                }
                self.members = members;
                if let Some(mut link) = cx.link(token) {
                    self.recall_next(&mut link);
                }
            }
            _ => return,
        }
        self.note_stale(cx);
        self.drop_fallen(cx);
    }

    pub(in crate::server) fn turn_ended<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        self.now = cx.now();
        if !self.chores.is_empty() {
            self.do_chores_with(&mut cx.means());
        }
        let now = self.now;
        let checks = self.check_at <= now;
        if checks {
            self.refuse_overdue(cx);
            if self.sessions > 0 {
                self.tell_silent(cx);
            }
        }
        if self.topics.is_dirty() {
            self.topics.deliver(now, &mut Sockets { cx, fallen: &mut self.fallen, stale: &mut self.stale });
        }
        if checks {
            self.check_at = now + CHECK;
            self.topics
                .drop_laggards(now, &mut Sockets { cx, fallen: &mut self.fallen, stale: &mut self.stale });
            self.homes.expire(now, cx.pool());
            self.topics.expire(now, cx.pool());
        }
        self.note_stale(cx);
        self.drop_fallen(cx);
        // What is said here leaves with the turn. Before it were gone the topics' messages would find the way barred, and
        // no event would say that it has become clear: so they come first, and new ones in the next turn.
        if !self.held.is_empty() {
            self.post_held(cx);
        }
        for token in std::mem::take(&mut self.recalling) {
            if let Some(mut link) = cx.link(token) {
                self.recall_next(&mut link);
            }
        }
        for token in std::mem::take(&mut self.rostering) {
            if let Some(mut link) = cx.link(token) {
                self.push_roster(&mut link);
            }
        }
        if self.drain.is_on() {
            self.drain_on(cx);
        }
    }

    /// Those who have heard nothing for long are told that nothing was lost.
    pub(super) fn tell_silent<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        let mut silent = std::mem::take(&mut self.silent);
        self.topics.silent(self.now, &mut silent);
        for topic in silent.drain(..) {
            let offset = self.topics.offset(topic);
            let Broadcast { homes, topics, scratch, .. } = self;
            let say = |words: &mut Vec<u8>, name: &str| notice::heartbeat(words, name, offset);
            topics.append_notice(topic, cx.pool(), homes, &mut Told { scratch, say });
        }
        self.silent = silent;
    }

    pub(super) fn post_held<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        while let Some(held) = self.held.pop_front() {
            let Held { publisher, content, name_bytes, key_bytes, idempotency_bytes, ref buffer } = held;
            let (name, rest) = buffer.as_slice().split_at(name_bytes);
            let (key, rest) = rest.split_at(key_bytes);
            let (idempotency_key, payload) = rest.split_at(idempotency_bytes);
            let texts = [name, key, idempotency_key].map(std::str::from_utf8);
            let [Ok(name), Ok(key), Ok(idempotency_key)] = texts else { continue };
            let now = self.now;
            let publication = Publication { content, key, payload };
            let ordered = self.order(&mut cx.means(), now, name, publisher, publication, idempotency_key);
            let Ok(verdict) = ordered else { return self.held.push_front(held) };
            if let Some(mut link) = cx.link(publisher.token) {
                let stays = self.drain.is_on() && matches!(link.peer, Peer::Subscriber(_));
                if let Some(left) = held_of(link.peer) {
                    *left = left.saturating_sub(1);
                    if *left == 0 && !stays {
                        link.hold_up(false);
                    }
                }
                if let Some(verdict) = verdict {
                    self.published(&mut link, name, &publisher, verdict);
                }
            }
            cx.pool().put(held.buffer);
        }
    }

    /// Posts a request to another shard, at once where nothing waits before it.
    pub(super) fn add_chore(&mut self, mailboxes: &mut Mailboxes<Message>, shard: usize, message: Message) {
        self.chores.push_back(Chore { shard, message });
        // What waits already is tried again at the end of the turn.
        if self.chores.len() == 1 {
            self.do_chores(mailboxes);
        }
    }

    /// Posts what waits for room, to other shards: first in, first out to each of them, whatever waits for the others.
    pub(super) fn do_chores(&mut self, mailboxes: &mut Mailboxes<Message>) {
        let Broadcast { chores, topics, full, .. } = self;
        full.clear();
        full.push(mailboxes.shard());
        chores.retain(|Chore { shard, message }| {
            if full.contains(shard) {
                return true;
            }
            let name = match message {
                Message::Subscribe { local } => topics.name(*local).unwrap_or_default(),
                _ => "",
            };
            let posted = mailboxes.post(*shard, Lane::Request, message.clone(), &[name.as_bytes()]);
            if posted.is_err() {
                full.push(*shard);
            }
            posted.is_err()
        });
    }

    /// The same, and does what is to be done here.
    pub(super) fn do_chores_with(&mut self, means: &mut Means<'_, Message>) {
        self.do_chores(means.mailboxes);
        let here = means.mailboxes.shard();
        while means.mailboxes.all_have_room(Lane::Forward, 0)
            && let Some(at) = self.chores.iter().position(|chore| chore.shard == here)
            && let Some(Chore { message, .. }) = self.chores.remove(at)
        {
            if let Message::Presence { home, client, joined } = message {
                self.spread_presence(means, home, client, joined);
            }
        }
    }

    /// Raw routes have no words for a loss, so their connection ends; of a session only the one subscription does.
    pub(super) fn drop_fallen<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        while let Some(Fallen { token, member, reached, reason }) = self.fallen.pop() {
            let Some(mut link) = cx.link(token) else { continue };
            let left = match &mut *link.peer {
                Peer::Subscriber(subscriber) => {
                    subscriber.member = None;
                    link.close_at_once(CloseCode::SLOW_CONSUMER, "slow consumer");
                    None
                }
                Peer::Session(session) => session.forget(member),
                _ => None,
            };
            if let Some(topic) = left {
                let epoch = self.subscription(topic).map_or(0, |subscription| subscription.epoch);
                let (name, position) = (self.name_of(topic), Position { epoch, offset: reached });
                self.say(&mut link, |words| notice::dropped(words, &name, position, reason));
                self.name = name;
                self.left(&mut link.means(), token, topic);
            }
        }
    }

    /// Gives back a part of what histories take, or of what only laggards still need, when that is `owed`.
    pub(in crate::server) fn shed(&mut self, pool: &mut Pool, owed: bool) -> bool {
        if owed { self.topics.shed(pool) } else { self.homes.shed(pool) }
    }

    /// When [`turn_ended`](Broadcast::turn_ended) has something to do without an event.
    pub(in crate::server) fn deadline(&self) -> Option<Nanos> {
        if !self.recalling.is_empty() || !self.rostering.is_empty() || self.topics.has_fresh() {
            return Some(0);
        }
        if !self.held.is_empty() || !self.chores.is_empty() || self.drain.waits_for_room() {
            return Some(self.now + RETRY);
        }
        let looks = self.topics.has_laggards() || self.homes.has_idle() || self.sessions > 0;
        let check = looks.then_some(self.check_at);
        let check = [check, self.drain.deadline()].into_iter().flatten().min();
        match (self.topics.due_at(), check) {
            (Some(due), Some(check)) => Some(due.min(check)),
            (due, check) => due.or(check),
        }
    }
}
