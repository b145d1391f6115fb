//! Commands of other threads to the shards: publish to a topic, and report about topics.
//!
//! A command goes straight to the shards that it concerns, which answer within their ticks. A shard never waits for the
//! sender, and pending publications are bounded by [`OUTSIDE_MESSAGES_MAX`] and [`OUTSIDE_BYTES_MAX`].

pub(crate) mod blocking;
pub(crate) mod connections;
pub(crate) mod move_order;
pub(crate) mod node_order;
pub(crate) mod outside;
pub mod watch_order;

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use echoring_broker::limits::{OUTSIDE_BYTES_PER_TICK, OUTSIDE_MESSAGES_MAX, SNAPSHOT_TIMEOUT};
use echoring_cluster::Ticket;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::{Bridge, ControlMessage, Remote};
use echoring_topics::{
    HubReport, ImportError, OwnedTopicId, Placement, Position, Refused, TopicReport, is_topic_name,
};

use crate::commands::connections::{Candidates, ConnectionFilter, ConnectionScan, ScanAction, ScanReport};
use crate::commands::move_order::{MoveOrder, Staying};
use crate::commands::outside::{Charge, Outside};
use crate::commands::watch_order::WatchOrder;
use crate::handlers::sender::{Inlet, SenderMail};
use crate::node::config::ServerConfig;
use echoring_auth::BackendDelivery;
pub use echoring_broker::broadcast::publish::OperatorPublished;
pub use echoring_broker::broadcast::shard_mail::ShardMail;
use echoring_broker::broadcast::{Broadcast, StateCursor, TopicAnswer, TopicQuestion, TopicRead};
use echoring_broker::gate::{AppAnswered, AuthCommand};
use echoring_broker::node_mail::ClusterEvent;
use echoring_broker::peer::Context;
use echoring_broker::publications::{self, OnShard, OwnedPublication, PublishError, Published};

/// A command to a shard. A shard that ends drops it unanswered.
#[derive(Debug)]
pub enum ShardCommand {
    /// Publish to a topic that the shard owns.
    Publish(PublishRequest),
    /// Use the part of this configuration that a running server can change.
    Configure(Arc<ServerConfig>, mpsc::SyncSender<(usize, ())>),
    /// Report about all topics.
    Topics(mpsc::SyncSender<(usize, Vec<TopicReport>)>),
    /// Takeover: send no further requests. `done` is notified once the shard's topics no longer change.
    StopOrdering {
        /// The attempt.
        round: u32,
        /// Gets the number of the shard.
        done: mpsc::SyncSender<usize>,
    },
    /// Takeover: it has failed.
    OrderAgain,
    /// Takeover: export a block of the shard's topics.
    Export {
        /// Where the block begins.
        cursor: StateCursor,
        /// About its size in bytes.
        bytes_max: usize,
        /// Gets the block and the beginning of the next one.
        reply: mpsc::SyncSender<(Vec<u8>, Option<StateCursor>)>,
    },
    /// Takeover: the successor orders everything from now on.
    Follow {
        /// The bridge to its shards.
        bridge: Bridge<ShardMail>,
        /// Maximum message size of the successor in bytes.
        max_message: u64,
    },
    /// Takeover: the successor stays. Forget the topics.
    ForgetTopics,
    /// Takeover: the successor is lost before that. The topics continue here, once [`OrderAgain`](ShardCommand::OrderAgain) has come to all shards.
    TakeBack(mpsc::SyncSender<()>),
    /// Takeover: import a block of topics.
    Import {
        /// Records.
        block: Vec<u8>,
        /// Number of shards of the predecessor.
        shards: usize,
        /// Gets the old ids of the topics with their new ones.
        reply: mpsc::SyncSender<Result<Vec<(OwnedTopicId, OwnedTopicId)>, ImportError>>,
    },
    /// Takeover: everything is imported.
    Lead {
        /// The bridge to the predecessor's shards.
        bridge: Bridge<ShardMail>,
        /// Notified when the shard has it.
        reply: mpsc::SyncSender<()>,
    },
    /// Takeover: the far shards have ended, with the clients that have not moved.
    ForgetFarShards,
    /// Takeover: the far shards, which order everything, are lost.
    LoseFarShards,
    /// Report the number of connections.
    Count(mpsc::SyncSender<(usize, u64)>),
    /// Send connections to other shards.
    MoveAway(MoveOrder),
    /// Takeover: report how many connections stay, and why.
    CountStaying(mpsc::SyncSender<(usize, Staying)>),
    /// Report about the topic of this name, if the shard knows it.
    Topic(Box<str>, mpsc::SyncSender<(usize, Option<TopicReport>)>),
    /// Read the stored data of a topic that the shard owns.
    ReadTopic(TopicRead),
    /// A command about authentication.
    Auth(AuthCommand),
    /// From a sender to a connection.
    Sender(SenderMail),
    /// The application has answered.
    App(AppAnswered),
    /// The back end of a connection has answered.
    Backend(Token, BackendDelivery),
    /// Follow a client or a topic.
    Watch(WatchOrder),
    /// Report about open connections, or close them.
    Connections(ConnectionScan),
    /// The cluster thread's notices to the shard.
    Cluster(Vec<ClusterEvent>),
}

impl Inlet for Remote<ShardCommand, HubReport> {
    fn put(&self, mail: SenderMail) -> bool {
        self.send(ControlMessage::Command(ShardCommand::Sender(mail)))
    }
}

/// Messages for a topic, in order.
#[derive(Debug)]
pub struct PublishRequest {
    topic: Box<str>,
    messages: Vec<OwnedPublication>,
    /// The results of the first messages.
    published: Published,
    reply: oneshot::Sender<Published>,
    claim: Claim,
    when_full: WhenFull,
    /// Their charge against the bound of the node, until they are dropped.
    _charge: Charge,
}

/// Whether a message waits while the mailboxes to other shards, or the messages for other nodes, have no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// It waits: its publisher does, too.
    Wait,
    /// It is refused.
    Refuse,
}

/// Publish requests that a shard has not finished. The node-wide charge bounds them.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    queue: VecDeque<PublishRequest>,
    /// The first in the queue waits for room, and those behind it.
    is_blocked: bool,
    /// Those whose next message another node decides about.
    undecided: BTreeMap<Ticket, PublishRequest>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether it waits for room, and not only for the next tick.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    pub(super) fn push(&mut self, request: PublishRequest) {
        self.queue.push_back(request);
    }

    /// Publishes the share of one tick, before subscribers are sent anything.
    #[inline(never)]
    pub(super) fn publish(&mut self, broadcast: &mut Broadcast, cx: &mut Context<'_>) {
        let mut room_bytes = OUTSIDE_BYTES_PER_TICK;
        self.is_blocked = false;
        while room_bytes > 0
            && !self.is_blocked
            && let Some(publish) = self.queue.front_mut()
        {
            match publish.resume(broadcast, cx, &mut room_bytes) {
                Progress::Paused => {}
                Progress::Blocked => self.is_blocked = true,
                Progress::Finished => {
                    self.queue.pop_front().into_iter().for_each(PublishRequest::finish);
                }
                Progress::Undecided(ticket) => {
                    self.undecided.extend(self.queue.pop_front().map(|request| (ticket, request)));
                }
            }
        }
    }

    /// Other nodes have decided. The requests continue with their next messages.
    pub(super) fn decide(&mut self, decided: Vec<(Ticket, Result<Position, Refused>)>) {
        for (ticket, result) in decided {
            if let Some(mut request) = self.undecided.remove(&ticket) {
                request.published.push(result);
                self.queue.push_back(request);
            }
        }
    }
}

/// How far a request is.
#[derive(Clone, Copy, Debug)]
enum Progress {
    /// It continues in the next tick.
    Paused,
    /// It continues when there is room for its next message.
    Blocked,
    Finished,
    /// Another node decides about its next message.
    Undecided(Ticket),
}

impl PublishRequest {
    /// Publishes further messages until `room_bytes` is used up.
    fn resume(
        &mut self,
        broadcast: &mut Broadcast,
        cx: &mut Context<'_>,
        room_bytes: &mut usize,
    ) -> Progress {
        while let Some(message) = self.messages.get(self.published.len()) {
            if *room_bytes == 0 {
                return Progress::Paused;
            }
            // After a refusal that will pass, the remaining messages are refused too, so that the publisher can
            // continue in order.
            let hindered = self.published.last().copied().filter(|last| last.is_err_and(Refused::is_passing));
            if hindered.is_none() && self.when_full == WhenFull::Wait && broadcast.has_operator_wait(cx) {
                return Progress::Blocked;
            }
            // Until its first message, the publisher may give up.
            if self.published.is_empty() && !self.claim.take() {
                return Progress::Finished;
            }
            *room_bytes = room_bytes.saturating_sub(message.bytes() as usize);
            let published = match hindered {
                Some(hindered) => {
                    broadcast.refuse_for_operator();
                    hindered.map(OperatorPublished::Now)
                }
                None => broadcast.publish_for_operator(cx, &message.for_topic(&self.topic)),
            };
            match published {
                Ok(OperatorPublished::Now(position)) => self.published.push(Ok(position)),
                Ok(OperatorPublished::Later(ticket)) => return Progress::Undecided(ticket),
                Err(refused) => self.published.push(Err(refused)),
            }
        }
        Progress::Finished
    }

    fn finish(self) {
        // The publisher may have stopped waiting.
        let _ = self.reply.send(self.published);
    }
}

/// The result of a message that is on its way to its topic's owner. Await it, or call [`wait`](PendingPublish::wait). Dropping it
/// does not take the message back.
///
/// ```
/// use echoring::server::{Handle, PublishError};
///
/// async fn tell(server: &Handle) -> Result<(), PublishError> {
///     let pending = server.try_publish("news", "hello")?;
///     // Something else in the meantime.
///     println!("message {}", pending.await?.offset);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use = "the message may be refused"]
pub struct PendingPublish(pub(super) PendingBatch);

impl PendingPublish {
    /// Blocks until the topic's owner has answered. Returns the position of the message.
    ///
    /// # Errors
    /// [`PublishError::Refused`]; [`PublishError::Ended`] if the server has ended; [`PublishError::OnShard`] on the thread of a
    /// shard.
    pub fn wait(self) -> Result<Position, PublishError> {
        self.0.wait().and_then(only)
    }
}

impl Future for PendingPublish {
    type Output = Result<Position, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Result<Position, PublishError>> {
        Pin::new(&mut self.0).poll(cx).map(|published| published.and_then(only))
    }
}

/// The results of several messages that are on their way to their topic's owner. Await it, or call [`wait`](PendingBatch::wait).
/// Dropping it does not take the messages back.
///
/// ```
/// use echoring::server::{Handle, PublishError};
///
/// fn tell(server: &Handle, first: Vec<String>, second: Vec<String>) -> Result<(), PublishError> {
///     // Both batches are on their way before the first has its results.
///     let pending = [server.try_publish_all("news", first)?, server.try_publish_all("news", second)?];
///     for batch in pending {
///         for result in batch.wait()? {
///             println!("message {}", result?.offset);
///         }
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use = "the messages may be refused"]
pub struct PendingBatch {
    answer: oneshot::Receiver<Published>,
    claim: Claim,
}

impl PendingBatch {
    /// Blocks until the topic's owner has answered. Returns the result of each message.
    ///
    /// # Errors
    /// [`PublishError::Ended`] if the server has ended, [`PublishError::OnShard`] on the thread of a shard.
    pub fn wait(self) -> Result<Published, PublishError> {
        blocking::check()?;
        blocking::wait_for(self, None).unwrap_or(Err(PublishError::Ended))
    }
}

impl Future for PendingBatch {
    type Output = Result<Published, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Result<Published, PublishError>> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.map_err(|_| PublishError::Ended))
    }
}

/// The result of a single message.
pub(super) fn only(published: Published) -> Result<Position, PublishError> {
    Ok(published.into_iter().next().ok_or(PublishError::Ended)??)
}

/// Sends commands to the shards of a server from any thread, and bounds the pending publications.
#[derive(Clone, Debug)]
pub struct CommandSender {
    remotes: Arc<[Remote<ShardCommand, HubReport>]>,
    pub(super) placement: Placement,
    outside: Arc<Outside>,
}

impl CommandSender {
    pub(super) fn new(
        remotes: Arc<[Remote<ShardCommand, HubReport>]>,
        placement: Placement,
    ) -> CommandSender {
        CommandSender { remotes, placement, outside: Arc::default() }
    }

    /// Publishes as soon as there is room for the messages, in the order of requests, and waits for the answer of the
    /// topic's owner. Gives up at a time, if there is one and the owner has not begun.
    pub(super) fn publish(
        &self,
        topic: &str,
        messages: Vec<OwnedPublication>,
        until: Option<Instant>,
    ) -> Result<Published, PublishError> {
        blocking::check()?;
        match blocking::wait_for(self.publish_when_room(topic, messages), until) {
            Some(pending) => await_until(pending?, until),
            None => Err(PublishError::Busy),
        }
    }

    /// Publishes if there is room for the messages now, and waits for the answer of the topic's owner for `timeout` at most. For
    /// requests of other programs, which are answered and not held: the owner refuses messages without room.
    ///
    /// # Errors
    /// As for [`Handle::publish_all`](crate::Handle::publish_all); [`PublishError::Busy`] if there is no room.
    pub fn publish_at_once(
        &self,
        topic: &str,
        messages: Vec<OwnedPublication>,
        timeout: Nanos,
    ) -> Result<Published, PublishError> {
        let pending = self.try_publish(topic, messages, WhenFull::Refuse)?;
        await_until(pending, Some(Instant::now() + Duration::from_nanos(timeout)))
    }

    /// The same for several topics at once. The results are in the order of the topics.
    pub fn publish_each_at_once(
        &self,
        topics: BTreeMap<String, Vec<OwnedPublication>>,
        timeout: Nanos,
    ) -> Vec<Result<Published, PublishError>> {
        let until = Some(Instant::now() + Duration::from_nanos(timeout));
        let publish = |(topic, messages): (String, _)| self.try_publish(&topic, messages, WhenFull::Refuse);
        let pending: Vec<_> = topics.into_iter().map(publish).collect();
        pending.into_iter().map(|pending| await_until(pending?, until)).collect()
    }

    /// Publishes without waiting.
    pub(crate) fn try_publish(
        &self,
        topic: &str,
        messages: Vec<OwnedPublication>,
        when_full: WhenFull,
    ) -> Result<PendingBatch, PublishError> {
        check_all(topic, &messages)?;
        let charge = self.outside.try_charge(&messages).ok_or(PublishError::Busy)?;
        self.send(topic, messages, charge, when_full)
    }

    /// Publishes as soon as there is room for the messages, in the order of requests.
    pub(super) async fn publish_when_room(
        &self,
        topic: &str,
        messages: Vec<OwnedPublication>,
    ) -> Result<PendingBatch, PublishError> {
        check_all(topic, &messages)?;
        let charge = self.outside.charge_when_room(&messages).await;
        self.send(topic, messages, charge, WhenFull::Wait)
    }

    /// Sends charged messages to the owner of their topic.
    fn send(
        &self,
        topic: &str,
        messages: Vec<OwnedPublication>,
        charge: Charge,
        when_full: WhenFull,
    ) -> Result<PendingBatch, PublishError> {
        let (reply, answer) = oneshot::channel();
        let claim = Claim::default();
        let pending = PendingBatch { answer, claim: claim.clone() };
        if messages.is_empty() {
            // Fails only if nobody asks.
            let _ = reply.send(Published::new());
            return Ok(pending);
        }
        let publish = PublishRequest {
            topic: topic.into(),
            published: Vec::with_capacity(messages.len()),
            messages,
            reply,
            claim,
            when_full,
            _charge: charge,
        };
        let home = &self.remotes[self.placement.owner(topic, self.remotes.len())];
        if !home.send(ControlMessage::Command(ShardCommand::Publish(publish))) {
            return Err(PublishError::Ended);
        }
        Ok(pending)
    }

    /// The answer of the shard that has a topic; `None` if it does not come in time.
    pub fn read_topic(&self, topic: &str, question: TopicQuestion) -> Option<TopicAnswer> {
        let owner = self.placement.owner(topic, self.remotes.len());
        let ask = |reply| ShardCommand::ReadTopic(TopicRead { topic: topic.into(), question, reply });
        self.ask_one(owner, Duration::from_nanos(SNAPSHOT_TIMEOUT), ask).ok()
    }

    /// Asks one shard about its open connections; `None` if it does not answer in time. A shard that has ended has none.
    pub fn scan(
        &self,
        shard: usize,
        filter: &ConnectionFilter,
        action: ScanAction,
        candidates: Candidates,
    ) -> Option<ScanReport> {
        let (patience, filter) = (action.patience(), filter.clone());
        let ask = |reply| ShardCommand::Connections(ConnectionScan { filter, action, candidates, reply });
        match self.ask_one(shard, patience, ask) {
            Err(RecvTimeoutError::Disconnected) => Some(ScanReport::default()),
            answer => answer.ok(),
        }
    }

    /// Has one shard follow a client, or all shards. They report until the order is over, or nobody takes the events any more.
    pub fn watch(&self, shard: Option<usize>, order: &WatchOrder) {
        let asked =
            self.remotes.iter().enumerate().filter(|(number, _)| shard.is_none_or(|only| only == *number));
        for (_, remote) in asked {
            // One that has ended follows nobody.
            remote.send(ControlMessage::Command(ShardCommand::Watch(order.clone())));
        }
    }

    /// The answer of one shard. A shard that has ended, or does not exist, gives none.
    fn ask_one<T>(
        &self,
        shard: usize,
        timeout: Duration,
        ask: impl FnOnce(mpsc::SyncSender<(usize, T)>) -> ShardCommand,
    ) -> Result<T, RecvTimeoutError> {
        blocking::check().map_err(|_| RecvTimeoutError::Timeout)?;
        let (sender, receiver) = mpsc::sync_channel(1);
        let remote = self.remotes.get(shard).ok_or(RecvTimeoutError::Disconnected)?;
        remote.send(ControlMessage::Command(ask(sender)));
        blocking::let_own_shards_answer();
        receiver.recv_timeout(timeout).map(|(_, answer)| answer)
    }

    /// Asks all shards. Those that do not answer within two seconds are left out.
    pub(crate) fn ask_all<T>(
        &self,
        ask: impl Fn(mpsc::SyncSender<(usize, T)>) -> ShardCommand,
    ) -> Result<Vec<(usize, T)>, OnShard> {
        self.gather(|reply| ControlMessage::Command(ask(reply)), |(shard, _)| *shard)
    }

    /// The answers of all shards to a message, in the order of the shards. Those that do not answer within two seconds are left out.
    pub(crate) fn gather<T>(
        &self,
        ask: impl Fn(mpsc::SyncSender<T>) -> ControlMessage<ShardCommand, HubReport>,
        shard_of: impl Fn(&T) -> usize,
    ) -> Result<Vec<T>, OnShard> {
        let (mut answers, _) = self.gather_in_time(ask)?;
        answers.sort_by_key(shard_of);
        Ok(answers)
    }

    /// The answers of all shards to a message within two seconds, and whether there are no others: those that have ended give none.
    pub(crate) fn gather_in_time<T>(
        &self,
        ask: impl Fn(mpsc::SyncSender<T>) -> ControlMessage<ShardCommand, HubReport>,
    ) -> Result<(Vec<T>, bool), OnShard> {
        blocking::check()?;
        let (sender, receiver) = mpsc::sync_channel(self.remotes.len());
        for remote in self.remotes.iter() {
            remote.send(ask(sender.clone()));
        }
        drop(sender);
        blocking::let_own_shards_answer();
        let mut answers = Vec::new();
        loop {
            match receiver.recv_timeout(Duration::from_nanos(SNAPSHOT_TIMEOUT)) {
                Ok(answer) => answers.push(answer),
                Err(error) => return Ok((answers, error == RecvTimeoutError::Disconnected)),
            }
        }
    }
}

/// Waits for the results, until a time if the owner has not begun by then.
fn await_until(mut pending: PendingBatch, until: Option<Instant>) -> Result<Published, PublishError> {
    match blocking::wait_for(&mut pending, until) {
        Some(published) => published,
        // Nothing of the request will be published, so a retry makes no duplicates.
        None if pending.claim.take() => Err(PublishError::Busy),
        // The shard has begun, and a shard never blocks.
        None => blocking::wait_for(pending, None).unwrap_or(Err(PublishError::Ended)),
    }
}

/// Taken by the shard, which then publishes, or by the publisher, which then stops waiting. The first one wins.
#[derive(Clone, Debug, Default)]
struct Claim(Arc<AtomicBool>);

impl Claim {
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// Whether messages may be published, by their own content alone.
fn check_all(topic: &str, messages: &[OwnedPublication]) -> Result<(), PublishError> {
    if !is_topic_name(topic) {
        return Err(PublishError::BadTopic);
    }
    if messages.len() as u64 > OUTSIDE_MESSAGES_MAX {
        return Err(PublishError::TooMany);
    }
    for (at, message) in messages.iter().enumerate() {
        publications::check(&message.for_topic(topic), at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
