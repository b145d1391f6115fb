//! Links that lose packets, messages as bytes, and members.

mod clock;
mod suspended;

use proptest::prelude::*;

use echoring_proto::Plain as _;
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_proto::random::SplitMix64;
use echoring_topics::{ClientId, Position};

use crate::cluster::{Cluster, ClusterConfig, Destination, Event, Phase, PlainCluster};
use crate::heartbeat::{Digests, Heartbeat, VERSION};
use crate::limits::{HEARTBEAT_INTERVAL_DEFAULT, JOIN_DELAY, MEMBER_TIMEOUT_DEFAULT, RETRANSMIT_AFTER_MIN};
use crate::link::{Delivery, Link, LinkFigures, Packet};
use crate::message::{MemberChange, MembersPage, Message, Outcome, Transfer, entries, values};
use crate::outgoing::{Decisions, Outgoing};
use crate::view::{NodeId, fingerprint};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const D: NodeId = NodeId(4);
const E: NodeId = NodeId(5);

/// Two ends of a link, and what each has received.
struct Pair {
    ends: [Link; 2],
    received: [Vec<u32>; 2],
    resets: [u32; 2],
    sessions: u64,
    now: Nanos,
}

impl Pair {
    fn new() -> Pair {
        let ends = [Link::new(1), Link::new(2)];
        Pair { ends, received: [Vec::new(), Vec::new()], resets: [0; 2], sessions: 2, now: 0 }
    }

    fn push(&mut self, end: usize, number: u32) {
        self.ends[end].push(number.to_le_bytes().to_vec());
    }

    /// Carries what both ends have to send. `survives` decides about each packet.
    fn carry(&mut self, mut survives: impl FnMut() -> bool) {
        for (from, to, end) in [(A, B, 0), (B, A, 1)] {
            let mut packets = Vec::new();
            let mut bytes = Vec::new();
            while self.ends[end].poll(from, to, self.now, &mut bytes) {
                packets.push(std::mem::take(&mut bytes));
            }
            for packet in packets.iter().filter(|_| survives()) {
                self.arrive(1 - end, packet);
            }
        }
        self.now += 10 * MILLISECOND;
    }

    fn arrive(&mut self, end: usize, bytes: &[u8]) {
        let packet = Packet::read(bytes).expect("a packet");
        match self.ends[end].handle(&packet, &mut self.sessions, self.now) {
            Delivery::Nothing => {}
            Delivery::Reset => self.resets[end] += 1,
            Delivery::Messages(list) => {
                let numbers =
                    entries(list).map(|entry| u32::from_le_bytes(entry.try_into().expect("a number")));
                self.received[end].extend(numbers);
            }
        }
    }
}

#[test]
fn messages_arrive_once_and_in_order_although_packets_are_lost() {
    for seed in 0..200 {
        let mut random = SplitMix64::new(seed);
        let mut pair = Pair::new();
        for number in 0..100 {
            pair.push(0, number);
            pair.push(1, number);
            pair.carry(|| random.below(3) > 0);
        }
        // Every timer goes off often enough.
        for _ in 0..1_000 {
            pair.carry(|| true);
        }
        assert_eq!(pair.received, [(0..100).collect::<Vec<_>>(), (0..100).collect()], "seed {seed}");
        assert_eq!(pair.resets, [0, 0], "seed {seed}");
        assert!(pair.ends.iter().all(Link::is_idle), "seed {seed}");
    }
}

#[test]
fn a_side_that_begins_anew_resets_the_other_once_and_both_go_on() {
    let mut pair = Pair::new();
    pair.push(0, 1);
    (0..5).for_each(|_| pair.carry(|| true));
    pair.ends[1] = Link::new(9);
    pair.sessions = 9;
    pair.push(0, 2);
    (0..300).for_each(|_| pair.carry(|| true));
    assert_eq!(pair.resets, [1, 0]);
    pair.push(0, 3);
    pair.push(1, 4);
    (0..5).for_each(|_| pair.carry(|| true));
    assert_eq!(pair.received, [vec![4], vec![1, 3]]);
}

#[test]
fn a_late_packet_of_an_earlier_session_changes_nothing() {
    let mut pair = Pair::new();
    (0..3).for_each(|_| pair.carry(|| true));
    pair.push(0, 1);
    let mut late = Vec::new();
    assert!(pair.ends[0].poll(A, B, pair.now, &mut late));
    pair.ends[0] = Link::new(7);
    pair.sessions = 7;
    (0..200).for_each(|_| pair.carry(|| true));
    pair.arrive(1, &late);
    pair.push(0, 2);
    (0..3).for_each(|_| pair.carry(|| true));
    assert_eq!(pair.received[1], [2]);
}

#[test]
fn publications_that_were_given_up_take_their_outcomes_with_them() {
    let mut outgoing = Outgoing::default();
    for (ticket, until) in [(1, 10), (2, 20), (3, 30)] {
        outgoing.push(ticket, b"x", until);
    }
    let batch = 1;
    outgoing.send(A, batch);
    outgoing.push(4, b"x", 40);
    let mut decided = Decisions { waiting_bytes: 4, ..Decisions::default() };
    outgoing.expire(10, &mut decided);
    let positions = (1..=3).map(|offset| Outcome::Accepted(Position { epoch: 5, offset }));
    outgoing.answer(B, batch, positions.clone(), &mut decided);
    outgoing.answer(A, batch, positions, &mut decided);
    let at = |offset| Outcome::Accepted(Position { epoch: 5, offset });
    assert_eq!(decided.outcomes, [(1, Outcome::Uncertain), (2, at(2)), (3, at(3))]);
    outgoing.expire(40, &mut decided);
    assert_eq!((decided.outcomes.back(), decided.waiting_bytes), (Some(&(4, Outcome::Unreachable)), 0));
    assert!(outgoing.is_empty());
}

/// Two ends that have sent each other enough for an estimate of the round trip, which takes no step.
fn warm() -> Pair {
    let mut pair = Pair::new();
    for number in 0..10 {
        (0..2).for_each(|end| pair.push(end, number));
        pair.carry(|| true);
    }
    pair.received = [Vec::new(), Vec::new()];
    pair
}

/// Carries until a message has arrived, while another one is sent at each interval, and returns the time that it took.
fn await_under_load(pair: &mut Pair, number: u32, interval: Nanos) -> Nanos {
    let began = pair.now;
    let mut next = began + interval;
    while !pair.received[1].contains(&number) {
        if pair.now >= next {
            next += interval;
            pair.push(0, 1_000);
        }
        pair.carry(|| true);
        assert!(pair.now < began + 60 * SECOND, "never, with a message each {} ms", interval / MILLISECOND);
    }
    pair.now - began
}

#[test]
fn a_loss_is_repaired_in_a_round_trip_however_busy_the_link_is() {
    for interval in [10, 20, 50, 90, 100, 500, 900].map(|time| time * MILLISECOND) {
        let mut pair = warm();
        pair.push(0, 77);
        pair.carry(|| false);
        let took = await_under_load(&mut pair, 77, interval);
        // The next message shows the loss, or else the timer goes off.
        let most = interval.min(RETRANSMIT_AFTER_MIN) + 20 * MILLISECOND;
        assert!(took <= most, "{} ms, with a message each {} ms", took / MILLISECOND, interval / MILLISECOND);
        (0..5).for_each(|_| pair.carry(|| true));
        assert!(pair.ends[0].is_idle() && pair.resets == [0, 0]);
    }
}

#[test]
fn sending_more_does_not_push_the_timer_on() {
    let mut pair = warm();
    let mut sent_again = Vec::new();
    for number in 10..110 {
        pair.push(0, number);
        let deadline = pair.ends[0].deadline();
        pair.carry(|| false);
        let figures = pair.ends[0].figures(pair.now);
        if figures.retransmissions > sent_again.len() as u64 {
            sent_again.push(figures.unacknowledged_age - 10 * MILLISECOND);
        } else if number > 10 {
            assert_eq!(pair.ends[0].deadline(), deadline, "message {number} has moved the timer");
        }
    }
    // The oldest packet only, and each time after twice the time before.
    assert_eq!(sent_again, [1, 3, 7].map(|times| times * RETRANSMIT_AFTER_MIN));
    // The next message shows that those before were lost.
    pair.push(0, 110);
    (0..3).for_each(|_| pair.carry(|| true));
    assert_eq!(pair.received[1], Vec::from_iter(10..111));
    let LinkFigures { unacknowledged_bytes, unacknowledged_age, .. } = pair.ends[0].figures(pair.now);
    assert_eq!((unacknowledged_bytes, unacknowledged_age), (0, 0));
}

#[test]
fn an_acknowledgement_and_a_new_connection_end_the_back_off() {
    let back_off = || {
        let mut pair = warm();
        let before = pair.ends[0].figures(pair.now).retransmissions;
        pair.push(0, 76);
        while pair.ends[0].figures(pair.now).retransmissions < before + 3 {
            pair.carry(|| false);
        }
        pair
    };
    let most = RETRANSMIT_AFTER_MIN + 20 * MILLISECOND;
    let mut pair = back_off();
    let took = await_under_load(&mut pair, 76, 60 * SECOND);
    assert!(took > 7 * RETRANSMIT_AFTER_MIN, "{} ms", took / MILLISECOND);
    (0..2).for_each(|_| pair.carry(|| true));
    pair.push(0, 77);
    pair.carry(|| false);
    let took = await_under_load(&mut pair, 77, 60 * SECOND);
    assert!(took <= most, "{} ms after an acknowledgement", took / MILLISECOND);

    let mut pair = back_off();
    pair.ends[0].send_again(pair.now);
    pair.carry(|| false);
    let took = await_under_load(&mut pair, 76, 60 * SECOND);
    assert!(took <= most, "{} ms with a new connection", took / MILLISECOND);
}

#[test]
fn many_packets_that_show_one_loss_have_it_repaired_once() {
    let mut pair = warm();
    let before = pair.ends[0].figures(pair.now).retransmissions;
    let mut answers = Vec::new();
    for number in 10..30 {
        pair.push(0, number);
        let mut bytes = Vec::new();
        assert!(pair.ends[0].poll(A, B, pair.now, &mut bytes));
        if number > 10 {
            pair.arrive(1, &bytes);
            let mut answer = Vec::new();
            assert!(pair.ends[1].poll(B, A, pair.now, &mut answer), "each is answered at once");
            answers.push(answer);
        }
    }
    // One answer after the other arrives, and what is sent again is on its way.
    let mut again = Vec::new();
    for answer in answers {
        pair.arrive(0, &answer);
        let mut bytes = Vec::new();
        while pair.ends[0].poll(A, B, pair.now, &mut bytes) {
            again.push(std::mem::take(&mut bytes));
        }
    }
    again.iter().for_each(|bytes| pair.arrive(1, bytes));
    assert_eq!(pair.received[1], Vec::from_iter(10..30));
    assert_eq!(pair.ends[0].figures(pair.now).retransmissions - before, 20, "each once");
}

#[test]
fn a_node_with_a_new_connection_gets_and_sends_what_was_lost_at_once() {
    for end in [0, 1] {
        let mut pair = warm();
        (0..2).for_each(|end| pair.push(end, 77));
        pair.carry(|| false);
        pair.ends[end].send_again(pair.now);
        (0..2).for_each(|_| pair.carry(|| true));
        assert_eq!(pair.received, [[77], [77]], "the connection of end {end} is new");
    }
}

#[test]
fn messages_that_wait_for_a_session_to_be_known_have_an_age() {
    let mut link = Link::new(1);
    link.push(vec![0; 10]);
    let mut bytes = Vec::new();
    for now in [3, 7] {
        link.poll(A, B, now * SECOND, &mut bytes);
        let LinkFigures { unacknowledged_bytes, unacknowledged_age, .. } = link.figures(now * SECOND);
        assert_eq!((unacknowledged_bytes, unacknowledged_age), (10, (now - 3) * SECOND));
    }
}

fn messages() -> Vec<Message<'static>> {
    let position = Position { epoch: 77, offset: 12 };
    let part = Transfer {
        topic: "t",
        head: position,
        begins: true,
        ends: false,
        first: 3,
        entries: b"entries",
        rest: b"rest",
    };
    let client = |number| Some(ClientId { node: 5, number });
    let members = b"\x05\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x05\0alice";
    let page = MembersPage { topic: "t", after: client(2), last: client(3), count: 9, members };
    vec![
        Message::View { view: 1, number: 2 },
        Message::Settled { number: 3 },
        Message::Publish { topic: "prices.EUR/USD", batch: 4, entries: b"abc" },
        Message::Published { topic: "t", batch: 4, outcomes: b"abc" },
        Message::NotOwner { topic: "t", batch: 0, owner: None },
        Message::NotOwner { topic: "t", batch: 9, owner: Some(B) },
        Message::NoStorage { topic: "t" },
        Message::Follow { topic: "t", after: None },
        Message::Follow { topic: "t", after: Some(position) },
        Message::Following { topic: "t", start: position, head: 40, rest: b"rest" },
        Message::Deliver { topic: "t", epoch: 77, first: 13, entries: b"" },
        Message::Unfollow { topic: "t" },
        Message::Released { topic: "t", owner: A },
        Message::Taken { topic: "t" },
        Message::Diverged { topic: "t" },
        Message::Transfer(part),
        Message::Members(page),
        Message::Members(MembersPage { after: None, last: None, ..page }),
        Message::Presence { topic: "t", count: 3, changes: b"changes" },
    ]
}

#[test]
fn messages_are_read_as_they_were_written_and_not_when_they_are_cut() {
    for message in messages() {
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        assert_eq!(Message::read(&bytes), Some(message));
        for length in 0..bytes.len() {
            assert_ne!(Message::read(&bytes[..length]), Some(message), "{length} bytes of {message:?}");
        }
    }
}

#[test]
fn changes_of_members_are_read_as_they_were_written_and_end_where_they_are_cut() {
    let client = ClientId { node: 5, number: 3 };
    let all = [
        MemberChange { client, joined: Some("alice"), count: 7 },
        MemberChange { client: ClientId::local(1), joined: Some(""), count: 8 },
        MemberChange { client, joined: None, count: 7 },
    ];
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for change in &all {
        change.put(&mut bytes);
        ends.push(bytes.len());
    }
    for length in 0..=bytes.len() {
        let whole = ends.iter().filter(|end| **end <= length).count();
        assert!(
            values::<MemberChange<'_>>(&bytes[..length]).eq(all[..whole].iter().copied()),
            "{length} bytes"
        );
    }
}

#[test]
fn outcomes_are_read_as_they_were_written() {
    let all = [
        Outcome::Accepted(Position { epoch: 1, offset: 2 }),
        Outcome::Refused(7),
        Outcome::Unreachable,
        Outcome::Uncertain,
    ];
    let mut bytes = Vec::new();
    all.iter().for_each(|outcome| outcome.put(&mut bytes));
    assert!(values::<Outcome>(&bytes).eq(all));
}

#[test]
fn heartbeats_are_read_as_they_were_written_in_every_phase() {
    for phase in [Phase::Joining, Phase::Active, Phase::Leaving, Phase::Left] {
        let digests = Digests { settings: 8, key: 9 };
        let heartbeat = Heartbeat { node: A, name: "a", started_ms: 7, phase, digests };
        let mut bytes = Vec::new();
        heartbeat.write(&mut bytes);
        assert_eq!(Heartbeat::read(&bytes), Some(heartbeat));
    }
}

fn config(node: NodeId, name: &str) -> ClusterConfig {
    ClusterConfig {
        node,
        name: name.into(),
        started_ms: node.0,
        continues: false,
        key: 7,
        heartbeat_interval: HEARTBEAT_INTERVAL_DEFAULT,
        member_timeout: MEMBER_TIMEOUT_DEFAULT,
    }
}

fn node(node: NodeId, name: &str) -> Cluster {
    let mut cluster = Cluster::new(config(node, name));
    cluster.handle_connected(true, 0);
    cluster.handle_time(JOIN_DELAY);
    cluster
}

fn events(cluster: &mut Cluster) -> Vec<Event> {
    std::iter::from_fn(|| cluster.poll_event()).collect()
}

fn hear(cluster: &mut Cluster, node: NodeId, name: &str, phase: Phase) -> Vec<Event> {
    let mut bytes = Vec::new();
    let digests = Digests::default();
    Heartbeat { node, name, started_ms: node.0, phase, digests }.write(&mut bytes);
    cluster.handle_heartbeat(&bytes, JOIN_DELAY);
    events(cluster)
}

/// The next heartbeat of a node.
fn heartbeat(cluster: &mut Cluster, now: Nanos) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert_eq!(cluster.poll_packet(now, &mut bytes), Some(Destination::All));
    bytes
}

#[test]
fn nodes_know_whose_settings_and_whose_key_are_others() {
    let with_key = |node, name, key| {
        let mut cluster = Cluster::new(ClusterConfig { key, ..config(node, name) });
        cluster.handle_connected(true, 0);
        cluster
    };
    for (settings, key, expected) in [
        ((5, 5), 7, (false, false)),
        ((5, 6), 7, (true, false)),
        ((5, 5), 8, (false, true)),
        ((5, 6), 8, (true, true)),
        // Not known yet.
        ((0, 6), 7, (false, false)),
        ((5, 0), 7, (false, false)),
    ] {
        let (mut a, mut b) = (with_key(A, "a", 7), with_key(B, "b", key));
        a.set_settings(settings.0);
        b.set_settings(settings.1);
        a.handle_heartbeat(&heartbeat(&mut b, JOIN_DELAY), JOIN_DELAY);
        assert_eq!(a.differs(B), expected, "{settings:?} {key}");
        // It changes with every heartbeat.
        b.set_settings(settings.0);
        let later = JOIN_DELAY + HEARTBEAT_INTERVAL_DEFAULT;
        a.handle_heartbeat(&heartbeat(&mut b, later), later);
        assert_eq!(a.differs(B), (false, expected.1));
    }
}

#[test]
fn nodes_of_another_version_are_ignored() {
    let mut cluster = node(A, "a");
    events(&mut cluster);
    let (mut heartbeat, mut packet) = (Vec::new(), Vec::new());
    Heartbeat { node: B, name: "b", started_ms: 2, phase: Phase::Active, digests: Digests::default() }
        .write(&mut heartbeat);
    let mut link = Link::new(1);
    link.push(b"message".to_vec());
    assert!(link.poll(B, A, 0, &mut packet));
    for other in [VERSION - 1, VERSION + 1] {
        (heartbeat[0], packet[0]) = (other, other);
        cluster.handle_heartbeat(&heartbeat, JOIN_DELAY);
        assert_eq!((events(&mut cluster), cluster.members().count()), (vec![], 0));
        assert!(Packet::read(&packet).is_none());
    }
    (heartbeat[0], packet[0]) = (VERSION, VERSION);
    cluster.handle_heartbeat(&heartbeat, JOIN_DELAY);
    assert_eq!(cluster.members().count(), 1);
    assert!(Packet::read(&packet).is_some());
    // A kind that only later releases of this version have is no message.
    assert_eq!(Message::read(b"\xff\x01t"), None);
}

#[test]
fn a_fingerprint_tells_keys_apart_and_does_not_give_them_away() {
    assert_ne!(fingerprint(7), fingerprint(8));
    assert!(fingerprint(7) < 1 << 32, "half of the bits are missing");
}

#[test]
fn a_node_is_closed_before_it_has_another_view() {
    let mut cluster = node(A, "a");
    assert!(matches!(events(&mut cluster)[..], [Event::View(_), Event::Open(true)]));
    let heard = hear(&mut cluster, B, "b", Phase::Active);
    let [Event::Joined(B), Event::Open(false), Event::View(view)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(view.owners(), [A, B]);
    // A heartbeat that says nothing new.
    assert_eq!(hear(&mut cluster, B, "b", Phase::Active), []);
}

#[test]
fn a_name_is_of_one_process_but_for_one_that_leaves() {
    let mut cluster = node(A, "a");
    events(&mut cluster);
    hear(&mut cluster, B, "b", Phase::Active);
    // A process that was started later takes the place of one that is dead.
    assert_eq!(hear(&mut cluster, C, "b", Phase::Joining)[..2], [Event::Reset(B), Event::Joined(C)]);
    hear(&mut cluster, C, "b", Phase::Leaving);
    assert_eq!(hear(&mut cluster, D, "b", Phase::Joining), [Event::Joined(D)]);
    assert_eq!(cluster.members().map(|(node, ..)| node).collect::<Vec<_>>(), [C, D]);
    assert_eq!(hear(&mut cluster, E, "a", Phase::Joining), [Event::Superseded]);
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::read(&bytes);
        let _ = Heartbeat::read(&bytes);
        let _ = values::<Outcome>(&bytes).count();
        let _ = values::<MemberChange<'_>>(&bytes).count();
        let _ = PlainCluster::read(&bytes);
        if let Some(packet) = Packet::read(&bytes) {
            let mut link = Link::new(3);
            let _ = link.handle(&packet, &mut 3, 0);
        }
    }
}
