//! `serve --takeover`: a server replaces a running one on the same addresses. Its topics and clients move on, in the same epochs,
//! and a successor that fails leaves the running one alone. The real binary, on both drivers.

mod connections;
mod draining;
mod ended_predecessor;
mod ends;
mod grace;
mod killed;
mod lowered_limit;
mod other_users;
mod strangers;
mod tls;

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{self as unix, UnixStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{certificate, patient, ports, program};
use patient::Patient;
use program::command;
use serde_json::Value;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

const PATIENCE: Duration = Duration::from_secs(30);
const SUBSCRIBERS: usize = 10;
const SUBSCRIBE: &str = r#"{"type":"subscribe","id":1,"topic":"t"}"#;

/// Free addresses: for connections and for the operator.
#[derive(Clone, Copy)]
struct Addresses {
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Addresses {
    fn free() -> Addresses {
        let [listen, admin] = ports::free();
        Addresses { listen, admin }
    }
}

/// A server, killed when it goes out of scope at the latest.
struct Server(Child);

impl Server {
    /// A server that accepts connections, or its exit code and output.
    fn start(at: Addresses, words: &[&str]) -> Result<Server, (Option<i32>, String)> {
        Server::spawn(command(&[]), at, words)
    }

    /// The same of a program that has no words yet.
    fn spawn(mut program: Command, at: Addresses, words: &[&str]) -> Result<Server, (Option<i32>, String)> {
        let (listen, admin) = (at.listen.to_string(), at.admin.to_string());
        let common = ["serve", "--listen", &listen, "--admin", &admin, "--shards", "2", "--log", "warn"];
        program.args(common).args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = program.spawn().expect("it runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        if line.starts_with("listening ") {
            return Ok(Server(process));
        }
        let mut said = String::new();
        let _ = process.stderr.take().expect("piped").read_to_string(&mut said);
        Err((process.wait().expect("a child").code(), said))
    }

    fn ended(&mut self) -> Option<i32> {
        let given_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status.code();
            }
            assert!(Instant::now() < given_up, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Socket = WebSocket<Patient>;

fn open(at: Addresses, path: &str) -> Socket {
    opened(at, path, connected(at))
}

fn connected(at: Addresses) -> Patient {
    let stream = TcpStream::connect(at.listen).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    Patient(stream)
}

fn opened<S: Read + Write>(at: Addresses, path: &str, stream: S) -> WebSocket<S> {
    let mut request = format!("ws://{}{path}", at.listen).into_client_request().expect("a request");
    if path == "/broadcast" {
        let name = "echoring.v1.json".parse().expect("a value");
        request.headers_mut().insert("Sec-WebSocket-Protocol", name);
    }
    // Not all streams could be shown.
    let opened = tungstenite::client(request, stream).map_err(|error| error.to_string());
    opened.expect("an open connection").0
}

fn subscribed(at: Addresses, request: &str) -> (Socket, Value) {
    let mut socket = open(at, "/broadcast");
    socket.send(request.into()).expect("sent");
    let answer = next(&mut socket).expect("an answer");
    (socket, serde_json::from_str(&answer).expect("JSON"))
}

/// An event stream that continues from the id `last`; its head and its first event.
fn listen(at: Addresses, last: &str) -> (BufReader<TcpStream>, String) {
    let mut stream = TcpStream::connect(at.listen).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!("GET /sse/t HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {last}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut reader = BufReader::new(stream);
    let mut first = block(&mut reader);
    assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
    first += &block(&mut reader);
    (reader, first)
}

/// The lines up to an empty one.
fn block(reader: &mut BufReader<TcpStream>) -> String {
    let mut lines = String::new();
    loop {
        let start = lines.len();
        assert!(reader.read_line(&mut lines).expect("a line") > 0, "it ended behind {lines}");
        if lines[start..].trim_end().is_empty() {
            return lines;
        }
    }
}

/// The values of these fields in events.
fn values<'a>(events: &'a str, field: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
    events.lines().filter_map(move |line| line.strip_prefix(field))
}

/// The next text, or the code of a Close frame.
fn next<S: Read + Write>(socket: &mut WebSocket<S>) -> Result<String, u16> {
    loop {
        match socket.read().expect("it does not just end") {
            Message::Text(text) => return Ok(text.as_str().to_owned()),
            Message::Close(close) => return Err(close.map_or(1005, |close| close.code.into())),
            _ => {}
        }
    }
}

fn http(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sent");
    stream.shutdown(Shutdown::Write).expect("half closed");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn publish(at: Addresses, text: &str) -> String {
    let length = text.len();
    http(
        at.admin,
        &format!(
            "POST /topics/t HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{text}"
        ),
    )
}

fn pid(at: Addresses) -> u32 {
    let stats = http(at.admin, "GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let body = stats.split_once("\r\n\r\n").expect("a body").1;
    serde_json::from_str::<Value>(body).expect("JSON")["pid"].as_u64().expect("a number") as u32
}

/// Reads the texts of messages until the Close frame, whose code must be 1012.
fn until_restart(socket: &mut Socket, text: impl Fn(String) -> String) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        match next(socket) {
            Ok(message) => texts.push(text(message)),
            Err(code) => {
                assert_eq!(code, 1012, "{texts:?}");
                // The answer to the Close frame, and the end of the stream.
                while socket.read().is_ok() {}
                return texts;
            }
        }
    }
}

fn text_of(event: String) -> String {
    let event: Value = serde_json::from_str(&event).expect("JSON");
    assert_eq!(event["type"], "message", "{event}");
    event["text"].as_str().expect("a text").to_owned()
}

/// Connections of all kinds, which live through the takeovers.
struct Clients {
    raw: Vec<Socket>,
    sessions: Vec<Socket>,
    streams: Vec<BufReader<TcpStream>>,
    echo: Socket,
}

impl Clients {
    fn open(at: Addresses) -> Clients {
        Clients {
            raw: (0..SUBSCRIBERS).map(|_| open(at, "/broadcast/t")).collect(),
            sessions: (0..SUBSCRIBERS).map(|_| subscribed(at, SUBSCRIBE).0).collect(),
            streams: (0..SUBSCRIBERS).map(|_| listen(at, "").0).collect(),
            echo: open(at, "/echo"),
        }
    }

    /// All get this message next.
    fn get(&mut self, text: &str, offset: u64) {
        for socket in &mut self.raw {
            assert_eq!(next(socket).as_deref(), Ok(text));
        }
        for socket in &mut self.sessions {
            let message = next(socket).expect("no close");
            let message: Value = serde_json::from_str(&message).expect("JSON");
            assert_eq!((&message["text"], &message["offset"]), (&text.into(), &offset.into()), "{message}");
        }
        for stream in &mut self.streams {
            assert_eq!(values(&block(stream), "data: ").next(), Some(text));
        }
        self.echo.send(text.into()).expect("sent");
        assert_eq!(next(&mut self.echo).as_deref(), Ok(text));
    }
}

fn takes_over(driver: &str) {
    let at = Addresses::free();
    // Whoever cannot move has a day.
    let flags = ["--driver", driver, "--drain", "24h"];
    let mut server = Server::start(at, &flags).expect("the first");
    let mut clients = Clients::open(at);
    let (_, answer) = subscribed(at, SUBSCRIBE);
    let epoch = answer["epoch"].clone();
    for offset in [1, 3, 5, 7] {
        assert!(publish(at, "before").starts_with("HTTP/1.1 200 "));
        assert_eq!(pid(at), server.0.id());
        clients.get("before", offset);

        let successor = Server::start(at, &[&flags[..], &["--takeover"]].concat()).expect("a successor");
        assert_eq!(pid(at), successor.0.id());
        let mut later = open(at, "/broadcast/t");
        assert!(publish(at, "after").starts_with("HTTP/1.1 200 "));
        assert_eq!(next(&mut later).as_deref(), Ok("after"));
        clients.get("after", offset + 1);
        // All of its connections have moved.
        assert_eq!(server.ended(), Some(0));
        server = successor;
    }
    let position = format!(r#"{{"epoch":{epoch},"offset":7}}"#);
    let request = format!(r#"{{"type":"subscribe","id":1,"topic":"t","position":{position}}}"#);
    let (_, answer) = subscribed(at, &request);
    assert_eq!((&answer["recovered"], &answer["epoch"]), (&true.into(), &epoch), "the topic is the same");
}

#[test]
fn a_successor_on_io_uring_takes_everything_over() {
    if let Err(error) = echoring_async::ring_allowed() {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        return;
    }
    takes_over("uring");
}

#[test]
fn a_successor_on_epoll_takes_everything_over() {
    takes_over("epoll");
}

/// A request that the predecessor has begun to read is answered there, and every later one by the successor.
#[test]
fn an_operators_request_in_progress_is_answered() {
    let at = Addresses::free();
    let _server = Server::start(at, &[]).expect("the first");
    // It drains until this client has left.
    let _client = open(at, "/echo");
    let mut begun = TcpStream::connect(at.admin).expect("connected");
    begun.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let head =
        "POST /topics/t HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n";
    let fields = "Connection: close\r\nExpect: 100-continue\r\n";
    begun.write_all(format!("{head}{fields}\r\n").as_bytes()).expect("sent");
    let mut goes_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    begun.read_exact(&mut goes_on).expect("it asks for the body");
    let successor = Server::start(at, &["--takeover"]).expect("a successor");
    assert_eq!(pid(at), successor.0.id());
    let mut subscriber = open(at, "/broadcast/t");
    begun.write_all(b"begun").expect("sent");
    let mut answer = String::new();
    begun.read_to_string(&mut answer).expect("an answer");
    // To be sent again: the shard of the topic drains, or has already ended.
    let codes = [r#""code":"draining""#, r#""code":"ended""#];
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && codes.iter().any(|code| answer.contains(code)),
        "{answer}"
    );
    assert!(publish(at, "again").starts_with("HTTP/1.1 200 "));
    assert_eq!(next(&mut subscriber).as_deref(), Ok("again"));
}

/// A session of Centrifuge's protocol that subscribes to `t`, and the result.
fn centrifuge(at: Addresses, position: &str) -> (Socket, Value) {
    let mut socket = open(at, "/connection/websocket");
    let subscribe = format!(r#"{{"id":2,"subscribe":{{"channel":"t"{position}}}}}"#);
    socket.send(format!("{{\"id\":1,\"connect\":{{}}}}\n{subscribe}").into()).expect("sent");
    loop {
        let reply: Value = serde_json::from_str(&next(&mut socket).expect("a reply")).expect("JSON");
        if reply["id"] == 2 {
            return (socket, reply["subscribe"].clone());
        }
    }
}

#[test]
fn sessions_of_centrifuge_go_on_at_the_successor() {
    let at = Addresses::free();
    let flags = ["--drain", "24h"];
    let mut server = Server::start(at, &flags).expect("the first");
    let (mut socket, result) = centrifuge(at, "");
    let epoch = &result["epoch"];
    assert!(publish(at, "before").starts_with("HTTP/1.1 200 "));
    let _successor = Server::start(at, &[&flags[..], &["--takeover"]].concat()).expect("a successor");
    assert!(publish(at, "after").starts_with("HTTP/1.1 200 "));
    for offset in 1..=2 {
        let push: Value = serde_json::from_str(&next(&mut socket).expect("no close")).expect("JSON");
        assert_eq!(push["push"]["pub"]["offset"], offset, "{push}");
    }
    assert_eq!(server.ended(), Some(0));
    socket.send(r#"{"id":3,"publish":{"channel":"t","data":"its own"}}"#.into()).expect("sent");
    let replies = [next(&mut socket), next(&mut socket)].map(|reply| reply.expect("no close")).concat();
    assert!(replies.contains(r#""id":3"#) && replies.contains(r#""offset":3"#), "{replies}");
    let (_, result) = centrifuge(at, &format!(r#","recover":true,"epoch":{epoch},"offset":1"#));
    let missed = result["publications"].as_array().map_or(0, Vec::len);
    assert_eq!((&result["recovered"], missed), (&true.into(), 2), "{result}");
    assert_eq!(&result["epoch"], epoch);
}

#[test]
fn a_successor_that_cannot_start_leaves_the_server_alone() {
    let at = Addresses::free();
    let server = Server::start(at, &[]).expect("the first");
    let mut socket = open(at, "/broadcast/t");
    let other = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let occupied = Addresses { admin: other.local_addr().expect("its address"), ..at };
    let limited = ["--takeover", "--max-connections", "16000000"];
    for (at, words) in [(occupied, &["--takeover"][..]), (at, &limited)] {
        let Err((code, said)) = Server::start(at, words) else { panic!("it started") };
        assert_eq!(code, Some(3), "{said}");
    }
    assert_eq!(pid(at), server.0.id());
    assert!(publish(at, "still here").starts_with("HTTP/1.1 200 "));
    assert_eq!(next(&mut socket).as_deref(), Ok("still here"));
}

#[test]
fn a_stranger_on_the_port_is_not_joined() {
    let at = Addresses::free();
    let stranger =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    stranger.set_reuse_port(true).expect("allowed");
    stranger.set_reuse_address(true).expect("allowed");
    stranger.bind(&at.listen.into()).expect("free");
    stranger.listen(1).expect("a listener");
    let Err((code, said)) = Server::start(at, &["--takeover"]) else { panic!("it started") };
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("cannot take over"), "{said}");
}

#[test]
fn nobody_to_take_over_from_is_no_hindrance() {
    let at = Addresses::free();
    let server = Server::start(at, &["--takeover"]).expect("a server");
    assert_eq!(pid(at), server.0.id());
}

/// A successor is still root when it asks for the listeners; its predecessor no longer is.
#[test]
fn a_server_that_gives_up_root_takes_over_from_its_like() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let at = Addresses::free();
    let flags = ["--user", "4242:4242", "--drain", "1s"];
    let mut server = Server::start(at, &flags).expect("the first");
    let mut socket = open(at, "/broadcast/t");
    let successor = Server::start(at, &[&flags[..], &["--takeover"]].concat()).expect("a successor");
    assert_eq!(pid(at), successor.0.id());
    assert_eq!(server.ended(), Some(0));
    assert!(publish(at, "still here").starts_with("HTTP/1.1 200 "));
    assert_eq!(next(&mut socket).as_deref(), Ok("still here"));
    // Another user's is not its like.
    let Err((code, said)) = Server::start(at, &["--user", "4243:4243", "--takeover"]) else {
        panic!("it started")
    };
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("no server of this user"), "{said}");
    assert_eq!(pid(at), successor.0.id());
}

/// Sends a request to the server of connections.
fn request(at: Addresses) -> TcpStream {
    let mut stream = TcpStream::connect(at.listen).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    stream
}

/// The status line of the answer to it, which is read whole.
fn status(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.lines().next().unwrap_or_default().to_owned()
}

/// A successor that the test plays, as far as it goes.
struct Played(UnixStream);

const VERSION: u32 = 7;
/// Kinds of frames.
const HELLO: u8 = 1;
const OFFER: u8 = 3;
const BEGIN: u8 = 4;
const STATE: u8 = 5;
const STATE_END: u8 = 6;
const IMPORTED: u8 = 7;
const GO: u8 = 8;

impl Played {
    fn connect(at: Addresses) -> Played {
        let name = format!("echoring/takeover/{}", at.listen);
        let address = unix::SocketAddr::from_abstract_name(name).expect("a name");
        let stream = UnixStream::connect_addr(&address).expect("it waits for a successor");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Played(stream)
    }

    fn ask(&mut self, version: u32) -> String {
        self.0.write_all(format!("echoring takeover {version}\n").as_bytes()).expect("sent");
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("a line");
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("text")
    }

    fn send(&mut self, kind: u8, body: &[u8]) {
        let length = (body.len() as u32 + 1).to_le_bytes();
        self.0.write_all(&[&length[..], &[kind], body].concat()).expect("sent");
    }

    fn hear(&mut self) -> u8 {
        self.hear_all().0
    }

    /// The kind and the body of the next frame.
    fn hear_all(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).expect("a frame");
        let [length @ .., kind] = head;
        let mut body = vec![0; u32::from_le_bytes(length) as usize - 1];
        self.0.read_exact(&mut body).expect("its body");
        (kind, body)
    }

    /// Goes this many steps.
    fn go(&mut self, steps: usize) {
        let mut step = 0..steps;
        let mut next = || step.next().is_some();
        if next() {
            assert_eq!(self.ask(VERSION), "ok\n");
        }
        if next() {
            // Two shards, 64 KiB, and room for no connections.
            let process = [&[2, 0][..], &65_536_u64.to_le_bytes()].concat();
            self.send(HELLO, &[&process[..], &[0; 4]].concat());
        }
        if next() {
            assert_eq!(self.hear(), OFFER);
            // A byte for the descriptors, which are lost.
            self.0.read_exact(&mut [0]).expect("a batch of descriptors");
        }
        if next() {
            // It has no back ends.
            self.send(BEGIN, &[0; 4]);
        }
        if next() {
            assert_eq!(self.hear(), STATE);
        }
        if next() {
            while self.hear() != STATE_END {}
        }
        if next() {
            self.send(IMPORTED, &[]);
        }
        if next() {
            assert_eq!(self.hear(), GO);
        }
    }
}

#[test]
fn a_successor_that_ends_at_any_step_leaves_the_server_serving() {
    const STEPS: usize = 8;
    for driver in ["auto", "epoll"] {
        let at = Addresses::free();
        let server = Server::start(at, &["--driver", driver]).expect("a server");
        let (mut subscriber, answer) = subscribed(at, SUBSCRIBE);
        let epoch = answer["epoch"].as_str().expect("an epoch").to_owned();
        for steps in 0..=STEPS {
            let mut successor = Played::connect(at);
            successor.go(steps);
            // Publications wait meanwhile.
            let publisher = thread::spawn(move || publish(at, "still here"));
            let mut other = request(at);
            if steps == STEPS {
                // A connection may be the successor's from now on: it waits for whoever accepts next.
                other.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
                let early = other.read(&mut [0]).expect_err("nobody accepts");
                assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
                other.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            }
            // With the topics imported, the server lets go of its listeners at a time of its own.
            if steps < STEPS - 1 {
                assert!(status(other).ends_with("200 OK"), "after step {steps}");
                drop(successor);
            } else {
                drop(successor);
                assert!(status(other).ends_with("200 OK"), "after step {steps}");
            }
            assert!(
                publisher.join().expect("a publisher").starts_with("HTTP/1.1 200 "),
                "after step {steps}"
            );
            let message: Value =
                serde_json::from_str(&next(&mut subscriber).expect("a message")).expect("JSON");
            assert_eq!(message["offset"], steps as u64 + 1, "{message}");
        }
        assert_eq!(pid(at), server.0.id());
        let (_, answer) = subscribed(at, SUBSCRIBE);
        assert_eq!((&answer["epoch"], &answer["offset"]), (&epoch.into(), &(STEPS as u64 + 1).into()));
    }
}

/// Frames of a successor that orders everything.
const STARTED: u8 = 9;

#[test]
fn who_comes_second_is_told_that_another_was_first() {
    let at = Addresses::free();
    let _server = Server::start(at, &["--drain", "1s"]).expect("a server");
    let mut first = Played::connect(at);
    first.go(3);
    let mut second = Played::connect(at);
    let told = thread::spawn(move || second.ask(VERSION));
    first.send(BEGIN, &[0; 4]);
    while first.hear() != STATE_END {}
    first.send(IMPORTED, &[]);
    assert_eq!(first.hear(), GO);
    first.send(STARTED, &[]);
    assert_eq!(told.join().expect("a line"), "another server took over first\n");
}

#[test]
fn another_version_and_nonsense_are_refused_in_words() {
    let at = Addresses::free();
    let server = Server::start(at, &[]).expect("a server");
    for version in [VERSION - 1, VERSION + 1] {
        let answer = Played::connect(at).ask(version);
        assert!(answer.contains(&format!("echoring takeover {VERSION}")), "{answer}");
    }
    for nonsense in [&[0xff; 300][..], b"\n", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stranger = Played::connect(at);
        // It may be gone before all is written.
        let _ = stranger.0.write_all(nonsense);
        let _ = stranger.0.shutdown(std::net::Shutdown::Write);
        let _ = stranger.0.read_to_end(&mut Vec::new());
    }
    let mut stranger = Played::connect(at);
    assert_eq!(stranger.ask(VERSION), "ok\n");
    stranger.send(HELLO, b"nonsense");
    stranger.0.read_to_end(&mut Vec::new()).expect("it is left alone");
    assert!(publish(at, "still here").starts_with("HTTP/1.1 200 "));
    assert_eq!(pid(at), server.0.id());
}

#[test]
fn a_socket_file_joins_servers_of_separate_namespaces() {
    let at = Addresses::free();
    let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("takeover-{}", std::process::id()));
    let flags = ["--takeover-socket", path.to_str().expect("UTF-8"), "--takeover", "--drain", "1s"];
    let mut server = Server::start(at, &flags).expect("the first");
    assert!(publish(at, "before").starts_with("HTTP/1.1 200 "));
    for generation in 1..=2 {
        let successor = Server::start(at, &flags).expect("a successor");
        assert_eq!(pid(at), successor.0.id());
        assert_eq!(server.ended(), Some(0));
        let (_, answer) = subscribed(at, SUBSCRIBE);
        assert_eq!(answer["offset"], 1, "of generation {generation}");
        server = successor;
    }
    drop(server);
    std::fs::remove_file(&path).expect("it is there");
}

#[test]
fn a_unix_socket_is_taken_over_with_its_file() {
    let path =
        std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("unix-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listen = format!("unix:{}", path.display());
    let start = |words: &[&str]| {
        let common = ["serve", "--listen", &listen, "--admin", "off", "--shards", "2", "--drain", "1s"];
        let mut process =
            command(&[&common, words].concat()).stdout(Stdio::piped()).spawn().expect("it runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert!(line.starts_with("listening "), "{line}");
        Server(process)
    };
    let mut server = start(&[]);
    let mut successor = start(&["--takeover"]);
    assert_eq!(server.ended(), Some(0));
    assert!(path.exists(), "the file is the successor's");
    let stream = UnixStream::connect(&path).expect("connected");
    let (mut socket, _) = tungstenite::client("ws://localhost/echo", stream).expect("open");
    socket.send("hello".into()).expect("sent");
    assert_eq!(socket.read().expect("an echo"), Message::text("hello"));
    program::signal(&successor.0, rustix::process::Signal::TERM);
    assert_eq!(successor.ended(), Some(0));
    assert!(!path.exists(), "it removes the file");
}

#[test]
fn tls_sessions_of_a_server_are_resumed_at_its_successor() {
    let files = certificate::certificate();
    let [cert, key] = [&files.cert, &files.key].map(|path| path.to_str().expect("UTF-8"));
    let at = Addresses::free();
    let flags = ["--tls-cert", cert, "--tls-key", key, "--drain", "1s", "--takeover"];
    let client = certificate::trusting();
    let handshake = || {
        let mut session =
            rustls::ClientConnection::new(client.clone(), certificate::localhost()).expect("a client");
        let mut stream = TcpStream::connect(at.listen).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut tls = rustls::Stream::new(&mut session, &mut stream);
        tls.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
        // The tickets come before the answer.
        let mut answer = String::new();
        tls.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        session.handshake_kind().expect("it is over")
    };
    let mut server = Server::start(at, &flags).expect("the first");
    assert_eq!(handshake(), rustls::HandshakeKind::Full);
    for _ in 0..2 {
        let successor = Server::start(at, &flags).expect("a successor");
        assert_eq!(server.ended(), Some(0));
        server = successor;
        assert_eq!(handshake(), rustls::HandshakeKind::Resumed);
    }
}

/// Those whose connections have not moved: this successor takes none.
#[test]
fn a_lost_successor_sends_everyone_away_at_once() {
    let at = Addresses::free();
    let mut server = Server::start(at, &["--drain", "1h"]).expect("the first");
    let (mut session, _) = subscribed(at, SUBSCRIBE);
    let mut raw = open(at, "/broadcast/t");
    let mut successor = Played::connect(at);
    successor.go(8);
    successor.send(STARTED, &[]);
    drop(successor);
    let nothing: &[String] = &[];
    assert_eq!(until_restart(&mut session, text_of), nothing);
    assert_eq!(until_restart(&mut raw, |text| text), nothing);
    assert_eq!(server.ended(), Some(0));
}
