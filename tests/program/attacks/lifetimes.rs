//! Clients that are silent, have nothing to say, or stay for long, and the keys that say how long they may.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::auth::TestFile;
use super::limits::reloads::reload;
use super::peer::{CLOSE, CONTINUATION, FIN, Peer, TEXT, frame, upgrade};
use super::server::{Server, on_both_drivers};
use crate::support::ports;

const PING: u8 = 0x9;
const GOING_AWAY: u16 = 1001;

fn event_stream(server: &Server) -> Peer {
    let mut peer = Peer::connect(server);
    peer.send(b"GET /sse/t HTTP/1.1\r\nHost: localhost\r\n\r\n");
    while peer.line().is_some_and(|line| line.trim_end() != "") {}
    peer
}

fn centrifuge(server: &Server) -> (Peer, Value) {
    let mut peer = Peer::open(server, "/connection/websocket");
    peer.send(&frame(TEXT, br#"{"id":1,"connect":{}}"#));
    let (_, reply) = peer.message();
    (peer, serde_json::from_slice(&reply).expect("JSON"))
}

fn ended_by(stats: &Value, cause: &str) -> u64 {
    stats["causes"][cause].as_u64().unwrap_or(0)
}

#[test]
fn pings_of_each_dialect_come_as_often_as_the_key_says() {
    on_both_drivers(&["--ping-interval", "1s", "--pong-timeout", "1s"], |server| {
        let mut raw = Peer::open(server, "/broadcast/t");
        let mut stream = event_stream(server);
        let (mut session, reply) = centrifuge(server);
        let connected = &reply["connect"];
        assert_eq!((&connected["ping"], &connected["pong"]), (&json!(1), &json!(true)), "{reply}");
        assert_eq!(raw.frame().0, FIN | PING);
        // A comment, behind the event with the position.
        while stream.line().expect("the stream goes on").trim_end() != ":" {}
        // The ping of the protocol, perhaps behind one of WebSocket.
        while session.frame().0 != FIN | TEXT {}
        // Nobody answers.
        server.wait_until("the raw subscriber is given up", |stats| ended_by(stats, "pong-timeout") == 1);
        let code = loop {
            let (first, payload) = session.frame();
            match first & 0xf {
                CLOSE => break payload.first_chunk().map(|code| u16::from_be_bytes(*code)),
                // The protocol's own pings come, too.
                opcode => assert!([PING, TEXT].contains(&opcode), "{opcode}"),
            }
        };
        assert_eq!(code, Some(3012));
    });
}

#[test]
fn clients_without_messages_are_closed_and_their_pings_are_none() {
    on_both_drivers(&["--idle-timeout", "1s"], |server| {
        let mut silent = Peer::open(server, "/echo");
        let mut pinging = Peer::open(server, "/echo");
        let began = Instant::now();
        let mut talking = Peer::open(server, "/echo");
        let mut pings = 0;
        while began.elapsed().as_secs() < 3 {
            if began.elapsed().as_millis() >= 200 * pings {
                pings += 1;
                // Fails once it is closed.
                let _ = pinging.offer(&frame(PING, b""));
            }
            talking.send(&frame(TEXT, b"here"));
            assert_eq!(talking.message().1, b"here");
        }
        assert_eq!(silent.close_frame(), Some(GOING_AWAY));
        // By now the third one has had no messages, either.
        server.wait_until("all are closed", |stats| ended_by(stats, "idle") == 3);
    });
}

#[test]
fn the_longest_life_ends_clients_of_each_dialect_so_that_they_come_back() {
    on_both_drivers(&["--max-lifetime", "1s"], |server| {
        let mut peers = ["/echo", "/broadcast/t"].map(|path| Peer::open(server, path));
        let mut v1 = Peer::connect(server);
        v1.send(&upgrade("/broadcast", &["Sec-WebSocket-Protocol: echoring.v1.json"]));
        assert_eq!(v1.answer().status, 101);
        let mut stream = event_stream(server);
        let (mut session, _) = centrifuge(server);
        for peer in peers.iter_mut().chain([&mut v1]) {
            assert_eq!(peer.close_frame(), Some(GOING_AWAY));
        }
        assert_eq!(session.close_frame(), Some(3001));
        while stream.line().is_some() {}
        server.wait_until("all are counted", |stats| ended_by(stats, "lifetime") == 5);
    });
}

/// Sends these bytes again and again, until the server closes the connection in its own way.
fn closed_amid(peer: &mut Peer, begins: &[u8], goes_on: &[u8]) -> Option<u16> {
    peer.send(begins);
    let (began, is_over) = (Instant::now(), AtomicBool::new(false));
    let mut writing = peer.stream.0.try_clone().expect("a handle");
    thread::scope(|scope| {
        scope.spawn(|| {
            let goes = || !is_over.load(Ordering::Relaxed) && began.elapsed() < NEVER_ENDS;
            while goes() && writing.write_all(goes_on).is_ok() {
                thread::sleep(SLOW_INTERVAL);
            }
        });
        // A long message is echoed while it arrives.
        let code = loop {
            let (first, payload) = peer.frame();
            if first == FIN | CLOSE {
                break payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
        };
        is_over.store(true, Ordering::Relaxed);
        code
    })
}

/// Pauses of a client that sends as slowly as it may.
const SLOW_INTERVAL: Duration = Duration::from_millis(50);
/// Longer than the life and its grace.
const NEVER_ENDS: Duration = Duration::from_secs(25);

#[test]
fn a_message_that_never_ends_does_not_outlive_the_limits() {
    for (flag, cause) in [("--max-lifetime", "lifetime"), ("--idle-timeout", "idle")] {
        on_both_drivers(&[flag, "1s"], |server| {
            let (mut frame_long, mut fragments) = (Peer::open(server, "/echo"), Peer::open(server, "/echo"));
            // 60,000 bytes in one masked frame, and fragments of one byte.
            let head = [FIN | TEXT, 0x80 | 126, 0xea, 0x60, 0, 0, 0, 0];
            thread::scope(|scope| {
                let one = scope.spawn(|| closed_amid(&mut frame_long, &head, b"x"));
                let other = [CONTINUATION, 0x81, 0, 0, 0, 0, b'x'];
                let first = [TEXT, 0x81, 0, 0, 0, 0, b'x'];
                assert_eq!(closed_amid(&mut fragments, &first, &other), Some(GOING_AWAY));
                assert_eq!(one.join().expect("a client"), Some(GOING_AWAY));
            });
            server.wait_until("both are counted", |stats| ended_by(stats, cause) == 2);
        });
    }
}

#[test]
fn a_reload_changes_the_times_of_open_connections() {
    for driver in ["auto", "epoll"] {
        let config = TestFile::new("");
        let server = Server::start(&[&config.flag("config"), "--driver", driver, "--watch", "off"]);
        let mut peer = Peer::open(&server, "/echo");
        reload(&server, &config, "ping_interval = '1s'");
        assert_eq!(peer.frame().0, FIN | PING);
        let limits = server.get("/limits");
        assert_eq!(limits["limits"]["idle_timeout_s"], Value::Null, "{limits}");
        reload(&server, &config, "idle_timeout = '1s'");
        assert_eq!(peer.close_frame(), Some(GOING_AWAY));
        let mut peer = Peer::open(&server, "/echo");
        reload(&server, &config, "max_lifetime = '1s'");
        assert_eq!(server.get("/limits")["limits"]["max_lifetime_s"], 1);
        assert_eq!(peer.close_frame(), Some(GOING_AWAY));
        server.wait_until("each is counted", |stats| {
            ended_by(stats, "idle") == 1 && ended_by(stats, "lifetime") == 1
        });
    }
}

#[test]
fn those_that_are_closed_are_told_when_to_return() {
    on_both_drivers(&["--max-lifetime", "1s", "--reconnect-delay", "1h"], |server| {
        let mut raw = Peer::open(server, "/broadcast/t");
        let (mut session, _) = centrifuge(server);
        let mut stream = event_stream(server);
        for peer in [&mut raw, &mut session] {
            let payload = loop {
                match peer.frame() {
                    (first, payload) if first == FIN | CLOSE => break payload,
                    _ => {}
                }
            };
            let reason = String::from_utf8(payload[2..].to_vec()).expect("text");
            let delay = reason.rsplit_once("; retry after ").and_then(|(_, rest)| rest.strip_suffix(" ms"));
            let delay: u32 = delay.and_then(|delay| delay.parse().ok()).expect(&reason);
            assert!(delay < 3_600_000, "{reason}");
        }
        let mut retries = 0;
        while let Some(line) = stream.line() {
            retries += u32::from(line.starts_with("retry: "));
        }
        assert_eq!(retries, 2, "at the beginning and at the end");
    });
}

#[test]
fn tables_of_routes_set_the_times_of_their_paths_and_listeners() {
    for driver in ["auto", "epoll"] {
        let config = TestFile::new("");
        let [other] = ports::free();
        let listen = other.to_string();
        let flags = ["--listen", &listen, &config.flag("config"), "--driver", driver, "--watch", "off"];
        let server = Server::start(&flags);
        let at_other = |path: &str| {
            let mut peer = Peer::over(TcpStream::connect(other).expect("connected"));
            peer.send(&upgrade(path, &[]));
            assert_eq!(peer.answer().status, 101);
            peer
        };
        let tables = |life: &str| {
            let life = format!("max_lifetime = '{life}'");
            format!(
                "ping_interval = '1h'\n[[routes]]\npath = '/broadcast/{{topic}}'\nlisten = '{other}'\n{life}\n\
                 [[routes]]\npath = '/sse/{{topic}}'\n{life}\n[[routes]]\nlisten = '{other}'\nping_interval = '1s'"
            )
        };
        let changed = reload(&server, &config, &tables("1h"));
        assert!(changed.contains(&format!("routes.\"{other}\".ping_interval")), "{changed:?}");
        let mut pinged = at_other("/echo");
        let mut limited = at_other("/broadcast/t");
        let mut stream = event_stream(&server);
        let mut untouched = [Peer::open(&server, "/echo"), Peer::open(&server, "/broadcast/t")];
        assert_eq!(pinged.frame().0, FIN | PING);
        // Those that are open follow a reload.
        reload(&server, &config, &tables("1s"));
        assert_eq!(limited.close_frame(), Some(GOING_AWAY));
        while stream.line().is_some() {}
        server.wait_until("both are counted", |stats| ended_by(stats, "lifetime") == 2);
        for peer in &mut untouched {
            peer.send(&frame(PING, b"first"));
            assert_eq!(peer.frame(), (FIN | 0xa, b"first".to_vec()), "it had no ping before");
        }
    }
}
