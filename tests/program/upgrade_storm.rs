//! Upgrades in a row under load: each server is taken over by the next while subscribers and publishers go on. Nothing is refused,
//! lost or duplicated, and every subscriber's offsets are contiguous in one epoch.
//!
//! The sizes come from the environment (`STORM_UPGRADES`, `STORM_SUBSCRIBERS`, `STORM_RATE`, `STORM_TOPICS`, `STORM_DRAIN`);
//! without it they suit a test. `scripts/upgrade-storm` runs the large one. With `STORM_RECORD` the result is written there.

#[path = "../support/patient.rs"]
mod patient;
#[path = "../support/ports.rs"]
mod ports;
#[allow(dead_code, reason = "not every test uses all of it")]
#[path = "../support/program.rs"]
mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use patient::Patient;
use program::command;
use rustix::process::Signal;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

const PATIENCE: Duration = Duration::from_secs(60);
const SERVICE_RESTART: u16 = 1012;
const GOING_AWAY: u16 = 1001;
/// Shards of the servers in turn: every queue needs an accepter, whatever the number.
const SHARDS: [&str; 3] = ["2", "1", "3"];

/// The sizes of a storm.
#[derive(Debug, Clone, Copy)]
struct Storm {
    upgrades: usize,
    subscribers: usize,
    /// Publications per second, of all publishers.
    rate: usize,
    topics: usize,
    /// `--drain` in seconds.
    drain_s: usize,
}

impl Storm {
    fn from_environment() -> Storm {
        let size = |name: &str, default: usize| {
            let value = std::env::var(format!("STORM_{name}"));
            value.map_or(default, |value| value.parse().expect("a number"))
        };
        Storm {
            upgrades: size("UPGRADES", 3),
            subscribers: size("SUBSCRIBERS", 50),
            rate: size("RATE", 200),
            topics: size("TOPICS", 5),
            drain_s: size("DRAIN", 1),
        }
    }

    fn publishers(&self) -> usize {
        self.rate.div_ceil(100).min(20)
    }
}

/// A server, killed when it goes out of scope at the latest.
struct Server(Child);

impl Server {
    fn start(address: SocketAddr, storm: &Storm, generation: usize) -> Server {
        let (listen, drain) = (address.to_string(), format!("{}s", storm.drain_s));
        let shards = SHARDS[generation % SHARDS.len()];
        let words = ["serve", "--listen", &listen, "--admin", "off", "--drain", &drain, "--shards", shards];
        let more = ["--takeover", "--log", "warn"];
        let mut command = command(&[&words[..], &more].concat());
        let mut process = command.stdout(Stdio::piped()).spawn().expect("it runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert!(line.starts_with("listening "), "{line:?}");
        Server(process)
    }

    fn ended(&mut self) -> Option<i32> {
        self.0.wait().expect("a child").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What all clients count.
#[derive(Debug, Default)]
struct Counts {
    refused: AtomicU64,
    connects: AtomicU64,
    delivered: AtomicU64,
    /// The longest time from sending a publication to its acknowledgement, reconnects included.
    slowest_us: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Counts {
    fn fail(&self, line: String) {
        self.failures.lock().expect("no panic").push(line);
    }
}

type Socket = WebSocket<Patient>;

/// Opens a session. A connection that is refused is counted, and tried again.
fn session(address: SocketAddr, counts: &Counts) -> Socket {
    let given_up = Instant::now() + PATIENCE;
    loop {
        counts.connects.fetch_add(1, Ordering::Relaxed);
        match try_session(address) {
            Ok(socket) => return socket,
            Err(error) => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                counts.fail(format!("refused: {error}"));
                assert!(Instant::now() < given_up, "{error}");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn try_session(address: SocketAddr) -> Result<Socket, String> {
    let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    let mut request = format!("ws://{address}/broadcast").into_client_request().expect("a request");
    let name = "echoring.v1.json".parse().expect("a value");
    request.headers_mut().insert("Sec-WebSocket-Protocol", name);
    tungstenite::client(request, Patient(stream)).map(|(socket, _)| socket).map_err(|error| error.to_string())
}

/// The next event, or the code of the Close frame.
fn next(socket: &mut Socket) -> Result<Value, u16> {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => return Ok(serde_json::from_str(text.as_str()).expect("JSON")),
            Ok(Message::Close(close)) => {
                // The answer to it, and the end of the stream.
                while socket.read().is_ok() {}
                return Err(close.map_or(1005, |close| close.code.into()));
            }
            Ok(_) => {}
            Err(error) => {
                eprintln!("a connection ended without a Close frame: {error}");
                return Err(1006);
            }
        }
    }
}

/// Where a subscriber is.
#[derive(Debug)]
struct Reached {
    topic: usize,
    epoch: String,
    first: u64,
    offset: u64,
    reconnects: u64,
}

/// Follows a topic across all upgrades until the last server drains.
fn subscribe(address: SocketAddr, topic: usize, counts: &Counts, ready: &mpsc::Sender<()>) -> Reached {
    let name = format!("storm-{topic}");
    let mut reached: Option<Reached> = None;
    loop {
        let mut socket = session(address, counts);
        let mut request = json!({"type": "subscribe", "id": 1, "topic": name});
        if let Some(Reached { epoch, offset, .. }) = &reached {
            request["position"] = json!({"epoch": epoch, "offset": offset});
        }
        if socket.send(request.to_string().into()).is_err() {
            counts.fail("a subscription could not be sent".to_owned());
            continue;
        }
        let code = follow(&mut socket, topic, &mut reached, counts, ready);
        match code {
            SERVICE_RESTART => {}
            GOING_AWAY => return reached.expect("subscribed before the end"),
            code => {
                counts.fail(format!("a subscriber was closed with {code}"));
                if code == 1006 && reached.is_none() {
                    ready.send(()).expect("the test waits");
                }
            }
        }
        if let Some(reached) = &mut reached {
            reached.reconnects += 1;
        }
    }
}

/// Reads until the Close frame, and returns its code.
fn follow(
    socket: &mut Socket,
    topic: usize,
    reached: &mut Option<Reached>,
    counts: &Counts,
    ready: &mpsc::Sender<()>,
) -> u16 {
    loop {
        let event = match next(socket) {
            Ok(event) => event,
            Err(code) => return code,
        };
        let offset = event["offset"].as_u64().unwrap_or_default();
        match (event["type"].as_str(), &mut *reached) {
            (Some("subscribed"), None) => {
                let epoch = event["epoch"].as_str().expect("an epoch").to_owned();
                *reached = Some(Reached { topic, epoch, first: offset, offset, reconnects: 0 });
                ready.send(()).expect("the test waits");
            }
            (Some("subscribed"), Some(reached)) => {
                if event["epoch"] != *reached.epoch || offset != reached.offset || event["recovered"] != true
                {
                    counts.fail(format!("not resumed from {}:{}: {event}", reached.epoch, reached.offset));
                    reached.offset = offset;
                }
            }
            (Some("message"), Some(reached)) => {
                if offset != reached.offset + 1 {
                    counts.fail(format!("{event} behind {}", reached.offset));
                }
                reached.offset = offset;
                counts.delivered.fetch_add(1, Ordering::Relaxed);
            }
            (Some("heartbeat"), _) => {}
            _ => counts.fail(format!("{event}")),
        }
    }
}

/// The offsets at which publications of one publisher were acknowledged, by topic.
type Acknowledged = BTreeMap<usize, Vec<u64>>;

/// Publishes at a rate until it is stopped. What is not acknowledged is sent again with the same key.
fn publish(
    address: SocketAddr,
    number: usize,
    storm: &Storm,
    counts: &Counts,
    stopping: &AtomicBool,
) -> Acknowledged {
    let interval = Duration::from_secs_f64(storm.publishers() as f64 / storm.rate as f64);
    let mut acknowledged = Acknowledged::new();
    let mut socket = session(address, counts);
    let mut due = Instant::now();
    let mut message = 0_u64;
    while !stopping.load(Ordering::Relaxed) {
        let topic = (number + message as usize * storm.publishers()) % storm.topics;
        let key = format!("{number}-{message}");
        let request = json!({
            "type": "publish", "id": message, "topic": format!("storm-{topic}"), "data": key, "idempotency_key": key,
        });
        let sent = Instant::now();
        let offset = loop {
            // A connection that is being closed does not take it; the next one does.
            let _ = socket.send(request.to_string().into());
            match next(&mut socket) {
                Ok(event) if event["type"] == "published" && event["id"] == message => {
                    break event["offset"].as_u64().expect("an offset");
                }
                Ok(event) => counts.fail(format!("instead of an acknowledgement: {event}")),
                Err(SERVICE_RESTART) => socket = session(address, counts),
                Err(code) => {
                    counts.fail(format!("a publisher was closed with {code}"));
                    socket = session(address, counts);
                }
            }
        };
        counts.slowest_us.fetch_max(sent.elapsed().as_micros() as u64, Ordering::Relaxed);
        acknowledged.entry(topic).or_default().push(offset);
        message += 1;
        due += interval;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    acknowledged
}

/// All offsets that were acknowledged, by topic: each once, from 1 without holes.
fn check_acknowledged(all: Vec<Acknowledged>, counts: &Counts) -> BTreeMap<usize, u64> {
    let mut by_topic: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for (topic, offsets) in all.into_iter().flatten() {
        let mut last = 0;
        for offset in offsets {
            if offset <= last {
                counts.fail(format!("a publisher's {offset} is behind {last}"));
            }
            last = offset;
            if !by_topic.entry(topic).or_default().insert(offset) {
                counts.fail(format!("the offset {offset} of topic {topic} was given twice"));
            }
        }
    }
    let whole = by_topic.into_iter().map(|(topic, offsets)| {
        let last = offsets.last().copied().unwrap_or_default();
        if last != offsets.len() as u64 {
            counts.fail(format!("topic {topic} has {} messages up to the offset {last}", offsets.len()));
        }
        (topic, last)
    });
    whole.collect()
}

#[test]
fn upgrades_in_a_row_lose_nobodys_place() {
    let storm = Storm::from_environment();
    let [address] = ports::free();
    let counts = Counts::default();
    let stopping = AtomicBool::new(false);
    let started = Instant::now();
    let mut publishing = Duration::ZERO;
    let mut server = Server::start(address, &storm, 0);
    let mut takeovers_ms = Vec::new();
    let (subscribers, published) = thread::scope(|scope| {
        let (ready, subscribed) = mpsc::channel();
        let (counts, stopping) = (&counts, &stopping);
        let spawn = |number: usize| {
            let ready = ready.clone();
            let follow = move || subscribe(address, number % storm.topics, counts, &ready);
            thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, follow).expect("a thread")
        };
        let subscribers: Vec<_> = (0..storm.subscribers).map(spawn).collect();
        (0..storm.subscribers).for_each(|_| subscribed.recv().expect("subscribed"));
        let began = Instant::now();
        let publish = |number| scope.spawn(move || publish(address, number, &storm, counts, stopping));
        let publishers: Vec<_> = (0..storm.publishers()).map(publish).collect();
        for generation in 1..=storm.upgrades {
            let before = Instant::now();
            let successor = Server::start(address, &storm, generation);
            takeovers_ms.push(before.elapsed().as_millis() as u64);
            assert_eq!(server.ended(), Some(0), "the server {}", generation - 1);
            server = successor;
        }
        stopping.store(true, Ordering::Relaxed);
        let published: Vec<Acknowledged> =
            publishers.into_iter().map(|publisher| publisher.join().expect("a publisher")).collect();
        publishing = began.elapsed();
        program::signal(&server.0, Signal::TERM);
        let reached: Vec<Reached> =
            subscribers.into_iter().map(|subscriber| subscriber.join().expect("a subscriber")).collect();
        (reached, published)
    });
    assert_eq!(server.ended(), Some(0));
    report(&storm, &counts, &subscribers, published, [started.elapsed(), publishing], &takeovers_ms);
}

fn report(
    storm: &Storm,
    counts: &Counts,
    subscribers: &[Reached],
    published: Vec<Acknowledged>,
    [time, publishing]: [Duration; 2],
    takeovers_ms: &[u64],
) {
    let last = check_acknowledged(published, counts);
    let publications: u64 = last.values().sum();
    let mut epochs: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    let (mut lost, mut reconnects) = (0, 0);
    for Reached { topic, epoch, first, offset, reconnects: own } in subscribers {
        epochs.entry(*topic).or_default().insert(epoch);
        lost += last.get(topic).copied().unwrap_or_default().saturating_sub(*offset);
        reconnects += own;
        assert!(first <= offset);
    }
    if let Some((topic, epochs)) = epochs.iter().find(|(_, epochs)| epochs.len() > 1) {
        counts.fail(format!("topic {topic} has the epochs {epochs:?}"));
    }
    let failures = counts.failures.lock().expect("no panic");
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let record = json!({
        "schema": "echoring.upgrade-storm/1",
        "upgrades": storm.upgrades,
        "subscribers": storm.subscribers,
        "topics": storm.topics,
        "publishers": storm.publishers(),
        "drain_s": storm.drain_s,
        "duration_s": time.as_secs_f64(),
        "publications": publications,
        "publications_per_s": publications as f64 / publishing.as_secs_f64(),
        "deliveries": load(&counts.delivered),
        "connects": load(&counts.connects),
        "reconnects_of_subscribers": reconnects,
        "refused": load(&counts.refused),
        "lost": lost,
        "failures": failures.len(),
        "first_failures": failures.iter().take(10).collect::<Vec<_>>(),
        "takeover_ms": takeovers_ms,
        "slowest_acknowledgement_ms": load(&counts.slowest_us) as f64 / 1e3,
    });
    println!("{record:#}");
    if let Some(path) = std::env::var_os("STORM_RECORD") {
        std::fs::write(path, format!("{record:#}\n")).expect("written");
    }
    assert!(failures.is_empty() && lost == 0 && load(&counts.refused) == 0, "{record:#}");
    assert!(publications > 0 && reconnects as usize >= storm.upgrades * storm.subscribers, "{record:#}");
}
