//! The state that the threads of a run share: the load, its payloads, its start and its progress.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use super::address::UpgradeRequests;
use super::rate_changes::RateChanges;
use super::trace::Traced;
use crate::measure::fan_out::FanOutTracker;
use crate::measure::live::ThreadSnapshot;
use crate::measure::meter::{Meter, Sample};
use crate::plan::Resources;
use crate::plan::mode::Mode;
use crate::plan::payload::Payloads;
use crate::plan::protocol::CompiledProtocol;
use crate::plan::rate_control::RateControl;
use crate::plan::rows::{Row, RowSequence};
use crate::plan::target::Endpoint;
use crate::plan::workload::Workload;
use echoring_proto::limits::{MILLISECOND, Nanos};

/// Delay between the opening of the last connection and the first message, so that every thread notices.
const START_DELAY: Nanos = 20 * MILLISECOND;

/// Progress of one thread, read by the session.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ThreadProgress {
    /// Connections open now.
    pub open: AtomicU64,
    /// Connections that failed or ended early.
    pub failed: AtomicU64,
    /// Messages that arrived, warm-up included, by the end of the thread's latest tick.
    pub messages: AtomicU64,
}

/// An event that a worker thread reports to the session.
#[derive(Debug)]
pub(crate) enum RunEvent {
    /// All connections are open or have failed; the load begins.
    Started,
    /// The measured time begins.
    Measuring,
    /// The measured time is over.
    Measured,
    /// Results of a thread so far; about once per second from each thread.
    Snapshot(Box<ThreadSnapshot>),
    /// A part of a conversation; only if they are traced.
    Trace(Traced),
}

/// Each row of the data was taken once.
#[derive(Debug)]
pub(crate) struct NoRowLeft;

/// The shared state of one run.
#[derive(Debug)]
pub struct Shared {
    /// The load.
    pub load: Workload,
    /// Its payloads.
    pub payloads: Payloads,
    /// The upgrade requests.
    pub requests: UpgradeRequests,
    /// The protocol of the messages, if one is declared.
    pub protocol: Option<CompiledProtocol>,
    /// Whether messages or upgrade requests contain wall clock times.
    pub needs_wall_clock: bool,
    /// Whether conversations are traced.
    pub traces: bool,
    /// Names of the topics, for templates.
    pub topic_names: Vec<String>,
    /// The rows of the connections.
    row_sequence: Option<RowSequence>,
    /// Connections that took a row; connect mode only.
    rows_taken: AtomicU64,
    /// Local addresses, used in turn.
    pub sources: Vec<IpAddr>,
    /// Threads.
    pub threads: usize,
    /// Fan-out; broadcast mode only.
    pub fan_out: Option<FanOutTracker>,
    /// Progress of each thread.
    pub progress: Vec<ThreadProgress>,
    /// Set from outside to end the run early.
    pub stop: Arc<AtomicBool>,
    /// Asks for changes of the rate.
    pub(super) rate_control: Arc<RateControl>,
    /// The changes of the rate.
    pub(super) rate_changes: RateChanges,
    /// Where the first thread reports the phases of the run.
    pub events: mpsc::Sender<RunEvent>,
    /// The server's CPU time.
    pub(crate) meter: Arc<Meter>,
    unsettled: AtomicU32,
    has_opened: AtomicBool,
    connecting: AtomicU64,
    start: AtomicU64,
    sending: AtomicU32,
    /// When the connections of a storm were cut; 0 before.
    cut_at: AtomicU64,
}

impl Shared {
    /// A run that has not begun.
    pub(crate) fn new(
        load: Workload,
        endpoints: Arc<[Endpoint]>,
        sources: Vec<IpAddr>,
        threads: usize,
        resources: &Resources,
        events: mpsc::Sender<RunEvent>,
        meter: Arc<Meter>,
    ) -> Shared {
        let depth = load.pace.depth().unwrap_or(0);
        Shared {
            payloads: load.payloads(),
            fan_out: load.has_topics().then(|| FanOutTracker::new(&load, depth)),
            progress: (0..threads).map(|_| ThreadProgress::default()).collect(),
            protocol: load.compiled_protocol(),
            needs_wall_clock: load.needs_wall_clock(),
            traces: load.traces,
            topic_names: (0..load.topics).map(|topic| load.topic_name(topic)).collect(),
            row_sequence: load.rows.as_ref().map(|rows| rows.sequence(load.seed)),
            rows_taken: AtomicU64::new(0),
            unsettled: AtomicU32::new(load.connections),
            has_opened: AtomicBool::new(false),
            connecting: AtomicU64::new(0),
            start: AtomicU64::new(0),
            sending: AtomicU32::new(threads as u32),
            cut_at: AtomicU64::new(0),
            requests: UpgradeRequests::new(&load, endpoints),
            load,
            sources,
            threads,
            stop: resources.stop.clone(),
            rate_control: resources.rate_control.clone(),
            rate_changes: RateChanges::default(),
            events,
            meter,
        }
    }

    /// A CPU sample at `now`, taken by a thread that has counted `messages` up to this tick. `None` if the server's CPU
    /// time is unknown.
    pub fn sample(&self, thread: usize, messages: u64, now: Nanos) -> Option<Sample> {
        let others = self.progress.iter().enumerate().filter(|(other, _)| *other != thread);
        let theirs: u64 = others.map(|(_, progress)| progress.messages.load(Ordering::Relaxed)).sum();
        let cpu_ns = self.meter.cpu_ns()?;
        Some(Sample { at: now, cpu_ns, messages: messages + theirs })
    }

    /// A connection opened or failed. The last one sets the start of the load.
    pub fn settled(&self, now: Nanos) {
        if self.unsettled.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.start.store(now + START_DELAY, Ordering::Release);
        }
    }

    /// A connection opened. Called before it is [settled](Shared::settled).
    pub fn opened(&self) {
        if !self.has_opened() {
            self.has_opened.store(true, Ordering::Release);
        }
    }

    /// Whether any connection has opened.
    pub(crate) fn has_opened(&self) -> bool {
        self.has_opened.load(Ordering::Acquire)
    }

    /// When the first thread began to dial: `now` if it is this one.
    pub(crate) fn connecting_since(&self, now: Nanos) -> Nanos {
        match self.connecting.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => now,
            Err(since) => since,
        }
    }

    /// When the load begins, once it is known.
    pub fn start(&self) -> Option<Nanos> {
        match self.start.load(Ordering::Acquire) {
            0 => None,
            start => Some(start),
        }
    }

    /// A thread stops sending new messages.
    pub(crate) fn stopped_sending(&self) {
        self.sending.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether some thread may still send.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Acquire) > 0
    }

    /// The connections of a storm are cut at `now`, unless they were before.
    pub(crate) fn cut(&self, now: Nanos) {
        let _ = self.cut_at.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
    }

    /// When the connections of a storm were cut.
    pub(crate) fn cut_at(&self) -> Option<Nanos> {
        Some(self.cut_at.load(Ordering::Acquire)).filter(|at| *at > 0)
    }

    /// Whether the run is to end early.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The row of the next connection to dial, which has this number. `None` without data; an error when no row is left.
    pub(crate) fn take_row(&self, number: u32) -> Result<Option<u32>, NoRowLeft> {
        let Some(sequence) = &self.row_sequence else { return Ok(None) };
        let ordinal = match self.load.mode {
            Mode::Connect => self.rows_taken.fetch_add(1, Ordering::Relaxed),
            _ => number.into(),
        };
        sequence.of(ordinal).map(Some).ok_or(NoRowLeft)
    }

    /// The row with this number.
    pub(crate) fn row(&self, number: u32) -> Option<Row<'_>> {
        self.load.rows.as_ref().map(|rows| rows.row(number))
    }

    /// Numbers of a thread's connections: every `threads`-th, starting with its own number.
    pub(crate) fn connections_of(&self, thread: usize) -> impl Iterator<Item = u32> + use<> {
        (thread as u32..self.load.connections).step_by(self.threads)
    }

    /// The thread of a connection, and its position there.
    pub fn owner(&self, connection: u32) -> (usize, usize) {
        (connection as usize % self.threads, connection as usize / self.threads)
    }
}
