//! A process of a takeover is killed at any moment, also while connections move: they end at worst, none hangs, and positions hold.
//!
//! `TAKEOVER_KILLS` sets the number of moments, and `TAKEOVER_KILLS_SEED` their seed.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use echoring_runtime::driver::sim::Random;

use super::tls::{Secured, flags as secured};
use super::*;

const CLIENTS_OF_EACH_KIND: usize = 8;
/// Connections that only make the move longer.
const IDLE: usize = 60;
const LAST: &str = "the last";

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// A connection with or without TLS.
type Line = WebSocket<Box<dyn Stream>>;

fn line(at: Addresses, path: &str, is_secured: bool) -> Line {
    let stream: Box<dyn Stream> = match is_secured {
        true => Box::new(Secured::connect(at, &certificate::trusting())),
        false => Box::new(connected(at)),
    };
    opened(at, path, stream)
}

/// What the clients of one moment know of one another.
#[derive(Default)]
struct Scene {
    is_over: AtomicBool,
    /// The texts of acknowledged publications, by epoch and offset.
    acknowledged: Mutex<BTreeMap<(String, u64), String>>,
    is_secured: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Echo,
    Raw,
    Session,
}

/// A client until its connection ends, or until it has heard the last message.
struct Follower {
    kind: Kind,
    socket: Line,
    epoch: String,
    /// Texts by offset; of a raw subscriber by their order.
    heard: BTreeMap<u64, String>,
    reached: u64,
    has_ended: bool,
}

impl Follower {
    fn open(at: Addresses, kind: Kind, is_secured: bool) -> Follower {
        let path = match kind {
            Kind::Echo => "/echo",
            Kind::Raw => "/broadcast/t",
            Kind::Session => "/broadcast",
        };
        let socket = line(at, path, is_secured);
        let (epoch, heard) = (String::new(), BTreeMap::new());
        let mut own = Follower { kind, socket, epoch, heard, reached: 0, has_ended: false };
        if kind == Kind::Session {
            own.socket.send(SUBSCRIBE.into()).expect("sent");
            let subscribed = own.next().expect("an answer");
            own.subscribed(&subscribed);
        }
        own
    }

    /// The next text. `None` if the connection has ended.
    fn next(&mut self) -> Option<String> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Some(text.as_str().to_owned()),
                Ok(Message::Close(close)) => {
                    let code = close.map_or(1005, |close| u16::from(close.code));
                    assert_eq!(code, 1012, "of {:?}, behind {}", self.kind, self.reached);
                    return None;
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    panic!("a connection of {:?} hangs", self.kind);
                }
                Err(_) => return None,
            }
        }
    }

    /// Follows until the connection ends, or until everything is over.
    fn follow(mut self, scene: &Scene) -> Follower {
        for number in 0_u64.. {
            if self.kind == Kind::Echo {
                if scene.is_over.load(Ordering::Relaxed) {
                    return self;
                }
                let sent = format!("{number}");
                self.has_ended = self.socket.send(sent.clone().into()).is_err();
                thread::sleep(Duration::from_millis(1));
                match self.next().filter(|_| !self.has_ended) {
                    Some(came) => assert_eq!(came, sent, "the bytes are one stream"),
                    None => self.has_ended = true,
                }
            } else if let Some(text) = self.next() {
                if self.hear(&text) == LAST {
                    return self;
                }
            } else {
                self.has_ended = true;
            }
            if self.has_ended {
                return self;
            }
        }
        self
    }

    /// Notes a message. Returns its text.
    fn hear(&mut self, text: &str) -> String {
        if self.kind == Kind::Raw {
            self.reached += 1;
            self.heard.insert(self.reached, text.to_owned());
            return text.to_owned();
        }
        let event: Value = serde_json::from_str(text).expect("JSON");
        match event["type"].as_str() {
            Some("message") => {
                let offset = event["offset"].as_u64().expect("an offset");
                assert_eq!(offset, self.reached + 1, "nothing is left out or repeated");
                self.reached = offset;
                let text = event["text"].as_str().expect("a text").to_owned();
                self.heard.insert(offset, text.clone());
                text
            }
            Some("gap") => {
                self.reached = event["to"].as_u64().expect("an offset");
                String::new()
            }
            Some("heartbeat") => String::new(),
            _ => panic!("{event}"),
        }
    }

    fn subscribed(&mut self, text: &str) {
        let event: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(event["type"], "subscribed", "{event}");
        let epoch = event["epoch"].as_str().expect("an epoch").to_owned();
        let offset = event["offset"].as_u64().expect("an offset");
        if self.epoch == epoch {
            assert!(event["recovered"] == false || offset == self.reached, "{event} behind {}", self.reached);
        } else if !self.epoch.is_empty() {
            assert_eq!(event["recovered"], false, "it is told of the loss: {event}");
            self.heard.clear();
        }
        (self.epoch, self.reached) = (epoch, offset);
    }

    /// Returns with its position, and follows.
    fn again(mut self, at: Addresses, scene: &Scene) -> Follower {
        self.socket = line(at, "/broadcast", scene.is_secured);
        let mut request: Value = serde_json::from_str(SUBSCRIBE).expect("JSON");
        request["position"] = serde_json::json!({"epoch": self.epoch, "offset": self.reached});
        self.socket.send(request.to_string().into()).expect("sent");
        let subscribed = self.next().expect("an answer");
        self.subscribed(&subscribed);
        self.has_ended = false;
        // What it missed may be lost.
        assert!(publish_to(at, scene, LAST));
        self.follow(scene)
    }

    /// It has every acknowledged message of its epoch behind the first that it has.
    fn check(&self, scene: &Scene) {
        let acknowledged = scene.acknowledged.lock().expect("no panic");
        let first = self.heard.keys().next().copied().unwrap_or(u64::MAX);
        for ((epoch, offset), text) in acknowledged.iter() {
            if *epoch == self.epoch && *offset >= first && *offset <= self.reached {
                assert_eq!(self.heard.get(offset), Some(text), "offset {offset}");
            }
        }
    }
}

/// Publishes as long as somebody answers. Returns whether it was accepted.
fn publish_to(at: Addresses, scene: &Scene, text: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(at.admin) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let length = text.len();
    let head =
        "POST /topics/t HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/plain\r\n";
    let mut answer = String::new();
    let is_sent =
        stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{text}").as_bytes()).is_ok();
    if !is_sent || stream.read_to_string(&mut answer).is_err() || !answer.starts_with("HTTP/1.1 200 ") {
        return false;
    }
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let body: Value = serde_json::from_str(body).expect("JSON");
    let (epoch, offset) =
        (body["epoch"].as_str().expect("an epoch"), body["offset"].as_u64().expect("an offset"));
    scene.acknowledged.lock().expect("no panic").insert((epoch.to_owned(), offset), text.to_owned());
    true
}

fn publish_on(at: Addresses, scene: &Arc<Scene>) -> JoinHandle<()> {
    let scene = Arc::clone(scene);
    thread::spawn(move || {
        for number in 0.. {
            if scene.is_over.load(Ordering::Relaxed) {
                return;
            }
            publish_to(at, &scene, &format!("{number}"));
            thread::sleep(Duration::from_millis(1));
        }
    })
}

fn config_file() -> PathBuf {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("killed-{}.toml", std::process::id()));
    std::fs::write(&file, "[topic_defaults]\nhistory_messages = 100000\n").expect("written");
    file
}

/// Kills one of two servers at some moment. Returns what happened.
fn kill_one(at: Addresses, flags: &[&str], is_secured: bool, random: &mut Random) -> String {
    let mut first = Server::start(at, flags).expect("the first");
    let scene = Arc::new(Scene { is_secured, ..Scene::default() });
    let idle: Vec<Line> = (0..IDLE).map(|_| line(at, "/echo", is_secured)).collect();
    let kinds = [Kind::Echo, Kind::Raw, Kind::Session];
    let followers: Vec<JoinHandle<Follower>> = (0..kinds.len() * CLIENTS_OF_EACH_KIND)
        .map(|number| {
            let (kind, scene) = (kinds[number % kinds.len()], Arc::clone(&scene));
            let follower = Follower::open(at, kind, is_secured);
            thread::spawn(move || follower.follow(&scene))
        })
        .collect();
    let publisher = publish_on(at, &scene);
    thread::sleep(Duration::from_millis(30));
    // Mostly just after the successor serves, which is when connections move.
    let (is_early, kills_first) = (random.chance(300), random.chance(500));
    let after = Duration::from_micros(random.below(if is_early { 60_000 } else { 15_000 }) as u64);
    let (listen, admin) = (at.listen.to_string(), at.admin.to_string());
    let words =
        ["serve", "--listen", &listen, "--admin", &admin, "--shards", "2", "--log", "error", "--takeover"];
    let mut second = Server(command(&words).args(flags).stdout(Stdio::piped()).spawn().expect("it runs"));
    if !is_early {
        BufReader::new(second.0.stdout.take().expect("piped")).read_line(&mut String::new()).expect("a line");
    }
    thread::sleep(after);
    let killed = if kills_first { &mut first } else { &mut second };
    killed.0.kill().expect("killed");
    killed.0.wait().expect("a child");
    // A successor serves; a predecessor serves, or ends and is replaced.
    let survivor = if kills_first { &mut second } else { &mut first };
    let given_up = Instant::now() + PATIENCE;
    let mut third = None;
    while !publish_to(at, &scene, "still served") {
        assert!(Instant::now() < given_up, "neither serves nor ends");
        if third.is_none() && survivor.0.try_wait().expect("a child").is_some() {
            assert!(!kills_first, "the successor ended {after:?} after the start, {is_early}");
            third = Some(Server::start(at, flags).expect("a new server"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(20));
    scene.is_over.store(true, Ordering::Relaxed);
    publisher.join().expect("no panic");
    assert!(publish_to(at, &scene, LAST));
    let followers: Vec<Follower> = followers
        .into_iter()
        .map(|follower| follower.join().expect("none hangs, and all is right"))
        .collect();
    let ended = followers.iter().filter(|follower| follower.has_ended).count();
    for follower in followers {
        let follower = match follower.kind {
            Kind::Session if follower.has_ended => {
                let follower = follower.again(at, &scene);
                assert!(!follower.has_ended);
                follower
            }
            _ => follower,
        };
        if follower.kind == Kind::Session {
            follower.check(&scene);
        }
    }
    drop(idle);
    format!(
        "{} killed {after:?} after {}: {ended} connections ended, {}",
        if kills_first { "predecessor" } else { "successor" },
        if is_early { "its successor began" } else { "it served" },
        if third.is_some() { "a new server" } else { "the other one serves" },
    )
}

#[test]
fn a_process_of_a_takeover_may_be_killed_at_any_moment() {
    killed_at_any_moment(false);
}

/// A session is never in two processes: its client would hear a record that is not the next one.
#[test]
fn a_process_of_a_takeover_with_tls_may_be_killed_at_any_moment() {
    killed_at_any_moment(true);
}

fn killed_at_any_moment(is_secured: bool) {
    let variable = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seed = variable("TAKEOVER_KILLS_SEED").unwrap_or(0);
    let config = config_file();
    let mut flags = vec!["--drain", "1s", "--config", config.to_str().expect("UTF-8")];
    if is_secured {
        flags = secured(&flags);
    }
    for number in 0..variable("TAKEOVER_KILLS").unwrap_or(10) {
        let mut random = Random::new(seed + number);
        let told = kill_one(Addresses::free(), &flags, is_secured, &mut random);
        eprintln!("{}: {told}", seed + number);
    }
}
