//! Member lists: how soon members of a node that was killed have left, and links without room.

use std::collections::VecDeque;

use echoring_cluster::limits::{MEMBERS_STAY, MEMBERS_WAIT};
use echoring_cluster::{MembersPage, Message, NodeId, OwnerTable, Peers, Shard, View};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_topics::{ClientId, append_member};

use super::for_each_seed;
use super::store::{Store, subject_of};
use super::truth::Truth;
use super::world::World;

#[test]
fn members_of_a_killed_node_have_left_five_seconds_later() {
    for_each_seed("members_of_a_killed_node", |seed| {
        let mut world = World::new(seed, 2 + seed % 4, 1 + seed % 4, 10);
        world.watch(3 * SECOND);
        let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
        for topic in world.topics.clone() {
            for id in &ids {
                for _ in 0..world.random.below(4) {
                    let subscriber = world.new_subscriber(&topic);
                    world.subscribe(*id, subscriber);
                }
            }
        }
        world.watch(SECOND);
        world.check_all_members();
        let id = world.pick_node();
        world.kill(id);
        world.watch(5 * SECOND);
        world.check_all_members();
    });
}

const KEY: u64 = 7;
const OWNER: NodeId = NodeId(1);
const FOLLOWER: NodeId = NodeId(2);
const TOPIC: &str = "topic";
/// Many pages.
const MEMBERS: u64 = 200;

/// The links of one of two nodes.
#[derive(Default)]
struct Links {
    sent: VecDeque<Vec<u8>>,
    is_full: bool,
    is_lost: bool,
}

impl Peers for Links {
    fn send(&mut self, _: NodeId, message: &Message<'_>) {
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        self.sent.push_back(bytes);
    }

    fn knows(&self, _: NodeId) -> bool {
        !self.is_lost
    }

    fn has_room(&self, _: NodeId) -> bool {
        !self.is_full
    }
}

struct Half {
    node: NodeId,
    table: OwnerTable,
    store: Store,
    links: Links,
    now: Nanos,
}

impl Half {
    fn new(node: NodeId, truth: &Truth) -> Half {
        let table = OwnerTable::new(node, View::new([], KEY));
        let store = Store::new(node, truth.clone(), 10);
        let mut half = Half { node, table, store, links: Links::default(), now: 0 };
        half.with(|table, shard| table.handle_view(shard, View::new([OWNER], KEY)));
        half.with(|table, shard| table.handle_open(shard, true));
        half.with(|table, shard| table.subscribe(shard, TOPIC));
        half
    }

    fn with<R>(&mut self, call: impl FnOnce(&mut OwnerTable, &mut Shard<'_>) -> R) -> R {
        let Half { table, store, links, now, .. } = self;
        call(table, &mut Shard { store, peers: links, now: *now })
    }

    fn change(&mut self, number: u64, has_joined: bool) {
        let client = ClientId { node: self.node.0, number };
        let subject = subject_of(client);
        self.with(|table, shard| {
            table.change_presence(shard, TOPIC, client, has_joined.then_some(&*subject))
        });
    }

    fn pass(&mut self, time: Nanos) {
        for _ in 0..time / (10 * MILLISECOND) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.now += 10 * MILLISECOND;
        self.with(|table, shard| table.handle_time(shard));
        self.with(|table, shard| table.flush_members(shard));
    }

    fn take(&mut self, other: &mut Half) {
        while let Some(bytes) = other.links.sent.pop_front() {
            let message = Message::read(&bytes).expect("a message");
            let from = other.node;
            self.with(|table, shard| table.handle_message(shard, from, &message));
        }
        self.flush();
    }

    fn members(&self) -> (Vec<ClientId>, u64) {
        let topic = &self.store.topics[TOPIC];
        (topic.members.iter().copied().collect(), topic.count)
    }
}

fn exchange(a: &mut Half, b: &mut Half) {
    for _ in 0..10 {
        a.take(b);
        b.take(a);
    }
}

#[test]
fn what_a_link_has_no_room_for_is_made_up_by_pages() {
    let truth = Truth::default();
    let mut owner = Half::new(OWNER, &truth);
    (1..=MEMBERS).for_each(|number| owner.change(number, true));
    owner.flush();
    let mut follower = Half::new(FOLLOWER, &truth);
    owner.links.is_full = true;
    exchange(&mut owner, &mut follower);
    // Whoever subscribes there waits for the list.
    assert!(!follower.table.is_live(TOPIC) && follower.members().0.is_empty());
    owner.links.is_full = false;
    exchange(&mut owner, &mut follower);
    assert!(follower.table.is_live(TOPIC));
    assert_eq!(follower.members(), owner.members());
    for is_full in [true, false] {
        (owner.links.is_full, follower.links.is_full) = (is_full, is_full);
        for number in 1..=MEMBERS {
            owner.change(number, number % 3 == 0);
            follower.change(number, number % 5 == u64::from(is_full));
            if number.is_multiple_of(50) {
                owner.flush();
                follower.flush();
            }
        }
        let sent = owner.links.sent.len() + follower.links.sent.len();
        assert_eq!(sent == 0, is_full, "{sent} messages");
        if !is_full {
            exchange(&mut owner, &mut follower);
        }
    }
    assert_eq!(owner.members().1, MEMBERS / 3 + MEMBERS / 5);
    assert_eq!(follower.members(), owner.members());
}

#[test]
fn nodes_speak_for_their_own_members_only() {
    let truth = Truth::default();
    let (mut owner, mut follower) = (Half::new(OWNER, &truth), Half::new(FOLLOWER, &truth));
    owner.change(1, true);
    follower.change(1, true);
    exchange(&mut owner, &mut follower);
    assert_eq!(owner.members().1, 2);
    let foreign = ClientId { node: 3, number: 1 };
    let (mut members, mut changes) = (Vec::new(), vec![1, 1, 0, 0, 0, 0, 0, 0, 0]);
    append_member(&mut members, foreign, "subject-1");
    changes.extend_from_slice(&members);
    let before = owner.members();
    let page = MembersPage { topic: TOPIC, after: None, last: None, count: 0, members: &members };
    for message in [Message::Presence { topic: TOPIC, count: 0, changes: &changes }, Message::Members(page)] {
        // Nor does a node that does not follow.
        for from in [FOLLOWER, NodeId(3)] {
            owner.with(|table, shard| table.handle_message(shard, from, &message));
            assert!(!owner.members().0.contains(&foreign), "{message:?} of {from}");
        }
    }
    // That page has said that the follower has none.
    assert_eq!((before.1, owner.members().0.len()), (2, 1));
}

#[test]
fn subscribers_do_not_wait_for_ever_for_a_list() {
    let truth = Truth::default();
    let (mut owner, mut follower) = (Half::new(OWNER, &truth), Half::new(FOLLOWER, &truth));
    owner.change(1, true);
    owner.links.is_full = true;
    exchange(&mut owner, &mut follower);
    follower.pass(MEMBERS_WAIT / 2);
    assert!(!follower.table.is_live(TOPIC));
    follower.pass(MEMBERS_WAIT);
    assert!(follower.table.is_live(TOPIC) && follower.members().0.is_empty());
    owner.links.is_full = false;
    exchange(&mut owner, &mut follower);
    assert_eq!(follower.members(), owner.members());
}

#[test]
fn a_node_that_comes_back_in_time_has_lost_no_members() {
    let truth = Truth::default();
    for (is_lost, comes_back, stays) in [(false, true, true), (false, false, false), (true, false, false)] {
        let (mut owner, mut follower) = (Half::new(OWNER, &truth), Half::new(FOLLOWER, &truth));
        (1..=MEMBERS).for_each(|number| follower.change(number, true));
        exchange(&mut owner, &mut follower);
        assert_eq!(owner.members().1, MEMBERS);
        owner.links.is_lost = is_lost;
        owner.with(|table, shard| table.handle_reset(shard, FOLLOWER));
        follower.with(|table, shard| table.handle_reset(shard, OWNER));
        owner.pass(MEMBERS_STAY / 2);
        assert_eq!(owner.members().1 == MEMBERS, !is_lost, "a second, if there is a link");
        if comes_back {
            exchange(&mut owner, &mut follower);
        }
        // They leave page by page.
        owner.pass(3 * MEMBERS_STAY);
        assert_eq!(owner.members().1, if stays { MEMBERS } else { 0 });
        assert_eq!(owner.members().0.len() as u64, owner.members().1);
    }
}
