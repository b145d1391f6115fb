//! Requests and responses that are wrong, too big, too slow or without end. Time is virtual.

use std::time::Duration;

use echoring::{Compression, DialError, Dialer, MaybeTls, Role, Settings, UpgradeError, Upgrader};
use echoring_proto::handshake::BadHandshake;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

use super::counting::{held_bytes, peak_bytes, restart_peak};
use super::floods::told;
use super::head::read_head;
use super::peer::{Attacks, BINARY, FIN, Frames, PING, PONG, REQUEST, TEXT, accepting, read_frame};

const PIPE: usize = 4_096;
/// Most bytes that a handshake costs, whatever comes: a head of the limit, and what is made of it.
const PEAK_BYTES_MAX: i64 = 256 << 10;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(test);
}

/// How the attacker sends its head.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Whole,
    ByteByByte,
    /// A byte each 100 ms.
    Slow,
    /// Over and over again.
    Endless,
}

async fn send(far: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8], pace: Pace) {
    match pace {
        Pace::Whole => drop(far.write_all(bytes).await),
        Pace::ByteByByte | Pace::Slow => {
            for byte in bytes {
                if far.write_all(&[*byte]).await.is_err() {
                    return;
                }
                if pace == Pace::Slow {
                    sleep(Duration::from_millis(100)).await;
                } else {
                    tokio::task::yield_now().await;
                }
            }
        }
        Pace::Endless => while far.write_all(bytes).await.is_ok() {},
    }
}

// ---- requests ----

/// An attack on an upgrader: its bytes, and the status; 0 for a connection that ends without a response.
struct BadRequest {
    name: String,
    bytes: Vec<u8>,
    pace: Pace,
    status: u16,
}

fn requests() -> Vec<BadRequest> {
    let mut rows = Vec::new();
    let mut row = |name: &str, bytes: Vec<u8>, pace, status| {
        rows.push(BadRequest { name: name.to_owned(), bytes, pace, status });
    };
    let request = |from: &str, to: &str| format!("{}\r\n", REQUEST.replacen(from, to, 1)).into_bytes();
    let more = |fields: &str| format!("{REQUEST}{fields}\r\n").into_bytes();
    let texts: &[(&str, Vec<u8>, u16)] = &[
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505),
        ("HTTP/1.0", request("HTTP/1.1", "HTTP/1.0"), 505),
        ("a NUL in a field", more("X: a\0b\r\n"), 400),
        ("a folded field", more("X: a\r\n b\r\n"), 400),
        ("a space before the colon", more("X : a\r\n"), 400),
        ("POST", request("GET ", "POST "), 405),
        ("a body", more("Content-Length: 5\r\n"), 400),
        ("a chunked body", more("Transfer-Encoding: chunked\r\n"), 400),
        ("no Host", request("Host: localhost\r\n", ""), 400),
        ("two Hosts", more("Host: other\r\n"), 400),
        ("no version", request("Sec-WebSocket-Version: 13\r\n", ""), 426),
        ("version 8", request("Version: 13", "Version: 8"), 426),
        ("a short key", request("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400),
        ("two keys", more("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400),
        ("no Upgrade", request("Upgrade: websocket\r\n", ""), 400),
        ("no Connection", request("Connection: Upgrade\r\n", ""), 400),
        ("a foreign origin", more("Origin: https://elsewhere.example\r\n"), 403),
        ("a target without a slash", request("GET /", "GET x"), 400),
        ("too many fields", more(&"X: y\r\n".repeat(100)), 431),
        ("a head past 16 KiB", more(&format!("X: {}\r\n", "y".repeat(16 << 10))), 431),
        ("a head without an end", format!("{REQUEST}X: {}", "y".repeat(20 << 10)).into_bytes(), 431),
    ];
    for (name, bytes, status) in texts {
        row(name, bytes.clone(), Pace::Whole, *status);
        row(&format!("{name}, byte by byte"), bytes.clone(), Pace::ByteByByte, *status);
    }
    let mut endless = |name: &str, bytes: &[u8], status| row(name, bytes.to_vec(), Pace::Endless, status);
    endless("a method without an end", b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 431);
    endless("line feeds without end", b"\r\n\r\n\r\n\r\n", 431);
    endless("noise without end", &[0xff; 1_000], 400);
    row("nothing", Vec::new(), Pace::Whole, 408);
    row("half a head", REQUEST.as_bytes().to_vec(), Pace::Whole, 408);
    row("a head that takes too long", [REQUEST, "\r\n"].concat().into_bytes(), Pace::Slow, 408);
    rows
}

async fn check_request(row: &BadRequest, reads: bool) {
    let (near, far) = duplex(PIPE);
    let (mut from, mut to) = tokio::io::split(far);
    let (held, began) = (held_bytes(), Instant::now());
    restart_peak();
    let upgrader = Upgrader::new();
    let accepting = async {
        let end = upgrader.accept(MaybeTls::plain(near)).await.expect_err("no upgrade");
        (end, began.elapsed())
    };
    let attacking = async {
        let mut response = Vec::new();
        let reading = async {
            if reads {
                from.read_to_end(&mut response).await.expect("a response and the end");
            } else {
                std::future::pending::<()>().await;
            }
        };
        let sending = async {
            send(&mut to, &row.bytes, row.pace).await;
            std::future::pending::<()>().await;
        };
        tokio::select! { () = reading => {}, () = sending => {} }
        response
    };
    let (end, took, response) = match reads {
        true => {
            let ((end, took), response) = tokio::join!(accepting, attacking);
            (end, took, Some(response))
        }
        false => {
            let (end, took) = tokio::select! { done = accepting => done, _ = attacking => unreachable!() };
            (end, took, None)
        }
    };
    let status = match &end {
        UpgradeError::NotUpgraded(response) => response.status(),
        UpgradeError::Timeout => 408,
        other => panic!("{other}"),
    };
    assert_eq!(status, row.status, "{end}");
    if let Some(response) = response {
        let response = String::from_utf8(response).expect("text");
        assert!(response.starts_with(&format!("HTTP/1.1 {} ", row.status)), "{response}");
    }
    // Five seconds for the request, and one for the response.
    assert!(took <= Duration::from_millis(6_100), "{took:?}");
    let peak = peak_bytes() - held;
    assert!(peak < PEAK_BYTES_MAX, "{peak} bytes");
}

#[test]
fn bad_requests_get_their_status_in_bounded_time_and_memory() {
    let rows = requests();
    assert!(rows.len() > 45, "{} rows", rows.len());
    let mut attacks = Attacks::default();
    for row in &rows {
        for reads in [true, false] {
            let name = format!("{} of a client that reads: {reads}", row.name);
            attacks.run(&name, || run(check_request(row, reads)));
        }
    }
}

#[test]
fn a_client_that_does_not_read_the_101_is_given_up() {
    run(async {
        let (near, mut far) = duplex(64);
        let upgrader = Upgrader::new();
        let (end, ()) = tokio::join!(upgrader.accept(near), async {
            far.write_all(format!("{REQUEST}\r\n").as_bytes()).await.expect("sent");
        });
        assert!(matches!(end, Err(UpgradeError::Timeout)));
        drop(far);
    });
}

// ---- responses ----

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Bad(BadHandshake),
    Redirect,
    Closed,
    Timeout,
}

/// Makes the response to a request.
type Respond = Box<dyn Fn(&str) -> Vec<u8>>;

/// An attack on a dialer: what answers its request.
struct BadResponse {
    name: String,
    response: Respond,
    pace: Pace,
    /// The server ends the stream behind the response.
    ends: bool,
    told: Told,
    seconds: [f32; 2],
}

fn responses() -> Vec<BadResponse> {
    use BadHandshake::{
        BadExtension, HeadTooBig, Malformed, MissingUpgrade, Status, UnknownSubprotocol, WrongAccept,
    };
    let mut rows = Vec::new();
    let mut row = |name: &str, response: Respond, pace, ends, told, seconds| {
        rows.push(BadResponse { name: name.to_owned(), response, pace, ends, told, seconds });
    };
    let at_once = [0.0, 0.1];
    let fixed = |text: &str| -> Respond {
        let bytes = text.as_bytes().to_vec();
        Box::new(move |_| bytes.clone())
    };
    let altered = |from: &'static str, to: &'static str| -> Respond {
        Box::new(move |request| accepting(request, "").replacen(from, to, 1).into_bytes())
    };
    let with =
        |fields: String| -> Respond { Box::new(move |request| accepting(request, &fields).into_bytes()) };
    type Row = (&'static str, Respond, Told);
    let wholes: Vec<Row> = vec![
        ("no HTTP", fixed("hello\r\n\r\n"), Told::Bad(Malformed)),
        ("HTTP/1.0", altered("HTTP/1.1", "HTTP/1.0"), Told::Bad(Malformed)),
        ("no Upgrade", altered("Upgrade: websocket\r\n", ""), Told::Bad(MissingUpgrade)),
        ("no Connection", altered("Connection: Upgrade\r\n", ""), Told::Bad(MissingUpgrade)),
        ("no Accept", altered("Sec-WebSocket-Accept", "X"), Told::Bad(WrongAccept)),
        (
            "the key itself as Accept",
            Box::new(|request| {
                let key =
                    request.split("Sec-WebSocket-Key: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                let accepted = accepting(request, "");
                let accept = accepted.split("Accept: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                accepted.replace(accept.expect("a value"), key.expect("a key")).into_bytes()
            }),
            Told::Bad(WrongAccept),
        ),
        ("a subprotocol", with("Sec-WebSocket-Protocol: chat\r\n".into()), Told::Bad(UnknownSubprotocol)),
        ("an extension", with("Sec-WebSocket-Extensions: x-unknown\r\n".into()), Told::Bad(BadExtension)),
        (
            "a window that was not offered",
            with("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=7\r\n".into()),
            Told::Bad(BadExtension),
        ),
        (
            "compression twice",
            with("Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate\r\n".into()),
            Told::Bad(BadExtension),
        ),
        ("too many fields", with("X: y\r\n".repeat(100)), Told::Bad(HeadTooBig)),
        ("a head past 16 KiB", with(format!("X: {}\r\n", "y".repeat(16 << 10))), Told::Bad(HeadTooBig)),
        (
            "a redirect",
            fixed("HTTP/1.1 302 Found\r\nLocation: ws://elsewhere/\r\nContent-Length: 0\r\n\r\n"),
            Told::Redirect,
        ),
        ("200", fixed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), Told::Bad(Status(200))),
    ];
    for (name, response, told) in wholes {
        row(name, response, Pace::Whole, false, told, at_once);
    }
    row("nothing, and the end", fixed(""), Pace::Whole, true, Told::Closed, at_once);
    row("half a response, and the end", fixed("HTTP/1.1 101 Swi"), Pace::Whole, true, Told::Closed, at_once);
    row("nothing", fixed(""), Pace::Whole, false, Told::Timeout, [44.9, 45.1]);
    let slow: Respond =
        Box::new(|request| accepting(request, &format!("X: {}\r\n", "y".repeat(1_000))).into_bytes());
    row("a response that takes too long", slow, Pace::Slow, false, Told::Timeout, [44.9, 45.1]);
    let status = |status| Told::Bad(Status(status));
    row(
        "a body without an end",
        fixed("HTTP/1.1 403 No\r\n\r\nxxxx"),
        Pace::Endless,
        false,
        status(403),
        [0.0, 1.1],
    );
    row(
        "a body that never comes",
        fixed("HTTP/1.1 403 No\r\nContent-Length: 99\r\n\r\n"),
        Pace::Whole,
        false,
        status(403),
        [0.9, 1.1],
    );
    let chunks = "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx";
    row("a chunk without an end", fixed(chunks), Pace::Whole, false, status(503), [0.9, 1.1]);
    row(
        "a field without an end",
        fixed("HTTP/1.1 101 Switching Protocols"),
        Pace::Endless,
        false,
        Told::Bad(HeadTooBig),
        at_once,
    );
    row("noise without an end", fixed("\u{1}\u{2}"), Pace::Endless, false, Told::Bad(Malformed), at_once);
    rows
}

async fn check_response(row: &BadResponse) {
    let (near, far) = duplex(PIPE);
    let (mut from, mut to) = tokio::io::split(far);
    let settings = Settings::default().compression(Compression::default());
    let dialer = Dialer::new().settings(settings);
    let (held, began) = (held_bytes(), Instant::now());
    restart_peak();
    let attacking = async {
        let request = read_head(&mut from).await;
        send(&mut to, &(row.response)(&request), row.pace).await;
        if row.ends {
            to.shutdown().await.expect("shut down");
        }
        std::future::pending::<()>().await;
    };
    let end = tokio::select! {
        dialled = dialer.dial_over("ws://localhost/", near) => dialled.err(),
        () = attacking => unreachable!(),
    };
    let took = began.elapsed().as_secs_f32();
    let told = match end {
        Some(DialError::BadHandshake { why, .. }) => Told::Bad(why),
        Some(DialError::Redirect { .. }) => Told::Redirect,
        Some(DialError::Closed) => Told::Closed,
        Some(DialError::Timeout(_)) => Told::Timeout,
        other => panic!("{other:?}"),
    };
    assert_eq!(told, row.told);
    assert!((row.seconds[0]..row.seconds[1]).contains(&took), "{took} s");
    let peak = peak_bytes() - held;
    assert!(peak < PEAK_BYTES_MAX, "{peak} bytes");
}

#[test]
fn bad_responses_fail_the_dial_in_bounded_time_and_memory() {
    let rows = responses();
    assert!(rows.len() >= 23, "{} rows", rows.len());
    let mut attacks = Attacks::default();
    for row in &rows {
        attacks.run(&row.name, || run(check_response(row)));
    }
}

// ---- what follows a handshake ----

/// Frames in the same segment as the handshake are the connection's first, however much of them the segment has.
#[test]
fn frames_right_behind_the_handshake_are_read_wherever_the_segment_ends() {
    run(async {
        for role in super::peer::ROLES {
            let frames = Frames(role);
            let bytes =
                [frames.frame(TEXT, b"be"), frames.frame(FIN | PING, b"p"), frames.frame(FIN, b"gun")]
                    .concat();
            for cut in 0..=bytes.len() {
                let (mut conn, mut far): (super::peer::Attacked, DuplexStream) =
                    super::peer::open(role, Settings::default(), PIPE, &bytes[..cut]).await;
                far.write_all(&bytes[cut..]).await.expect("sent");
                assert_eq!(conn.read().await.expect("a message"), "begun".into(), "cut at {cut}");
                assert_eq!(read_frame(&mut far).await.expect("a pong"), (FIN | PONG, b"p".to_vec()));
                far.write_all(&frames.header(FIN | BINARY, 1 << 40)).await.expect("sent");
                assert_eq!(told(&conn.read().await.expect_err("the end")), "offence message too big");
            }
        }
        assert_eq!(super::peer::ROLES, [Role::Server, Role::Client]);
    });
}
