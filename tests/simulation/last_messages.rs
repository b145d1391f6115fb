//! Messages that handlers leave for when their connection is over: whatever ends it, and while mailboxes are full, each is published
//! exactly once, behind what the connection has published before.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use echoring_proto::limits::MEMORY_BUDGET_DEFAULT;
use echoring_runtime::driver::sim::Random;
use echoring_server::{Disposition, Failure, Handler, Message, Path, Remote, Result, Route, Routes, Service};
use echoring_topics::{Publications, TopicSettings};

use super::client::{Item, Leave, MessageKind, frame, message};
use super::for_each_seed;
use super::topics::TopicWorld;
use super::world::{Memory, World};

const ROOM: &str = "the room";
/// Short mailboxes, which several members fill.
const MAILBOX_BYTES: usize = 64 * 1024;
const MESSAGE_BYTES_MAX: u64 = 16 * 1024;

/// The names of those whose handler has left a message.
pub type Joined = Arc<Mutex<BTreeSet<String>>>;

/// A member that publishes what its client says.
struct Member {
    name: String,
    joined: Joined,
}

impl Handler for Member {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        if !self.name.starts_with("watcher") {
            remote.publish_on_close(ROOM, &format!("{} left", self.name))?;
            self.joined.lock().expect("no panic").insert(self.name.clone());
        }
        Ok(remote.subscribe(ROOM)?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        match message.text() {
            Some("fail") => return Err(Failure::from("as it was told")),
            Some("hang up") => remote.hang_up(),
            _ => remote.publish(ROOM, message)?,
        }
        Ok(Disposition::Done)
    }
}

/// Members, whose names are their paths. Those of watchers leave no message.
pub fn members(joined: &Joined) -> Routes {
    let mut routes = Routes::default();
    let joined = Arc::clone(joined);
    routes.add(Route::new("/{name}", move |Path(name): Path<String>| Member {
        name,
        joined: Arc::clone(&joined),
    }));
    routes
}

fn world(seed: u64, shards: usize, joined: &Joined) -> Rc<World<Service>> {
    // These tests are not about laggards.
    let settings = TopicSettings { lag_bytes: 8 << 20, ..TopicSettings::default() };
    let memory = Memory { budget_bytes: MEMORY_BUDGET_DEFAULT, refused: [0, 50][(seed % 2) as usize] };
    TopicWorld {
        max_message: MESSAGE_BYTES_MAX,
        mailbox_bytes: MAILBOX_BYTES,
        memory: Some(memory),
        ..TopicWorld::of_handlers(settings, members(joined))
    }
    .start(seed, shards)
}

/// A member says something and leaves, in one of all ways.
fn script(random: &mut Random, name: &str, padding: usize, script: &mut Vec<u8>) -> Leave {
    for number in 0..random.between(0, 12) {
        let text = format!("{name} {number:03}{}", "x".repeat(random.below(padding)));
        message(random, MessageKind::Text, text.as_bytes(), script, |_, _| {});
    }
    match random.below(6) {
        0 => {
            frame(random, true, 8, &1000_u16.to_be_bytes(), script);
            Leave::Told
        }
        1 => Leave::Fin,
        2 => Leave::Reset(usize::MAX),
        3 => Leave::Reset(random.below(script.len() + 300)),
        way => {
            let text: &[u8] = if way == 4 { b"fail" } else { b"hang up" };
            message(random, MessageKind::Text, text, script, |_, _| {});
            Leave::Told
        }
    }
}

/// The texts that a client has received.
pub fn texts(heard: &[Item]) -> Vec<String> {
    let text = |item: &Item| match item {
        Item::Message(MessageKind::Text, payload) => String::from_utf8(payload.clone()).expect("a text"),
        other => panic!("{other:.40?}"),
    };
    heard.iter().map(text).collect()
}

/// What a member has published is a beginning of what it was to say, in order, and then that it left.
fn check_member(name: &str, texts: &[String]) {
    let own = texts.iter().filter_map(|text| text.strip_prefix(name)?.strip_prefix(' '));
    let mut own: Vec<&str> = own.map(|text| &text[..text.len().min(4)]).collect();
    assert_eq!(own.pop(), Some("left"), "{name}: {own:?}");
    for (number, text) in own.into_iter().enumerate() {
        assert_eq!(text[..3], format!("{number:03}"), "{name}");
    }
}

fn members_leave(seed: u64) {
    let mut random = Random::new(seed);
    let joined = Joined::default();
    let world = world(seed, random.between(1, 3), &joined);
    let watchers = [world.add("/watcher-1"), world.add("/watcher-2")];
    world.run_until_quiet();
    watchers.iter().for_each(|&watcher| world.clients.borrow_mut()[watcher].hurry());
    let padding = [10, 200, 12_000][random.below(3)];
    for number in 0..random.between(1, 12) {
        let name = format!("member-{number:02}");
        let member = world.add(&format!("/{name}"));
        let mut words = Vec::new();
        let leave = script(&mut random, &name, padding, &mut words);
        let client = &mut world.clients.borrow_mut()[member];
        client.script.extend(words);
        client.leave = leave;
    }
    world.run(move |clients| clients[watchers.len()..].iter().all(|client| client.end.is_some()));
    world.run_until_quiet();
    assert_eq!(world.connections(), watchers.len());

    let heard = watchers.map(|watcher| texts(&world.clients.borrow()[watcher].heard));
    assert_eq!(heard[0], heard[1], "in one order");
    let joined = joined.lock().expect("no panic").clone();
    joined.iter().for_each(|name| check_member(name, &heard[0]));
    let left = heard[0].iter().filter(|text| text.ends_with(" left")).count();
    assert_eq!(left, joined.len(), "nobody else");
    let published = heard[0].len() as u64;
    let counts = world.known().publications;
    assert_eq!(counts, Publications { published, accepted: published, refused: 0 });
    world.drain();
}

#[test]
fn each_member_that_leaves_is_announced_once_behind_its_messages() {
    for_each_seed("each_member_that_leaves_is_announced_once_behind_its_messages", members_leave);
}
