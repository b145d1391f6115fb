//! Handlers whose connections move between shards at random: nobody notices, neither their clients nor the handlers but for the call that
//! says so, and each continues with all that it had.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use echoring_proto::limits::MEMORY_BUDGET_DEFAULT;
use echoring_runtime::driver::sim::Random;
use echoring_server::{
    Closed, Disposition, Handler, Message, Migrate, Path, PublishOutcome, Remote, Requirements, Result,
    Route, Routes, Service, State, SubscriptionEvent, ThawContext,
};
use echoring_topics::TopicSettings;

use super::client::{Client, Item, Leave, MessageKind, frame, message};
use super::for_each_seed;
use super::last_messages;
use super::topics::TopicWorld;
use super::world::{Memory, World, move_some};

const ROOM: &str = "the room";
/// Bytes that each handler reserves.
const RESERVED_BYTES: usize = 5_000;

/// How often handlers were called.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    opened: u64,
    thawed: u64,
    closed: u64,
}

type AllCalls = Arc<Mutex<Calls>>;

/// A member that says what it has counted.
struct Member {
    name: String,
    calls: AllCalls,
    said: u64,
    results: u64,
    ticks: u64,
}

impl Member {
    fn note(&self, note: impl FnOnce(&mut Calls)) {
        note(&mut self.calls.lock().expect("no panic"));
    }
}

impl Handler for Member {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        self.note(|calls| calls.opened += 1);
        assert!(remote.reserve(RESERVED_BYTES), "there is memory");
        remote.publish_on_close(ROOM, &format!("{} left after 0", self.name))?;
        Ok(remote.subscribe(ROOM)?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        let text = message.text().expect("a text");
        if let Some(time) = text.strip_prefix("wake after ") {
            remote.wake_after(Duration::from_millis(time.parse().expect("a number")));
        } else if let Some(time) = text.strip_prefix("pause for ") {
            remote.set_backpressured(true);
            remote.wake_after(Duration::from_millis(time.parse().expect("a number")));
        } else {
            remote.publish_with_id(self.said, ROOM, &format!("{} said {:03}{text}", self.name, self.said))?;
            self.said += 1;
            remote.publish_on_close(ROOM, &format!("{} left after {}", self.name, self.said))?;
            remote.send_text(&format!("you said {}", self.said))?;
        }
        Ok(Disposition::Done)
    }

    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        self.ticks += 1;
        remote.set_backpressured(false);
        Ok(remote.send_text(&format!("tick {}", self.ticks))?)
    }

    fn subscription(&mut self, remote: &mut Remote<'_>, event: &SubscriptionEvent<'_>) -> Result {
        assert!(matches!(event, SubscriptionEvent::Subscribed { .. }), "{event:?}");
        Ok(remote.send_text("in")?)
    }

    fn published(&mut self, remote: &mut Remote<'_>, outcome: &PublishOutcome<'_>) -> Result {
        assert!(outcome.id == Some(self.results) && outcome.result.is_ok(), "{outcome:?}");
        self.results += 1;
        Ok(remote.send_text(&format!("result {}", self.results))?)
    }

    fn close(&mut self, _: &Closed) {
        self.note(|calls| calls.closed += 1);
    }
}

impl Migrate for Member {
    fn freeze(&self) -> Option<Vec<u8>> {
        let numbers = [self.said, self.results, self.ticks].map(u64::to_le_bytes).concat();
        Some([&numbers, self.name.as_bytes()].concat())
    }

    fn thaw(state: &[u8], here: &ThawContext<'_>) -> Option<Member> {
        let (numbers, name) = state.split_first_chunk::<24>()?;
        let number = |index: usize| numbers[8 * index..].first_chunk().copied().map(u64::from_le_bytes);
        Some(Member {
            name: String::from_utf8(name.to_vec()).ok()?,
            calls: Arc::clone(here.state()?),
            said: number(0)?,
            results: number(1)?,
            ticks: number(2)?,
        })
    }

    fn thawed(&mut self, remote: &mut Remote<'_>) -> Result {
        self.note(|calls| calls.thawed += 1);
        assert!(remote.is_open());
        Ok(())
    }

    fn requires(required: &mut Requirements) {
        required.state::<AllCalls>();
    }
}

fn world(seed: u64, shards: usize, calls: &AllCalls) -> Rc<World<Service>> {
    let mut routes = Routes::default();
    let member = |Path(name): Path<String>, State(calls): State<AllCalls>| Member {
        name,
        calls,
        said: 0,
        results: 0,
        ticks: 0,
    };
    routes.add(Route::new("/{name}", member).migrates::<Member>());
    routes.add_state(Arc::clone(calls));
    // These tests are not about laggards.
    let settings = TopicSettings { lag_bytes: 8 << 20, ..TopicSettings::default() };
    let memory = Memory { budget_bytes: MEMORY_BUDGET_DEFAULT, refused: [0, 50][(seed % 2) as usize] };
    TopicWorld { memory: Some(memory), ..TopicWorld::of_handlers(settings, routes) }.start(seed, shards)
}

/// Appends messages of a client. Returns how many of them its handler publishes, and whether any sets its timer.
fn script(random: &mut Random, script: &mut Vec<u8>) -> (usize, bool) {
    let (mut said, mut wakes) = (0, false);
    for _ in 0..random.between(1, 20) {
        let text = match random.below(6) {
            0 => format!("wake after {}", random.below(50)),
            1 => format!("pause for {}", random.below(50)),
            _ => "x".repeat([3, 40, 400][random.below(3)]),
        };
        let says = text.starts_with('x');
        (said, wakes) = (said + usize::from(says), wakes || !says);
        message(random, MessageKind::Text, text.as_bytes(), script, |_, _| {});
    }
    (said, wakes)
}

/// The texts that a client has received.
fn texts(client: &Client) -> Vec<String> {
    let is_message = |item: &&Item| matches!(item, Item::Message(..));
    last_messages::texts(&client.heard.iter().filter(is_message).cloned().collect::<Vec<_>>())
}

/// The texts that begin with this, which end in numbers that are counted from 1.
fn counted(texts: &[String], begin: &str) -> usize {
    let numbers: Vec<usize> = texts
        .iter()
        .filter_map(|text| text.strip_prefix(begin))
        .map(|number| number.parse().expect("a number"))
        .collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len()), "{begin}: {numbers:?}");
    numbers.len()
}

/// What was published by all, in its order.
fn published(texts: &[String]) -> Vec<&str> {
    let published = texts.iter().filter(|text| text.contains(" said ") || text.contains(" left after "));
    published.filter(|text| !text.starts_with("you ")).map(|text| &text[..text.len().min(24)]).collect()
}

/// Returns how many connections have moved.
fn members_move(seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let calls = AllCalls::default();
    let world = world(seed, random.between(2, 4), &calls);
    move_some(&world, seed);
    let members = random.between(2, 6);
    for number in 0..members {
        world.add(&format!("/m{number}"));
    }
    world.run(move |clients| clients.iter().all(|client| texts(client) == ["in"]));
    let mut expected = Vec::new();
    for client in world.clients.borrow_mut().iter_mut() {
        let mut words = Vec::new();
        expected.push(script(&mut random, &mut words));
        client.script.extend(words);
        client.hurry();
    }
    let all: usize = expected.iter().map(|(said, _)| said).sum();
    let awaited = expected.clone();
    world.run(move |clients| {
        clients.iter().zip(&awaited).all(|(client, (said, wakes))| {
            let texts = texts(client);
            let has = |begin: &str| texts.iter().filter(|text| text.starts_with(begin)).count();
            has("result ") == *said && published(&texts).len() == all && (!wakes || has("tick ") > 0)
        })
    });
    for (client, (said, _)) in world.clients.borrow().iter().zip(&expected) {
        let texts = texts(client);
        assert_eq!((counted(&texts, "you said "), counted(&texts, "result ")), (*said, *said));
        counted(&texts, "tick ");
    }
    // All but the last one leave, in different ways.
    let ways = [Leave::Told, Leave::Fin, Leave::Reset(0)];
    for client in world.clients.borrow_mut()[..members - 1].iter_mut() {
        client.leave = ways[random.below(3)];
        if client.leave == Leave::Told {
            let mut close = Vec::new();
            frame(&mut random, true, 8, &1000_u16.to_be_bytes(), &mut close);
            client.script.extend(close);
        }
    }
    world.run(move |clients| published(&texts(&clients[members - 1])).len() == all + members - 1);
    world.end_moves();
    world.run_until_quiet();
    let clients = world.clients.borrow();
    let heard = texts(&clients[members - 1]);
    let order = published(&heard);
    for (number, (said, _)) in expected.iter().enumerate() {
        let own = order.iter().filter_map(|text| text.strip_prefix(&format!("m{number} ")));
        let mut own: Vec<&str> = own.collect();
        if number < members - 1 {
            assert_eq!(own.pop(), Some(&*format!("left after {said}")));
        }
        assert_eq!(own.len(), *said);
        for (number, text) in own.iter().enumerate() {
            assert!(text.starts_with(&format!("said {number:03}")), "{number}: {text}");
        }
        // A client that has left has received the first messages, in the same order.
        let others = texts(&clients[number]);
        assert!(order.starts_with(&published(&others)), "one order");
    }
    drop(clients);
    let Calls { opened, thawed, closed } = *calls.lock().expect("no panic");
    assert_eq!((opened, closed), (members as u64, members as u64 - 1));
    let moved: u64 = world.snapshots_of(0).iter().map(|snapshot| snapshot.counters.moved_in).sum();
    assert!(thawed >= moved, "{thawed} calls for {moved} moves");
    world.drain();
    moved
}

#[test]
fn members_that_move_notice_nothing_and_nobody_else_does() {
    let moved = Cell::new(0);
    for_each_seed("members_that_move_notice_nothing_and_nobody_else_does", |seed| {
        moved.set(moved.get() + members_move(seed));
    });
    assert!(moved.get() > 0, "some have moved");
}
