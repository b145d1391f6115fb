//! On raw routes and through handlers, every subscriber sees one order per topic, each publisher's messages in order, nothing twice, and nothing lost
//! unless a connection ended; uncompressed or compressed, with any window size.

use echoring_proto::connection::Compression;
use echoring_proto::deflate::{Direction, Preferences};
use echoring_proto::limits::QUEUE_BYTES_DEFAULT;
use echoring_runtime::driver::sim::{Heard, Random};
use echoring_server::{
    Disposition, Handler, Message, Opening, Path, Remote, Result, Route, Routes, Service, SubscribeOptions,
    SubscriptionEvent,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::client::{self, Client, Item, Leave, MessageKind};
use super::for_each_seed;
use super::service::service;
use super::world::{World, config, move_some};

const MESSAGE_BYTES_MAX: u64 = 64 * 1024;
/// The report to a slow consumer.
const SLOW_CONSUMER: u16 = 4008;

const THRESHOLD_BYTES: u32 = 100;
/// Size of a text of [`client::payload`] from which compression always makes it shorter.
const SURELY_SHORTER_BYTES: usize = 1_000;
/// The clients' offers: none, windows of several sizes with and without context takeover, and one that the server
/// cannot deflate with.
pub const OFFERS: [&str; 7] = [
    "",
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits; server_no_context_takeover",
    "permessage-deflate; server_max_window_bits=12",
    "permessage-deflate; server_max_window_bits=9; client_no_context_takeover",
    "permessage-deflate; server_max_window_bits=9; server_no_context_takeover; client_max_window_bits=10",
    "permessage-deflate; server_max_window_bits=8",
];

/// A client of a topic, and what it published.
struct Member {
    client: usize,
    topic: usize,
    hears_itself: bool,
    published: Vec<(MessageKind, Vec<u8>)>,
    /// Whether it subscribed when messages were already flowing.
    late: bool,
}

/// How the clients reach their topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By the built-in route.
    Raw,
    /// By a program's route, whose handlers subscribe and publish.
    Handlers,
}

struct Topics {
    world: std::rc::Rc<World<Service>>,
    way: Way,
    /// How many connections of handlers have subscribed.
    subscribed: Arc<AtomicUsize>,
}

impl std::ops::Deref for Topics {
    type Target = World<Service>;

    fn deref(&self) -> &World<Service> {
        &self.world
    }
}

impl Topics {
    /// Runs everything until all clients subscribe.
    fn run_until_subscribed(&self) {
        let (way, subscribed) = (self.way, Arc::clone(&self.subscribed));
        self.world.run(move |clients| {
            let all = clients.iter().all(|client| client.decoder.opened);
            all && (way == Way::Raw || subscribed.load(Ordering::Relaxed) == clients.len())
        });
    }
}

/// A member of a room.
struct RoomMember {
    room: String,
    options: SubscribeOptions,
    subscribed: Arc<AtomicUsize>,
}

impl Handler for RoomMember {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.subscribe_with(&self.room, self.options)?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        remote.publish(&self.room, message)?;
        Ok(Disposition::Done)
    }

    fn subscription(&mut self, _: &mut Remote<'_>, event: &SubscriptionEvent<'_>) -> Result {
        if let SubscriptionEvent::Subscribed { topic, recovered: None, .. } = event {
            assert_eq!(*topic, self.room);
            self.subscribed.fetch_add(1, Ordering::Relaxed);
        }
        event.or_close()
    }
}

fn routes(subscribed: &Arc<AtomicUsize>) -> Routes {
    let mut routes = Routes::default();
    let subscribed = Arc::clone(subscribed);
    routes.add(Route::new("/rooms/{room}", move |opening: &mut Opening<'_>, Path(room): Path<String>| {
        let options = SubscribeOptions::new();
        let hears_itself = opening.query_value("self") == Some("1");
        RoomMember {
            room,
            options: if hears_itself { options } else { options.skip_own() },
            subscribed: Arc::clone(&subscribed),
        }
    }));
    routes.add(Route::new("/lobby/{room}", |opening: &mut Opening<'_>, Path(room): Path<String>| Guest {
        room,
        greeting: opening.query_value("says").unwrap_or_default().to_owned(),
        again: opening.query_value("again") == Some("1"),
    }));
    routes
}

/// Joins a room, and greets those in it in the same call.
struct Guest {
    room: String,
    greeting: String,
    /// Leaves and joins again once it has greeted.
    again: bool,
}

impl Handler for Guest {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.subscribe_with(&self.room, SubscribeOptions::new().skip_own())?;
        remote.publish(&self.room, &self.greeting)?;
        if self.again {
            assert!(remote.unsubscribe(&self.room));
            remote.subscribe_with(&self.room, SubscribeOptions::new().skip_own())?;
        }
        Ok(())
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        remote.publish(&self.room, message)?;
        Ok(Disposition::Done)
    }
}

fn world(seed: u64, shards: usize, secured: bool, way: Way) -> Topics {
    world_with_lag(seed, shards, secured, way, QUEUE_BYTES_DEFAULT)
}

/// Lag bound of subscribers.
fn world_with_lag(seed: u64, shards: usize, secured: bool, way: Way, lag_bytes: u32) -> Topics {
    let direction = Direction { context_takeover: !seed.is_multiple_of(3), window_bits: 15 };
    let compression = Compression::default()
        .preferences(Preferences { server: direction, client: direction })
        .threshold_bytes(THRESHOLD_BYTES);
    let config = echoring_proto::connection::ConnectionConfig {
        max_message: MESSAGE_BYTES_MAX,
        compression: Some(compression),
        ..config()
    };
    // The least that a mailbox has: two messages of the largest size.
    let mailbox_bytes = 2 * MESSAGE_BYTES_MAX as usize + 64;
    let subscribed = Arc::default();
    let routes = routes(&subscribed);
    let world = World::new(seed, shards, config, mailbox_bytes, secured, |_| {
        service(MESSAGE_BYTES_MAX, lag_bytes).with_routes(routes.clone())
    });
    Topics { world, way, subscribed }
}

fn join(world: &Topics, random: &mut Random, topic: usize, hears_itself: bool, late: bool) -> Member {
    let route = if world.way == Way::Raw { "broadcast" } else { "rooms" };
    let path = format!("/{route}/topic%20{topic}{}", if hears_itself { "?self=1" } else { "" });
    let offer = OFFERS[random.below(OFFERS.len())];
    Member { client: world.add_offering(&path, offer), topic, hears_itself, published: Vec::new(), late }
}

/// Each message starts with its publisher and its number, as text, so that it fits either kind.
fn write_script(world: &Topics, member: &mut Member, random: &mut Random, messages: usize, bytes_max: usize) {
    let mut script = Vec::new();
    let compresses = world.clients.borrow()[member.client].decoder.window_bits.is_some();
    for _ in 0..messages {
        let kind = if random.chance(500) { MessageKind::Text } else { MessageKind::Binary };
        let mut payload = format!("{:06}{:06}", member.client, member.published.len()).into_bytes();
        payload.extend(client::payload(random, kind, bytes_max - payload.len()));
        if compresses && random.chance(500) {
            client::compressed_message(random, kind, &payload, &mut script);
        } else {
            client::message(random, kind, &payload, &mut script, |_, _| {});
        }
        member.published.push((kind, payload));
    }
    world.clients.borrow_mut()[member.client].script.extend(script);
}

/// The publisher of a message, and its number. Panics if the message was changed.
fn identify(members: &[Member], topic: usize, kind: MessageKind, payload: &[u8]) -> (usize, usize) {
    let number = |range: std::ops::Range<usize>| {
        let text = payload.get(range).and_then(|digits| std::str::from_utf8(digits).ok());
        text.and_then(|digits| digits.parse::<usize>().ok()).expect("a message begins with its number")
    };
    let (publisher, sequence) = (number(0..6), number(6..12));
    let member = &members[publisher];
    assert_eq!(member.topic, topic, "a message stays in its topic");
    let (sent_kind, sent) = &member.published[sequence];
    assert_eq!(*sent_kind, kind);
    assert!(sent == payload, "message {sequence} of {publisher} arrived changed");
    (publisher, sequence)
}

fn order(members: &[Member], member: &Member, client: &Client) -> Vec<(usize, usize)> {
    let message = |item: &Item| match item {
        Item::Message(kind, payload) => Some(identify(members, member.topic, *kind, payload)),
        Item::Close(_) => None,
        other => panic!("{other:.40?} on a broadcast route"),
    };
    client.heard.iter().filter_map(message).collect()
}

/// A client with compression gets compressed messages where that helps, and no other client does.
fn check_compression(client: &Client) {
    let messages = client.heard.iter().filter_map(|item| match item {
        Item::Message(kind, payload) => Some((*kind, payload.len())),
        _ => None,
    });
    for ((kind, bytes), compressed) in messages.zip(&client.decoder.were_compressed) {
        match client.decoder.window_bits {
            Some(9..) if kind == MessageKind::Text && bytes >= SURELY_SHORTER_BYTES => assert!(compressed),
            Some(9..) if bytes >= THRESHOLD_BYTES as usize => {}
            _ => assert!(!compressed, "{kind:?} of {bytes} B"),
        }
    }
}

/// Whether the client is still connected at the end.
fn stayed(client: &Client) -> bool {
    client.leave == Leave::Told && !client.decoder.closed && client.end.is_none()
}

/// Checks a topic; its first member is the witness, which receives everything and publishes nothing.
fn check(members: &[Member], clients: &[Client], topic: usize) {
    let of_topic: Vec<&Member> = members.iter().filter(|member| member.topic == topic).collect();
    let witness = order(members, of_topic[0], &clients[of_topic[0].client]);
    for publisher in &of_topic {
        let heard: Vec<usize> = witness
            .iter()
            .filter(|(from, _)| *from == publisher.client)
            .map(|(_, sequence)| *sequence)
            .collect();
        assert!(
            heard.iter().copied().eq(0..heard.len()),
            "first in first out, nothing lost between or twice: {heard:?}"
        );
        let client = &clients[publisher.client];
        if stayed(client) {
            assert_eq!(heard.len(), publisher.published.len(), "all of a publisher that stayed is delivered");
        }
    }
    check_compression(&clients[of_topic[0].client]);
    for member in &of_topic[1..] {
        let client = &clients[member.client];
        check_compression(client);
        let heard = order(members, member, client);
        let expected: Vec<(usize, usize)> = witness
            .iter()
            .copied()
            .filter(|(from, _)| member.hears_itself || *from != member.client)
            .collect();
        let stayed = stayed(client);
        if member.late {
            assert!(expected.windows(heard.len().max(1)).any(|part| part == heard) || heard.is_empty());
            assert!(!stayed || expected.ends_with(&heard), "nothing is lost behind the first message");
        } else {
            assert!(expected.starts_with(&heard), "one order for all: {heard:?} of {expected:?}");
            assert!(
                !stayed || heard.len() == expected.len(),
                "{} of {} arrived",
                heard.len(),
                expected.len()
            );
        }
        if let Some(Item::Close(code)) = client.heard.last() {
            assert_eq!(*code, SLOW_CONSUMER);
        }
    }
}

fn broadcast(seed: u64, secured: bool, way: Way) {
    broadcast_in(seed, secured, way, |_| {});
}

fn broadcast_in(seed: u64, secured: bool, way: Way, prepare: impl FnOnce(&World<Service>)) {
    let mut random = Random::new(seed);
    let world = world(seed, random.between(1, 3), secured, way);
    prepare(&world);
    let topics = random.between(1, 2);
    let bytes_max = if random.chance(300) { MESSAGE_BYTES_MAX as usize } else { 20_000 };
    let mut members = Vec::new();
    for topic in 0..topics {
        for number in 0..=random.between(1, 4) {
            let hears_itself = number > 0 && random.chance(300);
            members.push(join(&world, &mut random, topic, hears_itself, false));
            if number == 0 {
                world.clients.borrow_mut()[members[members.len() - 1].client].hurry();
            }
        }
    }
    world.run_until_subscribed();

    let witnesses: Vec<usize> =
        (0..topics).filter_map(|topic| members.iter().position(|member| member.topic == topic)).collect();
    for (at, member) in members.iter_mut().enumerate() {
        if !witnesses.contains(&at) && random.chance(750) {
            let messages = random.between(1, 12);
            write_script(&world, member, &mut random, messages, bytes_max);
            if random.chance(100) {
                let written = world.clients.borrow()[member.client].script.len();
                world.clients.borrow_mut()[member.client].leave =
                    if random.chance(500) { Leave::Fin } else { Leave::Reset(200 + random.below(written)) };
            }
        }
    }
    for _ in 0..random.below(3) {
        let some = random.below(20);
        world.run_or_quiet(move |clients| {
            clients.iter().map(|client| client.heard.len()).sum::<usize>() > some
        });
        let topic = random.below(topics);
        let hears_itself = random.chance(300);
        members.push(join(&world, &mut random, topic, hears_itself, true));
    }
    world.run_until_quiet();
    for topic in 0..topics {
        check(&members, &world.clients.borrow(), topic);
    }
    world.drain();
    for client in world.clients.borrow().iter() {
        if client.leave == Leave::Told {
            assert!(matches!(client.heard.last(), Some(Item::Close(1001 | SLOW_CONSUMER))), "a goodbye");
            assert_eq!(client.end, Some(Heard::End));
        }
    }
}

#[test]
fn broadcasts_arrive_in_one_order() {
    for_each_seed("broadcasts_arrive_in_one_order", |seed| broadcast(seed, false, Way::Raw));
}

/// Whatever the moment at which a subscriber moves, there is one order, without a hole or a message that comes twice.
#[test]
fn broadcasts_arrive_in_one_order_while_connections_move() {
    for_each_seed("broadcasts_arrive_in_one_order_while_connections_move", |seed| {
        broadcast_in(seed, false, Way::Raw, |world| move_some(world, seed));
    });
}

#[test]
fn broadcasts_through_tls_arrive_in_one_order() {
    // With every other seed, connections move.
    for_each_seed("broadcasts_through_tls_arrive_in_one_order", |seed| {
        broadcast_in(seed, true, Way::Raw, |world| {
            if !seed.is_multiple_of(2) {
                move_some(world, seed);
            }
        });
    });
}

#[test]
fn broadcasts_of_handlers_arrive_in_one_order() {
    // Every third seed through TLS.
    for_each_seed("broadcasts_of_handlers_arrive_in_one_order", |seed| {
        broadcast(seed, seed.is_multiple_of(3), Way::Handlers);
    });
}

/// A client that does not read gets 4008 after a gapless range, and costs the others nothing.
fn laggard(seed: u64, secured: bool, way: Way) {
    let mut random = Random::new(seed);
    // Portions that a reader keeps up with are two thirds of what it may lag.
    let world = world_with_lag(seed, random.between(1, 3), secured, way, 60_000);
    let mut members: Vec<Member> = (0..4).map(|_| join(&world, &mut random, 0, false, false)).collect();
    world.run_until_subscribed();
    {
        let mut clients = world.clients.borrow_mut();
        clients[0].hurry();
        clients[1].hurry();
        clients[2].eagerness = 0;
        clients[3].hurry();
    }
    // Noise, which is as long in every format.
    let noise: Vec<u8> = (0..2_500).flat_map(|_| random.next_u64().to_ne_bytes()).collect();
    let (mut sent, mut after) = (0, 0);
    // Until the log and the buffers of its socket, of whatever size, are full of what it does not read, and on.
    while after < 3 {
        assert!(sent < 40, "a laggard is never dropped");
        for _ in 0..2 {
            let mut payload = format!("{:06}{sent:06}", members[1].client).into_bytes();
            payload.extend_from_slice(&noise);
            let mut script = Vec::new();
            client::frame(&mut random, true, 2, &payload, &mut script);
            world.clients.borrow_mut()[1].script.extend(script);
            members[1].published.push((MessageKind::Binary, payload));
            sent += 1;
        }
        world.run(move |clients| clients[0].heard.len() == sent && clients[3].heard.len() == sent);
        after += usize::from(world.known().subscriptions < 4);
    }
    world.clients.borrow_mut()[2].hurry();
    world.run_until_quiet();
    check(&members, &world.clients.borrow(), 0);
    let clients = world.clients.borrow();
    assert_eq!(clients[2].heard.last(), Some(&Item::Close(SLOW_CONSUMER)));
    assert!(clients[2].heard.len() <= sent, "some are missing");
    assert_eq!(clients[3].heard.len(), sent, "a quick reader misses nothing");
    drop(clients);
    world.drain();
}

#[test]
fn a_laggard_is_told_and_costs_only_itself() {
    // Every other seed through TLS.
    for_each_seed("a_laggard_is_told_and_costs_only_itself", |seed| laggard(seed, seed % 2 == 1, Way::Raw));
}

#[test]
fn a_laggard_of_a_handler_is_told_and_costs_only_itself() {
    for_each_seed("a_laggard_of_a_handler_is_told_and_costs_only_itself", |seed| {
        laggard(seed, seed % 2 == 1, Way::Handlers);
    });
}

/// The texts that a client was sent.
fn texts(client: &Client) -> Vec<String> {
    let text = |item: &Item| match item {
        Item::Message(MessageKind::Text, payload) => String::from_utf8(payload.clone()).ok(),
        _ => None,
    };
    client.heard.iter().filter_map(text).collect()
}

/// Guests who join and greet in one call are not sent their own greetings, whichever shard owns the room, and everybody else who has
/// joined before is.
fn greetings(seed: u64) {
    let mut random = Random::new(seed);
    let world = world(seed, random.between(1, 3), seed.is_multiple_of(5), Way::Handlers);
    let host = world.add("/lobby/one?says=host");
    world.run_until_quiet();
    let guests: Vec<(usize, String)> = (0..random.between(2, 8))
        .map(|number| {
            let says = format!("guest{number}");
            let again = if random.chance(300) { "&again=1" } else { "" };
            (world.add(&format!("/lobby/one?says={says}{again}")), says)
        })
        .collect();
    world.run_until_quiet();
    for (guest, says) in &guests {
        let mut script = Vec::new();
        client::message(&mut random, MessageKind::Text, says.as_bytes(), &mut script, |_, _| {});
        world.clients.borrow_mut()[*guest].script.extend(script);
    }
    world.run_until_quiet();
    let clients = world.clients.borrow();
    let all = texts(&clients[host]);
    assert_eq!(all.len(), 2 * guests.len(), "each greets and speaks: {all:?}");
    for (guest, says) in &guests {
        let heard = texts(&clients[*guest]);
        assert!(!heard.contains(says), "{says} was sent its own message: {heard:?}");
        let others: Vec<String> = all.iter().filter(|text| *text != says).cloned().collect();
        assert!(others.ends_with(&heard), "{says}: {heard:?} of {others:?}");
        assert!(heard.len() >= guests.len() - 1, "{says} hears what the others say: {heard:?}");
    }
    drop(clients);
    world.drain();
}

#[test]
fn a_message_of_the_call_that_subscribes_is_not_sent_back() {
    for_each_seed("a_message_of_the_call_that_subscribes_is_not_sent_back", greetings);
}

/// The same clients publish the same messages on both ways, and nobody leaves: the accounts are the same.
fn accounts(seed: u64) {
    let of_way = |way| {
        let mut random = Random::new(seed);
        let world = world(seed, random.between(1, 3), seed.is_multiple_of(5), way);
        let mut members = Vec::new();
        for topic in 0..random.between(1, 2) {
            for _ in 0..random.between(1, 4) {
                let hears_itself = random.chance(500);
                members.push(join(&world, &mut random, topic, hears_itself, false));
            }
        }
        world.run_until_subscribed();
        for member in &mut members {
            let messages = random.below(8);
            write_script(&world, member, &mut random, messages, 2_000);
        }
        world.run_until_quiet();
        let known = world.known();
        world.drain();
        (known.topics, known.subscriptions, known.publications, known.deliveries)
    };
    let raw = of_way(Way::Raw);
    assert_eq!(raw, of_way(Way::Handlers));
    assert_eq!(raw.3.sent, raw.3.offered, "everything is sent");
}

#[test]
fn handlers_have_the_accounts_of_the_built_in_route() {
    for_each_seed("handlers_have_the_accounts_of_the_built_in_route", accounts);
}
