//! Commands of other threads to the shards: publish to a topic, and report about topics.
//!
//! A command goes straight to the shards that it concerns, which answer within their ticks. A shard never waits for the
//! sender, and pending publications are bounded by [`OUTSIDE_MESSAGES_MAX`] and [`OUTSIDE_BYTES_MAX`].

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::limits::{OUTSIDE_BYTES_PER_TICK, OUTSIDE_MESSAGES_MAX, SNAPSHOT_TIMEOUT};
use echoring_cluster::Ticket;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Driver;
use echoring_runtime::shard::{Bridge, Context, ControlMessage, Remote};
use echoring_topics::{ExportCursor, HubReport, ImportError, OwnedTopicId, TopicReport};
use echoring_topics::{Placement, Position, Refused};

use crate::auth::{AppAnswered, AuthCommand};
use crate::blocking;
use crate::broadcast::publish::OperatorPublished;
use crate::broadcast::shard_mail::ShardMail;
use crate::broadcast::{Broadcast, TopicAnswer, TopicQuestion, TopicRead};
use crate::cluster::ClusterEvent;
use crate::config::ServerConfig;
use crate::connections::ConnectionScan;
use crate::handover::ClientNumbers;
use crate::outside::{Charge, Outside};
use crate::peer::ServerApplication;
use crate::publications::{self, OwnedPublication, PublishError, Published};
use crate::sender::{Inlet, SenderMail};
use crate::validation::is_topic_name;

/// A command to a shard. A shard that ends drops it unanswered.
#[derive(Debug)]
pub enum ShardCommand {
    /// Publish to a topic that the shard owns.
    Publish(PublishRequest),
    /// Use the part of this configuration that a running server can change.
    Configure(Arc<ServerConfig>, mpsc::SyncSender<(usize, ())>),
    /// Report about all topics.
    Topics(mpsc::SyncSender<(usize, Vec<TopicReport>)>),
    /// Takeover: post no more requests. `done` is told once the shard's topics change no more.
    Freeze {
        /// The attempt.
        round: u32,
        /// Gets the number of the shard.
        done: mpsc::SyncSender<usize>,
    },
    /// Takeover: it has failed.
    Thaw,
    /// Takeover: export a block of the shard's topics.
    Export {
        /// Where the block begins.
        cursor: ExportCursor,
        /// About its size in bytes.
        bytes_max: usize,
        /// Gets the block and the beginning of the next one.
        reply: mpsc::SyncSender<(Vec<u8>, Option<ExportCursor>)>,
    },
    /// Takeover: the successor orders everything from now on.
    Follow {
        /// The bridge to its shards.
        bridge: Bridge<ShardMail>,
        /// Maximum message size of the successor in bytes.
        message_bytes_max: u64,
    },
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
        /// Told when the shard has it.
        reply: mpsc::SyncSender<()>,
    },
    /// Takeover: the predecessor has ended, with these clients.
    ForgetPredecessor(ClientNumbers),
    /// Takeover: the successor is lost.
    LoseSuccessor,
    /// Report about the topic of this name, if the shard knows it.
    Topic(Box<str>, mpsc::SyncSender<(usize, Option<TopicReport>)>),
    /// Read what the shard keeps of a topic that it owns.
    ReadTopic(TopicRead),
    /// A command about authentication.
    Auth(AuthCommand),
    /// From a sender to a connection.
    Sender(SenderMail),
    /// The application has answered.
    App(AppAnswered),
    /// Report about open connections, or close them.
    Connections(ConnectionScan),
    /// What the cluster thread has for the shard.
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
    /// Their charge against the bound of the node, until they are dropped.
    _charge: Charge,
}

/// Publish requests that a shard has not finished. The node-wide charge bounds them.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    queue: VecDeque<PublishRequest>,
    /// Those whose next message another node decides about.
    undecided: BTreeMap<Ticket, PublishRequest>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn push(&mut self, request: PublishRequest) {
        self.queue.push_back(request);
    }

    /// Publishes the share of one tick, before subscribers are sent anything.
    #[inline(never)]
    pub(super) fn publish<D: Driver, A: ServerApplication>(
        &mut self,
        broadcast: &mut Broadcast,
        cx: &mut Context<'_, D, A>,
    ) {
        let mut room_bytes = OUTSIDE_BYTES_PER_TICK;
        while room_bytes > 0
            && let Some(publish) = self.queue.front_mut()
        {
            match publish.resume(broadcast, cx, &mut room_bytes) {
                Progress::Paused => {}
                Progress::Finished => {
                    self.queue.pop_front().into_iter().for_each(PublishRequest::finish);
                }
                Progress::Undecided(ticket) => {
                    self.undecided.extend(self.queue.pop_front().map(|request| (ticket, request)));
                }
            }
        }
    }

    /// Other nodes have decided. The requests go on with their next messages.
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
    /// It goes on in the next tick.
    Paused,
    Finished,
    /// Another node decides about its next message.
    Undecided(Ticket),
}

impl PublishRequest {
    /// Publishes further messages until `room_bytes` is used up.
    fn resume<D: Driver, A: ServerApplication>(
        &mut self,
        broadcast: &mut Broadcast,
        cx: &mut Context<'_, D, A>,
        room_bytes: &mut usize,
    ) -> Progress {
        // At least one message has room here, so a claimed request has always begun.
        if self.published.is_empty() && !self.claim.take() {
            return Progress::Finished;
        }
        while let Some(message) = self.messages.get(self.published.len()) {
            if *room_bytes == 0 {
                return Progress::Paused;
            }
            *room_bytes = room_bytes.saturating_sub(message.bytes() as usize);
            // After a refusal that will pass, the remaining messages are refused too, so that the publisher can
            // continue in order.
            let hindered = self.published.last().copied().filter(|last| last.is_err_and(Refused::is_passing));
            let published = match hindered {
                Some(hindered) => {
                    broadcast.refuse_for_operator();
                    hindered.map(OperatorPublished::Now)
                }
                None => broadcast.publish_for_operator(
                    cx,
                    &self.topic,
                    message.as_publication(),
                    &message.idempotency_key,
                ),
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

/// The results of messages that are on their way to their topic's owner. Await it, or call [`wait`](PendingPublish::wait). Dropping
/// it does not take the messages back.
///
/// ```
/// use echoring::server::{Handle, OwnedPublication, PublishError};
///
/// async fn tell(server: &Handle) -> Result<(), PublishError> {
///     let pending = server.try_publish("news", vec![OwnedPublication::text("hello")])?;
///     // Something else in the meantime.
///     println!("{:?}", pending.await?);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use = "the messages may be refused"]
pub struct PendingPublish {
    answer: oneshot::Receiver<Published>,
    claim: Claim,
}

impl PendingPublish {
    /// Blocks until the topic's owner has answered.
    ///
    /// # Errors
    /// [`PublishError::Ended`] if the server has ended, [`PublishError::OnShard`] on the thread of a shard.
    pub fn wait(self) -> Result<Published, PublishError> {
        if blocking::is_shard() {
            return Err(PublishError::OnShard);
        }
        blocking::wait_for(self, None).unwrap_or(Err(PublishError::Ended))
    }
}

impl Future for PendingPublish {
    type Output = Result<Published, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Result<Published, PublishError>> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.map_err(|_| PublishError::Ended))
    }
}

/// Sends commands to the shards of a server from any thread, and bounds the pending publications.
#[derive(Clone, Debug)]
pub(super) struct CommandSender {
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

    /// Publishes, and waits for the answer of the topic's owner for `timeout` at most.
    pub(super) fn publish(
        &self,
        topic: &str,
        messages: Vec<OwnedPublication>,
        timeout: Nanos,
    ) -> Result<Published, PublishError> {
        if blocking::is_shard() {
            return Err(PublishError::OnShard);
        }
        let mut pending = self.try_publish(topic, messages)?;
        let until = Instant::now() + Duration::from_nanos(timeout);
        match blocking::wait_for(&mut pending, Some(until)) {
            Some(published) => published,
            // Nothing of the request will be published, so a retry makes no duplicates.
            None if pending.claim.take() => Err(PublishError::Busy),
            // The shard has begun, and a shard never blocks.
            None => blocking::wait_for(pending, None).unwrap_or(Err(PublishError::Ended)),
        }
    }

    /// Publishes without waiting.
    pub(super) fn try_publish(
        &self,
        topic: &str,
        messages: Vec<OwnedPublication>,
    ) -> Result<PendingPublish, PublishError> {
        check_all(topic, &messages)?;
        let charge = self.outside.try_charge(&messages).ok_or(PublishError::Busy)?;
        self.send(topic, messages, charge)
    }

    /// Publishes as soon as there is room for the messages, in the order in which others wait for it.
    pub(super) async fn publish_when_room(
        &self,
        topic: &str,
        messages: Vec<OwnedPublication>,
    ) -> Result<PendingPublish, PublishError> {
        check_all(topic, &messages)?;
        let charge = self.outside.charge_when_room(&messages).await;
        self.send(topic, messages, charge)
    }

    /// Sends charged messages to the owner of their topic.
    fn send(
        &self,
        topic: &str,
        messages: Vec<OwnedPublication>,
        charge: Charge,
    ) -> Result<PendingPublish, PublishError> {
        let (reply, answer) = oneshot::channel();
        let claim = Claim::default();
        let pending = PendingPublish { answer, claim: claim.clone() };
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
            _charge: charge,
        };
        let home = &self.remotes[self.placement.owner(topic, self.remotes.len())];
        if !home.send(ControlMessage::Command(ShardCommand::Publish(publish))) {
            return Err(PublishError::Ended);
        }
        Ok(pending)
    }

    /// Has all shards use another configuration, and waits for them.
    pub(super) fn configure(&self, config: &Arc<ServerConfig>) {
        self.ask_all(|reply| ShardCommand::Configure(Arc::clone(config), reply));
    }

    /// The topics of every shard, by the shard's number, without shards that do not answer in time.
    pub(super) fn topics(&self) -> Vec<(usize, Vec<TopicReport>)> {
        self.ask_all(ShardCommand::Topics)
    }

    /// The reports about one topic.
    pub(super) fn topic(&self, name: &str) -> Vec<(usize, Option<TopicReport>)> {
        self.ask_all(|reply| ShardCommand::Topic(name.into(), reply))
    }

    /// The answer of the shard that has a topic; `None` if it does not come in time.
    pub(super) fn read_topic(&self, topic: &str, question: TopicQuestion) -> Option<TopicAnswer> {
        let owner = self.placement.owner(topic, self.remotes.len());
        let ask = |reply| ShardCommand::ReadTopic(TopicRead { topic: topic.into(), question, reply });
        self.ask_one(owner, SNAPSHOT_TIMEOUT, ask)
    }

    /// The answer of one shard; `None` if it does not come in time.
    pub(crate) fn ask_one<T>(
        &self,
        shard: usize,
        timeout: Nanos,
        ask: impl FnOnce(mpsc::SyncSender<(usize, T)>) -> ShardCommand,
    ) -> Option<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.remotes.get(shard)?.send(ControlMessage::Command(ask(sender)));
        blocking::let_own_shards_answer();
        let (_, answer) = receiver.recv_timeout(Duration::from_nanos(timeout)).ok()?;
        Some(answer)
    }

    fn ask_all<T>(&self, ask: impl Fn(mpsc::SyncSender<(usize, T)>) -> ShardCommand) -> Vec<(usize, T)> {
        let (sender, receiver) = mpsc::sync_channel(self.remotes.len());
        let asked = self
            .remotes
            .iter()
            .filter(|remote| remote.send(ControlMessage::Command(ask(sender.clone()))))
            .count();
        drop(sender);
        blocking::let_own_shards_answer();
        let mut answers: Vec<(usize, T)> = (0..asked)
            .map_while(|_| receiver.recv_timeout(Duration::from_nanos(SNAPSHOT_TIMEOUT)).ok())
            .collect();
        answers.sort_by_key(|(shard, _)| *shard);
        answers
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

/// Whether messages may be published as far as they alone can tell.
fn check_all(topic: &str, messages: &[OwnedPublication]) -> Result<(), PublishError> {
    if !is_topic_name(topic) {
        return Err(PublishError::BadTopic);
    }
    if messages.len() as u64 > OUTSIDE_MESSAGES_MAX {
        return Err(PublishError::TooMany);
    }
    for (at, message) in messages.iter().enumerate() {
        publications::check(topic, &message.as_publication(), &message.idempotency_key, at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServerConfig;
    use crate::limits::JSON_DEPTH_MAX;
    use crate::service::Service;
    use echoring_proto::buffer::{Budget, Lease};
    use echoring_proto::limits::{MILLISECOND, SECOND};
    use echoring_runtime::driver::epoll::Epoll;
    use echoring_runtime::driver::{Features, Options};
    use echoring_runtime::shard::{self, Allowance, Application, Mailboxes, Security, Shard};
    use echoring_topics::Content;
    use echoring_topics::limits::{KEY_BYTES_MAX, TOPIC_BYTES_MAX};
    use std::thread;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// The only shard of a server, whose ticks the test runs.
    fn shard() -> (Shard<Epoll, Service>, CommandSender) {
        let options =
            Options { connections: 4, without: Features::NONE, receive_bytes: 0, finds_addresses: false };
        let config = ServerConfig::default();
        let shard_config = shard::ShardConfig {
            connection: config.connection(),
            connections: 4,
            security: Security::default(),
            seed: 1.into(),
        };
        let mailboxes = Mailboxes::connect(1, 1 << 20).remove(0);
        let driver = Epoll::new(&options).expect("epoll");
        let topics = Lease::new(Budget::new(64), 64);
        let placement = Placement::new(1);
        let node = crate::shard_thread::NodeIdentity { placement, first_number: 0, digest_seed: 1 };
        let service =
            crate::shard_thread::service(&config, Arc::default(), topics, Default::default(), 1, node);
        let shard = Shard::new(driver, service, shard_config, Allowance::standalone(4), mailboxes);
        let commands = CommandSender::new([shard.remote()].into(), placement);
        (shard, commands)
    }

    fn owned(content: Content, key: &str, payload: &[u8]) -> OwnedPublication {
        let idempotency_key = "".into();
        OwnedPublication { content, key: key.into(), idempotency_key, payload: payload.to_vec() }
    }

    fn texts(count: usize) -> Vec<OwnedPublication> {
        vec![owned(Content::Text, "", b"m"); count]
    }

    fn waiting(commands: &CommandSender) -> (u64, u64) {
        commands.outside.charged()
    }

    /// Runs ticks of the shard until the publisher has its answer.
    fn answer<T>(shard: &mut Shard<Epoll, Service>, publisher: thread::JoinHandle<T>) -> T {
        let given_up = Instant::now() + PATIENCE;
        while !publisher.is_finished() {
            assert!(Instant::now() < given_up, "no answer");
            assert!(shard.tick(Some(0)).expect("epoll works"), "it goes on");
        }
        publisher.join().expect("no panic")
    }

    #[test]
    fn what_waits_is_bounded_and_there_is_room_again_when_it_was_answered() {
        let (mut shard, commands) = shard();
        let publish = |count| {
            let commands = commands.clone();
            thread::spawn(move || commands.publish("t", texts(count), PATIENCE.as_nanos() as Nanos))
        };
        let most = OUTSIDE_MESSAGES_MAX as usize;
        let publishers = [publish(most - 1), publish(1)];
        let given_up = Instant::now() + PATIENCE;
        while waiting(&commands).0 < OUTSIDE_MESSAGES_MAX {
            assert!(Instant::now() < given_up, "they do not come to wait");
            thread::yield_now();
        }
        assert_eq!(commands.publish("t", texts(1), SECOND), Err(PublishError::Busy), "at once");
        let mut offsets: Vec<u64> = publishers
            .into_iter()
            .flat_map(|publisher| answer(&mut shard, publisher).expect("in time"))
            .map(|published| published.expect("taken").offset)
            .collect();
        offsets.sort_unstable();
        assert_eq!(offsets, (1..=OUTSIDE_MESSAGES_MAX).collect::<Vec<_>>());
        assert_eq!(waiting(&commands), (0, 0));
        assert_eq!(answer(&mut shard, publish(1)).expect("in time").len(), 1);
    }

    /// Publishes on another thread as asynchronous code does.
    fn publish_async(
        commands: &CommandSender,
        messages: Vec<OwnedPublication>,
    ) -> thread::JoinHandle<Result<Published, PublishError>> {
        let commands = commands.clone();
        thread::spawn(move || {
            let publishing = async { commands.publish_when_room("t", messages).await?.await };
            blocking::wait_for(publishing, None).expect("no deadline")
        })
    }

    #[test]
    fn asynchronous_publishers_wait_for_room() {
        let (mut shard, commands) = shard();
        let all = commands.try_publish("t", texts(OUTSIDE_MESSAGES_MAX as usize)).expect("room");
        let mut publishers = Vec::new();
        for waiting in 1..=3 {
            publishers.push(publish_async(&commands, texts(waiting)));
            let given_up = Instant::now() + PATIENCE;
            while commands.outside.waiting() < waiting {
                assert!(Instant::now() < given_up, "they do not come to wait");
                thread::yield_now();
            }
        }
        assert_eq!(commands.try_publish("t", texts(1)).err(), Some(PublishError::Busy), "at once");
        let mut offsets: Vec<u64> = publishers
            .into_iter()
            .flat_map(|publisher| answer(&mut shard, publisher).expect("no end"))
            .map(|published| published.expect("taken").offset)
            .collect();
        // Room is given in order. Then the threads race for the shard.
        offsets.sort_unstable();
        assert!(offsets.into_iter().eq(OUTSIDE_MESSAGES_MAX + 1..=OUTSIDE_MESSAGES_MAX + 6));
        assert_eq!(all.wait().expect("no end").len() as u64, OUTSIDE_MESSAGES_MAX);
        assert_eq!((waiting(&commands), commands.outside.waiting()), ((0, 0), 0));
    }

    #[test]
    fn whoever_waits_for_room_learns_of_the_end() {
        let (shard, commands) = shard();
        let all = commands.try_publish("t", texts(OUTSIDE_MESSAGES_MAX as usize)).expect("room");
        let publishers: Vec<_> = (0..3).map(|_| publish_async(&commands, texts(1))).collect();
        let given_up = Instant::now() + PATIENCE;
        while commands.outside.waiting() < publishers.len() {
            assert!(Instant::now() < given_up, "they do not come to wait");
            thread::yield_now();
        }
        drop(shard);
        assert_eq!(all.wait(), Err(PublishError::Ended));
        for publisher in publishers {
            assert_eq!(publisher.join().expect("no panic"), Err(PublishError::Ended));
        }
        assert_eq!((waiting(&commands), commands.outside.waiting()), ((0, 0), 0));
    }

    #[test]
    fn a_batch_goes_on_behind_a_message_that_no_retry_saves() {
        let (mut shard, commands) = shard();
        let too_large =
            owned(Content::Binary, "", &vec![0; echoring_proto::limits::MESSAGE_BYTES_DEFAULT as usize + 1]);
        let batch = [texts(2), vec![too_large], texts(2)].concat();
        let publisher = publish_async(&commands, batch);
        let published = answer(&mut shard, publisher).expect("no end");
        let offsets: Vec<_> = published.iter().map(|result| result.map(|position| position.offset)).collect();
        assert_eq!(offsets, [Ok(1), Ok(2), Err(Refused::TooLarge), Ok(3), Ok(4)]);
        let counted = shard.application().report().publications;
        assert_eq!((counted.published, counted.accepted, counted.refused), (5, 4, 1));
    }

    #[test]
    fn what_its_publisher_gave_up_is_not_published_later() {
        let (mut shard, commands) = shard();
        assert_eq!(commands.publish("t", texts(3), MILLISECOND), Err(PublishError::Busy));
        let publisher = thread::spawn({
            let commands = commands.clone();
            move || commands.publish("t", texts(1), PATIENCE.as_nanos() as Nanos)
        });
        let published = answer(&mut shard, publisher).expect("in time");
        assert_eq!(published[0].expect("taken").offset, 1);
        assert_eq!(waiting(&commands), (0, 0));
    }

    #[test]
    fn names_keys_and_numbers_past_their_bounds_reach_no_shard() {
        let (shard, commands) = shard();
        let publish = |topic: &str, messages| commands.publish(topic, messages, SECOND);
        assert_eq!(publish("", texts(1)), Err(PublishError::BadTopic));
        for name in ["\0", "a\nb", "\u{7f}", "\u{85}", &"t".repeat(TOPIC_BYTES_MAX + 1)] {
            assert_eq!(publish(name, texts(1)), Err(PublishError::BadTopic), "{name:?}");
        }
        let deep = "[".repeat(JSON_DEPTH_MAX + 1) + &"]".repeat(JSON_DEPTH_MAX + 1);
        let deep = owned(Content::Json, "", deep.as_bytes());
        assert_eq!(publish("t", [texts(1), vec![deep]].concat()), Err(PublishError::TooDeep(1)));
        let most = OUTSIDE_MESSAGES_MAX as usize;
        assert_eq!(publish("t", texts(most + 1)), Err(PublishError::TooMany));
        let mut messages = texts(2);
        messages[1].key = "k".repeat(KEY_BYTES_MAX + 1).into();
        assert_eq!(publish("t", messages), Err(PublishError::BadKey(1)));
        assert_eq!(publish("t", texts(0)), Ok(Vec::new()));
        drop(shard);
        assert_eq!(publish("t", texts(1)), Err(PublishError::Ended));
        assert!(commands.topics().is_empty());
    }

    #[test]
    fn topics_are_told_about_by_the_shards_that_know_them() {
        let (mut shard, commands) = shard();
        let asked = thread::spawn(move || {
            let published = commands.publish("t", texts(2), PATIENCE.as_nanos() as Nanos);
            (published, commands.topics(), commands.topic("t"), commands.topic("u"))
        });
        let (published, topics, known, unknown) = answer(&mut shard, asked);
        let last = published.expect("in time")[1].expect("taken");
        let [(0, ref reports)] = topics[..] else { panic!("{topics:?}") };
        let [ref report] = reports[..] else { panic!("{reports:?}") };
        let home = report.owner.as_ref().expect("its home is here");
        assert_eq!((home.epoch, home.offset, home.publications.accepted), (last.epoch, last.offset, 2));
        assert_eq!(home.payload_bytes, 2);
        assert_eq!(known[0].1.as_ref().map(|report| &*report.name), Some("t"));
        assert_eq!(unknown, [(0, None)]);
    }
}
