//! The server: pinned shards with the built-in routes, and with those of the program that embeds it.
//!
//! [`Server::builder`] says what it is to be, [`Builder::start`] opens the listeners, starts one thread per shard, and
//! returns when all of them accept. From then on everything goes through [`Handle`]: snapshots and the drain are messages
//! to the shards. A program's own code is a [`Handler`] for each connection.
//!
//! Never: signals, or other state of the process.
#![forbid(unsafe_code)]

mod alarms;
mod asks;
mod broadcast;
mod builder;
pub mod chat;
mod config;
mod endpoints;
mod handler;
mod host;
mod listeners;
mod page;
mod pulse;
mod remote;
mod response;
mod route;
mod seats;
mod service;
pub mod v1;
pub mod validation;
mod watch;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::buffer::{Budget, Lease, Pool};
use crate::driver::epoll::Epoll;
use crate::driver::uring::{self, Uring};
use crate::driver::{Description, Driver, Options, Waker};
use crate::hub::Placement;
use crate::limits::{
    BROKEN_DRAIN_TIMEOUT, BROKEN_END_TIMEOUT, COMPRESSION_LEASE_BYTES, CONNECTION_LEASE, DRAIN_TIMEOUT,
    MAILBOX_BYTES_MIN, Nanos, REFUSING_CONNECTIONS_MAX, SNAPSHOT_TIMEOUT, TOPIC_LEASE,
};
use crate::shard::{self, Allowance, Mailboxes, Order, Security, Shard};
use crate::stats::{Snapshot, TopicReport};

pub use crate::connection::{Cause, Chunk, Closed, Kind};
pub use crate::hub::{Content, Position, Refused};
pub use crate::shard::Disposition;
use asks::Asking;
pub use asks::{Ask, OwnedPublication, Publish, PublishError, Published};
pub use broadcast::{Message as ShardMessage, Settings as BroadcastSettings};
pub use builder::Builder;
pub use config::{
    Compression, Config, DriverChoice, ListenAddress, RefusalFn, RefusalHook, StartError, StartErrorKind,
};
pub use handler::{Busy, Failure, Handler, Message};
pub use host::Resolved;
#[cfg(feature = "cli")]
pub(crate) use listeners::{cure_of_descriptors, open_admin, retry_busy};
use pulse::Pulse;
pub use remote::Remote;
pub use response::Response;
pub use route::{Asked, Opening, Route, Routes};
use seats::said;
pub use service::{Peer, Service};

/// A running server. Dropping it ends it at once and waits for its threads; [`shutdown`](Server::shutdown) ends it in
/// order.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<ListenAddress>,
    driver: Description,
    threads: Vec<JoinHandle<io::Result<Snapshot>>>,
    /// What a thread says when it has ended, and who has the server fail.
    ends: Mutex<mpsc::Receiver<End>>,
    handle: Handle,
}

/// Talks to a running server from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    remotes: Arc<[shard::Remote<Ask>]>,
    asking: Asking,
    message_bytes_max: u64,
    pulse: Arc<Pulse>,
    failure: Arc<Failing>,
}

impl Handle {
    /// What every shard counted, each taken between two turns of its own. Blocks until the shards answer, two
    /// seconds at most; a shard that does not answer is left out.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let (sender, receiver) = mpsc::sync_channel(self.remotes.len());
        let asked =
            self.remotes.iter().filter(|remote| remote.order(Order::Snapshot(sender.clone()))).count();
        drop(sender);
        let mut snapshots: Vec<Snapshot> = (0..asked)
            .map_while(|_| receiver.recv_timeout(Duration::from_nanos(SNAPSHOT_TIMEOUT)).ok())
            .collect();
        snapshots.sort_by_key(|snapshot| snapshot.shard);
        snapshots
    }

    /// Publishes messages to a topic, in this order, and tells what became of each. The operator's, not a client's: also
    /// where clients may not publish. Blocks until the topic's home answers, two seconds at most. Behind a message
    /// that is refused for the moment only ([`Refused::is_passing`]) all others are refused likewise, so that order is
    /// kept by going on from there.
    ///
    /// # Errors
    /// Then nothing was published. [`PublishError::Busy`] is back-pressure: more than
    /// [`OUTSIDE_MESSAGES_MAX`](crate::limits::OUTSIDE_MESSAGES_MAX) messages or
    /// [`OUTSIDE_BYTES_MAX`](crate::limits::OUTSIDE_BYTES_MAX) bytes from all who publish so would wait.
    pub fn publish(&self, topic: &str, messages: Vec<OwnedPublication>) -> Result<Published, PublishError> {
        self.asking.publish(topic, messages, SNAPSHOT_TIMEOUT)
    }

    /// What each shard knows of its topics, with the shard's number, each taken between two turns of its own. Blocks
    /// until the shards answer, two seconds at most; a shard that does not answer is left out.
    pub fn topics(&self) -> Vec<(usize, Vec<TopicReport>)> {
        self.asking.topics()
    }

    /// The same about one topic; `None` from a shard that knows nothing of it.
    pub fn topic(&self, name: &str) -> Vec<(usize, Option<TopicReport>)> {
        self.asking.topic(name)
    }

    /// Bytes of a message, at most.
    pub fn message_bytes_max(&self) -> u64 {
        self.message_bytes_max
    }

    /// The numbers of the shards that made no turn for a second although they were asked to, or have ended. Blocks until
    /// all have answered, a second at most.
    pub fn stalled_shards(&self) -> Vec<usize> {
        self.pulse.stalled(&self.remotes)
    }

    /// Ends the server because a part of it has ended that it cannot do without: everyone is told 1001, and
    /// [`Server::join`] fails for this reason, three seconds later at most.
    pub fn fail(&self, reason: &str) {
        if self.failure.reason.set(reason.to_owned()).is_ok() {
            tracing::error!(reason, "the server cannot go on, and ends");
            self.order_drain(BROKEN_DRAIN_TIMEOUT);
            // Nobody joins the server when this fails.
            let _ = self.failure.ends.send(End::Failure);
        }
    }

    /// Whether the server ends because a part of it has ended by itself.
    pub fn has_failed(&self) -> bool {
        self.failure.reason.get().is_some()
    }

    /// Accepts nothing more, neither connections nor publications, sends subscribers what was published before, says 1001
    /// to everyone, and lets the shards end when all are gone, eight seconds later at most. A subscriber that cannot be
    /// sent everything in that time is told what it misses, or 4008 where its route has no words for that.
    pub fn drain(&self) {
        self.order_drain(DRAIN_TIMEOUT);
    }

    /// The same, but what is left after `timeout` is cut off. Said again, the earlier end holds.
    pub fn drain_within(&self, timeout: Duration) {
        self.order_drain(Nanos::try_from(timeout.as_nanos()).unwrap_or(Nanos::MAX));
    }

    /// Drains like [`drain`](Handle::drain), but says 1012: a successor is there. Returns once all shards have stopped
    /// listening and refuse publications; a shard that does not answer within two seconds is not waited for.
    pub fn hand_over(&self) {
        self.remotes.iter().for_each(|remote| {
            remote.order(Order::HandOver(DRAIN_TIMEOUT));
        });
        // Orders are taken one after the other, and what the first turn stages the next one does.
        drop(self.snapshots());
        drop(self.snapshots());
    }

    fn order_drain(&self, timeout: Nanos) {
        self.remotes.iter().for_each(|remote| {
            remote.order(Order::Drain(timeout));
        });
    }

    /// Ends the shards at once.
    pub fn stop(&self) {
        self.remotes.iter().for_each(|remote| {
            remote.order(Order::Stop);
        });
    }
}

impl Server {
    /// What a server is to be, step by step.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Starts a server from a configuration that is complete, as [`Builder::start`] does with its own.
    ///
    /// # Errors
    /// One line that says what is wrong and one that says what to do: an address in use, too few descriptors,
    /// io_uring denied although it was asked for.
    pub fn start(config: Config) -> Result<Server, StartError> {
        Server::start_after(config, |_, _| Ok(()))
    }

    /// The same, but calls `ready` when everything is there and before anything is accepted; when it fails, so does the
    /// start. It is told the addresses, and those among them where somebody else listens, too, which only
    /// [`Config::takeover`] allows.
    ///
    /// # Errors
    /// As for [`start`](Server::start), and what `ready` says.
    pub fn start_after(
        config: Config,
        ready: impl FnOnce(&[ListenAddress], &[SocketAddr]) -> Result<(), StartError>,
    ) -> Result<Server, StartError> {
        let before_accepting = ready;
        let Resolved { shards, cpus, connections_max: connections } = Resolved::of(&config)?;
        let listeners = listeners::open(&config, shards)?;
        let budget = Budget::new(config.memory_budget_bytes);
        let seats = Budget::new(u64::from(connections));
        let contexts = Budget::new(config.compression_bytes);
        let topics = Budget::new(u64::from(config.topics_max));
        let mailbox_bytes =
            MAILBOX_BYTES_MIN.max(2 * (config.message_bytes_max as usize + broadcast::MAIL_OVERHEAD_BYTES));
        let mailboxes = Mailboxes::connect(shards, mailbox_bytes);
        let placement = Placement::new(random_seed());
        let (ready_in, ready) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        let started: Arc<OnceLock<Handle>> = Arc::default();
        let mut threads = Vec::with_capacity(shards);
        let mut go = Vec::with_capacity(shards);
        for (index, (mailboxes, sockets)) in mailboxes.into_iter().zip(listeners.by_shard).enumerate() {
            let (go_in, go_out) = mpsc::channel();
            let start = Start {
                config: config.clone(),
                cpu: cpus.get(index % cpus.len().max(1)).copied(),
                connections,
                sockets,
                mailboxes,
                allowance: Allowance {
                    pool: Pool::new(budget.clone()),
                    connections: Lease::new(seats.clone(), CONNECTION_LEASE),
                    contexts: Lease::new(contexts.clone(), COMPRESSION_LEASE_BYTES),
                },
                topics: Lease::new(topics.clone(), TOPIC_LEASE),
                seed: random_seed(),
                placement,
                ready: ready_in.clone(),
                go: go_out,
            };
            let thread = std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn({
                    let (end, started) = (end.clone(), Arc::clone(&started));
                    move || {
                        let ended = run_shard(index, start);
                        if let (Err(error), Some(handle)) = (&ended, started.get()) {
                            handle.fail(&error.to_string());
                        }
                        // Nobody joins the server when this fails.
                        let _ = end.send(End::Shard(index));
                        ended
                    }
                })
                .map_err(|error| {
                    StartError::new(
                        StartErrorKind::Thread,
                        format!("no thread for shard {index}: {error}"),
                        "raise the limit on processes",
                    )
                })?;
            threads.push(thread);
            go.push(go_in);
        }
        drop(ready_in);
        let (remotes, driver) = gather(shards, &ready)?;
        let failure = Arc::new(Failing { reason: OnceLock::new(), ends: end });
        let wakers: Vec<Waker> = remotes.iter().map(|remote| remote.waker().clone()).collect();
        before_accepting(&listeners.addresses, &listeners.shared)?;
        let remotes: Arc<[_]> = remotes.into();
        let asking = Asking::new(Arc::clone(&remotes), placement);
        let pulse = Arc::new(Pulse::new(shards));
        let handle = Handle { remotes, asking, message_bytes_max: config.message_bytes_max, pulse, failure };
        // Nobody else has set it.
        let _ = started.set(handle.clone());
        for go in go {
            // A shard that is gone by now is noticed when it is joined.
            let _ = go.send(wakers.clone());
        }
        Ok(Server { addresses: listeners.addresses, driver, threads, ends: Mutex::new(ends), handle })
    }

    /// Where the server listens, port 0 resolved.
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.addresses
    }

    /// What does the I/O.
    pub fn driver(&self) -> Description {
        self.driver
    }

    /// How many shards run.
    pub fn shards(&self) -> usize {
        self.threads.len()
    }

    /// For talking to the server.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the server in order: it accepts nothing more, says 1001 to everyone, and is gone when all are, or when
    /// `timeout` has passed. Returns the shards' last snapshots.
    ///
    /// # Errors
    /// As for [`join`](Server::join).
    pub fn shutdown(self, timeout: Duration) -> io::Result<Vec<Snapshot>> {
        self.handle.drain_within(timeout);
        self.join()
    }

    /// Waits until every shard has ended, after [`Handle::drain`] or [`Handle::stop`]. Returns their last
    /// snapshots.
    ///
    /// # Errors
    /// When a shard's driver broke, a shard panicked, or [`Handle::fail`] was called; then a shard that does not end within
    /// three seconds is not waited for.
    pub fn join(mut self) -> io::Result<Vec<Snapshot>> {
        self.join_all()
    }

    fn join_all(&mut self) -> io::Result<Vec<Snapshot>> {
        let ended = self.wait();
        let mut snapshots = Vec::with_capacity(self.threads.len());
        let mut broken = None;
        for (shard, thread) in self.threads.drain(..).enumerate() {
            if !ended[shard] {
                tracing::error!(shard, "a shard does not end, and is given up");
                continue;
            }
            match thread.join().unwrap_or_else(|_| Err(io::Error::other("a shard panicked"))) {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(error) => broken = Some(error),
            }
        }
        if let Some(reason) = self.handle.failure.reason.get() {
            broken = Some(io::Error::other(reason.as_str()));
        }
        for address in &self.addresses {
            if let ListenAddress::Unix(path) = address {
                // Left over is harmless: the next server replaces a socket that nobody answers.
                let _ = std::fs::remove_file(path);
            }
        }
        self.addresses.clear();
        broken.map_or(Ok(snapshots), Err)
    }

    /// Waits until the threads of all shards are at their ends; where something has failed, for so long at most. Tells of
    /// each shard whether it is.
    fn wait(&mut self) -> Vec<bool> {
        let mut ended = vec![false; self.threads.len()];
        let mut until = self.handle.has_failed().then(broken_until);
        let ends = self.ends.get_mut().unwrap_or_else(PoisonError::into_inner);
        while ended.contains(&false) {
            let end = match until {
                None => ends.recv().ok(),
                Some(until) => ends.recv_timeout(until.saturating_duration_since(Instant::now())).ok(),
            };
            match end {
                Some(End::Shard(shard)) => ended[shard] = true,
                Some(End::Failure) => drop(until.get_or_insert_with(broken_until)),
                None => break,
            }
        }
        ended
    }
}

fn broken_until() -> Instant {
    Instant::now() + Duration::from_nanos(BROKEN_END_TIMEOUT)
}

/// That a server goes to its end by itself, and why.
#[derive(Debug)]
struct Failing {
    reason: OnceLock<String>,
    ends: mpsc::Sender<End>,
}

/// What whoever joins a server waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The thread of this shard is at its end.
    Shard(usize),
    /// Something failed: from now on the others have only so much time.
    Failure,
}

/// Runs a shard. What it panics with is told like any other error.
fn run_shard(shard: usize, start: Start) -> io::Result<Snapshot> {
    match catch_unwind(AssertUnwindSafe(|| start.run())) {
        Ok(ended) => ended.map_err(|error| {
            let kind = error.kind();
            io::Error::new(kind, format!("shard {shard} ended: {error}"))
        }),
        Err(panic) => Err(io::Error::other(format!("shard {shard} panicked: {}", said(&*panic)))),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.handle.stop();
            if let Err(error) = self.join_all() {
                tracing::error!(%error, "a server that was dropped had ended badly");
            }
        }
    }
}

/// A shard's number, and how its start went.
type Started = (usize, Result<(shard::Remote<Ask>, Description), StartError>);

/// Collects the shards' remotes in order.
fn gather(
    shards: usize,
    ready: &mpsc::Receiver<Started>,
) -> Result<(Vec<shard::Remote<Ask>>, Description), StartError> {
    let mut remotes: Vec<Option<shard::Remote<Ask>>> = (0..shards).map(|_| None).collect();
    let mut description = None;
    for _ in 0..shards {
        let (index, started) = ready.recv().map_err(|_| {
            StartError::new(
                StartErrorKind::Thread,
                "a shard ended before it was ready",
                "see the log, and report it",
            )
        })?;
        let (remote, described) = started?;
        remotes[index] = Some(remote);
        description = Some(described);
    }
    let described = description
        .ok_or_else(|| StartError::new(StartErrorKind::Thread, "no shard was started", "use --shards 1"))?;
    Ok((remotes.into_iter().flatten().collect(), described))
}

/// What nobody outside can know.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A shard's routes.
fn service(config: &Config, topics: Lease, seed: u64, placement: Placement) -> Service {
    let broadcast = broadcast::Settings {
        rules: config.topics.clone(),
        topics,
        subscriptions_max: config.subscriptions_max,
        message_bytes_max: config.message_bytes_max,
        seed,
        placement,
    };
    let mut service = Service::new(config.origins.clone(), config.message_bytes_max, config.queue_bytes)
        .with_broadcast(broadcast)
        .with_subprotocols(config.subprotocols.clone(), config.subprotocol_preference)
        .with_routes(config.routes.clone())
        .with_hosts(config.hosts.clone())
        .with_refusal_hook(config.on_refusal.clone());
    if config.test_endpoints {
        service = service.with_test_endpoints();
    }
    if !config.demo_pages {
        service = service.without_demo_pages();
    }
    if config.builtin_routes { service } else { service.without_builtin_routes() }
}

/// What a shard's thread is given.
struct Start {
    config: Config,
    cpu: Option<usize>,
    connections: u32,
    sockets: Vec<OwnedFd>,
    mailboxes: Mailboxes<ShardMessage>,
    allowance: Allowance,
    topics: Lease,
    seed: u64,
    placement: Placement,
    ready: mpsc::Sender<Started>,
    go: mpsc::Receiver<Vec<Waker>>,
}

impl Start {
    fn run(self) -> io::Result<Snapshot> {
        if let Some(cpu) = self.cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
        {
            tracing::warn!(cpu, "a shard could not be pinned; it runs where the scheduler puts it");
        }
        let options = Options {
            connections: self.connections + REFUSING_CONNECTIONS_MAX,
            without: self.config.without,
            receive_bytes: 0,
        };
        match self.config.driver {
            DriverChoice::Epoll => self.on_epoll(&options),
            DriverChoice::Uring | DriverChoice::Auto => match Uring::new(&options) {
                Ok(driver) => self.on(driver),
                Err(error) if self.config.driver == DriverChoice::Uring => self.fail(StartError::new(
                    StartErrorKind::Driver,
                    format!("io_uring is unavailable: {error}"),
                    format!("{}, or use --driver epoll", uring::cure(&error)),
                )),
                Err(error) => {
                    let cure = format!("{} for less CPU per message", uring::cure(&error));
                    tracing::warn!(%error, cure, "io_uring is unavailable, running on epoll");
                    self.on_epoll(&options)
                }
            },
        }
    }

    fn on_epoll(self, options: &Options) -> io::Result<Snapshot> {
        match Epoll::new(options) {
            Ok(driver) => self.on(driver),
            Err(error) => self.fail(StartError::new(
                StartErrorKind::Driver,
                format!("epoll failed: {error}"),
                "raise the descriptor limit",
            )),
        }
    }

    fn fail(self, error: StartError) -> io::Result<Snapshot> {
        let failed = io::Error::other(error.to_string());
        // The starter may have given up on another shard's account.
        let _ = self.ready.send((self.mailboxes.shard(), Err(error)));
        Err(failed)
    }

    fn on<D: Driver>(self, driver: D) -> io::Result<Snapshot> {
        let index = self.mailboxes.shard();
        let description = driver.describe();
        let service = service(&self.config, self.topics, self.seed, self.placement);
        let config = shard::Config {
            connection: self.config.connection(),
            connections: self.connections + REFUSING_CONNECTIONS_MAX,
            security: Security { server: self.config.tls.clone(), client: None },
            seed: crate::connection::Seed::Source(shard::system_seed),
        };
        let mut shard = Shard::new(driver, service, config, self.allowance, self.mailboxes);
        for socket in self.sockets {
            if let Err(error) = shard.listen(socket) {
                let started = StartError::new(
                    StartErrorKind::Descriptors,
                    format!("cannot accept: {error}"),
                    "raise the descriptor limit",
                );
                let _ = self.ready.send((index, Err(started)));
                return Err(error);
            }
        }
        let _ = self.ready.send((index, Ok((shard.remote(), description))));
        drop(self.ready);
        let Ok(wakers) = self.go.recv() else { return Err(io::Error::other("the start was given up")) };
        shard.set_wakers(&wakers);
        shard.run().map(|(_, snapshot)| snapshot)
    }
}
