//! What nodes do for each other while NATS is there.

use std::time::{Duration, Instant};

use super::node::{Command, MEMBER_TIMEOUT, Node, Report, options};
use super::server::NatsServer;

/// Nodes with the numbers from 1, which are open and see each other.
fn cluster(server: &NatsServer, count: u64) -> Vec<Node> {
    let nodes: Vec<Node> = (1..=count).map(|number| Node::start(number, options(server.url()))).collect();
    nodes.iter().for_each(|node| node.wait_open(count as usize));
    nodes
}

fn numbers(topic: &str, count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("{topic} {number}").into_bytes()).collect()
}

#[test]
fn two_nodes_follow_each_others_topics_in_order() {
    let Some(server) = NatsServer::start("") else { return };
    let nodes = cluster(&server, 2);
    // Each node owns some of them.
    let topics: Vec<String> = (0..8).map(|number| format!("topic.{number}")).collect();
    for topic in &topics {
        nodes.iter().for_each(|node| node.subscribe(topic));
        numbers(topic, 100).into_iter().for_each(|entry| nodes[0].publish(topic, entry));
    }
    for node in nodes {
        let mut expected: Vec<_> = topics.iter().map(|topic| numbers(topic, 100).into_iter()).collect();
        let mut left = 800;
        node.wait_for("800 messages", |report| {
            if let Report::Delivered(delivered) = report {
                let topic = topics.iter().position(|topic| *topic == delivered.topic).expect("a topic");
                assert_eq!(Some(&delivered.entry), expected[topic].next().as_ref());
                left -= 1;
            }
            (left == 0).then_some(())
        });
        node.kill();
    }
}

#[test]
fn three_nodes_agree_about_the_order_of_what_all_of_them_publish() {
    let Some(server) = NatsServer::start("") else { return };
    let nodes = cluster(&server, 3);
    nodes.iter().for_each(|node| node.subscribe("shared"));
    for number in 0..200 {
        nodes.iter().for_each(|node| node.publish("shared", format!("{} {number}", node.id)));
    }
    let seen: Vec<_> = nodes.iter().map(|node| node.wait_messages("shared", 600)).collect();
    assert!(seen.iter().all(|other| *other == seen[0]), "{seen:?}");
    for node in &nodes {
        let own: Vec<_> = (0..200).map(|number| format!("{} {number}", node.id).into_bytes()).collect();
        let prefix = node.id.to_string().into_bytes();
        let ordered: Vec<_> = seen[0].1.iter().filter(|entry| entry.starts_with(&prefix)).cloned().collect();
        assert_eq!(ordered, own, "the order of one publisher");
    }
}

#[test]
fn a_node_that_leaves_hands_its_topics_over_in_the_same_epoch() {
    let Some(server) = NatsServer::start("") else { return };
    let mut nodes = cluster(&server, 2);
    let topics: Vec<String> = (0..8).map(|number| format!("topic.{number}")).collect();
    for topic in &topics {
        nodes[0].subscribe(topic);
        nodes[0].publish(topic, "before");
    }
    let mut epochs = std::collections::BTreeMap::new();
    nodes[0].wait_for("eight messages", |report| {
        if let Report::Delivered(delivered) = report {
            epochs.insert(delivered.topic.clone(), delivered.position.epoch);
        }
        (epochs.len() == topics.len()).then_some(())
    });
    let leaving = nodes.pop().expect("two nodes");
    let left = leaving.id;
    leaving.order(Command::Leave);
    let asked = Instant::now();
    leaving.join().expect("a clean end");
    // It says that it has left: nobody waits until its heartbeats are missed.
    nodes[0].wait(Report::Reset(left));
    eprintln!("left after {:?}", asked.elapsed());
    for topic in &topics {
        nodes[0].publish(topic, "after");
        let delivered = nodes[0].wait_for("a message", |report| match report {
            Report::Delivered(delivered) if delivered.entry == b"after" => Some(delivered.clone()),
            _ => None,
        });
        assert_eq!((delivered.position.epoch, delivered.position.offset), (epochs[topic], 2), "{topic}");
    }
}

#[test]
fn a_node_that_is_killed_is_noticed_within_the_member_timeout() {
    let Some(server) = NatsServer::start("") else { return };
    let mut nodes = cluster(&server, 2);
    let victim = nodes.pop().expect("two nodes");
    let dead = victim.id;
    victim.kill();
    let killed = Instant::now();
    nodes[0].wait(Report::Reset(dead));
    let noticed = killed.elapsed();
    // A machine that is busy elsewhere takes longer.
    assert!(noticed < Duration::from_nanos(MEMBER_TIMEOUT) + Duration::from_secs(10), "{noticed:?}");
    nodes[0].wait(Report::Owners(1));
}

/// A client or server that collects packets until a timer goes off would take tens of milliseconds.
#[test]
fn a_publication_to_another_nodes_topic_is_answered_at_once() {
    let Some(server) = NatsServer::start("") else { return };
    let nodes = cluster(&server, 2);
    // One of the nodes owns the topic; the other's publications make a round trip.
    // A machine that is busy elsewhere keeps half of them waiting.
    let quick_of = |node: &Node| {
        let mut latencies: Vec<Duration> = (0..500)
            .map(|_| {
                let sent = Instant::now();
                node.publish("pinged", "ping");
                node.wait_accepted();
                sent.elapsed()
            })
            .collect();
        latencies.sort();
        eprintln!("median {:?}, 99th percentile {:?}", latencies[250], latencies[495]);
        latencies[25]
    };
    let round_trip = nodes.iter().map(quick_of).max().expect("two nodes");
    assert!(
        round_trip < Duration::from_millis(5),
        "5th percentile of round trips to another node: {round_trip:?}"
    );
}
