//! What the threads of one run share: the workload, its payloads, when it starts, and how far it is.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use super::board::Board;
use super::live::Part;
use super::meter::{Meter, Sample};
use super::payload::Payloads;
use super::plan::{Mode, Workload};
use crate::limits::{MILLISECOND, Nanos};

/// From the last connection's opening to the first message: time for every thread to notice.
const START_DELAY: Nanos = 20 * MILLISECOND;

/// How far one thread is; read by the one that shows it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Progress {
    /// Connections open now.
    pub open: AtomicU64,
    /// Connections that failed or ended early.
    pub failed: AtomicU64,
    /// Messages that arrived, warm-up included, by the end of its latest turn.
    pub messages: AtomicU64,
}

/// What a thread tells the one that conducts the run.
#[derive(Debug)]
pub enum News {
    /// All connections are open or have failed; the load begins.
    Started,
    /// The measured time begins.
    Measuring,
    /// The measured time is over.
    Measured,
    /// What a thread has measured so far; of every thread, about once a second.
    Told(Box<Part>),
}

/// One run, seen by all its threads.
#[derive(Debug)]
pub struct Shared {
    /// What is asked for.
    pub load: Workload,
    /// The messages.
    pub payloads: Payloads,
    /// Where the server is.
    pub address: SocketAddr,
    /// Path and query of the URL.
    pub url_path: Option<String>,
    /// Local addresses to use in turn.
    pub sources: Vec<IpAddr>,
    /// Threads.
    pub threads: usize,
    /// Fan-out; broadcast mode only.
    pub board: Option<Board>,
    /// How far each thread is.
    pub progress: Vec<Progress>,
    /// Set from outside to end the run early.
    pub stop: Arc<AtomicBool>,
    /// Whom the first thread tells of the run's phases.
    pub news: mpsc::Sender<News>,
    /// The server's CPU time.
    pub(super) meter: Arc<Meter>,
    unsettled: AtomicU32,
    has_opened: AtomicBool,
    dialling: AtomicU64,
    start: AtomicU64,
    sending: AtomicU32,
}

impl Shared {
    /// A run that has not begun.
    pub(super) fn new(
        load: Workload,
        (address, url_path): (SocketAddr, Option<String>),
        sources: Vec<IpAddr>,
        threads: usize,
        stop: Arc<AtomicBool>,
        news: mpsc::Sender<News>,
        meter: Arc<Meter>,
    ) -> Shared {
        let depth = load.pace.depth().unwrap_or(0);
        Shared {
            payloads: load.payloads(),
            board: (load.mode == Mode::Broadcast).then(|| Board::new(&load, depth)),
            progress: (0..threads).map(|_| Progress::default()).collect(),
            unsettled: AtomicU32::new(load.connections),
            has_opened: AtomicBool::new(false),
            dialling: AtomicU64::new(0),
            start: AtomicU64::new(0),
            sending: AtomicU32::new(threads as u32),
            load,
            address,
            url_path,
            sources,
            threads,
            stop,
            news,
            meter,
        }
    }

    /// What had happened by now, `now`, seen by a thread that has counted `messages` of its own in the turns up to
    /// this one. `None` when nobody knows the server's CPU time.
    pub fn sample(&self, thread: usize, messages: u64, now: Nanos) -> Option<Sample> {
        let others = self.progress.iter().enumerate().filter(|(other, _)| *other != thread);
        let theirs: u64 = others.map(|(_, progress)| progress.messages.load(Ordering::Relaxed)).sum();
        let cpu_ns = self.meter.cpu_ns()?;
        Some(Sample { at: now, cpu_ns, messages: messages + theirs })
    }

    /// A connection opened or failed. The last one starts the load for everybody.
    pub fn settled(&self, now: Nanos) {
        if self.unsettled.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.start.store(now + START_DELAY, Ordering::Release);
        }
    }

    /// A connection is open. Told before it is [settled](Shared::settled).
    pub fn opened(&self) {
        if !self.has_opened() {
            self.has_opened.store(true, Ordering::Release);
        }
    }

    /// Whether any connection has opened.
    pub fn has_opened(&self) -> bool {
        self.has_opened.load(Ordering::Acquire)
    }

    /// When the first thread began to dial, which is `now` if it is this one.
    pub fn dialling_since(&self, now: Nanos) -> Nanos {
        match self.dialling.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => now,
            Err(since) => since,
        }
    }

    /// When the load begins, once that is known.
    pub fn start(&self) -> Option<Nanos> {
        match self.start.load(Ordering::Acquire) {
            0 => None,
            start => Some(start),
        }
    }

    /// A thread sends nothing new any more.
    pub fn stopped_sending(&self) {
        self.sending.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether some thread may still send.
    pub fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Acquire) > 0
    }

    /// Whether the run is to end early.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Connections of a thread, by number: every `threads`-th from its own number on.
    pub fn connections_of(&self, thread: usize) -> impl Iterator<Item = u32> + use<> {
        (thread as u32..self.load.connections).step_by(self.threads)
    }

    /// The thread of a connection, and its position there.
    pub fn owner(&self, connection: u32) -> (usize, usize) {
        (connection as usize % self.threads, connection as usize / self.threads)
    }
}
