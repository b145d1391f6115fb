//! Control messages to a shard from other threads.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use super::times::TimesConfig;
use crate::admission::PeerLimits;
use crate::driver::Waker;
use crate::stats::Snapshot;
use echoring_proto::CloseCode;
use echoring_proto::connection::ConnectionConfig;
use echoring_proto::limits::Nanos;

/// The Close code and reason when a shard drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// The close code.
    pub code: CloseCode,
    /// The reason.
    pub reason: &'static str,
}

/// How a shard drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainPlan {
    /// The message to clients.
    pub goodbye: Goodbye,
    /// Time after which the remaining connections are cut.
    pub timeout: Nanos,
    /// The part of it over which connections are closed one by one; 0 closes all at once.
    pub paced: Nanos,
    /// Minimum time between two closes of this shard while it paces them.
    pub spacing: Nanos,
}

impl DrainPlan {
    /// Closes all connections with 1001 at once, and cuts the rest after `timeout`.
    pub fn at_once(timeout: Nanos) -> DrainPlan {
        DrainPlan { goodbye: Goodbye::GOING_AWAY, timeout, paced: 0, spacing: 0 }
    }
}

impl Goodbye {
    /// 1001, at the end of a connection's [life](super::Lifetime::max_lifetime).
    pub const LIFE_OVER: Goodbye =
        Goodbye { code: CloseCode::GOING_AWAY, reason: "connection lifetime is over" };
    /// 1001, after a time without messages.
    pub const IDLE: Goodbye = Goodbye { code: CloseCode::GOING_AWAY, reason: "no messages for too long" };
    /// 1001.
    pub const GOING_AWAY: Goodbye = Goodbye { code: CloseCode::GOING_AWAY, reason: "server is going away" };
    /// 1012.
    pub const RESTART: Goodbye =
        Goodbye { code: CloseCode::SERVICE_RESTART, reason: "another server has taken over" };
}

/// The configuration that a running shard replaces.
#[derive(Clone, Debug)]
pub struct LiveConfig {
    /// The configuration of every connection, existing ones included. Compression stays as it is: connections have
    /// negotiated it.
    pub connection: ConnectionConfig,
    /// The certificate, and the other settings of future TLS handshakes. A shard that was started without TLS has none.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The limits on peers. Those on open connections hold for existing ones too.
    pub limits: Arc<PeerLimits>,
    /// How long connections last, and the times of routes.
    pub times: TimesConfig,
}

/// A control message to a shard. `Q` is the application's command, `R` its report.
#[derive(Debug)]
pub enum ControlMessage<Q, R> {
    /// Send a snapshot taken between two ticks.
    Snapshot(mpsc::SyncSender<Snapshot<R>>),
    /// Answer after the next tick.
    Answer(mpsc::SyncSender<()>),
    /// A command for the application.
    Command(Q),
    /// Use this configuration from now on, see [`LiveConfig`].
    Configure(Box<LiveConfig>),
    /// Accept nothing more, close everyone once they have got everything queued, and end when all are closed, or after
    /// the plan's time.
    Drain(DrainPlan),
    /// Accept nothing more, and close the listeners. The answer comes once nothing waits at them: later connections are
    /// for the other holder of the sockets.
    StopListening(mpsc::SyncSender<()>),
    /// Accept connections from these sockets. The answer is the first error.
    Listen(Vec<OwnedFd>, mpsc::SyncSender<io::Result<()>>),
    /// End at once.
    Stop,
}

/// Sends control messages to a shard from another thread.
#[derive(Debug)]
pub struct Remote<Q, R> {
    pub(super) orders: mpsc::Sender<ControlMessage<Q, R>>,
    pub(super) waker: OnceWaker,
}

/// Wakes a shard from other threads, once until it has looked at what they sent.
#[derive(Clone, Debug)]
pub(super) struct OnceWaker {
    waker: Waker,
    /// The shard was woken and has not looked since, so that it need not be woken again.
    is_woken: Arc<AtomicBool>,
}

impl OnceWaker {
    pub(super) fn new(waker: Waker) -> OnceWaker {
        OnceWaker { waker, is_woken: Arc::default() }
    }

    /// Wakes the shard after something was sent to it.
    pub(super) fn wake(&self) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// The shard looks now at what was sent.
    pub(super) fn reset(&self) {
        self.is_woken.swap(false, Ordering::AcqRel);
    }
}

// Not derived, because the type parameters need not be `Clone`.
impl<Q, R> Clone for Remote<Q, R> {
    fn clone(&self) -> Remote<Q, R> {
        Remote { orders: self.orders.clone(), waker: self.waker.clone() }
    }
}

impl<Q, R> Remote<Q, R> {
    /// Sends a control message. False if the shard has ended.
    pub fn send(&self, message: ControlMessage<Q, R>) -> bool {
        let given = self.orders.send(message).is_ok();
        self.waker.wake();
        given
    }

    /// Ends the shard's wait.
    pub fn waker(&self) -> &Waker {
        &self.waker.waker
    }
}
