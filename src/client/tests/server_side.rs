//! Server-side subscriptions of a real server, which its application and its operator make.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use echoring_admin::{AdminTokens, Control, Reloading};
use echoring_auth::{App, AppEvent, AppSettings};
use echoring_server::{InheritedListener, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::server::{Forwarder, PATIENCE, application, next, run, start_with, url};
use crate::{Client, Ended, Event, Missed, Protocol, SubscribeError, Subscription};

const BOTH: [Protocol; 2] = [Protocol::Centrifuge, Protocol::CentrifugeProtobuf];

type Made = mpsc::UnboundedReceiver<Subscription<u64>>;

/// A client, and the subscriptions that the server makes for it.
fn connect(protocol: Protocol, address: SocketAddr) -> (Client, Made) {
    let (offered, made) = mpsc::unbounded_channel();
    let client = Client::builder(protocol, url(protocol, address))
        .reconnect(|how| how.initial_delay(std::time::Duration::from_millis(1)))
        .on_server_subscription(move |subscription| {
            // The test may have ended.
            let _ = offered.send(subscription.typed::<u64>());
        })
        .connect();
    (client, made)
}

/// The operator of a server.
struct Operator {
    control: Control,
    address: SocketAddr,
}

impl Operator {
    fn of(server: &Server) -> Operator {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let listener = InheritedListener::new(vec![listener.into()]).expect("it listens");
        let control = Control::start(listener, server, AdminTokens::default(), Reloading::default());
        Operator { control: control.expect("it starts"), address }
    }

    async fn command(&self, method: &str, channel: &str) {
        let body = serde_json::json!({"user": "alice", "channel": channel}).to_string();
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        let request = format!(
            "POST /api/{method} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("result"), "{answer}");
    }
}

/// Runs a test with a server that asks an application about sessions.
fn with_server(test: impl AsyncFnOnce(&Server, SocketAddr)) {
    run(async {
        let (asked, _calls) = mpsc::unbounded_channel();
        let (application, _tasks) = application(asked).await;
        let connect = (AppEvent::Connect, format!("http://{application}/connect"));
        let hooks = AppSettings { urls: vec![connect], ..AppSettings::default() };
        let (server, address) = start_with(100, Some(Arc::new(App::load(&hooks).expect("a URL"))));
        test(&server, address).await;
        server.shutdown(PATIENCE).expect("it ends in order");
    });
}

#[test]
fn what_the_application_subscribes_a_client_to_is_recovered_after_a_loss() {
    with_server(async |_, address| {
        for protocol in BOTH {
            let forwarder = Forwarder::start(address, 0).await;
            let (client, mut made) = connect(protocol, forwarder.address);
            let mut feed = made.recv().await.expect("a subscription");
            assert_eq!(feed.topic(), "feed");
            let Event::Subscribed(begun) = next(&mut feed).await else { panic!("it begins") };
            let (publisher, _made) = connect(protocol, address);
            let first = begun.position.offset + 1;
            publisher.publish("feed", &first).await.expect("published");
            assert_eq!(feed.next_message().await.expect("a message").offset, first);
            let twice = client.subscribe::<u64>("feed").await;
            assert!(matches!(twice, Err(SubscribeError::AlreadySubscribed)), "{twice:?}");

            forwarder.interrupt().await;
            for number in first + 1..=first + 20 {
                publisher.publish("feed", &number).await.expect("published");
            }
            forwarder.resume();
            let mut again = false;
            for number in first + 1..=first + 20 {
                loop {
                    match next(&mut feed).await {
                        Event::Message(message) => {
                            break assert_eq!((message.offset, message.data), (number, number));
                        }
                        Event::Subscribed(subscribed) => {
                            assert_eq!(subscribed.recovered, Some(true), "{protocol:?}");
                            again = true;
                        }
                        other => panic!("{protocol:?}: {other:?}"),
                    }
                }
            }
            assert!(again, "{protocol:?}");
            // More than the server keeps.
            forwarder.interrupt().await;
            for number in first + 21..=first + 220 {
                publisher.publish("feed", &number).await.expect("published");
            }
            forwarder.resume();
            let mut expected = first + 21;
            let mut gaps = 0;
            while expected <= first + 220 {
                match next(&mut feed).await {
                    Event::Message(message) => {
                        assert_eq!((message.offset, message.data), (expected, expected));
                        expected += 1;
                    }
                    Event::Gap(gap) => {
                        let Missed::Range { from, to } = gap.missed else { panic!("{gap:?}") };
                        assert_eq!(from, expected);
                        (expected, gaps) = (to + 1, gaps + 1);
                    }
                    Event::Subscribed(subscribed) => assert_eq!(subscribed.recovered, Some(false)),
                    other => panic!("{protocol:?}: {other:?}"),
                }
            }
            assert_eq!(gaps, 1, "{protocol:?}");
            assert!(made.try_recv().is_err(), "it is the same subscription");
            client.close().await;
            client.closed().await.expect("a clean end");
            assert!(matches!(feed.next().await, Some(Event::Ended(Ended::Closed))));
        }
    });
}

#[test]
fn what_the_operator_subscribes_a_client_to_ends_when_the_operator_says_so() {
    with_server(async |server, address| {
        let operator = Operator::of(server);
        for protocol in BOTH {
            let (client, mut made) = connect(protocol, address);
            let feed = made.recv().await.expect("the application's");
            for round in 1..=2 {
                operator.command("subscribe", "later").await;
                let mut later = made.recv().await.expect("a subscription");
                assert_eq!(later.topic(), "later");
                assert!(matches!(next(&mut later).await, Event::Subscribed(_)));
                client.publish("later", &round).await.expect("published");
                assert_eq!(later.next_message().await.expect("a message").data, round);
                operator.command("unsubscribe", "later").await;
                loop {
                    match later.next().await.expect("an event") {
                        Event::Ended(Ended::Refused(refusal)) => break assert_eq!(refusal.code, "2000"),
                        Event::Leave(_) => {}
                        other => panic!("{protocol:?}: {other:?}"),
                    }
                }
            }
            // Dropped, it is the client's to subscribe to.
            drop(feed);
            let mut own = client.subscribe::<u64>("feed").await.expect("a handle");
            assert!(matches!(next(&mut own).await, Event::Subscribed(_)));
            client.publish("feed", &7).await.expect("published");
            assert_eq!(own.next_message().await.expect("a message").data, 7);
            client.close().await;
            client.closed().await.expect("a clean end");
        }
        operator.control.stop();
    });
}
