//! Subscribing a shard to a topic, and connections to the shard's part of it; and the end of that.

use super::encode::Told;
use super::mail::{Message, origin};
use super::{Answer, BUSY, Broadcast, Chore, Left, Subscriber, Subscription, Waiting, refusal};
use crate::driver::{Driver, Token};
use crate::hub::{self, Dialect, Format, HomeId, MemberId, Refused, TopicId};
use crate::limits::{Nanos, SUBSCRIPTIONS_WAITING_MAX};
use crate::server::service::{Peer, Service};
use crate::server::v1::notice;
use crate::shard::{Context, Lane, Means};

impl Broadcast {
    /// A connection asks for the raw route of a topic. Its 101 leaves when it is subscribed on every shard that matters.
    pub(in crate::server) fn subscribe<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        name: &str,
        echo_own: bool,
        subprotocol: Option<&'static str>,
    ) -> Answer {
        let now = cx.now();
        let topic = match self.topic_for(&mut cx.means(), name, now) {
            Ok(topic) => topic,
            Err(refused) => return Answer::Refuse(refusal(refused)),
        };
        let mut subscriber = Subscriber { topic, member: None, echo_own, held: 0 };
        let Some(subscription) = self.subscription_mut(topic) else { return Answer::Refuse(BUSY) };
        if subscription.home.is_none() {
            subscription.waiting.push(Waiting::Raw(token, subprotocol));
            return Answer::Later { peer: Peer::Subscriber(subscriber) };
        }
        subscriber.member = self.join(cx, token, topic, echo_own);
        Answer::Upgrade { peer: Peer::Subscriber(subscriber), subprotocol, whole: true }
    }

    /// Opens a session.
    pub(in crate::server) fn open_session(&mut self, subprotocol: &'static str) -> Answer {
        self.sessions += 1;
        Answer::Upgrade { peer: Peer::Session(Box::default()), subprotocol: Some(subprotocol), whole: true }
    }

    /// The topic `name`, subscribed to for this shard, or about to be.
    pub(super) fn topic_for(
        &mut self,
        means: &mut Means<'_, Message>,
        name: &str,
        now: Nanos,
    ) -> Result<TopicId, Refused> {
        if let Some(topic) = self.topics.find(name) {
            return Ok(topic);
        }
        let (shard, shards) = (means.mailboxes.shard(), means.mailboxes.shards());
        let home_shard = self.placement.home(name, shards);
        if home_shard != shard && self.asking >= SUBSCRIPTIONS_WAITING_MAX {
            return Err(Refused::Busy);
        }
        let topic = self.topics.create(name, now, means.pool);
        let mut subscription =
            Subscription { topic, home_shard, home: None, epoch: 0, present: 0, waiting: Vec::new() };
        if home_shard == shard {
            let answer = self.homes.subscribe(name, shard, topic, means.pool).inspect_err(|_| {
                self.topics.remove(topic, now, means.pool);
            })?;
            subscription.learn(answer);
            self.topics.begin_at(topic, answer.position.offset);
        } else {
            self.asking += 1;
            self.add_chore(means.mailboxes, home_shard, Message::Subscribe { local: topic });
        }
        let index = topic.index as usize;
        if index >= self.subscriptions.len() {
            self.subscriptions.resize_with(index + 1, || None);
        }
        self.subscriptions[index] = Some(subscription);
        Ok(topic)
    }

    pub(super) fn join<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        topic: TopicId,
        echo_own: bool,
    ) -> Option<MemberId> {
        let skip = if echo_own { 0 } else { origin(cx.shard(), token) };
        let format = Format { dialect: Dialect::Raw, window_bits: cx.share_window(token) };
        self.topics.subscribe(topic, token, format, skip)
    }

    pub(super) fn subscribed<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        local: TopicId,
        answer: Result<hub::Subscribed, Refused>,
    ) {
        self.asking -= 1;
        let Some(subscription) = self.subscription_mut(local) else { return };
        // Each of them keeps the topic from being left until it is let in, whatever becomes of those before it.
        let waiting = subscription.waiting.clone();
        match answer {
            Ok(answer) => {
                subscription.learn(answer);
                self.topics.begin_at(local, answer.position.offset);
                waiting.into_iter().for_each(|waiting| self.let_in(cx, local, &waiting));
                self.leave_if_deserted(&mut cx.means(), local);
            }
            Err(refused) => {
                for waiting in waiting {
                    match waiting {
                        Waiting::Raw(token, _) => cx.refuse(token, &refusal(refused)),
                        Waiting::Session(token, _) => {
                            if let Some(mut link) = cx.link(token) {
                                self.unavailable(&mut link, local, refused);
                            }
                        }
                    }
                }
                self.subscriptions[local.index as usize] = None;
                self.topics.remove(local, cx.now(), cx.pool());
            }
        }
    }

    pub(super) fn let_in<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        topic: TopicId,
        waiting: &Waiting,
    ) {
        match *waiting {
            Waiting::Raw(token, subprotocol) => {
                self.wait_no_more(topic, token);
                let Some(Peer::Subscriber(subscriber)) = cx.peer(token) else { return };
                let echo_own = subscriber.echo_own;
                let member = self.join(cx, token, topic, echo_own);
                if let Some(Peer::Subscriber(subscriber)) = cx.peer(token) {
                    subscriber.member = member;
                }
                cx.accept(token, subprotocol, true);
            }
            Waiting::Session(token, _) => {
                if let Some(mut link) = cx.link(token) {
                    self.begin(&mut link, topic);
                }
            }
        }
    }

    /// Sessions that have waited for a topic's home as long as a handshake may take are told to come back later. Requests
    /// for a raw route have their handshake's own deadline.
    pub(super) fn refuse_overdue<D: Driver>(&mut self, cx: &mut Context<'_, D, Service>) {
        if self.asking == 0 {
            return;
        }
        let timeout = cx.handshake_timeout();
        for index in 0..self.subscriptions.len() {
            let Some(subscription) = &mut self.subscriptions[index] else { continue };
            if subscription.home.is_some() {
                continue;
            }
            let (topic, now) = (subscription.topic, self.now);
            let is_overdue = |waiting: &mut Waiting| matches!(waiting, Waiting::Session(_, since) if *since + timeout <= now);
            let overdue: Vec<Waiting> = subscription.waiting.extract_if(.., is_overdue).collect();
            for waiting in overdue {
                if let Some(mut link) = cx.link(waiting.token()) {
                    self.unavailable(&mut link, topic, Refused::Busy);
                }
            }
        }
    }

    /// A connection of a topic, or of several, is gone.
    pub(in crate::server) fn closed<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Service>,
        token: Token,
        peer: Peer,
    ) {
        match peer {
            Peer::Subscriber(subscriber) => {
                match subscriber.member {
                    Some(member) => self.topics.unsubscribe(member, cx.pool()),
                    None => self.wait_no_more(subscriber.topic, token),
                }
                self.leave_if_deserted(&mut cx.means(), subscriber.topic);
            }
            Peer::Session(session) => {
                self.sessions -= 1;
                self.session_closed(&mut cx.means(), token, &session);
            }
            _ => {}
        }
    }

    pub(super) fn leave_if_deserted(&mut self, means: &mut Means<'_, Message>, topic: TopicId) {
        if !self.topics.is_deserted(topic) {
            return;
        }
        let Some(&Subscription { home_shard, home: Some(home), ref waiting, .. }) = self.subscription(topic)
        else {
            return;
        };
        if !waiting.is_empty() {
            return;
        }
        let is_here = home_shard == means.mailboxes.shard();
        let left = self.subscriptions[topic.index as usize].take();
        if let Some(Subscription { epoch, .. }) = left
            && !is_here
        {
            let name = self.topics.name(topic).unwrap_or_default().into();
            self.left.push(Left { topic, name, epoch });
        }
        self.topics.remove(topic, self.now, means.pool);
        if is_here {
            self.homes.unsubscribe(home, home_shard, topic, self.now, means.pool);
        } else {
            let message = Message::Unsubscribe { home, local: topic };
            self.add_chore(means.mailboxes, home_shard, message);
        }
    }

    /// Tells a topic's home that somebody came or went, where that is told.
    pub(super) fn tell_presence(
        &mut self,
        means: &mut Means<'_, Message>,
        topic: TopicId,
        client: u64,
        joined: bool,
    ) {
        if !self.topics.settings(topic).is_some_and(|settings| settings.presence) {
            return;
        }
        let Some(&Subscription { home_shard, home: Some(home), .. }) = self.subscription(topic) else {
            return;
        };
        let message = Message::Presence { home, client, joined };
        self.chores.push_back(Chore { shard: home_shard, message });
        if self.chores.len() == 1 {
            self.do_chores_with(means);
        }
    }

    pub(super) fn spread_presence(
        &mut self,
        means: &mut Means<'_, Message>,
        home: HomeId,
        client: u64,
        joined: bool,
    ) {
        let Some((count, shards)) = self.homes.presence(home, client, joined) else { return };
        let mut here = None;
        for &(shard, local) in shards {
            if shard == means.mailboxes.shard() {
                here = Some(local);
                continue;
            }
            let message = Message::Present { local, client, joined, count };
            let posted = means.mailboxes.post(shard, Lane::Forward, message, &[]);
            debug_assert!(posted.is_ok(), "the room of forward lanes was checked");
        }
        if let Some(local) = here {
            self.present(means, local, client, joined, count);
        }
    }

    pub(super) fn present(
        &mut self,
        means: &mut Means<'_, Message>,
        topic: TopicId,
        client: u64,
        joined: bool,
        count: u64,
    ) {
        if let Some(subscription) = self.subscription_mut(topic) {
            subscription.present = count;
        }
        let Broadcast { homes, topics, scratch, .. } = self;
        let say = |words: &mut Vec<u8>, name: &str| notice::presence(words, name, joined, client, count);
        topics.append_presence(topic, means.pool, homes, &mut Told { scratch, say });
    }
}
