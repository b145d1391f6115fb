//! [`Handle`]: access to a running server from any thread. Everything goes to the shards as messages.

use std::io;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use crate::auth::{AuthCommand, AuthCounters, AuthFigures};
use crate::commands::{CommandSender, OwnedPublication, PublishError, Published, ShardCommand};
use crate::limits::{BROKEN_DRAIN_TIMEOUT, SNAPSHOT_TIMEOUT};
use crate::reconfigure::LiveLimits;
use crate::watchdog::Watchdog;
use echoring_async::limits::DRAIN_TIMEOUT;
use echoring_auth::Authenticator;
use echoring_proto::limits::Nanos;
use echoring_runtime::shard::{ControlMessage, Remote};
use echoring_runtime::stats;
use echoring_topics::{HubReport, TopicReport};

/// The state of a shard between two ticks.
pub type Snapshot = stats::Snapshot<HubReport>;

/// Controls a running server from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) remotes: Arc<[Remote<ShardCommand, HubReport>]>,
    pub(crate) commands: CommandSender,
    pub(crate) limits: Arc<LiveLimits>,
    pub(crate) watchdog: Arc<Watchdog>,
    pub(crate) failure: Arc<FailureState>,
    pub(crate) auth_counters: Arc<AuthCounters>,
}

impl Handle {
    /// A snapshot of each shard, taken between two of its ticks. Blocks for at most two seconds; a shard that does not
    /// answer is omitted.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let (sender, receiver) = mpsc::sync_channel(self.remotes.len());
        let asked = self
            .remotes
            .iter()
            .filter(|remote| remote.send(ControlMessage::Snapshot(sender.clone())))
            .count();
        drop(sender);
        let mut snapshots: Vec<Snapshot> = (0..asked)
            .map_while(|_| receiver.recv_timeout(Duration::from_nanos(SNAPSHOT_TIMEOUT)).ok())
            .collect();
        snapshots.sort_by_key(|snapshot| snapshot.shard);
        snapshots
    }

    /// Publishes messages to a topic in this order, as the operator: also where clients may not publish. Blocks until
    /// the topic's owner answers, at most two seconds. After a temporary refusal
    /// ([`Refused::is_passing`](crate::Refused::is_passing)) the remaining messages are refused too, so that the caller
    /// can continue in order.
    ///
    /// # Errors
    /// Nothing was published. [`PublishError::Busy`] is back-pressure: more than
    /// [`OUTSIDE_MESSAGES_MAX`](crate::limits::OUTSIDE_MESSAGES_MAX) messages or
    /// [`OUTSIDE_BYTES_MAX`](crate::limits::OUTSIDE_BYTES_MAX) bytes would wait.
    pub fn publish(&self, topic: &str, messages: Vec<OwnedPublication>) -> Result<Published, PublishError> {
        self.commands.publish(topic, messages, SNAPSHOT_TIMEOUT)
    }

    /// The reports of each shard about its topics, with the shard's number. Blocks for at most two seconds; a shard
    /// that does not answer is omitted.
    pub fn topics(&self) -> Vec<(usize, Vec<TopicReport>)> {
        self.commands.topics()
    }

    /// The report of each shard about one topic; `None` from a shard that does not know it.
    pub fn topic(&self, name: &str) -> Vec<(usize, Option<TopicReport>)> {
        self.commands.topic(name)
    }

    /// Counts of authentication.
    pub fn auth(&self) -> AuthFigures {
        self.auth_counters.figures()
    }

    /// Replaces the settings of authentication on all shards. Connections whose credentials the new settings do not know are
    /// closed with 4001, and subscriptions that are no longer allowed end. Clients that were let in without credentials stay.
    ///
    /// # Errors
    /// If the thread of authentication cannot be started; nothing has changed then.
    pub fn replace_auth(&self, auth: &Arc<Authenticator>) -> io::Result<()> {
        auth.start()?;
        for remote in self.remotes.iter() {
            let command = ShardCommand::Auth(AuthCommand::Replace(Arc::clone(auth)));
            remote.send(ControlMessage::Command(command));
        }
        Ok(())
    }

    /// The numbers of the shards that have not answered for a second, or have ended. Blocks for a second at most.
    pub fn stalled_shards(&self) -> Vec<usize> {
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

    /// Drains, and closes the connections that are left after `timeout`. With several calls, the earliest deadline
    /// applies.
    pub fn drain_within(&self, timeout: Duration) {
        self.order_drain(Nanos::try_from(timeout.as_nanos()).unwrap_or(Nanos::MAX));
    }

    /// Drains with 1012 because there is a successor. Returns once all shards have stopped listening and refuse
    /// publications; does not wait more than two seconds for a shard.
    pub fn hand_over(&self) {
        self.remotes.iter().for_each(|remote| {
            remote.send(ControlMessage::HandOver(DRAIN_TIMEOUT));
        });
        // Commands are taken in order. The second snapshot waits for the tick after the one that begins the handover.
        drop(self.snapshots());
        drop(self.snapshots());
    }

    fn order_drain(&self, timeout: Nanos) {
        self.remotes.iter().for_each(|remote| {
            remote.send(ControlMessage::Drain(timeout));
        });
    }

    /// Ends the shards without a drain.
    pub fn stop(&self) {
        self.remotes.iter().for_each(|remote| {
            remote.send(ControlMessage::Stop);
        });
    }
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
