//! Presence: however fast clients come and go, a subscriber hears of each of them a bounded number of times per second, and knows in the
//! end who is there.

use std::collections::BTreeSet;
use std::rc::Rc;

use echoring_proto::limits::{MILLISECOND, SECOND};
use echoring_runtime::driver::sim::Random;
use echoring_server::Service;
use echoring_topics::limits::{PRESENCE_CHANGES_AT_ONCE, PRESENCE_INTERVAL};

use super::client::Leave;
use super::hub::rules;
use super::sessions::{Session, notices, number, text};
use super::topics::TopicWorld;
use super::world::World;

const TOPIC: &str = "plain";
/// How often a subscriber is told in a second at most, whenever that begins.
const PER_SECOND: usize = (SECOND / PRESENCE_INTERVAL + 1) as usize;

/// How clients come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By their subscriptions.
    Subscriptions,
    /// By their connections, each of which is another client.
    Connections,
}

struct Crowd {
    world: Rc<World<Service>>,
    random: Random,
    observers: Vec<Session>,
    /// Those that have come, and whether they are there.
    clients: Vec<(Option<Session>, bool)>,
    way: Way,
}

impl Crowd {
    fn new(seed: u64, way: Way, clients: usize) -> Crowd {
        let mut random = Random::new(seed);
        let world = TopicWorld::new(rules(true)).start(seed, random.between(1, 3));
        let mut observers: Vec<Session> = (0..3).map(|_| Session::open(&world)).collect();
        let clients = (0..clients).map(|_| (None, false)).collect();
        for observer in &mut observers {
            observer.subscribe(&world, &mut random, TOPIC, None);
        }
        let mut crowd = Crowd { world, random, observers, clients, way };
        crowd.settle();
        let Crowd { world, random, observers, .. } = &mut crowd;
        for observer in observers {
            observer.members(world, random, TOPIC, 256);
        }
        crowd.settle();
        crowd.world.pass(SECOND);
        crowd
    }

    fn settle(&self) {
        self.hurry();
        self.world.run_until_quiet();
    }

    fn hurry(&self) {
        self.world.clients.borrow_mut().iter_mut().for_each(|client| client.hurry());
    }

    /// The next client comes, or goes.
    fn step(&mut self, number: usize) {
        let Crowd { world, random, clients, way, .. } = self;
        let index = number % clients.len();
        let (session, is_there) = &mut clients[index];
        match (session, *way) {
            (Some(session), Way::Subscriptions) if *is_there => session.unsubscribe(world, random, TOPIC),
            (Some(session), Way::Connections) if *is_there => {
                world.clients.borrow_mut()[session.client].leave = Leave::Fin;
            }
            (Some(session), Way::Subscriptions) => session.subscribe(world, random, TOPIC, None),
            (session, _) => {
                session.insert(Session::open(world)).subscribe(world, random, TOPIC, None);
            }
        }
        *is_there = !*is_there;
        self.hurry();
    }

    /// The changes that each observer was told of so far.
    fn told(&self) -> Vec<usize> {
        let clients = self.world.clients.borrow();
        let count = |session: &Session| {
            let (notices, _) = notices(&clients[session.client]);
            notices.iter().filter(|notice| text(notice, "type") == "presence").count()
        };
        self.observers.iter().map(count).collect()
    }

    /// Each observer knows who is there.
    fn check(&self) {
        let clients = self.world.clients.borrow();
        let name = |session: &Session| {
            let (notices, _) = notices(&clients[session.client]);
            let own = notices.iter().rfind(|notice| text(notice, "type") == "subscribed");
            text(own.expect("it subscribes"), "client").to_owned()
        };
        let there =
            self.clients.iter().filter(|(_, is_there)| *is_there).filter_map(|(session, _)| session.as_ref());
        let there: BTreeSet<String> = there.chain(&self.observers).map(name).collect();
        for observer in &self.observers {
            let (mut known, mut count) = (BTreeSet::new(), 0);
            for notice in notices(&clients[observer.client]).0 {
                match text(&notice, "type") {
                    "members" => {
                        let listed = notice["clients"].as_array().expect("a list");
                        known =
                            listed.iter().map(|client| client.as_str().expect("a name").to_owned()).collect();
                        count = number(&notice, "count");
                    }
                    "presence" => {
                        assert_ne!(text(&notice, "event"), "stale", "it keeps up");
                        let client = text(&notice, "client").to_owned();
                        let joined = text(&notice, "event") == "join";
                        let _ = if joined { known.insert(client) } else { known.remove(&client) };
                        count = number(&notice, "count");
                    }
                    _ => {}
                }
            }
            assert_eq!((&known, count), (&there, there.len() as u64));
        }
    }
}

#[test]
fn clients_that_come_and_go_cost_the_others_a_bounded_number_of_messages() {
    for way in [Way::Subscriptions, Way::Connections] {
        for (clients, apart_ms) in [(1, 2), (1, 300), (7, 13), (40, 1), (40, 4), (60, 25)] {
            let mut crowd = Crowd::new(clients as u64 * 1_000 + apart_ms, way, clients);
            let mut steps = 0..;
            let mut most = 0;
            for _ in 0..2 {
                let before = crowd.told();
                for number in steps.by_ref().take((SECOND / MILLISECOND / apart_ms) as usize) {
                    crowd.step(number);
                    crowd.world.pass(apart_ms * MILLISECOND);
                }
                let told = crowd.told();
                let most_of_second = told.iter().zip(before).map(|(told, before)| told - before).max();
                most = most.max(most_of_second.unwrap_or_default());
            }
            // Of each client, and of those in whose place others have come.
            let changed = if way == Way::Subscriptions { clients } else { 2 * clients };
            let bound = PER_SECOND * (PRESENCE_CHANGES_AT_ONCE as usize + changed);
            assert!(most <= bound, "{way:?}: {clients} clients {apart_ms} ms apart cost {most}");
            assert!(most > 0, "they are told of some");
            crowd.world.pass(SECOND);
            crowd.check();
        }
    }
}

/// A client that joins and leaves between two tellings may be in a list that was read meanwhile, and one that leaves and returns may not.
#[test]
fn a_list_that_is_read_between_two_tellings_is_right_in_the_end() {
    for (seed, way) in (0..20).flat_map(|seed| [(seed, Way::Subscriptions), (seed, Way::Connections)]) {
        let mut crowd = Crowd::new(seed, way, 20);
        for _ in 0..100 {
            match crowd.random.below(4) {
                0 => {
                    let Crowd { world, random, observers, .. } = &mut crowd;
                    let index = random.below(observers.len());
                    observers[index].members(world, random, TOPIC, 256);
                    crowd.hurry();
                }
                1 => crowd.world.pass(crowd.random.between(1, 200) as u64 * MILLISECOND),
                _ => {
                    let next = crowd.random.below(20);
                    crowd.step(next);
                    crowd.world.pass(MILLISECOND);
                }
            }
        }
        crowd.world.pass(SECOND);
        crowd.check();
    }
}
