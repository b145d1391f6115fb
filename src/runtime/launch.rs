//! Starts one thread per shard: pins it, chooses its driver, and runs its event loop.
//!
//! The server and the load generator start their shards here. [`launch`] returns once every shard is ready and before any
//! of them runs; [`Launched::run`] lets them run. It knows nothing about the application on a shard.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use crate::driver::epoll::Epoll;
use crate::driver::uring::{self, Uring};
use crate::driver::{Description, Driver, DriverChoice, Options, Waker};
use crate::shard::{Application, Entrance, Exits, Remote, Shard};
use crate::stats::Snapshot;

/// Builds the shard of one thread, on that thread: a ring belongs to the thread that uses it.
pub trait ShardSetup: Send + 'static {
    /// The application on the shard.
    type Application: Application;
    /// The thread's result when its shard has ended.
    type Output: Send + fmt::Debug + 'static;

    /// Builds the shard on `driver`, its listeners included.
    ///
    /// # Errors
    /// Any error ends the launch with [`LaunchError::Setup`].
    fn build(self, driver: Driver) -> io::Result<Shard<Self::Application>>;

    /// Turns the ended shard into the thread's result.
    fn finish(application: Self::Application, snapshot: Snapshot<ReportOf<Self>>) -> Self::Output;
}

/// The application's report.
pub(crate) type ReportOf<S> = <<S as ShardSetup>::Application as Application>::Report;
/// Sends control messages to a launched shard.
pub(crate) type RemoteOf<S> = Remote<<<S as ShardSetup>::Application as Application>::Command, ReportOf<S>>;
/// How a shard's thread ended.
pub type Ended<S> = Result<<S as ShardSetup>::Output, ShardFailure>;

/// One shard to launch.
#[derive(Debug)]
pub struct ShardSpec<S> {
    /// The CPU to pin the thread to.
    pub cpu: Option<usize>,
    /// How its driver is built.
    pub driver: Options,
    /// Builds the shard.
    pub setup: S,
}

/// Options of all threads of one launch.
#[derive(Clone, Copy, Debug)]
pub struct LaunchOptions {
    /// Prefix of the threads' names: `shard` yields `shard-0`, `shard-1` and so on.
    pub thread_name: &'static str,
    /// The driver to run on.
    pub driver: DriverChoice,
}

/// Why the launch failed.
#[derive(Debug)]
pub enum LaunchError {
    /// The kernel started no thread for this shard.
    Thread(usize, io::Error),
    /// io_uring was required and is unavailable.
    Uring(io::Error),
    /// epoll failed.
    Epoll(io::Error),
    /// [`ShardSetup::build`] failed.
    Setup(io::Error),
    /// A thread ended before its shard was ready.
    Lost,
}

/// Why a shard's thread ended with an error.
pub enum ShardFailure {
    /// The driver failed, or the launch did.
    Io(io::Error),
    /// The shard panicked with this payload.
    Panic(Box<dyn Any + Send>),
}

impl fmt::Debug for ShardFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShardFailure::Io(error) => f.debug_tuple("Io").field(error).finish(),
            ShardFailure::Panic(_) => f.write_str("Panic"),
        }
    }
}

/// Shards that are ready and not running yet. Dropping it ends their threads.
#[derive(Debug)]
pub struct Launched<S: ShardSetup> {
    remotes: Vec<RemoteOf<S>>,
    driver: Description,
    exits: Arc<Exits>,
    threads: Vec<ShardThread<S::Output>>,
    gates: Vec<mpsc::Sender<Vec<Waker>>>,
}

impl<S: ShardSetup> Launched<S> {
    /// Shards that run elsewhere than on threads of their own.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn without_threads(remotes: Vec<RemoteOf<S>>, driver: Description) -> Launched<S> {
        Launched { remotes, driver, exits: Arc::default(), threads: Vec::new(), gates: Vec::new() }
    }

    /// Sends control messages to the shards, by number.
    pub fn remotes(&self) -> &[RemoteOf<S>] {
        &self.remotes
    }

    /// The driver that the shards run on.
    pub fn driver(&self) -> Description {
        self.driver
    }

    /// The ways on which connections leave the shards.
    pub fn exits(&self) -> &Arc<Exits> {
        &self.exits
    }

    /// Lets every shard run, and returns their threads, by their numbers.
    pub fn run(self) -> Vec<ShardThread<S::Output>> {
        let wakers: Vec<Waker> = self.remotes.iter().map(|remote| remote.waker().clone()).collect();
        for gate in self.gates {
            // A shard that has ended is detected when its thread is joined.
            let _ = gate.send(wakers.clone());
        }
        self.threads
    }
}

/// The thread of a shard.
#[derive(Debug)]
pub struct ShardThread<T>(JoinHandle<Result<T, ShardFailure>>);

impl<T> ShardThread<T> {
    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the thread to end.
    ///
    /// # Errors
    /// The shard's driver failed, or the shard panicked.
    pub fn join(self) -> Result<T, ShardFailure> {
        self.0.join().unwrap_or_else(|panic| Err(ShardFailure::Panic(panic)))
    }
}

/// Starts a thread for each of `specs`, and returns when all of them have a shard that is ready to run. Each thread calls
/// `on_end` with its shard's number and result as its last act.
///
/// # Errors
/// The first failure of a thread; the other threads end by themselves.
///
/// # Panics
/// When `specs` is empty.
pub fn launch<S: ShardSetup>(
    options: LaunchOptions,
    specs: Vec<ShardSpec<S>>,
    on_end: impl Fn(usize, &Ended<S>) + Send + Sync + 'static,
) -> Result<Launched<S>, LaunchError> {
    assert!(!specs.is_empty(), "a launch has at least one shard");
    let shards = specs.len();
    let on_end = Arc::new(on_end);
    let (ready, readiness) = mpsc::channel();
    let exits: Arc<Exits> = Arc::default();
    let (mut threads, mut gates) = (Vec::with_capacity(shards), Vec::with_capacity(shards));
    for (shard, spec) in specs.into_iter().enumerate() {
        let (gate, gated) = mpsc::channel();
        let (ready, exits) = (ready.clone(), Arc::clone(&exits));
        let start = Start { shard, choice: options.driver, ready, gate: gated, exits };
        threads.push(spawn(options, spec, start, Arc::clone(&on_end))?);
        gates.push(gate);
    }
    drop(ready);
    let (started, driver) = gather::<S>(shards, &readiness)?;
    let (remotes, entrances) = started.into_iter().unzip();
    exits.set_shards(entrances);
    Ok(Launched { remotes, driver, exits, threads, gates })
}

fn spawn<S: ShardSetup>(
    options: LaunchOptions,
    spec: ShardSpec<S>,
    start: Start<S>,
    on_end: Arc<impl Fn(usize, &Ended<S>) + Send + Sync + 'static>,
) -> Result<ShardThread<S::Output>, LaunchError> {
    let shard = start.shard;
    let builder = thread::Builder::new().name(format!("{}-{shard}", options.thread_name));
    let thread = builder.spawn(move || {
        let ended = match catch_unwind(AssertUnwindSafe(|| start.run(spec))) {
            Ok(ended) => ended.map_err(ShardFailure::Io),
            Err(panic) => Err(ShardFailure::Panic(panic)),
        };
        on_end(shard, &ended);
        ended
    });
    thread.map(ShardThread).map_err(|error| LaunchError::Thread(shard, error))
}

/// A shard's number, and how its start went.
type Readiness<S> = (usize, Result<(Ways<S>, Description), LaunchError>);
/// How control messages and connections come to a shard.
type Ways<S> = (RemoteOf<S>, Entrance);

/// Collects the ways to the shards, by number.
fn gather<S: ShardSetup>(
    shards: usize,
    readiness: &mpsc::Receiver<Readiness<S>>,
) -> Result<(Vec<Ways<S>>, Description), LaunchError> {
    let mut started = Vec::with_capacity(shards);
    for _ in 0..shards {
        let (shard, ready) = readiness.recv().map_err(|_| LaunchError::Lost)?;
        let (ways, described) = ready?;
        started.push((shard, ways, described));
    }
    started.sort_unstable_by_key(|(shard, ..)| *shard);
    let described = started.last().map(|(.., described)| *described).ok_or(LaunchError::Lost)?;
    Ok((started.into_iter().map(|(_, ways, _)| ways).collect(), described))
}

/// The start of one shard, on its thread.
struct Start<S: ShardSetup> {
    shard: usize,
    choice: DriverChoice,
    ready: mpsc::Sender<Readiness<S>>,
    gate: mpsc::Receiver<Vec<Waker>>,
    exits: Arc<Exits>,
}

impl<S: ShardSetup> Start<S> {
    fn run(self, spec: ShardSpec<S>) -> io::Result<S::Output> {
        let ShardSpec { cpu, driver, setup } = spec;
        pin(cpu);
        let driver = match choose(self.choice, &driver) {
            Ok(driver) => driver,
            Err((error, cause)) => return self.fail(error, cause),
        };
        let description = driver.describe();
        let mut shard = match setup.build(driver) {
            Ok(shard) => shard,
            Err(error) => return self.fail(error, LaunchError::Setup),
        };
        shard.set_exits(self.exits);
        let _ = self.ready.send((self.shard, Ok(((shard.remote(), shard.entrance()), description))));
        // A waiting thread keeps its sender, so the loss of another thread would not be detected.
        drop(self.ready);
        let Ok(wakers) = self.gate.recv() else { return Err(io::Error::other("the launch was given up")) };
        shard.set_wakers(&wakers);
        shard.run().map(|(application, snapshot)| S::finish(application, snapshot))
    }

    /// Reports that this shard has no driver or no listener.
    fn fail(self, error: io::Error, cause: FailureCause) -> io::Result<S::Output> {
        let failed = io::Error::new(error.kind(), error.to_string());
        // The launch may have failed already because of another shard.
        let _ = self.ready.send((self.shard, Err(cause(error))));
        Err(failed)
    }
}

/// Says which part of a launch an error belongs to.
type FailureCause = fn(io::Error) -> LaunchError;

/// The driver that `choice` allows on this host.
fn choose(choice: DriverChoice, options: &Options) -> Result<Driver, (io::Error, FailureCause)> {
    if choice != DriverChoice::Epoll {
        match Uring::new(options) {
            Ok(uring) => return Ok(Driver::Uring(uring)),
            Err(error) if choice == DriverChoice::Uring => return Err((error, LaunchError::Uring)),
            Err(error) => {
                let hint = format!("{} for less CPU per message", uring::hint(&error));
                tracing::warn!(%error, hint, "io_uring is unavailable, running on epoll");
            }
        }
    }
    Epoll::new(options).map(Driver::Epoll).map_err(|error| (error, LaunchError::Epoll as FailureCause))
}

fn pin(cpu: Option<usize>) {
    if let Some(cpu) = cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
    {
        tracing::warn!(cpu, "cannot pin this thread; the scheduler chooses its CPU");
    }
}
