//! One thread of the generator: an [`Application`] whose connections are all in the client role.
//!
//! A run goes through the [`Phase`]s together: no thread sends before every connection of every thread is open
//! or has failed, and all of them use the same schedule and the same measured time. Sending is done where it is
//! due: in a closed loop by the arrival that made room, in an open loop when a turn ends. What is sent in a
//! turn leaves with that turn's one send per connection. Times are those of the turn.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::host;
use super::live::Teller;
use super::meter::Sample;
use super::plan::Mode;
use super::schedule::{Cursor, Schedule};
use super::shared::{News, Shared};
use super::tally::{Tally, Window};
use super::track::REPLY_TIME;
use crate::connection::{Chunk, Closed};
use crate::driver::{Driver, Token};
use crate::limits::{MILLISECOND, Nanos, SECOND};
use crate::protocol::CloseCode;
use crate::protocol::handshake::{Refusal, Request, Response, Upgrade};
use crate::shard::{Answer, Application, Context, Disposition, Link};

mod broadcast;
mod causes;
mod connecting;
mod connection;
mod echo;
mod opening;
mod push;
mod sending;
mod slow;

use connection::{Connection, Flow, State};

/// How long the closing handshakes may take.
const CLOSING_TIME: Nanos = SECOND;
/// The same where connections have not read for long: what lies in the kernel comes before the server's Close.
const STALLED_CLOSING_TIME: Nanos = 5 * SECOND;
/// How often a thread looks whether the run was stopped, others are ready, or a reply is overdue.
const WATCH_INTERVAL: Nanos = 50 * MILLISECOND;
/// How often a thread shows itself that it runs: by how much it is late for that, it was held up.
const HEARTBEAT_INTERVAL: Nanos = 10 * MILLISECOND;
/// How often it looks while something is about to happen.
const POLL_INTERVAL: Nanos = 2 * MILLISECOND;

/// What the shard keeps with a connection: where the generator keeps its own.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    position: u32,
}

impl Default for Peer {
    fn default() -> Peer {
        Peer { position: u32::MAX }
    }
}

/// What threads tell one another.
#[derive(Clone, Copy, Debug)]
pub enum Message {
    /// Everybody has this publisher's message of this sequence.
    Reached(u32, u64),
}

#[derive(Debug)]
enum Phase {
    /// Opening connections, few at a time.
    Dialling,
    /// All of this thread's are settled; waiting for the other threads'.
    Ready,
    /// Sending from the start on.
    Running {
        stop_at: Nanos,
        cpu_before: Option<(u64, Nanos)>,
    },
    /// Awaiting what is under way.
    Draining {
        until: Nanos,
    },
    /// Saying goodbye.
    Closing {
        until: Nanos,
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
    next_dial: usize,
    /// When each is to be dialled, where that has a rate.
    dials: Option<Cursor>,
    handshakes: usize,
    open: usize,
    /// Where the walk over the schedule is; senders' positions in the order of their numbers.
    cursor: Option<Cursor>,
    schedule: Option<Schedule>,
    senders: Vec<usize>,
    /// Positions of connections whose queue had no room.
    held: Vec<u32>,
    /// Positions of publishers that may send again.
    ready: Vec<u32>,
    /// Publishers of other threads that could not be told yet, and which of their messages has reached everybody.
    unposted: VecDeque<(u32, u64)>,
    slow: slow::Slow,
    places: connecting::Places,
    wall: push::Wall,
    message: Vec<u8>,
    wake_at: Option<Nanos>,
    watched_at: Nanos,
    stirred_at: Nanos,
    /// When the next heartbeat is due; 0 before the first.
    beat_at: Nanos,
    /// How long the thread had waited for a CPU when the measured time began.
    run_delay_before: Option<u64>,
    failed: u64,
    teller: Teller,
}

impl Client {
    /// The thread `thread` of a run.
    pub fn new(shared: Arc<Shared>, thread: usize) -> Client {
        let connections: Vec<Connection> =
            shared.connections_of(thread).map(|number| Connection::new(&shared, number)).collect();
        let senders = shared.load.senders();
        let late_after_ns = shared.load.late_after.map_or(Nanos::MAX, |bound| bound.as_nanos() as Nanos);
        Client {
            thread,
            tally: Tally::with_bound(late_after_ns),
            senders: (0..connections.len()).filter(|&at| connections[at].number < senders).collect(),
            connections,
            phase: Phase::Dialling,
            next_dial: 0,
            dials: None,
            handshakes: 0,
            open: 0,
            cursor: None,
            schedule: None,
            held: Vec::new(),
            ready: Vec::new(),
            unposted: VecDeque::new(),
            slow: slow::Slow::default(),
            places: connecting::Places::default(),
            wall: push::Wall::default(),
            message: Vec::with_capacity(shared.payloads.bytes_max()),
            // The first turn dials; later ones say when they want the next.
            wake_at: Some(0),
            watched_at: 0,
            stirred_at: 0,
            beat_at: 0,
            run_delay_before: None,
            failed: 0,
            teller: Teller::default(),
            shared,
        }
    }

    /// What this thread counted, complete once its shard has ended.
    pub fn into_tally(mut self) -> Tally {
        self.tally.complete();
        self.tally
    }

    // ---- phases ----

    fn step<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>) {
        let now = cx.now();
        self.wake_at = Some(now + WATCH_INTERVAL);
        self.look_at_the_wall(cx);
        match self.phase {
            Phase::Dialling => self.dial(cx),
            Phase::Ready => self.await_others(cx),
            Phase::Running { .. } => self.run(cx),
            Phase::Draining { until } => {
                self.wake_by(now + POLL_INTERVAL);
                if now >= until || (!self.shared.is_sending() && self.is_drained()) {
                    self.finish(cx, until);
                }
            }
            Phase::Closing { until } => {
                if now >= until || self.open == 0 {
                    self.phase = Phase::Over;
                    self.give_up_stalled();
                    cx.stop();
                }
            }
            Phase::Over => cx.stop(),
        }
    }

    fn await_others<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>) {
        let now = cx.now();
        self.wake_by(now + POLL_INTERVAL);
        let Some(start) = self.shared.start() else { return };
        if now < start {
            return self.wake_by(start);
        }
        let load = &self.shared.load;
        let from = start + load.warmup.as_nanos() as Nanos;
        let window = Window { from, until: from + load.duration.as_nanos() as Nanos };
        self.tally.open(window);
        self.tally.open_stages(load.pace.stages());
        self.phase = Phase::Running { stop_at: window.until, cpu_before: None };
        self.note_audiences();
        self.tell(News::Started);
        self.begin_sending(cx, start);
        self.run(cx);
    }

    fn run<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>) {
        self.beat(cx.now());
        let now = cx.clock();
        self.keep_window(cx, now);
        let Phase::Running { stop_at, cpu_before } = self.phase else { return };
        let stopped = self.shared.is_stopped();
        self.walk_schedule(cx, now.min(stop_at - 1));
        if self.shared.load.mode == Mode::Connect && !stopped {
            self.visit(cx, now, stop_at);
        }
        if now >= stop_at || stopped || self.is_deserted() {
            self.tally.cut(now);
            if let (Some((before, since)), Some(after)) = (cpu_before, host::thread_cpu_ns()) {
                self.tally.cpu_ns = after.saturating_sub(before);
                self.tally.wall_ns = now - since;
                let waited = host::run_delay_ns().zip(self.run_delay_before);
                self.tally.run_delay_ns = waited.map(|(after, before)| after.saturating_sub(before));
                self.tally.stretch.last = self.sample(now);
            }
            self.tell(News::Measured);
            self.shared.stopped_sending();
            // A turn that was late to notice changes no age.
            let ended = now.min(stop_at);
            self.phase = Phase::Draining { until: ended + self.shared.load.drain.as_nanos() as Nanos };
            return self.wake_by(now);
        }
        self.wake_by(stop_at);
        self.trickle(cx, now);
        self.retry(cx, now);
        if now >= self.stirred_at + WATCH_INTERVAL {
            self.stirred_at = now;
            self.stir_publishers(cx, now);
        }
        if now >= self.watched_at + REPLY_TIME / 5 {
            self.watched_at = now;
            self.stir_silent(cx, now);
            self.leave_silent(cx, now);
        }
    }

    /// Notices that the measured time begins.
    fn keep_window<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, now: Nanos) {
        let Phase::Running { cpu_before: None, stop_at } = self.phase else { return };
        let from = self.tally.window.from;
        if now < from {
            return self.wake_by(from);
        }
        self.tally.began_at = Some(SystemTime::now());
        self.tally.stretch.first = self.sample(now);
        self.run_delay_before = host::run_delay_ns();
        self.phase = Phase::Running { stop_at, cpu_before: Some((host::thread_cpu_ns().unwrap_or(0), now)) };
        self.stall(cx);
        self.tell(News::Measuring);
    }

    /// Counts the heartbeats that were due until now, each as late as it is.
    fn beat(&mut self, now: Nanos) {
        if self.beat_at == 0 {
            self.beat_at = now;
        }
        while self.beat_at <= now {
            self.tally.beat(now, self.beat_at);
            self.beat_at += HEARTBEAT_INTERVAL;
        }
        self.wake_by(self.beat_at);
    }

    /// What had happened by the end of this turn's arrivals; asked of the first thread, for all.
    fn sample(&self, now: Nanos) -> Option<Sample> {
        if self.thread > 0 {
            return None;
        }
        self.shared.sample(self.thread, self.tally.received, now)
    }

    /// Whether nothing of this thread's is under way any more.
    fn is_drained(&self) -> bool {
        let mut open = self.connections.iter().filter(|connection| connection.state == State::Open);
        self.places.are_settled()
            && open.all(|connection| match &connection.flow {
                Flow::Echo(awaited) => awaited.is_settled(),
                Flow::Broadcast(broadcast) => self.has_all(connection.number, broadcast),
                Flow::Visit(_) => true,
                // Only messages that tell when they were made can be known to be the last.
                Flow::Push(listener) => listener.is_past_end || self.shared.load.listening.time.is_none(),
            })
    }

    /// Counts what is missing, as old as it is at `until`, and closes everything.
    fn finish<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, until: Nanos) {
        for position in 0..self.connections.len() {
            self.settle_account(position, until);
        }
        self.settle_visits(cx, until);
        self.tally.settle_missing(until);
        // Whoever looks on sees what came of it.
        let part = self.teller.part(self.thread, &mut self.tally, cx.now());
        let _ = self.shared.news.send(News::Told(Box::new(part)));
        let stalled = self.shared.load.stalled > 0;
        let closing_time = if stalled { STALLED_CLOSING_TIME } else { CLOSING_TIME };
        self.phase = Phase::Closing { until: cx.now() + closing_time };
        self.wake_by(cx.now());
        for position in 0..self.connections.len() {
            if self.connections[position].state == State::Open
                && let Some(token) = self.connections[position].token
                && let Some(mut link) = cx.link(token)
            {
                link.close(CloseCode::NORMAL, "");
            }
        }
    }

    fn settle_account(&mut self, position: usize, until: Nanos) {
        let Client { connections, tally, .. } = self;
        let connection = &connections[position];
        if connection.state == State::New {
            return;
        }
        match &connection.flow {
            Flow::Echo(awaited) => {
                tally.integrity.lost += awaited.missing();
                // Where nobody knows which are missing, nobody knows how old they are.
                let is_known = !awaited.has_unmatched();
                for (_, times) in awaited.unanswered_from(0).filter(|_| is_known) {
                    tally.never_came(until, times, 1);
                }
                let next = awaited.next();
                self.settle_unsent(position, next, u64::from(is_known), until);
            }
            Flow::Broadcast(_) => self.settle_broadcast(position, until),
            // Those without a connection have an account too: see `settle_visits`.
            Flow::Visit(_) => {}
            // Nobody knows what they should have got.
            Flow::Push(_) => {}
        }
    }

    /// Asks for a turn at `at` at the latest.
    fn wake_by(&mut self, at: Nanos) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }

    /// Tells the conductor, once for all threads.
    fn tell(&self, news: News) {
        if self.thread == 0 {
            // A conductor that went away no longer wants to know.
            let _ = self.shared.news.send(news);
        }
    }

    fn show_progress(&mut self, now: Nanos) {
        let progress = &self.shared.progress[self.thread];
        progress.open.store(self.open as u64, Ordering::Relaxed);
        progress.messages.store(self.tally.received, Ordering::Relaxed);
        progress.failed.store(self.failed, Ordering::Relaxed);
        if let Some(part) = self.teller.tell(self.thread, &mut self.tally, now) {
            let _ = self.shared.news.send(News::Told(part));
        }
    }
}

impl Application for Client {
    type Peer = Peer;
    type Message = Message;
    type Ask = ();

    fn request<D: Driver>(
        &mut self,
        _: &mut Context<'_, D, Self>,
        _: Token,
        _: &Request<'_>,
        _: Option<&Upgrade<'_>>,
    ) -> Answer<Peer> {
        // A generator has no listener, so nobody can ask.
        Answer::Refuse(Refusal {
            status: 503,
            reason: "this is a load generator",
            headers: "",
            cure: "connect to the server instead",
        })
    }

    fn connected<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>, token: Token) {
        self.connection_connected(cx, token);
    }

    fn secured<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>, token: Token, resumed: bool) {
        self.connection_secured(cx, token, resumed);
    }

    fn opened<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D, Self>,
        token: Token,
        response: Option<&Response>,
    ) {
        self.connection_opened(cx, token, response);
    }

    #[inline]
    fn chunk(&mut self, link: &mut Link<'_, Self>, chunk: Chunk<'_>) -> Disposition {
        let position = link.peer.position as usize;
        match self.shared.load.mode {
            Mode::Echo => self.echo_arrived(link, position, &chunk),
            Mode::Broadcast => self.delivery_arrived(link, position, &chunk),
            Mode::Connect => self.visit_answered(link, position, &chunk),
            Mode::Push => self.push_arrived(link, position, &chunk),
        }
        Disposition::Done
    }

    fn closed<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>, _: Token, peer: Peer, closed: &Closed) {
        self.connection_ended(cx, peer, closed);
    }

    fn writable<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>, token: Token) {
        if let Some(position) = cx.peer(token).map(|peer| peer.position as usize) {
            self.pump_at(cx, position, cx.now());
        }
    }

    fn message<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>, _: usize, message: Message, _: &[u8]) {
        let Message::Reached(publisher, sequence) = message;
        self.reached(publisher, sequence, cx.now());
    }

    fn turn_ended<D: Driver>(&mut self, cx: &mut Context<'_, D, Self>) {
        let now = cx.now();
        self.step(cx);
        self.show_progress(now);
        if let Phase::Running { .. } = self.phase {
            self.tally.turned(now, cx.clock() - now);
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        self.wake_at
    }
}
