//! Limits that a reload changes: each holds for new connections, and where it applies for open ones, and no longer once it
//! is gone.

use std::io::Write as _;
use std::time::Duration;

use serde_json::json;

use super::node::upgrade_of;
use super::rates::{open_session, publish_many, subscribe_many};
use super::*;
use crate::attacks::peer::{BINARY, TEXT, frame};

/// One key of the configuration.
struct Row {
    key: &'static str,
    /// The configuration without the limit, and with it.
    without: &'static str,
    with: &'static str,
    /// Whether new connections find the limit. They come from addresses that nobody has used before.
    new: fn(&Server, IpAddr) -> bool,
    /// The same for a connection that was opened before the reload, where the limit holds for it.
    open: Option<Open>,
}

/// How a connection is opened and examined later.
type Open = (fn(&Server, IpAddr) -> Peer, fn(&Server, &mut Peer) -> bool);

const ROWS: [Row; 20] = [
    Row {
        key: "trusted_proxy",
        without: "max_connections_per_address = 1",
        with: "max_connections_per_address = 1\ntrusted_proxy = ['127.0.0.8']",
        // One proxy has connections of two clients.
        new: |server, _| {
            let (_one, first) = answer_from(server, PROXY, &["X-Forwarded-For: 192.0.2.7"]);
            let (_other, second) = answer_from(server, PROXY, &["X-Forwarded-For: 192.0.2.8"]);
            assert_eq!(first.status, 101);
            second.status == 101
        },
        open: None,
    },
    Row {
        key: "proxy_protocol",
        without: "trusted_proxy = ['127.0.0.8']",
        with: "trusted_proxy = ['127.0.0.8']\nproxy_protocol = true",
        new: |server, _| {
            let mut peer = Peer::connect_from(server, PROXY);
            let header = b"PROXY TCP4 192.0.2.7 127.0.0.1 12345 80\r\n";
            peer.send(&[&header[..], &upgrade("/echo", &[])].concat());
            peer.answer().status == 101
        },
        open: None,
    },
    Row {
        key: "max_connections_per_address",
        without: "handshake_rate = 10000",
        with: "handshake_rate = 10000\nmax_connections_per_address = 2",
        new: |server, address| {
            let held = [0; 3].map(|_| answer_from(server, address, &[]));
            held.iter().any(|(_, answer)| answer.status == 429)
        },
        // It counts among those of its address.
        open: Some((opened, |server, peer| {
            let address = peer.stream.local_addr().expect("connected").ip();
            let held = [0; 2].map(|_| answer_from(server, address, &[]));
            held.iter().any(|(_, answer)| answer.status == 429)
        })),
    },
    Row {
        key: "handshake_rate_per_address",
        without: "",
        with: "handshake_rate_per_address = 1",
        new: |server, address| (0..20).any(|_| answer_from(server, address, &[]).1.status == 429),
        open: None,
    },
    Row {
        key: "handshake_rate",
        without: "",
        with: "handshake_rate = 1",
        new: |server, address| (0..20).any(|_| answer_from(server, address, &[]).1.status == 503),
        open: None,
    },
    Row {
        key: "message_rate",
        without: "rate_action = 'close'\nbyte_rate = '1GiB'",
        with: "rate_action = 'close'\nbyte_rate = '1GiB'\nmessage_rate = 5",
        new: |server, address| is_closed_for_sending(&mut opened(server, address), 50, 1),
        open: Some((opened, |_, peer| is_closed_for_sending(peer, 50, 1))),
    },
    Row {
        key: "byte_rate",
        without: "rate_action = 'close'\nmessage_rate = 1000000",
        with: "rate_action = 'close'\nmessage_rate = 1000000\nbyte_rate = 1000",
        new: |server, address| is_closed_for_sending(&mut opened(server, address), 50, 1_000),
        open: Some((opened, |_, peer| is_closed_for_sending(peer, 50, 1_000))),
    },
    Row {
        key: "rate_action",
        without: "message_rate = 200",
        with: "message_rate = 200\nrate_action = 'close'",
        new: |server, address| is_closed_for_sending(&mut opened(server, address), 300, 1),
        open: Some((opened, |_, peer| is_closed_for_sending(peer, 300, 1))),
    },
    Row {
        key: "publish_rate",
        without: "",
        with: "publish_rate = 5",
        new: |server, address| publish_many(&mut session(server, address), 50).1 > 0,
        open: Some((session, |_, session| publish_many(session, 50).1 > 0)),
    },
    Row {
        key: "publish_rate_per_identity",
        without: "",
        with: "publish_rate_per_identity = 5",
        new: |server, address| publish_many(&mut session(server, address), 50).1 > 0,
        open: Some((session, |_, session| publish_many(session, 50).1 > 0)),
    },
    Row {
        key: "subscribe_rate",
        without: "",
        with: "subscribe_rate = 5",
        new: |server, address| is_limited(&subscribe_many(&mut session(server, address), 50)),
        open: Some((session, |_, session| is_limited(&subscribe_many(session, 50)))),
    },
    Row {
        key: "subscribe_rate_per_identity",
        without: "",
        with: "subscribe_rate_per_identity = 5",
        new: |server, address| is_limited(&subscribe_many(&mut session(server, address), 50)),
        open: Some((session, |_, session| is_limited(&subscribe_many(session, 50)))),
    },
    Row {
        key: "ban_after",
        without: "max_connections_per_address = 1",
        with: "max_connections_per_address = 1\nban_after = 2",
        new: |server, address| is_banned_after(server, address, 2, Duration::ZERO),
        open: None,
    },
    Row {
        key: "ban_window",
        without: "max_connections_per_address = 1\nban_after = 2\nban_window = '1s'",
        with: "max_connections_per_address = 1\nban_after = 2\nban_window = '1h'",
        new: |server, address| is_banned_after(server, address, 2, Duration::from_millis(1_100)),
        open: None,
    },
    Row {
        key: "ban_time",
        without: "max_connections_per_address = 1\nban_after = 1\nban_time = '1h'",
        with: "max_connections_per_address = 1\nban_after = 1\nban_time = '2h'",
        new: |server, address| {
            assert!(is_banned_after(server, address, 1, Duration::ZERO));
            let entry = known(server, &address.to_string()).expect("listed");
            entry["banned_s"].as_u64().is_some_and(|left_s| left_s > 3_600)
        },
        open: None,
    },
    Row {
        key: "max_header",
        without: "",
        with: "max_header = '2KiB'",
        new: |server, address| {
            let mut peer = Peer::connect_from(server, address);
            peer.send(&upgrade_of(2 * 1024 + 1));
            peer.answer().status == 431
        },
        open: None,
    },
    Row {
        key: "max_topics",
        without: "",
        with: "max_topics = 1",
        new: |server, address| is_refused_topics(&mut session(server, address)),
        open: Some((session, |_, session| is_refused_topics(session))),
    },
    Row {
        key: "max_subscriptions",
        without: "",
        with: "max_subscriptions = 1",
        new: |server, address| is_refused_topics(&mut session(server, address)),
        open: Some((session, |_, session| is_refused_topics(session))),
    },
    Row {
        key: "allow_host",
        without: "allow_host = ['*']",
        with: "allow_host = ['a.example']",
        new: |server, address| {
            let mut peer = Peer::connect_from(server, address);
            let other = String::from_utf8(upgrade("/echo", &[])).expect("text");
            let line = other.lines().find(|line| line.starts_with("Host: ")).expect("a host");
            peer.send(other.replace(line, "Host: b.example").as_bytes());
            peer.answer().status != 101
        },
        open: None,
    },
    Row {
        key: "subprotocol_preference",
        without: "subprotocol = ['x', 'y']\nsubprotocol_preference = 'server'",
        with: "subprotocol = ['x', 'y']\nsubprotocol_preference = 'client'",
        new: |server, address| {
            let (_, answer) = answer_from(server, address, &["Sec-WebSocket-Protocol: y, x"]);
            answer.field("sec-websocket-protocol") == Some("y")
        },
        open: None,
    },
];

#[test]
fn every_limit_holds_from_its_reload_on_and_until_the_next() {
    let tokens = TestFile::new("[[tokens]]\ntoken = \"token-of-alice-0123456789\"\nsubject = \"alice\"\n");
    thread::scope(|scope| {
        for driver in ["auto", "epoll"] {
            let tokens = tokens.flag("auth-tokens");
            scope.spawn(move || {
                let config = TestFile::new("");
                let flags = [config.flag("config"), format!("--driver={driver}"), tokens];
                let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                let others = [("--shards", "1"), ("--log", "info"), ("--watch", "off")];
                let server = Server::start_beside(&[&flags[..], &["--auth-anonymous"]].concat(), &others);
                for row in &ROWS {
                    eprintln!("{driver}: {}", row.key);
                    check(&server, &config, row);
                }
            });
        }
    });
}

/// Sets a limit, takes it away, and looks at new and open connections each time.
fn check(server: &Server, config: &TestFile, row: &Row) {
    let Row { key, without, with, new, open } = row;
    reload(server, config, without);
    assert!(!new(server, stranger()), "{key}: a limit without the setting");
    let open = open.map(|(open, holds)| {
        let peers = [0; 2].map(|_| open(server, stranger()));
        (peers, holds)
    });
    assert!(reload(server, config, with).contains(&(*key).to_owned()), "{key} has not changed");
    assert!(new(server, stranger()), "{key}: new connections have no limit");
    if let Some((peers, holds)) = open {
        let [mut first, mut second] = peers;
        assert!(holds(server, &mut first), "{key}: open connections have no limit");
        first.reset();
        reload(server, config, without);
        assert!(!holds(server, &mut second), "{key}: open connections keep the limit");
    }
    reload(server, config, without);
    assert!(!new(server, stranger()), "{key}: new connections keep the limit");
}

/// Reloads a configuration. Returns the keys that have changed.
pub fn reload(server: &Server, config: &TestFile, text: &str) -> Vec<String> {
    let defaults = "[topic_defaults]\npublish = 'everybody'\nsubscribe = 'everybody'\n";
    let hosts = if text.contains("allow_host") { "" } else { "allow_host = ['*']\n" };
    fs::write(config.path(), format!("{hosts}{text}\n{defaults}")).expect("written");
    let (status, body) = server.ask_admin("POST", "/reload", &[]);
    assert_eq!(status, 200, "{body}");
    let report: Value = serde_json::from_str(&body).expect("JSON");
    let changed = report["changed"].as_array().expect("a list").iter();
    changed.map(|change| change["key"].as_str().expect("a key").to_owned()).collect()
}

/// An address of this machine that nobody has used before.
fn stranger() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0x7f01_0001);
    Ipv4Addr::from_bits(NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

fn opened(server: &Server, address: IpAddr) -> Peer {
    let (peer, answer) = answer_from(server, address, &[]);
    assert_eq!(answer.status, 101);
    peer
}

fn session(server: &Server, address: IpAddr) -> Peer {
    open_session(server, address, &["Authorization: Bearer token-of-alice-0123456789"])
}

/// Whether a connection is closed with 1008 for sending so much, all of which is echoed otherwise.
fn is_closed_for_sending(peer: &mut Peer, messages: usize, bytes: usize) -> bool {
    // What arrives together is answered before it is counted: the last message comes by itself.
    for burst in [messages, 1] {
        for _ in 0..burst {
            // A server that closes does not read the rest.
            let _ = peer.offer(&frame(BINARY, &vec![7; bytes]));
        }
        for _ in 0..burst {
            match peer.frame() {
                (0x88, payload) => {
                    assert_eq!(payload[..2], 1008_u16.to_be_bytes());
                    return true;
                }
                (first, payload) => assert_eq!((first, payload.len()), (0x82, bytes)),
            }
        }
    }
    false
}

/// Whether an address is banned that is over its one connection so often, with so much time in between.
fn is_banned_after(server: &Server, address: IpAddr, times: usize, between: Duration) -> bool {
    let _held = opened(server, address);
    for time in 0..times {
        let last = Instant::now();
        assert_eq!(answer_from(server, address, &[]).1.status, 429);
        while time + 1 < times && last.elapsed() < between {
            thread::yield_now();
        }
    }
    let entry = known(server, &address.to_string()).expect("listed");
    entry["banned_s"].as_u64().is_some_and(|left_s| left_s > 0)
}

fn is_limited(answers: &[String]) -> bool {
    answers.iter().any(|answer| answer == "rate-limited")
}

/// Whether a session may not subscribe to two topics. It ends with no subscription.
fn is_refused_topics(session: &mut Peer) -> bool {
    let mut ask = |kind: &str, topic: &str| {
        session.send(&frame(TEXT, json!({"type": kind, "topic": topic}).to_string().as_bytes()));
        let event: Value = serde_json::from_slice(&session.frame().1).expect("JSON");
        event["type"].as_str().expect("a type").to_owned()
    };
    assert_eq!(ask("subscribe", "one"), "subscribed");
    let is_refused = match &*ask("subscribe", "two") {
        "error" => true,
        "subscribed" => {
            ask("unsubscribe", "two");
            false
        }
        event => panic!("{event}"),
    };
    ask("unsubscribe", "one");
    is_refused
}

#[test]
fn a_proxy_header_that_is_awaited_when_none_is_expected_any_more_is_still_read() {
    let header = b"PROXY TCP4 192.0.2.7 127.0.0.1 12345 80\r\n";
    for driver in ["auto", "epoll"] {
        let config = TestFile::new("trusted_proxy = ['127.0.0.8']\nproxy_protocol = true\n");
        let server = Server::start(&[&config.flag("config"), "--driver", driver, "--watch", "off"]);
        let mut early = Peer::connect_from(&server, PROXY);
        early.stream.write_all(&header[..9]).expect("sent");
        server.wait_until("connected", |stats| stats["connections"] == 1);
        reload(&server, &config, "");
        early.stream.write_all(&header[9..]).expect("sent");
        early.upgrade("/echo");
        // One that came without a header when none was expected stays, too.
        let mut plain = Peer::connect_from(&server, PROXY);
        plain.upgrade("/echo");
        reload(&server, &config, "trusted_proxy = ['127.0.0.8']\nproxy_protocol = true");
        for peer in [&mut early, &mut plain] {
            assert!(!is_closed_for_sending(peer, 3, 100));
        }
        let mut bare = Peer::connect_from(&server, PROXY);
        bare.send(&upgrade("/echo", &[]));
        expect_silence(&mut bare);
    }
}

#[test]
fn timeouts_are_those_of_the_last_reload() {
    for driver in ["auto", "epoll"] {
        let config = TestFile::new("handshake_timeout = '5m'\nsend_timeout = '1h'\n");
        let server = Server::start(&[&config.flag("config"), "--driver", driver, "--watch", "off"]);
        let mut deaf = Peer::connect_narrow(&server, 4_096);
        deaf.upgrade("/echo");
        reload(&server, &config, "handshake_timeout = '100ms'\nsend_timeout = '1s'");
        // A handshake that never comes, and answers that are never read on a connection that was open before.
        let before = server.stats()["causes"]["handshake-timeout"].as_u64().unwrap_or(0);
        let _silent = Peer::connect(&server);
        server.wait_until("the handshake is given up", |stats| {
            stats["causes"]["handshake-timeout"].as_u64().is_some_and(|ended| ended > before)
        });
        deaf.stream.set_write_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        while deaf.offer(&frame(BINARY, &[7; 16 * 1024])).is_ok() {}
        server.wait_until("the send is given up", |stats| stats["causes"]["send-timeout"] == 1);
    }
}

#[test]
fn a_connection_queues_as_much_as_the_last_reload_says() {
    const LARGE: &str = "queue_bytes = '8MiB'";
    const SMALL: &str = "queue_bytes = '64KiB'";
    /// More than is queued for a connection with the small limit, receive credits included.
    const BETWEEN_BYTES: u64 = 2 << 20;
    for driver in ["auto", "epoll"] {
        let config = TestFile::new(format!("{SMALL}\n"));
        let server = Server::start(&[&config.flag("config"), "--driver", driver, "--watch", "off"]);
        // Floods a server that queues the answers, until it reads nothing for so long. Returns whether it queues more than that.
        let queues_more = |mut deaf: Peer, patience: Duration| {
            deaf.stream.set_write_timeout(Some(patience)).expect("a timeout");
            let address = deaf.stream.local_addr().expect("connected").to_string();
            loop {
                let is_blocked = deaf.offer(&frame(BINARY, &[7; 64 * 1024])).is_err();
                let report = server.get("/connections?sort=queued");
                let all = report["connections"].as_array().expect("a list");
                let own = all.iter().find(|one| one["address"] == *address);
                if own.and_then(|own| own["queued_bytes"].as_u64()) > Some(BETWEEN_BYTES) {
                    return true;
                }
                if is_blocked {
                    return false;
                }
            }
        };
        let open = || {
            let mut deaf = Peer::connect_narrow(&server, 4_096);
            deaf.upgrade("/echo");
            deaf
        };
        let [first, second] = [open(), open()];
        reload(&server, &config, LARGE);
        assert!(queues_more(first, PATIENCE) && queues_more(open(), PATIENCE), "the small limit holds");
        reload(&server, &config, SMALL);
        let short = Duration::from_millis(200);
        assert!(!queues_more(second, short) && !queues_more(open(), short), "the large limit holds");
    }
}

/// Receives, which a smaller limit has paused, go on without anything from the peer.
#[test]
fn a_connection_is_read_from_again_when_it_may_queue_more() {
    for driver in ["auto", "epoll"] {
        let small = "send_timeout = '1h'\nqueue_bytes = '64KiB'";
        let config = TestFile::new(format!("{small}\n"));
        let server = Server::start(&[&config.flag("config"), "--driver", driver, "--watch", "off"]);
        let mut deaf = Peer::connect_narrow(&server, 4_096);
        deaf.upgrade("/echo");
        deaf.stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        while deaf.offer(&frame(BINARY, &[7; 64 * 1024])).is_ok() {}
        let bytes_in = || server.stats()["bytes_in"].as_u64().expect("a number");
        let stood = bytes_in();
        reload(&server, &config, "send_timeout = '1h'\nqueue_bytes = '8MiB'");
        server.wait_until("it reads on", |stats| {
            stats["bytes_in"].as_u64().is_some_and(|bytes| bytes >= stood + (64 << 10))
        });
    }
}

/// A check of a send that is due in minutes does not delay a timeout of a second.
#[test]
fn a_shorter_send_timeout_holds_for_a_send_that_waits_already() {
    for driver in ["auto", "epoll"] {
        let config = TestFile::new("send_timeout = '1h'\n");
        let server = Server::start(&[&config.flag("config"), "--driver", driver, "--watch", "off"]);
        let mut deaf = Peer::connect_narrow(&server, 4_096);
        deaf.upgrade("/echo");
        deaf.stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        while deaf.offer(&frame(BINARY, &[7; 16 * 1024])).is_ok() {}
        reload(&server, &config, "send_timeout = '1s'");
        server.wait_until("the send is given up", |stats| stats["causes"]["send-timeout"] == 1);
    }
}
