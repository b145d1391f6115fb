//! A node's part in its cluster, for controllers of the server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc as blocking};
use std::time::Duration;

use bytes::Bytes;
use echoring_cluster::{NodeId, PlainCluster};
use echoring_topics::Rules;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::node::handle::NotReady;

use super::{ClusterStatus, NodeStatus, PeerAnswer, PeerQuery};
use echoring_broker::node_mail::{ClusterCommand, RelayLoad};

/// A node's part in its cluster, for controllers of the server.
#[derive(Clone, Debug)]
pub struct ClusterNode {
    id: NodeId,
    queries: mpsc::UnboundedSender<PeerQuery>,
    commands: mpsc::UnboundedSender<ClusterCommand>,
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    status: Mutex<ClusterStatus>,
    /// Signalled when any of this changes.
    pub(super) changed: Condvar,
    pub(super) is_active: AtomicBool,
    /// Another node has not acknowledged messages for long.
    pub(super) is_behind: AtomicBool,
    /// The attempts to hand all topics over, and the latest one that was successful.
    attempts: AtomicU64,
    handed_over: AtomicU64,
    pub(super) has_ended: AtomicBool,
    ended: Notify,
    relay: Arc<RelayLoad>,
    /// The digest of this node's settings of topics.
    pub(super) settings: AtomicU64,
}

impl Shared {
    pub(super) fn status(&self) -> MutexGuard<'_, ClusterStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This attempt to hand all topics over was successful.
    pub(super) fn set_handed_over(&self, attempt: u64) {
        let _guard = self.status();
        self.handed_over.store(attempt, Ordering::Release);
        self.changed.notify_all();
    }

    /// The node has left, or ends without that.
    pub(super) fn set_ended(&self) {
        let _guard = self.status();
        self.has_ended.store(true, Ordering::Release);
        self.changed.notify_all();
        self.ended.notify_waiters();
    }

    /// Waits until this is so. Returns whether it was so in time.
    fn wait(&self, timeout: Duration, is_so: impl Fn(&ClusterStatus) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.status(), timeout, |status| !is_so(status));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl ClusterNode {
    pub(crate) fn new(
        id: NodeId,
        commands: mpsc::UnboundedSender<ClusterCommand>,
        queries: mpsc::UnboundedSender<PeerQuery>,
    ) -> ClusterNode {
        ClusterNode { id, queries, commands, shared: Arc::default() }
    }

    /// Asks the control threads of other nodes, all at once. `line` is the method and the path. The body has a type, which is empty
    /// for none.
    pub async fn ask_others(
        &self,
        is_asked: impl Fn(&NodeStatus) -> bool,
        line: &str,
        (content_type, body): (&'static str, Bytes),
    ) -> Vec<(NodeStatus, PeerAnswer)> {
        let members = self.status().members.into_iter();
        let mut asked = JoinSet::new();
        for member in members.filter(|member| member.phase != "left" && is_asked(member)) {
            let (queries, line, body) = (self.queries.clone(), line.to_owned(), body.clone());
            asked.spawn(async move {
                let (reply, answer) = oneshot::channel();
                // Fails only if nobody carries requests; then the answer fails too.
                let query = PeerQuery { node: member.id.clone(), line, content_type, body, reply };
                let _ = queries.send(query);
                (member, answer.await.unwrap_or(Err("this node has no connection for requests")))
            });
        }
        asked.join_all().await
    }

    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    /// The node's view of its cluster.
    pub fn status(&self) -> ClusterStatus {
        let status = self.shared.status().clone();
        ClusterStatus { relay_dropped: self.shared.relay.dropped(), ..status }
    }

    /// A stream has answered a request, or it failed.
    pub(crate) fn count_stream_request(&self, has_failed: bool) {
        let mut status = self.shared.status();
        status.stream_requests += 1;
        status.stream_failures += u64::from(has_failed);
    }

    /// Informs the other nodes that this one uses these settings of topics.
    pub(crate) fn set_topics(&self, rules: &Rules) {
        self.shared.settings.store(rules.digest(), Ordering::Relaxed);
    }

    /// This number of messages in the streams were not written by a node.
    pub fn set_foreign_in_streams(&self, messages: u64) {
        self.shared.status().stream_foreign = messages;
    }

    /// A client of NATS is not answered, because its reply subject is no inbox. Returns how often that was so.
    pub fn count_refused_reply(&self) -> u64 {
        let mut status = self.shared.status();
        status.replies_refused += 1;
        status.replies_refused
    }

    pub(crate) fn relay_load(&self) -> Arc<RelayLoad> {
        Arc::clone(&self.shared.relay)
    }

    /// Whether the node is a member of its cluster, and is connected. Other nodes may not acknowledge its messages.
    pub fn is_active(&self) -> bool {
        self.shared.is_active.load(Ordering::Relaxed)
    }

    /// Why it is not ready.
    pub(crate) fn unready(&self) -> Option<NotReady> {
        if !self.is_active() {
            return Some(NotReady::NotInCluster);
        }
        self.shared.is_behind.load(Ordering::Relaxed).then_some(NotReady::LinkBehind)
    }

    /// Hands all topics over to other nodes, and waits until that is done, for `timeout` at most. Clients are served as before.
    /// Returns whether everything was handed over, or another process is the node.
    pub fn hand_over(&self, timeout: Duration) -> bool {
        let attempt = self.shared.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let _ = self.commands.send(ClusterCommand::Leave(attempt));
        self.shared
            .wait(timeout, |_| self.has_ended() || self.shared.handed_over.load(Ordering::Acquire) >= attempt)
    }

    /// Whether the node has left its cluster, or another process is the node.
    pub fn has_ended(&self) -> bool {
        self.shared.has_ended.load(Ordering::Acquire)
    }

    /// Waits until [`has_ended`](ClusterNode::has_ended).
    pub async fn ended(&self) {
        // It is woken from here on, also before it waits.
        let ended = self.shared.ended.notified();
        if !self.has_ended() {
            ended.await;
        }
    }

    /// Waits until the node is connected, and if it is one already, until it owns topics together with all others, for `timeout` at most.
    /// Returns whether that is so.
    pub(crate) fn wait_until_connected(&self, is_node: bool, timeout: Duration) -> bool {
        self.shared.wait(timeout, |status| status.connected && (status.open || !is_node))
    }

    /// The state of the node for another process, once nothing waits for other nodes. The node is silent from then on. `None` if that is
    /// not so in time, or while the members of the cluster change. [`go_on`](ClusterNode::go_on) must follow then, too.
    pub(crate) fn suspend(&self, timeout: Duration) -> Option<Vec<u8>> {
        let (reply, state) = blocking::sync_channel(1);
        let _ = self.commands.send(ClusterCommand::Suspend(reply));
        state.recv_timeout(timeout).ok()
    }

    /// The other process has failed: this one is the node again.
    pub(crate) fn go_on(&self) {
        let _ = self.commands.send(ClusterCommand::GoOn);
    }

    /// The other process is the node.
    pub(crate) fn end(&self) {
        let _ = self.commands.send(ClusterCommand::End);
    }

    /// This process is the node from now on.
    pub(crate) fn continue_node(&self, node: PlainCluster) {
        let _ = self.commands.send(ClusterCommand::Continue(Box::new(node)));
    }

    /// Leaves the cluster, once the shards have ended, and waits until the others know it, for `timeout` at most.
    pub fn finish(&self, timeout: Duration) {
        let _ = self.commands.send(ClusterCommand::Finish);
        if !self.shared.wait(timeout, |_| self.has_ended()) {
            tracing::warn!("other nodes of the cluster do not answer; they will consider this one dead");
        }
    }
}
