//! The engine for calls out, which are requests to other services: one thread with one runtime makes them all.
//!
//! A kind of call is a [`Row`] of the table here, and what its answers mean, which the kind says where it is. It has a [`Queue`], in
//! which each source has a share, so that a service that stalls, or one client, takes its own share only. Shards never wait: they
//! pass calls on through an [`Inlet`].
//!
//! Work that blocks is done by other threads of the runtime, whose number is bounded: lookups of names, password checks, and reads of
//! files.

pub(crate) mod backend;
pub(crate) mod head;
pub(crate) mod hook;
pub(crate) mod http_client;
pub(crate) mod load;
pub(crate) mod metrics;
pub(crate) mod signature;
pub(crate) mod turns;
pub(crate) mod webhooks;

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Sender, UnboundedSender, channel, unbounded_channel};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use self::load::Load;
use self::turns::Turns;
use crate::limits::*;

/// A row of the table: the bounds of a kind of call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Calls that wait, those in progress included.
    pub(crate) waiting_max: usize,
    /// Bytes of them, likewise.
    pub(crate) waiting_bytes_max: usize,
    /// Calls in progress at the same time.
    pub(crate) requests_max: usize,
    /// Bytes of an answer.
    pub(crate) answer_bytes_max: usize,
    /// The delays before further attempts.
    pub(crate) retry: Backoff,
}

const ANY: usize = usize::MAX;
const NEVER: Backoff = Backoff(Duration::MAX, Duration::MAX);

/// Hooks of the application.
pub(crate) const HOOKS: Row =
    row((APP_CALLS_MAX, APP_CALLS_BYTES_MAX), APP_REQUESTS_MAX, APP_ANSWER_BYTES_MAX, NEVER);
/// Those about sessions that begin: existing sessions do not keep new ones out.
pub(crate) const CONNECT_HOOKS: Row =
    row((APP_CONNECTS_MAX, APP_CONNECTS_BYTES_MAX), APP_CONNECT_REQUESTS_MAX, APP_ANSWER_BYTES_MAX, NEVER);
/// The hook of authentication.
pub(crate) const AUTH_HOOK: Row =
    row((HOOK_WAITING_MAX, ANY), HOOK_REQUESTS_MAX, HOOK_ANSWER_BYTES_MAX, NEVER);
/// Password checks, which are calls of a function. Wrong ones are answered after the delays.
pub(crate) const PASSWORDS: Row =
    row((PASSWORDS_WAITING_MAX, ANY), 1, 0, Backoff(PASSWORD_DELAY_MIN, PASSWORD_DELAY_MAX));
/// Key sets, and tokens that wait for one.
pub(crate) const KEY_SETS: Row =
    row((UNKNOWN_KEY_WAITING_MAX, ANY), 1, JWKS_BYTES_MAX, Backoff(JWKS_RETRY_MIN, JWKS_RETRY_MAX));
/// Back ends of routes. Their settings bound the bytes and the requests.
pub(crate) const BACKENDS: Row = row(
    (ANY, BACKEND_QUEUE_BYTES_DEFAULT),
    BACKEND_REQUESTS_DEFAULT as usize,
    BACKEND_ANSWER_BYTES_MAX,
    Backoff(BACKEND_RETRY_DELAY_MIN, BACKEND_RETRY_DELAY_MAX),
);
/// Webhooks. Their settings bound the bytes.
pub(crate) const WEBHOOKS: Row =
    row((ANY, ANY), 1, WEBHOOK_ANSWER_BYTES_MAX, Backoff(WEBHOOK_RETRY_MIN, WEBHOOK_RETRY_MAX));

const fn row(
    (waiting_max, waiting_bytes_max): (usize, usize),
    requests_max: usize,
    answer_bytes_max: usize,
    retry: Backoff,
) -> Row {
    Row { waiting_max, waiting_bytes_max, requests_max, answer_bytes_max, retry }
}

impl Row {
    pub(crate) fn queue(&self) -> Queue {
        Queue {
            waiting: Load::of_at_most(self.waiting_max, self.waiting_bytes_max),
            turns: Turns::of_at_most(self.requests_max),
        }
    }
}

/// The first delay before another attempt, and the longest. It doubles with each failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff(Duration, Duration);

impl Backoff {
    /// The delay after so many failures in a row, at least one.
    pub(crate) fn after(self, failures: u32) -> Duration {
        self.0.saturating_mul(1 << (failures - 1).min(31)).min(self.1)
    }
}

/// The calls of one kind that wait, and the turns of those in progress.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) waiting: Arc<Load>,
    pub(crate) turns: Arc<Turns>,
}

/// The result of `work`, which has this much time.
pub(crate) async fn within<T, E: From<String>>(
    time: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    timeout(time, work).await.unwrap_or_else(|_| Err(format!("no answer within {time:?}").into()))
}

/// Begins something on the thread.
type Begin = Box<dyn FnOnce() + Send>;

/// The thread. It lasts as long as the process.
pub(crate) struct Engine(UnboundedSender<Begin>);

impl Engine {
    /// The engine of the process, which is started if it does not run yet.
    pub(crate) fn start() -> io::Result<Engine> {
        static STARTED: Mutex<Option<UnboundedSender<Begin>>> = Mutex::new(None);
        let mut started = lock(&STARTED);
        if let Some(sender) = &*started {
            return Ok(Engine(sender.clone()));
        }
        let (sender, mut tasks) = unbounded_channel::<Begin>();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(CALLS_BLOCKING_THREADS_MAX)
            .build()?;
        let run = async move {
            while let Some(begin) = tasks.recv().await {
                begin();
            }
        };
        let run = move || LocalSet::new().block_on(&runtime, run);
        thread::Builder::new().name("calls".to_owned()).spawn(run)?;
        *started = Some(sender.clone());
        Ok(Engine(sender))
    }

    /// Begins a task there.
    pub(crate) fn spawn<F: Future<Output = ()> + 'static>(&self, task: impl FnOnce() -> F + Send + 'static) {
        // The thread does not end before the process.
        let _ = self.0.send(Box::new(move || drop(spawn_local(task()))));
    }
}

/// The way of calls to the thread, once it is started.
#[derive(Debug)]
pub(crate) struct Inlet<T>(OnceLock<Sender<T>>);

impl<T> Default for Inlet<T> {
    fn default() -> Inlet<T> {
        Inlet(OnceLock::new())
    }
}

impl<T: Send + 'static> Inlet<T> {
    /// Has `make` carry out calls from now on, unless it does. At most `most` are on their way. Those that have been passed on are
    /// carried out even if this value ends.
    pub(crate) fn start<F: Future<Output = ()> + 'static>(
        &self,
        most: usize,
        make: impl Fn(T) -> F + Send + 'static,
    ) -> io::Result<()> {
        let engine = Engine::start()?;
        self.0.get_or_init(|| {
            let (sender, mut calls) = channel(most);
            engine.spawn(move || async move {
                while let Some(call) = calls.recv().await {
                    spawn_local(make(call));
                }
            });
            sender
        });
        Ok(())
    }

    /// Passes a call on, or returns it if too many are on their way. Before the start it is dropped.
    pub(crate) fn send(&self, call: T) -> Result<(), T> {
        match self.0.get().map(|calls| calls.try_send(call)) {
            Some(Err(TrySendError::Full(call))) => Err(call),
            _ => Ok(()),
        }
    }
}

/// Counts work whose end somebody may wait for.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<usize>, Condvar);

/// A part of it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Begun(Arc<Running>);

impl Running {
    pub(crate) fn begin(self: &Arc<Running>) -> Begun {
        *lock(&self.0) += 1;
        Begun(Arc::clone(self))
    }

    /// Waits until nothing runs, at most until a time.
    pub(crate) fn finish(&self, until: Instant) {
        let time = until.saturating_duration_since(Instant::now());
        // The caller looks at the requests that still run.
        let _ = self.1.wait_timeout_while(lock(&self.0), time, |running| *running > 0);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut running = lock(&self.0.0);
        *running -= 1;
        if *running == 0 {
            self.0.1.notify_all();
        }
    }
}

/// No panic leaves what a lock of this crate protects half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
