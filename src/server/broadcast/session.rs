//! Connections that speak `echoring.v1.json`: what they ask for, and how far each of their subscriptions is.

use super::encode::V1;
use super::mail::{Message, Publisher, Wish, origin};
use super::requests::Requests;
use super::roster::Roster;
use super::{Broadcast, Subscription, Waiting};
use crate::connection::Kind;
use crate::driver::Token;
use crate::hub::{
    Format, GapReason, MemberId, Page, Position, Publication, Refused, Replay, TopicId, Topics, entries,
};
use crate::limits::RECEIVE_CREDIT_BYTES;
use crate::protocol::CloseCode;
use crate::server::service::{Peer, Service};
use crate::server::v1::{Command, Complaint, notice, parse};
use crate::shard::{Link, Means};

/// Answers that may be queued beyond the queue's bound: what one receive may ask for, with answers that are up to four
/// times as long as what they answer.
const ANSWERS_BYTES_MAX: u32 = 4 * RECEIVE_CREDIT_BYTES;

/// A connection on the route of all topics.
#[derive(Debug, Default)]
pub struct Session {
    pub(super) subscriptions: Vec<Subscribed>,
    /// Topics of which it missed who came and went.
    pub(super) rosters: Vec<Roster>,
    requests: Requests,
    /// Messages of it that wait for room in a mailbox.
    pub(super) held: u16,
}

#[derive(Debug)]
pub(super) struct Subscribed {
    pub(super) topic: TopicId,
    pub(super) state: State,
}

/// How far a subscription is.
#[derive(Debug)]
pub(super) enum State {
    /// The topic's home has not been heard of. `request` is which of the session's requests asked for it.
    Asking { id: Option<u64>, request: u32, from: Option<Position> },
    /// It gets what is kept first, a page at a time: the next one, `from` there on, was asked for, or is yet to be. `id` is
    /// that of the request as long as it is not answered. Messages up to the offset `snapshot` are marked. The position
    /// that was asked for is `lost`.
    Recalling { id: Option<u64>, answered: bool, from: Replay, asked: bool, snapshot: u64, lost: bool },
    /// It gets what is published.
    Live(MemberId),
}

impl Session {
    pub(super) fn find(&mut self, topic: TopicId) -> Option<&mut Subscribed> {
        self.subscriptions.iter_mut().find(|subscribed| subscribed.topic == topic)
    }

    /// The subscriptions that get what is published.
    pub(super) fn members(&self) -> impl Iterator<Item = MemberId> {
        self.subscriptions.iter().filter_map(|subscribed| match subscribed.state {
            State::Live(member) => Some(member),
            _ => None,
        })
    }

    /// How far each subscription is that was answered: its topic, up to which offset everything was sent or told to be
    /// lost, and whether that is all there is.
    pub(super) fn reached(&self, topics: &Topics<Token>) -> impl Iterator<Item = (TopicId, u64, bool)> {
        self.subscriptions.iter().filter_map(|subscribed| match subscribed.state {
            State::Live(member) => {
                topics.reached(member).map(|(offset, all)| (subscribed.topic, offset, all))
            }
            State::Recalling {
                answered: true, from: Replay::After(after) | Replay::Latest(after), ..
            } => Some((subscribed.topic, after, false)),
            State::Asking { .. } | State::Recalling { .. } => None,
        })
    }

    /// A subscription fell behind: the hub has forgotten it. Returns its topic.
    pub(super) fn forget(&mut self, member: MemberId) -> Option<TopicId> {
        let is_gone =
            |subscribed: &Subscribed| matches!(subscribed.state, State::Live(gone) if gone == member);
        let place = self.subscriptions.iter().position(is_gone)?;
        let topic = self.subscriptions.swap_remove(place).topic;
        self.rosters.retain(|roster| roster.topic != topic);
        Some(topic)
    }

    /// The next subscription to be recalled; one at a time, so that what waits for the peer is one page.
    fn next_recall(&self) -> Option<(TopicId, Replay)> {
        let mut next = None;
        for Subscribed { topic, state } in &self.subscriptions {
            match *state {
                State::Recalling { asked: true, .. } => return None,
                State::Recalling { from, .. } if next.is_none() => next = Some((*topic, from)),
                _ => {}
            }
        }
        next
    }
}

impl Broadcast {
    /// A session sent a message.
    pub(in crate::server) fn asked(&mut self, link: &mut Link<'_, Service>, kind: Kind, payload: &[u8]) {
        if let Peer::Session(session) = &mut *link.peer {
            session.requests.begin();
        }
        let command = if kind == Kind::Text { parse(payload) } else { Err(Complaint::not_text()) };
        match command {
            Ok(Command::Publish { id, topic, content, key, idempotency_key, payload }) => {
                let publication = Publication { content, key: &key, payload: &payload };
                self.publish_for(link, id, &topic, publication, &idempotency_key);
            }
            Ok(Command::Subscribe { id, topic, position }) => self.subscribe_for(link, id, &topic, position),
            Ok(Command::Presence { id, topic, after, limit }) => {
                self.tell_members(link, id, &topic, after, limit);
            }
            Ok(Command::Unsubscribe { id, topic }) => self.unsubscribe_for(link, id, &topic),
            Err(complaint) => self.complain(link, &complaint),
        }
    }

    /// The latest request makes no sense.
    pub(super) fn complain(&mut self, link: &mut Link<'_, Service>, complaint: &Complaint) {
        let request = latest_request(link);
        self.complain_of(link, request, complaint);
    }

    fn complain_of(&mut self, link: &mut Link<'_, Service>, request: u32, complaint: &Complaint) {
        let Peer::Session(session) = &mut *link.peer else { return };
        if session.requests.is_too_much(request) {
            link.close(CloseCode::POLICY, "too many requests that make no sense");
            return;
        }
        self.say(link, |words| notice::error(words, complaint));
    }

    /// The latest request is refused.
    pub(super) fn refuse(&mut self, link: &mut Link<'_, Service>, id: Option<u64>, refused: Refused) {
        let request = latest_request(link);
        self.refuse_of(link, request, id, refused);
    }

    fn refuse_of(&mut self, link: &mut Link<'_, Service>, request: u32, id: Option<u64>, refused: Refused) {
        let complaint = Complaint::refused(id, refused);
        if refused.is_passing() {
            self.say(link, |words| notice::error(words, &complaint));
        } else {
            self.complain_of(link, request, &complaint);
        }
    }

    /// Sends a notice to one connection. Most are answers, and those to a burst of requests may come all at once, some of
    /// them from other shards: more than the queue's bound is no fault of a peer that reads. One that does not is read
    /// from no further beyond that bound ([`Connection::pause_wanted`](crate::connection::Connection::pause_wanted)), so
    /// that only what was asked for before can make its answers pile up.
    pub(super) fn say(&mut self, link: &mut Link<'_, Service>, say: impl FnOnce(&mut Vec<u8>)) {
        self.said.clear();
        say(&mut self.said);
        let full = link.queued_bytes() > link.queue_bytes().saturating_add(ANSWERS_BYTES_MAX);
        if link.is_open() && (full || !link.send_past(Kind::Text, &self.said)) {
            link.close_at_once(CloseCode::SLOW_CONSUMER, "slow consumer");
        }
    }

    fn publish_for(
        &mut self,
        link: &mut Link<'_, Service>,
        id: Option<u64>,
        topic: &str,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) {
        if self.drain.is_on() {
            self.homes.note_refused();
            return self.refuse(link, id, Refused::Draining);
        }
        let publisher = Publisher {
            shard: link.mailboxes.shard() as u16,
            token: link.token,
            member: None,
            wish: id.map_or(Wish::Refusal, Wish::Answer),
            request: latest_request(link),
        };
        self.publish(link, topic, publisher, publication, idempotency_key);
    }

    /// What became of a message of a connection here.
    pub(super) fn published(
        &mut self,
        link: &mut Link<'_, Service>,
        topic: &str,
        publisher: &Publisher,
        verdict: Result<Position, Refused>,
    ) {
        match (verdict, publisher.wish) {
            (Ok(position), Wish::Answer(id)) => {
                self.say(link, |words| notice::published(words, Some(id), topic, position));
            }
            (Err(refused), Wish::Answer(_) | Wish::Refusal) => {
                self.refuse_of(link, publisher.request, publisher.id(), refused);
            }
            (Err(refused), Wish::Nothing) => {
                link.close(CloseCode::POLICY, &refused.to_string());
            }
            (Ok(_), Wish::Refusal | Wish::Nothing) => {}
        }
    }

    fn subscribe_for(
        &mut self,
        link: &mut Link<'_, Service>,
        id: Option<u64>,
        name: &str,
        from: Option<Position>,
    ) {
        if self.drain.is_on() {
            return self.refuse(link, id, Refused::Draining);
        }
        let subscriptions_max = self.subscriptions_max;
        let known = self.topics.find(name);
        let Peer::Session(session) = &mut *link.peer else { return };
        if known.is_some_and(|topic| session.find(topic).is_some()) {
            return self.complain(link, &Complaint::already_subscribed(id));
        }
        if session.subscriptions.len() >= subscriptions_max as usize {
            return self.complain(link, &Complaint::too_many_subscriptions(id, subscriptions_max));
        }
        let now = link.now();
        let topic = match self.topic_for(&mut link.means(), name, now) {
            Ok(topic) => topic,
            Err(refused) => return self.refuse(link, id, refused),
        };
        let Peer::Session(session) = &mut *link.peer else { return };
        let request = session.requests.latest();
        session.subscriptions.push(Subscribed { topic, state: State::Asking { id, request, from } });
        if let Some(relay) = self.subscription_mut(topic) {
            if relay.home.is_none() {
                relay.waiting.push(Waiting::Session(link.token, now));
            } else {
                self.begin(link, topic);
            }
        }
    }

    /// The home of a topic is known: a subscription goes live, or asks for what it missed.
    pub(super) fn begin(&mut self, link: &mut Link<'_, Service>, topic: TopicId) {
        let Some(&Subscription { epoch, .. }) = self.subscription(topic) else { return };
        let here = Position { epoch, offset: self.topics.offset(topic) };
        let Peer::Session(session) = &mut *link.peer else { return };
        let Some(subscribed) = session.find(topic) else { return };
        let State::Asking { id, from, .. } = subscribed.state else { return };
        match from {
            // Nobody knows any more what came after it.
            Some(from) if from.epoch != epoch && here.offset > 0 && self.has_snapshot(topic) => {
                self.begin_recall(link, topic, id, Replay::Newcomer, true);
            }
            Some(from) if from.epoch != epoch => self.begin_at(link, topic, id, here, Some(false)),
            Some(from) if from.offset != here.offset => {
                self.begin_recall(link, topic, id, Replay::After(from.offset), false);
            }
            None if here.offset > 0 && self.has_snapshot(topic) => {
                self.begin_recall(link, topic, id, Replay::Newcomer, false);
            }
            _ => self.begin_at(link, topic, id, here, from.map(|_| true)),
        }
    }

    /// Whether new subscribers of a topic are sent something of what is kept.
    fn has_snapshot(&self, topic: TopicId) -> bool {
        self.topics.settings(topic).is_some_and(|settings| settings.has_snapshot())
    }

    /// A subscription goes live, from where the topic is now.
    fn begin_at(
        &mut self,
        link: &mut Link<'_, Service>,
        topic: TopicId,
        id: Option<u64>,
        here: Position,
        recovered: Option<bool>,
    ) {
        self.say_subscribed(link, topic, id, here, recovered, None);
        self.go_live(link, topic);
    }

    /// A subscription gets something of what is kept first.
    fn begin_recall(
        &mut self,
        link: &mut Link<'_, Service>,
        topic: TopicId,
        id: Option<u64>,
        from: Replay,
        lost: bool,
    ) {
        let (token, now) = (link.token, link.now());
        let Peer::Session(session) = &mut *link.peer else { return };
        if let Some(subscribed) = session.find(topic) {
            subscribed.state =
                State::Recalling { id, answered: false, from, asked: false, snapshot: 0, lost };
        }
        if let Some(subscription) = self.subscription_mut(topic) {
            // It keeps the topic from being left.
            subscription.waiting.push(Waiting::Session(token, now));
        }
        self.recalling.push(token);
    }

    fn say_subscribed(
        &mut self,
        link: &mut Link<'_, Service>,
        topic: TopicId,
        id: Option<u64>,
        position: Position,
        recovered: Option<bool>,
        snapshot: Option<u64>,
    ) {
        let client = origin(link.mailboxes.shard(), link.token);
        let presence = self
            .topics
            .settings(topic)
            .filter(|settings| settings.presence)
            .and_then(|_| self.subscription(topic).map(|relay| (relay.present + 1, client)));
        let name = self.name_of(topic);
        self.say(link, |words| notice::subscribed(words, id, &name, position, recovered, snapshot, presence));
        self.name = name;
    }

    fn go_live(&mut self, link: &mut Link<'_, Service>, topic: TopicId) {
        self.wait_no_more(topic, link.token);
        let format = Format { dialect: V1, window_bits: link.share_window() };
        let Some(member) = self.topics.subscribe(topic, link.token, format, 0) else { return };
        let Peer::Session(session) = &mut *link.peer else { return };
        if let Some(subscribed) = session.find(topic) {
            subscribed.state = State::Live(member);
        }
        let client = origin(link.mailboxes.shard(), link.token);
        self.tell_presence(&mut link.means(), topic, client, true);
    }

    /// A subscription does not come about, for the topic's home is busy.
    fn give_up(&mut self, link: &mut Link<'_, Service>, topic: TopicId, id: Option<u64>) {
        if let Peer::Session(session) = &mut *link.peer {
            session.subscriptions.retain(|subscribed| subscribed.topic != topic);
        }
        self.wait_no_more(topic, link.token);
        self.refuse(link, id, Refused::Busy);
        self.leave_if_deserted(&mut link.means(), topic);
    }

    /// The topic's home does not take the subscription of this connection.
    pub(super) fn unavailable(&mut self, link: &mut Link<'_, Service>, topic: TopicId, refused: Refused) {
        let Peer::Session(session) = &mut *link.peer else { return };
        let Some(&mut Subscribed { state: State::Asking { id, request, .. }, .. }) = session.find(topic)
        else {
            return;
        };
        session.subscriptions.retain(|subscribed| subscribed.topic != topic);
        self.refuse_of(link, request, id, refused);
    }

    pub(super) fn wait_no_more(&mut self, topic: TopicId, token: Token) {
        if let Some(subscription) = self.subscription_mut(topic) {
            subscription.waiting.retain(|waiting| waiting.token() != token);
        }
    }

    /// Asks for the next page that a session waits for, once the peer has taken what it was sent.
    pub(super) fn recall_next(&mut self, link: &mut Link<'_, Service>) {
        if !link.is_open() || link.is_blocked() {
            // It is asked again when it has become writable.
            return;
        }
        let token = link.token;
        if link.queued_bytes() > 0 {
            return self.recalling.push(token);
        }
        let Peer::Session(session) = &mut *link.peer else { return };
        let Some((topic, from)) = session.next_recall() else { return };
        if let Some(Subscribed { state: State::Recalling { asked, .. }, .. }) = session.find(topic) {
            *asked = true;
        }
        let Some(&Subscription { home_shard, home: Some(home), .. }) = self.subscription(topic) else {
            return;
        };
        if home_shard == link.mailboxes.shard() {
            let now = link.now();
            let (told, page) = self.history(home, from, now, link.pool());
            self.recalled(link, topic, from, told, &page);
            self.page = page;
        } else {
            let message = Message::Recall { home, local: topic, token, from };
            self.add_chore(link.mailboxes, home_shard, message);
        }
    }

    /// What a subscription gets from `asked_from` on, or a part of it. It may have been left since, or be
    /// another one that wants something else.
    pub(super) fn recalled(
        &mut self,
        link: &mut Link<'_, Service>,
        topic: TopicId,
        asked_from: Replay,
        page: Option<Page>,
        messages: &[u8],
    ) {
        // Whatever becomes of this page, the session's other topics have waited for it.
        self.recalling.push(link.token);
        let Peer::Session(session) = &mut *link.peer else { return };
        let Some(subscribed) = session.find(topic) else { return };
        let State::Recalling { id, answered, from, asked: true, mut snapshot, lost } = subscribed.state
        else {
            return;
        };
        if from != asked_from {
            return;
        }
        let Some(page) = page else {
            return self.give_up(link, topic, id);
        };
        let Page { head, after, .. } = page;
        if after > head.offset {
            // Of this epoch, and yet no position of the topic: nobody knows what it stands for.
            if !self.has_snapshot(topic) {
                return self.begin_at(link, topic, id, head, Some(false));
            }
            let Peer::Session(session) = &mut *link.peer else { return };
            if let Some(subscribed) = session.find(topic) {
                let (from, asked, lost) = (Replay::Newcomer, false, true);
                subscribed.state = State::Recalling { id, answered, from, asked, snapshot, lost };
            }
            return;
        }
        if page.conflated || from == Replay::Newcomer {
            snapshot = head.offset;
        }
        if !answered {
            let recovered = match from {
                Replay::Newcomer => lost.then_some(false),
                Replay::After(_) | Replay::Latest(_) => Some(page.first == after + 1),
            };
            let told = (snapshot > after).then_some(snapshot);
            self.say_subscribed(link, topic, id, Position { offset: after, ..head }, recovered, told);
        }
        let reached = self.say_history(link, topic, &page, messages, snapshot);
        if page.complete {
            return self.go_live(link, topic);
        }
        let Peer::Session(session) = &mut *link.peer else { return };
        if let Some(subscribed) = session.find(topic) {
            let from = if page.conflated { Replay::Latest(reached) } else { Replay::After(reached) };
            subscribed.state = State::Recalling { id, answered: true, from, asked: false, snapshot, lost };
        }
    }

    /// Sends a page, behind a notice of what is missing before it. Returns the offset that it reaches.
    fn say_history(
        &mut self,
        link: &mut Link<'_, Service>,
        topic: TopicId,
        page: &Page,
        messages: &[u8],
        snapshot: u64,
    ) -> u64 {
        let name = self.name_of(topic);
        let mut reached = page.after;
        if page.first > reached + 1 {
            let (from, to) = (reached + 1, page.first - 1);
            self.say(link, |words| notice::gap(words, &name, from, to, GapReason::History));
            reached = to;
        }
        for (offset, publication) in entries(messages) {
            let skipped = offset - reached - 1;
            self.say_message(link, &name, offset, skipped, &publication, offset <= snapshot);
            reached = offset;
        }
        self.name = name;
        reached
    }

    fn say_message(
        &mut self,
        link: &mut Link<'_, Service>,
        name: &str,
        offset: u64,
        skipped: u64,
        publication: &Publication<'_>,
        is_snapshot: bool,
    ) {
        let Publication { content, key, payload } = *publication;
        let mut words = std::mem::take(&mut self.words);
        words.clear();
        let parts = notice::message_parts(&mut words, name, offset, key, skipped, content, payload);
        self.said.clear();
        parts.iter().for_each(|part| self.said.extend_from_slice(part));
        if is_snapshot {
            notice::mark_snapshot(&mut self.said);
        }
        self.words = words;
        if link.is_open() && !link.send_past(Kind::Text, &self.said) {
            link.close_at_once(CloseCode::SLOW_CONSUMER, "slow consumer");
        }
    }

    fn unsubscribe_for(&mut self, link: &mut Link<'_, Service>, id: Option<u64>, name: &str) {
        let topic = self.topics.find(name);
        let Peer::Session(session) = &mut *link.peer else { return };
        let place = topic
            .and_then(|topic| session.subscriptions.iter().position(|subscribed| subscribed.topic == topic));
        let Some(place) = place else {
            return self.complain(link, &Complaint::not_subscribed(id));
        };
        let subscribed = session.subscriptions.swap_remove(place);
        session.rosters.retain(|roster| roster.topic != subscribed.topic);
        if let State::Asking { id: asked @ Some(_), .. }
        | State::Recalling { id: asked, answered: false, .. } = subscribed.state
        {
            // Whoever waits for its answer need not wait for ever.
            self.say(link, |words| notice::error(words, &Complaint::not_subscribed(asked)));
        }
        let token = link.token;
        self.leave(&mut link.means(), token, &subscribed);
        self.say(link, |words| notice::unsubscribed(words, id, name));
    }

    fn leave(&mut self, means: &mut Means<'_, Message>, token: Token, subscribed: &Subscribed) {
        let topic = subscribed.topic;
        match subscribed.state {
            State::Live(member) => {
                self.topics.unsubscribe(member, means.pool);
                self.left(means, token, topic);
            }
            State::Asking { .. } | State::Recalling { .. } => {
                self.wait_no_more(topic, token);
                self.leave_if_deserted(means, topic);
            }
        }
    }

    /// A session gets nothing of a topic any more of which it got what was published.
    pub(super) fn left(&mut self, means: &mut Means<'_, Message>, token: Token, topic: TopicId) {
        let client = origin(means.mailboxes.shard(), token);
        self.tell_presence(means, topic, client, false);
        self.leave_if_deserted(means, topic);
    }

    /// A session is over.
    pub(super) fn session_closed(&mut self, means: &mut Means<'_, Message>, token: Token, session: &Session) {
        for subscribed in &session.subscriptions {
            self.leave(means, token, subscribed);
        }
    }
}

/// Which of its session's requests a connection sent last.
fn latest_request(link: &Link<'_, Service>) -> u32 {
    if let Peer::Session(session) = &*link.peer { session.requests.latest() } else { 0 }
}
