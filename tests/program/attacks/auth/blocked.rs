//! Clients that are blocked although their credentials are good.

use std::fs;

use serde_json::{Value, json};

use super::super::centrifuge::Client;
use super::super::server::Server;
use super::{SECRET, TestFile, answer, bearer, jwt, open, session, unix_now};

const WITHDRAWN: Option<u16> = Some(4001);

/// A server with JWT, whose file of blocks is empty, on two shards.
fn with_blocks(test: impl Fn(&Server, &TestFile, &TestFile)) {
    for driver in ["auto", "epoll"] {
        let (key, blocked, config) =
            (TestFile::new(SECRET), TestFile::new(""), TestFile::new("shards = 2\n"));
        let flags = [key.flag("auth-jwt-key"), blocked.flag("auth-blocked"), config.flag("config")];
        let [key, list, file] = flags.each_ref().map(String::as_str);
        let server = Server::start_beside(
            &[key, list, file, "--driver", driver, "--watch", "off"],
            &[("--log", "info"), ("--allow-host", "*")],
        );
        test(&server, &blocked, &config);
    }
}

fn of_token(subject: &str, id: &str) -> String {
    jwt(subject, 600, json!({"jti": id, "subscribe": "*"}))
}

fn status(server: &Server, token: &str) -> u16 {
    answer(server, "/echo", &[&bearer(token)]).1.status
}

fn call(server: &Server, method: &str, parameters: Value) {
    let answer = server.post(&format!("/api/{method}"), parameters.to_string().as_bytes());
    assert_eq!(answer, Some((200, json!({"result": {}}))), "{method}");
}

#[test]
fn tokens_and_users_are_blocked_while_they_are_connected() {
    with_blocks(|server, _, config| {
        let [one, two] = ["one", "two"].map(|id| of_token("alice", id));
        let mut first = open(server, "/echo", &one);
        let mut second = session(server, &two);
        let mut bob = open(server, "/echo", &of_token("bob", "three"));
        call(server, "revoke_token", json!({"uid": "one"}));
        assert_eq!(first.close_frame(), WITHDRAWN);
        assert_eq!((status(server, &one), status(server, &two)), (403, 101));
        let mut sdk = Client::open(server);
        assert_eq!(sdk.error(json!({"connect": {"token": one}})), 103);
        call(server, "block_user", json!({"user": "alice"}));
        let code = loop {
            let (first, payload) = second.0.frame();
            if first & 0xf == 8 {
                break payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
        };
        assert_eq!(code, WITHDRAWN);
        assert_eq!(status(server, &two), 403);
        let limits = server.get("/limits");
        let listed = json!([{"subject": "alice", "until": null}, {"token_id": "one", "until": null}]);
        assert_eq!((&limits["blocks"], &limits["blocked"]), (&json!(2), &listed));
        // A server with other shards knows them, too.
        fs::write(config.path(), "shards = 1\n").expect("written");
        let (reloaded, report) = server.ask_admin("POST", "/reload", &[]);
        assert_eq!(reloaded, 200, "{report}");
        assert!(report.contains("\"shards\""), "{report}");
        assert_eq!(status(server, &two), 403);
        call(server, "unblock_user", json!({"user": "alice"}));
        assert_eq!((status(server, &one), status(server, &two)), (403, 101));
        call(server, "block_user", json!({"user": "carol", "expire_at": unix_now() + 2}));
        let carol = of_token("carol", "four");
        assert_eq!(status(server, &carol), 403);
        server.wait_until("the block ends", |_| status(server, &carol) == 101);
        bob.send(&super::frame(super::TEXT, b"here"));
        assert_eq!(bob.message().1, b"here");
    });
}

#[test]
fn a_file_of_blocks_is_read_again() {
    with_blocks(|server, blocked, _| {
        let token = of_token("alice", "one");
        let mut peer = open(server, "/echo", &token);
        let reload = |text: &str| {
            fs::write(blocked.path(), text).expect("written");
            server.ask_admin("POST", "/reload", &[]).0
        };
        assert_eq!(reload("[[blocked]]\nsubject = 'alice'\nuntil = 2100-01-01T00:00:00Z"), 200);
        assert_eq!(peer.close_frame(), WITHDRAWN);
        assert_eq!(status(server, &token), 403);
        assert_ne!(reload("[[blocked]]"), 200, "a wrong file changes nothing");
        assert_eq!(status(server, &token), 403);
        assert_eq!(reload("[[blocked]]\ntoken_id = 'one'\nuntil = 2001-01-01T00:00:00Z"), 200);
        assert_eq!(status(server, &token), 101);
    });
}
