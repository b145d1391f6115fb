//! The state that the threads of a run share: the load, its payloads, its start and its progress.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use super::address::UpgradeRequests;
use super::coordination::{Coordination, Part};
use super::measured_time::MeasuredTime;
use super::stamping::stamping;
use super::trace::Traced;
use crate::measure::fan_out::FanOutTracker;
use crate::measure::live::ThreadSnapshot;
use crate::measure::meter::{Meter, Sample};
use crate::measure::own_delays::DelayLog;
use crate::measure::samples::{Picker, Sampler};
use crate::measure::shares::Sender;
use crate::measure::warm_up::WarmUpBlock;
use crate::plan::payload::{read_time, written_time};
use crate::plan::protocol::CompiledProtocol;
use crate::plan::rows::{Row, RowSequence};
use crate::plan::timestamps::Stamping;
use crate::plan::{Endpoint, Payloads, Resources, SAMPLES_MAX, Segment, Workload};
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
    /// A thread's part of a block of the warm-up.
    WarmUp(WarmUpBlock),
    /// The measured time begins.
    Measuring,
    /// The measured time is over.
    Measured,
    /// Results of a thread so far; about once per second from each thread.
    Snapshot(Box<ThreadSnapshot>),
    /// A part of a conversation; only if they are traced.
    Trace(Traced),
}

/// Where connections go to, and the local addresses that they come from.
pub(crate) struct Addresses {
    pub endpoints: Arc<[Endpoint]>,
    pub sources: Vec<IpAddr>,
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
    /// The protocols of the messages, if some are declared.
    pub protocols: Vec<CompiledProtocol>,
    /// Their places in turn.
    protocol_turns: Vec<u16>,
    /// Whether messages or upgrade requests contain wall clock times.
    pub needs_wall_clock: bool,
    /// Whether conversations are traced.
    pub traces: bool,
    /// Whether the kernel's times are noted.
    pub(crate) stamping: Stamping,
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
    /// Causes of delayed messages, per thread.
    pub(crate) delay_logs: Arc<[DelayLog]>,
    /// Set from outside to end the run early.
    pub stop: Arc<AtomicBool>,
    /// Whether a thread has failed, which ends the run.
    has_failed: AtomicBool,
    /// The connections that are this generator's.
    pub(super) segment: Segment,
    /// Other generators of the run.
    pub(super) coordination: Option<Arc<Coordination>>,
    /// Where the first thread reports the phases of the run.
    pub events: mpsc::Sender<RunEvent>,
    /// The server's CPU time.
    pub(crate) meter: Arc<Meter>,
    unsettled: AtomicU32,
    has_opened: AtomicBool,
    connecting: AtomicU64,
    start: AtomicU64,
    sending: AtomicU32,
    /// Ends of the measured time that are decided while the load runs.
    pub(super) measured_time: MeasuredTime,
    /// When the connections of a storm were cut; 0 before.
    cut_at: AtomicU64,
}

impl Shared {
    /// The picker of a thread's samples.
    pub(super) fn sampler(&self, thread: usize) -> Sampler {
        let (index, of) = (self.segment.index(), self.segment.of() as usize);
        let picker = Picker {
            generator: index as u16,
            thread: thread * of + index as usize,
            threads: self.threads * of,
        };
        // It may come from another machine.
        let rows_max = self.load.sample_rows_max.min(SAMPLES_MAX);
        let new = |share| Sampler::new(share, self.load.seed, rows_max, picker);
        self.load.sample_share.map_or(Sampler::default(), new)
    }

    /// A run that has not begun.
    pub(crate) fn new(
        load: Workload,
        Addresses { endpoints, sources }: Addresses,
        threads: usize,
        resources: &Resources,
        Part { segment, coordination }: Part,
        (events, meter): (mpsc::Sender<RunEvent>, Arc<Meter>),
    ) -> Shared {
        let depth = load.pace.depth().unwrap_or(0);
        Shared {
            payloads: load.payloads(),
            fan_out: load.has_topics().then(|| FanOutTracker::new(&load, depth)),
            progress: (0..threads).map(|_| ThreadProgress::default()).collect(),
            delay_logs: (0..threads).map(|_| DelayLog::default()).collect(),
            protocols: load.compiled_protocols(),
            protocol_turns: load.protocol_turns(),
            needs_wall_clock: load.needs_wall_clock(),
            traces: load.traces,
            topic_names: (0..load.topics).map(|topic| load.topic_name(topic)).collect(),
            row_sequence: load.rows.as_ref().map(|rows| rows.sequence(load.seed)),
            rows_taken: AtomicU64::new(0),
            unsettled: AtomicU32::new(segment.count(load.connections)),
            has_opened: AtomicBool::new(false),
            connecting: AtomicU64::new(0),
            start: AtomicU64::new(0),
            sending: AtomicU32::new(threads as u32),
            measured_time: MeasuredTime::default(),
            cut_at: AtomicU64::new(0),
            stamping: stamping(&load, &endpoints, threads),
            requests: UpgradeRequests::new(&load, endpoints),
            load,
            sources,
            threads,
            stop: resources.stop.clone(),
            has_failed: AtomicBool::new(false),
            segment,
            coordination,
            events,
            meter,
        }
    }

    /// A count of all threads, added up.
    pub(super) fn sum(&self, count: fn(&ThreadProgress) -> &AtomicU64) -> u64 {
        self.progress.iter().map(|progress| count(progress).load(Ordering::Relaxed)).sum()
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
            match &self.coordination {
                Some(coordination) => coordination.settle(self.open_subscribers()),
                None => self.start.store(now + START_DELAY, Ordering::Release),
            }
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

    /// Open subscribers of this generator, by topic.
    fn open_subscribers(&self) -> Vec<u32> {
        let Some(fan_out) = &self.fan_out else { return Vec::new() };
        (0..self.load.topics).map(|topic| fan_out.subscribers(topic)).collect()
    }

    /// Open subscribers of a topic, those of other generators included.
    pub(super) fn audience(&self, topic: u32) -> u32 {
        let of_all = self.coordination.as_ref().and_then(|coordination| coordination.audience(topic));
        of_all.or_else(|| Some(self.fan_out.as_ref()?.subscribers(topic))).unwrap_or(0)
    }

    /// A time as messages carry it: of the common clock of all generators.
    #[inline]
    pub(super) fn written_time(&self, at: Nanos) -> Nanos {
        written_time(at, self.ahead())
    }

    /// The time that a message carries, by the clock of this generator, at `now`.
    #[inline]
    pub(super) fn read_time(&self, written: Nanos, now: Nanos) -> Nanos {
        read_time(written, now, self.ahead())
    }

    #[inline]
    fn ahead(&self) -> i64 {
        self.coordination.as_ref().map_or(0, |coordination| coordination.ahead())
    }

    /// Start of the load, once known.
    pub fn start(&self) -> Option<Nanos> {
        if let Some(coordination) = &self.coordination {
            return coordination.start();
        }
        Some(self.start.load(Ordering::Acquire)).filter(|start| *start > 0)
    }

    /// A thread stops sending new messages.
    pub(crate) fn stopped_sending(&self) {
        if self.sending.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(coordination) = &self.coordination
        {
            let fan_out = self.fan_out.as_ref();
            let published = |publisher| fan_out.map_or(0, |fan_out| fan_out.published(publisher));
            let own = |publisher| if self.segment.has(publisher) { published(publisher) } else { 0 };
            coordination.stopped_sending((0..self.load.publishers).map(own).collect());
        }
    }

    /// Whether some thread of any generator may still send.
    pub(crate) fn is_sending(&self) -> bool {
        let Some(coordination) = &self.coordination else { return self.sending.load(Ordering::Acquire) > 0 };
        !coordination.is_concluded(|published| {
            if let Some(fan_out) = &self.fan_out {
                fan_out.conclude(published);
            }
        })
    }

    /// The connections of a storm are cut at `now`, unless they were before.
    pub(crate) fn cut(&self, now: Nanos) {
        let _ = self.cut_at.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
    }

    /// When the connections of a storm were cut.
    pub(crate) fn cut_at(&self) -> Option<Nanos> {
        Some(self.cut_at.load(Ordering::Acquire)).filter(|at| *at > 0)
    }

    /// A thread has failed, perhaps before the load began: the others end, as they could wait for it without end.
    pub(super) fn fail(&self, now: Nanos) {
        self.has_failed.store(true, Ordering::Relaxed);
        match &self.coordination {
            Some(coordination) => coordination.abandon(now),
            None => drop(self.start.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed)),
        }
    }

    /// Whether the run must end early.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.has_failed.load(Ordering::Relaxed)
    }

    /// The row of the next connection to dial, which has this number. `None` without data; an error when no row is left.
    pub(crate) fn take_row(&self, number: u32) -> Result<Option<u32>, NoRowLeft> {
        let Some(sequence) = &self.row_sequence else { return Ok(None) };
        let ordinal = match self.load.mode {
            mode if mode.opens_when_due() => {
                let taken = self.rows_taken.fetch_add(1, Ordering::Relaxed);
                taken * u64::from(self.segment.of()) + u64::from(self.segment.index())
            }
            _ => number.into(),
        };
        sequence.of(ordinal).map(Some).ok_or(NoRowLeft)
    }

    /// The place of the protocol whose turn it is for a connection or session with this number; 0 if there is none.
    pub(crate) fn protocol_for(&self, number: u64) -> usize {
        let turn = number.checked_rem(self.protocol_turns.len() as u64);
        turn.map_or(0, |turn| self.protocol_turns[turn as usize].into())
    }

    /// The row with this number.
    pub(crate) fn row(&self, number: u32) -> Option<Row<'_>> {
        self.load.rows.as_ref().map(|rows| rows.row(number))
    }

    /// Numbers of a thread's connections: every `threads`-th of the segment, starting with the thread's own number.
    pub(crate) fn connections_of(&self, thread: usize) -> impl Iterator<Item = u32> + use<> {
        let segment = self.segment;
        let positions = (thread as u32..segment.count(self.load.connections)).step_by(self.threads);
        positions.map(move |position| segment.number(position))
    }

    /// The thread that sends a connection's publications.
    #[inline]
    pub(crate) fn sender(&self, connection: u32) -> Sender {
        if !self.segment.has(connection) {
            return Sender::Elsewhere;
        }
        // The division of two small numbers is the quicker one.
        Sender::Thread((self.segment.position(connection) % self.threads as u32) as usize)
    }

    /// The thread of a connection of the segment, and its position there.
    pub fn owner(&self, connection: u32) -> (usize, usize) {
        let position = self.segment.position(connection) as usize;
        (position % self.threads, position / self.threads)
    }
}
