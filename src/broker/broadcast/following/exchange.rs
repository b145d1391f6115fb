//! What this node and others tell each other about topics, at the end of each tick.

use echoring_auth::WebhookEvent;
use echoring_cluster::{Message, Outcome, OwnerTable, Shard, Ticket};
use echoring_proto::limits::Nanos;
use echoring_topics::Refused;

use super::store::Store;
use super::{Following, StagedChange, StagedPublication, Undecided, Waits};
use crate::broadcast::shard_mail::{PublishResult, ShardMail};
use crate::broadcast::topic_read::TopicAnswer;
use crate::broadcast::{Broadcast, RETRY_DELAY};
use crate::limits::VIEW_RETENTION;
use crate::node_mail::{ClusterEvent, RelayOutbox};
use crate::peer::Context;

impl Broadcast {
    /// Takes events of the cluster, at the end of the tick.
    pub fn cluster_events(&mut self, events: Vec<ClusterEvent>) {
        if let Some(following) = &mut self.sequencer.following {
            following.events.extend(events);
        }
    }

    /// When the cluster has work without an event.
    pub(in crate::broadcast) fn following_deadline(&self) -> Option<Nanos> {
        let following = self.sequencer.following.as_ref().filter(|following| !following.is_dormant)?;
        let has_members_due = following.table.has_members_due();
        if !following.events.is_empty() || !self.sequencer.queue.is_empty() || has_members_due {
            return Some(self.now + RETRY_DELAY);
        }
        let ahead = self.sequencer.queue.ahead.iter().map(|page| page.look_at).min();
        let lingers = (!following.lingering.is_empty()).then(|| self.sequencer.topics.retained_until());
        ahead.into_iter().chain(following.deadline()).chain(lingers).min()
    }

    /// Does the work that the tick has left for the cluster, and handles the events of other nodes.
    pub(in crate::broadcast) fn advance_following(&mut self, cx: &mut Context<'_>) {
        self.sequencer.tell_forgotten();
        let Some(mut following) = self.sequencer.following.take() else { return };
        while following.is_dormant
            && let Some(event) = following.events.pop_front()
        {
            self.take_event(cx, &mut following, event);
        }
        if following.is_dormant {
            self.sequencer.following = Some(following);
            return;
        }
        if !following.lingering.is_empty() && !self.sequencer.topics.retains(self.now) {
            // None of their subscribers is on its way any more.
            std::mem::take(&mut following.lingering).iter().for_each(|name| self.sequencer.queue.touch(name));
        }
        let is_idle = following.events.is_empty()
            && self.sequencer.queue.is_empty()
            && !following.table.has_members_due()
            && following.deadline().is_none_or(|at| at > self.now);
        if !is_idle {
            following.end_reads(&mut self.sequencer.queue, self.now);
            self.take_presence_changes(cx, &mut following);
            self.take_touched(cx, &mut following);
            for name in std::mem::take(&mut self.sequencer.queue.rereads) {
                self.with_table(cx, &mut following, |table, shard| table.reload(shard, &name));
            }
            self.take_publications(cx, &mut following);
            while self.sequencer.queue.publications.is_empty()
                && self.takes_requests(cx)
                && let Some(event) = following.events.pop_front()
            {
                self.take_event(cx, &mut following, event);
            }
            if following.table.deadline().is_some_and(|at| at <= self.now) {
                self.with_table(cx, &mut following, |table, shard| table.handle_time(shard));
            }
            if following.table.has_members_due() && self.takes_requests(cx) {
                self.with_table(cx, &mut following, |table, shard| table.flush_members(shard));
            }
            self.ask_streams(cx.shard(), &mut following);
            self.answer_waiting(cx, &mut following);
            if following.table.is_settled() {
                for number in std::mem::take(&mut following.settles) {
                    following.links.settled(number);
                }
            }
        }
        following.waits_to_order &= !self.sequencer.queue.publications.is_empty();
        self.answer_rests(&mut following);
        following.links.flush();
        self.sequencer.relay.iter_mut().for_each(RelayOutbox::flush);
        self.sequencer.following = Some(following);
        if !self.sequencer.queue.ahead.is_empty() {
            self.answer_reached(cx);
        }
    }

    /// Calls the owner table, which may call back into everything else.
    pub(super) fn with_table<T>(
        &mut self,
        cx: &mut Context<'_>,
        following: &mut Following,
        call: impl FnOnce(&mut OwnerTable, &mut Shard<'_>) -> T,
    ) -> T {
        let Following { node, table, links, heads, .. } = following;
        let now = self.now;
        let mut store = Store { broadcast: self, cx, heads, node: *node };
        call(table, &mut Shard { store: &mut store, peers: links, now })
    }

    /// Changes of members come before the end of their subscriptions.
    fn take_presence_changes(&mut self, cx: &mut Context<'_>, following: &mut Following) {
        while self.takes_requests(cx)
            && let Some(StagedChange { topic, client, joined }) = self.sequencer.queue.presence.pop_front()
        {
            self.with_table(cx, following, |table, shard| {
                table.change_presence(shard, &topic, client, joined.as_deref());
            });
        }
    }

    /// Follows topics that have subscribers, and no others.
    fn take_touched(&mut self, cx: &mut Context<'_>, following: &mut Following) {
        for name in std::mem::take(&mut self.sequencer.queue.touched) {
            let mut is_wanted = self.sequencer.topics.is_subscribed(&name)
                || following.waiting.contains_key(&name)
                || following.reads.contains_key(&name);
            if !is_wanted && self.sequencer.topics.retains(self.now) {
                following.lingering.insert(name.clone());
                is_wanted = true;
            }
            self.with_table(cx, following, |table, shard| match is_wanted {
                true => table.subscribe(shard, &name),
                false => table.unsubscribe(shard, &name),
            });
        }
    }

    fn take_publications(&mut self, cx: &mut Context<'_>, following: &mut Following) {
        while self.takes_requests(cx)
            && let Some(staged) = self.sequencer.queue.publications.pop_front()
        {
            let StagedPublication { topic, ticket, waits, entry } = staged;
            self.sequencer.queue.staged_bytes -= entry.len();
            following.undecided.insert(ticket, waits);
            let published =
                self.with_table(cx, following, |table, shard| table.publish(shard, &topic, ticket, &entry));
            if published.is_err() {
                self.decide(cx, following, ticket, Err(Refused::Busy));
            }
        }
    }

    fn take_event(&mut self, cx: &mut Context<'_>, following: &mut Following, event: ClusterEvent) {
        match event {
            ClusterEvent::Joined(node, state) => return following.links.join(node, state),
            ClusterEvent::Lost(peer) => {
                return self.topic_webhooks.tell(&WebhookEvent::NodeLost { peer: &peer }, None);
            }
            ClusterEvent::Returned(peer) => {
                return self.topic_webhooks.tell(&WebhookEvent::NodeReturned { peer: &peer }, None);
            }
            ClusterEvent::StreamPage { number, answer } => {
                if let Some(request) = following.streams.pages.remove(&number) {
                    self.answer_page(cx, request, answer);
                }
                return;
            }
            ClusterEvent::Settle(number) => following.settles.push(number),
            ClusterEvent::Rest { number, with_streams } => following.rests.push((number, with_streams)),
            ClusterEvent::Reset(node) => following.links.reset(node),
            ClusterEvent::Message(_, ref bytes) => following.inbox.remove(bytes.len()),
            // Topics change their owners, and subscribers may move to a node that joins: what is ordered before a node follows a
            // topic there is for that node, too.
            ClusterEvent::View(_) => self.sequencer.topics.retain_until(self.now + VIEW_RETENTION),
            _ => {}
        }
        let has_slept = matches!(event, ClusterEvent::View(_)) && std::mem::take(&mut following.is_dormant);
        self.with_table(cx, following, |table, shard| match event {
            ClusterEvent::View(view) => {
                table.handle_view(shard, view);
                if has_slept {
                    table.handle_time(shard);
                }
            }
            ClusterEvent::Open(is_open) => table.handle_open(shard, is_open),
            ClusterEvent::Settle(_) | ClusterEvent::Agreed => table.handle_settle(shard),
            ClusterEvent::Reset(node) => table.handle_reset(shard, node),
            ClusterEvent::Message(from, bytes) => {
                if let Some(message) = Message::read(&bytes) {
                    table.handle_message(shard, from, &message);
                }
            }
            ClusterEvent::Away(is_away) => table.handle_away(shard, is_away),
            ClusterEvent::Stream { topic, number, answer } => {
                table.handle_stream(shard, &topic, number, answer);
            }
            ClusterEvent::Room => table.handle_time(shard),
            ClusterEvent::Joined(..)
            | ClusterEvent::StreamPage { .. }
            | ClusterEvent::Rest { .. }
            | ClusterEvent::Lost(_)
            | ClusterEvent::Returned(_) => {}
        });
    }

    /// Reports the outcomes of their publications to publishers, after the deliveries of the tick.
    pub(in crate::broadcast) fn tell_outcomes(&mut self, cx: &mut Context<'_>) {
        let Some(mut following) = self.sequencer.following.take() else { return };
        while let Some((ticket, outcome)) = following.table.poll_outcome() {
            let result = match outcome {
                Outcome::Accepted(position) => Ok(position),
                Outcome::Refused(number) => Err(Refused::of_number(number).unwrap_or(Refused::Busy)),
                Outcome::Unreachable => Err(Refused::Unreachable),
                Outcome::Uncertain => Err(Refused::Uncertain),
                Outcome::NoStorage => Err(Refused::NoStorage),
            };
            self.decide(cx, &mut following, ticket, result);
        }
        self.sequencer.following = Some(following);
    }

    /// Reports the outcome of its publication to a publisher.
    fn decide(
        &mut self,
        cx: &mut Context<'_>,
        following: &mut Following,
        ticket: Ticket,
        result: PublishResult,
    ) {
        match following.undecided.remove(&ticket) {
            Some(Undecided::Client(publisher, name)) if publisher.wants(result) => {
                let mail = ShardMail::PublishResult { publisher, result };
                self.answer(cx, usize::from(publisher.shard), mail, &[name.as_bytes()]);
            }
            Some(Undecided::Operator) => self.sequencer.queue.decided.push((ticket, result)),
            _ => {}
        }
    }

    /// Answers the shards that wait for topics whose position has become known, or whose stream does not exist.
    fn answer_waiting(&mut self, cx: &mut Context<'_>, following: &mut Following) {
        let now = self.now;
        let is_known = |name: &str| following.is_live(name) || following.table.stores_nothing(name, now);
        let known: Vec<Box<str>> = following.waiting.keys().filter(|name| is_known(name)).cloned().collect();
        for name in known {
            let is_live = following.is_live(&name);
            for waits in following.waiting.remove(&name).unwrap_or_default() {
                match waits {
                    Waits::Shard { shard, local, creator } => {
                        let topics = &mut self.sequencer.topics;
                        let answer = match is_live {
                            true => topics.subscribe(&name, creator, shard, local, cx.pool()),
                            false => Err(Refused::NoStorage),
                        };
                        let answer = answer.map(|subscribed| self.presence_changes.subscribed(subscribed));
                        self.answer(cx, shard, ShardMail::Subscribed { local, answer }, &[]);
                    }
                    Waits::Operator(read, _) if is_live => self.answer_read(cx, read),
                    Waits::Operator(read, _) => read.answer(cx.shard(), TopicAnswer::Busy),
                }
            }
            // They may have left meanwhile.
            self.sequencer.queue.touch(&name);
        }
    }
}
