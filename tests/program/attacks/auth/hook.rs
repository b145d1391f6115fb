//! The HTTP hook and passwords: answers, failures, slowness, and floods.

use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::peer::{Peer, TEXT, frame, upgrade};
use super::super::server::Server;
use super::service::{Reaction, Service};
use super::{ALICE, TestFile, answer, bearer, open, session, tokens};

/// `argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("correct horse")` of argon2-cffi.
const HASH: &str =
    "$argon2id$v=19$m=64,t=1,p=1$GYFGVJMbkshcCLHAFM/QQg$h8vOSA7pnoSIOgLumJa8mNiTXHrfv8E/nrlKxl0EI40";
/// The same password at a cost that real files have.
const COSTLY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$KMqccQggVbVMp/0wn+JJQg$8gfTgJUaxrq/fnUaLJvJ4y0etO2T5LNBybOdHGxjlJ8";

fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Decides by the token: `known-NAME` is a client, the others name a reaction.
fn react(request: &Value) -> Reaction {
    let credential = &request["credential"];
    let token = credential["token"].as_str().unwrap_or_default();
    if credential["kind"] == "password" && credential["user"] == "hooked" && credential["password"] == "p" {
        return Reaction::Answer(200, json!({"subject": "hooked"}).to_string());
    }
    if let Some(name) = token.strip_prefix("known-") {
        // The request of a session has no address.
        let is_handshake = request["request"].is_object();
        let address = request["address"].as_str();
        assert!(
            !is_handshake || address.is_some_and(|address| address.starts_with("127.0.0.1:")),
            "{request}"
        );
        let expires = if name == "brief" { json!(2) } else { json!(null) };
        let body = json!({"subject": name.split('-').next(), "subscribe": "a", "expires_in": expires});
        return Reaction::Answer(200, body.to_string());
    }
    match token {
        "unauthorized" => Reaction::Answer(401, String::new()),
        "forbidden" => Reaction::Answer(403, String::new()),
        "broken" => Reaction::Answer(200, "{".to_owned()),
        "failing" => Reaction::Answer(500, String::new()),
        "closing" => Reaction::Close,
        "huge" => Reaction::Answer(200, "x".repeat(100_000)),
        _ => Reaction::Hang,
    }
}

fn with_hook(flags: &[&str], test: impl Fn(&Server, &Service)) {
    for driver in ["auto", "epoll"] {
        let service = Service::start(react);
        let url = format!("--auth-hook={}", service.url());
        let server = Server::start(&[&["--driver", driver, &url], flags].concat());
        test(&server, &service);
        service.release();
    }
}

#[test]
fn the_hook_decides_and_without_its_answer_nobody_comes_in() {
    let config = TestFile::new("[topic_defaults]\nsubscribe = \"claim\"\n");
    let config = config.flag("config");
    with_hook(&[&config, "--auth-hook-timeout=300ms"], |server, service| {
        open(server, "/broadcast/a", "known-alice");
        for (token, path, status) in [
            ("known-alice", "/broadcast/b", 403),
            ("unauthorized", "/echo", 401),
            ("forbidden", "/echo", 403),
            ("broken", "/echo", 503),
            ("failing", "/echo", 503),
            ("closing", "/echo", 503),
            ("huge", "/echo", 503),
            ("hanging", "/echo", 503),
        ] {
            let (_, answer) = answer(server, path, &[&bearer(token)]);
            assert_eq!(answer.status, status, "{token} {path}");
        }
        assert_eq!(answer(server, "/echo", &[]).1.status, 401);
        assert_eq!(answer(server, "/echo", &[&basic("hooked", "p")]).1.status, 101);
        // Frames that arrive before the decision are handled behind it.
        let mut peer = Peer::connect(server);
        peer.send(&[upgrade("/echo", &[&bearer("known-eager")]), frame(TEXT, b"early")].concat());
        assert_eq!(peer.answer().status, 101);
        assert_eq!(peer.frame(), (0x81, b"early".to_vec()));
        // Handlers of routes are opened later, too.
        let mut delayed = open(server, "/delay?ms=1", "known-carol");
        delayed.send(&frame(TEXT, b"slowly"));
        assert_eq!(delayed.frame(), (0x81, b"slowly".to_vec()));
        // Decisions are remembered, failures are not.
        let before = service.requests.load(Ordering::SeqCst);
        open(server, "/delay?ms=1", "known-carol");
        assert_eq!(answer(server, "/echo", &[&bearer("forbidden")]).1.status, 403);
        assert_eq!(service.requests.load(Ordering::SeqCst), before);
        assert_eq!(answer(server, "/echo", &[&bearer("failing")]).1.status, 503);
        assert_eq!(service.requests.load(Ordering::SeqCst), before + 1);
        let auth = server.report()["auth"].clone();
        assert_eq!(auth["refused"]["unavailable"], 6, "{auth}");
        server.wait_for_log("the authentication hook gave no decision");
    });
}

#[test]
fn the_traffic_of_a_client_that_waited_counts_for_its_route() {
    with_hook(&[], |server, _| {
        let mut publisher = open(server, "/broadcast/a", "known-alice");
        let mut subscriber = open(server, "/broadcast/a", "known-bob");
        publisher.send(&frame(TEXT, b"hello"));
        assert_eq!(subscriber.frame(), (0x81, b"hello".to_vec()));
        let (_, metrics) = server.ask_admin("GET", "/metrics", &[]);
        for direction in ["in", "out"] {
            let sample = |route: &str| {
                let name = format!("echoring_messages_total{{route=\"{route}\",direction=\"{direction}\"}} ");
                let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
                line.unwrap_or_else(|| panic!("no {name} in {metrics}")).to_owned()
            };
            assert_eq!((sample("broadcast"), sample("echo")), ("1".to_owned(), "0".to_owned()));
        }
    });
}

#[test]
fn a_client_that_is_being_decided_on_when_the_server_drains_is_told_to_come_back() {
    for flags in [&["--auth-hook-timeout=60s", "--handshake-timeout=60s"][..], &["--drain=1s"]] {
        with_hook(flags, |server, service| {
            let mut waiting: Vec<Peer> = (0..8)
                .map(|number| {
                    let mut peer = Peer::connect(server);
                    peer.send(&upgrade("/echo", &[&bearer(&format!("hanging-{number}"))]));
                    peer
                })
                .collect();
            while service.requests.load(Ordering::SeqCst) == 0 || server.figure("connections") < 8 {
                std::thread::yield_now();
            }
            server.terminate();
            for peer in &mut waiting {
                let answer = peer.answer();
                assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")), "{answer:?}");
                peer.expect_end();
            }
        });
    }
}

/// Clients of one address get three quarters of the places at the hook, and of the requests to it.
const WAITING_OF_ADDRESS: u64 = 1_024 / 4 * 3;
const REQUESTS_OF_ADDRESS: usize = 32 / 4 * 3;

#[test]
fn a_slow_hook_holds_up_only_those_who_need_it() {
    let tokens = tokens();
    let tokens = tokens.flag("auth-tokens");
    with_hook(&[&tokens, "--auth-hook-timeout=60s", "--handshake-timeout=60s"], |server, service| {
        let ask = |number: usize| {
            let mut peer = Peer::connect(server);
            peer.send(&upgrade("/echo", &[&bearer(&format!("hanging-{number}"))]));
            peer
        };
        // More than wait at the shard and at the hook.
        let waiting: Vec<Peer> = (0..1_100).map(ask).collect();
        let wait = |auth: &Value| {
            auth["refused"]["busy"].as_u64().is_some_and(|busy| busy >= 1_100 - WAITING_OF_ADDRESS)
        };
        while !wait(&server.report()["auth"]) {}
        let mut echo = open(server, "/echo", ALICE);
        echo.send(&frame(TEXT, b"not held up"));
        assert_eq!(echo.frame(), (0x81, b"not held up".to_vec()));
        while service.at_once.load(Ordering::SeqCst) < REQUESTS_OF_ADDRESS {}
        drop(waiting);
        service.release();
        server.wait_until("only one is left", |stats| stats["connections"] == 1);
        assert_eq!(service.at_once.load(Ordering::SeqCst), REQUESTS_OF_ADDRESS, "never more");
    });
}

#[test]
fn who_waits_for_a_slow_hook_is_answered_within_the_handshake_and_then_not_asked_about() {
    with_hook(&["--auth-hook-timeout=60s", "--handshake-timeout=2s"], |server, service| {
        let ask = |number: usize| {
            let mut peer = Peer::connect(server);
            peer.send(&upgrade("/echo", &[&bearer(&format!("hanging-{number}"))]));
            peer
        };
        // Some hold all turns of their address, and the others wait behind them. One leaves by itself.
        let mut waiting: Vec<Peer> = (0..100).map(ask).collect();
        drop(waiting.pop());
        for peer in &mut waiting {
            let answer = peer.answer();
            assert_eq!((answer.status, answer.field("retry-after")), (503, Some("2")), "{answer:?}");
            peer.expect_end();
        }
        service.release();
        open(server, "/echo", "known-alice");
        let requests = service.requests.load(Ordering::SeqCst);
        assert_eq!(requests, REQUESTS_OF_ADDRESS + 1, "nobody waits for the others");
        assert_eq!(server.report()["auth"]["refused"]["unavailable"], 99);
        server.wait_for_log("there was no decision about a client within the time of its handshake");
    });
}

#[test]
fn a_session_presents_a_token_that_the_hook_knows() {
    with_hook(&["--auth-hook-timeout=5s"], |server, service| {
        let mut client = session(server, "known-brief");
        assert_eq!(client.event()["type"], "token_expires");
        let request = json!({"type": "authenticate", "id": 1, "token": "hanging"});
        client.0.send(&frame(TEXT, request.to_string().as_bytes()));
        let event = client.ask(&json!({"type": "authenticate", "id": 2, "token": "known-brief-2"}));
        assert_eq!((&event["id"], &event["code"]), (&json!(2), &json!("busy")), "one at a time: {event}");
        service.release();
        let event = client.event();
        assert_eq!((&event["id"], &event["code"]), (&json!(1), &json!("busy")), "{event}");
        let event = client.ask(&json!({"type": "authenticate", "id": 3, "token": "known-brief-3"}));
        assert_eq!(
            (&event["type"], &event["subject"]),
            (&json!("authenticated"), &json!("brief")),
            "{event}"
        );
    });
}

#[test]
fn passwords_are_checked_by_their_hashes() {
    let users = TestFile::new(format!(
        "[[users]]\nname = \"alice\"\npassword = \"{HASH}\"\nsubscribe = [\"a\"]\n\
         [[users]]\nname = \"bob\"\npassword = \"{COSTLY}\"\n"
    ));
    let config = TestFile::new("[topic_defaults]\nsubscribe = \"claim\"\n");
    let flags = [users.flag("auth-basic"), config.flag("config")];
    super::super::server::on_both_drivers(&flags.each_ref().map(String::as_str), |server| {
        for (field, path, status) in [
            (basic("alice", "correct horse"), "/broadcast/a", 101),
            (basic("alice", "correct horse"), "/broadcast/b", 403),
            (basic("bob", "correct horse"), "/echo", 101),
            (basic("alice", "wrong"), "/echo", 401),
            (basic("bob", ""), "/echo", 401),
            (basic("carol", "correct horse"), "/echo", 401),
            ("Authorization: Basic !".to_owned(), "/echo", 401),
        ] {
            let (_, answer) = answer(server, path, &[&field]);
            assert_eq!(answer.status, status, "{path}");
            let challenge = answer.field("www-authenticate").unwrap_or_default();
            assert_eq!(challenge.starts_with("Basic realm="), status == 401, "{challenge}");
        }
    });
}

#[test]
fn a_flood_of_passwords_is_bounded_and_delays_nobody_else() {
    let users = TestFile::new(format!("[[users]]\nname = \"bob\"\npassword = \"{COSTLY}\"\n"));
    let tokens = tokens();
    let flags = [users.flag("auth-basic"), tokens.flag("auth-tokens"), "--handshake-timeout=60s".to_owned()];
    super::super::server::on_both_drivers(&flags.each_ref().map(String::as_str), |server| {
        let ask = |number: usize| {
            let mut peer = Peer::connect(server);
            peer.send(&upgrade("/echo", &[&basic("bob", &format!("guess {number}"))]));
            peer
        };
        let guesses: Vec<Peer> = (0..300).map(ask).collect();
        open(server, "/echo", ALICE);
        let statuses: Vec<u16> = guesses.into_iter().map(|mut peer| peer.answer().status).collect();
        assert!(statuses.iter().all(|status| [401, 503].contains(status)), "{statuses:?}");
        assert!(statuses.contains(&401) && statuses.contains(&503), "{statuses:?}");
        assert_eq!(answer(server, "/echo", &[&basic("bob", "correct horse")]).1.status, 101);
    });
}
