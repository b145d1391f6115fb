//! How much a link holds, and when a link and a node have something to do.

use super::*;
use crate::limits::{LINK_BYTES_MAX, MEMBERS_MAX, PACKET_BYTES_MAX, RETRANSMIT_AFTER_MAX};
use crate::owner_table::Peers as _;

/// Polls a link for all its packets, and counts them.
fn packets(link: &mut Link, now: Nanos) -> usize {
    let mut bytes = Vec::new();
    std::iter::from_fn(|| link.poll(A, B, now, &mut bytes).then_some(())).count()
}

#[test]
fn a_link_has_room_until_it_holds_as_much_as_it_may() {
    let mut pair = warm();
    let (link, now) = (&mut pair.ends[0], pair.now);
    packets(link, now);
    // With its length, as an entry of a packet.
    link.push(vec![0; 996]);
    assert_eq!(packets(link, now), 1);
    link.push(vec![0; LINK_BYTES_MAX - 1_001]);
    assert!(link.has_room());
    link.push(vec![0]);
    assert!(!link.has_room());
    assert_eq!(link.figures(now).unacknowledged_bytes, LINK_BYTES_MAX as u64);
}

#[test]
fn a_link_is_idle_only_if_nothing_waits_and_everything_is_acknowledged() {
    let mut pair = warm();
    assert!(pair.ends[0].is_idle());
    pair.push(0, 77);
    assert!(!pair.ends[0].is_idle(), "it is in no packet");
    pair.carry(|| false);
    assert!(!pair.ends[0].is_idle(), "it is in a packet");
    await_under_load(&mut pair, 77, 60 * SECOND);
    pair.carry(|| true);
    assert!(pair.ends[0].is_idle());
}

#[test]
fn a_packet_holds_the_messages_that_fit_and_one_that_is_longer() {
    for (lengths, expected) in [
        (&[100, PACKET_BYTES_MAX - 105][..], 1),
        (&[100, PACKET_BYTES_MAX - 104], 2),
        (&[PACKET_BYTES_MAX + 1], 1),
        (&[PACKET_BYTES_MAX + 1, 1], 2),
    ] {
        let mut pair = warm();
        packets(&mut pair.ends[0], pair.now);
        lengths.iter().for_each(|length| pair.ends[0].push(vec![0; *length]));
        assert_eq!(packets(&mut pair.ends[0], pair.now), expected, "{lengths:?}");
    }
}

#[test]
fn a_session_is_announced_again_as_long_as_the_other_side_does_not_know_it() {
    let mut link = Link::new(1);
    assert_eq!((link.deadline(), packets(&mut link, SECOND)), (Some(0), 1));
    let again = SECOND + RETRANSMIT_AFTER_MAX;
    assert_eq!((link.deadline(), packets(&mut link, again - 1)), (Some(again), 0));
    assert_eq!(packets(&mut link, again), 1);
}

#[test]
fn a_side_that_begins_anew_resets_the_other_only_if_something_was_sent() {
    type Sends = fn(&mut Pair);
    let cases: [(Sends, u64); 4] = [
        (|_| {}, 0),
        (|pair| pair.push(0, 1), 1),
        (|pair| pair.push(1, 1), 1),
        // It is on its way.
        (
            |pair| {
                pair.push(0, 1);
                pair.carry(|| false);
            },
            1,
        ),
    ];
    for (index, (send, expected)) in cases.into_iter().enumerate() {
        let mut pair = Pair::new();
        (0..3).for_each(|_| pair.carry(|| true));
        send(&mut pair);
        if index < 3 {
            (0..3).for_each(|_| pair.carry(|| true));
        }
        // The second time nothing was sent since.
        for _ in 0..2 {
            let session = pair.sessions + 1;
            let before = pair.ends[0].figures(pair.now).resets;
            (pair.ends[1], pair.sessions) = (Link::new(session), session);
            (0..300).for_each(|_| pair.carry(|| true));
            let figures = pair.ends[0].figures(pair.now);
            assert_eq!(figures.resets, expected, "case {index}");
            assert_eq!(
                pair.sessions - session,
                expected - before,
                "each reset begins a session, case {index}"
            );
        }
        pair.received = [Vec::new(), Vec::new()];
        pair.push(0, 5);
        pair.push(1, 6);
        (0..3).for_each(|_| pair.carry(|| true));
        assert_eq!(pair.received, [[6], [5]], "case {index}");
    }
}

#[test]
fn a_link_that_begins_anew_keeps_its_figures() {
    let mut pair = warm();
    pair.push(0, 77);
    pair.carry(|| false);
    await_under_load(&mut pair, 77, 60 * SECOND);
    pair.carry(|| true);
    let before = pair.ends[0].figures(pair.now);
    assert!(before.retransmissions > 0 && before.round_trip.is_some());
    (pair.ends[1], pair.sessions) = (Link::new(9), 9);
    while pair.resets[0] == 0 {
        pair.carry(|| true);
        assert!(pair.now < 60 * SECOND);
    }
    assert_eq!(pair.ends[0].figures(pair.now), LinkFigures { resets: before.resets + 1, ..before });
}

/// All packets of a node; how many of them are heartbeats.
fn heartbeats(cluster: &mut Cluster, now: Nanos) -> usize {
    let mut bytes = Vec::new();
    std::iter::from_fn(|| {
        bytes.clear();
        cluster.poll_packet(now, &mut bytes)
    })
    .filter(|destination| *destination == Destination::All)
    .count()
}

fn hear_at(cluster: &mut Cluster, node: NodeId, phase: Phase, now: Nanos) {
    let mut bytes = Vec::new();
    let (name, digests) = (node.to_string(), Digests::default());
    Heartbeat { node, name: &name, started_ms: node.0, phase, digests }.write(&mut bytes);
    cluster.handle_heartbeat(&bytes, now);
}

/// A node that is active at 11 s, and speaks to nobody.
fn active(heartbeat_interval: Nanos, member_timeout: Nanos) -> Cluster {
    let mut cluster = Cluster::new(ClusterConfig { heartbeat_interval, member_timeout, ..config(A, "a") });
    cluster.handle_connected(true, 10 * SECOND);
    heartbeats(&mut cluster, 10 * SECOND);
    cluster.handle_time(11 * SECOND);
    heartbeats(&mut cluster, 11 * SECOND);
    events(&mut cluster);
    cluster
}

#[test]
fn a_node_joins_after_a_delay_and_sends_heartbeats_at_intervals() {
    let interval = 3 * SECOND;
    let mut cluster = Cluster::new(ClusterConfig { heartbeat_interval: interval, ..config(A, "a") });
    assert_eq!((cluster.deadline(), heartbeats(&mut cluster, 10 * SECOND)), (Nanos::MAX, 0));
    cluster.handle_connected(true, 10 * SECOND);
    assert_eq!((cluster.deadline(), heartbeats(&mut cluster, 10 * SECOND)), (10 * SECOND, 1));
    let joins = 10 * SECOND + JOIN_DELAY;
    assert_eq!((cluster.deadline(), heartbeats(&mut cluster, joins - 1)), (joins, 0));
    cluster.handle_time(joins - 1);
    assert_eq!(cluster.phase(), Phase::Joining);
    cluster.handle_time(joins);
    assert_eq!((cluster.phase(), cluster.deadline()), (Phase::Active, joins));
    assert_eq!((heartbeats(&mut cluster, joins), cluster.deadline()), (1, joins + interval));
    assert_eq!(heartbeats(&mut cluster, joins + interval - 1), 0);
    assert_eq!(heartbeats(&mut cluster, joins + interval), 1);
}

#[test]
fn a_node_has_something_to_do_when_a_link_has_or_a_member_was_silent_for_long() {
    let now = 12 * SECOND;
    for (member_timeout, first) in [(SECOND / 2, SECOND / 2), (9 * SECOND, RETRANSMIT_AFTER_MAX)] {
        let mut cluster = active(30 * SECOND, member_timeout);
        assert!(!cluster.knows(B));
        hear_at(&mut cluster, B, Phase::Active, now);
        assert!(cluster.knows(B) && !cluster.knows(C));
        assert_eq!(heartbeats(&mut cluster, now), 1, "the new member learns at once who is there");
        assert_eq!(cluster.deadline(), now + first);
        events(&mut cluster);
        cluster.handle_time(now + member_timeout - 1);
        assert!(cluster.knows(B) && events(&mut cluster).is_empty());
        cluster.handle_time(now + member_timeout);
        assert!(!cluster.knows(B));
        assert_eq!(events(&mut cluster)[0], Event::Reset(B));
    }
}

#[test]
fn a_node_without_a_connection_takes_nobody_for_dead_and_is_away_after_a_while() {
    let timeout = 2 * SECOND;
    let mut joining = Cluster::new(config(B, "b"));
    joining.handle_connected(true, SECOND);
    joining.handle_connected(false, SECOND);
    assert_eq!(joining.deadline(), Nanos::MAX, "it has no topics");

    let mut cluster = active(30 * SECOND, timeout);
    hear_at(&mut cluster, B, Phase::Active, 12 * SECOND);
    events(&mut cluster);
    let (lost, away) = (13 * SECOND, 13 * SECOND + timeout);
    cluster.handle_connected(false, lost);
    // It is lost once.
    cluster.handle_connected(false, lost + 1);
    assert_eq!((cluster.deadline(), heartbeats(&mut cluster, 99 * SECOND)), (away, 0));
    cluster.handle_time(away - 1);
    assert_eq!(events(&mut cluster), []);
    cluster.handle_time(away);
    assert_eq!((events(&mut cluster), cluster.deadline()), (vec![Event::Away(true)], Nanos::MAX));
    cluster.handle_time(99 * SECOND);
    assert!(cluster.knows(B) && events(&mut cluster).is_empty());
    cluster.handle_connected(true, 100 * SECOND);
    assert_eq!((events(&mut cluster), cluster.deadline()), (vec![Event::Away(false)], 100 * SECOND));
    assert_eq!(heartbeats(&mut cluster, 100 * SECOND), 1);
    cluster.handle_time(100 * SECOND + timeout - 1);
    assert!(cluster.knows(B), "it has been heard as long as it could not be");
    cluster.handle_time(100 * SECOND + timeout);
    assert!(!cluster.knows(B));
}

/// The other end of a node's link, which speaks for `B`.
struct Other {
    link: Link,
    sessions: u64,
    /// The numbers of the views that it was told.
    numbers: Vec<u64>,
}

impl Other {
    fn exchange(&mut self, cluster: &mut Cluster, now: Nanos) {
        for _ in 0..4 {
            let mut bytes = Vec::new();
            while cluster.poll_packet(now, &mut bytes).is_some() {
                let packet = Packet::read(&bytes).filter(|packet| packet.to == B);
                let received = packet.map(|packet| self.link.handle(&packet, &mut self.sessions, now));
                if let Some(Delivery::Messages(list)) = received {
                    self.numbers.extend(entries(list).filter_map(|entry| match Message::read(entry) {
                        Some(Message::View { number, .. }) => Some(number),
                        _ => None,
                    }));
                }
                bytes.clear();
            }
            while self.link.poll(B, A, now, &mut bytes) {
                cluster.handle_packet(&bytes, now);
                bytes.clear();
            }
        }
    }

    fn settle(&mut self, cluster: &mut Cluster, number: u64, now: Nanos) {
        let mut bytes = Vec::new();
        Message::Settled { number }.write(&mut bytes);
        self.link.push(bytes);
        self.exchange(cluster, now);
    }
}

#[test]
fn an_answer_to_an_earlier_view_opens_nothing() {
    let now = 12 * SECOND;
    let mut cluster = active(30 * SECOND, 60 * SECOND);
    assert!(cluster.is_open());
    let mut other = Other { link: Link::new(900), sessions: 900, numbers: Vec::new() };
    hear_at(&mut cluster, B, Phase::Joining, now);
    other.exchange(&mut cluster, now);
    hear_at(&mut cluster, B, Phase::Active, now);
    other.exchange(&mut cluster, now);
    let [first, second] = other.numbers[..] else { panic!("{:?}", other.numbers) };
    assert!(first < second);
    other.settle(&mut cluster, first, now);
    assert!(!cluster.is_open());
    other.settle(&mut cluster, second, now);
    assert!(cluster.is_open());
    // Another view, and the same again: each has a number of its own.
    hear_at(&mut cluster, B, Phase::Leaving, now);
    assert!(!cluster.is_open());
    other.exchange(&mut cluster, now);
    other.settle(&mut cluster, second, now);
    assert!(!cluster.is_open());
    other.settle(&mut cluster, *other.numbers.last().expect("a view"), now);
    assert!(cluster.is_open());
}

#[test]
fn a_node_leaves_once() {
    let now = 12 * SECOND;
    let mut joining = Cluster::new(config(A, "a"));
    assert!(!joining.try_finish(now));

    let mut cluster = active(30 * SECOND, 60 * SECOND);
    assert!(!cluster.try_finish(now));
    assert_eq!((cluster.phase(), cluster.node(), cluster.name()), (Phase::Active, A, "a"));
    cluster.leave(now);
    assert_eq!((cluster.phase(), cluster.view().owners()), (Phase::Leaving, &[][..]));
    hear_at(&mut cluster, B, Phase::Joining, now);
    assert!(!cluster.try_finish(now), "another node has not answered");
    hear_at(&mut cluster, B, Phase::Left, now);
    assert!(cluster.try_finish(now) && cluster.try_finish(now));
    cluster.leave(now);
    assert_eq!(cluster.phase(), Phase::Left);
}

#[test]
fn a_cluster_has_a_largest_number_of_members() {
    let mut cluster = active(30 * SECOND, 60 * SECOND);
    for number in 0..MEMBERS_MAX as u64 + 10 {
        hear_at(&mut cluster, NodeId(1_000 + number), Phase::Joining, 12 * SECOND);
    }
    assert_eq!(cluster.members().count(), MEMBERS_MAX);
}
