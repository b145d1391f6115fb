//! Another process continues a node.

use super::*;

/// Two nodes that know each other, and have settled.
fn two_nodes() -> (Cluster, Cluster, Nanos) {
    let (mut a, mut b) = (node(A, "a"), node(B, "b"));
    let mut now = JOIN_DELAY;
    for _ in 0..20 {
        now = exchange(&mut a, &mut b, now);
        for cluster in [&mut a, &mut b] {
            for event in events(cluster) {
                let Event::Settle(settle) = event else { continue };
                cluster.settled(settle);
            }
        }
    }
    assert!(a.is_open() && b.is_open());
    (a, b, now)
}

/// Carries what both have to send. Returns the time after that.
fn exchange(a: &mut Cluster, b: &mut Cluster, now: Nanos) -> Nanos {
    for _ in 0..2 {
        let mut bytes = Vec::new();
        while let Some(to) = a.poll_packet(now, &mut bytes) {
            match to {
                Destination::All => b.handle_heartbeat(&bytes, now),
                Destination::Node(_) => b.handle_packet(&bytes, now),
            }
            bytes.clear();
        }
        std::mem::swap(a, b);
    }
    now + 10 * MILLISECOND
}

/// The content of the messages that have arrived.
fn arrived(cluster: &mut Cluster) -> Vec<Vec<u8>> {
    let content = |event| match event {
        Event::Message { bytes, .. } => Some(bytes),
        _ => None,
    };
    events(cluster).into_iter().filter_map(content).collect()
}

fn message(number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Message::Publish { topic: "t", batch: number, entries: &[] }.write(&mut bytes);
    bytes
}

#[test]
fn the_other_nodes_do_not_notice_that_another_process_continues_a_node() {
    for lost in [false, true] {
        let (mut a, mut b, mut now) = two_nodes();
        // Some are on their way in both directions.
        for number in 0..3 {
            a.send_bytes(B, &message(number));
            b.send_bytes(A, &message(10 + number));
        }
        if !lost {
            now = exchange(&mut a, &mut b, now);
        }
        let before = arrived(&mut a);
        let state = a.suspend().expect("it is open");
        assert_eq!(a.suspend(), None, "once");
        let mut bytes = Vec::new();
        assert_eq!((a.poll_packet(now, &mut bytes), a.deadline()), (None, Nanos::MAX), "it is silent");
        // What is sent to it meanwhile is lost.
        b.send_bytes(A, &message(13));
        now = exchange(&mut a, &mut b, now);
        assert_eq!(events(&mut a), []);
        let mut next = Cluster::new(ClusterConfig { continues: true, ..config(A, "renamed") });
        next.handle_connected(true, 0);
        assert_eq!(
            (next.poll_packet(now, &mut bytes), events(&mut next)),
            (None, vec![]),
            "nor does the next one say anything"
        );
        let mut local = 500 * SECOND;
        next.continue_node(PlainCluster::read(&state).expect("well formed"), local);
        let begun = events(&mut next);
        assert!(matches!(begun[..], [Event::Joined(B), Event::View(_), Event::Open(true)]), "{begun:?}");
        assert_eq!((next.name(), next.phase()), ("a", Phase::Active));
        next.send_bytes(B, &message(3));
        let (mut at_a, mut at_b) = (before, Vec::new());
        for _ in 0..300 {
            // Their clocks differ.
            let mut bytes = Vec::new();
            while let Some(to) = next.poll_packet(local, &mut bytes) {
                match to {
                    Destination::All => b.handle_heartbeat(&bytes, now),
                    Destination::Node(_) => b.handle_packet(&bytes, now),
                }
                bytes.clear();
            }
            while let Some(to) = b.poll_packet(now, &mut bytes) {
                match to {
                    Destination::All => next.handle_heartbeat(&bytes, local),
                    Destination::Node(_) => next.handle_packet(&bytes, local),
                }
                bytes.clear();
            }
            (now, local) = (now + 10 * MILLISECOND, local + 10 * MILLISECOND);
            next.handle_time(local);
            b.handle_time(now);
            at_b.extend(events(&mut b));
            at_a.extend(arrived(&mut next));
        }
        let is_noticed = |event: &&Event| !matches!(event, Event::Message { .. });
        assert_eq!(at_b.iter().find(is_noticed), None);
        let at_b: Vec<Vec<u8>> = at_b
            .into_iter()
            .filter_map(|event| match event {
                Event::Message { bytes, .. } => Some(bytes),
                _ => None,
            })
            .collect();
        assert_eq!(at_b, (0..4).map(message).collect::<Vec<_>>(), "lost: {lost}");
        assert_eq!(at_a, (10..14).map(message).collect::<Vec<_>>(), "lost: {lost}");
    }
}

#[test]
fn a_node_that_no_other_process_continues_goes_on() {
    let (mut a, mut b, mut now) = two_nodes();
    a.send_bytes(B, &message(1));
    a.suspend().expect("it is open");
    a.handle_connected(false, now);
    a.handle_connected(true, now);
    now = exchange(&mut a, &mut b, now);
    a.speak_again(now);
    b.send_bytes(A, &message(2));
    (0..300).for_each(|_| now = exchange(&mut a, &mut b, now));
    assert_eq!((arrived(&mut a), arrived(&mut b)), (vec![message(2)], vec![message(1)]));
}

#[test]
fn a_node_whose_members_change_is_not_suspended() {
    let mut cluster = node(A, "a");
    assert_eq!(cluster.suspend(), None, "its tables do not know their view");
    events(&mut cluster);
    hear(&mut cluster, B, "b", Phase::Active);
    events(&mut cluster);
    assert_eq!(cluster.suspend(), None, "the other has not settled");
}
