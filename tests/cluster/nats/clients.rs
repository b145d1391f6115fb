//! Other programs that publish over NATS, while it comes and goes.

use std::net::SocketAddr;
use std::time::Duration;

use echoring_cluster::NodeId;
use echoring_cluster::nats::{ClientRequest, NatsClients, NatsOptions};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};

use super::node::options;
use super::raw_client::{PATIENCE, RawClient};
use super::server::NatsServer;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Publishes `payload` to `topic` as another program does, as often as no node takes it. Returns the answer.
fn request(server: SocketAddr, topic: &str, payload: &str) -> std::io::Result<String> {
    let mut client = RawClient::connect(server)?;
    client.subscribe("_INBOX.answers")?;
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        assert!(std::time::Instant::now() < until, "no node takes publications");
        client.publish(&format!("test.publish.{topic}"), "_INBOX.answers", payload.as_bytes())?;
        let answer = client.message()?.content;
        if !answer.starts_with("NATS/1.0 503") {
            return Ok(answer);
        }
    }
}

/// Waits until `clients` has a connection, or none.
async fn connected(clients: &NatsClients, expected: bool) {
    let until = Instant::now() + PATIENCE;
    while clients.is_connected() != expected {
        assert!(Instant::now() < until, "connected: {}", !expected);
        sleep(Duration::from_millis(5)).await;
    }
}

/// Answers the next publication.
async fn answer_one(clients: &mut NatsClients) {
    let ClientRequest::Publication(publication) = clients.next().await else { panic!("no publication") };
    assert_eq!(publication.topic, "t");
    let payload = publication.payload.clone();
    clients.sender().answer(&publication, 200, payload).await;
}

#[test]
fn publications_are_answered_again_after_each_restart_of_nats() {
    let Some(mut server) = NatsServer::start("") else { return };
    runtime().block_on(async {
        let opened = NatsClients::open(&options(server.url()), NodeId(1), "a").await;
        let mut clients = opened.expect("options that are right");
        for round in 0..4 {
            connected(&clients, true).await;
            // As often as a node asks.
            clients.take_publications(true).await;
            let (address, payload) = (server.address, format!("in round {round}"));
            let asked = tokio::task::spawn_blocking(move || request(address, "t", &payload));
            timeout(PATIENCE, answer_one(&mut clients)).await.expect("a publication in time");
            let answer = asked.await.expect("no panic").expect("a connection");
            assert!(answer.contains("Echoring-Status: 200"), "{answer}");
            assert!(answer.contains(&format!("in round {round}")), "{answer}");
            server.kill();
            connected(&clients, false).await;
            server.run();
        }
    });
}

#[test]
fn a_node_that_stops_leaves_publications_to_others() {
    let Some(server) = NatsServer::start("") else { return };
    runtime().block_on(async {
        let open = async |number| {
            NatsClients::open(&options(server.url()), NodeId(number), "node").await.expect("options")
        };
        let (mut leaving, mut staying) = (open(1).await, open(2).await);
        for clients in [&mut leaving, &mut staying] {
            connected(clients, true).await;
            clients.take_publications(true).await;
            clients.sender().flush().await;
        }
        leaving.take_publications(false).await;
        leaving.sender().flush().await;
        for _ in 0..20 {
            let address = server.address;
            let asked = tokio::task::spawn_blocking(move || request(address, "t", "x"));
            timeout(PATIENCE, answer_one(&mut staying)).await.expect("a publication in time");
            assert!(asked.await.expect("no panic").expect("a connection").contains("200"));
        }
    });
}

#[test]
fn a_client_is_answered_at_inboxes_and_nowhere_else() {
    let Some(server) = NatsServer::start("") else { return };
    runtime().block_on(async {
        let options = NatsOptions { inboxes: vec!["replies.of".into()], ..options(server.url()) };
        let mut clients = NatsClients::open(&options, NodeId(1), "a").await.expect("options");
        connected(&clients, true).await;
        clients.take_publications(true).await;
        // The subscription is in place once one publication has been answered; what is sent is not yet taken.
        let address = server.address;
        let asked = tokio::task::spawn_blocking(move || request(address, "t", "x"));
        timeout(PATIENCE, answer_one(&mut clients)).await.expect("a publication in time");
        asked.await.expect("no panic").expect("a connection");
        let mut client = RawClient::connect(server.address).expect("a connection");
        client.subscribe(">").expect("sent");
        for (reply, is_answered) in [
            ("$JS.API.STREAM.PURGE.test-durable-0000000000000000", false),
            ("test.publish.other", false),
            ("test.durable.0000000000000000.t", false),
            ("test.heartbeat", false),
            ("test.node.0000000000000001", false),
            ("_INBOX.test.of-a-node", false),
            ("answers", false),
            ("_INBOX.answers", true),
            ("replies.of.1", true),
        ] {
            client.publish("test.publish.t", reply, b"x").expect("sent");
            let ClientRequest::Publication(publication) =
                timeout(PATIENCE, clients.next()).await.expect("a publication in time")
            else {
                panic!("no publication")
            };
            assert_eq!(publication.refused_reply(), (!is_answered).then_some(reply));
            clients.sender().answer(&publication, 200, "done".into()).await;
            clients.sender().flush().await;
            // Behind whatever was sent before.
            client.publish("test.publish.t", "_INBOX.end", b"x").expect("sent");
            let ClientRequest::Publication(last) = clients.next().await else { panic!("no publication") };
            clients.sender().answer(&last, 200, "end".into()).await;
            clients.sender().flush().await;
            if is_answered {
                assert_eq!(client.message().expect("an answer").subject, reply);
            }
            assert_eq!(client.message().expect("an answer").subject, "_INBOX.end", "after {reply}");
        }
    });
}
