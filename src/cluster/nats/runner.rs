//! The loop of a node: it gives a [`Cluster`] its packets and its time, and sends the cluster's output.
//!
//! A *round* takes all arrivals, up to a bound, and then sends once. So messages of one round share packets.

use std::future;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{Cluster, ClusterConfig, Phase, Tables, Traffic};
use bytes::Bytes;
use echoring_proto::limits::Nanos;
use tokio::runtime::Builder;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::nats::connection::{Connection, Happening};
use crate::nats::error::BackboneError;
use crate::nats::inbox::Inbox;
use crate::nats::limits::{
    BLOCKING_THREADS, COMMANDS_PER_ROUND, PACKETS_PER_ROUND, RECONNECT_DELAY, ROOM_INTERVAL,
    STALLED_INTERVAL, STATE_INTERVAL,
};
use crate::nats::options::NatsOptions;

/// Starts a thread that runs a node: see [`run`].
///
/// # Errors
/// If the thread cannot be started.
pub fn spawn<T>(
    options: NatsOptions,
    config: ClusterConfig,
    tables: T,
    commands: UnboundedReceiver<T::Command>,
) -> io::Result<JoinHandle<Result<(T, Traffic), BackboneError>>>
where
    T: Tables + Send + 'static,
    T::Command: Send,
{
    let runtime =
        Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
    thread::Builder::new().name("backbone".to_owned()).spawn(move || {
        let ended = runtime.block_on(run(options, config, tables, commands));
        // A name lookup may take long, and nobody waits for its result.
        runtime.shutdown_background();
        ended
    })
}

/// Runs a node until its tables have ended, and returns them. It runs on a tokio runtime with I/O and time; one thread is enough.
///
/// # Errors
/// If the options are wrong, if no server can be reached and the options say not to wait, or if the first server that is reached
/// lacks the permissions that the node needs. A connection that breaks later is made again.
pub async fn run<T: Tables>(
    options: NatsOptions,
    config: ClusterConfig,
    tables: T,
    commands: UnboundedReceiver<T::Command>,
) -> Result<(T, Traffic), BackboneError> {
    options.check()?;
    let name = config.name.clone();
    let mut node = Node {
        cluster: Cluster::new(config),
        tables,
        commands,
        inbox: Inbox::default(),
        began: Instant::now(),
    };
    let Some(mut connection) = node.connect(&options, &name).await? else {
        return Ok((node.tables, Traffic::default()));
    };
    while !node.has_ended() {
        node.wait(&mut connection).await;
        node.take(&mut connection)?;
        node.advance(&connection.traffic);
        node.send(&mut connection);
    }
    Ok((node.tables, connection.close().await))
}

/// Everything of a node but its connection.
struct Node<T: Tables> {
    cluster: Cluster,
    tables: T,
    commands: UnboundedReceiver<T::Command>,
    inbox: Inbox,
    began: Instant,
}

impl<T: Tables> Node<T> {
    fn now(&self) -> Nanos {
        self.began.elapsed().as_nanos() as Nanos
    }

    fn has_ended(&self) -> bool {
        self.tables.has_ended(&self.cluster)
    }

    /// Makes the first connection. Meanwhile the node continues without one as far as possible, and may end.
    async fn connect(
        &mut self,
        options: &NatsOptions,
        name: &str,
    ) -> Result<Option<Connection>, BackboneError> {
        let id = self.cluster.node();
        let mut last_error = String::new();
        let attempts = async {
            loop {
                match Connection::open(options, id, name).await {
                    Err(error @ BackboneError::Connect { .. }) if options.waits => {
                        if error.to_string() != last_error {
                            tracing::warn!("{error}; trying again");
                            last_error = error.to_string();
                        }
                        sleep(RECONNECT_DELAY).await;
                    }
                    opened => return opened,
                }
            }
        };
        let mut attempts = std::pin::pin!(attempts);
        while !self.has_ended() {
            let deadline = self.tables.deadline().unwrap_or(Nanos::MAX);
            tokio::select! {
                opened = &mut attempts => return opened.map(Some),
                Some(command) = self.commands.recv() => self.command(command),
                () = sleep_until(self.began, deadline) => {}
            }
            self.take_commands();
            self.advance(&Traffic::default());
        }
        Ok(None)
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, connection: &mut Connection) {
        let deadline = self.deadline(connection);
        let is_ready = !self.inbox.is_empty() && self.tables.has_room();
        let happening = tokio::select! {
            biased;
            happening = connection.next() => happening,
            Some(command) = self.commands.recv() => return self.command(command),
            () = yield_now(), if is_ready => return,
            () = sleep_until(self.began, deadline) => return,
        };
        self.happened(connection, happening);
    }

    fn deadline(&self, connection: &Connection) -> Nanos {
        let now = self.now();
        let mut of_cluster = self.cluster.deadline();
        if !connection.is_writable() {
            // What the cluster has to send cannot be sent.
            of_cluster = of_cluster.max(now + STALLED_INTERVAL);
        }
        let of_inbox = (!self.inbox.is_empty()).then_some(now + ROOM_INTERVAL);
        let others = [self.tables.deadline(), connection.deadline(now), of_inbox];
        others.into_iter().flatten().fold(of_cluster.min(now + STATE_INTERVAL), Nanos::min)
    }

    fn command(&mut self, command: T::Command) {
        let now = self.now();
        self.tables.command(&mut self.cluster, command, now);
    }

    fn take_commands(&mut self) {
        for _ in 0..COMMANDS_PER_ROUND {
            let Ok(command) = self.commands.try_recv() else { return };
            self.command(command);
        }
    }

    /// Takes the arrivals: changes of the connection, heartbeats, packets as far as the tables have room, and
    /// commands.
    fn take(&mut self, connection: &mut Connection) -> Result<(), BackboneError> {
        while let Some(happening) = connection.poll_happening() {
            self.happened(connection, happening);
        }
        while let Some(is_connected) = connection.poll_change(self.now()) {
            self.cluster.handle_connected(is_connected, self.now());
            self.tables.connected(is_connected);
        }
        if let Some(error) = connection.take_refusal() {
            if self.cluster.phase() == Phase::Joining {
                return Err(error);
            }
            tracing::error!("{error}; trying another connection");
        }
        for _ in 0..PACKETS_PER_ROUND {
            if !self.tables.has_room() {
                break;
            }
            let Some(packet) = self.inbox.pop() else { break };
            self.cluster.handle_packet(&packet, self.now());
            self.handle_events();
        }
        self.take_commands();
        Ok(())
    }

    fn happened(&mut self, connection: &mut Connection, happening: Happening) {
        let now = self.now();
        match happening {
            Happening::Heartbeat(bytes) => self.cluster.handle_heartbeat(&bytes, now),
            Happening::Packet(packet) => connection.traffic.dropped += u64::from(!self.inbox.push(packet)),
            Happening::Event(event) => connection.handle_event(event, now),
            Happening::Writable => {}
        }
    }

    /// Handles due timers, until the cluster and the tables have nothing to exchange.
    fn advance(&mut self, traffic: &Traffic) {
        self.cluster.handle_time(self.now());
        loop {
            self.handle_events();
            let now = self.now();
            self.tables.run(&mut self.cluster, traffic, now);
            if !self.handle_events() {
                return;
            }
        }
    }

    /// Whether there were any.
    fn handle_events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.cluster.poll_event() {
            let now = self.now();
            self.tables.handle(&mut self.cluster, event, now);
            any = true;
        }
        any
    }

    fn send(&mut self, connection: &mut Connection) {
        connection.handle_time(self.now());
        let mut bytes = Vec::new();
        while connection.is_writable()
            && let Some(to) = self.cluster.poll_packet(self.now(), &mut bytes)
        {
            connection.send(to, Bytes::from(std::mem::take(&mut bytes)), self.now());
        }
    }
}

async fn sleep_until(began: Instant, at: Nanos) {
    match at {
        Nanos::MAX => future::pending().await,
        at => tokio::time::sleep_until((began + Duration::from_nanos(at)).into()).await,
    }
}
