//! The server of a test with its clients: a simulation that runs until nothing more happens, and lets time pass only when it is
//! told to.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;

use super::message::{HandlerFailure, TestPublication};
use super::peer::{Arrival, Opening, Peer};
use super::transcript::Transcript;
use crate::commands::blocking::{self, OwnShards};
use crate::limits::{TEST_RETRY_DELAY, TEST_STEPS_MAX};
use crate::service::Service;
use echoring_broker::observer;
use echoring_proto::connection::MessageKind;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::sim::Network;
use echoring_runtime::simulation::{self, Simulation, Surroundings};

/// The shards and the clients of one test server.
pub(super) struct Simulated {
    simulation: Simulation<Service>,
    clients: RefCell<Vec<Peer>>,
    /// Time passes up to here.
    until: Cell<Nanos>,
    /// Nothing more happens up to then.
    is_quiet: Cell<bool>,
    steps: Cell<u64>,
    started: Nanos,
    publications: RefCell<Vec<TestPublication>>,
    failures: RefCell<Vec<HandlerFailure>>,
    transcript: RefCell<Transcript>,
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("clients", &self.clients.borrow().len()).finish_non_exhaustive()
    }
}

impl Simulated {
    pub(super) fn new(simulation: Simulation<Service>) -> Rc<Simulated> {
        let started = simulation.network().now();
        let simulated = Rc::new(Simulated {
            simulation,
            clients: RefCell::default(),
            until: Cell::new(started),
            is_quiet: Cell::new(false),
            steps: Cell::new(0),
            started,
            publications: RefCell::default(),
            failures: RefCell::default(),
            transcript: RefCell::default(),
        });
        simulation::connect(&simulated);
        blocking::add_own_shards(&simulated);
        simulated
    }

    // ---- clients ----

    /// Adds a client, and returns its number.
    pub(super) fn add_client(&self, opening: Opening, buffer_bytes: Option<usize>) -> usize {
        let seed = self.simulation.random.borrow_mut().next_u64();
        let peer = Peer::new(self.network(), opening, buffer_bytes, seed);
        self.clients.borrow_mut().push(peer);
        self.clients.borrow().len() - 1
    }

    pub(super) fn with_client<R>(&self, number: usize, call: impl FnOnce(&mut Peer, &Network) -> R) -> R {
        call(&mut self.clients.borrow_mut()[number], self.network())
    }

    /// Runs until a client has a response, with time passing if it needs that.
    pub(super) fn run_until_answered(&self, number: usize) {
        self.run_until(|| self.clients.borrow()[number].is_answered());
    }

    // ---- time ----

    pub(super) fn network(&self) -> &Network {
        self.simulation.network()
    }

    /// Time since the server was started.
    pub(super) fn now(&self) -> Nanos {
        self.network().now() - self.started
    }

    /// Runs until nothing more happens without time passing.
    pub(super) fn run(&self) {
        self.advance(0);
    }

    /// The same for so long.
    pub(super) fn advance(&self, time: Nanos) {
        self.until.set(self.network().now().saturating_add(time));
        self.go();
    }

    /// Runs until nothing more happens; then from deadline to deadline until something has happened. Returns whether it
    /// has: it has not if nothing is scheduled any more.
    pub(super) fn run_until(&self, has_happened: impl Fn() -> bool) -> bool {
        loop {
            self.run();
            if has_happened() {
                return true;
            }
            let Some(deadline) = self.network().next_deadline() else { return false };
            self.until.set(deadline);
            self.go();
        }
    }

    fn go(&self) {
        self.is_quiet.set(false);
        self.steps.set(0);
        simulation::run(self);
    }

    // ---- the server ----

    pub(super) fn has_ended(&self) -> bool {
        self.simulation.have_all_ended()
    }

    /// Connections now, in any state.
    pub(super) fn connections(&self) -> usize {
        if self.has_ended() {
            return 0;
        }
        (0..self.simulation.shards()).map(|number| self.simulation.shard(number).connections()).sum()
    }

    /// Ends all shards, as a process that is killed.
    pub(super) fn end(&self) {
        (0..self.simulation.shards()).for_each(|number| self.simulation.drop_shard(number));
    }

    // ---- what was observed ----

    pub(super) fn take_published(&self, topic: &str) -> Vec<TestPublication> {
        let mut all = self.publications.borrow_mut();
        let (taken, left) = std::mem::take(&mut *all).into_iter().partition(|message| message.topic == topic);
        *all = left;
        taken
    }

    pub(super) fn take_failures(&self) -> Vec<HandlerFailure> {
        self.failures.take()
    }

    pub(super) fn note_sent(&self, client: usize, kind: MessageKind, payload: &[u8]) {
        self.transcript.borrow_mut().sent(self.now(), client, kind, payload);
    }

    pub(super) fn transcript(&self) -> String {
        self.transcript.borrow().text()
    }

    fn note(&self, observed: observer::Observed) {
        let now = self.now();
        let mut transcript = self.transcript.borrow_mut();
        for publication in observed.publications.into_iter().map(TestPublication::of) {
            transcript.published(now, &publication);
            self.publications.borrow_mut().push(publication);
        }
        for failure in observed.failures.into_iter().map(HandlerFailure::of) {
            transcript.failed(now, &failure);
            self.failures.borrow_mut().push(failure);
        }
    }
}

impl OwnShards for Simulated {
    fn run_until_quiet(&self) {
        self.run();
    }

    fn retry(&self) {
        self.advance(TEST_RETRY_DELAY);
    }
}

impl Surroundings for Simulated {
    type Application = Service;

    fn simulation(&self) -> &Simulation<Service> {
        &self.simulation
    }

    fn is_done(&self) -> bool {
        self.is_quiet.get()
    }

    fn acting(&self, acting: &mut Vec<usize>) {
        self.steps.set(self.steps.get() + 1);
        assert!(
            self.steps.get() < TEST_STEPS_MAX,
            "the test hangs: handlers keep the server busy without time passing\n{}",
            self.transcript()
        );
        let (clients, network) = (self.clients.borrow(), self.network());
        acting.extend((0..clients.len()).filter(|&number| clients[number].can_act(network)));
    }

    fn act(&self, client: usize) {
        let now = self.now();
        let peer = &mut self.clients.borrow_mut()[client];
        let before = peer.act(self.network());
        let mut transcript = self.transcript.borrow_mut();
        for received in peer.received.iter().skip(before) {
            if let Arrival::Message(message) = received {
                transcript.received(now, client, message);
            }
        }
        if peer.is_over {
            transcript.closed(now, client, peer.closed());
        }
    }

    fn wait(&self) {
        let (now, until) = (self.network().now(), self.until.get());
        if now >= until {
            return self.is_quiet.set(true);
        }
        let next = self.network().next_deadline().map_or(until, |deadline| deadline.clamp(now + 1, until));
        self.steps.set(0);
        self.network().advance(next - now);
    }

    fn tick(&self, shard: usize) -> io::Result<bool> {
        let tick = || self.simulation.shard(shard).tick(None);
        let (goes_on, observed) = observer::observe(|| blocking::as_shard(tick));
        self.note(observed);
        if matches!(goes_on, Ok(false)) {
            blocking::as_shard(|| self.simulation.drop_shard(shard));
        }
        goes_on
    }
}
