//! `/connections` on the admin address: who is connected, and closing them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use super::peer::{Peer, TEXT, frame};
use super::server::{Server, on_both_drivers};

/// All pages of a query, each with at most `limit` connections.
fn pages(server: &Server, query: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let page = server.get(&format!("/connections?limit={limit}{query}{after}"));
        assert_eq!(page["schema"], "echoring.connections/1");
        let connections = page["connections"].as_array().expect("a list");
        assert!(connections.len() <= limit);
        all.extend_from_slice(connections);
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return all,
        }
    }
}

fn ids(connections: &[Value]) -> Vec<String> {
    connections.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
}

fn address_of(peer: &Peer) -> String {
    peer.stream.local_addr().expect("connected").to_string()
}

fn delete(server: &Server, path: &str) -> (u16, Value) {
    let (status, body) = server.ask_admin("DELETE", path, &[]);
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

/// A session of `echoring.v1.json` that subscribes to these topics.
fn session(server: &Server, topics: &[&str]) -> Peer {
    let mut peer = Peer::connect(server);
    peer.send(&super::peer::upgrade("/broadcast", &["Sec-WebSocket-Protocol: echoring.v1.json"]));
    assert_eq!(peer.answer().status, 101);
    for topic in topics {
        peer.send(&frame(TEXT, format!(r#"{{"type":"subscribe","id":1,"topic":"{topic}"}}"#).as_bytes()));
        peer.message();
    }
    peer
}

#[test]
fn each_connection_shows_its_route_its_topics_and_its_address() {
    on_both_drivers(&[], |server| {
        let mut echo = Peer::open(server, "/echo");
        let _raw = Peer::open(server, "/broadcast/a%2Fb");
        let many: Vec<String> = (0..20).map(|number| format!("t{number}")).collect();
        let _session = session(server, &many.iter().map(String::as_str).collect::<Vec<_>>());
        let _silent = Peer::connect(server);
        let all = pages(server, "", 1000);
        assert_eq!(all.len(), 3, "one in its handshake is not listed: {all:?}");
        let by_route: BTreeMap<&str, &Value> =
            all.iter().map(|one| (one["route"].as_str().expect("a route"), one)).collect();
        let (one, raw, session) = (by_route["echo"], by_route["broadcast"], by_route["session"]);
        assert_eq!(one["address"], address_of(&echo));
        for field in ["identity", "subprotocol", "open_s"] {
            assert!(one[field].is_null() && one.get(field).is_some(), "{field}: {one}");
        }
        assert!(one.get("path").is_none() && one.get("lag_bytes").is_none(), "{one}");
        assert_eq!(
            (&one["shard"], &one["is_tls"], &one["queued_bytes"]),
            (&0.into(), &false.into(), &0.into())
        );
        assert_eq!((&raw["topics"], &raw["topic_count"]), (&serde_json::json!(["a/b"]), &1.into()));
        assert_eq!(raw["lag_bytes"], 0);
        assert_eq!(
            (session["topics"].as_array().map(Vec::len), &session["topic_count"]),
            (Some(16), &20.into())
        );
        assert_eq!(session["subprotocol"], "echoring.v1.json");
        // Looking changes nothing.
        echo.send(&frame(TEXT, b"a"));
        assert_eq!(echo.frame(), (0x81, b"a".to_vec()));
    });
}

#[test]
fn what_the_access_log_knows_is_shown_too() {
    let log = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let log = log.join(format!("connections-{}.log", std::process::id()));
    on_both_drivers(&["--access-log", log.to_str().expect("UTF-8")], |server| {
        let peer = Peer::open(server, "/echo?secret=1");
        let all = pages(server, "", 10);
        assert_eq!((&all[0]["path"], &all[0]["address"]), (&"/echo".into(), &address_of(&peer).into()));
        assert!(all[0]["open_s"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{all:?}");
    });
}

/// The soft limit of a shell is below what the test opens.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("allowed");
}

#[test]
fn a_connection_that_stays_is_on_one_page_while_others_come_and_go() {
    raise_descriptor_limit();
    on_both_drivers(&["--shards", "2"], |server| {
        let mut staying = Vec::new();
        let mut leaving = Vec::new();
        for number in 0..1_400 {
            let peer = Peer::open(server, "/echo");
            if number % 7 == 0 { leaving.push(peer) } else { staying.push(peer) }
        }
        let known: BTreeSet<String> = {
            let addresses: BTreeSet<String> = staying.iter().map(address_of).collect();
            let all = pages(server, "", 1000);
            assert_eq!(all.len(), 1_400);
            let stays = |one: &&Value| addresses.contains(one["address"].as_str().expect("an address"));
            all.iter().filter(stays).map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
        };
        assert_eq!(known.len(), 1_200);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    leaving.pop();
                    leaving.insert(0, Peer::open(server, "/echo"));
                }
            });
            for limit in [1000, 37, 256] {
                let seen = ids(&pages(server, "", limit));
                let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
                seen.iter().for_each(|id| *counts.entry(id).or_default() += 1);
                assert!(counts.values().all(|count| *count == 1), "none is listed twice");
                assert!(known.iter().all(|id| counts.contains_key(&**id)), "all that stay are listed");
            }
            done.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn filters_choose_by_address_topic_and_identity() {
    on_both_drivers(&[], |server| {
        let _echo = Peer::open(server, "/echo");
        let _raw = Peer::open(server, "/broadcast/a%2Fb");
        let _session = session(server, &["c", "a/b"]);
        let count = |query: &str| pages(server, query, 2).len();
        assert_eq!(count("&topic=a%2Fb"), 2);
        assert_eq!(count("&topic=c"), 1);
        assert_eq!(count("&topic=d"), 0);
        assert_eq!(count("&address=127.0.0.1"), 3);
        assert_eq!(count("&address=127.0.0.0/8"), 3);
        assert_eq!(count("&address=::ffff:127.0.0.1"), 3);
        assert_eq!(count("&address=10.0.0.0/8"), 0);
        assert_eq!(count("&address=127.0.0.1&topic=c"), 1);
        assert_eq!(count("&identity=alice"), 0);
        for wrong in [
            "limit=0",
            "limit=1001",
            "address=x",
            "sort=id",
            "sort=queued&after=0-1",
            "colour=red",
            "after=1",
        ] {
            assert_eq!(server.ask_admin("GET", &format!("/connections?{wrong}"), &[]).0, 400, "{wrong}");
        }
        assert_eq!(server.ask_admin("PUT", "/connections", &[]).0, 405);
        assert_eq!(server.ask_admin("GET", "/connections/0-0-0", &[]).0, 405);
    });
}

#[test]
fn the_longest_queues_come_first() {
    on_both_drivers(&["--shards", "2", "--max-message", "1MiB"], |server| {
        let mut quiet: Vec<Peer> = (0..20).map(|_| Peer::open(server, "/echo")).collect();
        let mut slow: Vec<Peer> = (0..3).map(|_| Peer::connect_narrow(server, 4096)).collect();
        for peer in &mut slow {
            peer.upgrade("/echo");
            // More than the kernel takes. It is not read, so the rest of the echo is queued.
            peer.send(&frame(TEXT, &vec![b'a'; 500_000]));
        }
        server.wait_until("queued", |_| {
            let page = server.get("/connections?sort=queued&limit=3");
            let all = page["connections"].as_array().expect("a list").clone();
            all.len() == 3
                && all.iter().all(|one| one["queued_bytes"].as_u64().is_some_and(|bytes| bytes > 0))
        });
        let page = server.get("/connections?sort=queued&limit=5");
        let queued: Vec<u64> = page["connections"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["queued_bytes"].as_u64().expect("a number"))
            .collect();
        assert_eq!((queued.len(), page["next"].is_null()), (5, true));
        assert!(queued.is_sorted_by(|a, b| a >= b), "{queued:?}");
        let addresses: BTreeSet<String> = slow.iter().map(address_of).collect();
        let first: BTreeSet<String> = page["connections"].as_array().expect("a list")[..3]
            .iter()
            .map(|one| one["address"].as_str().expect("an address").to_owned())
            .collect();
        assert_eq!(first, addresses);
        quiet.clear();
    });
}

/// However much is queued for others.
#[test]
fn whoever_is_furthest_behind_a_topic_comes_first_by_lag() {
    let config =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lag-{}.toml", std::process::id()));
    std::fs::write(&config, "queue_bytes = '8MiB'\n[topic_defaults]\nlag = '10m'").expect("written");
    on_both_drivers(&["--config", config.to_str().expect("UTF-8"), "--max-message", "4MiB"], |server| {
        let mut echo = Peer::connect_narrow(server, 4096);
        echo.upgrade("/echo");
        echo.send(&frame(TEXT, &vec![b'a'; 3_000_000]));
        let mut slow = Peer::connect_narrow(server, 4096);
        slow.upgrade("/broadcast/t");
        for _ in 0..40 {
            assert_eq!(server.post("/topics/t", &[7; 50_000]).expect("an answer").0, 200);
        }
        let first = |order: &str| {
            let page = server.get(&format!("/connections?sort={order}&limit=1"));
            page["connections"][0]["route"].as_str().map(str::to_owned)
        };
        server.wait_until("behind", |_| first("queued").as_deref() == Some("echo"));
        server.wait_until("behind", |_| first("lag").as_deref() == Some("broadcast"));
        drop((echo, slow));
    });
    std::fs::remove_file(config).expect("removed");
}

#[test]
fn one_connection_or_all_that_match_are_closed() {
    on_both_drivers(&["--shards", "2"], |server| {
        let mut peers: Vec<Peer> = (0..6).map(|_| Peer::open(server, "/broadcast/a")).collect();
        let mut other = Peer::open(server, "/echo");
        let mut first = peers.remove(0);
        let own = address_of(&first);
        let all = pages(server, "", 100);
        let id = all.iter().find(|one| one["address"] == own.as_str()).expect("listed")["id"]
            .as_str()
            .expect("an id");
        let (status, answer) = delete(server, &format!("/connections/{id}"));
        assert_eq!((status, &answer["closed"]), (200, &1.into()));
        let (head, payload) = first.frame();
        assert_eq!(
            (head, &payload[..]),
            (0x88, &[&4010_u16.to_be_bytes()[..], b"closed by an operator"].concat()[..])
        );
        first.finish();
        server.wait_until("closed", |stats| stats["connections"] == 6);
        assert_eq!(delete(server, &format!("/connections/{id}")).0, 404);
        for unknown in ["9c", "e1b4c0927f3d5a68913c7fe20b5a4d86", "0-0-1", "x", ""] {
            assert_eq!(delete(server, &format!("/connections/{unknown}")).0, 404, "{unknown}");
        }
        assert_eq!(delete(server, "/connections").0, 400, "a filter is required");
        assert_eq!(delete(server, "/connections?sort=queued&topic=a").0, 400);
        assert_eq!(delete(server, "/connections?topic=b").1["closed"], 0);
        let (status, answer) = delete(server, "/connections?topic=a&address=127.0.0.1");
        assert_eq!((status, &answer["closed"], answer["next"].is_null()), (200, &5.into(), true));
        for peer in &mut peers {
            assert_eq!(peer.close_frame(), Some(4010));
        }
        // They do not answer, and are cut.
        server.wait_until("cut", |stats| stats["connections"] == 1);
        other.send(&frame(TEXT, b"a"));
        assert_eq!(other.frame(), (0x81, b"a".to_vec()));
    });
}

#[test]
fn an_identity_chooses_its_connections() {
    let file = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let file = file.join(format!("connections-tokens-{}.toml", std::process::id()));
    let tokens = "[[tokens]]\ntoken = \"0123456789abcdef0\"\nsubject = \"alice\"\n\
                  [[tokens]]\ntoken = \"0123456789abcdef1\"\nsubject = \"CN=bob,O=a b\"\n";
    std::fs::write(&file, tokens).expect("written");
    on_both_drivers(&["--auth-tokens", file.to_str().expect("UTF-8")], |server| {
        let open = |token: &str| {
            let mut peer = Peer::connect(server);
            peer.send(&super::peer::upgrade("/echo", &[&format!("Authorization: Bearer {token}")]));
            assert_eq!(peer.answer().status, 101);
            peer
        };
        let (mut alice, mut bob) =
            (open("0123456789abcdef0"), [open("0123456789abcdef1"), open("0123456789abcdef1")]);
        assert_eq!(pages(server, "", 10).len(), 3);
        let found = pages(server, "&identity=CN%3Dbob%2CO%3Da%20b", 10);
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|one| one["identity"] == "CN=bob,O=a b"), "{found:?}");
        assert_eq!(delete(server, "/connections?identity=CN%3Dbob%2CO%3Da%20b").1["closed"], 2);
        for peer in &mut bob {
            assert_eq!(peer.close_frame(), Some(4010));
        }
        alice.send(&frame(TEXT, b"a"));
        assert_eq!(alice.frame(), (0x81, b"a".to_vec()));
    });
}
