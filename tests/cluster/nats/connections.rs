//! A NATS that comes, goes and comes back.

use echoring_cluster::nats::BackboneError;

use super::node::{Command, Node, Report, options};
use super::server::NatsServer;

#[test]
fn nodes_wait_for_a_nats_that_is_away_at_their_start() {
    let Some(mut server) = NatsServer::prepare("") else { return };
    let nodes = [1, 2].map(|number| Node::start(number, options(server.url())));
    // What is asked meanwhile is done later, and the nodes are alone until then.
    nodes.iter().for_each(|node| node.subscribe("early"));
    nodes[0].publish("early", "bird");
    server.run();
    for node in &nodes {
        node.wait(Report::Connected(true));
    }
    for node in &nodes {
        assert_eq!(node.wait_messages("early", 1).1, [b"bird"]);
    }
}

#[test]
fn a_node_that_waits_for_nats_can_end() {
    let Some(server) = NatsServer::prepare("") else { return };
    let node = Node::start(1, options(server.url()));
    node.kill();
}

#[test]
fn a_node_that_does_not_wait_says_which_server_it_cannot_reach() {
    let Some(server) = NatsServer::prepare("") else { return };
    let mut options = options(server.url());
    options.waits = false;
    let error = Node::start(1, options).join().expect_err("no server");
    assert!(matches!(error, BackboneError::Connect { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&server.url()) && text.contains("refused"), "{text}");
}

#[test]
fn a_node_uses_the_server_that_is_there() {
    let (Some(away), Some(server)) = (NatsServer::prepare(""), NatsServer::start("")) else { return };
    let mut options = options(away.url());
    options.servers.push(server.url());
    options.waits = false;
    Node::start(1, options).wait_open(1);
}

#[test]
fn nothing_is_lost_when_nats_is_killed_and_started_again() {
    let Some(mut server) = NatsServer::start("") else { return };
    let nodes = [1, 2].map(|number| Node::start(number, options(server.url())));
    nodes.iter().for_each(|node| node.wait_open(2));
    let topics = ["a", "b", "c", "d"];
    for topic in topics {
        nodes.iter().for_each(|node| node.subscribe(topic));
    }
    let publish = |from: u64| {
        for number in from..from + 250 {
            topics.iter().for_each(|topic| nodes[0].publish(topic, number.to_string()));
        }
    };
    publish(0);
    server.kill();
    publish(250);
    nodes.iter().for_each(|node| node.wait(Report::Connected(false)));
    publish(500);
    server.run();
    publish(750);
    // The second node has what it got before, and waits for the last of each topic.
    let mut expected = topics.map(|_| None);
    let mut left = topics.len();
    nodes[1].wait_for("the last message of each topic", |report| {
        if let Report::Delivered(delivered) = report {
            let topic = topics.iter().position(|topic| *topic == delivered.topic).expect("a topic");
            let number: u64 = std::str::from_utf8(&delivered.entry).expect("text").parse().expect("a number");
            if let Some(expected) = expected[topic] {
                assert_eq!(number, expected, "{}", delivered.topic);
            }
            expected[topic] = Some(number + 1);
            left -= usize::from(number == 999);
        }
        (left == 0).then_some(())
    });
}

#[test]
fn tables_without_room_get_their_packets_later() {
    let Some(server) = NatsServer::start("") else { return };
    let nodes = [1, 2].map(|number| Node::start(number, options(server.url())));
    nodes.iter().for_each(|node| node.wait_open(2));
    nodes[1].order(Command::HasRoom(false));
    nodes[1].subscribe("slow");
    for number in 0..100 {
        nodes[0].publish("slow", vec![number; 10_000]);
    }
    nodes[1].order(Command::HasRoom(true));
    let messages = nodes[1].wait_messages("slow", 100).1;
    assert!(messages.iter().enumerate().all(|(number, entry)| entry[0] == number as u8));
}
