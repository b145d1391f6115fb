//! Whole shards on a simulated network, all on one thread and ticked in an order that a seed decides.
//!
//! While a shard waits in its driver the others run. Waits nest, so that every shard but the running one really is asleep and
//! has to be woken. The clients and the passing of time belong to the caller, see [`Surroundings`].
//!
//! It is for tests, and never uses a thread, a socket or the real clock.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crate::driver::Waker;
use crate::driver::sim::{Network, Random};
use crate::launch::{LaunchError, Launched, ShardSetup, ShardSpec};
use crate::shard::{Application, Exits, Shard};
use echoring_proto::limits::Nanos;

/// In this many of 1,000 cases a shard that was woken runs before the others that could.
const GIVES_WAY: u32 = 300;

/// Shards on one network. They are ticked by [`run`], for their [`Surroundings`].
pub struct Simulation<A: Application> {
    network: Network,
    /// Where the choices come from.
    pub random: RefCell<Random>,
    shards: Vec<SimulatedShard<A>>,
    step_ns_max: usize,
}

struct SimulatedShard<A: Application> {
    /// `None` when it was dropped.
    shard: RefCell<Option<Shard<A>>>,
    /// Probability that it runs when it can, in thousandths.
    eagerness: u32,
    has_ended: Cell<bool>,
}

/// The surroundings of the shards in a simulation, and its end.
pub trait Surroundings {
    /// The application on the shards.
    type Application: Application;

    /// The shards.
    fn simulation(&self) -> &Simulation<Self::Application>;

    /// Whether [`run`] returns.
    fn is_done(&self) -> bool;

    /// Appends the numbers of the clients that can act now. It is called before each step.
    fn acting(&self, clients: &mut Vec<usize>);

    /// A client acts.
    fn act(&self, client: usize);

    /// Neither a shard nor a client can act: the clock must advance, or the run is done.
    fn wait(&self);

    /// Ticks a shard. False if it has ended.
    ///
    /// # Errors
    /// If its driver fails.
    fn tick(&self, shard: usize) -> io::Result<bool> {
        self.simulation().shard(shard).tick(None)
    }
}

impl<A: Application> Simulation<A> {
    /// Shards with their eagerness: the probability that one runs when it can, in thousandths. Each step takes up to
    /// `step_ns_max` nanoseconds of the network's time.
    pub fn new(
        network: Network,
        random: Random,
        shards: impl IntoIterator<Item = (Shard<A>, u32)>,
        step_ns_max: usize,
    ) -> Simulation<A> {
        let shards = shards.into_iter().map(|(shard, eagerness)| SimulatedShard {
            shard: RefCell::new(Some(shard)),
            eagerness,
            has_ended: Cell::new(false),
        });
        Simulation { network, random: RefCell::new(random), shards: shards.collect(), step_ns_max }
    }

    /// The network of the shards.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// A shard.
    ///
    /// # Panics
    /// If the shard is in a tick, or was dropped.
    pub fn shard(&self, number: usize) -> RefMut<'_, Shard<A>> {
        RefMut::map(self.shards[number].shard.borrow_mut(), |shard| {
            shard.as_mut().expect("the shard was not dropped")
        })
    }

    /// Whether no shard is in a tick.
    pub fn is_between_ticks(&self) -> bool {
        self.shards.iter().all(|simulated| simulated.shard.try_borrow_mut().is_ok())
    }

    /// Whether all shards have ended.
    pub fn have_all_ended(&self) -> bool {
        (0..self.shards.len()).all(|shard| self.has_ended(shard))
    }

    /// Whether a shard has ended.
    pub fn has_ended(&self, shard: usize) -> bool {
        self.shards[shard].has_ended.get()
    }

    /// Drops a shard, as its thread does when it ends.
    ///
    /// # Panics
    /// If the shard is in a tick.
    pub fn drop_shard(&self, number: usize) {
        self.note_end(number);
        // Not while it is borrowed: handlers that are dropped may send to it.
        let shard = self.shards[number].shard.borrow_mut().take();
        drop(shard);
    }

    fn note_end(&self, number: usize) {
        self.shards[number].has_ended.set(true);
        self.network.retire(number);
    }

    /// The runnable parts, by number: shards between two ticks. And whether one that waits further out has been woken.
    fn choices(&self, waiting: Option<usize>, choices: &mut Vec<usize>) -> bool {
        let mut must_give_way = false;
        for (number, simulated) in self.shards.iter().enumerate() {
            if simulated.has_ended.get() {
                continue;
            }
            match simulated.shard.try_borrow_mut() {
                Ok(_) => choices.push(number),
                Err(_) => must_give_way |= Some(number) != waiting && self.network.is_runnable(number),
            }
        }
        must_give_way
    }
}

/// Runs shards and clients until the surroundings are [done](Surroundings::is_done).
///
/// # Panics
/// If a driver fails, which those of a simulation do not.
pub fn run<S: Surroundings>(surroundings: &S) {
    while !surroundings.is_done() {
        pump(surroundings, None);
    }
}

/// Has the others run while a shard waits. Without it, a tick of a shard that has nothing to do returns at once.
pub fn connect<S: Surroundings + 'static>(surroundings: &Rc<S>) {
    let others = Rc::downgrade(surroundings);
    let network = surroundings.simulation().network();
    network
        .while_waiting(move |waiting| others.upgrade().is_some_and(|others| pump(&*others, Some(waiting))));
}

/// Lets others run until driver `waiting` has something to report (true) or must give way (false).
fn pump<S: Surroundings>(surroundings: &S, waiting: Option<usize>) -> bool {
    let simulation = surroundings.simulation();
    let mut choices = Vec::new();
    loop {
        if waiting.is_some_and(|number| simulation.network.is_runnable(number)) {
            return true;
        }
        if surroundings.is_done() {
            return false;
        }
        choices.clear();
        let must_give_way = simulation.choices(waiting, &mut choices);
        let shards = choices.len();
        surroundings.acting(&mut choices);
        if must_give_way && (choices.is_empty() || simulation.random.borrow_mut().chance(GIVES_WAY)) {
            return false;
        }
        if choices.is_empty() {
            surroundings.wait();
            continue;
        }
        let (step_ns, at) = {
            let mut random = simulation.random.borrow_mut();
            (random.below(simulation.step_ns_max), random.below(choices.len()))
        };
        simulation.network.advance(step_ns as Nanos);
        let chosen = choices[at];
        if at >= shards {
            surroundings.act(chosen);
        } else if simulation.random.borrow_mut().chance(simulation.shards[chosen].eagerness) {
            let goes_on = surroundings.tick(chosen).expect("a simulated driver works");
            if !goes_on {
                simulation.note_end(chosen);
            }
        }
    }
}

/// The launched parts, and the shards by number.
pub type LaunchedShards<S> = (Launched<S>, Vec<Shard<<S as ShardSetup>::Application>>);

/// Builds the shards of `specs` on drivers of `network`, in the place of [`launch`](crate::launch::launch). None runs before
/// they are in a [`Simulation`].
///
/// # Errors
/// The first failure of a setup.
pub fn launch<S: ShardSetup>(
    network: &Network,
    specs: Vec<ShardSpec<S>>,
) -> Result<LaunchedShards<S>, LaunchError> {
    let mut shards = Vec::with_capacity(specs.len());
    let mut description = None;
    for ShardSpec { driver: options, setup, .. } in specs {
        let driver = network.driver(&options);
        description = Some(driver.describe());
        shards.push(setup.build(driver).map_err(LaunchError::Setup)?);
    }
    let remotes: Vec<_> = shards.iter().map(Shard::remote).collect();
    let exits: Arc<Exits> = Arc::default();
    exits.set_shards(shards.iter().map(Shard::entrance).collect());
    shards.iter_mut().for_each(|shard| shard.set_exits(Arc::clone(&exits)));
    let wakers: Vec<Waker> = remotes.iter().map(|remote| remote.waker().clone()).collect();
    shards.iter_mut().for_each(|shard| shard.set_wakers(&wakers));
    Ok((Launched::without_threads(remotes, description.ok_or(LaunchError::Lost)?), shards))
}
