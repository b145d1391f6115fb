//! What a client tells of its connection, and of its end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use echoring_async::reconnect::Reason;
use tokio::net::{TcpListener, TcpStream};

use super::server::{Forwarder, PATIENCE, connect, next_of_topic, quick, run, start, url};
use super::tokens::with_server;
use crate::{
    Client, ClientError, Ended, Event, Gap, GapReason, Missed, Protocol, RequestError, State, SubscribeError,
};

const BOTH: [Protocol; 2] = [Protocol::Echoring, Protocol::Centrifuge];

/// The states that a client's hook was called with.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn hook(&self) -> impl FnMut(&State) + Send + use<> {
        let log = Arc::clone(&self.0);
        move |state| {
            let word = match state {
                State::Connecting { .. } => "connecting".to_owned(),
                State::Waiting { .. } => "waiting".to_owned(),
                other => other.to_string(),
            };
            log.lock().expect("no panic").push(word);
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

#[test]
fn states_are_shown_and_waited_for_from_the_first_attempt_to_the_end() {
    let (server, address) = start(100);
    run(async {
        for protocol in BOTH {
            let forwarder = Forwarder::start(address, 0).await;
            let log = Log::default();
            let builder = quick(Client::builder(protocol, url(protocol, forwarder.address)));
            let client = builder.on_state(log.hook()).connect();
            assert!(matches!(client.state(), State::Connecting { attempt: 1 }));
            let mut states = client.watch();
            states.wait_for(|state| matches!(state, State::Open)).await.expect("a session");
            assert_eq!(log.take().last().map(String::as_str), Some("connected"), "{protocol:?}");

            forwarder.interrupt().await;
            states
                .wait_for(|state| matches!(state, State::Waiting { attempt: 2.., .. }))
                .await
                .expect("a wait");
            // The loss, and an attempt that failed.
            states
                .wait_for(|state| matches!(state, State::Waiting { attempt: 3.., .. }))
                .await
                .expect("a wait");
            forwarder.resume();
            states.wait_for(|state| matches!(state, State::Open)).await.expect("another session");
            let seen = log.take();
            assert_eq!(seen.first().map(String::as_str), Some("waiting"), "{protocol:?}: {seen:?}");
            assert_eq!(seen.last().map(String::as_str), Some("connected"), "{protocol:?}: {seen:?}");
            assert_eq!(seen.iter().filter(|word| *word == "connected").count(), 1, "{protocol:?}: {seen:?}");

            client.close().await;
            client.closed().await.expect("closed by the program");
            assert!(matches!(client.state(), State::Closed));
            assert_eq!(log.take(), ["closed"]);
            assert!(states.changed().await.is_ok() && states.changed().await.is_err(), "no further state");
        }
    });
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn a_final_refusal_is_the_reason_of_all_that_ends() {
    with_server(async |address| {
        let log = Log::default();
        // The server's answer comes once there is a subscription for it to end.
        let gate = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let behind = gate.local_addr().expect("its address");
        let client = Client::v1(url(Protocol::Echoring, behind)).on_state(log.hook()).connect();
        let mut news = client.subscribe::<String>("news").await.expect("a handle");
        let (mut stream, _) = gate.accept().await.expect("the client");
        let mut server = TcpStream::connect(address).await.expect("the server");
        let forwarding = async move { tokio::io::copy_bidirectional(&mut stream, &mut server).await };
        tokio::spawn(forwarding);
        let event = next_of_topic(&mut news).await;
        let Event::Ended(ended) = &event else { panic!("{event:?}") };
        assert!(ended.to_string().contains("401 Unauthorized"), "{ended}");
        assert!(news.next().await.is_none());
        let error = client.closed().await.expect_err("401");
        let ClientError::Connection(gave_up) = &error else { panic!("{error:?}") };
        assert_eq!((gave_up.reason(), gave_up.attempts()), (Reason::Permanent, 1));
        assert!(matches!(client.state(), State::Failed(ClientError::Connection(_))));
        assert_eq!(log.take(), ["connecting".to_owned(), error.to_string()]);
        // Whatever comes later hears the same.
        let late = client.subscribe::<String>("late").await.expect_err("no client");
        assert!(matches!(&late, SubscribeError::Failed(_)) && late.to_string() == error.to_string());
        let late = client.publish("late", &1).await.expect_err("no client");
        assert!(matches!(&late, RequestError::Failed(_)) && late.to_string() == error.to_string());
    });
}

#[test]
fn a_client_gives_up_at_its_bounds() {
    let (server, address) = start(100);
    run(async {
        let forwarder = Forwarder::start(address, 0).await;
        let builder = Client::v1(url(Protocol::Echoring, forwarder.address))
            .reconnect(|how| how.initial_delay(Duration::from_millis(1)).max_attempts(5));
        let client = builder.connect();
        let mut news = client.subscribe::<String>("news").await.expect("a handle");
        assert!(matches!(next_of_topic(&mut news).await, Event::Subscribed(_)));
        // Accepts and closes.
        forwarder.interrupt().await;
        let event = next_of_topic(&mut news).await;
        let Event::Ended(Ended::Failed(ClientError::Connection(gave_up))) = &event else {
            panic!("{event:?}")
        };
        assert_eq!((gave_up.reason(), gave_up.attempts()), (Reason::Attempts, 5));
        let error = client.closed().await.expect_err("no server");
        assert!(error.to_string().starts_with("gave up after 5 attempts: "), "{error}");
        // As a `main` prints it.
        assert_eq!(format!("{error:?}\n{event:?}"), format!("{error}\nEnded({error})"));
    });
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn the_end_of_a_runtime_is_the_end_of_its_clients() {
    let (server, address) = start(100);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (client, mut news, publishing) = runtime.block_on(async {
        let client = connect(Protocol::Echoring, address);
        let mut news = client.subscribe::<String>("news").await.expect("a handle");
        assert!(matches!(next_of_topic(&mut news).await, Event::Subscribed(_)));
        let nobody = Client::v1("ws://127.0.0.1:1/broadcast").connect();
        // It waits for a connection, on another runtime.
        (client, news, async move { nobody.publish("news", &1).await })
    });
    let waiting =
        std::thread::spawn(move || tokio::runtime::Runtime::new().expect("a runtime").block_on(publishing));
    runtime.shutdown_timeout(PATIENCE);
    run(async {
        assert!(matches!(next_of_topic(&mut news).await, Event::Ended(Ended::Closed)));
        client.closed().await.expect("not an error of the client");
        assert!(matches!(client.state(), State::Closed));
        let late = client.subscribe::<String>("late").await.expect_err("no client");
        assert!(matches!(late, SubscribeError::Closed), "{late:?}");
    });
    let error = waiting.join().expect("no panic").expect_err("no client");
    assert!(matches!(error, RequestError::Closed), "{error:?}");
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn gaps_say_what_was_missed_and_why() {
    let gap = |missed, reason| Gap { missed, reason }.to_string();
    assert_eq!(
        gap(Missed::Range { from: 41, to: 60 }, GapReason::History),
        "missed 20 messages, 41 to 60: the server no longer keeps them"
    );
    assert_eq!(
        gap(Missed::Range { from: 7, to: 7 }, GapReason::Slow),
        "missed message 7: this subscriber is too slow"
    );
    assert_eq!(
        gap(Missed::Unknown, GapReason::Epoch),
        "missed an unknown number of messages: the topic has restarted"
    );
    assert_eq!(
        gap(Missed::Unknown, GapReason::Other("maintenance".into())).split(": ").nth(1),
        Some("maintenance")
    );
}
