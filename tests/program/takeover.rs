//! `serve --takeover`: a server replaces a running one on the same addresses, and no client is lost without a Close
//! frame. The real binary, on both drivers.

#[path = "../support/patient.rs"]
mod patient;
#[path = "../support/ports.rs"]
mod ports;
#[allow(dead_code, reason = "not every test uses all of it")]
#[path = "../support/program.rs"]
mod program;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use patient::Patient;
use program::command;
use serde_json::Value;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

const PATIENCE: Duration = Duration::from_secs(30);
const SUBSCRIBERS: usize = 10;

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
        let (listen, admin) = (at.listen.to_string(), at.admin.to_string());
        let common = ["serve", "--listen", &listen, "--admin", &admin, "--shards", "2", "--log", "warn"];
        let mut process = command(&[&common, words].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
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
    let stream = TcpStream::connect(at.listen).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut request = format!("ws://{}{path}", at.listen).into_client_request().expect("a request");
    if path == "/broadcast" {
        let name = "echoring.v1.json".parse().expect("a value");
        request.headers_mut().insert("Sec-WebSocket-Protocol", name);
    }
    tungstenite::client(request, Patient(stream)).expect("an open connection").0
}

fn subscribed(at: Addresses, request: &str) -> (Socket, Value) {
    let mut socket = open(at, "/broadcast");
    socket.send(request.into()).expect("sent");
    let answer = next(&mut socket).expect("an answer");
    (socket, serde_json::from_str(&answer).expect("JSON"))
}

/// The next text, or the code of a Close frame.
fn next(socket: &mut Socket) -> Result<String, u16> {
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

fn takes_over(driver: &str) {
    let at = Addresses::free();
    let mut server = Server::start(at, &["--driver", driver]).expect("the first");
    let mut epochs = Vec::new();
    for generation in 0..4 {
        // Whoever subscribed before a message was acknowledged gets it.
        let mut raw: Vec<Socket> = (0..SUBSCRIBERS).map(|_| open(at, "/broadcast/t")).collect();
        let request = r#"{"type":"subscribe","id":1,"topic":"t"}"#;
        let mut sessions: Vec<Socket> = (0..SUBSCRIBERS)
            .map(|_| {
                let (socket, answer) = subscribed(at, request);
                assert_eq!(answer["type"], "subscribed", "{answer}");
                epochs.push((generation, answer["epoch"].to_string()));
                socket
            })
            .collect();
        let mut echo = open(at, "/echo");
        assert!(publish(at, "before").starts_with("HTTP/1.1 200 "));
        assert_eq!(pid(at), server.0.id());

        let successor = Server::start(at, &["--driver", driver, "--takeover"]).expect("a successor");
        // All connections are those of the successor from here on.
        assert_eq!(pid(at), successor.0.id());
        let mut later = open(at, "/broadcast/t");
        assert!(publish(at, "after").starts_with("HTTP/1.1 200 "));
        assert_eq!(next(&mut later).as_deref(), Ok("after"));

        for socket in &mut raw {
            assert_eq!(next(socket).as_deref(), Ok("before"));
            assert_eq!(next(socket), Err(1012));
        }
        for socket in &mut sessions {
            let message: Value = serde_json::from_str(&next(socket).expect("a message")).expect("JSON");
            assert_eq!((&message["type"], &message["text"]), (&"message".into(), &"before".into()));
            assert_eq!(next(socket), Err(1012));
        }
        assert_eq!(next(&mut echo), Err(1012));
        for socket in raw.iter_mut().chain(&mut sessions).chain([&mut echo]) {
            // The answer to the Close frame, and the end of the stream.
            while socket.read().is_ok() {}
        }
        assert_eq!(server.ended(), Some(0));
        server = successor;
    }
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 4, "each server's topic is another one: {epochs:?}");
}

#[test]
fn a_successor_on_io_uring_takes_all_addresses_and_everyone_is_told() {
    if let Err(error) = echoring_async::ring_allowed() {
        assert!(std::env::var_os("CI").is_none(), "io_uring is denied here: {error}");
        return;
    }
    takes_over("uring");
}

#[test]
fn a_successor_on_epoll_takes_all_addresses_and_everyone_is_told() {
    takes_over("epoll");
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
