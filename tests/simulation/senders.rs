//! Senders of other threads, and of other handlers: what they accept arrives in order, at its own connection only, unless that
//! closes, which they report.

use std::rc::Rc;
use std::sync::{Arc, Mutex};

use echoring_proto::limits::QUEUE_BYTES_DEFAULT;
use echoring_runtime::driver::sim::Random;
use echoring_server::{
    Disposition, Handler, Message, Path, Remote, RemoteSender, Result, Route, Routes, SendError, Service,
};

use super::client::{Item, Leave, MessageKind, message};
use super::for_each_seed;
use super::service::service;
use super::world::{World, config};

/// The senders of all connections, in the order in which they opened, each with the name in its path.
type Senders = Arc<Mutex<Vec<(String, RemoteSender)>>>;

struct Giver {
    name: String,
    senders: Senders,
}

impl Handler for Giver {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        self.senders.lock().expect("no panic").push((self.name.clone(), remote.sender()));
        Ok(())
    }

    /// A message goes to all connections, of all shards, as far as they take it.
    fn message(&mut self, _: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        for (_, sender) in self.senders.lock().expect("no panic").iter() {
            match sender.try_send(message) {
                Ok(()) | Err(SendError::Closed) => {}
                Err(error) => panic!("{error}: the messages of this test have room"),
            }
        }
        Ok(Disposition::Done)
    }
}

fn world(seed: u64, shards: usize, senders: &Senders) -> Rc<World<Service>> {
    let mut routes = Routes::default();
    let senders = Arc::clone(senders);
    routes.add(Route::new("/give/{name}", move |Path(name): Path<String>| Giver {
        name,
        senders: Arc::clone(&senders),
    }));
    let world = World::new(seed, shards, config(), 4 << 20, seed.is_multiple_of(4), |_| {
        service(config().max_message, QUEUE_BYTES_DEFAULT).with_routes(routes.clone())
    });
    world.for_each_application(|service, remote| service.set_shard(remote));
    world
}

fn of_name<'a>(senders: &'a [(String, RemoteSender)], name: &str) -> &'a RemoteSender {
    &senders.iter().find(|(own, _)| own == name).expect("opened").1
}

/// Other threads send to slow clients, of which some leave: a connection gets what was accepted for it, in order, up to its end.
fn accepted(seed: u64) {
    let mut random = Random::new(seed);
    let senders = Senders::default();
    let world = world(seed, random.between(1, 3), &senders);
    let clients = random.between(1, 4);
    for client in 0..clients {
        world.add(&format!("/give/{client}"));
    }
    world.run(|clients| clients.iter().all(|client| client.decoder.opened));
    let mut accepted: Vec<Vec<Vec<u8>>> = vec![Vec::new(); clients];
    let mut told_full = 0;
    for _ in 0..random.between(1, 6) {
        for (client, accepted) in accepted.iter_mut().enumerate() {
            let sender = of_name(&senders.lock().expect("no panic"), &client.to_string()).clone();
            for _ in 0..random.below(60) {
                let bytes = [0, 10, 1_000, 20_000][random.below(4)];
                let mut payload = accepted.len().to_be_bytes().to_vec();
                payload.resize(8 + bytes, client as u8);
                match sender.try_send(payload.clone()) {
                    Ok(()) => accepted.push(payload),
                    Err(SendError::Full) => told_full += 1,
                    Err(SendError::Closed) => assert!(sender.is_closed()),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        if random.chance(200) {
            let leaving = random.below(clients);
            world.clients.borrow_mut()[leaving].leave = Leave::Fin;
        }
        let some = random.below(100_000);
        world.pass(some as u64);
    }
    world.run_until_quiet();
    let senders = senders.lock().expect("no panic").clone();
    for (at, (client, accepted)) in world.clients.borrow().iter().zip(&accepted).enumerate() {
        let sender = of_name(&senders, &at.to_string());
        let heard: Vec<&Vec<u8>> = client
            .heard
            .iter()
            .filter_map(|item| match item {
                Item::Message(MessageKind::Binary, payload) => Some(payload),
                Item::Close(_) => None,
                other => panic!("{other:.40?}"),
            })
            .collect();
        assert!(heard.iter().copied().eq(&accepted[..heard.len()]), "in order, and no others");
        if client.leave == Leave::Told && client.end.is_none() {
            assert_eq!(heard.len(), accepted.len(), "what was accepted is sent");
            assert_eq!((sender.unsent(), sender.is_closed()), (0, false));
            assert!(sender.close(echoring_proto::CloseCode(4000), "over"));
            assert!(!sender.close(echoring_proto::CloseCode(4001), "again"));
            assert_eq!(sender.try_send("late"), Err(SendError::Closed));
        }
    }
    let _ = told_full;
    world.run_until_quiet();
    for (at, client) in world.clients.borrow().iter().enumerate() {
        let sender = of_name(&senders, &at.to_string());
        if client.leave == Leave::Told {
            assert_eq!(client.heard.last(), Some(&Item::Close(4000)), "behind everything");
        }
        assert!(sender.is_closed(), "the end of a connection is reported");
        assert_eq!(sender.try_send("late"), Err(SendError::Closed));
    }
    world.drain();
}

#[test]
fn what_a_sender_accepts_arrives_in_order() {
    for_each_seed("what_a_sender_accepts_arrives_in_order", accepted);
}

/// A peer that reads nothing fills the bound of its sender, and once it reads there is room again.
fn full(seed: u64) {
    let mut random = Random::new(seed);
    let senders = Senders::default();
    let world = world(seed, random.between(1, 2), &senders);
    world.add("/give/0");
    world.run(|clients| clients[0].decoder.opened);
    world.clients.borrow_mut()[0].eagerness = 0;
    let sender = senders.lock().expect("no panic")[0].1.clone();
    let payload = vec![1; random.between(1, 8_000)];
    // The bound, the queue of the connection and the buffers of its socket are finite.
    let mut accepted = 0_usize;
    let mut rounds = 0;
    loop {
        let before = accepted;
        while sender.try_send(payload.clone()).is_ok() {
            accepted += 1;
            assert!(accepted < 200_000, "never full");
        }
        assert_eq!(sender.try_send(payload.clone()), Err(SendError::Full));
        rounds = if accepted == before { rounds + 1 } else { 0 };
        if rounds == 5 {
            break;
        }
        world.pass(1_000_000);
    }
    assert!(sender.unsent() > 0 && sender.unsent() <= accepted as u64);
    world.clients.borrow_mut()[0].hurry();
    world.run(move |clients| clients[0].heard.len() == accepted);
    world.run_until_quiet();
    assert_eq!(sender.unsent(), 0);
    assert_eq!(sender.try_send("again"), Ok(()));
    world.run(move |clients| clients[0].heard.len() == accepted + 1);
    world.drain();
}

#[test]
fn a_peer_that_reads_nothing_fills_its_sender_and_no_memory() {
    for_each_seed("a_peer_that_reads_nothing_fills_its_sender_and_no_memory", full);
}

/// A sender outlives its connection, whose slot another one takes: that one hears nothing of it.
fn reused(seed: u64) {
    let mut random = Random::new(seed);
    let senders = Senders::default();
    let world = world(seed, 1, &senders);
    let first = random.between(1, 4);
    for client in 0..first {
        world.add(&format!("/give/{client}"));
    }
    world.run(|clients| clients.iter().all(|client| client.decoder.opened));
    let old = senders.lock().expect("no panic").clone();
    // Mail is on its way while the connections end.
    for (_, sender) in &old {
        for _ in 0..random.below(3) {
            sender.try_send("old").expect("room");
        }
    }
    world.clients.borrow_mut().iter_mut().for_each(|client| client.leave = Leave::Fin);
    if random.chance(500) {
        let some = random.below(200_000);
        world.pass(some as u64);
    }
    for (_, sender) in &old {
        // Whether it still counts as open or not.
        let _ = sender.try_send("old");
    }
    for client in first..2 * first {
        world.add(&format!("/give/{client}"));
    }
    world.run(|clients| clients.iter().all(|client| client.decoder.opened));
    for (_, sender) in &old {
        let _ = sender.try_send("old");
        sender.close(echoring_proto::CloseCode(4000), "old");
    }
    let new = senders.lock().expect("no panic").split_off(first);
    for (name, sender) in &new {
        sender.try_send(name.clone()).expect("room");
    }
    world.run_until_quiet();
    assert!(old.iter().all(|(_, sender)| sender.is_closed()));
    for (name, sender) in &new {
        let client: usize = name.parse().expect("a number");
        let own = Item::Message(MessageKind::Text, name.as_bytes().to_vec());
        assert_eq!(world.clients.borrow()[client].heard, [own], "its own, and nothing else");
        assert!(!sender.is_closed());
    }
    world.drain();
}

#[test]
fn a_sender_never_reaches_another_connection() {
    for_each_seed("a_sender_never_reaches_another_connection", reused);
}

/// Handlers send to the connections of all shards, each in the order of its own messages.
fn across(seed: u64) {
    let mut random = Random::new(seed);
    let senders = Senders::default();
    let world = world(seed, random.between(1, 3), &senders);
    let clients = random.between(1, 4);
    for client in 0..clients {
        world.add(&format!("/give/{client}"));
    }
    world.run(|clients| clients.iter().all(|client| client.decoder.opened));
    let each = random.between(1, 20);
    for client in 0..clients {
        let mut script = Vec::new();
        for number in 0..each {
            let payload = format!("{client} {number}");
            message(&mut random, MessageKind::Text, payload.as_bytes(), &mut script, |_, _| {});
        }
        world.clients.borrow_mut()[client].script.extend(script);
    }
    let all = clients * each;
    world.run(move |clients| clients.iter().all(|client| client.heard.len() == all));
    for client in world.clients.borrow().iter() {
        for publisher in 0..clients {
            let prefix = format!("{publisher} ");
            let numbers = client.heard.iter().filter_map(|item| match item {
                Item::Message(_, payload) => std::str::from_utf8(payload).ok()?.strip_prefix(&prefix),
                other => panic!("{other:?}"),
            });
            assert!(numbers.eq((0..each).map(|number| number.to_string())), "in order");
        }
    }
    world.drain();
}

#[test]
fn handlers_send_to_connections_of_all_shards() {
    for_each_seed("handlers_send_to_connections_of_all_shards", across);
}
