//! One room over all shards: every member sees one order of who comes, goes and talks, from its own coming on;
//! nothing of it is lost or doubled, and private messages reach their two.

use echoring::driver::sim::{Heard, Random};
use echoring::limits::{CHAT_BURST, QUEUE_BYTES_DEFAULT};
use echoring::protocol::handshake::OriginPolicy;
use echoring::server::Service;
use serde_json::{Value, json};

use super::client::{self, Client, Item, Kind, Leave};
use super::for_each_seed;
use super::world::{World, config};

const MESSAGE_BYTES_MAX: u64 = 8 * 1024;
/// Little more than one message between shards needs, so that mailboxes are full most of the time.
const MAILBOX_BYTES: usize = 12 * 1024;
const WITNESS: &str = "witness";

type Chat = World<Service>;

/// A client of the room, and what it said.
struct Member {
    client: usize,
    name: String,
    /// Of each message, whether it is private and its text, which begins with the name and a number.
    said: Vec<(bool, String)>,
}

fn world(seed: u64, shards: usize) -> std::rc::Rc<Chat> {
    let config = echoring::connection::Config {
        message_bytes_max: MESSAGE_BYTES_MAX,
        queue_bytes: QUEUE_BYTES_DEFAULT,
        ..config()
    };
    World::new(seed, shards, config, MAILBOX_BYTES, false, |_| {
        Service::new(OriginPolicy::SameHost, MESSAGE_BYTES_MAX, QUEUE_BYTES_DEFAULT)
    })
}

fn say(world: &Chat, random: &mut Random, client: usize, message: &Value) {
    let mut script = Vec::new();
    client::message(random, Kind::Text, message.to_string().as_bytes(), &mut script, |_, _| {});
    world.clients.borrow_mut()[client].script.extend(script);
}

fn join(world: &Chat, random: &mut Random, name: &str) -> Member {
    let client = world.add("/chat");
    say(world, random, client, &json!({"type": "join", "content": name, "ip": "6.6.6.6", "from": "nobody"}));
    Member { client, name: name.into(), said: Vec::new() }
}

fn talk(world: &Chat, random: &mut Random, member: &mut Member) {
    // The join is a message as well.
    for number in 0..random.below(CHAT_BURST as usize - 1) {
        let padding = "x".repeat([random.below(50), random.below(2_000)][random.below(2)]);
        let text = format!("{}:{number}:{padding}", member.name);
        let private = random.chance(300);
        let message = match private {
            true => json!({"type": "private", "user": WITNESS, "content": text}),
            false => json!({"type": "broadcast", "content": text}),
        };
        say(world, random, member.client, &message);
        member.said.push((private, text));
    }
    if random.chance(300) {
        let written = world.clients.borrow()[member.client].script.len();
        world.clients.borrow_mut()[member.client].leave =
            if random.chance(500) { Leave::Fin } else { Leave::Reset(random.below(written + 200)) };
    }
}

fn field<'a>(message: &'a Value, name: &str) -> &'a str {
    message[name].as_str().unwrap_or_else(|| panic!("{message} has no {name}"))
}

/// Everything that a client was told, in order.
fn told(client: &Client) -> Vec<Value> {
    let message = |item: &Item| match item {
        Item::Message(Kind::Text, text) => Some(serde_json::from_slice(text).expect("JSON")),
        Item::Close(code) => {
            assert_eq!(*code, 1001, "nobody is slow here");
            None
        }
        other => panic!("{other:.40?} in a chat room"),
    };
    client.heard.iter().filter_map(message).collect()
}

/// What everyone is told: kind, sender and text.
fn public(told: &[Value]) -> Vec<(String, String, String)> {
    told.iter()
        .filter(|message| matches!(field(message, "type"), "join" | "leave" | "broadcast"))
        .map(|message| {
            let part = |name| field(message, name).to_owned();
            (part("type"), part("from"), part("content"))
        })
        .collect()
}

fn stayed(client: &Client) -> bool {
    client.leave == Leave::Told && client.end.is_none()
}

/// Who is there after `order`.
fn roster(order: &[(String, String, String)]) -> Vec<&str> {
    let mut there = Vec::new();
    for (kind, from, _) in order {
        match kind.as_str() {
            "join" => there.push(from.as_str()),
            "leave" => there.retain(|name| name != from),
            _ => {}
        }
    }
    there
}

/// Every client's own address, from what it was greeted with.
fn own_address(told: &[Value]) -> Option<String> {
    let greeting = told.first()?;
    assert_eq!(field(greeting, "type"), "handshake");
    let ip = field(greeting, "ip").to_owned();
    assert!(ip.starts_with("10."), "a simulated address: {ip}");
    assert!(told.iter().all(|message| field(message, "ip") == ip), "always its own");
    Some(ip)
}

/// The witness hears everything: its order is the room's.
fn check(members: &[Member], clients: &[Client]) {
    let witness = told(&clients[members[0].client]);
    let order = public(&witness);
    assert_eq!(order[0], ("join".into(), WITNESS.into(), String::new()));
    for member in members {
        let client = &clients[member.client];
        let heard = told(client);
        own_address(&heard);
        check_talk(member, &witness, stayed(client));
        if stayed(client) {
            let receipts: Vec<&str> = heard
                .iter()
                .filter(|message| {
                    field(message, "type") == "private" && field(message, "from") == member.name
                })
                .map(|message| field(message, "content"))
                .collect();
            let whispered = member.said.iter().filter(|(private, _)| *private).map(|(_, text)| text.as_str());
            assert!(receipts.into_iter().eq(whispered), "the sender has a receipt for each private message");
        }
        check_order(member, &heard, &order, stayed(client));
    }
    let mut there: Vec<&str> = roster(&order);
    there.sort_unstable();
    let mut expected: Vec<&str> = members
        .iter()
        .filter(|member| stayed(&clients[member.client]))
        .map(|member| member.name.as_str())
        .collect();
    expected.sort_unstable();
    assert_eq!(there, expected, "who is gone was said to be");
}

/// What the witness heard of a member: all of it or, of one that left, the first part, in its order.
fn check_talk(member: &Member, witness: &[Value], stayed: bool) {
    let of_member = |message: &&Value| {
        matches!(field(message, "type"), "broadcast" | "private") && field(message, "from") == member.name
    };
    let mut heard = 0;
    for (message, (private, text)) in witness.iter().filter(of_member).zip(&member.said) {
        assert_eq!(field(message, "content"), text, "first in, first out");
        assert_eq!(field(message, "type") == "private", *private);
        assert_eq!(field(message, "user"), if *private { WITNESS } else { "" });
        assert_eq!(field(message, "FromIp"), "", "members do not see one another's addresses");
        heard += 1;
    }
    assert_eq!(heard, witness.iter().filter(of_member).count(), "nothing that was not said");
    assert!(!stayed || heard == member.said.len(), "{heard} of {} arrived", member.said.len());
}

/// A member hears an unbroken stretch of the order that begins with its own coming.
fn check_order(member: &Member, heard: &[Value], order: &[(String, String, String)], stayed: bool) {
    let mine = public(heard);
    let Some(first) = mine.first() else {
        assert!(!stayed, "{} came, and never heard of it", member.name);
        return;
    };
    assert_eq!((first.0.as_str(), first.1.as_str()), ("join", member.name.as_str()));
    let from = order.iter().position(|event| event == first).expect("the witness heard of it");
    assert!(order[from..].starts_with(&mine), "{}: {mine:?} in {order:?}", member.name);
    assert!(!stayed || order.len() - from == mine.len(), "{} misses the end", member.name);
    // The list that follows is right for its place.
    let own_join = heard.iter().position(|message| field(message, "type") == "join");
    if let Some(users) = heard.get(own_join.expect("found above") + 1) {
        assert_eq!(field(users, "type"), "users");
        assert_eq!(field(users, "content").split('\n').collect::<Vec<_>>(), roster(&order[..=from]));
    }
}

fn chat(seed: u64) {
    let mut random = Random::new(seed);
    let world = world(seed, random.between(1, 3));
    let mut members = vec![join(&world, &mut random, WITNESS)];
    world.clients.borrow_mut()[0].hurry();
    world.run(|clients| clients[0].heard.len() == 3);
    // One who wants the witness's name is told so, and takes another.
    let rival = join(&world, &mut random, "WITNESS");
    world.run(|clients| clients[1].heard.len() == 2);
    let refusal = told(&world.clients.borrow()[rival.client]).pop().expect("an answer");
    assert_eq!((field(&refusal, "type"), field(&refusal, "content")), ("error", "this name is taken"));
    say(&world, &mut random, rival.client, &json!({"type": "join", "content": "rival"}));
    world.run(|clients| clients[1].heard.len() == 4);
    world.clients.borrow_mut()[rival.client].heard.remove(1);
    members.push(Member { name: "rival".into(), ..rival });

    for number in 0..random.between(1, 4) {
        let mut member = join(&world, &mut random, &format!("member {number}"));
        talk(&world, &mut random, &mut member);
        members.push(member);
        if random.chance(300) {
            let some = random.below(30);
            world.run_or_quiet(move |clients| clients[0].heard.len() > some);
        }
    }
    talk_on(&world, &mut random, &mut members[0]);
    world.run_until_quiet();
    check(&members, &world.clients.borrow());
    world.drain();
    for client in world.clients.borrow().iter() {
        if client.leave == Leave::Told {
            assert_eq!(client.heard.last(), Some(&Item::Close(1001)), "a goodbye");
            assert_eq!(client.end, Some(Heard::End));
        }
    }
}

/// The witness says something, too; only to everyone.
fn talk_on(world: &Chat, random: &mut Random, witness: &mut Member) {
    for number in 0..random.below(5) {
        let text = format!("{WITNESS}:{number}");
        say(world, random, witness.client, &json!({"type": "broadcast", "content": text}));
        witness.said.push((false, text));
    }
}

#[test]
fn all_members_see_one_order() {
    for_each_seed("all_members_see_one_order", chat);
}
