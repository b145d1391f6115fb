//! Tokens and permissions that change while their clients are connected.

use std::fs;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, mpsc};

use serde_json::json;

use super::super::peer::{Peer, upgrade};
use super::super::server::Server;
use super::service::{Reaction, Service};
use super::{ALICE, BOB, TestFile, answer, bearer, open, session, tokens};

#[test]
fn a_reload_ends_what_the_new_tokens_and_permissions_do_not_allow() {
    for driver in ["auto", "epoll"] {
        let tokens = tokens();
        let config = TestFile::new("[topic_defaults]\nsubscribe = \"everybody\"\n");
        let flags = [tokens.flag("auth-tokens"), config.flag("config")];
        let server = Server::start(&["--driver", driver, &flags[0], &flags[1], "--watch", "off"]);
        let mut bob = open(&server, "/broadcast/a.mine", BOB);
        let mut alice = session(&server, ALICE);
        for topic in ["a.mine", "other"] {
            let event = alice.ask(&json!({"type": "subscribe", "topic": topic}));
            assert_eq!(event["type"], "subscribed", "{event}");
        }
        let mut raw = open(&server, "/broadcast/other", ALICE);
        let text = fs::read_to_string(&tokens.0).expect("a file");
        let without_bob = text.rsplit_once("[[tokens]]").expect("two tokens").0;
        fs::write(&tokens.0, without_bob).expect("written");
        fs::write(&config.0, "[topic_defaults]\nsubscribe = \"claim\"\n").expect("written");
        let (status, body) = server.ask_admin("POST", "/reload", &[]);
        assert_eq!(status, 200, "{body}");
        assert_eq!(bob.close_frame(), Some(4001));
        assert_eq!(raw.close_frame(), Some(4003));
        let ended = alice.event_of("unsubscribed");
        assert_eq!((&ended["topic"], &ended["reason"]), (&json!("other"), &json!("forbidden")), "{ended}");
        let event = alice.ask(&json!({"type": "subscribe", "topic": "b.mine"}));
        assert_eq!(event["type"], "subscribed", "{event}");
        assert_eq!(answer(&server, "/echo", &[&bearer(BOB)]).1.status, 401);
        assert_eq!(server.report()["auth"]["withdrawn"], 1);
        // A wrong file changes nothing.
        fs::write(&tokens.0, "[[tokens]]\n").expect("written");
        assert_ne!(server.ask_admin("POST", "/reload", &[]).0, 200);
        open(&server, "/echo", ALICE);
    }
}

/// A client whose decision is made while the configuration is reloaded is let in, unless the hook is gone.
#[test]
fn a_decision_that_a_reload_overtakes_is_made_and_holds_if_the_new_settings_agree() {
    for driver in ["auto", "epoll"] {
        let (go, gone) = mpsc::channel::<()>();
        let gone = Mutex::new(gone);
        let service = Service::start(move |_| {
            let _ = gone.lock().expect("no panic").recv();
            Reaction::Answer(200, json!({"subject": "slow"}).to_string())
        });
        let tokens = tokens();
        let hook = format!("hook = \"{}\"\nhook_timeout = \"60s\"\ncache = \"0s\"\n", service.url());
        let auth = |hook: &str| format!("[auth]\ntokens = \"{}\"\n{hook}", tokens.path().display());
        let config = TestFile::new(auth(&hook));
        let flags = [config.flag("config"), "--handshake-timeout=60s".to_owned()];
        let server = Server::start(&["--driver", driver, "--watch", "off", &flags[0], &flags[1]]);
        for (requests, after, status) in
            [(1, auth(&format!("{hook}anonymous = true\n")), 101), (2, auth(""), 401)]
        {
            let mut peer = Peer::connect(&server);
            peer.send(&upgrade("/echo", &[&bearer("slow")]));
            while service.requests.load(Ordering::SeqCst) < requests {}
            fs::write(config.path(), after).expect("written");
            let (answered, body) = server.ask_admin("POST", "/reload", &[]);
            assert_eq!(answered, 200, "{body}");
            go.send(()).expect("the service waits");
            assert_eq!(peer.answer().status, status);
        }
    }
}

#[test]
fn a_new_file_of_something_else_keeps_the_decisions_of_the_hook() {
    let service = Service::start(|_| Reaction::Answer(200, json!({"subject": "known"}).to_string()));
    let admin = TestFile::new("0123456789abcdef-old");
    let flags = [format!("--auth-hook={}", service.url()), admin.flag("admin-token-file")];
    let server = Server::start(&["--watch", "off", &flags[0], &flags[1]]);
    open(&server, "/echo", "known");
    fs::write(admin.path(), "0123456789abcdef-new").expect("written");
    let (status, body) = server.ask_admin("POST", "/reload", &["Authorization: Bearer 0123456789abcdef-old"]);
    assert!(status == 200 && body.contains("echoring-auth-"), "{body}");
    open(&server, "/echo", "known");
    assert_eq!(service.requests.load(Ordering::SeqCst), 1);
}
