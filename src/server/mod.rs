//! The server: pinned shards with the built-in routes.
//!
//! [`Server::start`] opens the listeners, starts one thread per shard, and returns when all of them accept.
//! From then on everything goes through [`Handle`]: snapshots and the drain are messages to the shards.
#![forbid(unsafe_code)]

mod broadcast;
pub mod chat;
mod config;
mod listeners;
mod page;
mod service;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::buffer::{Budget, Lease, Pool};
use crate::driver::epoll::Epoll;
use crate::driver::uring::Uring;
use crate::driver::{Description, Driver, Options, Waker};
use crate::limits::{
    COMPRESSION_LEASE_BYTES, CONNECTION_LEASE, CONNECTIONS_DEFAULT, MAILBOX_BYTES_MIN,
    REFUSING_CONNECTIONS_MAX, RESERVED_DESCRIPTORS, SNAPSHOT_TIMEOUT,
};
use crate::shard::{self, Allowance, Mailboxes, Order, Remote, Shard};
use crate::stats::Snapshot;

pub use broadcast::Message;
pub use config::{Compression, Config, DriverChoice, ListenAddress, StartError};
pub use service::{Peer, Service};

/// A running server.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<ListenAddress>,
    driver: Description,
    threads: Vec<JoinHandle<io::Result<Snapshot>>>,
    handle: Handle,
}

/// Talks to a running server from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    remotes: Arc<[Remote]>,
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

    /// Accepts nothing more, says 1001 to everyone, and lets the shards end when all are gone, eight seconds
    /// later at most.
    pub fn drain(&self) {
        self.remotes.iter().for_each(|remote| {
            remote.order(Order::Drain);
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
    /// Starts a server and returns when it accepts connections.
    ///
    /// # Errors
    /// One line that says what is wrong and one that says what to do: an address in use, too few descriptors,
    /// io_uring denied although it was asked for.
    pub fn start(config: Config) -> Result<Server, StartError> {
        let cpus = cpus(&config);
        let shards = config.shards.unwrap_or(cpus.len()).max(1);
        let listeners = listeners::open(&config, shards)?;
        let connections = connections_max(&config)?;
        let budget = Budget::new(config.memory_budget_bytes);
        let seats = Budget::new(u64::from(connections));
        let contexts = Budget::new(config.compression_bytes);
        let mailbox_bytes = MAILBOX_BYTES_MIN.max(2 * config.message_bytes_max as usize + 64);
        let mailboxes = Mailboxes::connect(shards, mailbox_bytes);
        let (ready_in, ready) = mpsc::channel();
        let mut threads = Vec::with_capacity(shards);
        let mut go = Vec::with_capacity(shards);
        for (index, (mailboxes, sockets)) in mailboxes.into_iter().zip(listeners.by_shard).enumerate() {
            let (go_in, go_out) = mpsc::channel();
            let seed = RandomState::new().build_hasher().finish();
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
                seed,
                ready: ready_in.clone(),
                go: go_out,
            };
            let thread = std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(move || start.run())
                .map_err(|error| {
                    StartError::new(
                        format!("no thread for shard {index}: {error}"),
                        "raise the limit on processes",
                    )
                })?;
            threads.push(thread);
            go.push(go_in);
        }
        drop(ready_in);
        let (remotes, driver) = gather(shards, &ready)?;
        let wakers: Vec<Waker> = remotes.iter().map(|remote| remote.waker().clone()).collect();
        for go in go {
            // A shard that is gone by now is noticed when it is joined.
            let _ = go.send(wakers.clone());
        }
        let handle = Handle { remotes: remotes.into() };
        Ok(Server { addresses: listeners.addresses, driver, threads, handle })
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

    /// Waits until every shard has ended, after [`Handle::drain`] or [`Handle::stop`]. Returns their last
    /// snapshots.
    ///
    /// # Errors
    /// When a shard's driver broke or a shard panicked.
    pub fn join(self) -> io::Result<Vec<Snapshot>> {
        let mut snapshots = Vec::with_capacity(self.threads.len());
        for thread in self.threads {
            let ended = thread.join().map_err(|_| io::Error::other("a shard panicked"))?;
            snapshots.push(ended?);
        }
        for address in &self.addresses {
            if let ListenAddress::Unix(path) = address {
                // Left over is harmless: the next server replaces a socket that nobody answers.
                let _ = std::fs::remove_file(path);
            }
        }
        Ok(snapshots)
    }
}

/// A shard's number, and how its start went.
type Started = (usize, Result<(Remote, Description), StartError>);

/// Collects the shards' remotes in order.
fn gather(shards: usize, ready: &mpsc::Receiver<Started>) -> Result<(Vec<Remote>, Description), StartError> {
    let mut remotes: Vec<Option<Remote>> = (0..shards).map(|_| None).collect();
    let mut description = None;
    for _ in 0..shards {
        let (index, started) = ready.recv().map_err(|_| {
            StartError::new("a shard ended before it was ready", "see the log, and report it")
        })?;
        let (remote, described) = started?;
        remotes[index] = Some(remote);
        description = Some(described);
    }
    let described = description.ok_or_else(|| StartError::new("no shard was started", "use --shards 1"))?;
    Ok((remotes.into_iter().flatten().collect(), described))
}

/// The CPUs that shards are pinned to.
fn cpus(config: &Config) -> Vec<usize> {
    if !config.cpus.is_empty() {
        return config.cpus.clone();
    }
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    if allowed.is_empty() { vec![0] } else { allowed }
}

/// How many connections the node takes: what was asked for, or what the descriptors allow.
fn connections_max(config: &Config) -> Result<u32, StartError> {
    let limit = descriptor_limit();
    let allowed = u32::try_from(limit.saturating_sub(u64::from(RESERVED_DESCRIPTORS))).unwrap_or(u32::MAX);
    if allowed == 0 {
        return Err(StartError::new(
            format!("only {limit} descriptors are allowed"),
            "raise the limit: ulimit -n 65536, or LimitNOFILE= of the service",
        ));
    }
    match config.connections_max {
        Some(asked) if asked > allowed => Err(StartError::new(
            format!("--max-connections {asked} needs more than the {limit} descriptors allowed"),
            format!(
                "raise the limit (ulimit -n {}), or ask for at most {allowed}",
                u64::from(asked) + u64::from(RESERVED_DESCRIPTORS)
            ),
        )),
        Some(asked) => Ok(asked),
        None => Ok(allowed.min(CONNECTIONS_DEFAULT)),
    }
}

/// The soft limit on descriptors.
fn descriptor_limit() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3));
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(1024)
}

/// What a shard's thread is given.
struct Start {
    config: Config,
    cpu: Option<usize>,
    connections: u32,
    sockets: Vec<OwnedFd>,
    mailboxes: Mailboxes<Message>,
    allowance: Allowance,
    seed: u64,
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
                    format!("io_uring is not to be had: {error}"),
                    "allow it (sysctl kernel.io_uring_disabled=0, a seccomp profile that permits it), \
                     or use --driver epoll",
                )),
                Err(error) => {
                    let cure = "allow io_uring (sysctl kernel.io_uring_disabled=0, a seccomp profile that \
                                permits it) for less CPU per message";
                    tracing::warn!(%error, cure, "io_uring is not to be had, running on epoll");
                    self.on_epoll(&options)
                }
            },
        }
    }

    fn on_epoll(self, options: &Options) -> io::Result<Snapshot> {
        match Epoll::new(options) {
            Ok(driver) => self.on(driver),
            Err(error) => {
                self.fail(StartError::new(format!("epoll failed: {error}"), "raise the descriptor limit"))
            }
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
        let service =
            Service::new(self.config.origins.clone(), self.config.message_bytes_max, self.config.queue_bytes)
                .with_subprotocols(self.config.subprotocols.clone(), self.config.subprotocol_preference);
        let config = shard::Config {
            connection: self.config.connection(),
            connections: self.connections + REFUSING_CONNECTIONS_MAX,
            seed: self.seed,
        };
        let mut shard = Shard::new(driver, service, config, self.allowance, self.mailboxes);
        for socket in self.sockets {
            if let Err(error) = shard.listen(socket) {
                let started =
                    StartError::new(format!("cannot accept: {error}"), "raise the descriptor limit");
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
