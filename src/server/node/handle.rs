//! [`Handle`]: access to a running server from any thread. Everything goes to the shards as messages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use crate::cluster::ClusterNode;
use crate::commands::move_order::Staying;
use crate::commands::{CommandSender, PendingBatch, PendingPublish, ShardCommand, WhenFull, only};
use crate::limits::BROKEN_DRAIN_TIMEOUT;
use crate::node::backends::UsedBackends;
use crate::node::config::{KnownClients, ServerConfig};
use crate::node::identity::NodeIdentity;
use crate::node::listeners::InheritedListener;
use crate::node::reconfigure::LiveLimits;
use crate::node::watchdog::Watchdog;
use crate::processes::ProcessLink;
use echoring_async::limits::DRAIN_TIMEOUT;
use echoring_auth::{Authenticator, BackendFigures, KeySetState};
use echoring_broker::gate::{AuthCounters, AuthFigures, KeySetFigures, unix_now};
use echoring_broker::node_mail::StreamCommand;
use echoring_broker::publications::{OnShard, OwnedPublication, PublishError, Published};
use echoring_cluster::StreamAnswer;
use echoring_proto::connection::{MessageProgress, nanos};
use echoring_proto::limits::{Nanos, SECOND};
use echoring_runtime::admission::PeerLimits;
use echoring_runtime::shard::{ControlMessage, DrainPlan, Exits, Goodbye, Lifetime, Remote};
use echoring_runtime::stats;
use echoring_topics::{CreationLimits, HubReport, Position, TopicReport};

/// The state of a shard between two ticks.
///
/// ```
/// use echoring::server::{OnShard, Server};
///
/// fn connections(server: &Server) -> Result<u64, OnShard> {
///     Ok(server.handle().snapshots()?.iter().map(|snapshot| snapshot.connections).sum())
/// }
/// ```
pub type Snapshot = stats::Snapshot<HubReport>;

/// Publishes to the topics of a running server, shows its state and drains it, from any thread or task. Cheap to clone; made by
/// [`Server::handle`](crate::Server::handle).
///
/// ```
/// use std::time::Duration;
///
/// use echoring::server::{PublishError, Server};
///
/// fn announce(server: &Server) -> Result<(), PublishError> {
///     let handle = server.handle();
///     // On any thread, as long as the server runs.
///     handle.publish("news", "we restart")?;
///     handle.drain_within(Duration::from_secs(30));
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) remotes: Arc<[Remote<ShardCommand, HubReport>]>,
    pub(crate) commands: CommandSender,
    pub(crate) limits: Arc<LiveLimits>,
    pub(crate) watchdog: Arc<Watchdog>,
    pub(crate) failure: Arc<FailureState>,
    pub(crate) auth_counters: Arc<AuthCounters>,
    pub(crate) known: KnownClients,
    pub(crate) backends: Arc<UsedBackends>,
    /// The limits on clients that hold.
    pub(crate) client_limits: Arc<Mutex<ClientLimits>>,
    /// The answer of `/readyz`.
    pub(crate) readiness: Readiness,
    /// Listeners that are kept for a successor, until this server drains.
    pub(crate) kept: Arc<Mutex<Vec<InheritedListener>>>,
    /// The ways on which connections leave the shards.
    pub(crate) exits: Arc<Exits>,
    /// Whether shards are balanced without being asked to.
    pub(crate) rebalances: Arc<AtomicBool>,
    /// The link to another process.
    pub(crate) link: Arc<ProcessLink>,
    /// What its topics and clients are known by.
    pub(crate) identity: NodeIdentity,
    /// The server's part in its cluster.
    pub(crate) cluster: Option<ClusterNode>,
}

/// The limits on clients that can change while the server runs.
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// Those for each address, connection and identity.
    pub peers: Arc<PeerLimits>,
    /// Maximum bytes of a request's head.
    pub max_header: usize,
    /// The rate at which a long message must arrive.
    pub message_progress: MessageProgress,
    /// How long connections last.
    pub lifetime: Lifetime,
    /// Maximum topics of one connection.
    pub max_subscriptions: u32,
    /// How many topics a connection or an identity may create.
    pub creation: CreationLimits,
}

impl ClientLimits {
    pub(crate) fn of(config: &ServerConfig) -> ClientLimits {
        let ServerConfig { peers, connection, lifetime, max_subscriptions, creation, .. } = config;
        ClientLimits {
            peers: Arc::clone(peers),
            max_header: connection.max_header,
            message_progress: connection.message_progress,
            lifetime: *lifetime,
            max_subscriptions: *max_subscriptions,
            creation: *creation,
        }
    }
}

/// Whether load balancers may send clients, for all shards and the control thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness {
    draining: Arc<AtomicBool>,
    cluster: Option<ClusterNode>,
    /// The current authenticator of clients. It ends with the shards.
    auth: Arc<Mutex<Weak<Authenticator>>>,
}

impl Readiness {
    pub(crate) fn of(cluster: Option<ClusterNode>, auth: Option<&Arc<Authenticator>>) -> Readiness {
        let readiness = Readiness { cluster, ..Readiness::default() };
        readiness.set_auth(auth);
        readiness
    }

    pub(crate) fn set_auth(&self, auth: Option<&Arc<Authenticator>>) {
        let auth = auth.map_or_else(Weak::new, Arc::downgrade);
        *self.auth.lock().unwrap_or_else(PoisonError::into_inner) = auth;
    }

    /// The state of the key set; `None` without one.
    fn key_set(&self) -> Option<KeySetState> {
        let auth = self.auth.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        auth?.key_set()
    }

    pub(crate) fn unready(&self) -> Option<NotReady> {
        if self.draining.load(Ordering::Relaxed) {
            return Some(NotReady::Draining);
        }
        let without_keys = self.key_set().filter(|set| set.read_at.is_none()).map(|_| NotReady::NoKeySet);
        self.cluster.as_ref().and_then(ClusterNode::unready).or(without_keys)
    }
}

/// Why load balancers should send no clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// The server drains, or was told to be not ready.
    Draining,
    /// The key set was never read, so that no token can be checked.
    NoKeySet,
    /// The node does not own topics, or has no connection to the others.
    NotInCluster,
    /// Another node has not acknowledged messages for long.
    LinkBehind,
}

impl NotReady {
    /// The answer of `/readyz`.
    pub fn line(self) -> &'static str {
        match self {
            NotReady::Draining => "draining\n",
            NotReady::NoKeySet => "the key set of [auth] has not been read yet\n",
            NotReady::NotInCluster => "not in the cluster\n",
            NotReady::LinkBehind => "a link of the cluster is behind\n",
        }
    }
}

/// A drain that closes connections one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacedDrain {
    /// Time from the first close to the end. The last quarter of it, at most eight seconds, is for clients that are slow.
    pub time: Duration,
    /// Maximum number of connections that are closed per second. It takes precedence over `time` until that is over.
    pub per_second_max: u32,
}

impl Handle {
    /// A snapshot of each shard, taken between two of its ticks. Blocks for at most two seconds; a shard that does not
    /// answer is omitted.
    ///
    /// # Errors
    /// On the thread of a shard.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, OnShard> {
        self.commands.gather(ControlMessage::Snapshot, |snapshot| snapshot.shard)
    }

    /// Publishes a message to a topic, as the operator: also where clients may not publish. Waits until there is room
    /// for it, in turn with other threads and tasks, and until the topic's owner answers with its position. So a thread
    /// that publishes its input runs at the pace of the server, and nothing is lost. A call is one round trip: for
    /// throughput, publish [several messages](Handle::publish_all) at once.
    ///
    /// Blocks this thread, without a time limit while a shard is stuck: see [`publish_timeout`](Handle::publish_timeout).
    /// Asynchronous code uses [`publish_async`](Handle::publish_async).
    ///
    /// # Errors
    /// Nothing was published, except for [`Refused::Uncertain`](crate::Refused::Uncertain) in a cluster.
    /// [`PublishError::Refused`] has the reason of the topic or the node; a server that drains is
    /// [`Refused::Draining`](crate::Refused::Draining), and one that has ended, also while this waits, [`PublishError::Ended`].
    /// [`PublishError::OnShard`] on the thread of a shard, where handlers run: nothing may block there. Never
    /// [`PublishError::Busy`].
    ///
    /// ```
    /// use std::io::BufRead;
    ///
    /// use echoring::server::Handle;
    ///
    /// /// Publishes each line of a feed, from a thread of its own.
    /// fn forward(feed: impl BufRead, server: &Handle) -> Result<(), Box<dyn std::error::Error>> {
    ///     for line in feed.lines() {
    ///         let position = server.publish("news", line?)?;
    ///         println!("message {}", position.offset);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn publish(
        &self,
        topic: &str,
        message: impl Into<OwnedPublication>,
    ) -> Result<Position, PublishError> {
        self.commands.publish(topic, vec![message.into()], None).and_then(only)
    }

    /// [`publish`](Handle::publish), for as long as `timeout`. A message that its topic's owner has accepted by then is
    /// awaited.
    ///
    /// # Errors
    /// As for `publish`; [`PublishError::Busy`] after the time, when nothing was or will be published.
    pub fn publish_timeout(
        &self,
        topic: &str,
        message: impl Into<OwnedPublication>,
        timeout: Duration,
    ) -> Result<Position, PublishError> {
        // A time that cannot be expressed never comes.
        let until = Instant::now().checked_add(timeout);
        self.commands.publish(topic, vec![message.into()], until).and_then(only)
    }

    /// Publishes several messages to a topic in this order, with one round trip, as [`publish`](Handle::publish) does with one. Each
    /// has its own result. After a temporary refusal ([`Refused::is_passing`](crate::Refused::is_passing)) the remaining messages are
    /// refused too, so that the caller can continue in order.
    ///
    /// # Errors
    /// As for `publish`, with nothing published; a refused message is a result. [`PublishError::TooMany`] for more than
    /// [`OUTSIDE_MESSAGES_MAX`](echoring_broker::limits::OUTSIDE_MESSAGES_MAX) messages.
    ///
    /// ```
    /// use echoring::server::{Handle, OwnedPublication, PublishError};
    ///
    /// /// Publishes prices, each of which replaces the one before of its symbol.
    /// fn tell(server: &Handle, prices: &[(&str, f64)]) -> Result<(), PublishError> {
    ///     let messages = prices.iter().map(|(symbol, bid)| OwnedPublication::json(bid.to_string()).key(*symbol));
    ///     for result in server.publish_all("prices", messages)? {
    ///         result?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn publish_all<M: Into<OwnedPublication>>(
        &self,
        topic: &str,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Published, PublishError> {
        self.commands.publish(topic, owned(messages), None)
    }

    /// Publishes a message without waiting: it is on its way to the topic's owner when this returns. The position may be awaited, in
    /// any runtime, waited for, or not. From handlers, and from code that may neither block nor wait.
    ///
    /// # Errors
    /// As for [`publish`](Handle::publish), but never [`PublishError::OnShard`]. [`PublishError::Busy`] is back-pressure: others wait
    /// for room, or more than [`OUTSIDE_MESSAGES_MAX`](echoring_broker::limits::OUTSIDE_MESSAGES_MAX) messages or
    /// [`OUTSIDE_BYTES_MAX`](echoring_broker::limits::OUTSIDE_BYTES_MAX) bytes would be on their way. A refusal is the result later, and so is
    /// [`PublishError::Ended`] if the server ends first.
    pub fn try_publish(
        &self,
        topic: &str,
        message: impl Into<OwnedPublication>,
    ) -> Result<PendingPublish, PublishError> {
        self.commands.try_publish(topic, vec![message.into()], WhenFull::Wait).map(PendingPublish)
    }

    /// [`publish_all`](Handle::publish_all) without waiting, as [`try_publish`](Handle::try_publish).
    ///
    /// # Errors
    /// As for those.
    pub fn try_publish_all<M: Into<OwnedPublication>>(
        &self,
        topic: &str,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<PendingBatch, PublishError> {
        self.commands.try_publish(topic, owned(messages), WhenFull::Wait)
    }

    /// [`publish`](Handle::publish) in asynchronous code of any runtime: waits for room, in the same order, and then for the position.
    /// A waiting publisher keeps its own message.
    ///
    /// Dropping the future while it waits for room publishes nothing; later, the message is on its way.
    ///
    /// # Errors
    /// As for `publish`, but never [`PublishError::OnShard`].
    ///
    /// ```
    /// use echoring::server::{Handle, PublishError};
    ///
    /// /// Publishes what a feed yields, at the pace of the server.
    /// async fn forward(server: &Handle, lines: impl Iterator<Item = String>) -> Result<(), PublishError> {
    ///     for line in lines {
    ///         server.publish_async("news", line).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub async fn publish_async(
        &self,
        topic: &str,
        message: impl Into<OwnedPublication>,
    ) -> Result<Position, PublishError> {
        self.commands.publish_when_room(topic, vec![message.into()]).await?.await.and_then(only)
    }

    /// [`publish_all`](Handle::publish_all) in asynchronous code, as [`publish_async`](Handle::publish_async).
    ///
    /// # Errors
    /// As for those.
    pub async fn publish_all_async<M: Into<OwnedPublication>>(
        &self,
        topic: &str,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Published, PublishError> {
        self.commands.publish_when_room(topic, owned(messages)).await?.await
    }

    /// The reports of each shard about its topics, with the shard's number. Blocks for at most two seconds; a shard
    /// that does not answer is omitted.
    ///
    /// # Errors
    /// On the thread of a shard.
    pub fn topics(&self) -> Result<Vec<(usize, Vec<TopicReport>)>, OnShard> {
        self.commands.ask_all(ShardCommand::Topics)
    }

    /// The report of each shard about one topic; `None` from a shard that does not know it. Blocks as
    /// [`topics`](Handle::topics) does.
    ///
    /// # Errors
    /// On the thread of a shard.
    pub fn topic(&self, name: &str) -> Result<Vec<(usize, Option<TopicReport>)>, OnShard> {
        self.commands.ask_all(|reply| ShardCommand::Topic(name.into(), reply))
    }

    /// The state of the back ends.
    #[doc(hidden)]
    pub fn backends(&self) -> Vec<BackendFigures> {
        self.backends.figures()
    }

    /// Counts of authentication.
    #[doc(hidden)]
    pub fn auth(&self) -> AuthFigures {
        let key_set = self.readiness.key_set().map(|set| KeySetFigures::of(set, unix_now()));
        AuthFigures { key_set, ..self.auth_counters.figures() }
    }

    /// The numbers of the shards that have not answered for a second. Shards that have ended, as they do in a drain, do
    /// not count. Blocks for a second at most.
    ///
    /// # Errors
    /// On the thread of a shard.
    pub fn stalled_shards(&self) -> Result<Vec<usize>, OnShard> {
        self.watchdog.stalled(&self.remotes)
    }

    /// Shuts the server down after an essential part has failed: clients are closed with 1001, and [`Server::join`]
    /// returns this reason within three seconds.
    ///
    /// [`Server::join`]: crate::Server::join
    pub fn fail(&self, reason: &str) {
        if self.failure.reason.set(reason.to_owned()).is_ok() {
            tracing::error!(reason, "the server cannot continue and shuts down");
            self.order_drain(BROKEN_DRAIN_TIMEOUT);
            // Nobody joins the server when this fails.
            let _ = self.failure.ends.send(End::Failure);
        }
    }

    /// Whether the server is shutting down because a part of it has failed.
    pub fn has_failed(&self) -> bool {
        self.failure.reason.get().is_some()
    }

    /// Drains the server: no connections or publications are accepted, subscribers are sent the messages before, and
    /// everyone is closed with 1001. The shards end when all connections are gone, within eight seconds. A subscriber that
    /// cannot be sent everything in time gets a gap event, or 4008 on a raw route.
    pub fn drain(&self) {
        self.order_drain(DRAIN_TIMEOUT);
    }

    /// Whether the server is ready for clients: it does not drain, was not told
    /// [`set_not_ready`](Handle::set_not_ready), is active in its cluster, if it belongs to one, and has read the key
    /// set of its authentication, if that has one.
    pub fn is_ready(&self) -> bool {
        self.readiness.unready().is_none()
    }

    /// Whether the server drains, or was told [`set_not_ready`](Handle::set_not_ready).
    pub fn is_leaving(&self) -> bool {
        self.readiness.draining.load(Ordering::Relaxed)
    }

    /// The server's part in its cluster, if it belongs to one.
    #[doc(hidden)]
    pub fn cluster(&self) -> Option<&ClusterNode> {
        self.cluster.as_ref()
    }

    /// Passes the answer of a stream to a shard.
    #[doc(hidden)]
    pub fn answer_stream(&self, command: StreamCommand, answer: StreamAnswer) {
        if let Some(node) = &self.cluster {
            let has_failed = matches!(answer, StreamAnswer::Failed | StreamAnswer::Unusable);
            node.count_stream_request(has_failed);
        }
        let (shard, event) = command.answer(answer);
        if let Some(remote) = self.remotes.get(shard) {
            // A shard that has ended needs nothing.
            let _ = remote.send(ControlMessage::Command(ShardCommand::Cluster(vec![event])));
        }
    }

    /// Whether another process has taken over from this server, which drains for it.
    #[doc(hidden)]
    pub fn is_replaced(&self) -> bool {
        self.link.is_replaced()
    }

    /// Whether the predecessor has a grace that is not over: the end of this server would give everything back to it.
    #[doc(hidden)]
    pub fn is_unsettled(&self) -> bool {
        self.link.is_unsettled()
    }

    /// Waits until no predecessor has a grace.
    #[doc(hidden)]
    pub fn wait_until_settled(&self) {
        self.link.wait_until_settled();
    }

    /// Answers `GET /readyz` with 503 from now on, so that load balancers stop sending clients. Everything else
    /// continues.
    pub fn set_not_ready(&self) {
        self.readiness.draining.store(true, Ordering::Relaxed);
    }

    /// Drains over a time: no connections are accepted; those that exist are closed with 1001 one by one, in random order
    /// and at random times, and are served as before until then. The last ones are drained together, as by
    /// [`drain`](Handle::drain).
    pub fn drain_over(&self, drain: PacedDrain) {
        self.order_plan(self.plan(drain, Goodbye::GOING_AWAY));
    }

    /// The plan of each shard.
    pub(crate) fn plan(
        &self,
        PacedDrain { time, per_second_max }: PacedDrain,
        goodbye: Goodbye,
    ) -> DrainPlan {
        let timeout = nanos(time);
        let shards = self.remotes.len() as u64;
        let spacing = SECOND * shards / u64::from(per_second_max).max(1);
        DrainPlan { goodbye, timeout, paced: timeout - DRAIN_TIMEOUT.min(timeout / 4), spacing }
    }

    /// Drains, and closes the connections that are left after `timeout`. With several calls, the earliest deadline
    /// applies.
    pub fn drain_within(&self, timeout: Duration) {
        self.order_drain(nanos(timeout));
    }

    fn order_drain(&self, timeout: Nanos) {
        self.order_plan(DrainPlan::at_once(timeout));
    }

    pub(crate) fn order_plan(&self, plan: DrainPlan) {
        self.set_not_ready();
        self.close_kept();
        self.send_all(|| ControlMessage::Drain(plan));
    }

    /// How many connections do not move to a successor, by reason. No thread of a shard asks this.
    pub(crate) fn count_staying(&self) -> Staying {
        let mut staying = Staying::default();
        let counts = self.commands.ask_all(ShardCommand::CountStaying).unwrap_or_default();
        counts.into_iter().for_each(|(_, count)| staying.add(count));
        staying
    }

    /// The process ends before the drain is over: tells the successor, if there is one. Returns how many connections are open at
    /// shards that answer.
    #[doc(hidden)]
    pub fn end_overdue(&self) -> u64 {
        let staying = self.count_staying();
        self.link.tell_overdue(staying);
        staying.total()
    }

    /// Ends the shards without a drain.
    pub fn stop(&self) {
        self.close_kept();
        self.send_all(|| ControlMessage::Stop);
    }

    /// The listeners for successors, until this server drains.
    pub(crate) fn kept(&self) -> Vec<InheritedListener> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn close_kept(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Sends a message to each shard.
    pub(crate) fn send_all(&self, message: impl Fn() -> ControlMessage<ShardCommand, HubReport>) {
        for remote in self.remotes.iter() {
            remote.send(message());
        }
    }
}

/// The messages of a request.
fn owned<M: Into<OwnedPublication>>(messages: impl IntoIterator<Item = M>) -> Vec<OwnedPublication> {
    messages.into_iter().map(Into::into).collect()
}

/// The failure of a server.
#[derive(Debug)]
pub(crate) struct FailureState {
    pub(crate) reason: OnceLock<String>,
    pub(crate) ends: mpsc::Sender<End>,
}

/// An event for [`Server::join`](crate::Server::join).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The thread of this shard has ended.
    Shard(usize),
    /// A part has failed: the others have to end within a deadline.
    Failure,
}
