//! The peak of a node's memory against docs/memory.md, with slow readers, histories, TLS and kept windows at once.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::auth::{SECRET, TestFile, jwt};
use super::compression::{agree, compressed};
use super::deflate::stored;
use super::peer::{BINARY, Peer, TEXT, frame, upgrade};
use super::server::{PATIENCE, Server, through_tls};

const CONFIG: &str = r#"
shards = 1
memory_budget = "96MiB"
compress = "server_max_window_bits=15; client_max_window_bits=15; memory=48MiB"
max_connections = 400
max_subscriptions = 1
max_topics = 800
# On a busy host those that only write answer too late.
ping_interval = "1h"
"#;
/// That of [`CONFIG`]. The last eighth is its reserve.
const BUDGET: u64 = 96 << 20;
const HISTORIES: usize = 700;
const COMPRESSED: usize = 190;
const STALLED: usize = 90;

/// The configuration as a file, deleted at the end.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(name: &str, text: &str) -> ConfigFile {
        let name = format!("{name}-{}.toml", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, text).expect("written");
        ConfigFile(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The formula for the configuration, in bytes: of the process, and of the kernel.
fn formula(config: &ConfigFile) -> (u64, u64) {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_echoring"));
    let told =
        doctor.args(["doctor", "--json", "--config", config.path()]).output().expect("the binary runs");
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let bytes = |name: &str| told["memory"][name].as_u64().expect("a number");
    (bytes("user_bytes"), bytes("kernel_bytes"))
}

/// Bytes that do not shrink, so that all of a window is used.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed + 1;
    let mut byte = || {
        // xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..60_000).map(|_| byte()).collect()
}

/// Fills the histories of topics, as far as they may grow.
fn publish(server: &Server) -> Peer {
    let mut publisher = Peer::connect(server);
    publisher.send(&upgrade("/broadcast", &["Sec-WebSocket-Protocol: echoring.v1.json"]));
    assert_eq!(publisher.answer().status, 101);
    let text = "x".repeat(60_000);
    for topic in 0..HISTORIES {
        let publish = format!(r#"{{"type":"publish","topic":"topic-{topic}","text":"{text}"}}"#);
        publisher.send(&frame(TEXT, publish.as_bytes()));
    }
    server.wait_until("published", |stats| stats["publications"]["accepted"] == HISTORIES);
    publisher
}

/// Connections that keep a window in each direction.
fn with_windows(server: &Server) -> Vec<Peer> {
    let open = |at: usize| {
        let (mut peer, _) = agree(server, "/echo", "permessage-deflate");
        for round in 0..2 {
            peer.send(&compressed(BINARY, &stored(&noise((2 * at + round) as u64))));
            peer.message();
        }
        peer
    };
    (0..COMPRESSED).map(open).collect()
}

/// Sends and never reads, until it is stopped or the server disconnects.
fn write_on(peer: &mut Peer, messages: &[u8], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) && peer.offer_for(messages, Duration::from_millis(100)) {}
}

#[test]
fn a_server_without_connections_takes_less_than_the_formula_has_for_the_program() {
    let server = Server::start(&["--shards", "2"]);
    // The program, and of each shard the regions, where the kernel provides buffers incrementally, without the allocator's pages.
    let most = (6 + 2 * 3) << 20;
    let anonymous = server.anonymous_bytes();
    assert!(anonymous <= most, "{anonymous} bytes are anonymous, {most} by the formula");
}

#[test]
fn resident_memory_stays_below_the_formula_and_comes_near_it() {
    let config = ConfigFile::new("peak", CONFIG);
    let (user, kernel) = formula(&config);
    through_tls(&["--config", config.path()], |server| {
        let _publisher = publish(server);
        let _windows = with_windows(server);
        let mut stalled: Vec<Peer> = (0..STALLED)
            .map(|_| {
                let mut peer = Peer::connect_narrow(server, 4 * 1024);
                peer.upgrade("/echo");
                peer
            })
            .collect();
        let (stop, messages) = (AtomicBool::new(false), frame(BINARY, &noise(0)).repeat(4));
        thread::scope(|scope| {
            for peer in &mut stalled {
                scope.spawn(|| write_on(peer, &messages, &stop));
            }
            let peak = watch(server, user);
            stop.store(true, Ordering::Relaxed);
            eprintln!("{} % of the formula at the peak", peak * 100 / user);
            assert!(
                peak > user / 5 * 4,
                "{peak} bytes at the peak, {user} by the formula: {}",
                server.stats()
            );
        });
        let sockets = socket_bytes(server);
        assert!(sockets <= kernel, "{sockets} bytes of sockets, {kernel} by the formula");
        stalled.into_iter().for_each(Peer::reset);
    });
}

/// Clients of one token, and as many with a token of their own.
const CLIENTS: usize = 1_500;

/// A token whose identity takes some 16 KiB: 512 patterns of one to three characters.
fn long_token(subject: &str) -> String {
    let patterns: Vec<String> = (0..128).map(|number| number.to_string()).collect();
    let rights =
        json!({"subscribe": patterns, "publish": patterns, "presence": patterns, "history": patterns});
    jwt(subject, 3_600, rights)
}

#[test]
fn identities_addresses_and_notes_of_the_access_log_are_in_the_formula() {
    let key = TestFile::new(SECRET);
    let log = TestFile::new("");
    let text = format!(
        "shards = 1\nmemory_budget = \"16MiB\"\nmax_connections = 4000\nmax_subscriptions = 1\nmax_topics = 100\n\
         max_connections_per_address = 10\naccess_log = {:?}\n[auth]\njwt_key = [{:?}]\n",
        log.path(),
        key.path()
    );
    let config = ConfigFile::new("peak-clients", &text);
    let (user, _) = formula(&config);
    let server = Server::start(&["--config", config.path()]);
    let mut clients = Vec::new();
    let mut open = |token: &str| {
        let address = Ipv4Addr::new(127, 1, (clients.len() / 200) as u8, (clients.len() % 200) as u8 + 1);
        let mut peer = Peer::connect_from(&server, address.into());
        peer.send(&upgrade("/echo", &[&format!("Authorization: Bearer {token}")]));
        let status = peer.answer().status;
        clients.push(peer);
        status
    };
    let shared = long_token("everybody");
    assert!((0..CLIENTS).all(|_| open(&shared) == 101), "connections share what one token says");
    let statuses: Vec<u16> = (0..CLIENTS).map(|at| open(&long_token(&format!("client-{at}")))).collect();
    let known = statuses.iter().filter(|status| **status == 101).count();
    let busy = statuses.iter().filter(|status| **status == 503).count();
    let resident = server.anonymous_bytes();
    eprintln!(
        "{known} identities of their own, {busy} refused; {resident} bytes resident, {user} by the formula"
    );
    assert!(resident <= user, "{resident} bytes are resident, {user} by the formula: {}", server.stats());
    assert!(known > 500 && busy > 100 && known + busy == CLIENTS, "{known} and {busy}");
    clients.into_iter().for_each(Peer::reset);
    server.wait_until("memory for others", |_| {
        let mut peer = Peer::connect(&server);
        peer.send(&upgrade("/echo", &[&format!("Authorization: Bearer {}", long_token("late"))]));
        peer.answer().status == 101
    });
}

/// The most resident memory until it comes near the formula and the budget has run short; never more than the formula.
fn watch(server: &Server, formula: u64) -> u64 {
    let (started, mut peak) = (Instant::now(), 0);
    loop {
        let resident = server.anonymous_bytes();
        assert!(
            resident <= formula,
            "{resident} bytes are resident, {formula} by the formula: {}",
            server.stats()
        );
        peak = peak.max(resident);
        let is_short = server.figure("pool_bytes_peak") > BUDGET / 8 * 7;
        if (is_short && peak > formula / 5 * 4) || started.elapsed() > PATIENCE {
            return peak;
        }
    }
}

/// What the kernel holds for the server's connections, by `ss`: received and unread, sent and unacknowledged.
fn socket_bytes(server: &Server) -> u64 {
    let own = format!("sport = :{}", server.address.port());
    let shown = Command::new("ss").args(["-tmnH", &own]).output().expect("ss of iproute2 is installed");
    let text = String::from_utf8(shown.stdout).expect("text");
    let figures = text.split("skmem:(").skip(1).map(|rest| rest.split(')').next().unwrap_or_default());
    let sum = figures.map(|figures| {
        let of = |name: &str| {
            let figure = figures.split(',').find_map(|figure| figure.strip_prefix(name)?.parse::<u64>().ok());
            figure.unwrap_or_else(|| panic!("no {name} in {figures}"))
        };
        of("r") + of("w") + 4_096
    });
    let (connections, bytes) = sum.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
    assert!(connections > STALLED / 2, "{text}");
    bytes
}
