//! Tokens and permissions that change while their clients are connected.

use std::fs;

use serde_json::json;

use super::super::server::Server;
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
