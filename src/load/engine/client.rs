//! One worker thread of the generator: an [`Application`] whose connections are all in the client role.
//!
//! All threads go through the [`Phase`]s together: no thread sends before every connection of every thread is open or has
//! failed, and all use the same schedule and the same measured time. In a closed loop the arrival that makes room sends the
//! next message; in an open loop messages are sent when a tick ends. A tick sends at most once per connection. Times are
//! those of the tick.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crate::engine::shared::{RunEvent, Shared};
use crate::measure::live::SnapshotTaker;
use crate::measure::meter::Sample;
use crate::measure::warm_up::WarmUpRecorder;
use crate::measure::{MessageName, Tally, Window, host};

use crate::plan::Mode;
use crate::plan::protocol::CompiledProtocol;
use echoring_proto::connection::{Chunk, Closed};
use echoring_proto::handshake::{Refusal, Request, Response, Upgrade};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_runtime::driver::Token;
use echoring_runtime::shard::{Answer, Application, ConnectionContext, Context, Disposition, Kinds, Route};

mod agenda;
mod answers;
mod attempts;
mod backlog;
mod broadcast;
mod causes;
mod churn;
mod clock_offset;
mod connection;
mod connector;
mod conversation;
mod delay_meter;
mod echo;
mod opening;
mod outstanding;
mod pacer;
mod pings;
mod player;
mod push;
mod replaced;
mod replay;
mod sending;
mod session;
mod slots;
mod slow;
mod slow_readers;
mod stamped;
mod timers;
mod topic;
mod visits;

use agenda::Agenda;
use backlog::Backlog;
use clock_offset::ClockOffset;
use connection::{Connection, Flow, State};
use connector::Connector;
use delay_meter::DelayMeter;
use pacer::Pacer;
use slots::ConnectionSlots;
use slow_readers::SlowReaders;
use stamped::StampedAnswers;
use timers::Timers;

/// Time limit of the closing handshakes.
const CLOSING_TIME: Nanos = SECOND;
/// The same with slow readers, whose Close frames follow the data in the kernel's buffers.
const STALLED_CLOSING_TIME: Nanos = 5 * SECOND;
/// Time limit of the ends of connections that are cut then: they wait for no peer.
const CUTTING_TIME: Nanos = 10 * SECOND;
/// Time for messages in flight where the user stopped the load: most answers are there by then, and the user need not
/// wait long.
const STOPPED_DRAIN_TIME: Nanos = SECOND;
/// Poll interval while a phase change is expected.
const POLL_INTERVAL: Nanos = 2 * MILLISECOND;

/// Index of a connection among those of its thread; the shard stores it with the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    position: u32,
}

impl Default for Peer {
    fn default() -> Peer {
        Peer { position: u32::MAX }
    }
}

/// A connection, while the shard serves it.
type Link<'a> = ConnectionContext<'a, Client>;

/// Messages between worker threads.
#[derive(Clone, Copy, Debug)]
pub enum WorkerMessage {
    /// All subscribers have received the message with this sequence of this publisher.
    Reached(u32, u64),
}

#[derive(Debug)]
enum Phase {
    /// Opening connections.
    Connecting,
    /// All connections of this thread are open or have failed; it waits for the other threads.
    Ready,
    /// Sending.
    Running {
        stop_at: Nanos,
        cpu_before: Option<(u64, Nanos)>,
    },
    /// Waiting for messages in flight.
    Draining {
        until: Nanos,
        /// Whether the user had stopped the run before; a stop meanwhile ends the wait.
        is_stopped: bool,
    },
    /// Closing the connections. Those that are open at `until` are cut.
    Closing {
        until: Nanos,
        is_cut: bool,
    },
    Over,
}

/// One thread of a run.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    thread: usize,
    tally: Tally,
    connections: Vec<Connection>,
    phase: Phase,
    connector: Connector,
    pacer: Pacer,
    backlog: Backlog,
    slow: SlowReaders,
    slots: ConnectionSlots,
    clock_offset: ClockOffset,
    timers: Timers,
    delay_meter: DelayMeter,
    stamped: StampedAnswers,
    snapshots: SnapshotTaker,
    /// The ways to the servers.
    routes: Vec<Route>,
    /// The protocols of the messages, if some are declared; copies of this thread.
    protocols: Vec<Arc<CompiledProtocol>>,
    agenda: Agenda,
    /// The next message; kept for its capacity.
    message: Vec<u8>,
    /// The payload within it; kept for its capacity.
    payload: Vec<u8>,
    /// Why the latest answer is wrong; only if conversations are traced.
    mismatch: String,
    /// The thread's total CPU wait when the measured time began.
    run_delay_before: Option<u64>,
}

impl Client {
    /// The client of thread number `thread`.
    pub fn new(shared: Arc<Shared>, thread: usize) -> Client {
        let connections: Vec<Connection> =
            shared.connections_of(thread).map(|number| Connection::new(&shared, number)).collect();
        let late_after_ns = shared.load.late_after.map(|bound| bound.as_nanos() as Nanos);
        let requests = shared.protocols.iter().map(|protocol| protocol.requests.len()).sum();
        let mut tally = Tally::for_load(late_after_ns, requests, shared.sampler(thread));
        tally.answered = (shared.stamping.every > 0).then(Vec::new);
        tally.split.every = shared.stamping.every;
        Client {
            thread,
            tally,
            pacer: Pacer::new(&shared.load, &connections),
            connections,
            phase: Phase::Connecting,
            connector: Connector::default(),
            backlog: Backlog::default(),
            slow: SlowReaders::default(),
            slots: ConnectionSlots::default(),
            clock_offset: ClockOffset::default(),
            timers: Timers::default(),
            delay_meter: DelayMeter::default(),
            stamped: StampedAnswers::default(),
            snapshots: SnapshotTaker::default(),
            routes: shared.own_routes(),
            protocols: shared.protocols.iter().cloned().map(Arc::new).collect(),
            agenda: Agenda::default(),
            message: Vec::with_capacity(shared.payloads.bytes_max),
            payload: Vec::new(),
            mismatch: String::new(),
            run_delay_before: None,
            shared,
        }
    }

    /// The protocol of a connection, if one is declared.
    #[inline]
    fn protocol_of(&self, position: usize) -> Option<Arc<CompiledProtocol>> {
        self.protocols.get(self.connections[position].protocol).cloned()
    }

    /// The results of this thread, complete once its shard has ended.
    pub(crate) fn into_tally(mut self) -> Tally {
        self.tally.complete();
        self.tally
    }

    // ---- phases ----

    fn step(&mut self, cx: &mut Context<'_, Client>) {
        let now = cx.now();
        self.note_tick(now);
        self.timers.restart(now);
        self.read_wall_clock(cx);
        self.run_agenda(cx);
        match self.phase {
            Phase::Connecting => self.dial(cx),
            Phase::Ready => self.wait_for_threads(cx),
            Phase::Running { .. } => self.run(cx),
            Phase::Draining { until, is_stopped } => {
                self.timers.wake_by(now + POLL_INTERVAL);
                if self.shared.load.replay.is_some() {
                    // What was due before the end is still sent.
                    self.retry(cx, now);
                }
                let is_cut = self.shared.is_stopped() && !is_stopped;
                if now >= until || is_cut || (!self.shared.is_sending() && self.is_drained()) {
                    // A message that was awaited longer counts with its present age.
                    self.finish(cx, if is_cut { until.min(now) } else { until });
                }
            }
            Phase::Closing { until, is_cut } => {
                if cx.connections() == 0 || (is_cut && now >= until) {
                    self.phase = Phase::Over;
                    self.give_up_stalled();
                    cx.stop();
                } else if now >= until {
                    self.cut_closing(cx);
                }
            }
            Phase::Over => cx.stop(),
        }
    }

    fn wait_for_threads(&mut self, cx: &mut Context<'_, Client>) {
        let now = cx.now();
        self.timers.wake_by(now + POLL_INTERVAL);
        let Some(start) = self.shared.start() else { return };
        if now < start {
            return self.timers.wake_by(start);
        }
        let load = &self.shared.load;
        let from = start + load.warmup.as_nanos() as Nanos;
        let window = Window { from, until: from + load.duration.as_nanos() as Nanos };
        self.tally.open(window);
        self.tally.open_stages(load.pace.stages());
        let ramp_ends = start + load.ramp.as_nanos() as Nanos;
        self.tally.warm_up = load.finds_warmup.then(|| Box::new(WarmUpRecorder::new(ramp_ends)));
        self.begin_delays(now);
        self.phase = Phase::Running { stop_at: window.until, cpu_before: None };
        self.store_audiences();
        self.tell(RunEvent::Started);
        self.begin_ramp(start);
        self.begin_replay(start);
        self.begin_sending(cx, start);
        self.run(cx);
    }

    fn run(&mut self, cx: &mut Context<'_, Client>) {
        self.beat(cx.now());
        let now = cx.clock();
        self.follow_window();
        self.open_window(cx, now);
        let Phase::Running { stop_at, cpu_before } = self.phase else { return };
        let stopped = self.shared.is_stopped();
        self.send_due(cx, now.min(stop_at - 1));
        if self.shared.load.mode.opens_when_due() && !stopped {
            self.attempt(cx, now, stop_at);
        }
        if now >= stop_at || stopped || self.has_no_connections() {
            // A connection that got room since the last tick sends what was due. A closed loop would begin other messages.
            if self.pacer.is_open_loop() {
                self.retry(cx, now.min(stop_at - 1));
            }
            self.tally.cut(now);
            if let (Some((before, since)), Some(after)) = (cpu_before, host::thread_cpu_ns()) {
                self.tally.health.cpu_ns = after.saturating_sub(before);
                self.tally.health.wall_ns = now - since;
                let waited = host::run_delay_ns().zip(self.run_delay_before);
                self.tally.health.run_delay_ns = waited.map(|(after, before)| after.saturating_sub(before));
                self.tally.cpu_span.last = self.sample(now);
            }
            self.tell(RunEvent::Measured);
            self.shared.stopped_sending();
            // A tick that noticed the end late does not change any age.
            let ended = now.min(stop_at);
            let drain = self.shared.load.drain.as_nanos() as Nanos;
            let drain = if stopped { drain.min(STOPPED_DRAIN_TIME) } else { drain };
            self.phase = Phase::Draining { until: ended + drain, is_stopped: stopped };
            return self.timers.wake_by(now);
        }
        self.timers.wake_by(stop_at);
        self.trickle(cx, now);
        self.retry(cx, now);
        if self.timers.publishers_are_due(now) {
            self.give_up_overdue_publications(cx, now);
        }
        if self.timers.replies_are_due(now) {
            self.give_up_overdue(cx, now);
            self.close_overdue(cx, now);
        }
    }

    /// Moves the ends of the measured time to where they were decided.
    #[inline]
    fn follow_window(&mut self) {
        let window = self.shared.measured_time.of(self.tally.window);
        if let Phase::Running { stop_at, .. } = &mut self.phase
            && window != self.tally.window
        {
            *stop_at = window.until;
            match window.from == self.tally.window.from {
                true => self.tally.window = window,
                // Nothing was recorded yet.
                false => self.tally.open(window),
            }
        }
    }

    /// Begins the measured time when it is due.
    fn open_window(&mut self, cx: &mut Context<'_, Client>, now: Nanos) {
        let Phase::Running { cpu_before: None, stop_at } = self.phase else { return };
        let from = self.tally.window.from;
        if now < from {
            return self.timers.wake_by(from);
        }
        self.tally.warm_up = None;
        self.tally.began_at = Some(SystemTime::now());
        self.tally.cpu_span.first = self.sample(now);
        self.run_delay_before = host::run_delay_ns();
        self.phase = Phase::Running { stop_at, cpu_before: Some((host::thread_cpu_ns().unwrap_or(0), now)) };
        self.stall(cx);
        self.cut_all(cx);
        self.tell(RunEvent::Measuring);
    }

    /// Records the heartbeats that were due until now.
    fn beat(&mut self, now: Nanos) {
        while let Some(due) = self.timers.next_heartbeat(now) {
            self.tally.beat(now, due);
        }
    }

    /// A CPU sample at the end of this tick's arrivals. The first thread samples for all.
    fn sample(&self, now: Nanos) -> Option<Sample> {
        if self.thread > 0 {
            return None;
        }
        self.shared.sample(self.thread, self.tally.counts.received, now)
    }

    /// Whether no message of this thread is in flight.
    fn is_drained(&mut self) -> bool {
        if self.shared.load.replay.is_some() {
            return (0..self.connections.len()).all(|position| self.is_replayed(position));
        }
        let is_open = |state| matches!(state, State::Open | State::Retiring);
        let mut open = self.connections.iter().filter(|connection| is_open(connection.state));
        self.slots.unanswered == 0
            && open.all(|connection| match &connection.flow {
                Flow::Echo(awaited) => awaited.is_settled(),
                Flow::Broadcast(broadcast) => self.has_all(connection.number, broadcast),
                Flow::Attempt(_) | Flow::Replay(_) => true,
                // Only messages with a time field can be recognised as the last.
                Flow::Push(listener) => listener.is_past_end || self.shared.load.listening.time.is_none(),
            })
    }

    /// Counts missing messages with their age at `until`, and closes all connections.
    fn finish(&mut self, cx: &mut Context<'_, Client>, until: Nanos) {
        self.settle_ending(cx);
        self.settle_away(cx);
        for position in 0..self.connections.len() {
            self.settle_connection(position, until);
        }
        self.settle_attempts(cx, until);
        self.tally.settle_missing(until);
        let stalled = self.shared.load.stalled > 0;
        let closing_time = if stalled { STALLED_CLOSING_TIME } else { CLOSING_TIME };
        self.phase = Phase::Closing { until: cx.now() + closing_time, is_cut: false };
        // The progress shows the final counts.
        self.take_snapshot(cx.now());
        self.timers.wake_by(cx.now());
        for position in 0..self.connections.len() {
            if matches!(self.connections[position].state, State::Preparing | State::Open | State::Retiring)
                && let Some(token) = self.connections[position].token
                && let Some(mut link) = cx.link(token)
            {
                self.leave(&mut link, position);
            }
        }
    }

    /// Cuts the connections whose closing handshake is not over. What they did before is counted.
    fn cut_closing(&mut self, cx: &mut Context<'_, Client>) {
        self.connections.iter_mut().for_each(|connection| connection.token = None);
        for token in cx.tokens() {
            if let Some(mut link) = cx.link(token) {
                link.abort();
            }
        }
        self.phase = Phase::Closing { until: cx.now() + CUTTING_TIME, is_cut: true };
    }

    fn settle_connection(&mut self, position: usize, until: Nanos) {
        let Client { connections, tally, protocols, shared, .. } = self;
        let connection = &mut connections[position];
        if !connection.has_user(shared) {
            return;
        }
        let number = connection.number;
        match &mut connection.flow {
            Flow::Echo(awaited) => {
                let protocol = protocols.get(connection.protocol);
                let protocol = protocol.map(|protocol| (&**protocol, shared.load.seed));
                for replaced in awaited.take_replaced() {
                    replaced::settle_replaced(tally, protocol, number, replaced);
                }
                tally.integrity.lost += awaited.missing();
                // If some replies could not be matched, it is unknown which messages are missing.
                let is_known = !awaited.has_unmatched();
                for (sequence, times) in awaited.unanswered_from(0).filter(|_| is_known) {
                    let name = MessageName::of(number, sequence);
                    tally.record_lost(until, name, times, 1);
                }
                let next = awaited.next();
                self.settle_unsent(position, next, u64::from(is_known), until);
            }
            Flow::Broadcast(_) => {
                self.settle_recovery(position);
                self.settle_broadcast(position, until);
            }
            // Slots without a connection are counted by `settle_attempts`.
            Flow::Attempt(_) => {}
            // The messages that a server meant to push are unknown.
            Flow::Push(_) => {}
            Flow::Replay(_) => self.settle_replay(position, until),
        }
    }

    /// Sends an event to the session, once for all threads.
    fn tell(&self, events: RunEvent) {
        if self.thread == 0 {
            // A session that has ended needs no events.
            let _ = self.shared.events.send(events);
        }
    }

    fn show_progress(&mut self, now: Nanos) {
        while let Some(block) = self.tally.warm_up.as_mut().and_then(|warm_up| warm_up.over(now)) {
            // A session that has ended needs no events.
            let _ = self.shared.events.send(RunEvent::WarmUp(block));
        }
        let progress = &self.shared.progress[self.thread];
        progress.open.store(self.connector.open as u64, Ordering::Relaxed);
        progress.messages.store(self.tally.counts.received, Ordering::Relaxed);
        progress.failed.store(self.connector.failed, Ordering::Relaxed);
        if self.snapshots.is_due(now) {
            self.take_snapshot(now);
        }
    }

    /// Sends the results so far.
    #[cold]
    fn take_snapshot(&mut self, now: Nanos) {
        if matches!(self.phase, Phase::Running { .. } | Phase::Draining { .. }) {
            self.take_ages(now);
        }
        let part = self.snapshots.part(self.thread, &self.tally, now);
        // A session that has ended needs no events.
        let _ = self.shared.events.send(RunEvent::Snapshot(Box::new(part)));
    }
}

impl Kinds for Client {
    type Peer = Peer;
    type Message = WorkerMessage;
}

impl Application for Client {
    type Kinds = Client;
    type Command = ();
    type Report = ();

    fn report(&self) {}

    fn request(
        &mut self,
        _: &mut Context<'_, Self>,
        _: Token,
        _: &Request<'_>,
        _: Option<&Upgrade<'_>>,
    ) -> Answer<Peer> {
        // A generator has no listener, so no request arrives.
        Answer::Refuse(Refusal {
            status: 503,
            reason: "this is a load generator",
            headers: "",
            hint: "connect to the server instead",
        })
    }

    fn connected(&mut self, cx: &mut Context<'_, Self>, token: Token) {
        if let Some(opening) = self.opening_of(cx, token) {
            opening.connected = cx.now();
        }
    }

    fn secured(&mut self, cx: &mut Context<'_, Self>, token: Token, resumed: bool) {
        if let Some(opening) = self.opening_of(cx, token) {
            (opening.secured, opening.resumed) = (cx.now(), resumed);
        }
    }

    fn opened(&mut self, cx: &mut Context<'_, Self>, token: Token, response: Option<&Response>) {
        self.note_tick(cx.now());
        self.connection_opened(cx, token, response);
    }

    #[inline]
    fn chunk(&mut self, link: &mut Link<'_>, chunk: Chunk<'_>) -> Disposition {
        self.note_tick(link.now());
        let position = link.peer.position as usize;
        if !self.protocols.is_empty() {
            self.protocol_arrived(link, position, &chunk);
            self.note_answers(link);
            return Disposition::Done;
        }
        match self.shared.load.mode {
            Mode::Echo => self.echo_arrived(link, position, &chunk),
            Mode::Storm if !self.shared.load.has_topics() => self.push_arrived(link, position, &chunk),
            Mode::Broadcast | Mode::Storm => self.delivery_arrived(link, position, &chunk),
            Mode::Connect | Mode::Session => self.attempt_answered(link, position, &chunk),
            Mode::Push => self.push_arrived(link, position, &chunk),
            Mode::Replay => self.replay_arrived(link, position, &chunk),
            // Only pongs answer its pings.
            Mode::Ping => self.tally.counts.unsolicited += u64::from(chunk.last),
        }
        self.note_answers(link);
        Disposition::Done
    }

    fn pong(&mut self, link: &mut Link<'_>, payload: &[u8]) {
        self.note_tick(link.now());
        self.pong_arrived(link, payload);
        self.note_answers(link);
    }

    fn arrived(&mut self, cx: &mut Context<'_, Self>, token: Token, at: Option<Nanos>) {
        self.begin_receive(cx, token, at);
    }

    fn ending(&mut self, cx: &mut Context<'_, Self>, token: Token) {
        self.connection_ending(cx, token);
    }

    fn closed(&mut self, cx: &mut Context<'_, Self>, token: Token, peer: Peer, closed: &Closed) {
        if self.has(peer, token) {
            self.connection_ended(cx, peer, closed);
        }
    }

    fn writable(&mut self, cx: &mut Context<'_, Self>, token: Token) {
        if let Some(position) = cx.peer(token).map(|peer| peer.position as usize) {
            self.send_allowed_at(cx, position, cx.now());
        }
    }

    fn message(&mut self, cx: &mut Context<'_, Self>, _: usize, message: WorkerMessage, _: &[u8]) {
        let WorkerMessage::Reached(publisher, sequence) = message;
        self.reached(publisher, sequence, cx.now());
    }

    fn tick_ended(&mut self, cx: &mut Context<'_, Self>) {
        let now = cx.now();
        // What is sent below belongs to the time that begins with this tick.
        self.tally.roll_if_due(now);
        if self.shared.stamping.every > 0 {
            self.find_kernel_times(cx);
        }
        self.step(cx);
        self.show_progress(now);
        self.tally.slices.open_now = self.connector.open as u64;
        if let Phase::Running { .. } = self.phase
            && let Some(recorder) = self.tally.shares.recorder()
        {
            recorder.tick_ended(cx.clock());
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        self.timers.wake_at()
    }
}
