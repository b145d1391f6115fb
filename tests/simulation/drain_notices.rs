//! The notice of a drain: each handler is told once, before its connection is closed, and has the time that it was told; whatever
//! kind of drain it is, and in whatever order the shards hear of it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use echoring_proto::CloseCode;
use echoring_proto::limits::{MILLISECOND, Nanos, QUEUE_BYTES_DEFAULT, SECOND};
use echoring_runtime::driver::sim::Random;
use echoring_runtime::shard::{ControlMessage, DrainPlan, Goodbye};
use echoring_server::{
    Chunk, Disposition, DrainAction, DrainNotice, Failure, Handler, Message, Path, PublishError, Refused,
    Remote, Result, Route, Routes, Service, SubscriptionEvent,
};

use super::client::{Client, Item, MessageKind, frame, message};
use super::for_each_seed;
use super::service::service;
use super::world::{World, config};

const GOING_AWAY: u16 = 1001;
const OWN_CODE: u16 = 4001;
const FAILED: u16 = 4002;
const TOPIC: &str = "the room";

/// What a handler was told, and when.
#[derive(Clone, Copy, Debug)]
struct Told {
    shard: usize,
    at: Nanos,
    notice: DrainNotice,
}

type AllTold = Arc<Mutex<BTreeMap<u32, Vec<Told>>>>;

/// What a handler does with the notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Conduct {
    /// The server closes.
    Leaves,
    /// It closes by itself after half of its time.
    Waits,
    /// It never closes.
    Stays,
    /// It fails.
    Fails,
    /// It closes at once.
    Closes,
}

const ALL: [(&str, Conduct); 5] = [
    ("leaves", Conduct::Leaves),
    ("waits", Conduct::Waits),
    ("stays", Conduct::Stays),
    ("fails", Conduct::Fails),
    ("closes", Conduct::Closes),
];

struct Member {
    number: u32,
    conduct: Conduct,
    subscribes: bool,
    streams: bool,
    told: AllTold,
}

impl Handler for Member {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        match self.subscribes {
            true => Ok(remote.subscribe(TOPIC)?),
            false => Ok(remote.send_text("open")?),
        }
    }

    fn subscription(&mut self, remote: &mut Remote<'_>, event: &SubscriptionEvent<'_>) -> Result {
        if let SubscriptionEvent::Subscribed { .. } = event {
            remote.send_text("open")?;
        }
        event.or_close()
    }

    fn is_streaming(&self) -> bool {
        self.streams
    }

    fn chunk(&mut self, _: &mut Remote<'_>, _: &Chunk<'_>) -> Result<Disposition> {
        Ok(Disposition::Echo)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        match remote.publish(TOPIC, message) {
            // Who closes by itself goes on meanwhile.
            Err(PublishError::Refused(Refused::Draining)) if self.conduct == Conduct::Waits => {}
            // The server does the rest.
            published => published?,
        }
        Ok(Disposition::Done)
    }

    fn draining(&mut self, remote: &mut Remote<'_>, notice: &DrainNotice) -> Result<DrainAction> {
        let told = Told { shard: remote.shard(), at: remote.now(), notice: *notice };
        self.told.lock().expect("no panic").entry(self.number).or_default().push(told);
        assert!(remote.is_open());
        assert_eq!(notice.deadline(), remote.now() + notice.time_left().as_nanos() as Nanos);
        remote.send_text("bye")?;
        match self.conduct {
            Conduct::Leaves => Ok(DrainAction::Close),
            Conduct::Stays => Ok(DrainAction::Wait),
            Conduct::Waits => {
                remote.wake_after(notice.time_left() / 2);
                Ok(DrainAction::Wait)
            }
            Conduct::Fails => Err(Failure::new(CloseCode(FAILED), "no")),
            Conduct::Closes => {
                remote.close(CloseCode(OWN_CODE), "own");
                Ok(DrainAction::Close)
            }
        }
    }

    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.send_text("at last")?;
        remote.close(CloseCode(OWN_CODE), "own");
        Ok(())
    }
}

struct Model {
    world: Rc<World<Service>>,
    random: Random,
    told: AllTold,
    /// The conduct of each client's handler, and whether it subscribes.
    members: Vec<(Conduct, bool)>,
}

fn is_open(client: &Client) -> bool {
    client.heard.iter().any(|item| matches!(item, Item::Message(_, text) if text == b"open"))
}

impl Model {
    /// So many connections with handlers of all sorts, which are open.
    fn new(seed: u64, shards: usize, members: usize) -> Model {
        let mut random = Random::new(seed);
        let told = AllTold::default();
        let mut routes = Routes::default();
        let shared = Arc::clone(&told);
        routes.add(Route::new(
            "/{number}/{conduct}/{subscribes}",
            move |Path((number, conduct, subscribes)): Path<(u32, Conduct, bool)>| Member {
                number,
                conduct,
                subscribes,
                streams: false,
                told: Arc::clone(&shared),
            },
        ));
        let shared = Arc::clone(&told);
        routes.add(Route::new("/{number}/streams", move |Path(number): Path<u32>| Member {
            number,
            conduct: Conduct::Leaves,
            subscribes: false,
            streams: true,
            told: Arc::clone(&shared),
        }));
        let world = World::new(seed, shards, config(), 4 << 20, random.chance(200), |_| {
            service(config().max_message, QUEUE_BYTES_DEFAULT).with_routes(routes.clone())
        });
        let members = (0..members)
            .map(|number| {
                let (name, conduct) = ALL[random.below(ALL.len())];
                let subscribes = random.chance(400);
                world.add(&format!("/{number}/{name}/{subscribes}"));
                (conduct, subscribes)
            })
            .collect();
        let model = Model { world, random, told, members };
        model.world.run(|clients| clients.iter().all(is_open));
        model
    }

    fn order(&self, plan: DrainPlan) {
        for remote in self.world.remotes() {
            // One without connections may have ended.
            let _ = remote.send(ControlMessage::Drain(plan));
        }
    }

    /// Everybody was told once, in time, and heard so before the end that its handler wanted.
    fn check(&self, goodbye: Goodbye) {
        let told = self.told.lock().expect("no panic");
        for (number, (conduct, _)) in self.members.iter().enumerate() {
            let [told] = told[&(number as u32)][..] else {
                panic!("{number} was told {:?}", told.get(&(number as u32)))
            };
            assert!(told.notice.time_left() > Duration::ZERO, "{told:?}");
            assert_eq!((told.notice.code(), told.notice.reason()), (goodbye.code, goodbye.reason));
            let clients = self.world.clients.borrow();
            let heard = &clients[number].heard;
            let said = |word: &str| {
                heard
                    .iter()
                    .filter(|item| matches!(item, Item::Message(_, text) if text == word.as_bytes()))
                    .count()
            };
            assert_eq!(
                (said("bye"), said("at last")),
                (1, usize::from(*conduct == Conduct::Waits)),
                "{conduct:?}"
            );
            let code = match conduct {
                Conduct::Leaves | Conduct::Stays => goodbye.code.0,
                Conduct::Waits | Conduct::Closes => OWN_CODE,
                Conduct::Fails => FAILED,
            };
            assert_eq!(heard.last(), Some(&Item::Close(code)), "{number}: {conduct:?}");
        }
    }
}

#[test]
fn every_handler_is_told_once_before_a_drain_at_once() {
    for_each_seed("every_handler_is_told_once_before_a_drain_at_once", |seed| {
        let shards = 1 + (seed % 3) as usize;
        let mut model = Model::new(seed, shards, 1 + (seed % 12) as usize);
        let timeout = [8 * SECOND, 3 * SECOND][model.random.below(2)];
        let started = model.world.network.now();
        if seed % 2 == 0 {
            model.world.begin_drain(timeout);
        } else {
            model.world.begin_drain_one_by_one(timeout);
        }
        model.world.end_drain();
        model.check(Goodbye::GOING_AWAY);
        let has_stayed = model.members.iter().any(|(conduct, _)| *conduct == Conduct::Stays);
        let took = model.world.network.now() - started;
        assert!(took < timeout + SECOND, "{took} ns");
        assert!(!has_stayed || took >= timeout / 4 * 3, "{took} ns: a handler had its time");
    });
}

/// In a paced drain, and in one for a successor, each handler is told when it is its connection's turn.
#[test]
fn a_paced_drain_tells_handlers_one_by_one() {
    let spread = Cell::new(0);
    for_each_seed("a_paced_drain_tells_handlers_one_by_one", |seed| {
        let mut model = Model::new(seed, 1 + (seed % 2) as usize, 2 + (seed % 8) as usize);
        let goodbye = [Goodbye::GOING_AWAY, Goodbye::RESTART][model.random.below(2)];
        let timeout = [20 * SECOND, 2 * SECOND][model.random.below(2)];
        let plan = DrainPlan { goodbye, timeout, paced: timeout * 3 / 4, spacing: MILLISECOND };
        model.order(plan);
        // One that ends all sooner may come meanwhile.
        let is_hurried = model.random.chance(300);
        if is_hurried {
            model.world.pass(timeout / 4);
            model.order(DrainPlan { goodbye, ..DrainPlan::at_once(timeout / 2) });
        }
        model.world.end_drain();
        model.check(goodbye);
        let told = model.told.lock().expect("no panic");
        let mut times: Vec<Nanos> = told.values().flatten().map(|told| told.at).collect();
        times.sort_unstable();
        times.dedup();
        spread.set(spread.get() + times.len());
        for told in told.values().flatten() {
            assert!(is_hurried || told.notice.time_left() <= Duration::from_secs(6), "{told:?}");
        }
    });
    assert!(spread.get() > 0);
}

/// What was published before the drain reaches subscribers before they are closed, also while their handlers wait.
#[test]
fn subscribers_get_everything_before_their_handlers_let_them_go() {
    for_each_seed("subscribers_get_everything_before_their_handlers_let_them_go", |seed| {
        let mut model = Model::new(seed, 1 + (seed % 3) as usize, 3 + (seed % 5) as usize);
        let mut sent = Vec::new();
        for number in 0..model.random.between(1, 20) {
            let mut script = Vec::new();
            let text = format!("message {number}");
            message(&mut model.random, MessageKind::Text, text.as_bytes(), &mut script, |_, _| {});
            sent.push(Item::Message(MessageKind::Text, text.into_bytes()));
            model.world.clients.borrow_mut()[0].script.extend(script);
        }
        model.world.run(|clients| clients[0].script.is_empty());
        // The publisher's last messages may be on their way.
        model.world.pass(MILLISECOND * model.random.below(3) as Nanos);
        model.world.begin_drain(8 * SECOND);
        model.world.end_drain();
        model.check(Goodbye::GOING_AWAY);
        let clients = model.world.clients.borrow();
        let published = |client: &Client| -> Vec<Item> {
            let is_published =
                |item: &&Item| matches!(item, Item::Message(_, text) if text.starts_with(b"message"));
            client.heard.iter().filter(is_published).cloned().collect()
        };
        let of_subscribers =
            model.members.iter().zip(clients.iter()).filter(|((_, subscribes), _)| *subscribes);
        // A handler that closes by itself may do so before the last messages come.
        let of_patient = of_subscribers
            .filter(|((conduct, _), _)| matches!(conduct, Conduct::Leaves | Conduct::Stays | Conduct::Waits));
        let heard: Vec<Vec<Item>> = of_patient.map(|(_, client)| published(client)).collect();
        for one in &heard {
            assert_eq!(*one, sent[..one.len()], "in order");
            assert_eq!(one, &heard[0], "everybody got the same");
        }
    });
}

/// A last message does not come between the fragments of a message that is echoed.
#[test]
fn a_handler_is_told_behind_the_echo_that_it_is_in_the_middle_of() {
    for_each_seed("a_handler_is_told_behind_the_echo_that_it_is_in_the_middle_of", |seed| {
        let mut model = Model::new(seed, 1, 0);
        let client = model.world.add("/0/streams");
        model.world.run(|clients| is_open(&clients[0]));
        let (mut first, mut last) = (Vec::new(), Vec::new());
        frame(&mut model.random, false, 1, b"one ", &mut first);
        frame(&mut model.random, true, 0, b"message", &mut last);
        model.world.clients.borrow_mut()[client].script.extend(first);
        model.world.run_until_quiet();
        let completes = model.random.chance(700);
        model.world.begin_drain(8 * SECOND);
        model.world.pass(100 * MILLISECOND);
        assert!(model.told.lock().expect("no panic").is_empty(), "nothing may be sent now");
        if completes {
            model.world.clients.borrow_mut()[client].script.extend(last);
        }
        model.world.end_drain();
        let clients = model.world.clients.borrow();
        let text = |text: &str| Item::Message(MessageKind::Text, text.as_bytes().to_vec());
        match completes {
            true => assert_eq!(
                clients[client].heard,
                [text("open"), text("one message"), text("bye"), Item::Close(GOING_AWAY)]
            ),
            false => assert_eq!(clients[client].heard, [text("open"), Item::Close(GOING_AWAY)]),
        }
        assert_eq!(model.told.lock().expect("no panic").len(), usize::from(completes));
    });
}

/// Very many handlers are told in steps, between which the shard attends to others.
#[test]
fn a_tick_tells_some_of_the_handlers_only() {
    for_each_seed("a_tick_tells_some_of_the_handlers_only", |seed| {
        // Each carries as much as ten others.
        if seed >= 20 && super::seeds::single().is_none() {
            return;
        }
        let model = Model::new(seed, 1, 100);
        model.world.begin_drain(8 * SECOND);
        model.world.end_drain();
        model.check(Goodbye::GOING_AWAY);
        let mut by_tick: BTreeMap<(usize, Nanos), usize> = BTreeMap::new();
        for told in model.told.lock().expect("no panic").values().flatten() {
            *by_tick.entry((told.shard, told.at)).or_default() += 1;
        }
        assert!(by_tick.values().all(|count| *count <= 64), "{by_tick:?}");
    });
}
