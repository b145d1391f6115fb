//! Upgrades in a row under load: each server is taken over by the next while subscribers and publishers go on. Nothing is refused,
//! lost or duplicated, and every subscriber's offsets are contiguous in one epoch.
//!
//! The sizes come from the environment (`STORM_UPGRADES`, `STORM_SUBSCRIBERS`, `STORM_RATE`, `STORM_TOPICS`, `STORM_DRAIN`,
//! `STORM_HISTORY`); without it they suit a test. `scripts/upgrade-storm` runs the large one. With `STORM_RECORD` the result is written there.
//!
//! A subscriber that comes back later than the history lasts gets a gap, which is a failure. For each of them, and for the slowest of
//! the others, the steps of the reconnect are printed with their times, and with how long the client's own thread waited for a CPU.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{patient, ports, program};
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
    /// `history_messages`.
    history: usize,
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
            history: size("HISTORY", 100),
        }
    }

    /// How long the history of a topic lasts.
    fn history_lasts_s(&self) -> f64 {
        (self.history * self.topics) as f64 / self.rate as f64
    }

    fn publishers(&self) -> usize {
        self.rate.div_ceil(100).min(20)
    }
}

/// The configuration of all servers.
fn config_file(storm: &Storm) -> PathBuf {
    let name = format!("upgrade-storm-{}.toml", std::process::id());
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Bytes are not what bounds it.
    let text = format!("[topic_defaults]\nhistory_messages = {}\nhistory_bytes = \"1MiB\"\n", storm.history);
    std::fs::write(&file, text).expect("written");
    file
}

/// A server, killed when it goes out of scope at the latest.
struct Server(Child);

impl Server {
    fn start(address: SocketAddr, storm: &Storm, generation: usize) -> Server {
        let (listen, drain) = (address.to_string(), format!("{}s", storm.drain_s));
        let shards = SHARDS[generation % SHARDS.len()];
        let words = ["serve", "--listen", &listen, "--admin", "off", "--drain", &drain, "--shards", shards];
        let config = config_file(storm);
        let more = ["--takeover", "--log", "warn", "--config", config.to_str().expect("UTF-8")];
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

/// The last step of a reconnect.
const SUBSCRIBED: &str = "subscribed";

/// A step of a reconnect that is over.
#[derive(Debug, Clone, Copy)]
struct Step {
    name: &'static str,
    /// Since the start of the storm.
    end: Duration,
    /// Time that the client's thread had waited for a CPU until then, since it was started.
    cpu_wait: Duration,
}

/// A subscriber's way from one server to the next.
#[derive(Debug)]
struct Reconnect {
    /// Counts the time that this thread waits for a CPU.
    scheduler: File,
    topic: usize,
    /// When the last message before it was published and read, since the start of the storm.
    published: Duration,
    read: Duration,
    steps: Vec<Step>,
    /// Messages that were published meanwhile: these have to be in the history.
    missed: u64,
}

impl Reconnect {
    /// Of a client of this thread.
    fn new(topic: usize) -> Reconnect {
        let scheduler = File::open("/proc/thread-self/schedstat").expect("scheduler statistics");
        Reconnect {
            scheduler,
            topic,
            published: Duration::ZERO,
            read: Duration::ZERO,
            steps: Vec::new(),
            missed: 0,
        }
    }

    fn step(&mut self, name: &'static str, counts: &Counts) {
        let mut figures = [0; 64];
        let length = self.scheduler.read_at(&mut figures, 0).expect("scheduler statistics");
        let figures = std::str::from_utf8(&figures[..length]).expect("text");
        // Time on a CPU, time in its queue, time slices; in nanoseconds.
        let waited_ns = figures.split(' ').nth(1).and_then(|figure| figure.parse().ok()).expect("a number");
        let (end, cpu_wait) = (counts.started.elapsed(), Duration::from_nanos(waited_ns));
        self.steps.push(Step { name, end, cpu_wait });
    }

    /// Whether the message that was read last had been published before the client had subscribed again.
    fn has_missed(&self) -> bool {
        self.steps.last().is_some_and(|last| last.name == SUBSCRIBED && self.published < last.end)
    }

    /// From the publication of the last message until the client has subscribed again. A history has to last that long.
    fn time(&self) -> Duration {
        self.steps.last().map_or(Duration::ZERO, |last| last.end.saturating_sub(self.published))
    }

    /// Time from the Close frame until the client has subscribed again.
    fn time_from_close(&self) -> Duration {
        self.steps
            .first()
            .map_or(Duration::ZERO, |first| self.time() - first.end.saturating_sub(self.published))
    }
}

impl std::fmt::Display for Reconnect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(f, "{:.0} ms on topic {}: ", ms(self.time()), self.topic)?;
        write!(f, "last message published at {:.3} s, ", self.published.as_secs_f64())?;
        write!(f, "read after {:.0} ms", ms(self.read.saturating_sub(self.published)))?;
        let mut before: Option<Step> = None;
        for step in &self.steps {
            let begin = before.map_or(self.read, |before| before.end);
            write!(f, ", {} after {:.0} ms", step.name, ms(step.end.saturating_sub(begin)))?;
            if let Some(before) = before {
                write!(f, " ({:.0} without a CPU)", ms(step.cpu_wait - before.cpu_wait))?;
            }
            before = Some(*step);
        }
        Ok(())
    }
}

/// Reconnects that are told in a report.
const TOLD_RECONNECTS: usize = 5;

/// What all clients count.
#[derive(Debug)]
struct Counts {
    started: Instant,
    refused: AtomicU64,
    connects: AtomicU64,
    delivered: AtomicU64,
    /// The longest time from sending a publication to its acknowledgement, reconnects included.
    slowest_us: AtomicU64,
    /// Messages that one reconnect missed at most.
    missed_max: AtomicU64,
    failures: Mutex<Vec<String>>,
    /// Time of each reconnect of a subscriber, with its steps as text if it was one of the slowest or too late.
    reconnects: Mutex<Vec<(Duration, Duration)>>,
    slowest: Mutex<Vec<(Duration, String)>>,
}

impl Counts {
    fn new() -> Counts {
        Counts {
            started: Instant::now(),
            refused: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            slowest_us: AtomicU64::new(0),
            missed_max: AtomicU64::new(0),
            failures: Mutex::default(),
            reconnects: Mutex::default(),
            slowest: Mutex::default(),
        }
    }

    /// A subscriber has subscribed again.
    fn reconnected(&self, reconnect: &Reconnect) {
        let time = reconnect.time();
        self.reconnects.lock().expect("no panic").push((time, reconnect.time_from_close()));
        let mut slowest = self.slowest.lock().expect("no panic");
        if slowest.len() < TOLD_RECONNECTS || time > slowest[TOLD_RECONNECTS - 1].0 {
            slowest.push((time, reconnect.to_string()));
            slowest.sort_by(|one, other| other.cmp(one));
            slowest.truncate(TOLD_RECONNECTS);
        }
    }

    fn fail(&self, line: String) {
        self.failures.lock().expect("no panic").push(line);
    }
}

type Socket = WebSocket<Patient>;

/// Opens a session. A connection that is refused is counted, and tried again.
fn session(address: SocketAddr, counts: &Counts, times: &mut Reconnect) -> Socket {
    let given_up = Instant::now() + PATIENCE;
    loop {
        counts.connects.fetch_add(1, Ordering::Relaxed);
        match try_session(address, counts, times) {
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

fn try_session(address: SocketAddr, counts: &Counts, times: &mut Reconnect) -> Result<Socket, String> {
    let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    times.step("connected", counts);
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    let mut request = format!("ws://{address}/broadcast").into_client_request().expect("a request");
    let name = "echoring.v1.json".parse().expect("a value");
    request.headers_mut().insert("Sec-WebSocket-Protocol", name);
    let opened = tungstenite::client(request, Patient(stream));
    times.step("upgraded", counts);
    opened.map(|(socket, _)| socket).map_err(|error| error.to_string())
}

/// The next event, or the code of the Close frame.
fn next(socket: &mut Socket, counts: &Counts, times: &mut Reconnect) -> Result<Value, u16> {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => return Ok(serde_json::from_str(text.as_str()).expect("JSON")),
            Ok(Message::Close(close)) => {
                (times.steps, times.missed) = (Vec::new(), 0);
                times.step("told", counts);
                // The answer to it, and the end of the stream.
                while socket.read().is_ok() {}
                times.step("closed", counts);
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
    let mut times = Reconnect::new(topic);
    loop {
        let mut socket = session(address, counts, &mut times);
        let mut request = json!({"type": "subscribe", "id": 1, "topic": name});
        if let Some(Reached { epoch, offset, .. }) = &reached {
            request["position"] = json!({"epoch": epoch, "offset": offset});
        }
        if socket.send(request.to_string().into()).is_err() {
            counts.fail("a subscription could not be sent".to_owned());
            continue;
        }
        let code = follow(&mut socket, &mut times, &mut reached, counts, ready);
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
    times: &mut Reconnect,
    reached: &mut Option<Reached>,
    counts: &Counts,
    ready: &mpsc::Sender<()>,
) -> u16 {
    loop {
        let event = match next(socket, counts, times) {
            Ok(event) => event,
            Err(code) => return code,
        };
        let offset = event["offset"].as_u64().unwrap_or_default();
        match (event["type"].as_str(), &mut *reached) {
            (Some("subscribed"), None) => {
                let epoch = event["epoch"].as_str().expect("an epoch").to_owned();
                *reached = Some(Reached { topic: times.topic, epoch, first: offset, offset, reconnects: 0 });
                ready.send(()).expect("the test waits");
            }
            (Some("subscribed"), Some(reached)) => {
                times.step(SUBSCRIBED, counts);
                counts.reconnected(times);
                if event["epoch"] != *reached.epoch || offset != reached.offset || event["recovered"] != true
                {
                    let position = format!("{}:{}", reached.epoch, reached.offset);
                    counts.fail(format!("not resumed from {position}: {event}; {times}"));
                    reached.offset = offset;
                }
            }
            (Some("message"), Some(reached)) => {
                if offset != reached.offset + 1 {
                    counts.fail(format!("{event} behind {}", reached.offset));
                }
                reached.offset = offset;
                times.read = counts.started.elapsed();
                let published_us = event["data"].as_str().and_then(|data| data.parse().ok()).expect("a time");
                times.published = Duration::from_micros(published_us);
                if times.has_missed() {
                    times.missed += 1;
                    counts.missed_max.fetch_max(times.missed, Ordering::Relaxed);
                }
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
    let mut times = Reconnect::new(number);
    let mut socket = session(address, counts, &mut times);
    let mut due = Instant::now();
    let mut message = 0_u64;
    while !stopping.load(Ordering::Relaxed) {
        let topic = (number + message as usize * storm.publishers()) % storm.topics;
        let key = format!("{number}-{message}");
        let now_us = counts.started.elapsed().as_micros().to_string();
        let request = json!({
            "type": "publish", "id": message, "topic": format!("storm-{topic}"), "data": now_us, "idempotency_key": key,
        });
        let sent = Instant::now();
        let offset = loop {
            // A connection that is being closed does not take it; the next one does.
            let _ = socket.send(request.to_string().into());
            match next(&mut socket, counts, &mut times) {
                Ok(event) if event["type"] == "published" && event["id"] == message => {
                    break event["offset"].as_u64().expect("an offset");
                }
                Ok(event) => counts.fail(format!("instead of an acknowledgement: {event}")),
                Err(SERVICE_RESTART) => socket = session(address, counts, &mut times),
                Err(code) => {
                    counts.fail(format!("a publisher was closed with {code}"));
                    socket = session(address, counts, &mut times);
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
    let counts = Counts::new();
    let stopping = AtomicBool::new(false);
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
    report(&storm, &counts, &subscribers, published, [counts.started.elapsed(), publishing], &takeovers_ms);
}

/// Median, 99th percentile and maximum, in milliseconds.
fn distribution(times: &mut [Duration]) -> Value {
    times.sort();
    let at =
        |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1)));
    let ms = |time: Option<&Duration>| time.map(|time| (time.as_secs_f64() * 1e4).round() / 10.0);
    json!({"p50": ms(at(0.5)), "p99": ms(at(0.99)), "max": ms(times.last())})
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
    let (mut times, mut times_from_close): (Vec<Duration>, Vec<Duration>) =
        counts.reconnects.lock().expect("no panic").iter().copied().unzip();
    let record = json!({
        "schema": "echoring.upgrade-storm/1",
        "upgrades": storm.upgrades,
        "subscribers": storm.subscribers,
        "topics": storm.topics,
        "publishers": storm.publishers(),
        "drain_s": storm.drain_s,
        "history": storm.history,
        "history_lasts_s": storm.history_lasts_s(),
        "duration_s": time.as_secs_f64(),
        "publications": publications,
        "publications_per_s": publications as f64 / publishing.as_secs_f64(),
        "deliveries": load(&counts.delivered),
        "connects": load(&counts.connects),
        "reconnects_of_subscribers": reconnects,
        "from_last_message_to_subscribed_ms": distribution(&mut times),
        "from_close_to_subscribed_ms": distribution(&mut times_from_close),
        "missed_by_a_reconnect_max": load(&counts.missed_max),
        "slowest_reconnects": counts.slowest.lock().expect("no panic").iter().map(|(_, told)| told).collect::<Vec<_>>(),
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
