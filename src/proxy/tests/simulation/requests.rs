//! Requests and responses between peers that send malformed, incomplete or no messages, that stall, and that
//! disconnect.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::{Random, SIMULATION_TIMEOUT, STREAM_BYTES, for_each_seed};
use crate::forwarder::MaskingKeys;
use crate::limits::UPSTREAM_RESPONSE_TIMEOUT;
use crate::transport::Transport;
use crate::{Config, Context, Live, http};
use echoring_proto::connection::Seed;
use echoring_proto::limits::{CLOSE_TIMEOUT, SECOND};

/// Time that an upstream connection may outlive its client's.
const GRACE: Duration = Duration::from_nanos(UPSTREAM_RESPONSE_TIMEOUT + CLOSE_TIMEOUT + SECOND);
/// Bytes of an endless response or head: more than both streams and the proxy hold.
const ENDLESS_BYTES: usize = 300_000;

thread_local! {
    /// Connects to the simulated upstream of this thread.
    static SERVER: RefCell<Option<Box<dyn FnMut() -> Transport>>> = const { RefCell::new(None) };
}

/// A connection to the simulated upstream of this thread, if there is one.
pub(crate) fn connect() -> Option<Transport> {
    SERVER.with_borrow_mut(|server| server.as_mut().map(|connect| connect()))
}

/// A proxy with one client, in front of an upstream that handles each connection with `server`, until `over` is set.
struct SimulatedProxy {
    client: DuplexStream,
    serving: JoinHandle<()>,
    servers: Rc<RefCell<Vec<JoinHandle<()>>>>,
    over: watch::Sender<bool>,
    drain: watch::Sender<bool>,
}

impl SimulatedProxy {
    fn new<F: Future<Output = ()> + 'static>(
        mut server: impl FnMut(DuplexStream, watch::Receiver<bool>) -> F + 'static,
    ) -> SimulatedProxy {
        let servers = Rc::new(RefCell::new(Vec::new()));
        let running = Rc::clone(&servers);
        let (over, is_over) = watch::channel(false);
        let connected = move || {
            let (near, far) = duplex(STREAM_BYTES);
            running.borrow_mut().push(spawn_local(server(far, is_over.clone())));
            Box::new(near) as Transport
        };
        SERVER.with_borrow_mut(|slot| *slot = Some(Box::new(connected)));
        let peer: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let config = Config::new(peer, vec!["http://a/app".parse().expect("a URL")]);
        let (live, _) = watch::channel(Live::new(config, None));
        let (drain, drained) = watch::channel(false);
        let context = Rc::new(Context {
            live: live.subscribe(),
            counters: Arc::default(),
            tap: None,
            keys: MaskingKeys::new(Seed::Fixed(7)),
            drain: drained,
        });
        let (near, client) = duplex(STREAM_BYTES);
        let serving = spawn_local(http::serve(context, Box::new(near), peer, false));
        SimulatedProxy { client, serving, servers, over, drain }
    }

    /// Checks that the proxy has ended the client's connection, and the upstream's soon after.
    async fn end(
        serving: JoinHandle<()>,
        servers: &RefCell<Vec<JoinHandle<()>>>,
        over: &watch::Sender<bool>,
    ) {
        timeout(SIMULATION_TIMEOUT, serving).await.expect("it ends").expect("no panic");
        sleep(GRACE).await;
        over.send_replace(true);
        for server in servers.take() {
            timeout(SIMULATION_TIMEOUT, server)
                .await
                .expect("the upstream sees the end")
                .expect("it was sent valid requests");
        }
        SERVER.with_borrow_mut(|slot| *slot = None);
    }
}

/// Does nothing until the client disconnects, and then checks that the proxy has disconnected too.
async fn stall(mut stream: DuplexStream, mut over: watch::Receiver<bool>) {
    over.wait_for(|over| *over).await.expect("the world");
    assert!(stream.write(b"x").await.is_err(), "the proxy keeps a connection without a client");
}

/// Sends in pieces, with pauses. Returns whether the stream accepted all of it.
async fn send(stream: &mut DuplexStream, mut bytes: &[u8], random: &mut Random) -> bool {
    // Long input is sent in at most about a hundred pieces.
    let least = bytes.len() / 100;
    while !bytes.is_empty() {
        let most = random.of(&[1, 10, 1_000]).max(least);
        let (piece, rest) = bytes.split_at(bytes.len().min(1 + random.below(most)));
        bytes = rest;
        sleep(random.pause()).await;
        if stream.write_all(piece).await.is_err() {
            return false;
        }
    }
    true
}

/// Checks a request head that reached an upstream.
fn check_head(head: Vec<u8>) {
    let text = String::from_utf8(head).expect("text");
    let path = text.split(' ').nth(1).expect("a target");
    let (path, _) = path.split_once('?').unwrap_or((path, ""));
    assert!(path.starts_with("/app/") && !path.contains(".."), "{text}");
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "{text}");
    let lower = text.to_ascii_lowercase();
    assert_eq!(lower.matches("\r\nhost: a\r\n").count(), 1, "{text}");
    assert_eq!(lower.matches("x-forwarded-for").count(), 1, "{text}");
    assert!(!lower.contains("x-real-ip") && !lower.contains("x_forwarded"), "{text}");
}

fn response(random: &mut Random) -> Vec<u8> {
    const SWITCHED: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let plain: [&[u8]; 16] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlonger than it says",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
        b"",
    ];
    let frames: [&[u8]; 6] = [
        b"\x81\x02hi\x88\x00",
        b"\x81\x02hi",
        b"\x81\x7e\xff\xffhi",
        b"\x89\x7f\xff",
        b"\x83\x00",
        b"\xff\xff\xff\xff\xff",
    ];
    match random.below(24) {
        0..=15 => random.of(&plain).to_vec(),
        16..=19 => [SWITCHED, random.of(&frames)].concat(),
        20 => SWITCHED[..random.below(SWITCHED.len())].to_vec(),
        21 => b"HTTP/1.1 100 Continue\r\n\r\n".repeat(ENDLESS_BYTES / 25),
        22 => [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(ENDLESS_BYTES / 6)].concat(),
        _ => [b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n".to_vec(), vec![b'x'; ENDLESS_BYTES]]
            .concat(),
    }
}

/// Reads a request head or a part of it, checks it, and answers at random.
async fn hostile_server(mut stream: DuplexStream, over: watch::Receiver<bool>, mut random: Random) {
    let mut head = Vec::new();
    let patience = match random.below(10) {
        0 => return,
        1 => return stall(stream, over).await,
        2 => random.below(100),
        _ => usize::MAX,
    };
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let Ok(1) = stream.read(&mut byte).await else { return };
        head.push(byte[0]);
        if head.len() > patience {
            return;
        }
    }
    check_head(head);
    sleep(random.pause()).await;
    let answer = response(&mut random);
    if !send(&mut stream, &answer, &mut random).await {
        return;
    }
    match random.below(3) {
        // It stays connected, and sends nothing more.
        0 => {
            let mut rest = [0; 100];
            while let Ok(1..) = stream.read(&mut rest).await {}
        }
        1 => stall(stream, over).await,
        _ => {}
    }
}

/// Requests, some malformed, that may end anywhere.
fn requests(random: &mut Random) -> Vec<u8> {
    let lines: [&[u8]; 17] = [
        b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /b?/../ HTTP/1.1\r\nHost: a\r\nX-Real-IP: 1.1.1.1\r\nX_Forwarded_For: 1.1.1.1\r\n\r\n",
        b"POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\n\n\n\n",
        b"POST /d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        b"POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        b"POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nshort",
        b"GET /g HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        b"GET /../h HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /i HTTP/1.1\nHost: a\r\n\r\n",
        b"GET /j HTTP/1.1\r\nHost: b@a\r\n\r\n",
        b"GET /k HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET http://a/l HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /m HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        b"POST /n HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nab",
        b"POST /o HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\na\r\n0\r\n\r\n",
        // FrameSplitter, valid behind an upgrade.
        b"\x81\x82\0\0\0\0hi\x88\x80\0\0\0\0",
        b"\x81\xfe\xff\xff\0\0\0\0hi",
    ];
    let mut sent = Vec::new();
    for _ in 0..1 + random.below(5) {
        match random.below(20) {
            0 => sent.extend((0..random.below(300)).map(|_| random.next() as u8)),
            1 => sent.extend(b"POST /long HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n"),
            2 => sent.extend([b'x'; 50_000]),
            3 => sent.extend(b"GET /p HTTP/1.1\r\n".iter().chain(&b"X: y\r\n".repeat(5_000))),
            _ => sent.extend(random.of(&lines)),
        }
    }
    if random.one_in(3) {
        sent.truncate(random.below(sent.len() + 1));
    }
    sent
}

#[test]
fn requests_between_hostile_peers_are_answered_or_ended() {
    for_each_seed("requests::requests_between_hostile_peers_are_answered_or_ended", async |mut random| {
        let mut seeds = Random::new(random.next());
        let SimulatedProxy { mut client, serving, servers, over, drain } =
            SimulatedProxy::new(move |stream, over| hostile_server(stream, over, Random::new(seeds.next())));
        let sent = requests(&mut random);
        // The proxy must disconnect a peer that reads nothing.
        let sending = send(&mut client, &sent, &mut random);
        let sent_all =
            timeout(SIMULATION_TIMEOUT, sending).await.expect("a peer that does not read is disconnected");
        let mut answers = Vec::new();
        let mut idle = None;
        match random.below(5) {
            0 => drop(client),
            1 => drop(drain.send_replace(true)),
            2 => drop(client.shutdown().await),
            3 => idle = Some(client),
            _ => {
                let read =
                    timeout(SIMULATION_TIMEOUT, client.read_to_end(&mut answers)).await.expect("an end");
                assert!(read.is_ok() || !sent_all);
            }
        }
        SimulatedProxy::end(serving, &servers, &over).await;
        drop(idle);
        assert!(
            answers.is_empty() || answers.starts_with(b"HTTP/1.1 "),
            "{}",
            String::from_utf8_lossy(&answers)
        );
    });
}

#[test]
fn an_upstream_that_does_not_read_is_disconnected_with_its_request() {
    for_each_seed(
        "requests::an_upstream_that_does_not_read_is_disconnected_with_its_request",
        async |mut random| {
            let SimulatedProxy { mut client, serving, servers, over, drain: _drain } =
                SimulatedProxy::new(stall);
            let body_bytes = 1 + random.below(2 * STREAM_BYTES);
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {body_bytes}\r\n\r\n");
            client.write_all(head.as_bytes()).await.expect("the proxy");
            client.write_all(&vec![b'x'; body_bytes]).await.expect("the proxy");
            // The client waits for its response, or not.
            if random.one_in(2) {
                let mut answer = Vec::new();
                client.shutdown().await.expect("the proxy");
                timeout(SIMULATION_TIMEOUT, client.read_to_end(&mut answer))
                    .await
                    .expect("an end")
                    .expect("an answer");
                assert!(
                    answer.is_empty() || answer.starts_with(b"HTTP/1.1 504 "),
                    "{}",
                    String::from_utf8_lossy(&answer)
                );
            }
            drop(client);
            SimulatedProxy::end(serving, &servers, &over).await;
        },
    );
}

#[test]
fn an_unanswered_request_gets_504_in_time() {
    for_each_seed("requests::an_unanswered_request_gets_504_in_time", async |mut random| {
        let begun: &[u8] =
            random.of(&[b"", b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: y"]);
        let reads = !random.one_in(3);
        let SimulatedProxy { mut client, serving, servers, over, drain } =
            SimulatedProxy::new(move |mut stream, over| async move {
                if reads {
                    let mut head = [0; 100];
                    stream.read_exact(&mut head).await.expect("a head");
                    stream.write_all(begun).await.expect("the proxy");
                }
                stall(stream, over).await;
            });
        let asked: &[u8] = random.of(&[
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        ]);
        let since = Instant::now();
        client.write_all(asked).await.expect("the proxy");
        let mut status = [0; 12];
        timeout(SIMULATION_TIMEOUT, client.read_exact(&mut status))
            .await
            .expect("an answer")
            .expect("a status line");
        assert_eq!(status, *b"HTTP/1.1 504");
        let waited = since.elapsed().saturating_sub(Duration::from_nanos(UPSTREAM_RESPONSE_TIMEOUT));
        assert!(waited <= Duration::from_nanos(SECOND), "{waited:?} too late");
        drop((client, drain));
        SimulatedProxy::end(serving, &servers, &over).await;
    });
}
