//! Clients of a real server, over connections that are cut in the middle of frames.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use echoring_auth::{App, AppEvent, AppSettings};
use echoring_server::{Builder, ListenAddress, Server, ServerConfig};
use echoring_topics::{Access, AllowedDelta, HistoryBounds, Pattern, Permission, Rules, TopicSettings};
use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::session::{TOPIC, TestSession};
use crate::codec::Request;
use crate::command::{Command, Pending};
use crate::{
    Client, ClientError, Ended, Event, Gap, GapReason, HistoryQuery, Missed, Payload, Protocol, Publication,
    RequestError, SubscribeError, SubscribeOptions, Subscription,
};

/// Longer than anything here takes, so that a hang fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const ALL: [Protocol; 3] = [Protocol::Echoring, Protocol::Centrifuge, Protocol::CentrifugeProtobuf];

pub(super) fn start(history_messages: u32) -> (Server, SocketAddr) {
    start_with(history_messages, None)
}

pub(super) fn start_with(history_messages: u32, app: Option<Arc<App>>) -> (Server, SocketAddr) {
    start_from(history_messages, ServerConfig { hooks: app, ..Builder::new().config().clone() })
}

pub(super) fn start_from(history_messages: u32, config: ServerConfig) -> (Server, SocketAddr) {
    let everybody = Access { presence: Permission::Everybody, ..Access::default() };
    let history = HistoryBounds { messages: history_messages, bytes: 16 << 20, ..HistoryBounds::default() };
    let delta = AllowedDelta::Fossil;
    let settings = TopicSettings { history, access: everybody, delta, ..TopicSettings::default() };
    let closed = Access { subscribe: Permission::Operator, publish: Permission::Operator, ..everybody };
    let rules = vec![(Pattern::new("closed.*"), TopicSettings { access: closed, ..settings })];
    let config = ServerConfig { topics: Rules::new(rules, settings), ..config };
    let builder = Builder::from(config).listen(([127, 0, 0, 1], 0)).shards(1).builtin_routes(true);
    let server = builder.start().expect("the server starts");
    let address = match server.addresses() {
        [ListenAddress::Tcp(address)] => *address,
        other => panic!("{other:?}"),
    };
    (server, address)
}

/// An application that subscribes each user to `feed`, returns what a call carries, refuses the method `refused`, and passes
/// on what it is asked.
pub(super) async fn application(
    asked: mpsc::UnboundedSender<serde_json::Value>,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut calls = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("the server");
            calls.spawn(answer_calls(stream, asked.clone()));
        }
    });
    (address, tasks)
}

async fn answer_calls(stream: TcpStream, asked: mpsc::UnboundedSender<serde_json::Value>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut body_bytes = 0;
        let mut connects = false;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                body_bytes = length.trim().parse().expect("a number");
            }
            connects |= line.starts_with("POST /connect ");
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; body_bytes];
        stream.read_exact(&mut body).await.expect("a body");
        let call: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let mut result = serde_json::Map::new();
        for field in ["data", "b64data"] {
            if let Some(value) = call.get(field) {
                result.insert(field.to_owned(), value.clone());
            }
        }
        let answer = match call["method"].as_str() {
            _ if connects => serde_json::json!({"result": {"user": "alice", "channels": ["feed"]}}),
            Some("refused") => serde_json::json!({"error": {"code": 1000, "message": "not today"}}),
            _ => serde_json::json!({ "result": result }),
        };
        let _ = asked.send(call);
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(format!("{head}{answer}").as_bytes()).await.expect("sent");
    }
}

pub(super) fn url(protocol: Protocol, address: SocketAddr) -> String {
    match protocol {
        Protocol::Echoring => format!("ws://{address}/broadcast"),
        Protocol::Centrifuge | Protocol::CentrifugeProtobuf => format!("ws://{address}/connection/websocket"),
    }
}

/// A client that returns at once.
pub(super) fn connect(protocol: Protocol, address: SocketAddr) -> Client {
    quick(Client::builder(protocol, url(protocol, address))).connect()
}

/// A client that is to return at once.
pub(super) fn quick(builder: crate::Builder) -> crate::Builder {
    builder.reconnect(|how| how.initial_delay(Duration::from_millis(1)).max_delay(Duration::from_millis(5)))
}

/// Forwards TCP connections to a server, and cuts them.
pub(super) struct Forwarder {
    pub(super) address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    /// Connections are open while this is the number that they began with; none are while it is odd.
    phase: watch::Sender<u64>,
    /// Connections that are forwarded now.
    open: watch::Sender<u64>,
    cuts: Arc<AtomicU64>,
    /// Bytes of the server that were forwarded.
    pub(super) bytes: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Forwarder {
    /// Cuts each connection after a number of the server's bytes that differs below `budget`; 0 for never.
    pub(super) async fn start(target: SocketAddr, budget: u64) -> Forwarder {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("its address");
        let target = Arc::new(Mutex::new(target));
        let (phase, phases) = watch::channel(0);
        let open = watch::Sender::new(0);
        let opened = open.clone();
        let cuts = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let bytes = Arc::new(AtomicU64::new(0));
        let (to, count, forwarded) = (Arc::clone(&target), Arc::clone(&cuts), Arc::clone(&bytes));
        tasks.spawn(async move {
            let mut clients = JoinSet::new();
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            loop {
                let (client, _) = listener.accept().await.expect("a client");
                // xorshift; any sequence will do.
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let budget_bytes = if budget == 0 { u64::MAX } else { random % budget };
                let opened = opened.clone();
                let (to, mut phases, count) =
                    (*to.lock().expect("no panic"), phases.clone(), Arc::clone(&count));
                let forwarded = Arc::clone(&forwarded);
                clients.spawn(async move {
                    let begin = *phases.borrow_and_update();
                    if begin % 2 == 1 {
                        return;
                    }
                    opened.send_modify(|open| *open += 1);
                    tokio::select! {
                        () = forward(client, to, budget_bytes, &forwarded) => {}
                        _ = phases.wait_for(|phase| *phase != begin) => {}
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    opened.send_modify(|open| *open -= 1);
                });
            }
        });
        Forwarder { address, target, phase, open, cuts, bytes, _tasks: tasks }
    }

    /// Cuts all connections, and refuses new ones until [`resume`](Forwarder::resume).
    pub(super) async fn interrupt(&self) {
        self.phase.send_modify(|phase| *phase += 1);
        self.open.subscribe().wait_for(|open| *open == 0).await.expect("the forwarder is there");
    }

    pub(super) fn resume(&self) {
        self.phase.send_modify(|phase| *phase += 1);
    }
}

/// Ends after `bytes` of the server.
async fn forward(mut client: TcpStream, to: SocketAddr, bytes: u64, forwarded: &AtomicU64) {
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    let mut limited = from_server.take(bytes);
    tokio::select! {
        () = copy_counted(&mut limited, &mut to_client, forwarded) => {}
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
    }
    let _ = to_client.shutdown().await;
}

/// Copies until one side ends.
async fn copy_counted(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await
        && to.write_all(&buffer[..read]).await.is_ok()
    {
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
}

/// Runs `test` on a runtime with threads, so that publishers and subscribers run at the same time.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let patient = async { tokio::time::timeout(PATIENCE, test).await.expect("no hang") };
    runtime.expect("a runtime").block_on(patient);
}

pub(super) async fn next<T: crate::FromPayload>(subscription: &mut Subscription<T>) -> Event<T> {
    subscription.next().await.expect("an event")
}

/// The next event that is not about members.
pub(super) async fn next_of_topic<T: crate::FromPayload>(subscription: &mut Subscription<T>) -> Event<T> {
    loop {
        match next(subscription).await {
            Event::Join(_) | Event::Leave(_) => {}
            event => break event,
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Numbered {
    number: u64,
    text: String,
}

fn numbered(number: u64) -> Numbered {
    Numbered { number, text: "x".repeat((number % 300) as usize) }
}

#[test]
fn connections_that_are_cut_mid_stream_lose_nothing_and_repeat_nothing() {
    const MESSAGES: u64 = 1_500;
    let (server, address) = start(10_000);
    run(async {
        for protocol in ALL {
            let topic = format!("prices.{protocol:?}");
            let forwarder = Forwarder::start(address, 20_000).await;
            let subscriber = connect(protocol, forwarder.address);
            let mut prices = subscriber.subscribe::<Numbered>(&topic).await.expect("a subscription");
            assert!(matches!(next(&mut prices).await, Event::Subscribed(_)));
            let publisher = connect(protocol, address);
            let published = topic.clone();
            // Not far ahead: Centrifuge's protocol has all that was missed in one message, which must fit a connection.
            let (received, mut progress) = watch::channel(0);
            let publishing = tokio::spawn(async move {
                for number in 1..=MESSAGES {
                    progress.wait_for(|received| received + 30 >= number).await.expect("a subscriber");
                    publisher.publish(&*published, &numbered(number)).await.expect("published");
                }
            });
            let mut resumed = 0;
            for number in 1..=MESSAGES {
                loop {
                    match next(&mut prices).await {
                        Event::Message(message) => {
                            assert_eq!((message.offset, &message.data), (number, &numbered(number)));
                            received.send_replace(number);
                            break;
                        }
                        Event::Subscribed(subscribed) => {
                            assert_eq!(subscribed.recovered, Some(true), "{protocol:?} at {number}");
                            resumed += 1;
                        }
                        Event::Join(_) | Event::Leave(_) => {}
                        other => panic!("{protocol:?} at {number}: {other:?}"),
                    }
                }
            }
            publishing.await.expect("no panic");
            let cuts = forwarder.cuts.load(Ordering::Relaxed);
            assert!(cuts >= 5 && resumed >= 5, "{protocol:?}: {cuts} cuts, resumed {resumed} times");
        }
    });
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn publications_with_a_key_are_repeated_over_cut_connections_and_happen_once() {
    const MESSAGES: u64 = 400;
    let (server, address) = start(10_000);
    run(async {
        let subscriber = connect(Protocol::Echoring, address);
        let mut orders = subscriber.subscribe::<u64>("orders").await.expect("a subscription");
        assert!(matches!(next(&mut orders).await, Event::Subscribed(_)));
        let forwarder = Forwarder::start(address, 3_000).await;
        let publisher = connect(Protocol::Echoring, forwarder.address);
        let mut publishing = JoinSet::new();
        for number in 0..MESSAGES {
            let publisher = publisher.clone();
            publishing.spawn(async move {
                let publication =
                    Publication::json(&number).expect("JSON").idempotency_key(number.to_string());
                let published = publisher.publish_with("orders", publication).await.expect("published");
                (published.position.expect("a position").offset, number)
            });
        }
        let mut published = publishing.join_all().await;
        published.sort_unstable();
        for expected in published {
            let message = loop {
                match next(&mut orders).await {
                    Event::Message(message) => break message,
                    Event::Join(_) | Event::Leave(_) => {}
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!((message.offset, message.data), expected);
        }
        assert!(forwarder.cuts.load(Ordering::Relaxed) >= 3, "{:?}", forwarder.cuts);
    });
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn a_publication_whose_answer_is_lost_is_uncertain() {
    let (server, address) = start(100);
    run(async {
        for protocol in ALL {
            let forwarder = Forwarder::start(address, 0).await;
            let client = connect(protocol, forwarder.address);
            client.publish("sure", &1).await.expect("published");
            // Publishes all the time; the interruption hits one of them in between, or the wait for a connection.
            let stream = tokio::spawn(async move {
                loop {
                    if let Err(error) = client.publish("sure", &2).await {
                        return error;
                    }
                }
            });
            while !stream.is_finished() {
                forwarder.interrupt().await;
                forwarder.resume();
                tokio::task::yield_now().await;
            }
            let error = stream.await.expect("no panic");
            assert!(matches!(error, RequestError::Uncertain), "{protocol:?}: {error:?}");
        }
    });
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn a_log_that_is_too_short_is_a_gap_with_its_exact_count() {
    let (server, address) = start(10);
    run(async {
        for protocol in ALL {
            let topic = format!("short.{protocol:?}");
            let forwarder = Forwarder::start(address, 0).await;
            let subscriber = connect(protocol, forwarder.address);
            let mut numbers = subscriber.subscribe::<u64>(&topic).await.expect("a subscription");
            assert!(matches!(next(&mut numbers).await, Event::Subscribed(_)));
            let publisher = connect(protocol, address);
            publisher.publish(&*topic, &1).await.expect("published");
            let message = numbers.next_message().await.expect("the first message");
            assert_eq!((message.offset, message.data), (1, 1));

            forwarder.interrupt().await;
            for number in 2..=40 {
                publisher.publish(&*topic, &number).await.expect("published");
            }
            forwarder.resume();
            let (mut gaps, mut expected, mut again) = (Vec::new(), 2, false);
            while expected <= 40 {
                match next(&mut numbers).await {
                    Event::Subscribed(subscribed) => {
                        assert_eq!(subscribed.recovered, Some(false));
                        again = true;
                    }
                    Event::Gap(gap) => {
                        let Missed::Range { from, to } = gap.missed else { panic!("{gap:?}") };
                        assert_eq!(from, expected);
                        expected = to + 1;
                        gaps.push(gap);
                    }
                    Event::Message(message) => {
                        assert_eq!((message.offset, message.data), (expected, expected));
                        expected += 1;
                    }
                    Event::Join(_) | Event::Leave(_) => {}
                    other => panic!("{protocol:?}: {other:?}"),
                }
            }
            assert!(again);
            let [Gap { reason: GapReason::History, .. }] = &gaps[..] else {
                panic!("{protocol:?}: {gaps:?}")
            };
            assert!(gaps[0].count().expect("an exact one") >= 29, "{protocol:?}: {gaps:?}");
            // Live again.
            publisher.publish(&*topic, &41).await.expect("published");
            assert_eq!(numbers.next_message().await.expect("a message").data, 41);
        }
    });
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn another_epoch_is_a_gap_of_unknown_extent() {
    let (first, second) = (start(100), start(100));
    run(async {
        for protocol in ALL {
            let topic = format!("epochs.{protocol:?}");
            let forwarder = Forwarder::start(first.1, 0).await;
            let client = connect(protocol, forwarder.address);
            let mut numbers = client.subscribe::<u64>(&topic).await.expect("a subscription");
            client.publish(&*topic, &1).await.expect("published");
            assert_eq!(numbers.next_message().await.expect("a message").data, 1);
            let before = numbers.position().expect("a position").clone();

            forwarder.interrupt().await;
            *forwarder.target.lock().expect("no panic") = second.1;
            forwarder.resume();
            let subscribed = loop {
                match next(&mut numbers).await {
                    Event::Subscribed(subscribed) => break subscribed,
                    Event::Join(_) | Event::Leave(_) => {}
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(subscribed.recovered, Some(false), "{protocol:?}");
            assert_ne!(subscribed.position.epoch, before.epoch);
            let gap = next(&mut numbers).await;
            let Event::Gap(Gap { missed: Missed::Unknown, reason: GapReason::Epoch }) = gap else {
                panic!("{gap:?}")
            };
            client.publish(&*topic, &2).await.expect("published");
            let message = numbers.next_message().await.expect("a message");
            assert_eq!((message.offset, message.data), (1, 2), "the first of the new epoch");
        }
    });
    first.0.shutdown(PATIENCE).expect("it ends in order");
    second.0.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn a_reader_that_is_slow_gets_everything_that_the_server_keeps() {
    let (server, address) = start(10_000);
    run(async {
        for protocol in ALL {
            let topic = format!("slow.{protocol:?}");
            let client = connect(protocol, address);
            let options = SubscribeOptions::default().queue_events(8);
            let mut numbers = client.subscribe_with::<u64>(&topic, options).await.expect("a subscription");
            // The client's other requests go on while nobody reads.
            for number in 1..=500 {
                client.publish(&*topic, &number).await.expect("published");
            }
            let mut resumed = 0;
            for number in 1..=500 {
                loop {
                    match next(&mut numbers).await {
                        Event::Message(message) => {
                            assert_eq!((message.offset, message.data), (number, number));
                            break;
                        }
                        Event::Subscribed(_) => resumed += 1,
                        Event::Join(_) | Event::Leave(_) => {}
                        other => panic!("{protocol:?}: {other:?}"),
                    }
                }
            }
            assert!(resumed >= 2, "{protocol:?}: it was never paused");
        }
    });
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn a_position_is_resumed_by_another_client() {
    let (server, address) = start(100);
    run(async {
        for protocol in ALL {
            let topic = format!("stored.{protocol:?}");
            let client = connect(protocol, address);
            let mut numbers = client.subscribe::<u64>(&topic).await.expect("a subscription");
            client.publish(&*topic, &1).await.expect("published");
            assert_eq!(numbers.next_message().await.expect("a message").data, 1);
            let stored = serde_json::to_string(&numbers.position()).expect("JSON");
            client.close().await;
            client.closed().await.expect("a clean end");
            while let Some(event) = numbers.next().await {
                assert!(!matches!(event, Event::Gap(_)), "{event:?}");
            }

            let client = connect(protocol, address);
            client.publish(&*topic, &2).await.expect("published");
            let position = serde_json::from_str(&stored).expect("a position");
            let options = SubscribeOptions::from_position(position);
            let mut numbers = client.subscribe_with::<u64>(&topic, options).await.expect("a subscription");
            let Event::Subscribed(subscribed) = next(&mut numbers).await else { panic!("it begins") };
            assert_eq!(subscribed.recovered, Some(true));
            let message = numbers.next_message().await.expect("a message");
            assert_eq!((message.offset, message.data), (2, 2), "{protocol:?}");
        }
    });
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn refusals_end_what_was_asked_for_and_nothing_else() {
    let (server, address) = start(100);
    run(async {
        for protocol in ALL {
            let client = connect(protocol, address);
            let mut closed = client.subscribe::<u64>("closed.a").await.expect("a handle");
            let event = next(&mut closed).await;
            let Event::Ended(Ended::Refused(refusal)) = &event else { panic!("{event:?}") };
            assert!(!refusal.temporary, "{refusal:?}");
            assert!(closed.next().await.is_none());
            let error = client.publish("closed.a", &1).await.expect_err("the operator's topic");
            assert!(matches!(error, RequestError::Refused(_)), "{error:?}");

            let mut open = client.subscribe::<u64>("open").await.expect("a handle");
            let twice = client.subscribe::<u64>("open").await;
            assert!(matches!(twice, Err(SubscribeError::AlreadySubscribed)), "{twice:?}");
            client.publish("open", &"no number").await.expect("published");
            loop {
                match next(&mut open).await {
                    Event::Malformed(message, _) => {
                        break assert_eq!(message.data.as_bytes(), br#""no number""#);
                    }
                    Event::Subscribed(_) | Event::Join(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            // Dropped and subscribed again.
            drop(open);
            let mut open = client.subscribe::<Payload>("open").await.expect("a handle");
            assert!(matches!(next(&mut open).await, Event::Subscribed(_)));
            let bytes = Publication::new(Payload::Bytes(vec![0].into()));
            let published = client.publish_with("open", bytes).await;
            match protocol {
                Protocol::CentrifugeProtobuf => drop(published.expect("bytes as they are")),
                _ => assert!(matches!(published, Err(RequestError::Unsupported)), "{published:?}"),
            }

            client.close().await;
            client.closed().await.expect("a clean end");
            loop {
                match open.next().await {
                    Some(Event::Ended(Ended::Closed)) => break,
                    Some(Event::Join(_) | Event::Message(_) | Event::Leave(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
            let error = client.publish("open", &1).await.expect_err("no client");
            assert!(matches!(error, RequestError::Closed), "{error:?}");
        }
    });
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn presence_and_history_are_read_where_the_protocol_has_them() {
    let (server, address) = start(100);
    run(async {
        for protocol in ALL {
            let topic = format!("rooms.{protocol:?}");
            let client = connect(protocol, address);
            let options = SubscribeOptions::default().presence(true);
            let mut room = client.subscribe_with::<String>(&topic, options).await.expect("a subscription");
            for text in ["one", "two"] {
                client.publish_with(&*topic, Publication::text(text)).await.expect("published");
            }
            let other = connect(protocol, address);
            let guest = other.subscribe::<String>(&topic).await.expect("a subscription");
            let (mut joined, mut texts) = (0, Vec::new());
            while joined < 2 || texts.len() < 2 {
                match next(&mut room).await {
                    Event::Join(_) => joined += 1,
                    Event::Message(message) => texts.push(message.data),
                    Event::Subscribed(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(texts, ["one", "two"]);
            let members = client.presence(&*topic, None).await.expect("members");
            assert_eq!((members.count, members.members.len()), (2, 2), "{protocol:?}");
            drop(guest);
            loop {
                if let Event::Leave(member) = next(&mut room).await {
                    break assert!(members.members.contains(&member), "{member:?}");
                }
            }
            let history = client.history(&*topic, HistoryQuery::latest(1)).await;
            match protocol {
                Protocol::Echoring => {
                    assert!(matches!(history, Err(RequestError::Unsupported)), "{history:?}");
                }
                _ => {
                    let history = history.expect("the latest message");
                    assert_eq!(history.position.offset, 2);
                    let texts: Vec<String> = history
                        .messages
                        .iter()
                        .map(|message| message.data.parse().expect("a text"))
                        .collect();
                    assert_eq!(texts, ["two"]);
                }
            }
        }
    });
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn an_address_that_does_not_speak_the_protocol_is_final() {
    let (server, address) = start(1);
    run(async {
        let client = Client::v1(format!("ws://{address}/echo")).connect();
        // Subscribed before the task knows.
        let mut numbers = client.subscribe::<u64>("a").await.expect("a handle");
        let event = next(&mut numbers).await;
        let Event::Ended(Ended::Failed(ClientError::NotSpoken { .. })) = event else { panic!("{event:?}") };
        let error = client.closed().await.expect_err("an echo");
        assert!(matches!(error, ClientError::NotSpoken { .. }), "{error:?}");
        let error = Client::v1(format!("ws://{address}/nowhere")).connect().closed().await.expect_err("404");
        assert!(matches!(error, ClientError::Connection(_)), "{error:?}");
        assert_eq!(error.to_string(), "the server answered 404 Not Found instead of 101: no such path");
    });
    server.shutdown(PATIENCE).expect("it ends in order");
}

#[test]
fn calls_and_messages_reach_the_application() {
    run(async {
        let (asked, mut calls) = mpsc::unbounded_channel();
        let (application, _tasks) = application(asked).await;
        let hooks = AppSettings {
            urls: vec![(AppEvent::Rpc, format!("http://{application}/rpc"))],
            ..AppSettings::default()
        };
        let app = Some(Arc::new(App::load(&hooks).expect("a URL")));
        let (server, address) = start_with(100, app);
        for protocol in ALL {
            let client = connect(protocol, address);
            let called = client.rpc("echo", &numbered(7)).await;
            let sent = client.send(Payload::json(&"heard").expect("JSON")).await;
            if protocol == Protocol::Echoring {
                assert!(matches!(called, Err(RequestError::Unsupported)), "{called:?}");
                assert!(matches!(sent, Err(RequestError::Unsupported)), "{sent:?}");
                continue;
            }
            let result: Numbered = called.expect("a result").parse().expect("what was sent");
            assert_eq!(result, numbered(7), "{protocol:?}");
            sent.expect("on its way");
            let refused = client.rpc("refused", &()).await.expect_err("a refusal");
            let RequestError::Refused(refusal) = &refused else { panic!("{refused:?}") };
            assert_eq!((&*refusal.code, &*refusal.message), ("1000", "not today"));
            let bytes = client.rpc_with("bytes", Payload::Bytes(vec![0, 0xff].into())).await;
            match protocol {
                Protocol::CentrifugeProtobuf => assert_eq!(bytes.expect("bytes").as_bytes(), [0, 0xff]),
                _ => assert!(matches!(bytes, Err(RequestError::Unsupported)), "{bytes:?}"),
            }
            // A message has no method.
            let mut methods = Vec::new();
            while !methods.contains(&None) || !methods.contains(&Some("refused".to_owned())) {
                let call = calls.recv().await.expect("a call");
                methods.push(call["method"].as_str().filter(|method| !method.is_empty()).map(str::to_owned));
            }
        }
        server.shutdown(PATIENCE).expect("it ends in order");
    });
}

#[test]
fn a_publication_that_is_too_long_ends_itself_and_not_the_client() {
    let config = Builder::new().max_message(4_096).config().clone();
    let (server, address) = start_from(10, config);
    run(async move {
        let client = quick(Client::v1(url(Protocol::Echoring, address))).connect();
        let mut prices = client.subscribe::<Payload>("prices").await.expect("a handle");
        assert!(matches!(next(&mut prices).await, Event::Subscribed(_)));
        let long = "x".repeat(10_000);
        let keyed = Publication::new(Payload::Text("kept".into())).idempotency_key("once");
        let (refused, kept) =
            tokio::join!(client.publish("prices", &long), client.publish_with("prices", keyed));
        let refused = refused.expect_err("too long");
        assert!(
            matches!(&refused, RequestError::Refused(refusal) if refusal.code == "too-large"),
            "{refused:?}"
        );
        kept.expect("it is sent again");
        client.publish("prices", &"short").await.expect("the client goes on");
    });
    server.shutdown(Duration::from_secs(5)).expect("a clean end");
}

#[test]
fn a_publication_that_was_sent_is_uncertain_however_the_client_ends() {
    let mut client = TestSession::new(Protocol::Echoring, 10);
    client.session.handle_open(client.now);
    let publish = |client: &mut TestSession| {
        let (answer, answered) = oneshot::channel();
        let publication = Publication::new(Payload::Text("x".into())).idempotency_key("k");
        let request = Request::Publish { topic: TOPIC.to_owned(), publication };
        client.session.handle_command(Command::Request(Pending { request, answer, sent: false }), client.now);
        answered
    };
    let sent = publish(&mut client);
    assert_eq!(client.command()["type"], "publish");
    // Also without the connection that it was sent on.
    client.session.handle_lost();
    let waited = publish(&mut client);
    client.session.end(&Ended::Closed);
    assert!(matches!(sent.blocking_recv(), Ok(Err(RequestError::Uncertain))));
    assert!(matches!(waited.blocking_recv(), Ok(Err(RequestError::Closed))));
}
