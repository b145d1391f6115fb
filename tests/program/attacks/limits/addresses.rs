//! Limits per address and in all, and bans.

use super::*;

#[test]
fn an_address_has_its_connections_and_others_have_theirs() {
    on_both_drivers(&["--max-connections-per-address=3", "--shards", "2"], |server| {
        let mut held: Vec<Peer> = (0..3)
            .map(|_| {
                let (peer, answer) = answer_from(server, STRANGER, &[]);
                assert_eq!(answer.status, 101);
                peer
            })
            .collect();
        let (_, refused) = answer_from(server, STRANGER, &[]);
        assert_eq!(refused.status, 429);
        let wait = refused.field("retry-after").and_then(|wait| wait.parse().ok());
        assert!(wait.is_some_and(|wait: u32| (1..=8).contains(&wait)), "{refused:?}");
        server.serves();
        let line = server.wait_for_log("address over a limit");
        assert!(line.contains("peer=127.0.0.7") && line.contains("connections_per_address"), "{line}");
        assert_eq!(limited(server, "connections_per_address"), 1);
        let entry = known(server, "127.0.0.7").expect("listed");
        assert_eq!((&entry["connections"], &entry["refused"]), (&3.into(), &1.into()), "{entry}");
        // One that leaves makes room for one that comes.
        held.pop().expect("three").reset();
        server.wait_until("two of them", |_| known(server, "127.0.0.7").expect("listed")["connections"] == 2);
        assert_eq!(answer_from(server, STRANGER, &[]).1.status, 101);
    });
}

#[test]
fn a_refused_client_costs_no_tls_handshake() {
    let tls = [&["--driver", "auto"][..], &tls_flags()].concat();
    let epoll = [&["--driver", "epoll"][..], &tls_flags()].concat();
    at_once(&[&tls, &epoll], &["--max-connections-per-address=1"], |server| {
        let (_held, answer) = answer_from(server, STRANGER, &[]);
        assert_eq!(answer.status, 101);
        let before = server.stats()["tls_handshakes"].as_u64();
        let mut refused = Peer::connect_from(server, STRANGER);
        assert!(refused.shake().is_err(), "a handshake was made");
        assert_eq!(limited(server, "connections_per_address"), 1);
        assert_eq!(server.stats()["tls_handshakes"].as_u64(), before);
    });
}

#[test]
fn handshakes_per_second_are_limited_per_address_and_in_all() {
    on_both_drivers(&["--handshake-rate-per-address=5"], |server| {
        let statuses: Vec<u16> = (0..60).map(|_| answer_from(server, STRANGER, &[]).1.status).collect();
        assert_eq!(statuses[..5], [101; 5]);
        let refused = statuses.iter().filter(|status| **status == 429).count() as u64;
        assert!(refused > 0, "{statuses:?}");
        assert_eq!(limited(server, "handshakes_per_address"), refused);
    });
    for driver in ["auto", "epoll"] {
        let server = Server::start(&["--driver", driver, "--handshake-rate=5"]);
        let refused = (0..60).filter(|_| answer_from(&server, STRANGER, &[]).1.status == 503).count() as u64;
        assert!(refused > 0);
        assert_eq!(limited(&server, "handshakes"), refused);
        server.wait_for_log("more handshakes per second than allowed");
        let deadline = Instant::now() + PATIENCE;
        while answer_from(&server, STRANGER, &[]).1.status != 101 {
            assert!(Instant::now() < deadline, "nobody is let in any more");
        }
    }
}

#[test]
fn an_address_that_is_over_its_limits_again_and_again_is_banned() {
    let flags = ["--max-connections-per-address=1", "--ban-after=3", "--ban-time=1h"];
    on_both_drivers(&flags, |server| {
        let (mut held, answer) = answer_from(server, STRANGER, &[]);
        assert_eq!(answer.status, 101);
        for _ in 0..3 {
            assert_eq!(answer_from(server, STRANGER, &[]).1.status, 429);
        }
        let line = server.wait_for_log("address banned");
        assert!(line.contains("peer=127.0.0.7") && line.contains("ban_s=3600"), "{line}");
        held.finish();
        for _ in 0..2 {
            expect_silence(&mut Peer::connect_from(server, STRANGER));
        }
        server.wait_until("they are counted", |_| limited(server, "banned") == 2);
        let entry = known(server, "127.0.0.7").expect("listed");
        assert!(entry["banned_s"].as_u64().is_some_and(|left| (3_500..=3_600).contains(&left)), "{entry}");
        assert_eq!(server.get("/limits")["bans"], 1);
        assert!(server.stats()["causes"]["banned"].as_u64() >= Some(1));
    });
}

#[test]
fn limits_change_while_the_server_runs() {
    let config = TestFile::new("max_connections_per_address = 1\n");
    let server = Server::start(&[&config.flag("config"), "--watch", "off"]);
    let reload = |text: &str| {
        fs::write(config.path(), text).expect("written");
        let (status, body) = server.ask_admin("POST", "/reload", &[]);
        assert_eq!(status, 200, "{body}");
        server.get("/limits")["limits"].clone()
    };
    let _held = answer_from(&server, STRANGER, &[]);
    assert_eq!(answer_from(&server, STRANGER, &[]).1.status, 429);
    let limits = reload("max_connections_per_address = 3\n");
    assert_eq!(limits["max_connections_per_address"], 3);
    let _held = [answer_from(&server, STRANGER, &[]), answer_from(&server, STRANGER, &[])];
    assert_eq!(answer_from(&server, STRANGER, &[]).1.status, 429);
    let limits =
        reload("handshake_rate_per_address = 1\nban_after = 2\nban_window = \"2m\"\nban_time = \"1h\"\n");
    assert_eq!(limits["max_connections_per_address"], Value::Null);
    assert_eq!((&limits["ban_after"], &limits["ban_window_s"]), (&2.into(), &120.into()));
    for _ in 0..20 {
        let mut peer = Peer::connect_from(&server, STRANGER);
        let _ = peer.offer(&upgrade("/echo", &[]));
    }
    server.wait_until("a ban", |_| server.get("/limits")["bans"] == 1);
    reload("max_topics = 65536\n");
    assert_eq!(answer_from(&server, STRANGER, &[]).1.status, 101, "without limits there is no ban");
}
