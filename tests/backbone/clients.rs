//! Other programs that publish over NATS, while it comes and goes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use echoring_backbone::{ClientRequest, NatsClients};
use echoring_cluster::NodeId;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};

use super::node::options;
use super::server::NatsServer;

/// Everything happens within this time, or the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Publishes `payload` to `topic` as another program does, as often as no node takes it. Returns the answer.
fn request(server: SocketAddr, topic: &str, payload: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.try_clone()?);
    stream.write_all(b"CONNECT {\"headers\":true,\"no_responders\":true}\r\nSUB answers 1\r\n")?;
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        assert!(std::time::Instant::now() < until, "no node takes publications");
        write!(stream, "PUB test.publish.{topic} answers {}\r\n{payload}\r\n", payload.len())?;
        let mut line = String::new();
        while !line.starts_with("HMSG ") {
            line.clear();
            lines.read_line(&mut line)?;
            match line.trim_end() {
                "" => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                "PING" => stream.write_all(b"PONG\r\n")?,
                _ => {}
            }
        }
        let bytes = line.split_whitespace().next_back().and_then(|bytes| bytes.parse::<usize>().ok());
        let mut answer = vec![0; bytes.expect("a length") + 2];
        lines.read_exact(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
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
