//! A server embedded in another program: its handlers, the effect of their errors, and its end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use echoring_proto::CloseCode;
use echoring_proto::handshake::OriginPolicy;
use echoring_server::{
    Builder, Chunk, Closed, Disposition, DriverChoice, Failure, Handler, ListenAddress, Message, Opening,
    Path, Remote, RequestContext, Response, Result, Route, Server, StartErrorKind,
};
use echoring_topics::TopicReport;

mod balance;
mod migrate;
mod names;
mod ranges;
mod routes;
mod senders;
mod stalls;
mod waiting;

/// Longer than any deadline of the server that a test waits for, so that a hang fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `test` with one shard on a free port: with the default driver, and with epoll.
fn on_both_drivers(build: impl Fn(Builder) -> Builder, test: impl Fn(&Server, SocketAddr)) {
    for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
        let builder = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).driver(driver);
        let server = build(builder).start().expect("the server starts");
        test(&server, address(&server));
        assert_eq!(server.handle().snapshots().expect("no shard").len(), 1, "the shard is still there");
        server.shutdown(PATIENCE).expect("it ends in order");
    }
}

fn address(server: &Server) -> SocketAddr {
    match server.addresses() {
        [ListenAddress::Tcp(address)] => *address,
        other => panic!("{other:?}"),
    }
}

/// A client that sends given bytes, masked with zeros.
struct Peer(TcpStream);

impl Peer {
    fn request(address: SocketAddr, path: &str, fields: &str) -> (Peer, String) {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a response");
            head.push(byte[0]);
        }
        (Peer(stream), String::from_utf8(head).expect("text"))
    }

    /// Requests an upgrade. Returns the head of the response.
    fn upgrade(address: SocketAddr, path: &str, fields: &str) -> (Peer, String) {
        let fields = format!(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{fields}"
        );
        Peer::request(address, path, &fields)
    }

    fn open(address: SocketAddr, path: &str) -> Peer {
        let (peer, head) = Peer::upgrade(address, path, "");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        peer
    }

    fn body(mut self) -> String {
        let mut body = String::new();
        self.0.read_to_string(&mut body).expect("a body and an end");
        body
    }

    fn send(&mut self, first_byte: u8, payload: &[u8]) {
        let mut frame = vec![first_byte];
        match payload.len() {
            bytes @ 0..126 => frame.push(0x80 | bytes as u8),
            bytes => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(bytes).expect("16 bits").to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).expect("sent");
    }

    fn text(&mut self, text: &str) {
        self.send(0x81, text.as_bytes());
    }

    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).expect("a frame");
        let bytes = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.0.read_exact(&mut length).expect("a length");
                u16::from_be_bytes(length).into()
            }
            bytes => usize::from(bytes),
        };
        let mut payload = vec![0; bytes];
        self.0.read_exact(&mut payload).expect("a payload");
        (head[0], payload)
    }

    fn hears(&mut self, text: &str) {
        let (first, payload) = self.frame();
        assert_eq!((first, String::from_utf8_lossy(&payload).as_ref()), (0x81, text));
    }

    /// Code and reason of the Close frame that comes next. Answers it.
    fn close(&mut self) -> (u16, String) {
        let (first, payload) = self.frame();
        assert_eq!(first, 0x88, "{payload:?}");
        self.send(0x88, &payload[..2]);
        let code = u16::from_be_bytes([payload[0], payload[1]]);
        (code, String::from_utf8(payload[2..].to_vec()).expect("text"))
    }
}

/// A handler that executes commands in text messages.
struct Obedient {
    heard: mpsc::Sender<String>,
}

impl Handler for Obedient {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.send_text("welcome")?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        match message.text() {
            Some("panic") => panic!("as it was told"),
            Some("error") => {
                "x".parse::<u32>()?;
            }
            Some("refuse") => return Err(Failure::new(CloseCode(4000), "no")),
            Some("close") => remote.close(CloseCode::NORMAL, "bye"),
            Some("cut") => remote.hang_up(),
            Some("parts") => remote.send_in_parts(message, 2)?,
            Some("ping") => remote.ping(b"are you there")?,
            Some("later") => remote.wake_after(Duration::from_millis(20)),
            Some(word) if word.starts_with("reserve ") => {
                let granted = remote.reserve(word["reserve ".len()..].parse()?);
                remote.send_text(if granted { "granted" } else { "denied" })?;
            }
            _ => return Ok(Disposition::Echo),
        }
        Ok(Disposition::Done)
    }

    fn ping(&mut self, remote: &mut Remote<'_>, payload: &[u8]) -> Result {
        Ok(remote.send_text(&format!("ping {}", String::from_utf8_lossy(payload)))?)
    }

    fn pong(&mut self, remote: &mut Remote<'_>, payload: &[u8]) -> Result {
        Ok(remote.send_text(&format!("pong {}", String::from_utf8_lossy(payload)))?)
    }

    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.send_text("now")?)
    }

    fn close(&mut self, closed: &Closed) {
        // Only some tests receive from this channel.
        let _ = self.heard.send(format!("close {} {}", closed.code, closed.cause.name()));
    }
}

impl Drop for Obedient {
    fn drop(&mut self) {
        let _ = self.heard.send("drop".to_owned());
    }
}

fn with_obedient(builder: Builder) -> (Builder, mpsc::Receiver<String>) {
    let (heard, hears) = mpsc::channel();
    (builder.handle("/ws", move || Obedient { heard: heard.clone() }), hears)
}

fn obedient_on_both_drivers(test: impl Fn(&Server, SocketAddr, &mpsc::Receiver<String>)) {
    for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
        let builder = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).driver(driver);
        let (builder, heard) = with_obedient(builder);
        let server = builder.start().expect("the server starts");
        test(&server, address(&server), &heard);
        server.shutdown(PATIENCE).expect("it ends in order");
    }
}

fn next(heard: &mpsc::Receiver<String>) -> String {
    heard.recv_timeout(PATIENCE).expect("the handler says something")
}

#[test]
fn a_handler_greets_echoes_answers_and_is_woken() {
    obedient_on_both_drivers(|_, address, heard| {
        let mut peer = Peer::open(address, "/ws");
        peer.hears("welcome");
        peer.text("an echo");
        peer.hears("an echo");
        peer.send(0x82, b"\xff");
        assert_eq!(peer.frame(), (0x82, b"\xff".to_vec()));
        // A message in three frames arrives whole.
        peer.send(0x01, b"x");
        peer.send(0x00, b"y");
        peer.send(0x80, b"z");
        peer.hears("xyz");
        peer.text("parts");
        assert_eq!((peer.frame(), peer.frame()), ((0x01, b"pa".to_vec()), (0x80, b"rts".to_vec())));
        peer.text("ping");
        assert_eq!(peer.frame(), (0x89, b"are you there".to_vec()));
        peer.send(0x8a, b"are you there");
        peer.hears("pong are you there");
        peer.send(0x89, b"hello");
        assert_eq!(peer.frame(), (0x8a, b"hello".to_vec()));
        peer.hears("ping hello");
        peer.text("later");
        peer.hears("now");
        peer.text("close");
        assert_eq!(peer.close(), (1000, "bye".to_owned()));
        assert_eq!((next(heard), next(heard)), ("close 1000 local".to_owned(), "drop".to_owned()));
    });
}

#[test]
fn an_error_or_a_panic_closes_its_own_connection_alone() {
    obedient_on_both_drivers(|server, address, heard| {
        let mut bystander = Peer::open(address, "/ws");
        bystander.hears("welcome");
        for (word, expected) in [
            ("panic", (1011, "internal error")),
            ("error", (1011, "internal error")),
            ("refuse", (4000, "no")),
        ] {
            let mut peer = Peer::open(address, "/ws");
            peer.hears("welcome");
            // Messages before it are answered, messages after it are not.
            peer.text("before");
            peer.text(word);
            peer.hears("before");
            assert_eq!(peer.close(), (expected.0, expected.1.to_owned()));
            // After a panic a handler is told nothing more.
            if word != "panic" {
                assert_eq!(next(heard), format!("close {} local", expected.0));
            }
            assert_eq!(next(heard), "drop", "its handler is gone");
            bystander.text("still here");
            bystander.hears("still here");
        }
        let counters = &server.handle().snapshots().expect("no shard")[0].counters;
        assert_eq!((counters.handler_failures, counters.handler_panics), (3, 1));
    });
}

#[test]
fn a_handler_may_cut_the_stream() {
    obedient_on_both_drivers(|_, address, heard| {
        let mut peer = Peer::open(address, "/ws");
        peer.hears("welcome");
        peer.text("cut");
        assert_eq!(peer.0.read(&mut [0; 1]).expect("an end"), 0);
        assert_eq!((next(heard), next(heard)), ("close 1006 local".to_owned(), "drop".to_owned()));
    });
}

#[test]
fn what_a_handler_reserves_is_bounded_and_comes_back() {
    let builder = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).memory_budget(64 << 20);
    let (builder, heard) = with_obedient(builder);
    let server = builder.start().expect("the server starts");
    let used = || server.handle().snapshots().expect("no shard")[0].pool_bytes;
    for word in ["close", "panic"] {
        let mut peer = Peer::open(address(&server), "/ws");
        peer.hears("welcome");
        peer.text("reserve 33554432");
        peer.hears("granted");
        peer.text("reserve 33554432");
        peer.hears("denied");
        assert!(used() >= 32 << 20);
        peer.text(word);
        peer.close();
        while next(&heard) != "drop" {}
        // A handler that panicked is dropped before its connection is gone.
        let started = Instant::now();
        while used() >= 32 << 20 {
            assert!(started.elapsed() < PATIENCE, "what was reserved did not come back");
        }
    }
}

/// Sends the peer its own address.
struct Mirror;

impl Handler for Mirror {
    fn wants_address(&self) -> bool {
        true
    }

    fn addressed(&mut self, remote: &mut Remote<'_>, address: Option<SocketAddr>) -> Result {
        Ok(remote.send_text(&format!("{address:?}"))?)
    }
}

#[test]
fn a_handler_is_told_who_is_at_the_other_end() {
    let build = |builder: Builder| builder.handle("/mirror", || Mirror);
    on_both_drivers(build, |_, address| {
        let mut peer = Peer::open(address, "/mirror");
        let own = peer.0.local_addr().expect("bound");
        peer.hears(&format!("{:?}", Some(own)));
    });
}

/// Sends the name of its route.
struct Named(String);

impl Handler for Named {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.send_text(&self.0)?)
    }

    fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
        Ok(Disposition::Echo)
    }
}

fn named(name: &str) -> Named {
    Named(name.to_owned())
}

#[test]
fn routes_are_chosen_by_path_and_by_subprotocol() {
    let build = |builder: Builder| {
        builder
            .route(Route::new("/chat", || named("two")).only_subprotocols(["chat.v2"]))
            .route(Route::new("/chat", || named("one")).only_subprotocols(["chat.v1"]))
            .route(Route::new("/chat", || named("none")))
            .route(Route::new("/rooms/{name}", |Path(name): Path<String>| match name.as_str() {
                "attic" => Err(Response::text(451, "not for you\n").header("x-why", "law")),
                "cellar" => panic!("as it was told"),
                name => Ok(named(name)),
            }))
            .route(Route::new("/rooms/{*rest}", |Path(rest): Path<String>| named(&rest)))
    };
    on_both_drivers(build, |_, address| {
        for (fields, expected, chosen) in [
            ("Sec-WebSocket-Protocol: chat.v1, chat.v2\r\n", "two", Some("chat.v2")),
            ("Sec-WebSocket-Protocol: chat.v1\r\n", "one", Some("chat.v1")),
            ("Sec-WebSocket-Protocol: other\r\n", "none", None),
            ("", "none", None),
        ] {
            let (mut peer, head) = Peer::upgrade(address, "/chat", fields);
            peer.hears(expected);
            let line = chosen.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
            assert_eq!(line.is_some(), head.contains("Sec-WebSocket-Protocol"), "{head}");
            assert!(head.contains(&line.unwrap_or_default()), "{head}");
        }
        Peer::open(address, "/rooms/green%20room").hears("green room");
        Peer::open(address, "/rooms/a/b").hears("a/b");
        let (peer, head) = Peer::upgrade(address, "/rooms/attic", "");
        assert!(head.starts_with("HTTP/1.1 451 ") && head.contains("x-why: law\r\n"), "{head}");
        assert_eq!(peer.body(), "not for you\n");
        let (_, head) = Peer::upgrade(address, "/rooms/cellar", "");
        assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
        let (_, head) = Peer::upgrade(address, "/elsewhere", "");
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        let (_, head) = Peer::upgrade(address, "/echo", "");
        assert!(head.starts_with("HTTP/1.1 404 "), "the built-in routes were not asked for: {head}");
    });
}

#[test]
fn a_route_has_a_policy_of_its_own() {
    let build = |builder: Builder| {
        builder
            .route(Route::new("/any", || named("any")).allow_origin(OriginPolicy::Any))
            .route(Route::new("/text", || named("text")).text_only().max_message(4))
            .route(Route::new("/binary", || named("binary")).binary_only())
            .route(
                Route::new("/fields", |opening: &mut Opening<'_>| {
                    opening.add_header("x-room", "green").expect("a good field");
                    assert!(opening.add_header("upgrade", "h2c").is_err());
                    assert!(opening.add_header("x-bad", "a\r\nb: c").is_err());
                    assert!(!opening.choose_subprotocol(Some("not.offered")));
                    assert!(opening.choose_subprotocol(Some("b")));
                    named("fields")
                })
                .header("x-served-by", "test"),
            )
    };
    on_both_drivers(build, |server, address| {
        let foreign = "Origin: https://elsewhere.example\r\n";
        Peer::upgrade(address, "/any", foreign).0.hears("any");
        let (_, head) = Peer::upgrade(address, "/text", foreign);
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        for (path, first_byte, payload, code) in
            [("/text", 0x82, &b"a"[..], 1003), ("/text", 0x81, b"12345", 1009), ("/binary", 0x81, b"a", 1003)]
        {
            let mut peer = Peer::open(address, path);
            peer.hears(&path[1..]);
            peer.send(first_byte, payload);
            assert_eq!(peer.close().0, code, "{path}");
        }
        assert_eq!(
            server.handle().snapshots().expect("no shard")[0].counters.limited,
            [("message_size", 1)].into()
        );
        let mut peer = Peer::open(address, "/text");
        peer.hears("text");
        peer.text("1234");
        peer.hears("1234");
        let (mut peer, head) = Peer::upgrade(address, "/fields", "Sec-WebSocket-Protocol: a, b\r\n");
        peer.hears("fields");
        for line in ["x-served-by: test\r\n", "x-room: green\r\n", "Sec-WebSocket-Protocol: b\r\n"] {
            assert!(head.contains(line), "{head}");
        }
    });
}

#[test]
fn plain_requests_have_routes_too() {
    let build = |builder: Builder| {
        builder
            .get("/hello/{name}", |request: &RequestContext<'_>, Path(name): Path<String>| {
                Response::text(200, format!("hello {name}, who asked for {}\n", request.query))
            })
            .get("/panic", || -> Response { panic!("as it was told") })
            .handle("/ws", || named("ws"))
            .on_refusal(|refusal, request| {
                let path = request.path;
                (refusal.status == 404).then(|| Response::text(404, format!("nothing at {path}\n")))
            })
    };
    on_both_drivers(build, |server, address| {
        let (peer, head) = Peer::request(address, "/hello/you?x=1", "");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(peer.body(), "hello you, who asked for x=1\n");
        for (path, status) in [("/panic", 500), ("/ws", 426), ("/gone", 404)] {
            let (peer, head) = Peer::request(address, path, "");
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            if status == 404 {
                assert_eq!(peer.body(), "nothing at /gone\n", "the hook said so");
            }
        }
        let counters = &server.handle().snapshots().expect("no shard")[0].counters;
        assert_eq!((counters.answers[&200], counters.refusals[&404]), (1, 1));
    });
}

/// Echoes messages in the pieces in which they arrive.
struct Streaming {
    chunks: Arc<AtomicU64>,
}

impl Handler for Streaming {
    fn is_streaming(&self) -> bool {
        true
    }

    fn chunk(&mut self, _: &mut Remote<'_>, chunk: &Chunk<'_>) -> Result<Disposition> {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        assert!(chunk.payload.len() <= 1 << 20, "never the whole message");
        Ok(Disposition::Echo)
    }
}

#[test]
fn a_long_message_streams_through_a_handler() {
    const BYTES: usize = 16 << 20;
    let chunks = Arc::new(AtomicU64::new(0));
    let build = |builder: Builder| {
        let chunks = Arc::clone(&chunks);
        let make = move || Streaming { chunks: Arc::clone(&chunks) };
        builder.handle("/stream", make).max_message(64 << 20)
    };
    on_both_drivers(build, |server, address| {
        let mut peer = Peer::open(address, "/stream");
        let mut writer = peer.0.try_clone().expect("a second handle");
        let sender = thread::spawn(move || {
            let mut head = vec![0x82, 0x80 | 127];
            head.extend_from_slice(&(BYTES as u64).to_be_bytes());
            head.extend_from_slice(&[0; 4]);
            writer.write_all(&head).expect("sent");
            for part in 0..BYTES >> 16 {
                writer.write_all(&vec![part as u8; 1 << 16]).expect("sent");
            }
        });
        let mut received = 0;
        let mut first_byte = 0;
        while first_byte & 0x80 == 0 {
            let mut head = [0; 2];
            peer.0.read_exact(&mut head).expect("a fragment");
            first_byte = head[0];
            let mut length = [0; 8];
            let length_bytes = match head[1] {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            peer.0.read_exact(&mut length[8 - length_bytes..]).expect("a length");
            let bytes = if length_bytes == 0 { head[1].into() } else { u64::from_be_bytes(length) as usize };
            let mut payload = vec![0; bytes];
            peer.0.read_exact(&mut payload).expect("a payload");
            let right = payload.iter().enumerate().all(|(at, &byte)| byte == ((received + at) >> 16) as u8);
            assert!(right, "the bytes are those that were sent");
            received += bytes;
        }
        assert_eq!(received, BYTES);
        sender.join().unwrap_or_else(|panic| resume_unwind(panic));
        let peak = server.handle().snapshots().expect("no shard")[0].pool_bytes_peak;
        assert!(peak < 4 << 20, "{peak} bytes for a message of {BYTES}");
    });
    assert!(chunks.load(Ordering::Relaxed) > 2 * 16);
}

/// Sends until a send is refused, and continues when `writable` is called.
struct Flood {
    next: u64,
    refused: Arc<AtomicU64>,
}

const FLOOD: u64 = 50_000;

impl Flood {
    fn resume(&mut self, remote: &mut Remote<'_>) {
        while self.next < FLOOD {
            if remote.send_binary(&[self.next.to_be_bytes(); 16].concat()).is_err() {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.next += 1;
        }
        remote.close(CloseCode::NORMAL, "done");
    }
}

impl Handler for Flood {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        self.resume(remote);
        Ok(())
    }

    fn writable(&mut self, remote: &mut Remote<'_>) -> Result {
        self.resume(remote);
        Ok(())
    }
}

#[test]
fn a_handler_that_waits_for_room_loses_nothing() {
    let refused = Arc::new(AtomicU64::new(0));
    let build = |builder: Builder| {
        let refused = Arc::clone(&refused);
        builder.handle("/flood", move || Flood { next: 0, refused: Arc::clone(&refused) })
    };
    on_both_drivers(build, |server, address| {
        let mut peer = Peer::open(address, "/flood");
        for number in 0..FLOOD {
            assert_eq!(peer.frame(), (0x82, [number.to_be_bytes(); 16].concat()));
        }
        assert_eq!(peer.close(), (1000, "done".to_owned()));
        let peak = server.handle().snapshots().expect("no shard")[0].pool_bytes_peak;
        assert!(peak < 4 << 20, "{peak} bytes were queued");
    });
    assert!(refused.load(Ordering::Relaxed) > 0, "there was always room, which shows nothing");
}

#[test]
fn two_servers_run_side_by_side_and_end_apart() {
    let start = |name: &'static str| {
        Server::builder()
            .listen(([127, 0, 0, 1], 0))
            .shards(2)
            .handle("/ws", move || named(name))
            .start()
            .expect("the server starts")
    };
    let (one, two) = (start("one"), start("two"));
    let (mut first, mut second) = (Peer::open(address(&one), "/ws"), Peer::open(address(&two), "/ws"));
    first.hears("one");
    second.hears("two");
    let handle = one.handle();
    handle.drain();
    assert_eq!(first.close(), (1001, "server is going away".to_owned()));
    one.join().expect("it ends in order");
    second.text("still here");
    second.hears("still here");
    // Dropping the server ends it at once.
    drop(two);
    let ended = second.0.read(&mut [0; 1]);
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

/// The owner shards of these topics.
fn homes(server: &Server, names: &[String]) -> Vec<Option<usize>> {
    let handle = server.handle();
    for name in names {
        handle.publish(name, name.as_str()).expect("published");
    }
    let home = |name: &String| {
        let has_home = |(_, report): &(usize, Option<TopicReport>)| {
            report.as_ref().is_some_and(|report| report.owner.is_some())
        };
        handle.topic(name).expect("no shard").into_iter().find(has_home).map(|(shard, _)| shard)
    };
    names.iter().map(home).collect()
}

/// A client cannot know which topics share an owner shard, not even from another server.
#[test]
fn each_server_places_topics_in_its_own_way() {
    let start = || {
        let builder = Server::builder().listen(([127, 0, 0, 1], 0)).shards(2).driver(DriverChoice::Epoll);
        builder.builtin_routes(true).start().expect("the server starts")
    };
    let names: Vec<String> = (0..128).map(|number| format!("topic-{number}")).collect();
    let [one, other] = [(); 2].map(|()| {
        let server = start();
        let placed = homes(&server, &names);
        assert_eq!(homes(&server, &names), placed, "a topic stays where it is");
        assert!(placed.iter().all(Option::is_some), "{placed:?}");
        server.shutdown(PATIENCE).expect("it ends in order");
        placed
    });
    // Chance makes them equal once in 2^128.
    assert_ne!(one, other);
}

#[test]
fn a_drain_waits_for_nobody_longer_than_it_was_told() {
    let server = Server::builder()
        .listen(([127, 0, 0, 1], 0))
        .shards(1)
        .handle("/ws", || named("ws"))
        .start()
        .expect("the server starts");
    let mut peer = Peer::open(address(&server), "/ws");
    peer.hears("ws");
    let started = Instant::now();
    // The peer does not answer the Close frame; the deadline for it is five seconds.
    server.shutdown(Duration::from_millis(100)).expect("it ends");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn a_listening_socket_may_be_passed() {
    for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let bound = listener.local_addr().expect("bound");
        let server = Server::builder()
            .listener(listener)
            .shards(2)
            .driver(driver)
            .handle("/ws", || named("inherited"))
            .start()
            .expect("the server starts");
        assert_eq!(address(&server), bound);
        for _ in 0..10 {
            Peer::open(bound, "/ws").hears("inherited");
        }
        server.shutdown(PATIENCE).expect("it ends in order");
    }
}

#[test]
fn what_is_wrong_at_the_start_has_a_kind_and_a_cure() {
    let error = Server::builder().start().expect_err("no listen address");
    assert_eq!(error.kind(), StartErrorKind::NoListener);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let bound = taken.local_addr().expect("bound");
    let error = Server::builder().listen(bound).shards(1).start().expect_err("the port is taken");
    assert_eq!(error.kind(), StartErrorKind::Listen(std::io::ErrorKind::AddrInUse));
    assert!(!error.hint.is_empty());
}
