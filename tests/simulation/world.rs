//! Whole shards in a simulation, with clients of a reference model. Time jumps only when no shard can make progress.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, mpsc};

use echoring_async::limits::DRAIN_TIMEOUT;
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection;
use echoring_proto::limits::{MEMORY_BUDGET_DEFAULT, MEMORY_BUDGET_MIN, MILLISECOND, Nanos, SECOND};
use echoring_runtime::admission::{Admission, PeerLimits};
use echoring_runtime::driver::sim::{Faults, Network, Random};
use echoring_runtime::driver::{Driver, Options, Token, Waker};
use echoring_runtime::shard::TimesConfig;
use echoring_runtime::shard::{
    Allowance, Application, ConnectionMemory, ControlMessage, Destination, DrainPlan, Entrance, Exits,
    LiveConfig, Mailboxes, Remote, Security, Shard, ShardConfig, with_secrets,
};
use echoring_runtime::simulation::{self, Simulation, Surroundings};
use echoring_runtime::stats::Snapshot;
use echoring_server::{MoveOrder, Service, ShardCommand};

use echoring_async::tls::{ServerTls, server_config};
use echoring_topics::{Deliveries, HubReport, Passed};
use rustls::ClientConfig;

use super::certificate::{certificate, trusting};
use super::client::Client;
use super::reports;

/// Number of steps after which a run counts as hanging.
const STEPS_MAX: usize = 3_000_000;
/// A jump of the clock longer than this, while something is still expected, means that nobody was woken.
const JUMP_MAX: Nanos = 100 * MILLISECOND;
/// Orders to move connections between two quiet times.
const MOVES_PER_RUN: u32 = 100;
/// Maximum time of a step.
const STEP_NS_MAX: usize = 20_000;

pub struct World<A: Application> {
    connection: connection::ConnectionConfig,
    pub network: Network,
    simulation: Simulation<A>,
    faults: Faults,
    pub clients: RefCell<Vec<Client>>,
    steps: Cell<usize>,
    /// What [`run`](World::run) waits for.
    done: RefCell<Box<Done>>,
    goal: Cell<Goal>,
    quiet: Cell<bool>,
    /// What other threads do, step by step.
    beside: RefCell<Box<dyn Fn()>>,
    /// What clients speak, where the shards speak TLS.
    secured: Option<Arc<ClientConfig>>,
    /// What each shard told last.
    told: RefCell<Vec<Deliveries>>,
    /// Number of shards of each process.
    processes: Vec<usize>,
    exits: Vec<Arc<Exits>>,
    /// Shards that have not been lost: the first ones.
    left: Cell<usize>,
    moves: RefCell<Option<Moves<A>>>,
}

/// Connections that move between the shards of a process.
struct Moves<A: Application> {
    random: Random,
    /// In so many of 1,000 ticks.
    per_mille: u32,
    /// Orders that are left for this run, so that it can become quiet.
    left: u32,
    /// The order to move some connections to a shard.
    order: Box<dyn Fn(usize, usize) -> A::Command>,
}

/// Has connections move between the shards of a world, from once in a while to all the time.
pub fn move_some(world: &World<Service>, seed: u64) {
    let per_mille = [5, 50, 300][seed as usize % 3];
    world.move_connections(seed, per_mille, |to, most| {
        let (done, _) = mpsc::sync_channel(1);
        let to = Destination::Shard(to);
        ShardCommand::MoveAway(MoveOrder {
            to,
            backends: Arc::default(),
            most,
            only_idle: false,
            within: 10 * SECOND,
            done,
        })
    });
}

/// What shards may spend.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub budget_bytes: u64,
    /// Of 1,000 charges, those that find no memory at first.
    pub refused: u64,
}

impl Memory {
    /// From what the smallest node has to what one has by default. From a stream of its own.
    pub fn random(seed: u64) -> Memory {
        let mut random = Random::new(seed ^ 0xb0d6_e7ed);
        let budget_bytes = (MEMORY_BUDGET_MIN << random.below(7)).min(MEMORY_BUDGET_DEFAULT);
        Memory { budget_bytes, refused: [0, 0, 5, 50][random.below(4)] }
    }
}

/// What connections of a shard hold before it ticks.
#[derive(Debug)]
struct Held {
    holdings: Vec<ConnectionMemory>,
    share_bytes: u64,
    received_bytes: u64,
    ended_for_memory: u64,
}

impl Held {
    fn of<A: Application>(shard: &Shard<A>) -> Held {
        Held {
            holdings: shard.holdings().collect(),
            share_bytes: shard.share_bytes(),
            received_bytes: shard.received_bytes(),
            ended_for_memory: shard.ended_for_memory(),
        }
    }
}

/// What a connection may take in a tick in which nothing comes.
const SMALL_BYTES: u64 = 32 * 1024;
/// What a connection may take besides in a tick that completes a message: the buffer of the reply.
const ANSWER_BYTES: u64 = 64 * 1024;

type Done = dyn Fn(&[Client]) -> bool;

/// What everything runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Done,
    DoneOrQuiet,
    /// The clock shows so much.
    Passed(Nanos),
    Drained,
}

/// What shards that speak TLS are set up with.
fn security() -> Security {
    let files = certificate();
    let config = server_config(&ServerTls::new(&files.cert, &files.key)).expect("a configuration");
    Security { server: Some(with_secrets(Arc::unwrap_or_clone(config))) }
}

/// How shards are set up in simulations: limits that a slow client of the model does not meet.
pub fn config() -> connection::ConnectionConfig {
    connection::ConnectionConfig {
        max_message: 1 << 20,
        queue_bytes: 32 * 1024,
        handshake_timeout: 600 * SECOND,
        message_progress: connection::MessageProgress::UNLIMITED,
        close_timeout: 600 * SECOND,
        send_timeout: 600 * SECOND,
        ping_interval: 0,
        ..connection::ConnectionConfig::default()
    }
}

impl<A: Application<Report = HubReport> + 'static> World<A> {
    /// `shards` shards that speak TLS or do not, each with an application of its own, and a seeded network with seeded faults.
    pub fn new(
        seed: u64,
        shards: usize,
        connection: connection::ConnectionConfig,
        mailbox_bytes: usize,
        secured: bool,
        application: impl Fn(usize) -> A,
    ) -> Rc<World<A>> {
        World::with_memory(
            seed,
            shards,
            connection,
            mailbox_bytes,
            secured,
            Memory::random(seed),
            application,
        )
    }

    /// The same with so much memory.
    pub fn with_memory(
        seed: u64,
        shards: usize,
        connection: connection::ConnectionConfig,
        mailbox_bytes: usize,
        secured: bool,
        memory: Memory,
        application: impl Fn(usize) -> A,
    ) -> Rc<World<A>> {
        World::of_processes(seed, &[shards], connection, mailbox_bytes, secured, memory, application)
    }

    /// The same with several processes, of which only the first listens. Their shards are numbered through.
    pub fn of_processes(
        seed: u64,
        processes: &[usize],
        connection: connection::ConnectionConfig,
        mailbox_bytes: usize,
        secured: bool,
        memory: Memory,
        application: impl Fn(usize) -> A,
    ) -> Rc<World<A>> {
        let shards: usize = processes.iter().sum();
        let security = if secured { security() } else { Security::default() };
        let mut random = Random::new(seed ^ 0x5eed);
        let faults = Faults { refused_piece: [0, 100, 500][random.below(3)], ..Faults::random(&mut random) };
        let notsent_lowat = [0, 16 * 1024][random.below(2)];
        let network = Network::new(seed, faults);
        let connections = 128;
        let budget = Budget::new(memory.budget_bytes);
        let slots = Budget::new(1_000);
        let contexts = Budget::new(1 << 20);
        let mut drivers: Vec<Driver> = Vec::new();
        for shard in 0..shards {
            let mut driver = network.driver(&Options { connections, notsent_lowat, ..Options::default() });
            if shard < processes[0] {
                driver
                    .listen(network.listener().expect("a descriptor"), 0)
                    .expect("a simulated driver listens");
            }
            drivers.push(driver);
        }
        let wakers: Vec<Waker> = drivers.iter().map(Driver::waker).collect();
        let mailboxes = processes.iter().flat_map(|shards| Mailboxes::connect(*shards, mailbox_bytes));
        let mut shards: Vec<_> = (drivers.into_iter().zip(mailboxes).enumerate())
            .map(|(number, (driver, mailboxes))| {
                let config = ShardConfig {
                    connection: connection.clone(),
                    connections,
                    security: security.clone(),
                    seed: seed.into(),
                };
                let allowance = Allowance {
                    pool: Pool::new(budget.clone()).refusing(seed ^ number as u64, memory.refused),
                    connections: Lease::new(slots.clone(), 16),
                    contexts: Lease::new(contexts.clone(), 1 << 16),
                };
                let mut shard = Shard::new(driver, application(number), config, allowance, mailboxes);
                let mut rest = &wakers[..];
                let own = processes.iter().map(|shards| rest.split_off(..*shards).expect("a waker of each"));
                let before = own.scan(0, |seen, own| {
                    *seen += own.len();
                    Some((*seen, own))
                });
                let own = before.into_iter().find(|(end, _)| number < *end).map(|(_, own)| own);
                shard.set_wakers(own.expect("the shard is of a process"));
                shard
            })
            .collect();
        let mut rest = &mut shards[..];
        let mut all_exits = Vec::new();
        for count in processes {
            let own = rest.split_off_mut(..*count).expect("the shards of each");
            let exits: Arc<Exits> = Arc::default();
            exits.set_shards(own.iter().map(Shard::entrance).collect());
            own.iter_mut().for_each(|shard| shard.set_exits(Arc::clone(&exits)));
            all_exits.push(exits);
        }
        // Some cores are busy with other things.
        let eagerness: Vec<u32> = shards.iter().map(|_| if random.chance(200) { 20 } else { 1000 }).collect();
        let told = RefCell::new(vec![Deliveries::default(); shards.len()]);
        let left = Cell::new(shards.len());
        let shards = shards.into_iter().zip(eagerness);
        let world = Rc::new(World {
            connection,
            faults,
            network: network.clone(),
            simulation: Simulation::new(network, random, shards, STEP_NS_MAX),
            told,
            processes: processes.to_vec(),
            exits: all_exits,
            left,
            moves: RefCell::default(),
            clients: RefCell::default(),
            steps: Cell::new(0),
            done: RefCell::new(Box::new(|_| false)),
            goal: Cell::new(Goal::Done),
            quiet: Cell::new(false),
            beside: RefCell::new(Box::new(|| {})),
            secured: secured.then(trusting),
        });
        simulation::connect(&world);
        world
    }

    fn shards(&self) -> impl Iterator<Item = RefMut<'_, Shard<A>>> {
        (0..self.left.get()).map(|number| self.simulation.shard(number))
    }

    /// The shards of a process.
    fn shards_of(&self, process: usize) -> Range<usize> {
        let first = self.processes[..process].iter().sum();
        first..first + self.processes[process]
    }

    /// The ways out of the shards of a process.
    pub fn exits(&self, process: usize) -> Arc<Exits> {
        Arc::clone(&self.exits[process])
    }

    /// The ways into the shards of a process.
    pub fn entrances(&self, process: usize) -> Vec<Entrance> {
        self.shards_of(process).map(|shard| self.simulation.shard(shard).entrance()).collect()
    }

    /// The last process ends at once, as if it was killed.
    pub fn lose_last_process(&self) {
        let own = self.shards_of(self.processes.len() - 1);
        self.left.set(own.start);
        own.for_each(|shard| self.simulation.drop_shard(shard));
    }

    /// Whether all shards of a process have ended.
    pub fn has_ended(&self, process: usize) -> bool {
        self.shards_of(process).all(|shard| self.simulation.has_ended(shard))
    }

    /// Sends commands to the shards.
    pub fn remotes(&self) -> Vec<Remote<A::Command, HubReport>> {
        self.shards().map(|shard| shard.remote()).collect()
    }

    /// Sends commands to the shards of a process.
    pub fn remotes_of(&self, process: usize) -> Vec<Remote<A::Command, HubReport>> {
        let own = self.shards_of(process);
        self.remotes().drain(own).collect()
    }

    /// Changes the application of each shard.
    pub fn for_each_application(&self, mut change: impl FnMut(&mut A, Remote<A::Command, HubReport>)) {
        for mut shard in self.shards() {
            let remote = shard.remote();
            change(shard.application(), remote);
        }
    }

    /// Adds a client that asks for `path`.
    pub fn add(&self, path: &str) -> usize {
        self.add_offering(path, "")
    }

    /// Adds a client that asks for `path` and offers extensions.
    pub fn add_offering(&self, path: &str, offer: &str) -> usize {
        self.connect(path, offer, "")
    }

    /// Adds a client that asks for `path` and offers a subprotocol, and extensions.
    pub fn connect(&self, path: &str, extensions: &str, subprotocol: &str) -> usize {
        let mut random = self.simulation.random.borrow_mut();
        let mut client = Client::new(&self.network, &mut random, path, extensions, subprotocol);
        drop(random);
        if let Some(config) = &self.secured {
            client.secure(config.clone());
        }
        self.clients.borrow_mut().push(client);
        self.clients.borrow().len() - 1
    }

    /// From now on the network breaks a connection in so many of 1,000 ticks.
    pub fn break_connections(&self, per_mille: u32) {
        self.network.set_faults(Faults { reset: per_mille, ..self.faults });
    }

    /// From now on some connections move to another shard of their process in so many of 1,000 ticks. `order` makes the order to move
    /// at most so many to a shard.
    pub fn move_connections(
        &self,
        seed: u64,
        per_mille: u32,
        order: impl Fn(usize, usize) -> A::Command + 'static,
    ) {
        let random = Random::new(seed ^ 0x30f3);
        let moves = Moves { random, per_mille, left: 0, order: Box::new(order) };
        *self.moves.borrow_mut() = Some(moves);
    }

    /// No connection moves from now on, but those that have been ordered to.
    pub fn end_moves(&self) {
        self.moves.borrow_mut().take();
    }

    /// Has some connections of a shard move.
    fn order_moves(&self, shard: usize) {
        let mut moves = self.moves.borrow_mut();
        let Some(Moves { random, per_mille, left, order }) = moves.as_mut() else { return };
        let shards = self.processes[0];
        if shard < shards && *left > 0 && random.chance(*per_mille) {
            *left -= 1;
            let order = order(random.below(shards), random.between(1, 8));
            self.simulation.shard(shard).remote().send(ControlMessage::Command(order));
        }
    }

    /// From now on this is called at every step, in the place of other threads.
    pub fn set_beside(&self, step: impl Fn() + 'static) {
        *self.beside.borrow_mut() = Box::new(step);
    }

    /// Runs everything until `done` says so of the clients.
    pub fn run(&self, done: impl Fn(&[Client]) -> bool + 'static) {
        self.goal.set(Goal::Done);
        *self.done.borrow_mut() = Box::new(done);
        self.go();
    }

    /// Runs everything until `done`, or until nobody has anything to do.
    pub fn run_or_quiet(&self, done: impl Fn(&[Client]) -> bool + 'static) {
        self.goal.set(Goal::DoneOrQuiet);
        self.quiet.set(false);
        *self.done.borrow_mut() = Box::new(done);
        self.go();
    }

    /// Runs everything until nobody has anything to do: all shards sleep, and no client can act. What has not
    /// arrived by then is lost, or somebody was not woken.
    pub fn run_until_quiet(&self) {
        self.run_or_quiet(|_| false);
    }

    /// Runs everything for so long.
    pub fn pass(&self, time: Nanos) {
        self.goal.set(Goal::Passed(self.network.now() + time));
        self.go();
    }

    fn go(&self) {
        self.steps.set(0);
        if let Some(moves) = &mut *self.moves.borrow_mut() {
            moves.left = MOVES_PER_RUN;
        }
        simulation::run(self);
    }

    /// What all shards together know now, which is between two ticks of each.
    pub fn known(&self) -> HubReport {
        reports::sum(self.shards().map(|mut shard| shard.application().report()))
    }

    /// Connections, and bytes of pooled buffers, of all shards together: asked for as an operator asks.
    pub fn held(&self) -> (u64, u64) {
        let snapshots = self.snapshots(0..self.left.get());
        let sum = |of: fn(&Snapshot<HubReport>) -> u64| snapshots.iter().map(of).sum();
        (sum(|snapshot| snapshot.connections), sum(|snapshot| snapshot.pool_bytes))
    }

    /// The snapshots of the shards of a process.
    pub fn snapshots_of(&self, process: usize) -> Vec<Snapshot<HubReport>> {
        self.snapshots(self.shards_of(process))
    }

    fn snapshots(&self, shards: Range<usize>) -> Vec<Snapshot<HubReport>> {
        let (to, from) = mpsc::sync_channel(shards.len());
        for shard in shards.clone() {
            let sent = self.simulation.shard(shard).remote().send(ControlMessage::Snapshot(to.clone()));
            assert!(sent, "the shard is there");
        }
        let mut snapshots = Vec::new();
        while snapshots.len() < shards.len() {
            self.pass(MILLISECOND);
            snapshots.extend(from.try_iter());
        }
        snapshots
    }

    /// Connections now, of all shards.
    pub fn connections(&self) -> usize {
        self.shards().map(|shard| shard.connections()).sum()
    }

    /// Connections now, of the shards of a process.
    pub fn connections_of(&self, process: usize) -> usize {
        self.shards_of(process).map(|shard| self.simulation.shard(shard).connections()).sum()
    }

    /// Bytes of the budget that the shards of a process use.
    pub fn charged_of(&self, process: usize) -> u64 {
        self.shards_of(process).map(|shard| self.simulation.shard(shard).charged_bytes()).sum()
    }

    /// Bytes of the budget that all shards use.
    pub fn charged_bytes(&self) -> u64 {
        self.shards().map(|shard| shard.charged_bytes()).sum()
    }

    /// Limits peers from the start.
    pub fn limit(&self, admission: &Arc<Admission>, limits: &PeerLimits) {
        for mut shard in self.shards() {
            shard.set_limits(admission.clone(), Arc::new(limits.clone()));
        }
    }

    /// Reloads the configuration of all shards with other limits on peers, and waits until they use it.
    pub fn reconfigure(&self, limits: &PeerLimits) {
        for shard in self.shards() {
            let live = LiveConfig {
                connection: self.connection.clone(),
                tls: None,
                limits: Arc::new(limits.clone()),
                times: TimesConfig::default(),
            };
            let sent = shard.remote().send(ControlMessage::Configure(Box::new(live)));
            assert!(sent, "the shard is there");
        }
        // Control messages are taken in order.
        self.held();
    }

    /// How many connections have ended by this cause, on all shards.
    pub fn ended_by(&self, cause: &str) -> u64 {
        self.shards().map(|shard| shard.ended_by(cause)).sum()
    }

    /// Memory that runs out costs those who hold most of it, never whoever asks next: nobody is ended who is within its share,
    /// or while another goes on that does not read, is over its share, and held more all the time, what came in this tick
    /// aside.
    fn check_memory(&self, shard: usize, before: &Held) {
        let shard = self.simulation.shard(shard);
        assert_eq!(shard.ended_by("out-of-memory"), 0, "who asked for memory was ended");
        let ended = (shard.ended_for_memory() - before.ended_for_memory) as usize;
        if ended == 0 {
            return;
        }
        let after: BTreeMap<Token, ConnectionMemory> =
            shard.holdings().map(|holding| (holding.token, holding)).collect();
        let came_bytes = match shard.received_bytes() - before.received_bytes {
            0 => SMALL_BYTES,
            received => 2 * received + ANSWER_BYTES + SMALL_BYTES,
        };
        // Others may have left by themselves.
        let gone = before.holdings.iter().filter(|holding| !after.contains_key(&holding.token));
        let mut gone: Vec<u64> = gone.map(|holding| holding.held_bytes).collect();
        gone.sort_unstable();
        let share_bytes = before.share_bytes.min(shard.share_bytes());
        if let Some(least) = gone.len().checked_sub(ended).map(|at| gone[at]) {
            assert!(
                least + came_bytes > share_bytes,
                "who held {least} was ended, with a share of {share_bytes}"
            );
        }
        let least = gone.get(gone.len().saturating_sub(ended));
        let stayed = before.holdings.iter().filter(|holding| holding.is_blocked).filter_map(|holding| {
            let now = after.get(&holding.token).filter(|now| now.is_blocked)?;
            Some(holding.held_bytes.min(now.held_bytes))
        });
        let most = stayed.filter(|bytes| *bytes > before.share_bytes.max(shard.share_bytes())).max();
        if let (Some(least), Some(most)) = (least, most) {
            assert!(least + came_bytes >= most, "who held {least} was ended, who holds {most} goes on");
        }
    }

    /// Every message is accounted for after each tick of a shard and, when no other is in the middle of one, on the node.
    fn check_accounts(&self, shard: usize) {
        let known = self.simulation.shard(shard).application().report();
        assert!(known.publications.add_up(), "shard {shard}: {:?}", known.publications);
        assert!(known.deliveries.add_up(), "shard {shard}: {:?}", known.deliveries);
        let before = std::mem::replace(&mut self.told.borrow_mut()[shard], known.deliveries);
        let figures = |told: Deliveries| {
            let Deliveries { offered, dropped_disconnect, dropped_oldest, .. } = told;
            [offered, dropped_disconnect, dropped_oldest, told.dropped_conflated, told.dropped_memory]
        };
        let grow = figures(before).into_iter().zip(figures(known.deliveries)).all(|(old, new)| old <= new);
        assert!(grow, "shard {shard}: {before:?}, then {:?}", known.deliveries);
        let are_all_left = self.left.get() == self.simulation.shards();
        if self.simulation.shards() > 1 && are_all_left && self.simulation.is_between_ticks() {
            let Passed { publications_out, publications_in, messages_out, messages_in } = self.known().passed;
            assert!(publications_in <= publications_out && messages_in <= messages_out);
        }
    }

    /// Ends the server in order, and sees that it does end and that every client hears of it.
    pub fn drain(&self) {
        self.begin_drain(DRAIN_TIMEOUT);
        self.end_drain();
    }

    /// Tells all shards to end; they do not tick before something runs.
    pub fn begin_drain(&self, timeout: Nanos) {
        for shard in self.shards() {
            assert!(
                shard.remote().send(ControlMessage::Drain(DrainPlan::at_once(timeout))),
                "the shard is there"
            );
        }
    }

    /// The same, but one hears of it before the other, in any order, and they tick in between.
    pub fn begin_drain_one_by_one(&self, timeout: Nanos) {
        let mut left: Vec<usize> = (0..self.simulation.shards()).collect();
        while !left.is_empty() {
            let next = self.simulation.random.borrow_mut().below(left.len());
            let shard = left.swap_remove(next);
            assert!(
                self.simulation
                    .shard(shard)
                    .remote()
                    .send(ControlMessage::Drain(DrainPlan::at_once(timeout))),
                "the shard is there"
            );
            let between = self.simulation.random.borrow_mut().below(200_000);
            self.pass(between as Nanos);
        }
    }

    /// Runs everything until all shards have ended.
    pub fn end_drain(&self) {
        self.goal.set(Goal::Drained);
        self.go();
        // The last words may still be on their way to the clients.
        let network = self.network.clone();
        self.run(move |clients| clients.iter().all(|client| !client.can_act(&network)));
    }

    /// Nobody can do anything: the clock goes to the first deadline.
    fn jump(&self) {
        let by =
            self.network.next_deadline().map(|deadline| deadline.saturating_sub(self.network.now()).max(1));
        let goal = self.goal.get();
        if goal == Goal::DoneOrQuiet && by.is_none_or(|by| by > JUMP_MAX) {
            return self.quiet.set(true);
        }
        if let Goal::Passed(until) = goal {
            let left = until.saturating_sub(self.network.now());
            return self.network.advance(by.map_or(left, |by| by.min(left)));
        }
        let Some(by) = by else { panic!("everyone waits, and for ever: {}", self.describe()) };
        assert!(
            by <= JUMP_MAX || goal == Goal::Drained,
            "nothing happens for {} ms although something is expected: {}",
            by / MILLISECOND,
            self.describe()
        );
        self.network.advance(by);
    }

    fn describe(&self) -> String {
        let clients = self.clients.borrow();
        let client = |client: &Client| {
            format!(
                "{:?}: {} to write, {} heard, opened {}, closed {}, end {:?}, news {:?}, room {}",
                client.leave,
                client.script.len(),
                client.heard.len(),
                client.decoder.opened,
                client.decoder.closed,
                client.end,
                self.network.client_news(client.id),
                self.network.client_room(client.id),
            )
        };
        clients.iter().map(client).collect::<Vec<_>>().join("\n")
    }
}

impl<A: Application<Report = HubReport> + 'static> Surroundings for World<A> {
    type Application = A;

    fn simulation(&self) -> &Simulation<A> {
        &self.simulation
    }

    fn is_done(&self) -> bool {
        (self.beside.borrow())();
        match self.goal.get() {
            Goal::Drained => self.simulation.have_all_ended(),
            Goal::DoneOrQuiet if self.quiet.get() => true,
            Goal::Passed(until) => self.network.now() >= until,
            Goal::Done | Goal::DoneOrQuiet => (self.done.borrow())(&self.clients.borrow()),
        }
    }

    fn acting(&self, acting: &mut Vec<usize>) {
        self.steps.set(self.steps.get() + 1);
        assert!(self.steps.get() < STEPS_MAX, "hangs: {}", self.describe());
        let clients = self.clients.borrow();
        acting.extend((0..clients.len()).filter(|&at| clients[at].can_act(&self.network)));
    }

    fn act(&self, client: usize) {
        self.clients.borrow_mut()[client].act(&self.network, &mut self.simulation.random.borrow_mut());
    }

    fn wait(&self) {
        self.jump();
    }

    fn tick(&self, shard: usize) -> io::Result<bool> {
        self.order_moves(shard);
        let held = Held::of(&self.simulation.shard(shard));
        let goes_on = self.simulation.shard(shard).tick(None)?;
        self.check_accounts(shard);
        self.check_memory(shard, &held);
        Ok(goes_on)
    }
}
