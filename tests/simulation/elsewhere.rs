//! Members that come and go at another node of a cluster, while sessions of this one move between its shards: what the sessions know of
//! the members in the end is right.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use echoring_broker::broadcast::following::FollowingSettings;
use echoring_broker::node_mail::{Inbox, StreamSender};
use echoring_cluster::{MembersPage, Message, NodeId, View};
use echoring_proto::buffer::Budget;
use echoring_proto::connection::ConnectionConfig;
use echoring_proto::limits::SECOND;
use echoring_runtime::driver::sim::Random;
use echoring_runtime::shard::{ControlMessage, Remote};
use echoring_server::{ClusterEvent, ClusterIdentity, LinkState, Service, ShardCommand};
use echoring_topics::{
    Access, ClientId, HubReport, Permission, Placement, Rules, TopicSettings, append_member,
};
use tokio::sync::mpsc::unbounded_channel;

use super::client::Client;
use super::service::with_broadcast;
use super::sessions::{Session, notices, text};
use super::topics::MESSAGE_BYTES_MAX;
use super::world::{Memory, World, config, move_some};
use super::{broadcast_settings, for_each_seed};

const OWN: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const KEY: u64 = 7;
const TOPICS: [&str; 3] = ["one", "two", "three"];
const SESSIONS: usize = 5;
/// Clients that the other node may have.
const GUESTS: usize = 6;
const ROUNDS: usize = 4;
/// What the other node tells in a round.
const CHANGES: usize = 25;

#[test]
fn members_of_another_node_are_known_to_those_who_move() {
    for_each_seed("members_of_another_node", |seed| {
        let mut random = Random::new(seed);
        let shards = random.between(2, 4);
        let inbox = Inbox::default();
        let world = world(seed, shards, &inbox);
        let other = OtherNode {
            placement: Placement::new(seed),
            shards: world.remotes(),
            inbox,
            there: TOPICS.map(|_| BTreeSet::new()),
            left: 0,
            random: Random::new(seed ^ 0x6e0d),
        };
        other.appear();
        let mut sessions: Vec<Session> = (0..SESSIONS).map(|_| Session::open(&world)).collect();
        world.clients.borrow_mut().iter_mut().for_each(Client::hurry);
        for topic in TOPICS {
            sessions.iter_mut().for_each(|session| session.subscribe(&world, &mut random, topic, None));
        }
        world.run_until_quiet();
        TOPICS.iter().for_each(|topic| other.send(topic, &Message::Follow { topic, after: None }));
        world.run_until_quiet();
        for topic in TOPICS {
            sessions.iter_mut().for_each(|session| session.members(&world, &mut random, topic, 100));
        }
        world.run_until_quiet();
        let other = Rc::new(RefCell::new(other));
        let beside = Rc::clone(&other);
        world.set_beside(move || beside.borrow_mut().change_now_and_then());
        move_some(&world, seed);
        for round in 0..ROUNDS {
            other.borrow_mut().left = CHANGES;
            world.run_until_quiet();
            world.pass(2 * SECOND);
            other.borrow_mut().left = 0;
            world.run_until_quiet();
            // Until everybody was told of the last changes.
            world.pass(SECOND);
            world.run_until_quiet();
            for (index, topic) in TOPICS.iter().enumerate() {
                let clients = world.clients.borrow();
                let own = sessions.iter().map(|session| own_name(&clients[session.client], topic));
                let expected: BTreeSet<String> =
                    own.chain(other.borrow().there[index].iter().map(|guest| guest_name(*guest))).collect();
                for session in &sessions {
                    let known = known(&clients[session.client], topic);
                    assert_eq!(
                        known, expected,
                        "{topic} in round {round}, as client {} knows it",
                        session.client
                    );
                }
            }
        }
    });
}

/// Shards of a node that owns all topics of a cluster of two.
fn world(seed: u64, shards: usize, inbox: &Inbox) -> Rc<World<Service>> {
    let access = Access { presence: Permission::Everybody, ..Access::default() };
    let rules = Rules::new(Vec::new(), TopicSettings { access, ..TopicSettings::default() });
    let connection = ConnectionConfig { max_message: MESSAGE_BYTES_MAX, ..config() };
    let mailbox_bytes = 2 * MESSAGE_BYTES_MAX as usize + 1024;
    let memory = Memory { budget_bytes: 256 << 20, refused: 0 };
    let topics = Budget::new(100);
    World::with_memory(seed, shards, connection, mailbox_bytes, false, memory, |shard| {
        let following = FollowingSettings {
            identity: ClusterIdentity { node: OWN, key: KEY },
            continues: false,
            // Nobody reads what this node tells the other.
            commands: unbounded_channel().0,
            inbox: inbox.clone(),
            relay: None,
            streams: StreamSender(unbounded_channel().0),
        };
        let settings = broadcast_settings(rules.clone(), &topics, MESSAGE_BYTES_MAX, seed, shard);
        with_broadcast(settings).with_cluster(following)
    })
}

/// The other node, which follows the topics.
struct OtherNode {
    placement: Placement,
    shards: Vec<Remote<ShardCommand, HubReport>>,
    inbox: Inbox,
    /// Its clients in each topic.
    there: [BTreeSet<u64>; TOPICS.len()],
    /// Changes that are left in this round.
    left: usize,
    random: Random,
}

impl OtherNode {
    fn appear(&self) {
        for shard in &self.shards {
            let events = vec![
                ClusterEvent::Joined(OTHER, Arc::new(LinkState::new(1))),
                ClusterEvent::View(View::new([OWN], KEY)),
                ClusterEvent::Open(true),
            ];
            shard.send(ControlMessage::Command(ShardCommand::Cluster(events)));
        }
    }

    /// Sends a message about a topic to its owner shard.
    fn send(&self, topic: &str, message: &Message<'_>) {
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        self.inbox.add(bytes.len());
        let event = ClusterEvent::Message(OTHER, bytes);
        let shard = self.placement.owner(topic, self.shards.len());
        self.shards[shard].send(ControlMessage::Command(ShardCommand::Cluster(vec![event])));
    }

    /// In some steps, a client comes or goes.
    fn change_now_and_then(&mut self) {
        if self.left == 0 || !self.random.chance(30) {
            return;
        }
        self.left -= 1;
        let (index, guest) = (self.random.below(TOPICS.len()), self.random.below(GUESTS) as u64 + 1);
        let there = &mut self.there[index];
        if !there.remove(&guest) {
            there.insert(guest);
        }
        let mut members = Vec::new();
        there.iter().for_each(|guest| append_member(&mut members, guest_id(*guest), ""));
        let (topic, count) = (TOPICS[index], there.len() as u64);
        let page = MembersPage { topic, after: None, last: None, count, members: &members };
        self.send(topic, &Message::Members(page));
    }
}

fn guest_id(guest: u64) -> ClientId {
    ClientId { node: OTHER.0, number: guest }
}

fn guest_name(guest: u64) -> String {
    guest_id(guest).to_string()
}

/// The name of a session's client among the members of a topic.
fn own_name(client: &Client, topic: &str) -> String {
    let (notices, _) = notices(client);
    let subscribed =
        notices.iter().find(|notice| text(notice, "type") == "subscribed" && notice["topic"] == topic);
    text(subscribed.expect("subscribed"), "client").to_owned()
}

/// The members of a topic, as a client knows them that follows what it is told.
fn known(client: &Client, topic: &str) -> BTreeSet<String> {
    let (notices, code) = notices(client);
    assert_eq!(code, None, "the connection stays");
    let mut known = BTreeSet::new();
    for notice in notices.iter().filter(|notice| notice["topic"] == topic) {
        match (text(notice, "type"), notice["event"].as_str()) {
            ("presence", Some("join")) => drop(known.insert(text(notice, "client").to_owned())),
            ("presence", Some("leave")) => drop(known.remove(text(notice, "client"))),
            ("members", _) => {
                if notice.get("after").is_none() {
                    known.clear();
                }
                let clients = notice["clients"].as_array().expect("a list");
                known.extend(clients.iter().map(|client| client.as_str().expect("a name").to_owned()));
            }
            _ => {}
        }
    }
    known
}
